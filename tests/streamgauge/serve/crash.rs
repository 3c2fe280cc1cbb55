//! The program is killed at random moments, and its feeds break in every way; in the end every view has the rows that an undisturbed
//! program would have, and whoever followed it has them, too.
//!
//! ```sh
//! CRASH_ROUNDS=1000 cargo test --test streamgauge crash   # so many rounds, each with a seed of its own
//! CRASH_SEED=17 cargo test --test streamgauge crash       # that round again
//! ```

mod live;
mod renumbered;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use streamgauge::time::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::program::Process;
use crate::support::server::{Answer, Server};

/// Rounds where nothing else is said.
const ROUNDS: u64 = 8;

/// Long enough for a round on a busy machine.
pub(crate) const HUNG: Duration = Duration::from_secs(90);

/// Events of each feed.
const EVENTS: usize = 1_200;

const DELAY_MS: i64 = 1_000;

#[derive(Debug, Clone)]
pub(crate) struct Event {
    n: i64,
    ms: i64,
    k: &'static str,
    v: i64,
    /// Its data is no JSON.
    is_bad: bool,
}

/// Numbered as they are sent: out of order by less than the delay. The last one closes all windows of the others.
fn events(rng: &mut fastrand::Rng) -> Vec<Event> {
    let mut ms = 1_772_323_200_000;
    let mut events: Vec<(i64, Event)> = (0..EVENTS)
        .map(|_| {
            ms += if rng.u8(..) < 4 { rng.i64(4_000..9_000) } else { rng.i64(1..120) };
            let k = ["a", "b", "c", "a longer key that is no inline string"][rng.usize(..4)];
            let event = Event { n: 0, ms, k, v: rng.i64(-50..1_000), is_bad: rng.u8(..) < 3 };
            (ms + rng.i64(0..DELAY_MS), event)
        })
        .collect();
    events.sort_by_key(|(sent, _)| *sent);
    let last = Event { n: 0, ms: ms + 3_600_000, k: "last", v: 0, is_bad: false };
    let all = events.into_iter().map(|(_, event)| event).chain([last]);
    all.enumerate().map(|(at, event)| Event { n: at as i64 + 1, ..event }).collect()
}

/// How a feed's server goes on after `Last-Event-ID`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Resume {
    Exact,
    /// With that event once more.
    Inclusive,
    /// With some of those before it, too.
    Overlapping,
}

/// What a feed's server does beside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) resume: Resume,
    /// Some events have no id of their own, and pings come between.
    is_mixed: bool,
    /// What it sends again has other contents each time.
    renders_anew: bool,
}

impl Manner {
    fn any(rng: &mut fastrand::Rng) -> Manner {
        let resume = [Resume::Exact, Resume::Inclusive, Resume::Overlapping][rng.usize(..3)];
        // Of an event without an id of its own only its content says that it comes again.
        let (is_mixed, renders_anew) = [(false, false), (true, false), (false, true)][rng.usize(..3)];
        Manner { resume, is_mixed, renders_anew }
    }
}

/// An event as it is sent.
fn sent(event: &Event) -> String {
    format!("id: {}\n{}", event.n, content(event))
}

fn content(event: &Event) -> String {
    let data = json!({"n": event.n, "k": event.k, "v": event.v, "ts": event.ms}).to_string();
    let data = if event.is_bad { &data[..data.len() / 2] } else { &data };
    format!("data: {data}\n\n")
}

/// The events of a feed as a server keeps them, and behind which of them each id is.
struct Kept {
    texts: Vec<String>,
    behind: Vec<usize>,
}

impl Kept {
    fn new(events: &[Event], manner: Manner, rng: &mut fastrand::Rng) -> Self {
        let mut behind = vec![0];
        let text = |(at, event): (usize, &Event)| {
            if manner.is_mixed && at > 0 && rng.u8(..6) == 0 {
                return content(event);
            }
            behind.push(at + 1);
            format!("id: {}\n{}", behind.len() - 1, content(event))
        };
        let texts = events.iter().enumerate().map(text).collect();
        Kept { texts, behind }
    }

    /// Some of them as they are sent now.
    fn now(&self, range: std::ops::Range<usize>, manner: Manner, rng: &mut fastrand::Rng) -> String {
        let text = |text: &String| match manner.renders_anew {
            true => text.replacen("{\"n\"", &format!("{{\"sent\":{},\"n\"", rng.u64(..)), 1),
            false => text.clone(),
        };
        self.texts[range].iter().map(text).collect()
    }
}

/// Before this one no server goes back that renders anew: of the first events nobody can tell that from a numbering that begins anew.
const EARLY: usize = 150;

/// One connection after another: refused, broken in the middle of an event, silent, or ended, until all has been sent.
fn misbehave(events: &[Event], manner: Manner, mut rng: fastrand::Rng) -> Answer {
    let kept = Kept::new(events, manner, &mut rng);
    let rng = Mutex::new(rng.fork());
    Answer::by(move |request| {
        let mut rng = rng.lock().unwrap();
        let after = kept.behind[request.header("last-event-id").map_or(0, |id| id.parse::<usize>().unwrap())];
        let back = match manner.resume {
            Resume::Inclusive if kept.texts[after.saturating_sub(1)].starts_with("id") => 1,
            Resume::Overlapping => rng.usize(..20),
            Resume::Exact | Resume::Inclusive => 0,
        };
        let is_early = manner.renders_anew && after < EARLY;
        let from = if is_early { after } else { after.saturating_sub(back) };
        match rng.u8(..16) {
            0 => return Answer::status(503).header("Retry-After", "0"),
            1 => return Answer::status(429).header("Retry-After", "0"),
            2 => return Answer::hang_up(),
            // Cut off while it sends again what was there.
            3 if from < after => {
                let text = kept.now(from..rng.usize(from..after), manner, &mut rng);
                return Answer::stream().text(&text).cut();
            }
            _ => {}
        }
        let to = (after + rng.usize(10..150)).min(kept.texts.len());
        let mut answer = Answer::stream().text(": hello\n\n");
        let mut at = from;
        while at < to {
            let next = (at + rng.usize(1..40)).min(to);
            answer = answer.text(&kept.now(at..next, manner, &mut rng));
            if manner.is_mixed && rng.bool() {
                answer = answer.text("event: ping\ndata: {}\n\n");
            }
            at = next;
        }
        match rng.u8(..8) {
            _ if to == kept.texts.len() => answer.stall(),
            0 => answer.stall(),
            1..4 => {
                let half = &kept.texts[to][..kept.texts[to].len() / 2];
                answer.text(half).cut()
            }
            4 => answer.cut(),
            _ => answer,
        }
    })
}

pub(crate) const VIEWS: [(&str, &str); 7] = [
    (
        "tumble",
        "SELECT k, count(*) AS c, sum(v) AS s, max(n) AS m, TUMBLE(INTERVAL '10 seconds') AS window FROM one GROUP BY k, window",
    ),
    (
        "hop",
        "SELECT k, count(*) AS c, sum(v) AS s, max(n) AS m, HOP(INTERVAL '5 seconds', INTERVAL '20 seconds') AS window FROM one GROUP BY k, window",
    ),
    (
        "session",
        "SELECT k, count(*) AS c, sum(v) AS s, max(n) AS m, SESSION(INTERVAL '3 seconds') AS window FROM one GROUP BY k, window",
    ),
    (
        "early",
        "SELECT k, count(*) AS c, sum(v) AS s, max(n) AS m, TUMBLE(INTERVAL '10 seconds') AS window FROM one GROUP BY k, window",
    ),
    (
        "united",
        "SELECT k, count(*) AS c, sum(v) AS s, max(n) AS m, TUMBLE(INTERVAL '10 seconds') AS window \
         FROM (SELECT k, n, v, ts FROM one UNION ALL SELECT k, n, v, ts FROM two) GROUP BY k, window",
    ),
    ("lagged", "SELECT n, k, n - LAG(n) OVER (PARTITION BY k ORDER BY ts) AS d FROM one"),
    ("plain", "SELECT n, k, v FROM two WHERE v % 3 = 0"),
];

/// Those that somebody follows.
const FOLLOWED: [&str; 4] = ["tumble", "early", "united", "plain"];

/// The rows of a view as sorted lines; of windows those that the last event has closed.
pub(crate) fn expected(view: &str, one: &[Event], two: &[Event]) -> Vec<String> {
    let good = |events: &[Event]| events.iter().filter(|event| !event.is_bad).cloned().collect::<Vec<_>>();
    let (one, two) = (good(one), good(two));
    let mut groups: BTreeMap<(String, i64, i64), (i64, i64, i64)> = BTreeMap::new();
    let mut add = |event: &Event, start: i64, end: i64| {
        let group = groups.entry((event.k.to_string(), start, end)).or_insert((0, 0, i64::MIN));
        *group = (group.0 + 1, group.1 + event.v, group.2.max(event.n));
    };
    let mut lines = Vec::new();
    match view {
        "tumble" | "early" => {
            one.iter().for_each(|event| add(event, event.ms / 10_000 * 10_000, event.ms / 10_000 * 10_000 + 10_000))
        }
        "united" => {
            one.iter().chain(&two).for_each(|event| add(event, event.ms / 10_000 * 10_000, event.ms / 10_000 * 10_000 + 10_000));
        }
        "hop" => one.iter().for_each(|event| {
            let last = event.ms / 5_000 * 5_000;
            (0..4).for_each(|back| add(event, last - back * 5_000, last - back * 5_000 + 20_000));
        }),
        "session" => by_key(&one).values().for_each(|events| {
            let mut from = 0;
            for to in 1..=events.len() {
                if to == events.len() || events[to].ms - events[to - 1].ms >= 3_000 {
                    events[from..to].iter().for_each(|event| add(event, events[from].ms, events[to - 1].ms + 3_000));
                    from = to;
                }
            }
        }),
        "lagged" => by_key(&one).values().for_each(|events| {
            for (at, event) in events.iter().enumerate().filter(|(_, event)| event.k != "last") {
                let d = at.checked_sub(1).map(|before| event.n - events[before].n);
                lines.push(json!({"n": event.n, "k": event.k, "d": d}).to_string());
            }
        }),
        "plain" => {
            let kept = two.iter().filter(|event| event.v % 3 == 0);
            lines.extend(kept.map(|event| json!({"n": event.n, "k": event.k, "v": event.v}).to_string()));
        }
        _ => unreachable!(),
    }
    let time = |ms: i64| Timestamp(ms * 1_000_000).to_string();
    let closed = groups.into_iter().filter(|((k, ..), _)| k != "last");
    lines.extend(closed.map(|((k, start, end), (c, s, m))| {
        json!({"k": k, "c": c, "s": s, "m": m, "window": {"start": time(start), "end": time(end)}}).to_string()
    }));
    lines.sort_unstable();
    lines
}

/// In order of event time.
fn by_key(events: &[Event]) -> BTreeMap<&str, Vec<&Event>> {
    let mut keys: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        keys.entry(event.k).or_default().push(event);
    }
    keys.values_mut().for_each(|events| events.sort_by_key(|event| event.ms));
    keys
}

/// Rows as sorted lines; without those of the windows that the last event is in, as they depend on when one looks.
pub(crate) fn lines(rows: &[Value]) -> Vec<String> {
    let known = rows.iter().filter(|row| row["k"] != "last" || row.get("window").is_none());
    let mut lines: Vec<String> = known.map(Value::to_string).collect();
    lines.sort_unstable();
    lines
}

/// A client of a view's stream that comes back after every break, and applies what it is sent.
#[derive(Debug, Default)]
struct Follower {
    rows: Vec<Value>,
    last_id: String,
    /// The number of the last change it has.
    seq: u64,
    resets: usize,
    in_snapshot: bool,
}

impl Follower {
    fn take(&mut self, block: &str) {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let Some(data) = field("data") else { return };
        let data: Value = serde_json::from_str(data).unwrap();
        let id = field("id").unwrap_or_default();
        let number = || id.split_once('-').unwrap().1.parse::<u64>().unwrap();
        match field("event").unwrap_or("message") {
            "reset" => {
                self.rows.clear();
                self.resets += 1;
                self.in_snapshot = true;
            }
            "snapshot_end" => {
                self.seq = number();
                self.in_snapshot = false;
            }
            "message" => {
                if !self.in_snapshot {
                    assert_eq!(number(), self.seq + 1, "a change is missing or comes twice: {block}");
                    self.seq += 1;
                }
                let gone = |rows: &mut Vec<Value>| {
                    let at = rows.iter().position(|row| *row == data["before"]).unwrap_or_else(|| panic!("no such row: {block}"));
                    rows.swap_remove(at);
                };
                match data["op"].as_str().unwrap() {
                    "added" => self.rows.push(data["after"].clone()),
                    "deleted" => gone(&mut self.rows),
                    _ => {
                        gone(&mut self.rows);
                        self.rows.push(data["after"].clone());
                    }
                }
            }
            _ => {}
        }
        if !id.is_empty() {
            self.last_id = id.into();
        }
    }
}

/// Follows a view at the address that is in `url` until the task is dropped.
fn follow(view: &str, url: watch::Receiver<String>) -> (Arc<Mutex<Follower>>, JoinHandle<()>) {
    let follower = Arc::new(Mutex::new(Follower { in_snapshot: true, ..Follower::default() }));
    let (shared, view) = (Arc::clone(&follower), view.to_string());
    let client = crate::cli::server::client();
    let task = tokio::spawn(async move {
        loop {
            let address = format!("{}/v1/views/{view}/stream", *url.borrow());
            let last_id = shared.lock().unwrap().last_id.clone();
            if last_id.is_empty() {
                *shared.lock().unwrap() = Follower { in_snapshot: true, ..Follower::default() };
            }
            let mut text = String::new();
            if let Ok(mut response) = client.get(address).header("last-event-id", last_id).send().await
                && response.status().is_success()
            {
                while let Ok(Some(chunk)) = response.chunk().await {
                    text += std::str::from_utf8(&chunk).unwrap();
                    while let Some((block, rest)) = text.split_once("\n\n") {
                        shared.lock().unwrap().take(block);
                        text = rest.to_string();
                    }
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    (follower, task)
}

/// Writes the script and the settings that the program starts with; `options` are those of its tables.
fn write(dir: &Path, servers: &[Server], options: &str) {
    let mut script = String::new();
    for (name, server) in ["one", "two"].iter().zip(servers) {
        script += &format!(
            "CREATE TABLE {name} (n BIGINT, k TEXT, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '{DELAY_MS} milliseconds') \
             WITH (connector = 'sse', endpoint = '{}', \"json.timestamp_format\" = 'unix_millis', idle_timeout = 'off', events = 'message', \
             reconnect_delay = '5ms', reconnect_max_delay = '20ms', read_timeout = '400ms'{options});\n",
            server.url()
        );
    }
    for (name, query) in VIEWS {
        let emit = if name == "early" { " WITH (emit = 'changes', emit_interval = '1s')" } else { "" };
        script += &format!("CREATE VIEW {name}{emit} AS {query};\n");
    }
    std::fs::write(dir.join("init.sql"), script).unwrap();
    std::fs::write(dir.join("server.toml"), "checkpoint_interval = '100ms'\n").unwrap();
}

async fn start(dir: &Path, url: &watch::Sender<String>) -> Process {
    let (config, data, init) = (dir.join("server.toml"), dir.join("data"), dir.join("init.sql"));
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let args = ["-v", "--config", &text(&config), "--data", &text(&data), "--init", &text(&init)].map(str::to_string);
    let process = Process::start(&args.each_ref().map(String::as_str), &[]).await;
    url.send_replace(process.url.clone());
    process
}

async fn rows(process: &Process, view: &str) -> (Vec<Value>, String) {
    let page = process.get(&format!("/v1/views/{view}/results?limit=10000")).await;
    (page["data"].as_array().unwrap().clone(), page["position"].as_str().unwrap().to_string())
}

/// What differs between two sorted lists, for a message.
pub(crate) fn difference(have: &[String], want: &[String]) -> String {
    let some = |from: &[String], other: &[String]| {
        let only: Vec<&String> = from.iter().filter(|line| other.binary_search(line).is_err()).take(5).collect();
        format!("{only:#?}")
    };
    format!("{} rows for {}; too many: {}; missing: {}", have.len(), want.len(), some(have, want), some(want, have))
}

/// Two feeds that misbehave, and in `dir` the script over them.
pub(crate) struct Faulty {
    pub(crate) one: Vec<Event>,
    pub(crate) two: Vec<Event>,
    pub(crate) manner: Manner,
    pub(crate) servers: [Server; 2],
    pub(crate) dir: tempfile::TempDir,
}

impl Faulty {
    pub(crate) async fn start(rng: &mut fastrand::Rng) -> Faulty {
        let (one, two) = (events(rng), events(rng));
        let manner = Manner::any(rng);
        let servers = [
            Server::start([misbehave(&one, manner, rng.fork())]).await,
            Server::start([misbehave(&two, manner, rng.fork())]).await,
        ];
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &servers, "");
        Faulty { one, two, manner, servers, dir }
    }
}

async fn round(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let Faulty { one, two, manner, servers, dir } = Faulty::start(&mut rng).await;
    let url = watch::Sender::new(String::new());
    let mut process = start(dir.path(), &url).await;
    let followers = FOLLOWED.map(|view| (view, follow(view, url.subscribe())));
    let (mut kills, mut stops) = (0, 0);
    for _ in 0..rng.usize(3..8) {
        // Some connections later, and then at any moment.
        let target = servers[0].requests().len() + rng.usize(1..5);
        let _ = timeout(Duration::from_secs(2), servers[0].request(target)).await;
        sleep(Duration::from_millis(rng.u64(..120))).await;
        if rng.u8(..4) == 0 {
            process.stop().await;
            stops += 1;
        } else {
            drop(process);
            kills += 1;
        }
        process = start(dir.path(), &url).await;
    }

    let wrong = async |view: &str| {
        let (rows, position) = rows(&process, view).await;
        let (have, want) = (lines(&rows), expected(view, &one, &two));
        if have != want {
            return Some(format!("{view}: {}", difference(&have, &want)));
        }
        let (_, (follower, task)) = followers.iter().find(|(name, _)| *name == view)?;
        assert!(!task.is_finished(), "a follower broke off");
        let follower = follower.lock().unwrap();
        let have = lines(&follower.rows);
        let is_there = follower.last_id == position || position.ends_with(&format!("-{}", follower.seq));
        (have != want || !is_there)
            .then(|| format!("{view}, as followed ({} for {position}): {}", follower.last_id, difference(&have, &want)))
    };
    for (view, _) in VIEWS {
        let right = async {
            while wrong(view).await.is_some() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(HUNG, right).await.is_err() {
            let reason = wrong(view).await.unwrap_or_else(|| "slow".into());
            panic!("seed {seed} ({manner:?}, {kills} kills, {stops} stops): {reason}\n{}", process.said());
        }
    }
    for table in ["one", "two"] {
        let status = process.get(&format!("/v1/connection_tables/{table}")).await["status"].clone();
        assert_eq!(status["gaps_total"], 0, "seed {seed} ({manner:?}): {status}");
    }
    let resets: usize = followers.iter().map(|(_, (follower, _))| follower.lock().unwrap().resets).sum();
    followers.iter().for_each(|(_, (_, task))| task.abort());
    println!("seed {seed}: {manner:?}, {kills} kills, {stops} stops, {resets} resets");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_killed_nothing_is_lost_and_nothing_doubled() {
    rounds(ROUNDS, round).await;
}

pub(crate) async fn rounds(most: u64, round: impl AsyncFn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("CRASH_SEED") {
        return round(seed).await;
    }
    let first = fastrand::u64(..1 << 32);
    for seed in first..first + number("CRASH_ROUNDS").unwrap_or(most) {
        println!("seed {seed}");
        round(seed).await;
    }
}
