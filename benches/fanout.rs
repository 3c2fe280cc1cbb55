//! One view, very many clients: does each get every change, how late, and what does it cost?
//!
//! `ulimit -n 20000; cargo bench --bench fanout`. `CLIENTS` (10000), `RATE` (changes a second, 100) and `SECONDS` (60) say how much.
//! The clients are a process of their own, over loopback; memory and processor time are those of the server's process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use streamgauge::serve::Server;
use streamgauge::serve::listen::Shutdown;
use streamgauge::serve::settings::Settings;
use streamgauge::sql;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Set for the process of the clients.
const ROLE: &str = "FANOUT_ADDRESS";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match std::env::var(ROLE) {
        Ok(address) => runtime.block_on(clients(address.parse().unwrap())),
        Err(_) => runtime.block_on(server()),
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn total() -> u64 {
    number("RATE", 100) * number("SECONDS", 60)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

async fn server() {
    let (count, rate) = (number("CLIENTS", 10_000), number("RATE", 100));
    let feed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let script = format!(
        "CREATE TABLE feed (n BIGINT, at BIGINT, text TEXT) WITH (connector = 'sse', endpoint = 'http://{}');
         CREATE VIEW rows AS SELECT n, at, text FROM feed;",
        feed.local_addr().unwrap()
    );
    let mut settings = Settings { bind: "127.0.0.1:0".parse().unwrap(), ..Settings::default() };
    settings.http.streams_max = usize::MAX;
    let server = Server::open(settings).await.unwrap();
    for statement in &sql::parse(&script).0 {
        server.app.execute(statement).await.unwrap();
    }
    server.start().await.unwrap();
    let (address, streams) = (server.addresses[0], Arc::clone(&server.app.streams));
    let (_stop, shutdown) = Shutdown::new();
    tokio::spawn(server.serve(shutdown));

    let (mut fed, _) = feed.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        fed.read_buf(&mut request).await.unwrap();
    }
    fed.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await.unwrap();
    let empty = memory();
    let mut child =
        Command::new(std::env::current_exe().unwrap()).env(ROLE, address.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while streams.clients() < count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let connected = memory();
    let (used, start) = (processor(), Instant::now());
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    for n in 0..total() {
        tick.tick().await;
        let event = format!("data: {{\"n\":{n},\"at\":{},\"text\":\"{}\"}}\n\n", now(), "x".repeat(100));
        fed.write_all(event.as_bytes()).await.unwrap();
    }
    let (fed_for, busy) = (start.elapsed(), processor() - used);
    let told = tokio::task::spawn_blocking(move || lines.next()).await.unwrap().unwrap().unwrap();
    child.wait().unwrap();
    println!("{count} clients, {} changes in {:.1} s", total(), fed_for.as_secs_f64());
    println!("{told}");
    println!(
        "server: {:.1} KiB a client when connected, {:.1} KiB while sending, {:.0} % of one core",
        kib(connected.saturating_sub(empty), count),
        kib(memory().saturating_sub(empty), count),
        100.0 * busy.as_secs_f64() / fed_for.as_secs_f64()
    );
}

async fn clients(address: SocketAddr) {
    let count = number("CLIENTS", 10_000);
    let mut readers = tokio::task::JoinSet::new();
    for index in 0..count {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = "GET /v1/views/rows/stream?snapshot=false HTTP/1.1\r\nhost: localhost\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        // Of one in a hundred, every event is looked into.
        readers.spawn(read(socket, index % 100 == 0));
    }
    let (mut whole, mut delays) = (0, Vec::new());
    while let Some(read) = readers.join_next().await {
        let (changes, late) = read.unwrap();
        whole += u64::from(changes == total());
        delays.extend(late);
    }
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    println!(
        "{whole} of {count} clients got every change; delay {:.1} ms (median), {:.1} ms (99 %), {:.1} ms (longest)",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// How many changes came, in order and without a gap, and how late those were that were looked at, in microseconds.
async fn read(mut socket: TcpStream, closely: bool) -> (u64, Vec<u64>) {
    let (mut buffer, mut line, mut changes, mut delays) = (vec![0; 64 * 1024], Vec::new(), 0, Vec::new());
    while changes < total() {
        let length = match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        if !closely {
            // Each event has this once; one that is cut by the end of a read is counted with the next.
            line.extend_from_slice(&buffer[..length]);
            let ends = memchr::memmem::rfind(&line, b"\n\n").map_or(0, |end| end + 2);
            changes += memchr::memmem::find_iter(&line[..ends], b"data: {\"op\"").count() as u64;
            line.drain(..ends);
            continue;
        }
        for byte in &buffer[..length] {
            line.push(*byte);
            if *byte != b'\n' {
                continue;
            }
            if let Some(data) = line.strip_prefix(b"data: {\"op\":\"added\",\"query\":\"rows\",\"after\":") {
                let row: serde_json::Value = serde_json::from_slice(&data[..data.len() - 2]).unwrap();
                assert_eq!(row["n"], changes, "a change is missing");
                delays.push(now().saturating_sub(row["at"].as_u64().unwrap()));
                changes += 1;
            }
            line.clear();
        }
    }
    (changes, delays)
}

fn kib(bytes: u64, count: u64) -> f64 {
    bytes as f64 / 1024.0 / count as f64
}

/// Resident memory of this process in bytes; 0 where it cannot be told.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Processor time of this process so far; nothing where it cannot be told.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}
