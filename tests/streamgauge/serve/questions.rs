//! What a reader asks hurts nobody: a question that takes all time or all memory is answered with an error, and all else goes on.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::HUNG;
use super::program::Process;
use crate::support::server::{Answer as Feed, Server, Signal};

/// Takes minutes within one call, although none of its texts is long.
const ENDLESS: &str = "SELECT sum(levenshtein(repeat('a', 2000) || value, repeat('b', 2000))) FROM generate_series(1, 8000)";

/// Questions of readers that are answered at once.
const AT_ONCE: usize = 3;

/// Asks a statement; gives status, `Retry-After` and body.
async fn ask(process: &Process, sql: &str, limit: &str) -> (u16, Option<String>, Value) {
    let body = json!({"sql": sql, "timeout": limit}).to_string();
    let request = process.client.post(format!("{}/v1/sql", process.url)).header("content-type", "application/json").body(body);
    let response = timeout(HUNG, request.send()).await.expect("an answer in time").unwrap();
    let (status, after) = (response.status().as_u16(), response.headers().get("retry-after").cloned());
    let body = timeout(HUNG, response.text()).await.expect("a whole answer in time").unwrap();
    let after = after.map(|after| after.to_str().unwrap().to_string());
    (status, after, serde_json::from_str(&body).unwrap())
}

/// Waits until a view has so many rows.
async fn rows(process: &Process, view: &str, count: u64) {
    let path = format!("/v1/views/{view}/results");
    let there = async { while process.get(&path).await["count"] != count {} };
    timeout(HUNG, there).await.expect("the view goes on");
}

#[tokio::test]
async fn questions_that_never_give_way_hold_up_neither_views_nor_the_end() {
    let signal = Signal::default();
    let event = |text: &str| format!("data: {{\"text\": \"{text}\"}}\n\n");
    let feed = Server::start([Feed::stream().text(&event("one")).wait(&signal).text(&event("two")).stall()]).await;
    let process = Process::start(&[], &[]).await;
    let table = format!("CREATE TABLE feed (text TEXT) WITH (connector = 'sse', endpoint = '{}')", feed.url());
    for statement in [table.as_str(), "CREATE VIEW texts AS SELECT text FROM feed"] {
        let (status, _, told) = ask(&process, statement, "10s").await;
        assert_eq!(status, 200, "{told}");
    }
    rows(&process, "texts", 1).await;
    let asked = futures::future::join_all((0..AT_ONCE).map(|_| ask(&process, ENDLESS, "1s"))).await;
    for (status, _, told) in asked {
        assert_eq!(status, 422, "{told}");
        assert!(told["detail"].as_str().unwrap().starts_with("there was no answer after "), "{told}");
    }
    // Their threads are busy still: who asks now is told to come back, also with a condition on rows.
    let (status, after, told) = ask(&process, "SELECT 1", "100ms").await;
    assert_eq!((status, after.as_deref()), (503, Some("5")), "{told}");
    assert_eq!(process.get("/healthz").await["status"], "ok");
    signal.notify_one();
    rows(&process, "texts", 2).await;
    // What is defined is planned on other threads, and what is known is told at once.
    let (status, _, told) = ask(&process, "CREATE VIEW more AS SELECT upper(text) AS text FROM feed; SHOW VIEWS", "10s").await;
    assert_eq!(status, 200, "{told}");
    timeout(Duration::from_secs(10), process.stop()).await.expect("it ends at once");
}

#[tokio::test]
async fn constants_that_take_minutes_hold_up_neither_views_nor_what_is_defined_next() {
    let process = Process::start(&[], &[]).await;
    let hard = "array_length(array_distinct(array_sort(array_except(generate_series(1, 8000000), generate_series(2, 8000001)))))";
    let levenshtein =
        (0..40).map(|n| format!("levenshtein(repeat('a{n}', 10000), repeat('b', 20000))")).collect::<Vec<_>>().join(" + ");
    for sql in [format!("SELECT {hard} + {levenshtein}"), format!("EXPLAIN SELECT {levenshtein}")] {
        let (status, _, told) = ask(&process, &sql, "1s").await;
        assert_eq!(status, 422, "{told}");
        assert_eq!(process.get("/healthz").await["status"], "ok");
    }
    let (status, _, told) = ask(&process, "SELECT 1 AS one", "10s").await;
    assert_eq!(status, 200, "{told}");
    timeout(Duration::from_secs(10), process.stop()).await.expect("it ends at once");
}

#[tokio::test]
async fn a_question_that_wants_all_memory_fails_and_the_server_goes_on() {
    let process = Process::start(&["--memory-max", "256MiB"], &[]).await;
    let before = process.memory("VmHWM");
    for sql in [
        "SELECT length(string_agg(repeat('x', 1000), ',')) FROM generate_series(1, 100000000)",
        "SELECT array_length(array_agg(value)) FROM generate_series(1, 100000000)",
        "SELECT count(DISTINCT (value * 7919) % 99999989) FROM generate_series(1, 100000000)",
        "SELECT value % 10000000 AS k, count(*) FROM generate_series(1, 100000000) GROUP BY k",
        "SELECT sum(value) OVER (ORDER BY value DESC) FROM generate_series(1, 1000000000)",
        "SELECT sum(value) OVER () FROM generate_series(1, 1000000000)",
        "SELECT lag(value) OVER (PARTITION BY value % 7 ORDER BY value) FROM generate_series(1, 1000000000)",
        "SELECT value FROM generate_series(1, 1000000000) ORDER BY value % 1000, value",
        "SELECT count(*) FROM generate_series(1, 100000000) AS a JOIN generate_series(1, 100000000) AS b ON a.value = b.value",
        "SELECT a.value FROM generate_series(1, 100000000) AS a, generate_series(1, 100000000) AS b ORDER BY b.value + a.value",
        "WITH RECURSIVE more AS (SELECT 1 AS n UNION ALL SELECT n FROM more, generate_series(1, 10)) SELECT count(*) FROM more",
        "SELECT value FROM generate_series(1, 100000000) EXCEPT SELECT value + 1 FROM generate_series(1, 100000000)",
    ] {
        let (status, _, told) = ask(&process, sql, "60s").await;
        assert_eq!(status, 422, "{sql}: {told}");
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.starts_with("the query needs ") && detail.contains(" bytes of memory at once"), "{sql}: {told}");
    }
    // Each of these is small enough, and there are hundreds of them: while it is planned, and in one row.
    let many = |value: &str| {
        let calls = (0..400).map(|n| format!("length(repeat('x', 60000000 + {n} + {value}))")).collect::<Vec<_>>();
        format!("SELECT {} FROM generate_series(1, 1)", calls.join(", "))
    };
    let beside = format!("SELECT length(concat({})) AS n", vec!["repeat('x', 60000000)"; 400].join(", "));
    for sql in [many("0"), many("value"), beside] {
        let (status, _, told) = ask(&process, &sql, "60s").await;
        assert_eq!(status, 422, "{told}");
        assert!(told["detail"].as_str().unwrap().contains("the process has no memory left for them"), "{told}");
    }
    // One without an end holds nothing, and is ended by the time.
    let sql = "WITH RECURSIVE up AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM up) SELECT count(*) FROM up";
    let (status, _, told) = ask(&process, sql, "1s").await;
    assert_eq!((status, &told["results"][0]["ended_by"]), (200, &json!("timeout")), "{told}");
    let grown = process.memory("VmHWM") - before;
    assert!(grown < 200 << 20, "{} MiB", grown >> 20);
    assert_eq!(process.get("/healthz").await["status"], "ok");
    process.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_put_together_has_a_bound() {
    let process = Process::start(&[], &[]).await;
    let (status, _, told) = ask(&process, "SELECT repeat('x', 1000000) AS text FROM generate_series(1, 1000)", "60s").await;
    assert_eq!((status, &told["results"][0]["ended_by"]), (200, &json!("size")), "{status}");
    let rows = told["results"][0]["rows"].as_array().unwrap().len();
    assert!((64..200).contains(&rows), "{rows}");
    process.stop().await;
}
