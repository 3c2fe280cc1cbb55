//! What checkpoints cost the server at full speed, and how soon it is back after its end.
//!
//! ```sh
//! cargo bench --bench checkpoints
//! ```
//!
//! A feed sends as fast as it is read, into windows over 100,000 keys: without a data directory, with a checkpoint every ten seconds, and
//! with one a second, in turn, so that all see the same machine. Then a view holds one, 100,000 and 1,000,000 groups, the server is killed
//! behind a checkpoint, and the time counts from the start of the next one to its first answer with the rows of before.

mod program;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use program::Server;

#[derive(Parser)]
struct Args {
    /// How long each run at full speed is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    #[arg(long, value_delimiter = ',', default_value = "1,100000,1000000")]
    groups: Vec<u64>,
    /// What Cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How often a checkpoint is taken, and what that is called; `None` without a data directory.
const WAYS: [(&str, Option<&str>); 3] = [("none", None), ("every 10 s", Some("10s")), ("every 1 s", Some("1s"))];

const WINDOWS: [&str; 2] = [
    "CREATE VIEW tumble AS SELECT k, count(*) AS c, avg(v) AS a, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY k, window",
    "CREATE VIEW hop AS SELECT k, max(v) AS m, HOP(INTERVAL '5 seconds', INTERVAL '20 seconds') AS window FROM feed GROUP BY k, window",
];

/// Before a run is measured: all keys have come by then.
const WARM_UP: Duration = Duration::from_secs(2);

/// How often something is asked that nobody tells about.
const LOOK: Duration = Duration::from_millis(1);

fn main() {
    let args = Args::parse();
    speed(&args);
    restores(&args);
}

fn speed(args: &Args) {
    let feed = Feed::endless(args.keys);
    println!("checkpoints    events a second   of which each took");
    let mut rates = [const { Vec::new() }; WAYS.len()];
    for _ in 0..args.rounds {
        for ((name, interval), rates) in WAYS.iter().zip(&mut rates) {
            let dir = tempfile::tempdir().unwrap();
            let server = started(interval.map(|interval| (dir.path(), interval)));
            server.sql(&feed.table());
            WINDOWS.iter().for_each(|view| server.sql(view));
            std::thread::sleep(WARM_UP);
            let (start, before) = (Instant::now(), metric(&server, "streamgauge_table_events_total"));
            std::thread::sleep(Duration::from_secs(args.seconds));
            let rate = (metric(&server, "streamgauge_table_events_total") - before) / start.elapsed().as_secs_f64();
            println!("{name:<12} {rate:>17.0}   {}", interval.map(|_| last_checkpoint(&server)).unwrap_or_default());
            rates.push(rate);
        }
    }
    for ((name, _), rates) in WAYS.iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        let (median, whole) = (rates[rates.len() / 2], rates.iter().sum::<f64>() / rates.len() as f64);
        println!("{name:<12} median {median:.0}, mean {whole:.0} events a second");
    }
}

fn restores(args: &Args) {
    println!("\n   groups   on disk     back after");
    for groups in &args.groups {
        let (dir, feed) = (tempfile::tempdir().unwrap(), Feed::once(*groups));
        let server = started(Some((dir.path(), "1h")));
        server.sql(&feed.table());
        let sums = "SELECT k, count(*) AS c, sum(v) AS s, TUMBLE(INTERVAL '7 days') AS window FROM feed GROUP BY k, window";
        server.sql(&format!("CREATE VIEW sums WITH (emit = 'changes', retention = {groups}) AS {sums}"));
        while metric(&server, "streamgauge_view_rows") < *groups as f64 {
            std::thread::sleep(Duration::from_millis(50));
        }
        let taken = server.ask("POST", "/v1/checkpoints", "");
        assert!(taken["epoch"].is_u64(), "{taken}");
        drop(server);
        let files = std::fs::read_dir(dir.path().join("checkpoints")).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        let start = Instant::now();
        let server = started(Some((dir.path(), "1h")));
        while server.ask("GET", "/v1/views/sums/results?limit=1", "")["data"].as_array().is_none_or(Vec::is_empty) {
            std::thread::sleep(LOOK);
        }
        let back = start.elapsed();
        assert_eq!(metric(&server, "streamgauge_view_rows"), *groups as f64);
        println!("{groups:>9} {:>5.1} MiB {:>11.0} ms", bytes as f64 / (1 << 20) as f64, back.as_secs_f64() * 1e3);
    }
}

/// A feed on a port of its own, each connection in a thread that ends with it.
struct Feed {
    address: SocketAddr,
}

impl Feed {
    /// Sends events of so many keys for ever, as fast as they are read.
    fn endless(keys: u64) -> Feed {
        Feed::start(keys, usize::MAX)
    }

    /// Sends one event of each key, and then nothing.
    fn once(keys: u64) -> Feed {
        Feed::start(keys, 1)
    }

    fn start(keys: u64, times: usize) -> Feed {
        let mut text = String::new();
        for n in 1..=keys {
            write!(text, "id: {n}\ndata: {{\"k\":\"a key named {n:07}\",\"v\":{}}}\n\n", n % 997).unwrap();
        }
        let (text, listener) = (Arc::new(text), TcpListener::bind("127.0.0.1:0").unwrap());
        let feed = Feed { address: listener.local_addr().unwrap() };
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let text = Arc::clone(&text);
                std::thread::spawn(move || send(socket, &text, times));
            }
        });
        feed
    }

    fn table(&self) -> String {
        format!("CREATE TABLE feed (k TEXT, v BIGINT) WITH (connector = 'sse', endpoint = 'http://{}')", self.address)
    }
}

/// Sends a text so many times to a client that has not seen it, and holds the connection until the client closes it.
fn send(mut socket: TcpStream, text: &str, times: usize) -> std::io::Result<()> {
    let mut resumes = false;
    for line in BufReader::new(&socket).lines() {
        let line = line?.to_ascii_lowercase();
        resumes |= line.starts_with("last-event-id:");
        if line.is_empty() {
            break;
        }
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")?;
    for _ in 0..if resumes { 0 } else { times } {
        socket.write_all(text.as_bytes())?;
    }
    socket.read_to_end(&mut Vec::new()).map(drop)
}

/// A server with a data directory and the interval of its checkpoints, or without.
fn started(data: Option<(&Path, &str)>) -> Server {
    Server::start(|command| {
        if let Some((dir, interval)) = data {
            command.arg("--data").arg(dir).env("STREAMGAUGE_CHECKPOINT_INTERVAL", interval);
        }
    })
}

fn last_checkpoint(server: &Server) -> String {
    let report = server.ask("GET", "/v1/checkpoints", "");
    let last = &report["last"];
    let ms = |field: &str| last[field].as_f64().unwrap_or_default();
    format!(
        "{} taken; the last: {:.1} MiB, {:.0} ms of tables and views, {:.0} ms to the disk",
        report["taken"],
        last["bytes"].as_u64().unwrap_or_default() as f64 / (1 << 20) as f64,
        ms("saving_ms"),
        ms("writing_ms")
    )
}

/// The only sample of a metric; 0 where there is none yet.
fn metric(server: &Server, name: &str) -> f64 {
    let text = server.text("GET", "/metrics", "");
    let sample = text.lines().find(|line| line.starts_with(name) && line.contains('}'));
    sample.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}
