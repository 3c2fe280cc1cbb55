//! `run --state`: what is printed goes on after a stop or a crash, and in a file each row stands once.

mod crash;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::program::{program, run};
use crate::support::server::{Answer as Feed, Request, Server};

/// So long a hung test lives; no test waits for it to pass.
const HUNG: Duration = Duration::from_secs(60);

const RAW: &str = "CREATE VIEW raw AS SELECT k, v FROM feed;\n";

const SUMS: &str = "CREATE VIEW sums AS SELECT k, count(*) AS c, sum(v) AS s, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY k, window;\n";

/// `streamgauge run` as a process that is killed with the value.
struct Process {
    child: Option<Child>,
    /// What it has written so far.
    out: watch::Receiver<String>,
    err: watch::Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> watch::Receiver<String> {
    let (sender, receiver) = watch::channel(String::new());
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            sender.send_modify(|text| text.push_str(&String::from_utf8_lossy(&bytes[..count])));
        }
    });
    receiver
}

impl Process {
    fn start(args: &[&str]) -> Process {
        let mut command = program();
        command.arg("run").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
        Process { child: Some(child), out, err }
    }

    fn said(&self) -> String {
        self.err.borrow().clone()
    }

    /// Waits until it has said this.
    async fn until(&mut self, text: &str) {
        let waited = timeout(HUNG, self.err.wait_for(|said| said.contains(text))).await;
        assert!(waited.is_ok_and(|said| said.is_ok()), "no '{text}': {}", *self.err.borrow());
    }

    /// Waits until so many lines are on standard output.
    async fn lines(&mut self, count: usize) -> Vec<String> {
        let waited = timeout(HUNG, self.out.wait_for(|out| out.matches('\n').count() >= count)).await;
        let text = waited.ok().and_then(Result::ok).map(|text| text.clone());
        text.unwrap_or_else(|| panic!("no {count} lines: {}", *self.err.borrow())).lines().map(str::to_string).collect()
    }

    /// Asks it to end, as the system does; gives the exit code, and what it wrote.
    async fn stop(mut self) -> (i32, String, String) {
        let id = self.child.as_ref().unwrap().id();
        assert!(Command::new("kill").args(["-TERM", &id.to_string()]).status().unwrap().success());
        let mut child = self.child.take().unwrap();
        let status = timeout(HUNG, tokio::task::spawn_blocking(move || child.wait().unwrap())).await.expect("it ends").unwrap();
        // The channels close with the last byte.
        while self.out.changed().await.is_ok() {}
        while self.err.changed().await.is_ok() {}
        let said = self.said();
        assert!(!said.contains("took too long"), "{said}");
        (status.code().unwrap(), self.out.borrow().clone(), said)
    }
}

/// A place for a script, a state and an output, over a feed whose events are numbered from 1 in their ids. Those that are out come after
/// `Last-Event-ID`; who has them all asks again.
struct Scene {
    dir: tempfile::TempDir,
    server: Server,
    out: Arc<AtomicUsize>,
}

fn key(n: usize) -> &'static str {
    ["a", "b", "c"][n % 3]
}

fn data(n: usize) -> String {
    json!({"k": key(n), "v": n, "ts": 1_000 * n}).to_string()
}

impl Scene {
    async fn start(out: usize) -> Scene {
        let out = Arc::new(AtomicUsize::new(out));
        let known = Arc::clone(&out);
        let answer = Feed::by(move |request: &Request| {
            let after: usize = request.header("last-event-id").map_or(0, |id| id.parse().unwrap());
            let events = (after + 1..=known.load(SeqCst)).map(|n| format!("id: {n}\ndata: {}\n\n", data(n)));
            Feed::stream().text(&events.collect::<String>())
        });
        Scene::over([answer], out).await
    }

    async fn over(script: impl Into<Vec<Feed>>, out: Arc<AtomicUsize>) -> Scene {
        Scene { dir: tempfile::tempdir().unwrap(), server: Server::start(script).await, out }
    }

    fn release(&self, out: usize) {
        self.out.store(out, SeqCst);
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_string()
    }

    fn table(&self, name: &str) -> String {
        format!(
            "CREATE TABLE {name} (k TEXT, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '0 seconds') WITH (connector = 'sse', \
             endpoint = '{}', \"json.timestamp_format\" = 'unix_millis', idle_timeout = 'off', reconnect_delay = '5ms', reconnect_max_delay = '20ms');\n",
            self.server.url()
        )
    }

    /// Starts a script over the table `feed` with a state, a checkpoint ten times a second, and `more`.
    fn run(&self, views: &str, more: &[&str]) -> Process {
        let (script, args) = self.args(views, more);
        std::fs::write(self.path("script.sql"), script).unwrap();
        Process::start(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn args(&self, views: &str, more: &[&str]) -> (String, Vec<String>) {
        let args = [&self.path("script.sql"), "--state", &self.path("state"), "--checkpoint-interval", "100ms"];
        (self.table("feed") + views, args.iter().chain(more).map(|arg| arg.to_string()).collect())
    }

    /// The same to its end.
    async fn run_through(&self, views: &str, more: &[&str]) -> (i32, String, String) {
        let (script, args) = self.args(views, more);
        std::fs::write(self.path("script.sql"), script).unwrap();
        let args: Vec<&str> = std::iter::once("run").chain(args.iter().map(String::as_str)).collect();
        run(&args).await
    }

    /// The file of a name, once it has so many lines.
    async fn file(&self, name: &str, lines: usize) -> String {
        self.await_file(name, |text| text.matches('\n').count() >= lines).await
    }

    async fn await_file(&self, name: &str, is_right: impl Fn(&str) -> bool) -> String {
        let path = self.path(name);
        let look = async {
            loop {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                if is_right(&text) {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        let text = timeout(HUNG, look).await;
        text.unwrap_or_else(|_| panic!("not right: {:?}", std::fs::read_to_string(&path)))
    }

    /// Waits until a checkpoint is there that was begun after this call.
    async fn checkpoint(&self) {
        let newest = || checkpoints(&self.dir.path().join("state")).pop();
        let number = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
        let before = newest().map_or(0, number);
        let look = async {
            while newest().map_or(0, number) < before + 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(HUNG, look).await.expect("checkpoints are taken");
    }
}

/// The files of checkpoints, oldest first.
fn checkpoints(state: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(state.join("checkpoints")) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "ckpt")).collect();
    paths.sort_unstable();
    paths
}

/// The rows of `raw` for these events.
fn raw(events: std::ops::RangeInclusive<usize>) -> Vec<String> {
    events.map(|n| json!({"_view": "raw", "k": key(n), "v": n}).to_string()).collect()
}

/// The count and the sum of `sums` for the windows that these events close.
fn sums(events: usize) -> Vec<(String, u64, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    for n in (1..=events).filter(|n| n / 10 < events / 10) {
        let sum = sums.entry((n / 10, key(n))).or_insert((0, 0));
        *sum = (sum.0 + 1, sum.1 + n as u64);
    }
    let mut sums: Vec<_> = sums.into_iter().map(|((_, k), (count, sum))| (k.to_string(), count, sum)).collect();
    sums.sort_unstable();
    sums
}

/// The same from what was printed, and the lines of `raw`.
fn printed(text: &str) -> (Vec<String>, Vec<(String, u64, u64)>) {
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text}");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let of = |view: &'static str| rows.iter().filter(move |row| row["_view"] == view);
    let raw = of("raw").map(Value::to_string).collect();
    let number = |value: &Value| value.as_u64().unwrap();
    let mut sums: Vec<_> =
        of("sums").map(|row| (row["k"].as_str().unwrap().to_string(), number(&row["c"]), number(&row["s"]))).collect();
    sums.sort_unstable();
    (raw, sums)
}

#[tokio::test]
async fn what_is_killed_goes_on_and_has_each_row_once_in_its_file() {
    let scene = Scene::start(24).await;
    let output = scene.path("rows");
    let views = [RAW, SUMS].concat();
    let lines = |events| events + sums(events).len();
    let process = scene.run(&views, &["-o", &output]);
    scene.file("rows", lines(24)).await;
    scene.checkpoint().await;
    scene.release(33);
    scene.file("rows", lines(33)).await;
    drop(process);
    scene.release(47);

    let mut process = scene.run(&views, &["-o", &output]);
    let wanted = (raw(1..=47), sums(47));
    scene.await_file("rows", |text| text.ends_with('\n') && printed(text) == wanted).await;
    process.until("note: going on from the checkpoint of 2").await;
    let (code, out, said) = process.stop().await;
    assert_eq!((code, out.as_str()), (130, ""), "{said}");
    assert!(scene.server.requests().iter().filter(|request| request.header("last-event-id").is_none()).count() == 1);

    // A clean stop has a checkpoint of its own: the file stays as it is.
    let before = std::fs::read_to_string(&output).unwrap();
    scene.release(50);
    let process = scene.run(&views, &["-o", &output]);
    let after = scene.file("rows", lines(50)).await;
    assert!(after.starts_with(&before));
    assert_eq!(printed(&after), (raw(1..=50), sums(50)));
    assert_eq!(process.stop().await.0, 130);
}

#[tokio::test]
async fn standard_output_has_each_row_and_after_a_crash_some_again() {
    let scene = Scene::start(24).await;
    let mut process = scene.run(SUMS, &[]);
    let count = sums(24).len();
    assert_eq!(process.lines(count).await.len(), count);
    scene.checkpoint().await;
    let (code, _, said) = process.stop().await;
    assert_eq!(code, 130, "{said}");
    assert_eq!(said.matches("going on").count(), 0, "{said}");

    scene.release(36);
    let mut process = scene.run(SUMS, &[]);
    let new = sums(36).len() - count;
    assert_eq!(process.lines(new).await.len(), new);
    process.until("rows that were printed after it are printed again").await;
    // Whatever comes after the last checkpoint comes again; without --output nobody could take it back.
    drop(process);
    let (code, out, said) = scene.run_through(SUMS, &["--timeout", "2s"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(out.lines().count() <= new, "{out}");
    let (code, out, said) = scene.run_through(SUMS, &["--timeout", "1s"]).await;
    assert_eq!((code, out.as_str()), (0, ""), "{said}");
}

#[tokio::test]
async fn a_header_stands_once_and_other_columns_are_refused() {
    let scene = Scene::start(3).await;
    let args = &["-o", &scene.path("rows"), "--format", "csv"];
    let view = "CREATE VIEW raw AS SELECT v, k FROM feed;";
    let process = scene.run(view, args);
    scene.file("rows", 4).await;
    assert_eq!(process.stop().await.0, 130);
    scene.release(5);
    let process = scene.run(view, args);
    assert_eq!(scene.file("rows", 6).await, "v,k\n1,b\n2,c\n3,a\n4,b\n5,c\n");
    assert_eq!(process.stop().await.0, 130);
    let (code, _, said) = scene.run_through("CREATE VIEW raw AS SELECT v FROM feed;", args).await;
    assert!(code == 1 && said.contains("has other columns than the view has now"), "{code}: {said}");
    let (code, _, said) = scene.run_through(view, &["-o", &scene.path("rows")]).await;
    assert!(code == 1 && said.contains("goes on with a file of the format csv"), "{code}: {said}");
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_with_a_way_out() {
    let scene = Scene::start(3).await;
    let other = scene.path("other");
    std::fs::write(&other, "something\n").unwrap();
    let united = "CREATE TABLE file (k TEXT) WITH (connector = 'file', path = 'fixtures/news.ndjson'); \
                  CREATE VIEW both AS SELECT k FROM file UNION ALL SELECT k FROM feed;";
    for (views, more, expect) in [
        ("SELECT k FROM feed;", &[][..], (2, "make it a view: CREATE VIEW name AS SELECT …")),
        ("SHOW TABLES;", &[], (2, "with --state only views are printed")),
        (RAW, &["--format", "table"], (2, "give --format ndjson or csv")),
        (RAW, &["--format", "json"], (2, "give --format ndjson or csv")),
        (RAW, &["--output", &other], (1, "has something in it that the state knows nothing of")),
        (RAW, &["--output", "/dev/null"], (2, "is no plain file")),
        (united, &[], (2, "view 'both' reads 'file', which ends, and 'feed', which does not")),
    ] {
        let (code, out, said) = scene.run_through(views, more).await;
        assert_eq!((code, out.as_str()), (expect.0, ""), "{views} {more:?}: {said}");
        assert!(said.contains(expect.1), "{views} {more:?}: {said}");
    }
    let (code, _, said) = run(&["run", "-c", "SELECT 1", "--checkpoint-interval", "1s"]).await;
    assert!(code == 2 && said.contains("--state <DIR>"), "{said}");
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "something\n");
}

#[tokio::test]
async fn a_file_that_is_not_the_one_is_refused_and_so_is_a_second_process() {
    let scene = Scene::start(9).await;
    let output = scene.path("rows");
    let process = scene.run(RAW, &["-o", &output]);
    let rows = scene.file("rows", 9).await;
    let (code, _, said) = scene.run_through(RAW, &["-o", &scene.path("other")]).await;
    assert!(code == 1 && said.contains("in use by another process"), "{code}: {said}");
    assert_eq!(process.stop().await.0, 130);

    let refused = async |output: &[&str], expect: &str| {
        let (code, _, said) = scene.run_through(RAW, output).await;
        assert!(code == 1 && said.contains(expect), "{code}: {said}");
    };
    refused(&[], &format!("goes on with the file '{output}': give it as --output")).await;
    std::fs::write(&output, &rows[..rows.len() - 1]).unwrap();
    refused(&["-o", &output], &format!("it has {} bytes, and {} were written", rows.len() - 1, rows.len())).await;
    std::fs::write(&output, rows.replace('9', "8")).unwrap();
    refused(&["-o", &output], &format!("other bytes stand before byte {}", rows.len())).await;
    std::fs::remove_file(&output).unwrap();
    refused(&["-o", &output], "which the state goes on with, is not there").await;
    assert!(!Path::new(&output).exists());
    // It is back, at another place.
    let moved = scene.path("moved");
    std::fs::write(&moved, rows.clone() + "what was written after the last checkpoint").unwrap();
    scene.release(12);
    let process = scene.run(RAW, &["-o", &moved]);
    let all = scene.await_file("moved", |text| text.matches('\n').count() == 12).await;
    assert!(all.starts_with(&rows) && all.lines().count() == 12, "{all}");
    assert_eq!(process.stop().await.0, 130);
}

#[tokio::test]
async fn what_is_defined_anew_begins_anew_with_a_notice_and_the_rest_goes_on() {
    let scene = Scene::start(24).await;
    let output = scene.path("rows");
    let third = "CREATE VIEW third AS SELECT v FROM feed WHERE v % 3 = 0;";
    let process = scene.run(&[RAW, SUMS, third].concat(), &["-o", &output]);
    scene.file("rows", 24 + sums(24).len() + 8).await;
    assert_eq!(process.stop().await.0, 130);
    scene.release(36);
    let plus = RAW.replace("v FROM", "v + 100 AS v FROM");
    let late = "CREATE VIEW late AS SELECT v FROM feed;";
    let process = scene.run(&[&plus, SUMS, late].concat(), &["-o", &output]);
    let text = scene.file("rows", 24 + sums(36).len() + 8 + 12 + 12).await;
    let (found, sum) = printed(&text);
    assert_eq!(sum, sums(36));
    assert_eq!(found[..24], raw(1..=24));
    assert_eq!(found[24..].len(), 12);
    assert!(found[24].contains("\"v\":125"), "{}", found[24]);
    let (code, _, said) = process.stop().await;
    assert_eq!(code, 130);
    for note in [
        "note: view raw begins anew: it has been defined anew",
        "note: view late has no state in the checkpoint: it begins anew",
        "note: view third is not printed any more: its state is let go",
    ] {
        assert!(said.contains(note), "{said}");
    }
    assert!(!said.contains("view sums"), "{said}");
}

#[tokio::test]
async fn feeds_that_have_ended_are_not_read_again() {
    let scene = Scene::start(0).await;
    let output = scene.path("rows");
    let events: String = (1..=24).map(|n| data(n) + "\n").collect();
    std::fs::write(scene.path("events.ndjson"), events).unwrap();
    let table = format!(
        "CREATE TABLE told (k TEXT, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '0 seconds') \
         WITH (connector = 'file', path = '{}', \"json.timestamp_format\" = 'unix_millis');\n",
        scene.path("events.ndjson")
    );
    let views = [&table, &RAW.replace("feed", "told"), &SUMS.replace("feed", "told")].map(String::as_str).concat();
    // What is broken off before the end begins anew, and what it has written is taken back.
    let (code, _, said) = scene.run_through(&views, &["-o", &output, "--limit", "5"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("note: view raw reads a feed that ends"), "{said}");
    assert_eq!(std::fs::read_to_string(&output).unwrap().lines().count(), 5);
    let (code, _, said) = scene.run_through(&views, &["-o", &output]).await;
    assert_eq!(code, 0, "{said}");
    let text = std::fs::read_to_string(&output).unwrap();
    let all = sums(30).len();
    assert_eq!((printed(&text).0, printed(&text).1.len()), (raw(1..=24), all));
    let (code, _, said) = scene.run_through(&views, &["-o", &output]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("note: all feeds had ended: there is nothing more to print"), "{said}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), text);
    // Beside a feed that goes on.
    let views = views + "CREATE VIEW more AS SELECT v FROM feed;";
    scene.release(7);
    let process = scene.run(&views, &["-o", &output]);
    let more = scene.file("rows", text.lines().count() + 7).await;
    assert!(more.starts_with(&text));
    assert_eq!(process.stop().await.0, 130);
    scene.release(8);
    let process = scene.run(&views, &["-o", &output]);
    assert_eq!(scene.file("rows", text.lines().count() + 8).await, more + "{\"_view\":\"more\",\"v\":8}\n");
    assert_eq!(process.stop().await.0, 130);
    // An other question to a feed that ends.
    let views = views.replace("SELECT k, v FROM told", "SELECT v FROM told WHERE v > 20");
    let process = scene.run(&views, &["-o", &output]);
    scene.file("rows", text.lines().count() + 8 + 4).await;
    let (_, _, said) = process.stop().await;
    assert!(said.contains("note: view raw begins anew: it has been defined anew"), "{said}");
}

#[tokio::test]
async fn a_feed_that_fails_ends_the_run_and_the_next_goes_on_from_the_last_checkpoint() {
    let text =
        |events: std::ops::RangeInclusive<usize>| events.map(|n| format!("id: {n}\ndata: {}\n\n", data(n))).collect::<String>();
    let go = Arc::new(tokio::sync::Notify::new());
    let script = [
        Feed::stream().text(&text(1..=24)).wait(&go),
        Feed::status(404),
        Feed::by(move |request| {
            let after: usize = request.header("last-event-id").unwrap().parse().unwrap();
            Feed::stream().text(&text(after + 1..=36)).stall()
        }),
    ];
    let scene = Scene::over(script, Arc::default()).await;
    let (output, views) = (scene.path("rows"), [RAW, SUMS].concat());
    let mut process = scene.run(&views, &["-o", &output]);
    scene.file("rows", 24 + sums(24).len()).await;
    scene.checkpoint().await;
    go.notify_one();
    let mut child = process.child.take().unwrap();
    let status = timeout(HUNG, tokio::task::spawn_blocking(move || child.wait().unwrap())).await.expect("it ends").unwrap();
    while process.err.changed().await.is_ok() {}
    assert_eq!(status.code(), Some(1), "{}", process.said());
    assert!(process.said().contains("404"), "{}", process.said());
    let process = scene.run(&views, &["-o", &output]);
    let text = scene.file("rows", 36 + sums(36).len()).await;
    assert_eq!(printed(&text), (raw(1..=36), sums(36)));
    drop(process);
}

#[tokio::test]
async fn of_damaged_checkpoints_the_one_before_is_used() {
    let scene = Scene::start(24).await;
    let (output, views) = (scene.path("rows"), [RAW, SUMS].concat());
    let process = scene.run(&views, &["-o", &output]);
    scene.file("rows", 24 + sums(24).len()).await;
    scene.checkpoint().await;
    scene.release(36);
    scene.file("rows", 36 + sums(36).len()).await;
    assert_eq!(process.stop().await.0, 130);
    let newest = checkpoints(&scene.dir.path().join("state")).pop().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    scene.release(47);
    let process = scene.run(&views, &["-o", &output]);
    let wanted = (raw(1..=47), sums(47));
    scene.await_file("rows", |text| text.ends_with('\n') && printed(text) == wanted).await;
    let (_, _, said) = process.stop().await;
    assert!(said.contains("note: the checkpoint '") && said.contains("cannot be used: it is cut off"), "{said}");
}

#[tokio::test]
async fn a_view_that_is_joined_with_a_file_goes_on_with_its_windows() {
    let scene = Scene::start(24).await;
    std::fs::write(scene.path("names.ndjson"), "{\"k\":\"a\",\"name\":\"A\"}\n{\"k\":\"b\",\"name\":\"B\"}\n").unwrap();
    let views = format!(
        "CREATE TABLE names (k TEXT, name TEXT) WITH (connector = 'file', path = '{}'); \
         CREATE VIEW sums AS SELECT name AS k, count(*) AS c, sum(v) AS s, TUMBLE(INTERVAL '10 seconds') AS window \
         FROM feed JOIN names ON feed.k = names.k GROUP BY name, window; {RAW}",
        scene.path("names.ndjson")
    );
    let output = scene.path("rows");
    let wanted = |events| {
        let known = sums(events).into_iter().filter(|(k, ..)| k != "c");
        known.map(|(k, count, sum)| (k.to_uppercase(), count, sum)).collect::<Vec<_>>()
    };
    let process = scene.run(&views, &["-o", &output]);
    scene.file("rows", 24 + wanted(24).len()).await;
    let (code, _, said) = process.stop().await;
    assert_eq!(code, 130, "{said}");
    scene.release(36);
    let process = scene.run(&views, &["-o", &output]);
    let text = scene.file("rows", 36 + wanted(36).len()).await;
    assert_eq!(printed(&text), (raw(1..=36), wanted(36)));
    let (_, _, said) = process.stop().await;
    assert!(!said.contains("anew"), "{said}");
}

#[tokio::test]
async fn what_a_feed_gave_that_has_ended_beside_another_is_not_printed_again() {
    let scene = Scene::start(3).await;
    let short = Server::start([Feed::by(|request| match request.header("last-event-id") {
        None => Feed::stream().text(&(101..=105).map(|n| format!("id: {n}\ndata: {}\n\n", data(n))).collect::<String>()),
        Some(_) => Feed::status(204),
    })])
    .await;
    let views = scene.table("short").replace(&scene.server.url(), &short.url())
        + "CREATE VIEW both AS SELECT v FROM feed UNION ALL SELECT v FROM short;";
    let output = scene.path("rows");
    let process = scene.run(&views, &["-o", &output]);
    scene.file("rows", 8).await;
    short.request(1).await;
    scene.checkpoint().await;
    assert_eq!(process.stop().await.0, 130);
    scene.release(5);
    let process = scene.run(&views, &["-o", &output]);
    let text = scene.await_file("rows", |text| text.contains("{\"v\":5}\n")).await;
    let (_, _, said) = process.stop().await;
    assert!(!said.contains("anew"), "{said}");
    assert_eq!((text.lines().count(), std::fs::read_to_string(&output).unwrap()), (10, text));
}

#[tokio::test]
async fn without_a_state_a_file_is_written_from_its_beginning() {
    let scene = Scene::start(0).await;
    let output = scene.path("rows");
    std::fs::write(&output, "something that was there").unwrap();
    let (code, _, said) = run(&["run", "-c", "SELECT 1 AS one", "--output", &output]).await;
    assert!(code == 2 && said.contains("is there already, and has something in it"), "{said}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "something that was there");
    let (code, out, said) = run(&["run", "-c", "SELECT 1 AS one", "--output", &output, "--force"]).await;
    assert_eq!((code, out.as_str()), (0, ""), "{said}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "{\"one\":1}\n");
    let (code, _, _) = run(&["run", "-c", "SELECT 1 AS one; SHOW TABLES", "-o", &output, "--force", "--format", "csv"]).await;
    assert_eq!(code, 0);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "table\none\n1\n");
    let (code, _, said) = run(&["run", "-c", "SELECT 1", "-o", &scene.path("no/such/directory")]).await;
    assert!(code == 1 && said.contains("cannot be written"), "{said}");
}
