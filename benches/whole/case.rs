//! What is measured: a feed, a query over it, and the same query for DataFusion over rows in memory.

use std::num::NonZeroU64;

use clap::ValueEnum;
use streamgauge::cli::sample::{Kind, Settings};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Small events by key in windows side by side.
    Tumble,
    /// The same in windows of which sixty overlap.
    Hop,
    /// Small events that pass a condition, as they are.
    Filter,
    /// Large events of which a few fields are wanted.
    Wiki,
    /// From the event that closes a window to its result.
    Latency,
}

/// From this value on an event passes [`Case::Filter`]: about half do.
pub const PASSES: f64 = 50.0;

impl Case {
    pub const ALL: [Case; 5] = [Case::Tumble, Case::Hop, Case::Filter, Case::Wiki, Case::Latency];

    pub fn name(self) -> &'static str {
        match self {
            Case::Tumble => "tumble",
            Case::Hop => "hop",
            Case::Filter => "filter",
            Case::Wiki => "wiki",
            Case::Latency => "latency",
        }
    }

    pub fn events(self) -> u64 {
        match self {
            Case::Wiki => 200_000,
            _ => 2_000_000,
        }
    }

    /// The events of this case, in disorder by up to two seconds.
    pub fn feed(self, events: u64, keys: u64, rate: u64) -> Settings {
        let kind = if self == Case::Wiki { Kind::Wikipedia } else { Kind::SystemMetrics };
        let keys = NonZeroU64::new(keys).filter(|_| self != Case::Wiki);
        Settings { count: Some(events), keys, rate: rate as f64, ..Settings::new(kind, 1) }
    }

    /// The table over the feed at a port.
    pub fn table(self, port: u16) -> String {
        let columns = match self {
            Case::Wiki => {
                "wiki TEXT, type TEXT, bot BOOLEAN, namespace BIGINT, length STRUCT<old BIGINT, new BIGINT>,
                 meta STRUCT<dt TIMESTAMP>, at TIMESTAMP GENERATED ALWAYS AS (meta.dt),
                 WATERMARK FOR at AS at - INTERVAL '2 seconds'"
            }
            Case::Latency => "key TEXT, value DOUBLE, ts TIMESTAMP, WATERMARK FOR ts",
            _ => {
                "host TEXT, metric TEXT, value DOUBLE, timestamp TIMESTAMP,
                 WATERMARK FOR timestamp AS timestamp - INTERVAL '2 seconds'"
            }
        };
        let times = if self == Case::Latency { ", json.timestamp_format = 'unix_nanos'" } else { "" };
        format!(
            "CREATE TABLE feed ({columns}) WITH (connector = 'sse', endpoint = 'http://127.0.0.1:{port}/', reconnect = 'false'{times});"
        )
    }

    /// The number of result rows per column 2 of a window is what the contenders' answers are compared by.
    pub fn query(self) -> String {
        let numbers = "count(*) AS count, avg(value) AS avg, min(value) AS min, max(value) AS max";
        match self {
            Case::Tumble => {
                format!("SELECT host, {numbers}, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY host, window")
            }
            Case::Hop => format!(
                "SELECT host, {numbers}, HOP(INTERVAL '1 second', INTERVAL '60 seconds') AS window FROM feed GROUP BY host, window"
            ),
            Case::Filter => format!("SELECT host, metric, value, timestamp FROM feed WHERE value >= {PASSES:.1}"),
            Case::Wiki => "SELECT wiki, type, count(*) AS count, sum(length.new - length.old) AS grown, count(*) FILTER (WHERE bot) AS bots, \
                 max(namespace) AS namespace, TUMBLE(INTERVAL '10 seconds') AS window FROM feed GROUP BY wiki, type, window"
                .into(),
            Case::Latency => {
                "SELECT key, count(*) AS count, avg(value) AS avg, TUMBLE(INTERVAL '0.1 seconds') AS window FROM feed GROUP BY key, window".into()
            }
        }
    }

    /// The columns that DataFusion is given in memory.
    pub fn rows(self) -> &'static str {
        match self {
            Case::Wiki => "SELECT wiki, type, bot, namespace, length, at FROM feed",
            _ => "SELECT host, metric, value, timestamp FROM feed",
        }
    }

    /// The query without windows of ours. For `HOP` a second is aggregated once and then counted in sixty windows.
    pub fn batch(self) -> String {
        let bin = |width: &str, time: &str| format!("date_bin(INTERVAL '{width}', {time}) AS start");
        match self {
            Case::Tumble => format!(
                "SELECT host, count(*) AS count, avg(value), min(value), max(value), {} FROM feed GROUP BY host, start",
                bin("10 seconds", "timestamp")
            ),
            Case::Hop => format!(
                "SELECT host, sum(n) AS count, sum(total) / sum(n), min(low), max(high), start - slide AS window FROM (
                   SELECT *, unnest(range(0, 60)) AS slide FROM (
                     SELECT host, count(*) AS n, sum(value) AS total, min(value) AS low, max(value) AS high,
                       CAST({} AS BIGINT) / 1000000000 AS start FROM feed GROUP BY host, start))
                 GROUP BY host, window",
                "date_bin(INTERVAL '1 second', timestamp)"
            ),
            Case::Wiki => format!(
                "SELECT wiki, type, count(*) AS count, sum(length.new - length.old), count(*) FILTER (WHERE bot), max(namespace), {}
                 FROM feed GROUP BY wiki, type, start",
                bin("10 seconds", "at")
            ),
            Case::Filter | Case::Latency => self.query(),
        }
    }
}
