//! Made-up feeds in the shape of real ones: a seed in, the same events out, with times, disorder and ids.

mod documents;
mod numbers;
mod oddities;

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;
use fastrand::Rng;

use super::args::{self, Wire};
use super::replay::render;
use crate::time::{Timestamp, nanos_of};

pub use self::oddities::BAD;

/// The feeds there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// `cpu`, `memory`, `disk`, `network` of hosts: host, metric, value, tags, timestamp.
    SystemMetrics,
    /// `price_update` and `trade` of symbols, now and then a jump of more than 5 %.
    StockPrices,
    /// `metric_update` of an analytics product, with dimensions.
    Analytics,
    /// Pushes, issues and stars of repositories; no event types.
    GithubEvents,
    /// `breaking_news` and `update`.
    News,
    /// Edits of an encyclopedia: 1.5 KB, some forty fields, nested; ids are JSON.
    Wikipedia,
    /// The answer of a language model in pieces, `[DONE]` at its end; no ids.
    Llm,
    /// Vehicles on their way: arrays, bare numbers and keep-alives as events of their own types.
    Transit,
    /// System metrics, every second one bad in another way.
    BadEvents,
}

/// What a feed is made from. Equal settings give equal events.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub kind: Kind,
    pub seed: u64,
    /// How many events there are. `None`: no end (but an [`Kind::Llm`] answer has one).
    pub count: Option<u64>,
    /// Event time of the first event.
    pub start: Timestamp,
    /// Events in a second of event time.
    pub rate: f64,
    /// One event in eight is up to this much older than its place says; none is older.
    pub disorder: Duration,
    /// Distinct keys (hosts, symbols, repositories, …). `None`: what suits the kind.
    pub keys: Option<NonZeroU64>,
}

impl Settings {
    /// Ten events a second from 2026-03-01T12:00:00Z on, up to two seconds out of order, without end.
    pub fn new(kind: Kind, seed: u64) -> Self {
        Settings {
            kind,
            seed,
            count: None,
            start: Timestamp(1_772_366_400_000_000_000),
            rate: 10.0,
            disorder: Duration::from_secs(2),
            keys: None,
        }
    }
}

/// One event; its buffers are used again for the next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Event {
    /// The event type; empty for none.
    pub kind: &'static str,
    /// Empty for none.
    pub id: String,
    /// JSON, except where a kind says otherwise. No line ends.
    pub data: Vec<u8>,
}

/// A feed on its way.
pub struct Sample {
    shape: Box<dyn Shape>,
    rng: Rng,
    clock: Clock,
    made: u64,
    settings: Settings,
}

/// Writes the events of one kind.
trait Shape: Send {
    /// Fills `event`, whose data is empty and whose id is the number of the event; `false` if the feed has ended.
    fn event(&mut self, turn: Turn<'_>, event: &mut Event) -> bool;
}

/// What an event is made from.
struct Turn<'a> {
    /// Counted from 1.
    number: u64,
    last: bool,
    time: Timestamp,
    rng: &'a mut Rng,
    clock: &'a mut Clock,
}

impl Sample {
    pub fn new(settings: Settings) -> Self {
        let mut rng = Rng::with_seed(settings.seed);
        let keys = |usual: u64| settings.keys.map_or(usual, u64::from);
        let shape: Box<dyn Shape> = match settings.kind {
            Kind::SystemMetrics => Box::new(numbers::Metrics::new(keys(8), &mut rng)),
            Kind::StockPrices => Box::new(numbers::Prices::new(keys(8), &mut rng)),
            Kind::Analytics => Box::new(numbers::Analytics),
            Kind::GithubEvents => Box::new(documents::Github { repositories: keys(8) }),
            Kind::News => Box::new(documents::News { sources: keys(6) }),
            Kind::Wikipedia => Box::new(documents::Wikipedia { pages: keys(500) }),
            Kind::Llm => Box::new(oddities::Answer),
            Kind::Transit => Box::new(oddities::Transit { vehicles: keys(6) }),
            Kind::BadEvents => Box::new(oddities::Bad(numbers::Metrics::new(keys(4), &mut rng))),
        };
        Sample { shape, rng, clock: Clock::default(), made: 0, settings }
    }

    /// Writes the next event into `event`; `false` at the end.
    pub fn next(&mut self, event: &mut Event) -> bool {
        if self.settings.count.is_some_and(|count| self.made >= count) {
            return false;
        }
        let place = (self.made as f64 * 1e9 / self.settings.rate) as i64;
        let late = match self.rng.u8(..8) {
            0 => self.rng.i64(0..=nanos_of(self.settings.disorder)),
            _ => 0,
        };
        self.made += 1;
        event.data.clear();
        event.id.clear();
        event.id.push_str(itoa::Buffer::new().format(self.made));
        let turn = Turn {
            number: self.made,
            last: self.settings.count == Some(self.made),
            time: Timestamp(self.settings.start.nanos().saturating_add(place).saturating_sub(late)),
            rng: &mut self.rng,
            clock: &mut self.clock,
        };
        self.shape.event(turn, event)
    }
}

/// Writes times; most are in the same second as the one before.
#[derive(Default)]
struct Clock {
    second: Option<i64>,
    /// `2026-03-01T12:00:00`
    text: String,
}

impl Clock {
    /// Appends RFC 3339 in UTC with milliseconds.
    fn write(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        let second = time.nanos().div_euclid(1_000_000_000);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = Timestamp(second.saturating_mul(1_000_000_000)).to_string();
            self.text.pop();
        }
        let millis = time.nanos().rem_euclid(1_000_000_000) / 1_000_000;
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
    }
}

fn digit(number: i64) -> u8 {
    b'0' + (number % 10) as u8
}

/// JSON, put together from pieces that need no escaping.
trait Pieces {
    fn raw(&mut self, text: &str) -> &mut Self;
    fn int(&mut self, number: i64) -> &mut Self;
    /// Hundredths, with two decimals.
    fn cents(&mut self, cents: i64) -> &mut Self;
    fn time(&mut self, turn: &mut Turn<'_>) -> &mut Self;
    /// As many hexadecimal digits.
    fn hex(&mut self, digits: usize, rng: &mut Rng) -> &mut Self;
}

impl Pieces for Vec<u8> {
    fn raw(&mut self, text: &str) -> &mut Self {
        self.extend_from_slice(text.as_bytes());
        self
    }

    fn int(&mut self, number: i64) -> &mut Self {
        self.raw(itoa::Buffer::new().format(number))
    }

    fn cents(&mut self, cents: i64) -> &mut Self {
        if cents < 0 {
            self.push(b'-');
        }
        let cents = cents.abs();
        self.int(cents / 100);
        self.extend_from_slice(&[b'.', digit(cents / 10), digit(cents)]);
        self
    }

    fn time(&mut self, turn: &mut Turn<'_>) -> &mut Self {
        turn.clock.write(turn.time, self);
        self
    }

    fn hex(&mut self, digits: usize, rng: &mut Rng) -> &mut Self {
        self.extend((0..digits).map(|_| b"0123456789abcdef"[rng.usize(..16)]));
        self
    }
}

fn pick<'a, T: ?Sized>(rng: &mut Rng, list: &[&'a T]) -> &'a T {
    list[rng.usize(..list.len())]
}

/// In a recorded stream, a heartbeat stands before every event with a number that this divides.
const HEARTBEAT_EVERY: u64 = 50;

/// Writes the whole feed, as a recorded stream or line by line.
pub fn write(settings: Settings, wire: Wire, out: &mut impl Write) -> io::Result<()> {
    let mut sample = Sample::new(settings);
    let (mut event, mut text) = (Event::default(), Vec::new());
    if wire == Wire::Sse {
        text.extend_from_slice(b"retry: 1000\n\n");
    }
    while sample.next(&mut event) {
        match wire {
            Wire::Ndjson => {
                text.extend_from_slice(&event.data);
                text.push(b'\n');
            }
            Wire::Sse => {
                if sample.made.is_multiple_of(HEARTBEAT_EVERY) {
                    text.extend_from_slice(b": heartbeat\n\n");
                }
                render(event.kind, &event.id, &event.data, &mut text);
            }
        }
        out.write_all(&text)?;
        text.clear();
    }
    out.flush()
}

/// Writes the feed that was asked for.
pub fn write_as(args: &args::Sample, out: &mut impl Write) -> io::Result<()> {
    let settings = Settings {
        kind: args.kind,
        seed: args.seed,
        count: Some(args.count),
        start: Timestamp(args.start.duration_since(UNIX_EPOCH).map_or(0, nanos_of)),
        rate: args.rate,
        disorder: args.disorder,
        keys: args.keys,
    };
    write(settings, args.format, out)
}

/// `streamgauge sample`: to standard output.
pub fn run(args: &args::Sample) -> io::Result<()> {
    write_as(args, &mut io::BufWriter::new(io::stdout().lock()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(settings: Settings) -> Vec<Event> {
        let (mut sample, mut events, mut event) = (Sample::new(settings), Vec::new(), Event::default());
        while events.len() < 500 && sample.next(&mut event) {
            events.push(event.clone());
        }
        events
    }

    #[test]
    fn a_seed_gives_the_same_events_and_another_gives_others() {
        for kind in Kind::value_variants() {
            let one = events(Settings::new(*kind, 7));
            assert!(one.len() > 20, "{kind:?}");
            assert_eq!(one, events(Settings::new(*kind, 7)), "{kind:?}");
            assert_ne!(one, events(Settings::new(*kind, 8)), "{kind:?}");
        }
    }

    #[test]
    fn data_is_json_on_one_line_where_it_should_be() {
        for kind in Kind::value_variants() {
            for event in events(Settings::new(*kind, 1)) {
                assert!(memchr::memchr2(b'\n', b'\r', &event.data).is_none(), "{kind:?}");
                if *kind != Kind::BadEvents && event.data != b"[DONE]" {
                    let parsed = serde_json::from_slice::<serde_json::Value>(&event.data);
                    assert!(parsed.is_ok(), "{kind:?}: {}", String::from_utf8_lossy(&event.data));
                }
            }
        }
    }

    #[test]
    fn disorder_stays_within_its_bound() {
        let settings = Settings { disorder: Duration::from_secs(3), ..Settings::new(Kind::SystemMetrics, 3) };
        let times: Vec<i64> = events(settings)
            .iter()
            .map(|event| {
                let value: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
                nanos_of(
                    humantime::parse_rfc3339(value["timestamp"].as_str().unwrap()).unwrap().duration_since(UNIX_EPOCH).unwrap(),
                )
            })
            .collect();
        let mut newest = i64::MIN;
        let behind: Vec<i64> = times
            .iter()
            .map(|time| {
                newest = newest.max(*time);
                newest - time
            })
            .collect();
        assert!(behind.iter().any(|nanos| *nanos > 1_000_000_000));
        // Times are written in milliseconds.
        assert!(behind.iter().all(|nanos| *nanos <= 3_001_000_000), "{behind:?}");
    }

    #[test]
    fn a_wikipedia_edit_has_the_size_and_the_fields_of_a_real_one() {
        fn leaves(value: &serde_json::Value) -> usize {
            value.as_object().map_or(1, |object| object.values().map(leaves).sum())
        }
        let events = events(Settings::new(Kind::Wikipedia, 1));
        let mean = events.iter().map(|event| event.data.len()).sum::<usize>() / events.len();
        assert!((1_350..1_700).contains(&mean), "{mean} bytes");
        let value: serde_json::Value = serde_json::from_slice(&events[0].data).unwrap();
        assert!((38..=44).contains(&leaves(&value)), "{} fields", leaves(&value));
    }
}
