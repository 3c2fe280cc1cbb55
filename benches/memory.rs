//! What wide rows take of memory: what the system gives the server, beside what the server says it holds.
//!
//! ```sh
//! cargo bench --bench memory                     # all
//! cargo bench --bench memory -- keyed append     # some
//! ```
//!
//! Each case is a server of its own, with one feed of rows with a text of 4 KB (`keyed100`: 100 KB). It fails where the memory goes
//! beyond what the case allows: histories, rows and state by their bounds, and as much again for the allocator.

mod program;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::exit;
use std::time::{Duration, Instant};

use clap::Parser;
use program::Server;

#[derive(Parser)]
struct Args {
    /// Names of cases; without any, all.
    cases: Vec<String>,
    /// What Cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Case {
    name: &'static str,
    columns: &'static str,
    /// One view, or many of `number`.
    views: usize,
    query: &'static str,
    keys: usize,
    wide: usize,
    events: usize,
    /// What may be added to the memory of the server.
    mib_max: u64,
}

const PLAIN: &str = "id BIGINT, n BIGINT, text TEXT";
const KEYED: &str = "id BIGINT PRIMARY KEY, n BIGINT, text TEXT";
const TIMED: &str = "id BIGINT, n BIGINT, text TEXT, ts TIMESTAMP, WATERMARK FOR ts AS ts";

const CASES: [Case; 6] = [
    Case {
        name: "keyed",
        columns: KEYED,
        views: 1,
        query: "SELECT id, n, text FROM feed",
        keys: 500,
        wide: 4_000,
        events: 140_000,
        mib_max: 150,
    },
    Case {
        name: "keyed100",
        columns: KEYED,
        views: 1,
        query: "SELECT id, n, text FROM feed",
        keys: 500,
        wide: 100_000,
        events: 4_000,
        mib_max: 450,
    },
    Case {
        name: "append",
        columns: PLAIN,
        views: 1,
        query: "SELECT id, n, text FROM feed",
        keys: 500,
        wide: 4_000,
        events: 140_000,
        mib_max: 200,
    },
    Case {
        name: "sparse",
        columns: PLAIN,
        views: 1,
        query: "SELECT n, text FROM feed WHERE n % 100 = 0",
        keys: 500,
        wide: 4_000,
        events: 140_000,
        mib_max: 100,
    },
    Case {
        name: "windows",
        columns: TIMED,
        views: 1,
        query: "SELECT id, max(text) AS text, count(*) AS c, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY id, window",
        keys: 500,
        wide: 4_000,
        events: 140_000,
        mib_max: 250,
    },
    Case {
        name: "many",
        columns: KEYED,
        views: 1_000,
        query: "SELECT id, n, text FROM feed WHERE id % 500 = {number} % 500",
        keys: 500,
        wide: 4_000,
        events: 70_000,
        mib_max: 1_500,
    },
];

fn main() {
    let args = Args::parse();
    let mut is_good = true;
    println!("case       events     read      memory added   held by its own account   bound");
    for case in CASES.iter().filter(|case| args.cases.is_empty() || args.cases.iter().any(|name| name == case.name)) {
        is_good &= measure(case);
    }
    if !is_good {
        eprintln!("a case has taken more memory than it may");
        exit(1);
    }
}

fn measure(case: &Case) -> bool {
    let feed = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(|_| {});
    let before = memory(&server);
    let address = feed.local_addr().unwrap();
    let with = format!("connector = 'sse', endpoint = 'http://{address}', \"json.timestamp_format\" = 'unix_millis'");
    server.sql(&format!("CREATE TABLE feed ({}) WITH ({with})", case.columns));
    for number in 0..case.views {
        server.sql(&format!("CREATE VIEW v{number} AS {}", case.query.replace("{number}", &number.to_string())));
    }
    let (keys, wide, events) = (case.keys, case.wide, case.events);
    let start = Instant::now();
    std::thread::spawn(move || send(&feed, keys, wide, events));
    while metric(&server, "streamgauge_table_rows_total{table=\"feed\"}") < events as f64 {
        std::thread::sleep(Duration::from_millis(200));
    }
    let seconds = start.elapsed().as_secs_f64();
    // Until all views have what the table has read, and what was looked at is looked at once more.
    std::thread::sleep(Duration::from_secs(2));
    let added = memory(&server).saturating_sub(before) / 1024;
    let held = metric(&server, "streamgauge_memory_held_bytes") / f64::from(1 << 20);
    println!(
        "{:<9} {events:>7} {:>8.0} MB/s {added:>10} MiB {held:>20.1} MiB {:>8} MiB",
        case.name,
        (events * wide) as f64 / 1e6 / seconds,
        case.mib_max
    );
    added <= case.mib_max
}

/// Serves the events to the first who asks, and then nothing more.
fn send(feed: &TcpListener, keys: usize, wide: usize, events: usize) {
    let (mut socket, _) = feed.accept().unwrap();
    let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let mut written = socket.write_all(head.as_bytes());
    for number in 0..events {
        let letter = (b'a' + (number % 26) as u8) as char;
        let text = letter.to_string().repeat(wide);
        let event = format!(
            "id: {number}\ndata: {{\"id\":{},\"n\":{number},\"ts\":{},\"text\":\"{text}\"}}\n\n",
            number % keys,
            number * 10
        );
        written = written.and_then(|()| socket.write_all(event.as_bytes()));
    }
    written.expect("the server reads");
    // The connection stays, silent, until the server ends.
    let _ = socket.read(&mut [0]);
}

/// A sample of the metrics; 0 where it is not there yet.
fn metric(server: &Server, name: &str) -> f64 {
    let text = server.text("GET", "/metrics", "");
    let value = text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().parse().unwrap());
    value.unwrap_or(0.0)
}

/// Memory that the server has of the system, in KiB.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
