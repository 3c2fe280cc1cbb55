//! `streamgauge peek`: the first events of a feed become a report on it and a proposal for its table.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use url::Url;

use super::args::{self, Exit};
use crate::error::{Code, Error, Result};
use crate::feed::{self, Feed, Reading, Spec, Status};
use crate::format::infer::{Samples, identifier};
use crate::options::{Given, TableOptions};

/// Events whose data is kept for the columns; more say little new.
const SAMPLES_MAX: usize = 1_000;
/// Bytes of data kept in all.
const SAMPLE_BYTES_MAX: usize = 16 << 20;
/// Event types told apart; a feed with more names something else in that place. The rest count as `(others)`.
const TYPES_MAX: usize = 64;
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

    /// The report on `source`, for whose connection `heartbeat` was seen.
    pub fn report(&self, source: &Place, heartbeat: Option<Duration>) -> Report {
        let mut notes = Vec::new();
        let wanted: Vec<bool> = self.types.iter().map(|kind| kind.rows * 2 > kind.count).collect();
        let rows = wanted.contains(&true);
        let mut samples = Samples::default();
        for (_, data) in self.samples.iter().filter(|(kind, _)| wanted[*kind] || !rows) {
            samples.push(data);
        }
        let event_time = samples.event_time();
        let columns: Vec<ColumnLine> = samples
            .columns()
            .into_iter()
            .filter(|_| rows)
            .map(|column| ColumnLine {
                event_time: event_time.as_deref() == Some(&column.column.name),
                sql_type: column.sql_type(),
                name: column.column.name,
                seen: column.seen,
                nulls: column.nulls,
                of: column.of,
                example: column.example,
                unix: column.unix,
            })
            .collect();
        let left_out: Vec<&str> = names(&self.types, &wanted, false);
        if rows && !left_out.is_empty() {
            notes.push(format!("left out of the table, as their data are no rows: {}", left_out.join(", ")));
        }
        if !rows {
            notes.push("the data are no JSON objects, so the table takes them as text".into());
        } else if event_time.is_none() {
            notes.push("no column is a time in every event, so rows count by the time of their arrival".into());
        }
        let done = self.samples.last().is_some_and(|(_, data)| data == "[DONE]");
        let types = self.types.iter().enumerate().map(|(place, kind)| TypeLine {
            name: kind.name.clone(),
            count: kind.count,
            sample: self.samples.iter().find(|sample| sample.0 == place).map_or_else(String::new, |sample| cut(&sample.1)),
        });
        let span = self.last.saturating_sub(self.first);
        Report {
            url: source.shown.clone(),
            events: self.events,
            rate: (self.events > 1 && !span.is_zero()).then(|| (self.events - 1) as f64 / span.as_secs_f64()),
            ids: self.id_style(),
            heartbeat_seconds: heartbeat.map(|gap| gap.as_secs_f64()),
            types: types.collect(),
            create_table: source.create_table(&columns, &names(&self.types, &wanted, true), done),
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

/// What `peek` tells. With `--json` the field names are those of this struct.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
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
    #[serde(skip)]
    unix: Option<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.url)?;
        write!(f, "  {} events", self.events)?;
        match self.rate {
            Some(rate) => writeln!(f, ", {rate:.1} a second")?,
            None => writeln!(f, ", all at once")?,
        }
        writeln!(f, "  ids: {}", self.ids)?;
        match self.heartbeat_seconds {
            Some(gap) => writeln!(f, "  heartbeat: every {gap:.0} s")?,
            None => writeln!(f, "  heartbeat: none seen in this time")?,
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        let widest = |texts: &mut dyn Iterator<Item = &str>| texts.map(|text| text.chars().count()).max().unwrap_or(0).min(40);
        writeln!(f, "\nevent types")?;
        let width = widest(&mut self.types.iter().map(|kind| kind.name.as_str()));
        for kind in &self.types {
            writeln!(f, "  {:width$}  {:>6}  {}", kind.name, kind.count, kind.sample)?;
        }
        if !self.columns.is_empty() {
            writeln!(f, "\ncolumns")?;
            let width = widest(&mut self.columns.iter().map(|column| column.name.as_str()));
            let types = widest(&mut self.columns.iter().map(|column| column.sql_type.as_str()));
            for column in &self.columns {
                let nulls = if column.nulls > 0 { format!(", {} null", column.nulls) } else { String::new() };
                let seen = format!("in {} of {}{nulls}", column.seen + column.nulls, column.of);
                writeln!(f, "  {:width$}  {:types$}  {seen}, as in {}", column.name, column.sql_type, column.example)?;
            }
        }
        write!(f, "\n{}", self.create_table)
    }
}

/// A feed as its table is to name it.
pub struct Place {
    url: Url,
    /// Without password.
    shown: String,
    /// As in the option `headers`, without the values that were typed.
    headers: Option<String>,
}

impl Place {
    /// The table's statement: columns, event time, connector options.
    fn create_table(&self, columns: &[ColumnLine], types: &[&str], done: bool) -> String {
        let mut text = format!("CREATE TABLE {} (\n", identifier(&self.table_name()));
        let mut lines: Vec<String> =
            columns.iter().map(|column| format!("    {} {}", identifier(&column.name), column.sql_type)).collect();
        if columns.is_empty() {
            lines.push("    value TEXT".into());
        }
        if let Some(time) = columns.iter().find(|column| column.event_time) {
            let name = identifier(&time.name);
            lines.push(format!("    WATERMARK FOR {name} AS {name} - INTERVAL '5 seconds'"));
        }
        text += &lines.join(",\n");
        text += "\n) WITH (\n    connector = 'sse'";
        let mut option = |name: &str, value: &str| {
            write!(text, ",\n    {name} = '{}'", value.replace('\'', "''")).expect("a string takes every text");
        };
        option("endpoint", &self.shown);
        if let Some(headers) = &self.headers {
            option("headers", headers);
        }
        // A comma cannot be part of a list of names.
        if !types.is_empty() && types != ["message"] && !types.iter().any(|name| name.contains(',') || *name == "(others)") {
            option("events", &types.join(","));
        }
        option("format", if columns.is_empty() { "raw_string" } else { "json" });
        if let Some(unix) = columns.iter().find_map(|column| column.unix) {
            option("json.timestamp_format", unix);
        }
        if done {
            option("terminator", "[DONE]");
        }
        text += "\n);\n";
        text
    }

    /// The last word of the path that is a name, or `events`.
    fn table_name(&self) -> String {
        let mut words = self.url.path_segments().into_iter().flatten().map(|segment| {
            let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' };
            segment.chars().map(letter).collect::<String>().trim_matches('_').to_string()
        });
        let word = words.rfind(|word| word.starts_with(|first: char| first.is_ascii_lowercase()));
        word.unwrap_or_else(|| "events".into())
    }
}

/// `streamgauge peek`: reads until it has enough, the time is up, or `interrupted` is ready.
pub async fn run(args: args::Peek, interrupted: impl Future<Output = ()>) -> Result<Exit> {
    let (options, headers) = options(&args)?;
    let endpoint = options.endpoint.clone().ok_or_else(|| Error::bug("an endpoint was given and is gone"))?;
    let place = Place { url: endpoint.0.clone(), shown: endpoint.to_string(), headers };
    let mut feed = Feed::new(Spec::new(&options).map_err(first)?, Arc::new(Status::new()));
    let mut summary = Summary::default();
    let read = timeout(args.timeout, read(&mut feed, &mut summary, args.events.get()));
    let interrupted = tokio::select! {
        read = read => {
            // When the time is up, what came until then is reported.
            read.unwrap_or(Ok(()))?;
            false
        }
        () = interrupted => true,
    };
    let status = feed.status().snapshot();
    if summary.events == 0 {
        if interrupted {
            return Ok(Exit::Interrupted);
        }
        let time = humantime::format_duration(args.timeout);
        return Err(match status.connects {
            0 => Error::new(Code::Connect, format!("{} did not answer within {time}", place.shown)),
            _ => Error::new(Code::Silent, format!("{} is an event stream, but no event came within {time}", place.shown)),
        }
        .hint("give it more time with --timeout"));
    }
    let report = summary.report(&place, status.heartbeat);
    print(&match args.json {
        true => serde_json::to_string_pretty(&report).map_err(|error| Error::bug(error.to_string()))? + "\n",
        false => report.to_string(),
    })?;
    Ok(if interrupted { Exit::Interrupted } else { Exit::Done })
}

async fn read(feed: &mut Feed, summary: &mut Summary, events: u64) -> Result<()> {
    let mut connected = Instant::now();
    while summary.events() < events {
        let mut each = |event: feed::Event<'_>| {
            if summary.events() < events {
                summary.push(event, connected.elapsed());
            }
        };
        match feed.read(&mut each).await? {
            Reading::Events => {}
            Reading::Connected => connected = Instant::now(),
            Reading::Ended => return Ok(()),
            Reading::Disconnected if summary.events() > 0 => return Ok(()),
            Reading::Disconnected => {
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

/// The options of the table, and its `headers` as they may be shown: each value that was typed becomes a variable of a telling name.
fn options(args: &args::Peek) -> Result<(TableOptions, Option<String>)> {
    let mut headers = serde_json::Map::new();
    let mut shown = Vec::new();
    for header in &args.headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| Error::new(Code::BadOption, "a header given with -H has no ':'").hint("write -H 'Name: value'"))?;
        let (name, value) = (name.trim(), value.trim());
        shown.push(match value.contains("{{") && !value.contains([',', '"']) {
            true => format!("{name}: {value}"),
            false => format!("{name}: {{{{ {} }}}}", name.to_ascii_uppercase().replace('-', "_")),
        });
        headers.insert(name.into(), value.into());
    }
    let mut given = vec![("connector", "sse".to_string()), ("endpoint", args.url.clone())];
    if !headers.is_empty() {
        given.push(("headers", Value::Object(headers).to_string()));
    }
    let given: Vec<Given> = given.into_iter().map(|(name, value)| Given { name: name.into(), value, span: None }).collect();
    let options = TableOptions::read(&given).map_err(first)?;
    Ok((options, Some(shown.join(", ")).filter(|shown| !shown.is_empty())))
}

/// The first of several errors: on a command line there is one thing to correct at a time.
fn first(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or_else(|| Error::bug("refused without an error"))
}

fn print(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::new(Code::File, format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, Kind, Sample, Settings};
    use super::*;

    fn place(url: &str) -> Place {
        Place { url: Url::parse(url).unwrap(), shown: url.into(), headers: None }
    }

    /// The report on the first `count` events of a made-up feed at ten events a second.
    fn peeked(kind: Kind, count: u64, url: &str) -> Report {
        let mut sample = Sample::new(Settings { count: Some(count), ..Settings::new(kind, 1) });
        let (mut event, mut summary) = (sample::Event::default(), Summary::default());
        while sample.next(&mut event) {
            let kind = if event.kind.is_empty() { "message" } else { event.kind };
            let data = std::str::from_utf8(&event.data).unwrap();
            summary.push(feed::Event { kind, data, id: &event.id }, Duration::from_millis(100) * summary.events() as u32);
        }
        summary.report(&place(url), Some(Duration::from_secs(15)))
    }

    #[test]
    fn metrics_are_reported_with_types_columns_and_a_table() {
        insta::assert_snapshot!(peeked(Kind::SystemMetrics, 40, "http://127.0.0.1:8090/feeds/metrics"));
    }

    #[test]
    fn what_is_no_row_is_left_out() {
        insta::assert_snapshot!(peeked(Kind::Transit, 60, "https://api.example/v3/vehicles?filter=a"));
    }

    #[test]
    fn an_answer_of_a_language_model_ends_with_its_terminator() {
        let report = peeked(Kind::Llm, 10, "https://api.example/");
        assert!(report.create_table.contains("terminator = '[DONE]'"), "{report}");
        assert!(report.create_table.starts_with("CREATE TABLE events ("), "{report}");
        assert_eq!(report.ids, "none: a reconnect starts where the server likes");
    }

    #[test]
    fn plain_text_becomes_a_table_of_text() {
        let mut summary = Summary::default();
        summary.push(feed::Event { kind: "message", data: "it rains", id: "" }, Duration::ZERO);
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
                summary.push(feed::Event { kind: "message", data: "{}", id }, Duration::ZERO);
            }
            assert_eq!(summary.id_style(), expect);
        }
    }

    #[test]
    fn types_and_samples_are_bounded() {
        let mut summary = Summary::default();
        for number in 0..5_000 {
            summary.push(feed::Event { kind: &format!("t{number}"), data: "{\"a\":1}", id: "" }, Duration::ZERO);
        }
        assert_eq!((summary.types.len(), summary.samples.len()), (TYPES_MAX, SAMPLES_MAX));
        assert_eq!(summary.types.iter().map(|kind| kind.count).sum::<u64>(), 5_000);
        assert_eq!(summary.types[TYPES_MAX - 1].name, "(others)");
    }

    #[test]
    fn typed_header_values_never_show() {
        let args = |headers: &[&str]| args::Peek {
            url: "http://h/".into(),
            headers: headers.iter().map(|header| (*header).into()).collect(),
            events: std::num::NonZeroU64::MIN,
            timeout: Duration::ZERO,
            json: false,
        };
        let (_, shown) = options(&args(&["Authorization: Bearer s3cret", "X-Key: {{ KEY }}"])).unwrap();
        assert_eq!(shown.as_deref(), Some("Authorization: {{ AUTHORIZATION }}, X-Key: {{ KEY }}"));
        let error = options(&args(&["s3cret"])).unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
    }
}
