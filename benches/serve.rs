//! The server under load: very many clients of one view, very many feeds; is anything lost, how late is it, and what does it cost?
//!
//! ```sh
//! ulimit -n 20000                                  # one file for each client and each feed; the server inherits it
//! cargo bench --bench serve                        # both parts as large as they get, a minute each
//! cargo bench --bench serve -- clients --clients 1000 --seconds 10
//! cargo bench --bench serve -- feeds --feeds 100 --rate 10 --seconds 10
//! ```
//!
//! The server is the program itself, in a process of its own: its memory and processor time are told apart from those of the load.
//! Feeds, clients and requests come from this process over loopback. It ends with 1 where a client or a table misses an event.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use futures::{StreamExt, stream};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle as Task;

/// Feeds of one `UNION ALL`.
const UNITED: usize = 50;

/// Clients that connect at the same time.
const CONNECTING: usize = 256;

/// Requests a second beside the load.
const REQUESTS: u32 = 20;

/// Of so many clients every event is looked into, not only its id.
const CLOSELY: usize = 100;

/// How long the last events may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the server gets to come to rest, before its memory is read and after a start.
const REST: Duration = Duration::from_secs(2);

#[derive(Parser)]
struct Args {
    /// What to measure; both where nothing is said.
    part: Option<Part>,
    /// Clients of the one view.
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// Feeds of the one server.
    #[arg(long, default_value_t = 1_000)]
    feeds: usize,
    /// Events a second: of the one feed 100, of many 10 each.
    #[arg(long)]
    rate: Option<usize>,
    #[arg(long, default_value_t = 60)]
    seconds: usize,
    /// What Cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    Clients,
    Feeds,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut whole = true;
    if args.part != Some(Part::Feeds) {
        whole &= clients(&runtime, args.clients, args.rate.unwrap_or(100), args.seconds);
    }
    if args.part != Some(Part::Clients) {
        whole &= feeds(&runtime, args.feeds, args.rate.unwrap_or(10), args.seconds);
    }
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One feed, one view, very many clients.
fn clients(runtime: &Runtime, count: usize, rate: usize, seconds: usize) -> bool {
    let feed = listener(runtime);
    let script = format!("{} CREATE VIEW rows AS SELECT n, at, text FROM feed_0;", table(0, &feed));
    let server = Server::start(&script);
    let feeds = Feeds::accept(&feed, 1);
    std::thread::sleep(REST);
    let before = server.memory();
    let events = rate * seconds;
    let start = Instant::now();
    let clients = Clients::connect(runtime, server.address, &vec![Wanted::of("rows", 1, events); count]);
    let connecting = start.elapsed();
    std::thread::sleep(REST);
    let connected = server.memory();
    let load = Load::start(&server, "rows");
    let published = feeds.publish(rate, seconds);
    let told = clients.end(runtime);
    let whole = told.whole == count && published == events;
    println!(
        "{count} clients of one view, {published} changes in {seconds} s, all connected within {:.1} s",
        connecting.as_secs_f64()
    );
    println!("  {} of {count} clients got every change in order; {}", told.whole, told.late());
    println!(
        "  server: {:.1} MiB before; a client takes {:.1} KiB connected, {:.1} KiB at the end, the history of the view included",
        before as f64 / 1024.0,
        (connected as f64 - before as f64) / count as f64,
        (server.memory() as f64 - before as f64) / count as f64,
    );
    load.end();
    server.stop();
    whole
}

/// Very many feeds, each a table; views that unite and count them.
fn feeds(runtime: &Runtime, count: usize, rate: usize, seconds: usize) -> bool {
    let feed = listener(runtime);
    let mut script: String = (0..count).map(|index| table(index, &feed)).collect();
    let mut expected = Vec::new();
    for first in (0..count).step_by(UNITED) {
        let feeds = first..count.min(first + UNITED);
        let name = format!("rows_{first}");
        let all: Vec<String> = feeds.clone().map(|feed| format!("SELECT n, at FROM feed_{feed}")).collect();
        script += &format!("CREATE VIEW {name} AS {};", all.join(" UNION ALL "));
        let all: Vec<String> = feeds.clone().map(|feed| format!("SELECT {feed} AS feed, n FROM feed_{feed}")).collect();
        script += &format!(
            "CREATE VIEW rates_{first} AS SELECT feed, count(*) AS events, TUMBLE(INTERVAL '1 second') AS window \
             FROM (SELECT * FROM ({})) GROUP BY feed, window;",
            all.join(" UNION ALL ")
        );
        expected.push(Wanted::of(&name, feeds.len(), rate * seconds));
    }
    let start = Instant::now();
    let server = Server::start(&script);
    let feeds = Feeds::accept(&feed, count);
    let starting = start.elapsed();
    std::thread::sleep(REST);
    let before = server.memory();
    let clients = Clients::connect(runtime, server.address, &expected);
    let load = Load::start(&server, "rates_0");
    let published = feeds.publish(rate, seconds);
    let told = clients.end(runtime);
    let counted = server.counted();
    let whole = told.whole == expected.len() && counted == published;
    println!("{count} feeds, {published} events in {seconds} s, all connected {:.1} s after the start", starting.as_secs_f64());
    println!("  the tables have counted {counted}; {} of {} views have every event; {}", told.whole, expected.len(), told.late());
    println!("  server: {:.1} MiB connected, {:.1} MiB at the end", before as f64 / 1024.0, server.memory() as f64 / 1024.0);
    load.end();
    server.stop();
    whole
}

/// A listener on which a thousand may knock at once.
fn listener(runtime: &Runtime) -> TcpListener {
    let _inside = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(4096).unwrap().into_std().unwrap();
    listener.set_nonblocking(false).unwrap();
    listener
}

fn table(index: usize, feed: &TcpListener) -> String {
    let address = feed.local_addr().unwrap();
    format!(
        "CREATE TABLE feed_{index} (n BIGINT, at BIGINT, text TEXT) WITH (connector = 'sse', endpoint = 'http://{address}/{index}');\n"
    )
}

/// The program that is measured.
struct Server {
    child: Child,
    address: SocketAddr,
    _script: TempDir,
}

impl Server {
    fn start(script: &str) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("load.sql");
        std::fs::write(&path, script).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_streamgauge"))
            .args(["serve", "--bind", "127.0.0.1:0", "--init"])
            .arg(path)
            .env("STREAMGAUGE_HTTP__STREAMS_MAX", "100000")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map(Result::unwrap).inspect(|line| complain(line)).find_map(|line| {
            let (_, address) = line.split_once("listens on http://")?;
            Some(address.parse().unwrap())
        });
        // The log is written, as it would be, and read by nobody but for what is wrong.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| complain(&line)));
        Server { child, address: address.expect("the server says where it listens"), _script: dir }
    }

    /// Resident memory in KiB. What the system's sockets take is not in it.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Events of all tables.
    fn counted(&self) -> usize {
        let (mut counted, mut offset) = (0, 0);
        loop {
            let (_, body) = request(self.address, &format!("/v1/connection_tables?limit=500&offset={offset}")).unwrap();
            let page: Value = serde_json::from_str(&body).unwrap();
            let tables = page["data"].as_array().unwrap();
            counted += tables.iter().map(|table| table["status"]["rows_total"].as_u64().unwrap() as usize).sum::<usize>();
            offset += tables.len();
            if page["has_more"] != true {
                return counted;
            }
        }
    }

    /// Asks it to end, and says how long that took.
    fn stop(mut self) {
        let start = Instant::now();
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        let status = self.child.wait().unwrap();
        println!("  stopped within {:.1} s of SIGTERM, {status}", start.elapsed().as_secs_f64());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

fn complain(line: &str) {
    if ["WARN", "ERROR", "error", "warning"].iter().any(|word| line.contains(word)) {
        eprintln!("server: {line}");
    }
}

/// Processor time of a process so far.
fn processor(id: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Microseconds of the clock.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// Feeds that the server reads.
struct Feeds(Vec<TcpStream>);

impl Feeds {
    /// Waits until so many are asked for.
    fn accept(listener: &TcpListener, count: usize) -> Feeds {
        let accept = |_| {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = BufReader::new(&socket).lines();
            while !head.next().unwrap().unwrap().is_empty() {}
            socket.set_nodelay(true).unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").unwrap();
            socket
        };
        Feeds((0..count).map(accept).collect())
    }

    /// Sends `rate` events a second on each, evenly; says how many it were. The feeds go on in silence.
    fn publish(self, rate: usize, seconds: usize) -> usize {
        let Feeds(mut sockets) = self;
        let (events, each) = (sockets.len() * rate * seconds, Duration::from_secs(1).div_f64((sockets.len() * rate) as f64));
        let text = "x".repeat(100);
        let start = Instant::now();
        for event in 0..events {
            let due = start + each.mul_f64(event as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let index = event % sockets.len();
            let n = event / sockets.len();
            let event = format!("data: {{\"n\":{n},\"at\":{},\"text\":\"{text}\"}}\n\n", now());
            sockets[index].write_all(event.as_bytes()).unwrap();
        }
        // Kept open: a feed that ends would be connected to again.
        std::mem::forget(sockets);
        events
    }
}

/// Clients that are connected, each of one view.
struct Clients(Vec<Task<Reader>>);

/// What a client is to get.
#[derive(Clone)]
struct Wanted {
    view: String,
    changes: usize,
    /// The sum of the column `n` of all changes.
    sum: u64,
}

impl Wanted {
    /// All events of so many feeds, numbered from 0 in each.
    fn of(view: &str, feeds: usize, events: usize) -> Wanted {
        let sum = feeds * events * events.saturating_sub(1) / 2;
        Wanted { view: view.to_string(), changes: feeds * events, sum: sum as u64 }
    }
}

/// What the clients tell at the end.
struct Told {
    /// Clients that got every change, in order.
    whole: usize,
    /// Microseconds from a feed to a client, sorted.
    delays: Vec<u64>,
    _open: Vec<Reader>,
}

impl Clients {
    /// Connects a client for each view and the number of changes it is to get.
    fn connect(runtime: &Runtime, address: SocketAddr, wanted: &[Wanted]) -> Clients {
        let every = wanted.len().div_ceil(CLOSELY);
        let connects = stream::iter(wanted.iter().enumerate()).map(|(index, wanted)| {
            let view = &wanted.view;
            let mut reader = Reader::new(wanted, index % every == 0);
            async move {
                let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
                let request = format!("GET /v1/views/{view}/stream?snapshot=false HTTP/1.1\r\nhost: localhost\r\n\r\n");
                tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes()).await.unwrap();
                reader.socket = Some(socket);
                while reader.last.is_none() {
                    assert!(reader.read().await, "the server refuses a client: {}", String::from_utf8_lossy(&reader.rest));
                }
                reader
            }
        });
        let reading = connects.buffer_unordered(CONNECTING).map(|reader| tokio::spawn(reader.read_all()));
        Clients(runtime.block_on(reading.collect()))
    }

    /// Waits until all have what they are to get, or get no more.
    fn end(self, runtime: &Runtime) -> Told {
        let until = tokio::time::Instant::now() + PATIENCE;
        let (mut whole, mut delays, mut open) = (0, Vec::new(), Vec::new());
        runtime.block_on(async {
            for mut reader in self.0 {
                match tokio::time::timeout_at(until, &mut reader).await {
                    Ok(reader) => {
                        let mut reader = reader.unwrap();
                        whole += usize::from(reader.is_whole());
                        delays.append(&mut reader.delays);
                        open.push(reader);
                    }
                    Err(_) => reader.abort(),
                }
            }
        });
        delays.sort_unstable();
        Told { whole, delays, _open: open }
    }
}

impl Told {
    fn late(&self) -> String {
        format!("from feed to client {}", spread(&self.delays))
    }
}

/// One client.
struct Reader {
    socket: Option<tokio::net::TcpStream>,
    wanted: Wanted,
    changes: usize,
    /// Of one that is looked at closely, the sum of the column `n` so far.
    sum: u64,
    /// The number of the last change.
    last: Option<u64>,
    /// Whether a number did not follow the one before.
    gap: bool,
    closely: bool,
    delays: Vec<u64>,
    /// Bytes of an event whose end has not come.
    rest: Vec<u8>,
}

thread_local! {
    /// What all clients of a thread read into: ten thousand buffers would take the memory of the machine.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

impl Reader {
    fn new(wanted: &Wanted, closely: bool) -> Reader {
        let (delays, rest) = Default::default();
        Reader { socket: None, wanted: wanted.clone(), changes: 0, sum: 0, last: None, gap: false, closely, delays, rest }
    }

    async fn read_all(mut self) -> Reader {
        while self.changes < self.wanted.changes && self.read().await {}
        self
    }

    fn is_whole(&self) -> bool {
        self.changes == self.wanted.changes && !self.gap && (!self.closely || self.sum == self.wanted.sum)
    }

    /// Takes what has come; `false` at the end.
    async fn read(&mut self) -> bool {
        let Some(socket) = &self.socket else { return false };
        if socket.readable().await.is_err() {
            return false;
        }
        let read = BUFFER.with_borrow_mut(|buffer| {
            let length = socket.try_read(buffer)?;
            self.rest.extend_from_slice(&buffer[..length]);
            Ok(length)
        });
        match read {
            Ok(0) => false,
            Ok(_) => {
                self.take();
                true
            }
            Err(error) => io::Error::kind(&error) == io::ErrorKind::WouldBlock,
        }
    }

    /// Checks the events that have ended. Their ids, which stand first in them, must follow one another.
    fn take(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        // The last line end stays: the next id is found by it.
        let end = memchr::memmem::rfind(&rest, b"\n\n").map_or(0, |end| end + 1);
        for at in memchr::memmem::find_iter(&rest[..end], b"\nid: ") {
            let event = &rest[at + 5..end];
            let line = &event[..memchr::memchr(b'\n', event).unwrap()];
            let number = number(&line[memchr::memchr(b'-', line).unwrap() + 1..]);
            match self.last.replace(number) {
                // The event that says where it begins.
                None => continue,
                Some(last) => self.gap |= number != last + 1,
            }
            self.changes += 1;
            if self.closely {
                let field = |name: &[u8]| number_at(&event[memchr::memmem::find(event, name).unwrap() + name.len()..]);
                self.sum += field(b"\"n\":");
                self.delays.push(now().saturating_sub(field(b"\"at\":")));
            }
        }
        self.rest = rest[end..].to_vec();
    }
}

fn number(digits: &[u8]) -> u64 {
    std::str::from_utf8(digits).unwrap().parse().unwrap()
}

/// The number that the text begins with.
fn number_at(text: &[u8]) -> u64 {
    number(&text[..text.iter().position(|byte| !byte.is_ascii_digit()).unwrap()])
}

/// What else is measured while events flow: how soon requests are answered, and the time of the processor.
struct Load {
    stop: Arc<AtomicBool>,
    requests: JoinHandle<Vec<(String, Vec<u64>)>>,
    start: Instant,
    server: u32,
    /// Processor time of the server and of this process before.
    used: (Duration, Duration),
}

impl Load {
    /// Asks for a table, a view and its rows, beside nothing at all.
    fn start(server: &Server, view: &str) -> Load {
        let paths = ["/v1/ping", "/v1/connection_tables/feed_0", "/v1/views/VIEW", "/v1/views/VIEW/results?limit=100"];
        let paths = paths.map(|path| path.replace("VIEW", view));
        let stop = Arc::new(AtomicBool::new(false));
        let (address, stopped) = (server.address, Arc::clone(&stop));
        let requests = std::thread::spawn(move || {
            let mut waits: Vec<(String, Vec<u64>)> = paths.map(|path| (path, Vec::new())).into();
            let start = Instant::now();
            for number in 0.. {
                std::thread::sleep(
                    (start + number * Duration::from_secs(1) / REQUESTS).saturating_duration_since(Instant::now()),
                );
                if stopped.load(Relaxed) {
                    break;
                }
                let next = number as usize % waits.len();
                let (path, waits) = &mut waits[next];
                let asked = Instant::now();
                let (status, body) = request(address, path).expect("an answer");
                assert_eq!(status, 200, "{path}: {body}");
                waits.push(asked.elapsed().as_micros() as u64);
            }
            waits
        });
        let id = server.child.id();
        Load { stop, requests, start: Instant::now(), server: id, used: (processor(id), processor(std::process::id())) }
    }

    /// Prints what it was.
    fn end(self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let cores = |used: Duration| used.as_secs_f64() / seconds;
        let server = cores(processor(self.server) - self.used.0);
        let here = cores(processor(std::process::id()) - self.used.1);
        println!("  processor: server {server:.2} cores, feeds and clients {here:.2} cores");
        self.stop.store(true, Relaxed);
        for (path, mut waits) in self.requests.join().expect("requests are answered") {
            waits.sort_unstable();
            println!("  GET {path}: {}", spread(&waits));
        }
    }
}

/// Asks on a connection of its own; gives status and body.
fn request(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut socket = TcpStream::connect(address)?;
    write!(socket, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_string()))
}

/// Median, 99th percentile and most of sorted microseconds.
fn spread(sorted: &[u64]) -> String {
    let Some(most) = sorted.last() else { return "nothing".into() };
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize] as f64 / 1e3;
    format!("{:.1} ms median, {:.1} ms p99, {:.1} ms at most (of {})", at(0.5), at(0.99), *most as f64 / 1e3, sorted.len())
}
