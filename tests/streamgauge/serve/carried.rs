//! A data directory of the first version that kept state: the program reads it, and goes on from it.
//!
//! `fixtures/state/first` was written by a server over the tables and views of `fixtures/state/first.sql`, after 60 orders, 12 changes of
//! rows and 5 lines. What a checkpoint knows a table or view by must never change, or a new version of the program loses the state.

use std::path::Path;

use serde_json::json;

use super::program::Process;
use crate::support::server::{Answer as Feed, Server};

/// Views, how many rows each had, and one of them.
const VIEWS: [(&str, u64, &str); 7] = [
    ("tumbled", 15, r#"{"kind":"c","n":3,"total":15.7500,"mean":5.0,"#),
    ("hopped", 20, r#"{"userId":"u3","most":7,"kinds":2,"#),
    ("sessions", 0, ""),
    ("before", 54, r#"{"n":4,"kind":"b","last":1}"#),
    ("early", 10, r#"{"kind":"b","n":7,"window":{"start":"2026-03-01T12:00:00Z","#),
    ("high", 5, r#"{"id":3,"level":12.0}"#),
    ("said", 5, r#"{"value":"line 5"}"#),
];

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copied(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[tokio::test]
async fn a_directory_of_the_first_version_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    copied(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/state/first"), dir.path());
    let process = Process::start(&["--data", dir.path().to_str().unwrap()], &[]).await;
    for (view, count, row) in VIEWS {
        let answer = process.client.get(format!("{}/v1/views/{view}/results?limit=100", process.url)).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.contains(&format!(r#""total":{count}"#)) && text.contains(row), "{view}: {text}");
    }
    assert!(!process.said().contains("anew"), "{}", process.said());

    // The feed's own address is gone, so it is reached by a proxy. What follows the last event closes a window that was open.
    let order =
        |n: u64, at: &str| format!("id: {n}\nevent: order\ndata: {{\"n\":{n},\"kind\":\"a\",\"price\":1,\"at\":\"{at}\"}}\n\n");
    let rest = order(61, "2026-03-01T12:01:01Z") + &order(62, "2026-03-01T12:01:30Z");
    let feed = Server::start([Feed::stream().text(&rest).stall()]).await;
    let change = json!({"config": {"proxy": feed.url()}});
    let table = format!("{}/v1/connection_tables/orders", process.url);
    let changed =
        process.client.patch(table).header("content-type", "application/json").body(change.to_string()).send().await.unwrap();
    assert!(changed.status().is_success(), "{}", changed.text().await.unwrap());
    assert_eq!(feed.request(0).await.header("last-event-id"), Some("60"));
    let poll = format!("{}/v1/views/tumbled/results?where=window.start >= '2026-03-01T12:00:50Z'&limit=100", process.url);
    let closed = async {
        loop {
            let text = process.client.get(&poll).send().await.unwrap().text().await.unwrap();
            if text.contains(r#""count":4"#) {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let text = tokio::time::timeout(super::HUNG, closed).await.expect("the windows close");
    // Orders 51, 54 and 57 came before, 60 and 61 stand in the next window.
    assert!(text.contains(r#"{"kind":"a","n":3,"total":162.7500,"mean":54.0,"#), "{text}");
    assert!(text.contains(r#"{"kind":"a","n":2,"total":61.2500,"mean":60.5,"#), "{text}");
}
