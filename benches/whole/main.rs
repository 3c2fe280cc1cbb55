//! The whole product over loopback HTTP, beside a program written by hand for the one query, and beside DataFusion over rows in memory.
//!
//! `cargo bench --bench whole` runs every case, `cargo bench --bench whole -- --case tumble --events 500000 --runs 1` one of them.
//! The feed is served by a process of its own, and so is each contender: what is shown is the CPU time of that process alone,
//! the best of all runs, from the request to the last result as NDJSON in memory. The answers of all contenders are compared.

mod batch;
mod case;
mod hand;
mod latency;
mod meter;
mod ours;
mod server;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use clap::{Parser, Subcommand};

use case::Case;
use meter::Measured;

#[derive(Parser)]
struct Args {
    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    case: Vec<Case>,
    /// Events of a case; without it 2 million small or 200 thousand large ones.
    #[arg(long)]
    events: Option<u64>,
    /// Distinct keys of the small events.
    #[arg(long, default_value_t = 1_000)]
    keys: u64,
    /// Events in a second of event time.
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Runs of each contender, of which the best counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How long latency is measured.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What a process started by this one does.
#[derive(Subcommand)]
#[command(hide = true)]
enum Role {
    /// Serves the events of a case.
    Serve { case: Case, events: u64, keys: u64, rate: u64 },
    /// Serves events that tell when they were sent.
    ServeClock { rate: u64 },
    /// Computes the answer of a case from the feed at a port.
    Contend { contender: Contender, case: Case, port: u16, events: u64 },
    /// Notes when windows arrive from the feed at a port.
    Watch { port: u16, seconds: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Contender {
    Streamgauge,
    ByHand,
    Batch,
}

fn main() {
    let args = Args::parse();
    match args.role {
        Some(Role::Serve { case, events, keys, rate }) => server::serve(server::events(case, events, keys, rate)),
        Some(Role::ServeClock { rate }) => server::serve(server::clock(rate)),
        Some(Role::Contend { contender, case, port, events }) => println!(
            "{}",
            match contender {
                Contender::Streamgauge => ours::run(case, port, events),
                Contender::ByHand => hand::run(case, port),
                Contender::Batch => batch::run(case, port),
            }
        ),
        Some(Role::Watch { port, seconds }) => latency::watch(port, seconds),
        None => {
            let cases: Vec<Case> = if args.case.is_empty() { Case::ALL.to_vec() } else { args.case.clone() };
            for case in cases {
                match case {
                    Case::Latency => latency::report(args.seconds),
                    _ => compare(case, &args),
                }
            }
        }
    }
}

fn compare(case: Case, args: &Args) {
    let events = args.events.unwrap_or(case.events());
    let feed = Feed::start(&["serve", case.name(), &events.to_string(), &args.keys.to_string(), &args.rate.to_string()]);
    println!("\n{}: {events} events\n  {}", case.name(), case.query());
    println!("  {:<24} {:>10} {:>12} {:>10} {:>10} {:>10}", "", "CPU", "events/s/CPU", "elapsed", "peak", "by hand");
    let best = |contender: &str| {
        let runs = (0..args.runs.max(1)).map(|_| {
            let port = feed.port.to_string();
            let mut child = start(&["contend", contender, case.name(), &port, &events.to_string()]);
            let line = lines(&mut child).last().unwrap_or_default();
            assert!(child.wait().expect("a child ends").success(), "{contender} failed");
            Measured::read(&line)
        });
        runs.min_by_key(|run| run.cpu).expect("at least one run")
    };
    let hand = best("by-hand");
    for (name, contender) in [("streamgauge", "streamgauge"), ("by hand", ""), ("DataFusion, in memory", "batch")] {
        let run = if contender.is_empty() { hand.clone() } else { best(contender) };
        let cpu = run.cpu.as_secs_f64();
        println!(
            "  {name:<24} {:>8.2} s {:>10.2} M {:>8.2} s {:>6} MiB {:>9.2}x",
            cpu,
            events as f64 / cpu / 1e6,
            run.elapsed.as_secs_f64(),
            run.peak_bytes >> 20,
            cpu / hand.cpu.as_secs_f64(),
        );
        if !run.memory.is_empty() {
            let memory: Vec<String> = run.memory.iter().map(|bytes| format!("{} MiB", bytes >> 20)).collect();
            println!("  {:<24} after 25, 50, 75, 100 % of the events: {}", "  memory", memory.join(", "));
        }
        assert_eq!(run.answer, hand.answer, "{name} and the program by hand give other answers (rows, counted)");
    }
    println!("  rows of results: {}", hand.answer.rows);
}

/// A feed server in a process of its own; it ends with this value.
struct Feed {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Feed {
    fn start(args: &[&str]) -> Feed {
        let mut process = start(args);
        let mut lines = BufReader::new(process.stdout.take().expect("a piped output")).lines();
        let port = lines.next().and_then(Result::ok).and_then(|line| line.parse().ok()).expect("the server tells its port");
        Feed { process, lines, port }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // One that has ended by itself needs no more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(args: &[&str]) -> Child {
    let program = std::env::current_exe().expect("this program has a path");
    Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process can be started")
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().expect("a piped output")).lines().map_while(Result::ok)
}
