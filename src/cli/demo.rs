//! `streamgauge demo`: two made-up feeds on a loopback server inside the program, and the script that runs over them.

use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::args::{self, Exit, Format};
use super::live::live;
use super::present::{EndConditions, present};
use super::replay::{EventSource, Flush, Pace, Replay, serve};
use super::sample::{Kind, Settings};
use super::script::{Outcome, Script};
use super::sink::Sink;
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::time::Timestamp;

/// Events a second of each feed: enough for smooth bars, few enough to read along.
const RATE: f64 = 40.0;
/// How far the feeds are out of order; the script's watermarks wait for 500 ms.
const DISORDER: Duration = Duration::from_millis(400);
/// A feed breaks off after so many events, to show that nothing is lost or counted twice: every 75 seconds, as a connection must hold for
/// a minute to count as healthy and be taken up again at once.
const DROP_EVERY: NonZeroU64 = NonZeroU64::new(3_000).expect("not zero");
/// Soon enough that a cut is seen as a blink.
const RETRY: Duration = Duration::from_millis(250);
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The same feeds in every run.
pub const SEED: u64 = 1;

/// The tables that the script makes.
pub const TABLES: [&str; 2] = ["system_metrics", "trades"];

/// The feeds of the demo while they are served; they end with this value.
pub struct Feeds {
    pub metrics: SocketAddr,
    pub trades: SocketAddr,
    stop: watch::Sender<()>,
    servers: JoinSet<io::Result<()>>,
}

/// Serves metrics and trades from `start` on, each on a free port of the loopback interface.
pub async fn start_feeds(start: Timestamp, seed: u64) -> io::Result<Feeds> {
    let (stop, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    let mut feed = async |kind: Kind, seed: u64| -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        servers.spawn(serve(listener, replay(kind, start, seed), until_closed(stopped.clone())));
        Ok(address)
    };
    let metrics = feed(Kind::SystemMetrics, seed).await?;
    let trades = feed(Kind::StockPrices, seed.wrapping_add(1)).await?;
    Ok(Feeds { metrics, trades, stop, servers })
}

impl Feeds {
    /// Ends all responses and waits until the servers are gone.
    pub async fn stop(mut self) {
        drop(self.stop);
        while self.servers.join_next().await.is_some() {}
    }
}

async fn until_closed(mut stopped: watch::Receiver<()>) {
    // Nothing is ever sent: this ends with the sender.
    while stopped.changed().await.is_ok() {}
}

fn replay(kind: Kind, start: Timestamp, seed: u64) -> Replay {
    let settings = Settings { start, rate: RATE, disorder: DISORDER, ..Settings::new(kind, seed) };
    Replay {
        pace: Pace::Live(RATE),
        drop_every: Some(DROP_EVERY),
        heartbeat: Some(HEARTBEAT),
        retry: Some(RETRY),
        flush: Flush::Each,
        ..Replay::new(EventSource::sample(settings))
    }
}

/// The script of the demo over these feeds.
pub fn script(feeds: &Feeds) -> String {
    include_str!("demo.sql")
        .replace("{{ METRICS }}", &format!("http://{}/", feeds.metrics))
        .replace("{{ TRADES }}", &format!("http://{}/", feeds.trades))
}

/// Runs the demo: a live screen on a terminal, else rows as they come.
pub async fn run(args: &args::DemoArgs, interrupted: impl Future<Output = ()>) -> Result<Exit> {
    let unserved = |error: io::Error| Error::new(Code::Runtime, format!("the demo's feeds cannot be served: {error}"));
    let feeds = start_feeds(Timestamp::now(), SEED).await.map_err(unserved)?;
    let engine = Engine::new()?;
    let script = Script::new("demo.sql", script(&feeds));
    let mut outcome = Outcome::default();
    outcome.run(&engine, &script, &mut |_| {}).await;
    if outcome.errors > 0 {
        return Err(Error::bug("the demo's script is wrong"));
    }
    let views = engine.top_views().await?;
    let ends = EndConditions { limit: args.limit, timeout: args.time };
    let exit = match args.format {
        None if io::stdout().is_terminal() => live(&engine, &views, ends).await,
        format => {
            let format = format.unwrap_or(Format::Ndjson);
            present(&engine, &views, format, &mut Sink::stdout(), ends, interrupted).await
        }
    };
    feeds.stop().await;
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_feeds_answer_and_the_script_names_them() {
        let feeds = start_feeds(Timestamp::now(), 1).await.unwrap();
        let script = script(&feeds);
        assert!(!script.contains("{{ TRADES }}'") && script.contains(&format!("endpoint = 'http://{}/'", feeds.trades)));
        // The crypto of TLS is chosen once for the process; tests race for it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (address, kinds) in [(feeds.metrics, ["cpu", "disk"]), (feeds.trades, ["trade", "price_update"])] {
            let mut response = client.get(format!("http://{address}/")).send().await.unwrap();
            let mut text = String::new();
            while !kinds.iter().all(|kind| text.contains(&format!("event: {kind}\nid: "))) {
                text += std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap();
            }
            assert!(text.starts_with("retry: 250\n\n"), "{text}");
        }
        feeds.stop().await;
    }
}
