//! The yardstick: what one would write by hand for one query over one feed, with the same transport, serde and a hash map.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use streamgauge::time::Timestamp;

use crate::case::{Case, PASSES};
use crate::meter::{Answer, Measured, Meter};

pub fn run(case: Case, port: u16) -> Measured {
    let meter = Meter::start();
    let mut answer = Answer::default();
    let mut text = Vec::new();
    match case {
        Case::Tumble => {
            let mut windows = Tumble::default();
            read(port, |data| windows.event(data, &mut text, &mut answer));
            windows.close(i64::MAX, &mut text, &mut answer);
        }
        Case::Hop => {
            let mut windows = Hop::default();
            read(port, |data| windows.event(data, &mut text, &mut answer));
            windows.close(i64::MAX, &mut text, &mut answer);
        }
        Case::Filter => read(port, |data| {
            let row: Metric = serde_json::from_str(data).expect("an event");
            if row.value >= PASSES {
                write(&row, 1, &mut text, &mut answer);
            }
            flush(&mut text);
        }),
        Case::Wiki => {
            let mut windows = Wiki::default();
            read(port, |data| windows.event(data, &mut text, &mut answer));
            windows.close(i64::MAX, &mut text, &mut answer);
        }
        Case::Latency => unreachable!("latency has no yardstick"),
    }
    meter.stop(answer, Vec::new())
}

/// Reads a response to its end, and hands on the data of each event.
fn read(port: u16, mut each: impl FnMut(&str)) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut response = reqwest::get(format!("http://127.0.0.1:{port}/")).await.expect("an answer");
        let mut open: Vec<u8> = Vec::new();
        while let Some(chunk) = response.chunk().await.expect("a chunk") {
            open.extend_from_slice(&chunk);
            let Some(whole) = open.windows(2).rposition(|pair| pair == b"\n\n") else { continue };
            let whole = whole + 2;
            let text = std::str::from_utf8(&open[..whole]).expect("UTF-8");
            let mut data = None;
            let mut start = 0;
            for end in memchr::memchr_iter(b'\n', text.as_bytes()) {
                let line = &text[start..end];
                start = end + 1;
                match line.strip_prefix("data: ") {
                    Some(found) => data = Some(found),
                    None if line.is_empty() => data.take().into_iter().for_each(&mut each),
                    None => {}
                }
            }
            open.drain(..whole);
        }
    });
}

#[derive(Deserialize, Serialize)]
struct Metric<'a> {
    host: &'a str,
    metric: &'a str,
    value: f64,
    timestamp: &'a str,
}

const SECOND: i64 = 1_000_000_000;
const DELAY: i64 = 2 * SECOND;
const TUMBLE: i64 = 10 * SECOND;
const HOP: i64 = 60 * SECOND;

#[derive(Clone)]
struct Numbers {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Numbers {
    fn none() -> Numbers {
        Numbers { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn merge(&mut self, other: &Numbers) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

type Groups = HashMap<String, Numbers>;

fn add(groups: &mut Groups, host: &str, value: f64) {
    match groups.get_mut(host) {
        Some(numbers) => numbers.add(value),
        None => {
            let mut numbers = Numbers::none();
            numbers.add(value);
            groups.insert(host.to_string(), numbers);
        }
    }
}

#[derive(Serialize)]
struct Window {
    start: String,
    end: String,
}

impl Window {
    fn new(end: i64, width: i64) -> Window {
        Window { start: Timestamp(end - width).to_string(), end: Timestamp(end).to_string() }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    host: &'a str,
    count: u64,
    avg: f64,
    min: f64,
    max: f64,
    window: &'a Window,
}

fn write_groups(groups: &Groups, window: &Window, text: &mut Vec<u8>, answer: &mut Answer) {
    for (host, Numbers { count, sum, min, max }) in groups {
        let row = Row { host, count: *count, avg: sum / *count as f64, min: *min, max: *max, window };
        write(&row, *count, text, answer);
    }
    flush(text);
}

fn write(row: &impl Serialize, count: u64, text: &mut Vec<u8>, answer: &mut Answer) {
    serde_json::to_writer(&mut *text, row).expect("a row as text");
    text.push(b'\n');
    answer.rows += 1;
    answer.counted += count;
}

/// Drops the text from time to time, as if it had been written somewhere.
fn flush(text: &mut Vec<u8>) {
    if text.len() > 64 << 10 {
        std::hint::black_box(&text);
        text.clear();
    }
}

/// `(count, sum, min, max)` by host for each window of ten seconds.
#[derive(Default)]
struct Tumble {
    windows: BTreeMap<i64, Groups>,
    greatest: i64,
}

impl Tumble {
    fn event(&mut self, data: &str, text: &mut Vec<u8>, answer: &mut Answer) {
        let row: Metric = serde_json::from_str(data).expect("an event");
        let time = instant(row.timestamp);
        let end = time - time.rem_euclid(TUMBLE) + TUMBLE;
        add(self.windows.entry(end).or_default(), row.host, row.value);
        if time > self.greatest {
            self.greatest = time;
            self.close(time - DELAY, text, answer);
        }
    }

    fn close(&mut self, watermark: i64, text: &mut Vec<u8>, answer: &mut Answer) {
        while let Some(first) = self.windows.first_entry()
            && *first.key() <= watermark
        {
            let (end, groups) = first.remove_entry();
            write_groups(&groups, &Window::new(end, TUMBLE), text, answer);
        }
    }
}

/// The same for each second, and a merge of sixty of them for each window.
#[derive(Default)]
struct Hop {
    seconds: BTreeMap<i64, Groups>,
    greatest: i64,
    /// The end of the next window.
    next: Option<i64>,
}

impl Hop {
    fn event(&mut self, data: &str, text: &mut Vec<u8>, answer: &mut Answer) {
        let row: Metric = serde_json::from_str(data).expect("an event");
        let time = instant(row.timestamp);
        let second = time - time.rem_euclid(SECOND);
        add(self.seconds.entry(second).or_default(), row.host, row.value);
        if time > self.greatest {
            self.greatest = time;
            self.close(time - DELAY, text, answer);
        }
    }

    fn close(&mut self, watermark: i64, text: &mut Vec<u8>, answer: &mut Answer) {
        while let Some((first, _)) = self.seconds.first_key_value() {
            let end = self.next.unwrap_or(0).max(first + SECOND);
            if end > watermark {
                return;
            }
            let mut all = Groups::new();
            for groups in self.seconds.range(end - HOP..end).map(|(_, groups)| groups) {
                for (host, numbers) in groups {
                    match all.get_mut(host) {
                        Some(sum) => sum.merge(numbers),
                        None => _ = all.insert(host.clone(), numbers.clone()),
                    }
                }
            }
            write_groups(&all, &Window::new(end, HOP), text, answer);
            self.seconds.remove(&(end - HOP));
            self.next = Some(end + SECOND);
        }
    }
}

#[derive(Deserialize)]
struct Edit<'a> {
    wiki: &'a str,
    r#type: &'a str,
    bot: bool,
    namespace: i64,
    length: Length,
    #[serde(borrow)]
    meta: Meta<'a>,
}

#[derive(Deserialize)]
struct Length {
    old: Option<i64>,
    new: Option<i64>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    dt: &'a str,
}

#[derive(Default)]
struct Edits {
    count: u64,
    grown: Option<i64>,
    bots: u64,
    namespace: i64,
}

#[derive(Serialize)]
struct EditRow<'a> {
    wiki: &'a str,
    r#type: &'a str,
    count: u64,
    grown: Option<i64>,
    bots: u64,
    namespace: i64,
    window: &'a Window,
}

/// Edits by wiki and type for each window of ten seconds.
#[derive(Default)]
struct Wiki {
    windows: BTreeMap<i64, HashMap<String, HashMap<String, Edits>>>,
    greatest: i64,
}

impl Wiki {
    fn event(&mut self, data: &str, text: &mut Vec<u8>, answer: &mut Answer) {
        let edit: Edit = serde_json::from_str(data).expect("an event");
        let time = instant(edit.meta.dt);
        let end = time - time.rem_euclid(TUMBLE) + TUMBLE;
        let wikis = self.windows.entry(end).or_default();
        if !wikis.contains_key(edit.wiki) {
            wikis.insert(edit.wiki.to_string(), HashMap::new());
        }
        let types = wikis.get_mut(edit.wiki).expect("it was just put there");
        if !types.contains_key(edit.r#type) {
            types.insert(edit.r#type.to_string(), Edits::default());
        }
        let edits = types.get_mut(edit.r#type).expect("it was just put there");
        edits.count += 1;
        if let (Some(old), Some(new)) = (edit.length.old, edit.length.new) {
            edits.grown = Some(edits.grown.unwrap_or(0) + new - old);
        }
        edits.bots += u64::from(edit.bot);
        edits.namespace = edits.namespace.max(edit.namespace);
        if time > self.greatest {
            self.greatest = time;
            self.close(time - DELAY, text, answer);
        }
    }

    fn close(&mut self, watermark: i64, text: &mut Vec<u8>, answer: &mut Answer) {
        while let Some(first) = self.windows.first_entry()
            && *first.key() <= watermark
        {
            let (end, wikis) = first.remove_entry();
            let window = &Window::new(end, TUMBLE);
            for (wiki, types) in &wikis {
                for (r#type, Edits { count, grown, bots, namespace }) in types {
                    let row = EditRow { wiki, r#type, count: *count, grown: *grown, bots: *bots, namespace: *namespace, window };
                    write(&row, *count, text, answer);
                }
            }
            flush(text);
        }
    }
}

/// Nanoseconds since 1970 of exactly `2026-03-01T12:00:00.000Z`.
fn instant(text: &str) -> i64 {
    let number = |from: usize, to: usize| text.as_bytes()[from..to].iter().fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0'));
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + number(11, 13) * 3_600 + number(14, 16) * 60 + number(17, 19);
    seconds * SECOND + number(20, 23) * 1_000_000
}
