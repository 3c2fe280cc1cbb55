//! The feed, in a process of its own: rendered before the first client comes, so that serving costs next to nothing.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use streamgauge::cli::replay::{self, EventReader, EventSource, Pace, Replay};
use tokio::net::TcpListener;

use crate::case::Case;
use crate::latency::{KEYS, WINDOW_NANOS};

/// Serves at a free port, which it prints, until the process is ended.
pub fn serve(replay: Replay) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        println!("{}", listener.local_addr().expect("an address").port());
        replay::serve(listener, replay, std::future::pending()).await.expect("a server");
    });
}

/// All events of a case, as fast as they are read.
pub fn events(case: Case, events: u64, keys: u64, rate: u64) -> Replay {
    Replay::new(EventSource::sample(case.feed(events, keys, rate)).rendered().expect("events in memory"))
}

/// Events whose event time is the moment they are sent. The first of each window is printed: its window's start and its time.
pub fn clock(rate: u64) -> Replay {
    let source = EventSource::new(|| Ok(Box::new(Clock { number: 0, window: 0 })));
    Replay { pace: Pace::PerSecond(rate as f64), ..Replay::new(source) }
}

struct Clock {
    number: u64,
    window: u64,
}

impl EventReader for Clock {
    fn next(&mut self, wire: &mut Vec<u8>, id: &mut String) -> io::Result<bool> {
        self.number += 1;
        *id = self.number.to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let (key, value) = (self.number * 7919 % KEYS, self.number % 100);
        let data = format!(r#"{{"key":"key-{key}","value":{value}.5,"ts":{now}}}"#);
        replay::render("", id, data.as_bytes(), wire);
        if now / WINDOW_NANOS != self.window {
            self.window = now / WINDOW_NANOS;
            println!("{} {now}", self.window * WINDOW_NANOS);
        }
        Ok(true)
    }

    fn rewind(&mut self, _passes: u64) -> io::Result<bool> {
        Ok(false)
    }
}
