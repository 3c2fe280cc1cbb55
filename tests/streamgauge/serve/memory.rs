//! Memory is what it says: what wide rows hold is counted, bounded, and what the process has of the system.

use serde_json::Value;
use tokio::time::timeout;

use super::HUNG;
use super::program::Process;
use crate::support::server::{Answer as Feed, Server};

/// The letters of a wide text.
const WIDE: usize = 20_000;

const KEYS: usize = 50;

/// Rows in all: their texts are 80 MB.
const EVENTS: usize = 4_000;

/// A feed of wide rows: `KEYS` of them, each told again and again.
async fn wide() -> Server {
    let mut body = String::with_capacity(EVENTS * (WIDE + 100));
    for number in 0..EVENTS {
        let letter = (b'a' + (number % 26) as u8) as char;
        let text = letter.to_string().repeat(WIDE);
        body += &format!("data: {{\"id\": {}, \"n\": {number}, \"text\": \"{text}\"}}\n\n", number % KEYS);
    }
    Server::start([Feed::stream().bytes(body).stall()]).await
}

/// A sample of the metrics.
async fn metric(process: &Process, name: &str) -> f64 {
    let response = process.client.get(format!("{}/metrics", process.url)).send().await.unwrap();
    let text = response.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

/// What the process has taken from the system for these statements over the feed, and what the view `wide` says of it.
async fn taken(process: &Process, statements: &str) -> (usize, usize) {
    let before = process.memory("VmRSS");
    let body = serde_json::json!({ "sql": statements }).to_string();
    let request = process.client.post(format!("{}/v1/sql", process.url)).header("content-type", "application/json").body(body);
    let told = request.send().await.unwrap().text().await.unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(told["results"].is_array(), "{told}");
    let all = async { while metric(process, "streamgauge_table_rows_total{table=\"feed\"}").await < EVENTS as f64 {} };
    timeout(HUNG, all).await.expect("the feed is read");
    let changed = async { while metric(process, "streamgauge_view_changes_total{view=\"wide\"}").await < EVENTS as f64 {} };
    timeout(HUNG, changed).await.expect("the view has it");
    let said = metric(process, "streamgauge_view_memory_bytes{view=\"wide\"}").await as usize;
    (process.memory("VmRSS").saturating_sub(before), said)
}

#[tokio::test]
async fn a_view_over_a_keyed_table_of_wide_rows_holds_what_it_says() {
    let feed = wide().await;
    let process = Process::start(&["--memory-max", "64MiB"], &[]).await;
    let table = format!(
        "CREATE TABLE feed (id BIGINT PRIMARY KEY, n BIGINT, text TEXT) WITH (connector = 'sse', endpoint = '{}')",
        feed.url()
    );
    let (taken, said) = taken(&process, &format!("{table}; CREATE VIEW wide AS SELECT id, n, text FROM feed")).await;
    // The rows, and their latest changes as far as a quarter of all may be histories, once they have been shortened.
    assert!(said > KEYS * WIDE, "{said}");
    let shortened =
        async { while metric(&process, "streamgauge_view_memory_bytes{view=\"wide\"}").await >= (32 << 20) as f64 {} };
    timeout(HUNG, shortened).await.expect("histories are shortened");
    // And what the allocator keeps of batches on their way: all that came is 80 MB, several times over.
    assert!(taken < 96 << 20, "{} MiB, and {said} bytes are told", taken >> 20);
    let rows = metric(&process, "streamgauge_table_memory_bytes{table=\"feed\"}").await as usize;
    assert!((KEYS * WIDE..16 << 20).contains(&rows), "{rows}");
    process.stop().await;
}

#[tokio::test]
async fn a_view_of_wide_rows_that_only_come_holds_what_it_says() {
    let feed = wide().await;
    let mut process = Process::start(&["--memory-max", "64MiB"], &[]).await;
    let table =
        format!("CREATE TABLE feed (id BIGINT, n BIGINT, text TEXT) WITH (connector = 'sse', endpoint = '{}')", feed.url());
    let view = "CREATE VIEW wide AS SELECT id, n, text FROM feed";
    let (taken, said) = taken(&process, &format!("{table}; {view}")).await;
    assert!(said > 1 << 20 && said < 80 << 20, "{said}");
    assert!(taken < 120 << 20, "{} MiB, and {said} bytes are told", taken >> 20);
    // Its rows are more than the process may hold: the oldest have gone, and it says so.
    process.until("hold much").await;
    let held = async { while metric(&process, "streamgauge_memory_held_bytes").await > (64 << 20) as f64 {} };
    timeout(HUNG, held).await.expect("it comes down");
    assert!(metric(&process, "streamgauge_memory_shortened_total").await > 0.0);
    assert_eq!(process.get("/v1/views/wide").await["state"], "running");
    process.stop().await;
}
