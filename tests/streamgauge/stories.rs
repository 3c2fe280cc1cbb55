//! The stories in `sql/`, as a user runs them: each ends with 0 and gives the rows that `tests/golden/stories` holds.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::cli::program::run;

/// Rows of each view that are held.
const FIRST: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn every_story_runs_to_its_end_and_gives_its_first_rows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stories: Vec<String> = std::fs::read_dir(root.join("sql"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    stories.sort();
    assert!(stories.len() >= 5, "{stories:?}");
    let mut wrong = Vec::new();
    for story in stories {
        let (code, out, err) = run(&["run", &format!("sql/{story}.sql")]).await;
        assert_eq!(code, 0, "{story}: {err}");
        let found = first_rows(&out);
        let path = root.join(format!("tests/golden/stories/{story}.ndjson"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, found).unwrap();
        } else if std::fs::read_to_string(path).unwrap_or_default() != found {
            wrong.push(format!("{story}:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 cargo test stories writes them anew:\n{}", wrong.join("\n"));
}

/// The first rows of each view and how many they are, view by view: views share the output as they come.
fn first_rows(out: &str) -> String {
    let mut views: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in out.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        views.entry(row["_view"].as_str().unwrap_or_default().into()).or_default().push(line);
    }
    let mut text = String::new();
    for (view, rows) in views {
        rows.iter().take(FIRST).for_each(|row| text += &format!("{row}\n"));
        text += &format!("{{\"_view\":\"{view}\",\"rows\":{}}}\n", rows.len());
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn every_story_passes_check() {
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql")).unwrap() {
        let path = entry.unwrap().path();
        let (code, out, err) = run(&["check", path.to_str().unwrap()]).await;
        assert_eq!((code, out.as_str()), (0, ""), "{err}");
    }
}
