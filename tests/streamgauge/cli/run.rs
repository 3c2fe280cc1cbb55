//! `run`: what it writes and how it ends.

use std::path::Path;

use super::program::run;
use crate::support::server::{self, Answer, Server};

const NEWS: &str = "CREATE TABLE news (article_id TEXT) WITH (connector = 'file', path = 'fixtures/news.ndjson');";

#[tokio::test]
async fn the_name_of_the_output_decides_its_format_and_what_is_there_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let query = format!("{NEWS} SELECT article_id FROM news LIMIT 2");
    for (name, expect) in [
        ("x.csv", "article_id\na-100001\na-100002\n"),
        ("x.ndjson", "{\"article_id\":\"a-100001\"}\n{\"article_id\":\"a-100002\"}\n"),
        ("x.json", "[\n{\"article_id\":\"a-100001\"},\n{\"article_id\":\"a-100002\"}\n]\n"),
    ] {
        let (code, out, err) = run(&["run", "-c", &query, "-o", &path(name)]).await;
        assert_eq!((code, out.as_str()), (0, ""), "{err}");
        assert_eq!(std::fs::read_to_string(path(name)).unwrap(), expect, "{name}");
    }
    let (_, _, err) = run(&["run", "-c", &query, "-o", &path("x.txt")]).await;
    assert!(std::fs::read_to_string(path("x.txt")).unwrap().contains("| a-100001"), "{err}");
    for (more, code, expect) in [
        (&["-o", &path("x.parquet")][..], 2, "'.parquet' is no format of rows here"),
        (&["-o", &path("y.csv"), "--format", "ndjson"], 2, "is named .csv, and --format says ndjson"),
        (&["-o", &path("x.csv")], 2, "--force"),
        (&["--force"], 2, "--output"),
    ] {
        let (found, _, err) = run(&[&["run", "-c", &query], more].concat()).await;
        assert_eq!(found, code, "{more:?}: {err}");
        assert!(err.contains(expect), "{more:?}: {err}");
    }
    assert!(!Path::new(&path("x.parquet")).exists() && !Path::new(&path("y.csv")).exists());
    assert_eq!(std::fs::read_to_string(path("x.csv")).unwrap().lines().count(), 3);
    let one = format!("{NEWS} SELECT article_id FROM news LIMIT 1");
    let (code, _, err) = run(&["run", "-c", &one, "-o", &path("x.csv"), "--force"]).await;
    assert_eq!((code, std::fs::read_to_string(path("x.csv")).unwrap().as_str()), (0, "article_id\na-100001\n"), "{err}");
}

#[tokio::test]
async fn a_feed_that_was_never_connected_is_a_failure_when_the_time_is_up() {
    let server = Server::start([Answer::status(503)]).await;
    let table = |url: String| format!("CREATE TABLE t (a TEXT) WITH (connector = 'sse', endpoint = '{url}'); SELECT * FROM t");
    let (code, out, err) = run(&["run", "-c", &table(server.url()), "--timeout", "1s"]).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("table 't' was never connected: ") && err.contains("503"), "{err}");
    // One that is connected and silent is none.
    let server = Server::start([Answer::stream().text(":\n").stall()]).await;
    let (code, _, err) = run(&["run", "-c", &table(server.url()), "--timeout", "1s"]).await;
    assert_eq!(code, 0, "{err}");
}

#[tokio::test]
async fn a_file_of_which_nothing_can_be_read_is_a_failure_also_where_it_is_only_joined() {
    let directory = tempfile::tempdir().unwrap();
    let users = server::file(directory.path(), "users.csv", b"id,name\n1,a\n2,b\n");
    let numbers = server::file(directory.path(), "numbers.ndjson", b"{\"id\":1}\n");
    let tables = format!(
        "CREATE TABLE users (id BIGINT, name TEXT) WITH (connector = 'file', path = '{}');
         CREATE TABLE numbers (id BIGINT) WITH (connector = 'file', path = '{}');",
        users.display(),
        numbers.display()
    );
    for query in [
        "SELECT * FROM users",
        "SELECT n.id, u.name FROM numbers n JOIN users u ON n.id = u.id",
        "SELECT n.id, u.name FROM numbers n LEFT JOIN users u ON n.id = u.id",
        "CREATE VIEW v AS SELECT n.id, u.name FROM numbers n JOIN users u ON n.id = u.id",
        "SELECT count(*) FROM numbers WHERE id IN (SELECT id FROM users)",
    ] {
        let (code, out, err) = run(&["run", "-c", &format!("{tables} {query}")]).await;
        assert_eq!((code, out.as_str()), (1, ""), "{query}: {err}");
        assert!(err.contains("none of its 3 events could be read; the last: "), "{query}: {err}");
    }
}

#[tokio::test]
async fn columns_that_no_event_has_are_told_as_notes() {
    let script =
        "CREATE TABLE news (article TEXT) WITH (connector = 'file', path = 'fixtures/news.ndjson'); SELECT * FROM news LIMIT 500";
    let (code, _, err) = run(&["run", "-c", script]).await;
    assert_eq!(code, 0);
    assert!(err.contains("note: table news: column 'article' was in none of "), "{err}");
}
