//! The same with a feed that begins to number its events anew: all of them count, and one gap tells of it.

use super::*;

/// Events before that.
const BEFORE: usize = 300;

/// Events of the new numbering until the program has a checkpoint in it.
const FIRST: usize = 100;

/// Where the server is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Before,
    Begun,
    /// Every id that is asked for is one of the new numbering.
    After,
}

/// Goes on behind the id that it is asked for, with some of those before it; its connections break as any do.
fn renumber(events: &[Event], mut rng: fastrand::Rng) -> (Answer, Arc<Mutex<Phase>>) {
    let numbered = |events: &[Event]| (1..).zip(events).map(|(id, event)| format!("id: {id}\n{}", content(event))).collect();
    let (before, after): (Vec<String>, Vec<String>) = (numbered(&events[..BEFORE]), numbered(&events[BEFORE..]));
    let phase = Arc::new(Mutex::new(Phase::Before));
    let (shared, rng) = (Arc::clone(&phase), Mutex::new(rng.fork()));
    let answer = Answer::by(move |request| {
        let mut rng = rng.lock().unwrap();
        let asked: usize = request.header("last-event-id").map_or(0, |id| id.parse().unwrap());
        let (texts, asked) = match *shared.lock().unwrap() {
            Phase::Before => (&before[..], asked),
            Phase::Begun => (&after[..FIRST], if asked > FIRST { 0 } else { asked }),
            Phase::After => (&after[..], asked),
        };
        if rng.u8(..8) == 0 {
            return Answer::hang_up();
        }
        let from = asked.saturating_sub(rng.usize(..20));
        let to = (asked + rng.usize(1..120)).min(texts.len());
        let answer = texts[from..to].chunks(7).fold(Answer::stream(), |answer, some| answer.text(&some.concat()));
        match rng.u8(..4) {
            _ if to == texts.len() => answer.stall(),
            0 => answer.stall(),
            1 => answer.text(&texts[to][..texts[to].len() / 2]).cut(),
            2 => answer.cut(),
            _ => answer,
        }
    });
    (answer, phase)
}

/// Waits until the table has come to this id of its feed, and this may not be lost any more.
async fn reach(process: &Process, id: usize, gaps: u64) {
    let come = async {
        loop {
            let status = process.get("/v1/connection_tables/one").await["status"].clone();
            if status["last_event_id"].as_str() == Some(id.to_string().as_str()) && status["gaps_total"] == gaps {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(HUNG, come).await.is_err() {
        panic!("event {id} and {gaps} gaps do not come\n{}", process.said());
    }
    let taken = process.client.post(format!("{}/v1/checkpoints", process.url)).send().await.unwrap();
    assert!(taken.status().is_success(), "{taken:?}");
}

async fn round(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (one, two) = (events(&mut rng), events(&mut rng));
    let (feed, phase) = renumber(&one, rng.fork());
    let manner = Manner::any(&mut rng);
    let servers = [Server::start([feed]).await, Server::start([misbehave(&two, manner, rng.fork())]).await];
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &servers, "");
    let url = watch::Sender::new(String::new());
    let mut process = start(dir.path(), &url).await;
    for (next, id, gaps) in [(Phase::Begun, BEFORE, 0), (Phase::After, FIRST, 1)] {
        reach(&process, id, gaps).await;
        *phase.lock().unwrap() = next;
        for _ in 0..rng.usize(1..3) {
            let target = servers[0].requests().len() + rng.usize(..3);
            let _ = timeout(Duration::from_secs(2), servers[0].request(target)).await;
            sleep(Duration::from_millis(rng.u64(..120))).await;
            drop(process);
            process = start(dir.path(), &url).await;
        }
    }
    for (view, _) in VIEWS {
        let mut reason = String::new();
        let right = async {
            loop {
                let (have, want) = (lines(&rows(&process, view).await.0), expected(view, &one, &two));
                if have == want {
                    return;
                }
                reason = difference(&have, &want);
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(HUNG, right).await.is_err() {
            panic!("seed {seed} ({manner:?}): {view}: {reason}\n{}", process.said());
        }
    }
    let page = process.get("/v1/connection_tables/one/gaps?limit=1000").await;
    let gaps = page["data"].as_array().unwrap();
    let [gap] = &gaps[..] else { panic!("seed {seed}: {page}") };
    let told = ["last_id", "next_id", "reason"].map(|name| gap[name].as_str().unwrap());
    assert_eq!(told, [BEFORE.to_string().as_str(), "1", "renumbered"], "seed {seed}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_numbering_that_begins_anew_counts_whole() {
    rounds(ROUNDS / 2, round).await;
}
