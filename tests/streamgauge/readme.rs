//! The README says what the program does: its tables of options and metrics are those of the code.

use std::path::Path;

use streamgauge::options::{TableOptions, ViewOptions, changes, table};
use streamgauge::serve::metrics;

/// Rewrites the tables with `UPDATE_README=1 cargo test readme`.
#[test]
fn the_tables_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("the README is there");
    let mut fresh = readme.clone();
    for (name, text) in [
        ("table options", table(TableOptions::DECLARED)),
        ("table changes", changes(TableOptions::DECLARED)),
        ("view options", table(ViewOptions::DECLARED)),
        ("metrics", metrics::described()),
    ] {
        let begin = format!("<!-- {name} -->\n");
        let (before, rest) = fresh.split_once(&begin).expect("the README marks where the table stands");
        let (_, after) = rest.split_once("<!-- end -->").expect("the mark is closed");
        fresh = format!("{before}{begin}{text}<!-- end -->{after}");
    }
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, &fresh).expect("the README can be written");
    }
    let wrong = readme.lines().zip(fresh.lines()).find(|(old, new)| old != new);
    assert!(readme == fresh || std::env::var_os("UPDATE_README").is_some(), "not as in the code: {wrong:?}");
}
