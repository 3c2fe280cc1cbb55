//! The program as a process: exit codes, and where it writes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tokio::time::timeout;

use super::server::client;

/// So long a hung test lives; no test waits for it to pass.
const HUNG: Duration = Duration::from_secs(60);

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamgauge"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs the program to its end, without holding up the test's own server.
pub async fn run(args: &[&str]) -> (i32, String, String) {
    let mut command = program();
    command.args(args);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn wrong_flags_exit_with_2_and_a_missing_file_with_1() {
    for (args, code, expect) in [
        (&["replay"][..], 2, "<FILE>"),
        (&["rum"], 2, "run"),
        (&["replay", "fixtures/news.ndjson", "--port", "99999"], 2, "--port"),
        (&["replay", "fixtures/llm.sse", "--id", "id"], 2, "a recorded stream keeps its own ids and types"),
        (&["replay", "no/such/file"], 1, "error[SG-1306]: 'no/such/file' cannot be read"),
        (&["replay", "fixtures"], 1, "'fixtures' cannot be read"),
    ] {
        let (found, out, err) = run(args).await;
        assert_eq!((found, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(err.contains(expect), "{args:?}: {err}");
    }
}

#[tokio::test]
async fn replay_says_where_it_serves() {
    let mut command = program();
    command.args(["replay", "fixtures/news.ndjson", "--port", "0", "--rate", "max", "--id", "article_id", "--event", "type"]);
    let mut running = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.strip_prefix("serving ").unwrap().split(' ').next().unwrap();
    let text = client().get(url).send().await.unwrap().text().await.unwrap();
    let lines = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/news.ndjson")).unwrap();
    assert!(text.starts_with("retry: 1000\n\nevent: update\nid: a-100001\ndata: {\"type\":\"update\","));
    assert_eq!(text.matches("\ndata: ").count(), lines.lines().count());
}

/// The data of the first event that `replay` sends.
async fn first_replayed(args: &[&str]) -> serde_json::Value {
    let mut command = program();
    command.args(["replay", "--port", "0", "--rate", "max"]).args(args);
    let mut running = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(running.0.stderr.take().unwrap()).lines();
    let line = said.find_map(|line| line.unwrap().strip_prefix("serving ").map(str::to_string)).unwrap();
    let mut answer = client().get(line.split(' ').next().unwrap()).send().await.unwrap();
    let mut text = String::new();
    loop {
        let chunk = answer.chunk().await.unwrap().unwrap();
        text += &String::from_utf8_lossy(&chunk);
        if let Some((data, _)) = text.split_once("data: ").and_then(|(_, rest)| rest.split_once('\n')) {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[tokio::test]
async fn a_replay_moves_times_to_now_where_it_is_asked_to_or_starts_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.ndjson");
    std::fs::write(&path, "{\"n\":1,\"meta\":{\"ms\":1772366400000},\"ts\":\"2026-03-01T12:00:00Z\"}\n").unwrap();
    let path = path.display().to_string();
    let began = streamgauge::time::Timestamp::now();
    let began_ms = began.nanos() / 1_000_000;
    let (as_it_was, ms_as_it_was) = ("2026-03-01T12:00:00Z", 1_772_366_400_000);
    for (args, ts_moves, ms_moves) in [
        (&[path.as_str()][..], false, false),
        (&[&path, "--loop"], true, false),
        (&[&path, "--loop", "--now", ""], false, false),
        (&[&path, "--loop", "--now", "meta.ms"], false, true),
        (&[&path, "--now", "ts"], true, false),
    ] {
        let event = first_replayed(args).await;
        let (ts, ms) = (event["ts"].as_str().unwrap(), event["meta"]["ms"].as_i64().unwrap());
        assert_eq!(ts == as_it_was, !ts_moves, "{args:?}: {event}");
        assert!(ms == ms_as_it_was || (ms_moves && ms >= began_ms), "{args:?}: {event}");
        assert_eq!((&event["n"], ms == ms_as_it_was), (&1.into(), !ms_moves), "{args:?}");
    }
}

/// Takes minutes within one call, although none of its texts is long.
const ENDLESS: &str = "SELECT sum(levenshtein(repeat('a', 2000) || value, repeat('b', 2000))) AS d FROM generate_series(1, 8000)";

/// The same while it is planned, as a sum of constants.
fn endless_constant() -> String {
    let calls = (0..40).map(|n| format!("levenshtein(repeat('a{n}', 10000), repeat('b', 20000))"));
    format!("SELECT {} AS d", calls.collect::<Vec<_>>().join(" + "))
}

/// Waits until a process has used the processor for some time; it reads nothing and says nothing meanwhile.
async fn busy(child: &Child) {
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(11).unwrap().parse::<u64>().unwrap()
    };
    while used() < 300 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ctrl_c_ends_a_query_that_never_gives_way() {
    for query in [ENDLESS.to_string(), endless_constant()] {
        let mut running =
            Running(program().args(["run", "-c", &query]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        timeout(HUNG, busy(&running.0)).await.expect("it computes");
        assert!(Command::new("kill").args(["-INT", &running.0.id().to_string()]).status().unwrap().success());
        let ended =
            timeout(HUNG, tokio::task::spawn_blocking(move || running.0.wait().unwrap())).await.expect("it ends").unwrap();
        assert_eq!(ended.code(), Some(130), "{query}");
    }
}

#[tokio::test]
async fn a_timeout_ends_a_query_that_never_gives_way() {
    let (code, out, said) = timeout(HUNG, run(&["run", "--timeout", "1s", "-c", ENDLESS])).await.expect("it ends");
    assert!(out.is_empty(), "{code} {out} {said}");
}
