//! `run --state --output` is killed at random moments, and its feeds break in every way; in the end the file has the rows that an
//! undisturbed run would have written, each once.
//!
//! `CRASH_ROUNDS` and `CRASH_SEED` are those of the server's test.

use std::path::Path;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::*;
use crate::serve::crash::{Faulty, HUNG, VIEWS, difference, expected, lines, rounds};

/// Rounds where nothing else is said.
const ROUNDS: u64 = 4;

/// The rows of a view in the file, its changes applied.
fn rows(text: &str, view: &str) -> Result<Vec<Value>, String> {
    let mut rows: Vec<Value> = Vec::new();
    for line in text.lines() {
        let mut row: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        if row["_view"] != view {
            continue;
        }
        row.as_object_mut().unwrap().shift_remove("_view");
        if row.get("op").is_none() {
            rows.push(row);
            continue;
        }
        let (before, after) = (row["before"].take(), row["after"].take());
        if !before.is_null() {
            let at = rows.iter().position(|row| *row == before).ok_or_else(|| format!("no such row: {line}"))?;
            rows.swap_remove(at);
        }
        if !after.is_null() {
            rows.push(after);
        }
    }
    Ok(rows)
}

fn is_checkpoint(file: std::io::Result<std::fs::DirEntry>) -> bool {
    file.is_ok_and(|file| file.path().extension().is_some_and(|extension| extension == "ckpt"))
}

async fn round(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let Faulty { one, two, manner, servers, dir } = Faulty::start(&mut rng).await;
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (script, state, output) = (path("init.sql"), path("state"), path("rows"));
    let start = || Process::start(&[&script, "--state", &state, "--output", &output, "--checkpoint-interval", "100ms"]);
    let mut process = start();
    let (mut kills, mut stops) = (0, 0);
    // Where the machine is busy all lives may end before the first checkpoint.
    let mut has_checkpoint = false;
    for _ in 0..rng.usize(3..8) {
        // Some connections later, and then at any moment.
        let target = servers[0].requests().len() + rng.usize(..5);
        let _ = timeout(Duration::from_secs(2), servers[0].request(target)).await;
        sleep(Duration::from_millis(rng.u64(..200))).await;
        if rng.u8(..4) == 0 {
            let (code, _, said) = process.stop().await;
            assert!(code == 130 && !said.contains("too long"), "seed {seed}: {said}");
            stops += 1;
        } else {
            drop(process);
            kills += 1;
        }
        has_checkpoint = std::fs::read_dir(Path::new(&state).join("checkpoints")).is_ok_and(|mut files| files.any(is_checkpoint));
        process = start();
    }

    // It has cut its file back by then: what an earlier one wrote may have been right already.
    if has_checkpoint {
        timeout(HUNG, process.err.wait_for(|said| said.contains("going on from"))).await.expect("it begins").unwrap();
    }
    let wrong = || {
        let text = std::fs::read_to_string(Path::new(&output)).unwrap_or_default();
        VIEWS.iter().find_map(|(view, _)| {
            let (have, want) = match rows(&text, view) {
                Ok(rows) => (lines(&rows), expected(view, &one, &two)),
                Err(error) => return Some(format!("{view}: {error}")),
            };
            (have != want).then(|| format!("{view}: {}", difference(&have, &want)))
        })
    };
    let right = async {
        while wrong().is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(HUNG, right).await.is_err() {
        let reason = wrong().unwrap_or_else(|| "slow".into());
        panic!("seed {seed} ({manner:?}, {kills} kills, {stops} stops): {reason}\n{}", process.said());
    }
    let (code, out, said) = process.stop().await;
    assert_eq!((code, out.as_str()), (130, ""), "seed {seed}: {said}");
    assert!(!said.contains("anew") && !said.contains("too long"), "seed {seed}: {said}");
    if let Some(reason) = wrong() {
        panic!("seed {seed}, after the end: {reason}\n{said}");
    }
    println!("seed {seed}: {manner:?}, {kills} kills, {stops} stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_a_run_is_killed_its_file_has_each_row_once() {
    rounds(ROUNDS, round).await;
}
