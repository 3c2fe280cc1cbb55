//! The documentation says what the program does: its tables of options and metrics are those of the code, and its links lead somewhere.

use std::path::{Path, PathBuf};

use streamgauge::docs::{PAGES, page};
use streamgauge::options::{TableOptions, ViewOptions, changes, table};
use streamgauge::serve::metrics;

/// A newcomer reads it in five minutes.
const README_BYTES_MAX: usize = 12_300;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Rewrites the tables with `UPDATE_DOCS=1 cargo test docs`.
#[test]
fn the_tables_are_those_of_the_code() {
    for (page, name, text) in [
        ("tables", "table options", table(TableOptions::DECLARED)),
        ("tables", "table changes", changes(TableOptions::DECLARED)),
        ("queries", "view options", table(ViewOptions::DECLARED)),
        ("metrics", "metrics", metrics::described()),
    ] {
        let path = root().join(format!("src/docs/{page}.md"));
        let written = std::fs::read_to_string(&path).expect("the page is there");
        let begin = format!("<!-- {name} -->\n");
        let (before, rest) = written.split_once(&begin).expect("the page marks where the table is");
        let (_, after) = rest.split_once("<!-- end -->").expect("the mark is closed");
        let fresh = format!("{before}{begin}{text}<!-- end -->{after}");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &fresh).expect("the page can be written");
            continue;
        }
        let wrong = written.lines().zip(fresh.lines()).find(|(old, new)| old != new);
        assert!(written == fresh, "{page}: not as in the code: {wrong:?}");
    }
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README is there");
    assert!(readme.len() <= README_BYTES_MAX, "{} bytes", readme.len());
    let links: Vec<&str> = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    for link in &links {
        assert!(link.starts_with("http") || root().join(link).exists(), "{link} leads nowhere");
    }
    for page in PAGES {
        assert!(links.contains(&format!("src/docs/{}.md", page.name).as_str()), "nothing leads to {}", page.name);
    }
    assert_eq!(page("Metrics").expect("names are found in any case").title(), "Metrics");
}
