//! The same with feeds that go on where they are, whatever they are asked: what nobody got lies in a recorded gap, and nothing else does.

use serde_json::Value;

use super::*;

/// Kept back until the program is no longer killed: the last event must come.
const REST: usize = 100;

/// Enough of them in a row to show that ids count events.
const FIRST: usize = 50;

/// What a server of a live feed does next.
struct Live {
    /// How many events have been sent or have passed.
    at: usize,
    /// Everything that is left is sent.
    is_ending: bool,
    rng: fastrand::Rng,
}

/// One connection after another. What happens between them passes unheard.
fn broadcast(events: &[Event], rng: fastrand::Rng) -> (Answer, Arc<Mutex<Live>>) {
    let texts: Vec<String> = events.iter().map(sent).collect();
    let live = Arc::new(Mutex::new(Live { at: 0, is_ending: false, rng }));
    let shared = Arc::clone(&live);
    let answer = Answer::by(move |_| {
        let Live { at, is_ending, rng } = &mut *shared.lock().unwrap();
        let (from, to) = match (*at, *is_ending) {
            (0, _) => (0, FIRST),
            (at, true) => (at, texts.len()),
            (at, false) => {
                match rng.u8(..16) {
                    0 => return Answer::status(503).header("Retry-After", "0"),
                    1 => return Answer::status(429).header("Retry-After", "0"),
                    2 => return Answer::hang_up(),
                    _ => {}
                }
                let end = texts.len() - REST;
                let from = (at + rng.usize(..20)).min(end);
                (from, (from + rng.usize(1..60)).min(end))
            }
        };
        *at = to;
        let answer = texts[from..to].chunks(7).fold(Answer::stream(), |answer, some| answer.text(&some.concat()));
        match rng.u8(..8) {
            _ if to == texts.len() => answer.stall(),
            0 => answer.stall(),
            1..4 => answer.text(&texts[to][..texts[to].len() / 2]).cut(),
            4 => answer.cut(),
            _ => answer,
        }
    });
    (answer, live)
}

/// The events outside of the gaps that a table tells, and how many gaps there are.
async fn outside(process: &Process, table: &str, events: &[Event]) -> (Vec<Event>, usize) {
    let page = process.get(&format!("/v1/connection_tables/{table}/gaps?limit=1000")).await;
    let gaps = page["data"].as_array().unwrap();
    assert_eq!(page["next"], gaps.len(), "all of them are kept");
    let mut missing = vec![false; events.len() + 2];
    for gap in gaps {
        let id = |name: &str| gap[name].as_str().unwrap().parse::<usize>().unwrap();
        let (last, next) = (id("last_id"), id("next_id"));
        assert_eq!(gap["missing"], Value::from(next - last - 1), "{gap}");
        let stretch = &mut missing[last + 1..next];
        assert!(!stretch.contains(&true), "an event is missing twice: {page}");
        stretch.fill(true);
    }
    (events.iter().filter(|event| !missing[event.n as usize]).cloned().collect(), gaps.len())
}

async fn round(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (one, two) = (events(&mut rng), events(&mut rng));
    let (feeds, lives): (Vec<Answer>, Vec<_>) = [&one, &two].map(|events| broadcast(events, rng.fork())).into_iter().unzip();
    let mut servers = Vec::new();
    for feed in feeds {
        servers.push(Server::start([feed]).await);
    }
    let resume = ["header", "off"][rng.usize(..2)];
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &servers, &format!(", resume = '{resume}'"));
    let url = watch::Sender::new(String::new());
    let mut process = start(dir.path(), &url).await;
    // What came before there is a checkpoint is not known to have come.
    for table in ["one", "two"] {
        while process.get(&format!("/v1/connection_tables/{table}")).await["status"]["events_total"].as_u64() < Some(FIRST as u64)
        {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let taken = process.client.post(format!("{}/v1/checkpoints", process.url)).send().await.unwrap();
    assert!(taken.status().is_success(), "{taken:?}");
    let kills = rng.usize(2..5);
    for _ in 0..kills {
        let target = servers[0].requests().len() + rng.usize(1..5);
        let _ = timeout(Duration::from_secs(2), servers[0].request(target)).await;
        sleep(Duration::from_millis(rng.u64(..120))).await;
        drop(process);
        process = start(dir.path(), &url).await;
    }
    lives.iter().for_each(|live| live.lock().unwrap().is_ending = true);

    let mut gaps = 0;
    for (view, _) in VIEWS {
        let mut reason = String::new();
        let right = async {
            loop {
                let (rows, _) = rows(&process, view).await;
                let ((one, gaps_of_one), (two, gaps_of_two)) =
                    (outside(&process, "one", &one).await, outside(&process, "two", &two).await);
                let (have, want) = (lines(&rows), expected(view, &one, &two));
                gaps = gaps_of_one + gaps_of_two;
                if have == want {
                    return;
                }
                reason = difference(&have, &want);
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(HUNG, right).await.is_err() {
            panic!("seed {seed} (resume {resume}, {kills} kills): {view}: {reason}\n{}", process.said());
        }
    }
    println!("seed {seed}: resume {resume}, {kills} kills, {gaps} gaps");
    assert!(gaps > 0, "no event has passed unheard");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_got_lies_in_a_gap() {
    rounds(ROUNDS / 2, round).await;
}
