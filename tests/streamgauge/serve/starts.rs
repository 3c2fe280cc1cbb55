//! Starts after ends of all kinds: killed at any moment, by a view that takes too much, stopped after a change, in a directory of another verb.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::checkpoints::{Numbered, ON_DEMAND, SCHEMA, SUMS};
use super::program::Process;
use super::restart::kept_in;
use super::{HUNG, Service, json as with_json, send};
use crate::cli::program::{program, run};
use crate::support::server::{Answer as Feed, Server};

/// First starts that are killed, several times each before one is left in peace.
const ROUNDS: u64 = 6;

fn script(dir: &Path, text: &str) -> String {
    let path = dir.join("init.sql");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

/// A directory that a killed process leaves is taken by the next, and no view is blamed for what came from outside.
#[tokio::test]
async fn starts_that_are_killed_at_any_moment_leave_a_directory_that_the_next_takes_and_healthy_views() {
    let mut rng = fastrand::Rng::with_seed(71);
    let events: String =
        (1..=2_000).map(|n| format!("id: {n}\ndata: {{\"k\":\"a\",\"v\":{n},\"ts\":{}}}\n\n", 1_000 * n)).collect();
    let feed = Server::start(vec![Feed::by(move |_| Feed::stream().text(&events).stall())]).await;
    let table = format!(
        "CREATE TABLE feed ({SCHEMA}) WITH (connector = 'sse', endpoint = '{}', \"json.timestamp_format\" = 'unix_millis');",
        feed.url()
    );
    for round in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let (data, init) =
            (dir.path().join("data"), script(dir.path(), &format!("{table}{SUMS};CREATE VIEW raw AS SELECT k, v FROM feed;")));
        let args = ["--data", data.to_str().unwrap(), "--init", &init];
        for _ in 0..4 {
            let mut command = program();
            command.args(["serve", "--bind", "127.0.0.1:0"]).args(args).envs([ON_DEMAND]).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            // Not to wait for something: the moment is what is tried.
            sleep(Duration::from_millis(rng.u64(0..700))).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let process = Process::start(&args, &[ON_DEMAND]).await;
        for view in ["sums", "raw"] {
            assert_eq!(process.get(&format!("/v1/views/{view}")).await["state"], "running", "round {round}: {}", process.said());
        }
        process.stop().await;
    }
}

/// Under a limit of memory in which the view `bad` has no room.
fn within_memory(args: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -S -v 1500000; exec \"$0\" serve --bind 127.0.0.1:0 \"$@\""]).arg(program().get_program());
    command.args(args).envs([ON_DEMAND, ("MALLOC_ARENA_MAX", "2")]).stdin(Stdio::null());
    command
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_view_that_kills_the_process_at_each_start_is_left_out_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let event = format!("id: 1\ndata: {{\"k\":\"a\",\"d\":\"{}\"}}\n\n", "x".repeat(8 << 20));
    let feed = Server::start(vec![Feed::by(move |_| Feed::stream().text(&event).stall())]).await;
    let copies: Vec<String> = (0..250).map(|n| format!("d || '{n}' AS c{n}")).collect();
    let init = script(
        dir.path(),
        &format!(
            "CREATE TABLE feed (k TEXT, d TEXT) WITH (connector = 'sse', endpoint = '{}');
             CREATE VIEW good AS SELECT k FROM feed;
             CREATE VIEW bad AS SELECT {} FROM feed;",
            feed.url(),
            copies.join(", ")
        ),
    );
    let data = dir.path().join("data");
    let args = ["--data", data.to_str().unwrap(), "--init", &init];
    for death in 1..=3 {
        let mut child = within_memory(&args).stderr(Stdio::null()).spawn().unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
        let status = timeout(HUNG, ended).await.unwrap_or_else(|_| panic!("it lives, death {death}")).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "death {death}: {status:?}");
    }
    let mut process = Process::launch(within_memory(&args)).await;
    process.until("died 3 times in a row while this view computed").await;
    assert_eq!(process.rows("good", 1).await.len(), 1);
    let bad = async |process: &Process| {
        let bad = process.get("/v1/views/bad").await;
        (bad["state"].as_str().unwrap().to_string(), bad["reason"].as_str().unwrap_or_default().to_string())
    };
    let (state, reason) = bad(&process).await;
    assert!(state == "failed" && reason.contains("it is left out") && reason.contains("make it anew"), "{state}: {reason}");
    process.stop().await;
    // It stays so until it is made anew.
    let process = Process::launch(within_memory(&args)).await;
    assert_eq!(bad(&process).await, (state, reason));
    let put = process.client.put(format!("{}/v1/views/bad", process.url));
    let put = with_json(put, &json!({"query": "SELECT k FROM feed"})).send().await.unwrap();
    assert_eq!(put.status(), 200);
    process.stop().await;
    let process = Process::launch(within_memory(&args)).await;
    assert_eq!(bad(&process).await.0, "running");
    process.stop().await;
}

#[tokio::test]
async fn what_a_patch_leaves_running_goes_on_after_a_restart() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let service = Service::start_with(kept_in(dir.path())).await;
    service.define(&feed, &[SUMS, "CREATE VIEW raw AS SELECT k, v FROM feed"], 45).await;
    let before = (service.rows("raw", 45).await, service.rows("sums", 12).await);
    let path = "/v1/connection_tables/feed";
    let patch =
        async |service: &Service, body: Value| send(with_json(service.request(Method::PATCH, path), &body)).await.with(200);
    let config = json!({"headers": "A: b", "reconnect_delay": "7ms", "deduplicate": false, "max_event_bytes": "1MiB"});
    for body in [json!({"idle_timeout": "20s", "schema": {"bad_data": "drop"}}), json!({"config": config})] {
        assert_eq!(patch(&service, body).await["warnings"], json!([]));
    }
    let told = patch(&service, json!({"allowed_lateness": "5s"})).await["warnings"].to_string();
    assert!(told.contains("counts for views that are made from now on; sums, raw go on with what it was before"), "{told}");
    assert_eq!((service.rows("raw", 45).await, service.rows("sums", 12).await), before);
    service.stop().await;
    let service = Service::start_with(kept_in(dir.path())).await;
    assert_eq!((service.rows("raw", 45).await, service.rows("sums", 12).await), before);
    assert_eq!(service.get(path).await.with(200)["allowed_lateness"], "5s");
    service.release(&feed, 75);
    let raw = service.rows("raw", 75).await;
    assert_eq!(raw.len(), 75, "each event counts once");
    service.stop().await;
    let service = Service::start_with(kept_in(dir.path())).await;
    assert_eq!(service.rows("raw", 75).await, raw);
    service.sql(&SUMS.replacen("CREATE VIEW", "CREATE OR REPLACE VIEW", 1)).await;
    assert_eq!(service.get("/v1/views/sums").await.with(200)["kind"], "changelog");
}

/// A view that is made anew over one that was made after it stands behind that from then on.
#[tokio::test]
async fn definitions_come_back_in_an_order_in_which_they_can_be_made() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let service = Service::start_with(kept_in(dir.path())).await;
    service.define(&feed, &["CREATE VIEW a AS SELECT k FROM feed", "CREATE VIEW b AS SELECT k, v FROM feed"], 0).await;
    service.sql("CREATE OR REPLACE VIEW a AS SELECT v FROM b").await;
    service.release(&feed, 3);
    assert_eq!(service.rows("a", 3).await.len(), 3);
    service.stop().await;
    let service = Service::start_with(kept_in(dir.path())).await;
    assert_eq!(service.rows("a", 3).await.len(), 3);
    let names: Vec<String> = service.app.engine.views().iter().map(|view| view.name.clone()).collect();
    assert_eq!(names, ["b", "a"]);
}

/// All files below a directory, and what is in them.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.display().to_string(), std::fs::read(&path).unwrap())),
        }
    }
    found
}

#[tokio::test]
async fn the_directory_of_another_verb_is_refused_before_it_is_touched() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Numbered::start().await);
    let (state, data) = (dir.path().join("state"), dir.path().join("data"));
    let init = script(
        dir.path(),
        "CREATE TABLE news (title TEXT) WITH (connector = 'file', path = 'fixtures/news.ndjson'); CREATE VIEW titles AS SELECT title FROM news;",
    );
    let out = dir.path().join("out.ndjson");
    let printed = ["run", &init, "--state", state.to_str().unwrap(), "--output", out.to_str().unwrap()];
    let (code, _, said) = run(&printed).await;
    assert_eq!(code, 0, "{said}");
    let service = Service::start_with(kept_in(&data)).await;
    service.define(&feed, &[SUMS], 3).await;
    service.stop().await;
    let before = (contents(&state), contents(&data), std::fs::read(&out).unwrap());
    let (code, _, said) = run(&["serve", "--bind", "127.0.0.1:0", "--data", state.to_str().unwrap()]).await;
    assert!(code != 0 && said.contains("is the --state directory of a run, and no data directory"), "{code}: {said}");
    let other = dir.path().join("other.ndjson");
    let (code, _, said) = run(&["run", &init, "--state", data.to_str().unwrap(), "--output", other.to_str().unwrap()]).await;
    assert!(code != 0 && said.contains("is the data directory of a server, and no state of a run"), "{code}: {said}");
    assert_eq!((contents(&state), contents(&data), std::fs::read(&out).unwrap()), before);
    assert!(!other.exists());
}

#[cfg(unix)]
#[tokio::test]
async fn an_output_that_reaches_the_limit_of_files_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let init = script(
        dir.path(),
        "CREATE TABLE m (host TEXT, value DOUBLE) WITH (connector = 'file', path = 'fixtures/system_metrics.sse'); CREATE VIEW v AS SELECT host, value FROM m;",
    );
    let out = dir.path().join("out.ndjson");
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -S -f 1; exec \"$0\" run \"$1\" --output \"$2\""]).arg(program().get_program());
    command.args([init.as_str(), out.to_str().unwrap()]).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || { command }.output().unwrap()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("out.ndjson' cannot be written: File too large"), "{said}");
}
