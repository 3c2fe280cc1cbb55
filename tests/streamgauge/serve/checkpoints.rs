//! Checkpoints from outside: what they hold, what becomes of them when definitions change, and what a bad disk does to them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::program::{Process, within};
use super::restart::kept_in;
use super::{HUNG, Service, send};
use crate::support::server::{Answer as Feed, Request, Server};

/// Where no view needs more.
pub(super) const SCHEMA: &str = "k TEXT, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '0 seconds'";

pub(super) const SUMS: &str = "CREATE VIEW sums AS SELECT k, count(*) AS c, sum(v) AS s, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY k, window";

const RAW: &str = "CREATE VIEW raw AS SELECT k, v FROM feed";

/// A feed whose events are numbered from 1 in their ids. It sends those that are out, after `Last-Event-ID`, and then is silent.
pub(super) struct Numbered {
    server: Server,
    out: Arc<AtomicUsize>,
}

impl Numbered {
    pub(super) async fn start() -> Numbered {
        let key = |n: usize| ["a", "b", "c"][n % 3];
        Numbered::of(0, move |n| json!({"k": key(n), "v": n, "ts": 1_000 * n}).to_string()).await
    }

    /// `data` makes the data of an event from its number.
    async fn of(out: usize, data: impl Fn(usize) -> String + Send + Sync + 'static) -> Numbered {
        let out = Arc::new(AtomicUsize::new(out));
        let known = Arc::clone(&out);
        let answer = Feed::by(move |request: &Request| {
            let after: usize = request.header("last-event-id").map_or(0, |id| id.parse().unwrap());
            let events = (after + 1..=known.load(SeqCst)).map(|n| format!("id: {n}\ndata: {}\n\n", data(n)));
            Feed::stream().text(&events.collect::<String>()).stall()
        });
        Numbered { server: Server::start([answer]).await, out }
    }

    fn table(&self, name: &str, schema: &str) -> String {
        format!(
            "CREATE TABLE {name} ({schema}) WITH (connector = 'sse', endpoint = '{}', \"json.timestamp_format\" = 'unix_millis', \
             idle_timeout = 'off', reconnect_delay = '5ms')",
            self.server.url()
        )
    }

    /// Lets more events out; a client gets them when it connects again.
    fn release(&self, out: usize) {
        self.out.store(out, SeqCst);
    }
}

impl Service {
    /// Makes views over a table `feed` of this, and lets its events out when all of them are there.
    pub(super) async fn define(&self, feed: &Numbered, views: &[&str], events: usize) {
        self.sql(&feed.table("feed", SCHEMA)).await;
        for view in views {
            self.sql(view).await;
        }
        self.release(feed, events);
    }

    pub(super) fn release(&self, feed: &Numbered, events: usize) {
        feed.release(events);
        self.app.engine.table("feed").unwrap().reconnect();
    }

    /// Waits until a view has so many rows in these results; gives them in an order of their own.
    pub(super) async fn rows(&self, view: &str, count: usize) -> Vec<String> {
        let look = async {
            loop {
                let page = self.get(&format!("/v1/views/{view}/results?limit=10000")).await.with(200);
                let rows = page["data"].as_array().unwrap();
                if rows.len() >= count {
                    return sorted(rows);
                }
                yield_now().await;
            }
        };
        timeout(HUNG, look).await.unwrap_or_else(|_| panic!("{view} has no {count} rows"))
    }

    /// Waits until a view has failed.
    async fn failed(&self, view: &str) {
        let live = self.app.streams.live(view).unwrap();
        let mut follower = live.follow(0);
        while live.health().as_str() != "failed" {
            timeout(HUNG, follower.changed()).await.expect("the view fails");
            follower.seek(live.head());
        }
    }

    async fn checkpoint(&self) -> Value {
        self.post("/v1/checkpoints", Value::Null).await.with(201)
    }
}

impl Process {
    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.url));
        let response = super::json(request, &body).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn release(&self, table: &str, feed: &Numbered, events: usize) {
        feed.release(events);
        let request = self.client.post(format!("{}/v1/connection_tables/{table}/reconnect", self.url));
        assert_eq!(request.send().await.unwrap().status(), 202);
    }

    async fn sql(&self, statement: &str) {
        self.post("/v1/sql", json!({"sql": statement})).await;
    }

    pub(super) async fn rows(&self, view: &str, count: usize) -> Vec<String> {
        let look = async {
            loop {
                let page = self.get(&format!("/v1/views/{view}/results?limit=10000")).await;
                let rows = page["data"].as_array().unwrap();
                if rows.len() >= count {
                    return sorted(rows);
                }
                yield_now().await;
            }
        };
        timeout(HUNG, look).await.unwrap_or_else(|_| panic!("{view} has no {count} rows: {}", self.said()))
    }
}

fn sorted(rows: &[Value]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    rows.sort_unstable();
    rows
}

/// The rows of `raw` and `sums` over so many events: what a program gives that nothing disturbs.
async fn undisturbed(events: usize) -> (Vec<String>, Vec<String>) {
    let (service, feed) = (Service::start().await, Numbered::start().await);
    service.define(&feed, &[RAW, SUMS], events).await;
    let raw = service.rows("raw", events).await;
    // The window of the last event is open, those before it are closed.
    let closed = (1..=events).filter(|n| n / 10 < events / 10).map(|n| (n / 10, n % 3)).collect::<BTreeSet<_>>();
    (raw, service.rows("sums", closed.len()).await)
}

/// The newest checkpoint's file.
fn newest(dir: &Path) -> PathBuf {
    files(dir).pop().expect("a checkpoint is there")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "ckpt")).collect();
    files.sort_unstable();
    files
}

#[tokio::test]
async fn after_a_clean_restart_streams_and_windows_go_on_without_a_hole() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let service = Service::start_with(kept_in(dir.path())).await;
    service.define(&feed, &[RAW, SUMS], 24).await;
    // Also while rows flow.
    let first = service.checkpoint().await;
    service.rows("raw", 24).await;
    let taken = service.checkpoint().await;
    assert_eq!((&taken["epoch"], &taken["parts"]), (&json!(first["epoch"].as_u64().unwrap() + 1), &json!(3)));
    let report = service.get("/v1/checkpoints").await.with(200);
    assert_eq!((&report["taken"], &report["failed"], &report["last"]), (&json!(2), &json!(0), &taken));
    assert_eq!((&report["failure"], &report["left_out"]), (&Value::Null, &json!([])));
    let position = service.get("/v1/views/raw/results").await.with(200)["position"].as_str().unwrap().to_string();
    let earlier = format!("{}-20", position.split_once('-').unwrap().0);
    service.stop().await;
    feed.release(57);

    let service = Service::start_with(kept_in(dir.path())).await;
    let (raw, sums) = undisturbed(57).await;
    assert_eq!((service.rows("raw", raw.len()).await, service.rows("sums", sums.len()).await), (raw, sums));
    assert_eq!(feed.server.requests().last().unwrap().header("last-event-id"), Some("24"));
    let stream = service.request(Method::GET, "/v1/views/raw/stream?limit=37").header("last-event-id", &earlier);
    let text = send(stream).await.text;
    assert!(text.contains("\"resumed\":true") && !text.contains("event: reset"), "{text}");
    let data =
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str::<Value>(data).unwrap());
    let got: Vec<u64> = data.filter_map(|data| data["after"]["v"].as_u64()).collect();
    assert_eq!(got, (21..=57).collect::<Vec<u64>>());
}

#[tokio::test]
async fn what_was_defined_anew_begins_anew_and_the_rest_goes_on() {
    let (dir, feed, other) = (tempfile::tempdir().unwrap(), Numbered::start().await, Numbered::start().await);
    let data = dir.path().to_str().unwrap().to_string();
    let args = ["-v", "--data", &data];
    let process = Process::start(&args, &[]).await;
    let copy = "CREATE VIEW copy AS SELECT v FROM other";
    for statement in
        [&feed.table("feed", SCHEMA), RAW, SUMS, "CREATE VIEW gone AS SELECT v FROM feed", &other.table("other", SCHEMA), copy]
    {
        process.sql(statement).await;
    }
    process.release("feed", &feed, 24).await;
    process.release("other", &other, 24).await;
    for view in ["raw", "copy", "gone"] {
        process.rows(view, 24).await;
    }
    assert_eq!(process.post("/v1/checkpoints", Value::Null).await["parts"], 6);
    process.sql("CREATE OR REPLACE VIEW raw AS SELECT k, v + 1 AS v FROM feed").await;
    process.sql("DROP VIEW gone").await;
    process.sql("DROP TABLE other CASCADE").await;
    process.sql(&other.table("other", &SCHEMA.replace("v BIGINT", "v DOUBLE"))).await;
    process.sql(copy).await;
    process.sql("CREATE VIEW late AS SELECT v FROM feed").await;
    drop(process);
    feed.release(34);
    other.release(30);

    let mut process = Process::start(&args, &[]).await;
    let (_, sums) = undisturbed(34).await;
    assert_eq!(process.rows("sums", sums.len()).await, sums);
    // What begins anew over a table that goes on sees what comes from there.
    assert_eq!((process.rows("raw", 10).await.len(), process.rows("late", 10).await.len()), (10, 10));
    assert_eq!(process.rows("copy", 30).await.len(), 30);
    for (subject, reason) in [
        ("view=\"raw\"", "its state is lost: the view begins anew"),
        ("view=\"copy\"", "its state is lost: the view begins anew"),
        ("table=\"other\"", "its place in the feed is lost: the table begins anew"),
        ("view=\"late\"", "it has no state in the checkpoint: the view begins anew"),
    ] {
        let said = process.until(reason).await;
        let is_there = said.lines().any(|line| line.contains(subject) && line.contains(reason));
        assert!(is_there, "{subject}: {reason} is missing in\n{said}");
    }
    assert!(!process.said().contains("gone\""), "{}", process.said());
    assert_eq!(process.post("/v1/checkpoints", Value::Null).await["parts"], 6);
    process.stop().await;
}

#[tokio::test]
async fn a_keyed_table_goes_on_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    // Rows 0 to 4 come first; then each is updated in turn, which says what it was before only by its key.
    let feed = Numbered::of(7, |n| match n {
        1..=5 => json!({"op": "c", "before": null, "after": {"id": n, "v": n}, "ts_ms": n}).to_string(),
        _ => json!({"op": "u", "before": null, "after": {"id": n - 5, "v": 100 + n}, "ts_ms": n}).to_string(),
    })
    .await;
    let table = format!(
        "CREATE TABLE rows (id INT PRIMARY KEY, v INT) WITH (connector = 'sse', endpoint = '{}', format = 'debezium_json')",
        feed.server.url()
    );
    let service = Service::start_with(kept_in(dir.path())).await;
    service.sql(&table).await;
    service.sql("CREATE VIEW now AS SELECT id, v FROM rows").await;
    service.changes("now", 7).await;
    service.stop().await;
    feed.release(10);
    let service = Service::start_with(kept_in(dir.path())).await;
    // One who comes later sees the rows that are there, and so do new views.
    service.sql("CREATE VIEW later AS SELECT id, v FROM rows").await;
    service.changes("now", 10).await;
    let expect: Vec<String> = (1..=5).map(|id| json!({"id": id, "v": 105 + id}).to_string()).collect();
    assert_eq!(service.rows("now", 5).await, expect);
    let same = async {
        while service.rows("later", 5).await != expect {
            yield_now().await;
        }
    };
    timeout(HUNG, same).await.expect("the later view has the same rows");
}

#[tokio::test]
async fn an_event_that_has_failed_its_table_is_met_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let feed = Numbered::of(30, move |n| match n == 18 && !is_mended.load(SeqCst) {
        true => "nonsense".into(),
        false => json!({"k": "a", "v": n, "ts": 1_000 * n}).to_string(),
    })
    .await;
    let table = feed.table("feed", SCHEMA).replace("idle_timeout", "bad_data = 'fail', idle_timeout");
    let failed = async |service: &Service| {
        let table = service.app.engine.table("feed").unwrap();
        let failed = async {
            while table.state_text() != "failed" {
                yield_now().await;
            }
        };
        timeout(HUNG, failed).await.expect("the table fails");
    };
    let service = Service::start_with(kept_in(dir.path())).await;
    service.sql(&table).await;
    service.sql(RAW).await;
    failed(&service).await;
    assert_eq!(service.rows("raw", 17).await.len(), 17);
    service.checkpoint().await;
    service.stop().await;
    let service = Service::start_with(kept_in(dir.path())).await;
    failed(&service).await;
    assert_eq!(service.rows("raw", 17).await.len(), 17);
    mended.store(true, SeqCst);
    service.release(&feed, 40);
    let all = service.rows("raw", 40).await;
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 40);
    let asked: Vec<_> = feed.server.requests().iter().map(|request| request.header("last-event-id").map(String::from)).collect();
    assert_eq!(asked, [None, Some("17".into()), Some("17".into())]);
}

#[tokio::test]
async fn tables_that_stand_still_hold_no_checkpoint_up() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let other = Server::start([Feed::stream().stall()]).await;
    let service = Service::start_with(kept_in(dir.path())).await;
    service.define(&feed, &[], 24).await;
    let table = format!("CREATE TABLE other (k TEXT, v BIGINT) WITH (connector = 'sse', endpoint = '{}')", other.url());
    service.sql(&table).await;
    service.sql("CREATE VIEW both AS SELECT v FROM feed UNION ALL SELECT v FROM other").await;
    service.rows("both", 24).await;
    // Silent, paused, disconnected, and refused for good.
    assert_eq!(service.checkpoint().await["parts"], 3);
    let table = service.app.engine.table("other").unwrap();
    table.pause();
    assert_eq!(service.checkpoint().await["parts"], 3);
    table.disconnect();
    assert_eq!(service.checkpoint().await["parts"], 3);
    drop(table);
    let refusing = Server::start([Feed::status(403)]).await;
    let table = format!("CREATE TABLE refused (v BIGINT) WITH (connector = 'sse', endpoint = '{}')", refusing.url());
    service.sql(&table).await;
    service.sql("CREATE VIEW three AS SELECT v FROM feed UNION ALL SELECT v FROM refused").await;
    let table = service.app.engine.table("refused").unwrap();
    let failed = async {
        while table.state_text() != "failed" {
            yield_now().await;
        }
    };
    timeout(HUNG, failed).await.expect("the feed fails");
    assert_eq!(service.checkpoint().await["parts"], 5);
}

#[tokio::test]
async fn a_query_that_nobody_reads_holds_no_checkpoint_up() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let row = "{\"v\":1},".repeat(100_000);
    let array = format!("[{}]", row.trim_end_matches(','));
    let flood = (0..6).fold(Feed::stream(), |answer, _| answer.event("message", &array));
    let flood = Server::start([flood.stall()]).await;
    let service = Service::start_with(kept_in(dir.path())).await;
    service.define(&feed, &[RAW], 24).await;
    let table =
        format!("CREATE TABLE flood (v BIGINT) WITH (connector = 'sse', endpoint = '{}', framing = 'json_array')", flood.url());
    service.sql(&table).await;
    let answer = super::execute(&service.app, "SUBSCRIBE SELECT v FROM flood").await;
    let Ok(streamgauge::engine::Answer::Query(query)) = answer else { panic!("no query") };
    let unread = service.app.engine.open(&[*query]).unwrap();
    let table = service.app.engine.table("flood").unwrap();
    let full = async {
        while table.status().snapshot().rows < 400_000 {
            yield_now().await;
        }
    };
    timeout(HUNG, full).await.expect("the feed comes");
    service.rows("raw", 24).await;
    // The table has no place to go on from, and is not waited for.
    service.checkpoint().await;
    drop(unread);
}

#[tokio::test]
async fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let data = dir.path().to_str().unwrap().to_string();
    let args = ["-v", "--data", &data];
    let mut process = Process::start(&args, &[]).await;
    for statement in [&feed.table("feed", SCHEMA), RAW, SUMS] {
        process.sql(statement).await;
    }
    let mut events = 24;
    process.release("feed", &feed, events).await;
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    for damage in [&flip as &dyn Fn(&mut Vec<u8>), &cut] {
        let (raw, sums) = undisturbed(events).await;
        assert_eq!((process.rows("raw", raw.len()).await, process.rows("sums", sums.len()).await), (raw, sums));
        process.post("/v1/checkpoints", Value::Null).await;
        events += 11;
        process.release("feed", &feed, events).await;
        process.rows("raw", events).await;
        process.post("/v1/checkpoints", Value::Null).await;
        drop(process);
        let file = newest(dir.path());
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        events += 11;
        feed.release(events);
        process = Process::start(&args, &[]).await;
        process.until("a checkpoint is damaged: the one before is used").await;
        let said = process.until("going on from a checkpoint").await;
        assert!(said.contains(file.to_str().unwrap()), "{said}");
    }
    let (raw, sums) = undisturbed(events).await;
    assert_eq!((process.rows("raw", raw.len()).await, process.rows("sums", sums.len()).await), (raw.clone(), sums.clone()));
    drop(process);
    for file in files(dir.path()) {
        std::fs::write(file, "no checkpoint").unwrap();
    }
    let mut process = Process::start(&args, &[]).await;
    process.until("no checkpoint is whole: all tables and views begin anew").await;
    assert_eq!((process.rows("raw", raw.len()).await, process.rows("sums", sums.len()).await), (raw, sums));
    process.stop().await;
}

#[tokio::test]
async fn a_disk_that_fails_fails_checkpoints_and_nothing_else() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let service = Service::start_with(kept_in(dir.path())).await;
    service.define(&feed, &[RAW, SUMS], 24).await;
    service.rows("raw", 24).await;
    let good = service.checkpoint().await;
    let (place, away) = (dir.path().join("checkpoints"), dir.path().join("away"));
    std::fs::rename(&place, &away).unwrap();
    std::fs::write(&place, "in the way").unwrap();
    let refused = service.post("/v1/checkpoints", Value::Null).await.with(503);
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("stays the last one")), "{refused}");
    let report = service.get("/v1/checkpoints").await.with(200);
    assert_eq!((&report["failed"], &report["last"]), (&json!(1), &good));
    assert!(report["failure"]["reason"].as_str().unwrap().contains("cannot be written"), "{report}");
    let metrics = service.get("/metrics").await.text;
    assert!(metrics.contains("\nstreamgauge_checkpoints_failed_total 1\n"), "{metrics}");
    // The flow goes on.
    service.release(&feed, 35);
    service.rows("raw", 35).await;
    std::fs::remove_file(&place).unwrap();
    std::fs::rename(&away, &place).unwrap();
    service.checkpoint().await;
    let report = service.get("/v1/checkpoints").await.with(200);
    assert_eq!((&report["failed"], &report["failure"]), (&json!(1), &Value::Null));
    // Somebody clears the directory: nothing may build on what is gone.
    std::fs::remove_dir_all(&place).unwrap();
    let cleared = service.post("/v1/checkpoints", Value::Null).await;
    if cleared.status != 201 {
        assert!(cleared.with(503)["detail"].as_str().unwrap().contains("cannot be built on"), "{cleared:?}");
        service.checkpoint().await;
    }
    service.stop().await;

    feed.release(57);
    let service = Service::start_with(kept_in(dir.path())).await;
    let (raw, sums) = undisturbed(57).await;
    assert_eq!((service.rows("raw", raw.len()).await, service.rows("sums", sums.len()).await), (raw, sums));
}

/// Nobody else takes checkpoints meanwhile.
pub(super) const ON_DEMAND: (&str, &str) = ("STREAMGAUGE_CHECKPOINT_INTERVAL", "1h");

#[tokio::test]
async fn a_full_disk_costs_checkpoints_until_there_is_room_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["-v", "--data", dir.path().to_str().unwrap()];
    let pad = "x".repeat(100_000);
    let key = |n: usize| ["a", "b", "c"][n % 3];
    let feed = Numbered::of(0, move |n| json!({"k": key(n), "v": n, "ts": 1_000 * n, "pad": pad}).to_string()).await;
    let exact = async |process: &Process, events: usize| {
        let (raw, sums) = undisturbed(events).await;
        assert_eq!((process.rows("raw", raw.len()).await, process.rows("sums", sums.len()).await), (raw, sums));
        assert_eq!(process.rows("wide", events).await.len(), events);
    };
    let fails = async |process: &Process| {
        let response = process.client.post(format!("{}/v1/checkpoints", process.url)).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 503, "{text}");
        assert!(text.contains("cannot be written") && text.contains("stays the last one"), "{text}");
    };

    let mut process = Process::start_within(2_500, &args, &[ON_DEMAND]).await;
    let table = feed.table("feed", &SCHEMA.replace("v BIGINT", "v BIGINT, pad TEXT"));
    for statement in [&table, RAW, SUMS, "CREATE VIEW wide AS SELECT v, pad FROM feed"] {
        process.sql(statement).await;
    }
    process.release("feed", &feed, 12).await;
    exact(&process, 12).await;
    let good = process.post("/v1/checkpoints", Value::Null).await;
    process.release("feed", &feed, 35).await;
    exact(&process, 35).await;
    fails(&process).await;
    process.until("a checkpoint failed: the last good one stays, and the flow goes on").await;
    let report = process.get("/v1/checkpoints").await;
    assert_eq!((&report["failed"], &report["last"]), (&json!(1), &good));
    assert!(report["failure"]["reason"].as_str().unwrap().contains("cannot be written"), "{report}");
    let metrics = process.client.get(format!("{}/metrics", process.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("\nstreamgauge_checkpoints_failed_total 1\n"), "{metrics}");
    assert_eq!(files(dir.path()).len(), 1, "nothing is left of what could not be written");
    process.release("feed", &feed, 40).await;
    exact(&process, 40).await;
    drop(process);

    let mut process = Process::start_within(2_500, &args, &[ON_DEMAND]).await;
    let said = process.until("going on from a checkpoint").await;
    assert!(said.contains(&format!("epoch={}", good["epoch"])), "{said}");
    exact(&process, 40).await;
    assert_eq!(feed.server.requests().last().unwrap().header("last-event-id"), Some("12"));
    fails(&process).await;
    if cfg!(target_os = "linux") {
        process.make_room();
        process.post("/v1/checkpoints", Value::Null).await;
        process.until("checkpoints work again").await;
    }
    drop(process);
    feed.release(57);
    let process = Process::start(&args, &[ON_DEMAND]).await;
    exact(&process, 57).await;
    process.stop().await;
}

#[tokio::test]
async fn a_disk_without_room_for_definitions_is_told_and_tried_again() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let data = dir.path().join("data");
    let args = ["--data", data.to_str().unwrap()];
    let command = within(100, &args, &[]);
    let refused = tokio::task::spawn_blocking(move || { command }.output().unwrap()).await.unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("the data directory") && said.contains("cannot be used: ") && !said.contains("panicked"), "{said}");

    // What is left of it is in nobody's way.
    let process = Process::start_within(1_100, &args, &[ON_DEMAND]).await;
    process.sql(&feed.table("feed", SCHEMA)).await;
    process.sql(RAW).await;
    let large = |name: &str| json!({"sql": format!("CREATE VIEW {name} AS SELECT v, '{}' AS pad FROM feed", "x".repeat(60_000))});
    let make = async |name: &str| {
        let request = process.client.post(format!("{}/v1/sql", process.url));
        let response = super::json(request, &large(name)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (mut status, mut text, mut made) = (200, String::new(), 0);
    while status < 400 {
        made += 1;
        assert!(made < 40, "there is room for more than there is");
        (status, text) = make(&format!("large{made}")).await;
    }
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("nothing was made: the data directory cannot be written"), "{text}");
    assert!(!text.contains(data.to_str().unwrap()), "{text}");
    let views = process.get("/v1/views").await;
    assert_eq!(views["data"].as_array().unwrap().len(), made, "raw, and the large ones but the last");
    // The flow goes on, and so does what is small enough.
    process.release("feed", &feed, 24).await;
    process.rows("raw", 24).await;
    if cfg!(target_os = "linux") {
        process.make_room();
        assert_eq!(make(&format!("large{made}")).await.0, 200);
    }
    let said = process.stop().await;
    assert!(!said.contains("panicked"), "{said}");
    let process = Process::start(&args, &[ON_DEMAND]).await;
    process.rows("raw", 24).await;
    process.stop().await;
}

#[tokio::test]
async fn a_view_that_has_failed_is_after_a_restart_what_it_was() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let heavy = "CREATE VIEW heavy WITH (state_rows_max = 3) AS SELECT k, v, count(*) AS c, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY k, v, window";
    let service = Service::start_with(kept_in(dir.path())).await;
    service.define(&feed, &[RAW, heavy], 33).await;
    service.failed("heavy").await;
    let said = service.app.streams.live("heavy").unwrap().head() as usize;
    let rows = service.rows("heavy", said).await;
    service.rows("raw", 33).await;
    let look = async |service: &Service| {
        let shown = service.get("/v1/views/heavy").await.with(200);
        (shown["state"].clone(), shown["reason"].as_str().unwrap().to_string())
    };
    let failed = look(&service).await;
    assert_eq!(failed.0, "failed");
    let position = service.get("/v1/views/heavy/results").await.with(200)["position"].as_str().unwrap().to_string();
    assert_eq!(service.checkpoint().await["parts"], 3);
    service.stop().await;
    // The checkpoint of a life in which it did not run has it as well.
    for events in [40, 57] {
        feed.release(events);
        let service = Service::start_with(kept_in(dir.path())).await;
        service.rows("raw", events).await;
        assert_eq!((look(&service).await, service.rows("heavy", said).await), (failed.clone(), rows.clone()));
        let polled = service.get(&format!("/v1/views/heavy/changes?after={position}")).await.with(200);
        assert_eq!(polled["gap"], json!(false));
        service.stop().await;
    }
    let service = Service::start_with(kept_in(dir.path())).await;
    service.sql("CREATE OR REPLACE VIEW heavy AS SELECT v FROM feed").await;
    service.release(&feed, 60);
    assert_eq!(service.rows("heavy", 3).await.len(), 3);
    assert_eq!(service.get("/v1/views/heavy").await.with(200)["state"], "running");
}

#[tokio::test]
async fn views_that_are_joined_with_a_file_go_on_and_stay_failed_as_others() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let names = dir.path().join("names.ndjson");
    std::fs::write(&names, "{\"k\":\"a\",\"name\":\"A\"}\n{\"k\":\"b\",\"name\":\"B\"}\n").unwrap();
    let start = async || {
        let mut settings = kept_in(&dir.path().join("data"));
        settings.feeds.files = true;
        Service::start_with(settings).await
    };
    let service = start().await;
    let table = format!("CREATE TABLE names (k TEXT, name TEXT) WITH (connector = 'file', path = '{}')", names.display());
    let named = "CREATE VIEW named AS SELECT name, v FROM feed JOIN names ON feed.k = names.k";
    let heavy = "CREATE VIEW heavy WITH (state_rows_max = 1) AS SELECT name, v, count(*) AS c, TUMBLE(INTERVAL '10 seconds') AS window \
        FROM feed JOIN names ON feed.k = names.k GROUP BY name, v, window";
    service.define(&feed, &[RAW, &table, named, heavy], 33).await;
    service.failed("heavy").await;
    let said = service.app.streams.live("heavy").unwrap().head() as usize;
    let rows = service.rows("heavy", said).await;
    service.rows("raw", 33).await;
    let before = service.rows("named", 22).await;
    service.stop().await;
    feed.release(45);
    let service = start().await;
    service.rows("raw", 45).await;
    assert_eq!(
        (service.get("/v1/views/heavy").await.with(200)["state"].clone(), service.rows("heavy", said).await),
        (json!("failed"), rows)
    );
    let after = service.rows("named", 30).await;
    assert_eq!((before.len(), after.len()), (22, 30));
    assert!(before.iter().all(|row| after.contains(row)));
}

#[tokio::test]
async fn a_view_that_needs_more_state_than_it_may_fails_alone_and_says_so() {
    let (service, feed) = (Service::start().await, Numbered::start().await);
    let sums = |name: &str, bound: &str| {
        format!(
            "CREATE VIEW {name} WITH ({bound}) AS SELECT k, v, count(*) AS c, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY k, v, window"
        )
    };
    let bounded = [sums("heavy", "state_rows_max = 3"), sums("large", "state_bytes_max = '100B'")];
    service.define(&feed, &[RAW, SUMS, &bounded[0], &bounded[1]], 33).await;
    for (view, told) in [
        ("heavy", "rows, and state_rows_max allows 3; group by fewer keys"),
        ("large", "bytes, and state_bytes_max allows 100; group by fewer keys"),
    ] {
        service.failed(view).await;
        let shown = service.get(&format!("/v1/views/{view}")).await.with(200);
        assert_eq!(shown["state"], "failed");
        assert!(shown["reason"].as_str().unwrap().contains(told), "{shown}");
        assert!(shown["stats"]["state_bytes"].as_u64() > Some(100), "{shown}");
        // Rows that it had stay: none of them was ever taken back.
        let said = service.app.streams.live(view).unwrap().head() as usize;
        assert_eq!(service.rows(view, said).await.len(), said);
        let status = service.sql("SHOW STATUS").await.concat();
        assert!(status.contains(&format!("{view}: the state has grown to")), "{status}");
    }
    let metrics = service.get("/metrics").await.text;
    assert!(metrics.contains("streamgauge_view_state{view=\"heavy\",state=\"failed\"} 1"), "{metrics}");
    assert!(metrics.contains("streamgauge_view_state_bytes{view=\"heavy\"} "), "{metrics}");
    service.release(&feed, 57);
    let (raw, sums) = undisturbed(57).await;
    assert_eq!((service.rows("raw", raw.len()).await, service.rows("sums", sums.len()).await), (raw, sums));
}
