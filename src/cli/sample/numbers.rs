//! Feeds of numbers: system metrics, prices, analytics. Values walk at random, so that their rolling means look like real ones.

use fastrand::Rng;

use super::{Event, Pieces, Shape, Turn, pick};

const METRICS: [&str; 4] = ["cpu", "memory", "disk", "network"];
const ROLES: [&str; 4] = ["web", "db", "cache", "queue"];
const ZONES: [&str; 3] = ["eu-1a", "eu-1b", "us-2a"];

/// Metrics of hosts `web-1`, `db-2`, …
pub(super) struct Metrics {
    hosts: Vec<Host>,
}

struct Host {
    /// Up to and with `"host":"…","metric":"`.
    head: String,
    /// From behind the value up to the timestamp.
    tags: String,
    /// The last value of each metric in hundredths.
    values: [i64; 4],
}

impl Metrics {
    pub fn new(hosts: u64, rng: &mut Rng) -> Self {
        let host = |number: usize| {
            let (role, zone) = (ROLES[number % ROLES.len()], ZONES[number % ZONES.len()]);
            Host {
                head: format!(r#"{{"host":"{role}-{}","metric":""#, number + 1),
                tags: format!(r#","tags":{{"zone":"{zone}","role":"{role}"}},"timestamp":""#),
                values: [rng.i64(2_000..6_000), rng.i64(4_000..7_000), rng.i64(3_000..8_500), rng.i64(1_000..9_000)],
            }
        };
        Metrics { hosts: (0..hosts as usize).map(host).collect() }
    }
}

impl Shape for Metrics {
    fn event(&mut self, mut turn: Turn<'_>, event: &mut Event) -> bool {
        let which = turn.rng.usize(..self.hosts.len());
        let metric = turn.rng.usize(..METRICS.len());
        let host = &mut self.hosts[which];
        let value = &mut host.values[metric];
        *value = match turn.rng.u16(..500) {
            // Somebody starts a backup.
            0 => turn.rng.i64(9_000..9_900),
            _ => (*value + turn.rng.i64(-300..=300)).clamp(50, 9_950),
        };
        event.kind = METRICS[metric];
        let out = &mut event.data;
        out.raw(&host.head).raw(event.kind).raw("\",\"value\":").cents(*value).raw(&host.tags).time(&mut turn).raw("\"}");
        true
    }
}

const SYMBOLS: [&str; 8] = ["ALDER", "BIRCH", "CEDAR", "ELM", "HAZEL", "MAPLE", "OAK", "WILLOW"];

/// Trades and quotes: `{"type","symbol","price","volume","bid","ask","timestamp"}`.
pub(super) struct Prices {
    symbols: Vec<String>,
    /// The last price of each symbol in hundredths.
    prices: Vec<i64>,
}

impl Prices {
    pub fn new(symbols: u64, rng: &mut Rng) -> Self {
        let name = |number: usize| match SYMBOLS.get(number) {
            Some(name) => (*name).to_string(),
            None => format!("S{number:04}"),
        };
        let symbols: Vec<String> = (0..symbols as usize).map(name).collect();
        let prices = symbols.iter().map(|_| rng.i64(1_500..40_000)).collect();
        Prices { symbols, prices }
    }
}

impl Shape for Prices {
    fn event(&mut self, mut turn: Turn<'_>, event: &mut Event) -> bool {
        let which = turn.rng.usize(..self.symbols.len());
        let price = &mut self.prices[which];
        let thousandths = match turn.rng.u8(..150) {
            // News came out: more than 5 % up or down.
            0 => turn.rng.i64(55..90) * if turn.rng.bool() { 1 } else { -1 },
            _ => turn.rng.i64(-4..=4),
        };
        *price = (*price + *price * thousandths / 1_000).max(100);
        let spread = 1 + *price / 2_000;
        event.kind = if turn.rng.u8(..4) == 0 { "trade" } else { "price_update" };
        let out = &mut event.data;
        out.raw(r#"{"type":""#)
            .raw(event.kind)
            .raw(r#"","symbol":""#)
            .raw(&self.symbols[which])
            .raw(r#"","price":"#)
            .cents(*price);
        out.raw(r#","volume":"#).int(turn.rng.i64(1..=50) * 100).raw(r#","bid":"#).cents(*price - spread);
        out.raw(r#","ask":"#).cents(*price + spread).raw(r#","timestamp":""#).time(&mut turn).raw("\"}");
        true
    }
}

/// Updates of an analytics product: `{"metric_name","value","dimensions","timestamp"}`.
pub(super) struct Analytics;

impl Shape for Analytics {
    fn event(&mut self, mut turn: Turn<'_>, event: &mut Event) -> bool {
        let (name, least, most) =
            [("page_views", 100, 90_000), ("sign_ups", 0, 1_200), ("load_ms", 8_000, 240_000)][turn.rng.usize(..3)];
        event.kind = "metric_update";
        let out = &mut event.data;
        out.raw(r#"{"metric_name":""#).raw(name).raw(r#"","value":"#).cents(turn.rng.i64(least..most));
        out.raw(r#","dimensions":{"country":""#).raw(pick(turn.rng, &["NL", "BR", "JP", "KE", "CA"]));
        out.raw(r#"","device":""#).raw(pick(turn.rng, &["phone", "desktop", "tablet"]));
        out.raw(r#"","campaign":"#).raw(pick(turn.rng, &["null", "\"spring\"", "\"letter-12\""]));
        out.raw(r#"},"timestamp":""#).time(&mut turn).raw("\"}");
        true
    }
}
