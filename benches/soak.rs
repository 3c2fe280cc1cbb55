//! The server at a steady rate for an hour, with a view of every kind: does its memory stay, and does it give back what is dropped?
//!
//! ```sh
//! cargo bench --bench soak                       # an hour
//! cargo bench --bench soak -- --seconds 120      # two minutes
//! ```
//!
//! Keys come and go, rows come late, events are bad, the connection breaks every minute; clients follow every view, and come back. State
//! is kept in a data directory, a checkpoint every ten seconds. Then everything is dropped and made again, for a sixth of the time: what
//! the first life left behind would lie under the second.

mod program;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use program::Server;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Events a second.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// What Cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

const VIEWS: [(&str, &str); 9] = [
    ("tumble", "SELECT k, count(*) AS c, avg(v) AS a, TUMBLE(INTERVAL '5 seconds') AS window FROM feed GROUP BY k, window"),
    (
        "hop",
        "SELECT k, count(*) AS c, max(v) AS m, HOP(INTERVAL '1 second', INTERVAL '1 minute') AS window FROM feed GROUP BY k, window",
    ),
    ("session", "SELECT k, count(*) AS c, SESSION(INTERVAL '2 seconds') AS window FROM feed GROUP BY k, window"),
    ("early", "SELECT k % 10 AS k, count(*) AS c, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY 1, window"),
    ("lagged", "SELECT n, v - LAG(v) OVER (PARTITION BY k % 100 ORDER BY ts) AS d FROM feed"),
    (
        "sliding",
        "SELECT n, sum(v) OVER (PARTITION BY k % 10 ORDER BY ts RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW) AS s FROM feed",
    ),
    ("plain", "SELECT n, k, v FROM feed WHERE v > 900"),
    ("top", "SELECT k, sum(v) AS s, TUMBLE(INTERVAL '5 seconds') AS window FROM feed GROUP BY k, window ORDER BY s DESC LIMIT 5"),
    (
        "united",
        "SELECT count(*) AS c, TUMBLE(INTERVAL '1 second') AS window FROM (SELECT ts FROM feed UNION ALL SELECT ts FROM feed) GROUP BY window",
    ),
];

fn main() {
    let args = Args::parse();
    let dir = tempfile::tempdir().unwrap();
    let feed = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut script = format!(
        "CREATE TABLE feed (n BIGINT, k BIGINT, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 second') \
         WITH (connector = 'sse', endpoint = 'http://{}', \"json.timestamp_format\" = 'unix_millis', reconnect_delay = '100ms');\n",
        feed.local_addr().unwrap()
    );
    for (name, query) in VIEWS {
        let emit = if name == "early" { " WITH (emit = 'changes')" } else { "" };
        script += &format!("CREATE VIEW {name}{emit} AS {query};\n");
    }
    let init = dir.path().join("soak.sql");
    std::fs::write(&init, &script).unwrap();
    let server = Server::start(|command| {
        command.arg("--init").arg(&init).arg("--data").arg(dir.path().join("data"));
    });
    let address = server.address;
    for (name, _) in VIEWS {
        std::thread::spawn(move || follow(address, name));
    }
    println!("after         memory   open files  threads  checkpoint");
    let mut sent = 0;
    let mut live = |server: &Server, seconds: u64, marks: &[u64], life: &str| {
        let start = Instant::now();
        let first = sent;
        let mut marks = marks.iter().filter(|mark| **mark <= seconds).peekable();
        while start.elapsed().as_secs() < seconds {
            let (socket, _) = feed.accept().unwrap();
            let minute = Instant::now();
            let _ = serve(socket, &mut sent, first, args.rate, start, || {
                if let Some(mark) = marks.next_if(|mark| start.elapsed().as_secs() >= **mark) {
                    tell(server, &format!("{mark} s{life}"));
                }
                minute.elapsed() < Duration::from_secs(60) && start.elapsed().as_secs() < seconds
            });
        }
        tell(server, &format!("{seconds} s{life}"));
        for (name, _) in VIEWS {
            server.sql(&format!("DROP VIEW {name}"));
        }
        server.sql("DROP TABLE feed");
        // Clients come back to nothing, and go.
        std::thread::sleep(Duration::from_secs(15));
        tell(server, &format!("dropped{life}"));
    };
    let mut marks = [60, args.seconds / 4, args.seconds / 2, args.seconds * 3 / 4];
    marks.sort_unstable();
    live(&server, args.seconds, &marks, "");
    server.sql(&script);
    live(&server, args.seconds / 6, &[60], " again");
    println!("{sent} events");
}

/// Sends events at the rate, ten times a second, as long as `goes_on`.
fn serve(
    mut socket: TcpStream,
    sent: &mut u64,
    first: u64,
    rate: u64,
    start: Instant,
    mut goes_on: impl FnMut() -> bool,
) -> std::io::Result<()> {
    let mut head = BufReader::new(&socket).lines();
    while !head.next().transpose()?.unwrap_or_default().is_empty() {}
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")?;
    while goes_on() {
        let due = first + (start.elapsed().as_secs_f64() * rate as f64) as u64;
        let mut text = String::new();
        for n in *sent..due.max(*sent) {
            let ts = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            // Some rows are late, some too late; each key lives for some minutes.
            let ts = ts - [0, 20, 300, 700][fastrand::usize(..4)] - if n.is_multiple_of(997) { 60_000 } else { 0 };
            let (k, v) = (n / 50_000 * 400 + fastrand::u64(..1_000), fastrand::u64(..1_000));
            match n % 1_009 {
                0 => text += &format!("id: {n}\ndata: {{\"n\": {n}, broken\n\n"),
                _ => text += &format!("id: {n}\ndata: {{\"n\": {n}, \"k\": {k}, \"v\": {v}, \"ts\": {ts}}}\n\n"),
            }
        }
        socket.write_all(text.as_bytes())?;
        *sent = due.max(*sent);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Follows a view, and comes back after a minute or a break.
fn follow(address: SocketAddr, view: &str) {
    loop {
        let Ok(mut socket) = TcpStream::connect(address) else { return };
        let asked = write!(socket, "GET /v1/views/{view}/stream HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let since = Instant::now();
        let mut bytes = vec![0; 65_536];
        while asked.is_ok() && since.elapsed() < Duration::from_secs(60) && socket.read(&mut bytes).is_ok_and(|read| read > 0) {}
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Prints a line of what the server holds now.
fn tell(server: &Server, after: &str) {
    let process = format!("/proc/{}", server.child.id());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_string();
    let memory: f64 = field("VmRSS:").trim_end_matches(" kB").parse().unwrap();
    let files = std::fs::read_dir(format!("{process}/fd")).unwrap().count();
    let last = &server.ask("GET", "/v1/checkpoints", "")["last"];
    println!(
        "{after:<13} {:>6.1} MiB {files:>8} {:>10}  {} KiB in {:.0} ms",
        memory / 1024.0,
        field("Threads:"),
        last["bytes"].as_u64().unwrap_or_default() / 1024,
        last["saving_ms"].as_f64().unwrap_or_default() + last["writing_ms"].as_f64().unwrap_or_default(),
    );
}
