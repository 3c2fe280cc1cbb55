//! Looks at the first events of a feed: a report on it, and the columns that a table of it would have.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::error::{Code, Error, Result};
use crate::feed::{self, Feed, ReadOutcome};
use crate::format::infer::{self, Inferred, Samples, identifier};

/// Events whose data is kept for the columns; more say little new.
const SAMPLES_MAX: usize = 1_000;
/// Bytes of data kept in all.
const SAMPLE_BYTES_MAX: usize = 16 << 20;
/// Event types told apart; a feed with more names something else in that place. The rest count as `(others)`.
const TYPES_MAX: usize = 64;
/// How far rows of an event time that was found may be out of order.
pub const DELAY: &str = "5 seconds";
/// The last event of feeds that say that they are at their end.
const DONE: &str = "[DONE]";
/// Characters of a sample that are shown.
const SAMPLE_CHARS: usize = 100;
/// Ids looked at for their style.
const IDS_MAX: usize = 200;

/// What the first events of a feed were.
#[derive(Default)]
pub struct Summary {
    events: u64,
    types: Vec<TypeCount>,
    /// Type (its place in `types`) and data.
    samples: Vec<(usize, String)>,
    sample_bytes: usize,
    /// Distinct ids in a row; an event without one repeats the one before.
    ids: Vec<String>,
    without_id: u64,
    first: Duration,
    last: Duration,
}

struct TypeCount {
    name: String,
    count: u64,
    /// Events whose data is a JSON object with at least one field: rows of a table.
    rows: u64,
}

impl Summary {
    /// Takes an event that came `at` after the connection.
    pub fn push(&mut self, event: feed::Event<'_>, at: Duration) {
        if self.events == 0 {
            self.first = at;
        }
        self.last = at;
        self.events += 1;
        if event.id.is_empty() {
            self.without_id += 1;
        } else if self.ids.len() < IDS_MAX && self.ids.last().is_none_or(|last| last != event.id) {
            self.ids.push(event.id.into());
        }
        let known = self.types.iter().position(|known| known.name == event.kind);
        let place = known.unwrap_or_else(|| {
            if self.types.len() < TYPES_MAX {
                let name = if self.types.len() + 1 == TYPES_MAX { "(others)" } else { event.kind };
                self.types.push(TypeCount { name: name.into(), count: 0, rows: 0 });
            }
            self.types.len() - 1
        });
        self.types[place].count += 1;
        self.types[place].rows += u64::from(is_row(event.data));
        if self.samples.len() < SAMPLES_MAX && self.sample_bytes + event.data.len() <= SAMPLE_BYTES_MAX {
            self.sample_bytes += event.data.len();
            self.samples.push((place, event.data.into()));
        }
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// The columns of a table over such events, from those types whose data are rows; none where no type's are.
    pub fn columns(&self) -> Vec<ColumnLine> {
        self.fields().into_iter().filter(|field| infer::is_name(&field.name)).collect()
    }

    /// The same with a field that can name no column.
    fn fields(&self) -> Vec<ColumnLine> {
        let wanted = self.wanted();
        let mut samples = Samples::default();
        for (_, data) in self.samples.iter().filter(|(kind, _)| wanted[*kind]) {
            samples.push(data);
        }
        let event_time = samples.event_time();
        let line = |column: Inferred| ColumnLine {
            event_time: event_time.as_deref() == Some(&column.column.name),
            sql_type: column.sql_type(),
            name: column.column.name,
            seen: column.seen,
            nulls: column.nulls,
            of: column.of,
            example: column.example,
            unix: column.unix,
        };
        samples.columns().into_iter().map(line).collect()
    }

    /// The options that a table with these columns needs to read the events, beside those that say where they are.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let types = names(&self.types, &self.wanted(), true);
        let mut options = Vec::new();
        // A comma cannot be part of a list of names.
        if !types.is_empty() && types != ["message"] && !types.iter().any(|name| name.contains(',') || *name == "(others)") {
            options.push(("events", types.join(",")));
        }
        let columns = self.columns();
        options.push(("format", if columns.is_empty() { "raw_string" } else { "json" }.into()));
        if let Some(unix) = columns.iter().find_map(|column| column.unix) {
            options.push(("json.timestamp_format", unix.into()));
        }
        if self.samples.last().is_some_and(|(_, data)| data == DONE) {
            options.push(("terminator", DONE.into()));
        }
        options
    }

    /// Types and data of the first events.
    pub fn data(&self) -> impl Iterator<Item = (&str, &str)> {
        self.samples.iter().map(|(kind, data)| (self.types[*kind].name.as_str(), data.as_str()))
    }

    /// The types, and how many events each has.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, u64)> {
        self.types.iter().map(|kind| (kind.name.as_str(), kind.count))
    }

    /// Which types have rows for data, by their place in `types`.
    fn wanted(&self) -> Vec<bool> {
        self.types.iter().map(|kind| kind.rows * 2 > kind.count).collect()
    }

    /// The report on `source`, for whose connection `heartbeat` was seen.
    pub fn report(&self, source: &FeedLocation, heartbeat: Option<Duration>) -> PeekReport {
        let mut notes = Vec::new();
        let wanted = self.wanted();
        let rows = wanted.contains(&true);
        let columns = self.columns();
        let left_out: Vec<&str> = names(&self.types, &wanted, false);
        if rows && !left_out.is_empty() {
            notes.push(format!("left out of the table, as their data are no rows: {}", left_out.join(", ")));
        }
        if !rows {
            notes.push("the data are no JSON objects, so the table takes them as text".into());
        } else if !columns.iter().any(|column| column.event_time) {
            notes.push("no column is a time in every event, so rows count by the time of their arrival".into());
        }
        if rows && self.fields().len() > columns.len() {
            notes.push(
                "left out of the table: the field with the empty name, which cannot name a column (METADATA FROM 'data' has it)"
                    .into(),
            );
        }
        let types = self.types.iter().enumerate().map(|(place, kind)| TypeLine {
            name: kind.name.clone(),
            count: kind.count,
            sample: self.samples.iter().find(|sample| sample.0 == place).map_or_else(String::new, |sample| cut(&sample.1)),
        });
        let span = self.last.saturating_sub(self.first);
        PeekReport {
            url: source.shown(),
            events: self.events,
            rate: (self.events > 1 && !span.is_zero()).then(|| (self.events - 1) as f64 / span.as_secs_f64()),
            ids: self.id_style(),
            heartbeat_seconds: heartbeat.map(|gap| gap.as_secs_f64()),
            types: types.collect(),
            create_table: source.create_table(&columns, &self.options()),
            columns,
            notes,
        }
    }

    fn id_style(&self) -> &'static str {
        let all = |test: fn(&String) -> bool| self.ids.iter().all(test);
        match &self.ids[..] {
            [] => "none: a reconnect starts where the server likes",
            _ if self.without_id > 0 => "only some events have one",
            [_] if self.events > 1 => "always the same: no cursor, use resume = 'off'",
            ids if all(|id| id.parse::<u64>().is_ok()) => {
                let number = |id: &String| id.parse::<u64>().unwrap_or_default();
                match ids.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])) {
                    true => "whole numbers, counting up",
                    false => "whole numbers, in no order",
                }
            }
            _ if all(|id| id.starts_with(['[', '{']) && serde_json::from_str::<serde::de::IgnoredAny>(id).is_ok()) => "JSON",
            _ if all(|id| id.len() == 36 && id.bytes().filter(|byte| *byte == b'-').count() == 4) => "UUIDs",
            _ => "text",
        }
    }
}

/// Whether data is a JSON object with a field in it.
fn is_row(data: &str) -> bool {
    matches!(serde_json::from_str(data), Ok(Value::Object(object)) if !object.is_empty())
}

fn names<'a>(types: &'a [TypeCount], wanted: &[bool], are: bool) -> Vec<&'a str> {
    types.iter().zip(wanted).filter(|(_, wanted)| **wanted == are).map(|(kind, _)| kind.name.as_str()).collect()
}

/// The beginning of `data`, on one line.
fn cut(data: &str) -> String {
    let mut text: String = data.chars().take(SAMPLE_CHARS).map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if data.chars().nth(SAMPLE_CHARS).is_some() {
        text.push('…');
    }
    text
}

/// What the first events told. As JSON, the field names are those of this struct.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeekReport {
    pub url: String,
    pub events: u64,
    /// Events a second between the first and the last.
    pub rate: Option<f64>,
    pub ids: &'static str,
    pub heartbeat_seconds: Option<f64>,
    pub types: Vec<TypeLine>,
    pub columns: Vec<ColumnLine>,
    pub notes: Vec<String>,
    pub create_table: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TypeLine {
    #[serde(rename = "type")]
    pub name: String,
    pub count: u64,
    pub sample: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnLine {
    pub name: String,
    #[serde(rename = "type")]
    pub sql_type: String,
    /// In how many samples it has a value, in how many it is null, and how many there are.
    pub seen: usize,
    pub nulls: usize,
    pub of: usize,
    pub example: String,
    pub event_time: bool,
    /// For whole numbers that are times: the value of `json.timestamp_format` that reads them.
    #[serde(skip)]
    pub unix: Option<&'static str>,
}

/// Where a feed is.
pub enum At {
    Url {
        url: Url,
        /// Without password.
        shown: String,
    },
    File(PathBuf),
}

/// A feed as its table is to name it.
pub struct FeedLocation {
    pub at: At,
    /// The table's name; else one made from the place.
    pub name: Option<String>,
    /// As in the option `headers`, without the values that were typed.
    pub headers: Option<String>,
}

impl FeedLocation {
    /// The table's statement: columns, event time, connector options.
    fn create_table(&self, columns: &[ColumnLine], options: &[(&str, String)]) -> String {
        let mut text = format!("CREATE TABLE {} (\n", identifier(&self.table_name()));
        let mut lines: Vec<String> =
            columns.iter().map(|column| format!("    {} {}", identifier(&column.name), column.sql_type)).collect();
        if columns.is_empty() {
            lines.push("    value TEXT".into());
        }
        if let Some(time) = columns.iter().find(|column| column.event_time) {
            let name = identifier(&time.name);
            lines.push(format!("    WATERMARK FOR {name} AS {name} - INTERVAL '{DELAY}'"));
        }
        text += &lines.join(",\n");
        text += match self.at {
            At::Url { .. } => "\n) WITH (\n    connector = 'sse'",
            At::File(_) => "\n) WITH (\n    connector = 'file'",
        };
        let mut option = |name: &str, value: &str| {
            write!(text, ",\n    {name} = '{}'", value.replace('\'', "''")).expect("a string takes every text");
        };
        option(if matches!(self.at, At::File(_)) { "path" } else { "endpoint" }, &self.shown());
        if let Some(headers) = &self.headers {
            option("headers", headers);
        }
        for (name, value) in options {
            option(name, value);
        }
        text += "\n);\n";
        text
    }

    /// Without password.
    fn shown(&self) -> String {
        match &self.at {
            At::Url { shown, .. } => shown.clone(),
            At::File(path) => path.display().to_string(),
        }
    }

    /// The name that was given, or the last word of the place that is a name, or `events`.
    fn table_name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let word = |segment: &str| {
            let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' };
            segment.chars().map(letter).collect::<String>().trim_matches('_').to_string()
        };
        let words: Vec<String> = match &self.at {
            At::Url { url, .. } => url.path_segments().into_iter().flatten().map(word).collect(),
            At::File(path) => path.file_stem().into_iter().map(|stem| word(&stem.to_string_lossy())).collect(),
        };
        let word = words.into_iter().rfind(|word| word.starts_with(|first: char| first.is_ascii_lowercase()));
        word.unwrap_or_else(|| "events".into())
    }
}

/// A feed while it is looked at.
pub struct Peek {
    feed: Feed,
    /// The place of the feed, for people.
    shown: String,
    /// What came so far.
    pub summary: Summary,
}

impl Peek {
    pub fn new(spec: feed::FeedSpec) -> Peek {
        Peek { shown: spec.shown(), feed: Feed::new(spec, Arc::default()), summary: Summary::default() }
    }

    pub fn status(&self) -> &Arc<feed::FeedStatus> {
        self.feed.status()
    }

    /// Reads until there are so many events, no more come by themselves, or the time is up. No event at all is an error that says why.
    pub async fn read(&mut self, events: u64, time: Duration) -> Result<()> {
        if let Ok(read) = timeout(time, self.read_all(events)).await {
            return read;
        }
        if self.summary.events() > 0 {
            return Ok(());
        }
        let (shown, time) = (&self.shown, humantime::format_duration(time));
        Err(match self.status().snapshot().connects {
            0 => Error::new(Code::Connect, format!("{shown} did not answer within {time}")),
            _ => Error::new(Code::Silent, format!("{shown} is an event stream, but no event came within {time}")),
        }
        .hint("give it more time"))
    }

    async fn read_all(&mut self, events: u64) -> Result<()> {
        let mut connected = Instant::now();
        let Peek { feed, shown, summary } = self;
        while summary.events() < events {
            let mut each = |event: feed::Event<'_>| {
                if summary.events() < events {
                    summary.push(event, connected.elapsed());
                }
            };
            match feed.read(&mut each).await? {
                ReadOutcome::Events => {}
                ReadOutcome::Connected => connected = Instant::now(),
                ReadOutcome::Ended | ReadOutcome::Disconnected if summary.events() > 0 => return Ok(()),
                ReadOutcome::Ended => return Err(Error::new(Code::Silent, format!("{shown} ended before an event came"))),
                ReadOutcome::Disconnected => {
                    let why = feed.status().snapshot().last_error;
                    return Err(Error::new(
                        Code::Connect,
                        why.unwrap_or_else(|| "the connection was lost before an event came".into()),
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> FeedLocation {
        FeedLocation { at: At::Url { url: Url::parse(url).unwrap(), shown: url.into() }, headers: None, name: None }
    }

    #[test]
    fn plain_text_becomes_a_table_of_text() {
        let mut summary = Summary::default();
        summary.push(feed::Event { kind: "message", data: "it rains", id: "", has_id: false, unseen: 0 }, Duration::ZERO);
        let report = summary.report(&place("http://h/weather-now"), None);
        assert_eq!(
            report.create_table,
            "CREATE TABLE weather_now (\n    value TEXT\n) WITH (\n    connector = 'sse',\n    endpoint = 'http://h/weather-now',\n    format = 'raw_string'\n);\n"
        );
    }

    #[test]
    fn ids_are_told_by_their_style() {
        for (ids, expect) in [
            (&["1", "2", "10"][..], "whole numbers, counting up"),
            (&["2", "1"], "whole numbers, in no order"),
            (&["[{\"a\":1}]", "{}"], "JSON"),
            (&["7", "7", "7"], "always the same: no cursor, use resume = 'off'"),
            (&["", "a"], "only some events have one"),
            (&["a", "b"], "text"),
            (&["2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d", "2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7e"], "UUIDs"),
        ] {
            let mut summary = Summary::default();
            for id in ids {
                summary.push(feed::Event { kind: "message", data: "{}", id, has_id: true, unseen: 0 }, Duration::ZERO);
            }
            assert_eq!(summary.id_style(), expect);
        }
    }

    #[test]
    fn types_and_samples_are_bounded() {
        let mut summary = Summary::default();
        for number in 0..5_000 {
            summary.push(
                feed::Event { kind: &format!("t{number}"), data: "{\"a\":1}", id: "", has_id: false, unseen: 0 },
                Duration::ZERO,
            );
        }
        assert_eq!((summary.types.len(), summary.samples.len()), (TYPES_MAX, SAMPLES_MAX));
        assert_eq!(summary.types.iter().map(|kind| kind.count).sum::<u64>(), 5_000);
        assert_eq!(summary.types[TYPES_MAX - 1].name, "(others)");
    }
}
