//! Every `WITH` option, declared once: the list below gives the typed struct, its reader with the errors, and the tables of help and documentation.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::error::{Code, Error, Result, Span, nearest};

/// An option as a user wrote it: name, value as text, and where it stands in the script.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenOption {
    pub name: String,
    pub value: String,
    pub span: Option<Span>,
}

/// What help and documentation say about one option.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    pub name: &'static str,
    /// Other spellings, accepted everywhere.
    pub aliases: &'static [&'static str],
    /// The default as a user would write it; empty where there is none.
    pub default: &'static str,
    /// What a value looks like.
    pub expects: &'static str,
    pub doc: &'static str,
    pub takes: Takes,
}

/// When another value of an option takes effect where the table or view is there already. It is the same for what runs and after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// With the next event.
    AtOnce,
    /// With the next connection, which the change brings about; the feed goes on after its last event.
    Connecting,
    /// With views that are made from then on; those that run go on as they were made.
    LaterViews,
    /// Only with a table or view that is made anew: what it has said until then is gone.
    Anew,
}

/// The property of an option for which none is said.
macro_rules! takes {
    () => {
        Takes::Connecting
    };
    ($takes:ident) => {
        Takes::$takes
    };
}

/// A type of option values.
pub trait Value: Sized {
    /// What a value looks like, for errors and help: `a duration such as '5s'`.
    const EXPECTS: &'static str;
    /// Reads the text of a value. The error is a reason only; name and expectation are added by the caller.
    fn read(text: &str) -> Result<Self, String>;
}

/// Declares a group of options as a struct: `/// doc`, field, spellings beside the field's own, type, default as text, and when a change
/// takes effect, where that is not with the next connection.
macro_rules! options {
    ($(#[$about:meta])* $group:ident {
        $($(#[doc = $doc:literal])+ $field:ident $([$($alias:literal),+])? : $type:ty = $default:literal $(, $takes:ident)?;)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $group { $($(#[doc = $doc])+ pub $field: $type,)* }

        impl $group {
            /// The options of this group in the order of the documentation.
            pub const DECLARED: &[Declared] = &[$(Declared {
                name: name_of(stringify!($field)),
                aliases: &[$($($alias),+)?],
                default: $default,
                expects: <$type as Value>::EXPECTS,
                doc: concat!($($doc),+).trim_ascii(),
                takes: takes!($($takes)?),
            },)*];

            /// Reads what was given, in any order; all errors, not only the first.
            pub fn read(given: &[GivenOption]) -> Result<Self, Vec<Error>> {
                let mut errors = Vec::new();
                let found = find(given, Self::DECLARED, &mut errors);
                let mut index = 0;
                $(
                    let $field = found[index].map_or_else(
                        || <$type as Value>::read($default).map_err(|_| missing(&Self::DECLARED[index])),
                        |given| read_one::<$type>(given),
                    );
                    let $field = $field.map_err(|error| errors.push(error)).ok();
                    index += 1;
                )*
                let _ = index;
                match ($($field,)*) {
                    ($(Some($field),)*) if errors.is_empty() => Ok($group { $($field,)* }),
                    _ => Err(errors),
                }
            }
        }
    };
}

/// The two names with a dot in them cannot be written as Rust fields.
const fn name_of(field: &'static str) -> &'static str {
    match field.as_bytes() {
        b"json_unstructured" => "json.unstructured",
        b"json_timestamp_format" => "json.timestamp_format",
        _ => field,
    }
}

options! {
    /// What `CREATE TABLE … WITH (…)` may say about a table of the connector `sse` or `file`.
    TableOptions {
        /// Where the table comes from: `sse`, an event stream over HTTP, or `file`, a recorded one.
        connector: Connector = "", Anew;
        /// URL of the feed (`http` or `https`, may carry port, path and user). Required by `sse`.
        endpoint ["url"]: Option<Endpoint> = "", Anew;
        /// Path of an NDJSON file or a recorded `.sse` stream. Required by `file`.
        path: Option<PathBuf> = "", Anew;
        /// Request headers, `Name: value` separated by commas; a value with a comma stands in double quotes; or a JSON object. `{{ NAME }}` is filled in from the environment when connecting.
        headers: String = "";
        /// The event types to keep, separated by commas; an event without a type is a `message`. Default: all.
        events: NameList = "";
        /// The direction of the table. Only `source`: event streams are read, never written.
        r#type: Direction = "source", Anew;
        /// How an event's data is read: `json` into the declared columns, `raw_string` into one column `value TEXT`; `debezium_json` and `wal2json` (format-version 2) are changes of a database's rows, and need a primary key.
        format: Format = "json", Anew;
        /// The columns that name a row, separated by commas, as `PRIMARY KEY (…)` does: an event then says what its row is from now on, in the place of what it was. Default: every event is a row of its own.
        primary_key: NameList = "", Anew;
        /// The table of the database to keep, as `public.metrics` or `metrics`, where a change feed carries several. Default: all that comes.
        table: Option<String> = "", Anew;
        /// Method of the request.
        method: Method = "GET";
        /// Body of the request, sent again on every reconnect; `{{ NAME }}` is filled in.
        body: Option<String> = "";
        /// Whether to connect again when the stream ends. `false` makes the feed finite: it ends, and all windows close. Default: `false` for `POST`, else `true`.
        reconnect ["autoReconnect"]: Option<bool> = "", Anew;
        /// Wait before a reconnect; doubles with each failure in a row, plus up to half as much at random. An end behind something new is no failure. A server's `retry:` takes its place.
        reconnect_delay ["reconnectDelay"]: Duration = "1s";
        /// Longest wait between attempts, before the random part.
        reconnect_max_delay: Duration = "60s";
        /// Failed attempts in a row after which the feed is given up. Default: never.
        max_reconnect_attempts ["maxReconnectAttempts"]: Option<u64> = "";
        /// Longest wait for a connection, TLS included.
        connect_timeout: Duration = "10s";
        /// Watchdog: reconnect when no byte, not even a heartbeat, came for so long. `auto` is three times the heartbeat gap it sees, at least 30 s; five minutes where it sees none.
        read_timeout: ReadTimeout = "auto";
        /// The event id to start after, as if it had been seen before.
        last_event_id: Option<String> = "";
        /// How a reconnect says where to go on: `header` (`Last-Event-ID`), `query:NAME`, or `off` where ids are no cursors.
        resume: Resume = "header";
        /// Whether the latest events are remembered, also across a restart, so that what a server sends again after a reconnect counts once.
        deduplicate: bool = "true";
        /// Largest event in bytes; a larger one is dropped and counted.
        max_event_bytes: Bytes = "16MiB";
        /// Data that ends the feed, as `[DONE]` does in the streams of language models. Default: none.
        terminator: Option<String> = "";
        /// PEM file with certificate authorities to trust besides the system's.
        tls_ca_file: Option<PathBuf> = "";
        /// PEM file with a client certificate and its key.
        tls_client_file: Option<PathBuf> = "";
        /// Proxy to go through (`http`, `https`, `socks5`), or `off`. Default: the environment's.
        proxy: Option<String> = "";
        /// What becomes of an event that cannot be read: kept as a sample with its reason (`dead_letter`), only counted (`drop`), or the end of the table (`fail`).
        bad_data: BadData = "dead_letter", AtOnce;
        /// The column that holds the event time, as `WATERMARK FOR` does. Default: the time of arrival.
        event_time_field: Option<String> = "", Anew;
        /// How far rows may be out of order: the watermark is the greatest event time seen minus this.
        watermark_delay: Option<Duration> = "", AtOnce;
        /// For how long after its end a window still takes late rows, as updates of its result.
        allowed_lateness: Duration = "0s", LaterViews;
        /// A connected feed that is silent for so long lets its watermark go on with the clock. `off` never does.
        idle_timeout: OrOff<Duration> = "10s", AtOnce;
        /// How far an event time may lie ahead of the clock and still move the watermark; the row itself counts in its window either way. `off`: however far. A file knows no clock.
        max_future: OrOff<Duration> = "5m", AtOnce;
        /// A connected feed from which no event has come for so long is `silent`, until the next event. Default: never.
        expect_every: Option<Duration> = "", AtOnce;
        /// Keep the whole event as one column `value JSON`, whatever its fields.
        json_unstructured: bool = "false", Anew;
        /// How a TIMESTAMP column is written in JSON: `rfc3339` (a number is then refused, or read as Debezium writes it by `debezium_json`), `unix_seconds`, `unix_millis`, `unix_micros` or `unix_nanos`.
        json_timestamp_format: TimestampFormat = "rfc3339", Anew;
        /// Several records in one event: `none`, `newline` (one JSON value a line) or `json_array`.
        framing: Framing = "none", Anew;
    }
}

options! {
    /// What `CREATE VIEW … WITH (…)` may say.
    ViewOptions {
        /// When results leave a window: `final`, once when it closes, or `changes`, also before, as updates.
        emit: Emit = "final", Anew;
        /// With `emit = 'changes'`: the least event time between two early results of a window.
        emit_interval: Duration = "1s", Anew;
        /// For how long after its end a window still takes late rows, as updates of its result. Default: the table's.
        allowed_lateness: Option<Duration> = "", Anew;
        /// On a server: how many of its latest rows the view keeps for `SELECT` and for new followers. A view over a table with a primary key keeps all that stand.
        retention: u64 = "10000", Anew;
        /// Most rows in the state of the view's operators: groups of open windows, pieces of sessions, rows that wait or are looked back at. A view that needs more fails and says so; its rows stay readable, and the others go on.
        state_rows_max: u64 = "10000000", Anew;
        /// The same for the memory of that state, which is measured a few times a second to within an order of magnitude.
        state_bytes_max: Bytes = "4GiB", Anew;
    }
}

/// Options by their declared order; unknown and doubled ones become errors.
fn find<'a>(given: &'a [GivenOption], declared: &[Declared], errors: &mut Vec<Error>) -> Vec<Option<&'a GivenOption>> {
    let mut found: Vec<Option<&GivenOption>> = vec![None; declared.len()];
    for option in given {
        let matches = |known: &Declared| {
            let spelled = |name: &str| name.trim_start_matches("r#").eq_ignore_ascii_case(&option.name);
            spelled(known.name) || known.aliases.iter().any(|alias| spelled(alias))
        };
        match declared.iter().position(matches) {
            None => errors.push(unknown(option, declared)),
            Some(index) => match &found[index] {
                Some(first) => errors.push(place(
                    Error::new(Code::DoubleOption, format!("option '{}' is given twice", first.name)).hint("keep one of the two"),
                    option,
                )),
                None => found[index] = Some(option),
            },
        }
    }
    found
}

fn unknown(option: &GivenOption, declared: &[Declared]) -> Error {
    let names = || {
        declared
            .iter()
            .flat_map(|known| std::iter::once(known.name).chain(known.aliases.iter().copied()))
            .map(|name| name.trim_start_matches("r#"))
    };
    let error = Error::new(Code::UnknownOption, format!("unknown option '{}'", option.name));
    let error = match nearest(&option.name, names()) {
        Some(name) => error.hint(format!("did you mean '{name}'?")),
        None => error.hint(format!("known options: {}", names().collect::<Vec<_>>().join(", "))),
    };
    place(error, option)
}

fn missing(declared: &Declared) -> Error {
    let name = declared.name.trim_start_matches("r#");
    Error::new(Code::MissingOption, format!("option '{name}' is missing")).hint(format!("add {name} = '…': {}", declared.expects))
}

fn read_one<T: Value>(given: &GivenOption) -> Result<T> {
    let mut text = given.value.trim().to_string();
    // The JavaScript spelling counts in milliseconds.
    if given.name == "reconnectDelay" && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.push_str("ms");
    }
    T::read(&text).map_err(|reason| {
        // What is wrong with `type = 'sink'` is not the word.
        if given.name.eq_ignore_ascii_case("type") && text.eq_ignore_ascii_case("sink") {
            let problem = "option 'type': a feed cannot be a sink: server-sent events flow from the server to its clients only";
            return place(Error::new(Code::BadOption, problem).hint("give `source`, or leave it out"), given);
        }
        // What may hold a password or a key is not repeated.
        let is_secret = matches!(given.name.to_ascii_lowercase().as_str(), "headers" | "body")
            || (given.value.contains("://") && given.value.contains(['@', '?']));
        let shown = if is_secret || given.value.len() > 60 { "…" } else { given.value.as_str() };
        place(
            Error::new(Code::BadOption, format!("option '{}': '{shown}' {reason}", given.name))
                .hint(format!("give {}", T::EXPECTS)),
            given,
        )
    })
}

fn place(error: Error, given: &GivenOption) -> Error {
    match given.span {
        Some(span) => error.at(span),
        None => error,
    }
}

/// A Markdown table of a group, for the documentation; `--help` prints the same list.
pub fn table(declared: &[Declared]) -> String {
    let mut text = String::from("| option | default | value | meaning |\n|---|---|---|---|\n");
    for option in declared {
        let mut names = format!("`{}`", option.name.trim_start_matches("r#"));
        for alias in option.aliases {
            names += &format!(", `{alias}`");
        }
        let default = if option.default.is_empty() { String::from("–") } else { format!("`{}`", option.default) };
        text += &format!("| {names} | {default} | {} | {} |\n", option.expects, option.doc.replace('|', "\\|"));
    }
    text
}

/// When a change of each option takes effect, as lines of Markdown for the documentation.
pub fn changes(declared: &[Declared]) -> String {
    let names = |takes: Takes| {
        let names = declared.iter().filter(|option| option.takes == takes).map(|option| option.name.trim_start_matches("r#"));
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    format!(
        "- at once: {}\n- with a connection that is made anew for it, after the last event: {}\n- with views that are made from then on: {}\n- only with a table that is made anew: {}\n",
        names(Takes::AtOnce),
        names(Takes::Connecting),
        names(Takes::LaterViews),
        names(Takes::Anew),
    )
}

/// A closed set of words: the first spelling is the one shown.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident: $expects:literal { $($(#[$doc:meta])* $variant:ident: $($word:literal)|+;)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl Value for $name {
            const EXPECTS: &'static str = $expects;
            fn read(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($($word)|+ => Ok($name::$variant),)*
                    other => Err(match nearest(other, [$($($word),+),*]) {
                        Some(word) => format!("is not known; did you mean '{word}'?"),
                        None => "is not known".into(),
                    }),
                }
            }
        }
    };
}

choice! { /// Where a table comes from.
Connector: "`sse` or `file`" { Sse: "sse"; File: "file" | "single_file"; } }
choice! { /// The direction of a table: there is one.
Direction: "`source`" { Source: "source"; } }
choice! { /// How an event's data becomes columns.
Format: "`json`, `raw_string`, `debezium_json` or `wal2json`" {
    Json: "json"; RawString: "raw_string" | "raw" | "text"; Debezium: "debezium_json" | "debezium"; Wal2json: "wal2json";
} }

impl Format {
    /// Whether an event tells what became of a row, which may also be that it is gone.
    pub fn is_change_feed(self) -> bool {
        matches!(self, Format::Debezium | Format::Wal2json)
    }
}

choice! { /// What becomes of an event that cannot be read.
BadData: "`dead_letter`, `drop` or `fail`" { DeadLetter: "dead_letter"; Drop: "drop"; Fail: "fail"; } }
choice! { /// How a TIMESTAMP is written in JSON.
TimestampFormat: "`rfc3339`, `unix_seconds`, `unix_millis`, `unix_micros` or `unix_nanos`" {
    Rfc3339: "rfc3339"; Seconds: "unix_seconds" | "unixseconds"; Millis: "unix_millis" | "unixmillis";
    Micros: "unix_micros" | "unixmicros"; Nanos: "unix_nanos" | "unixnanos";
} }
choice! { /// How many records an event holds.
Framing: "`none`, `newline` or `json_array`" { None: "none"; Newline: "newline"; JsonArray: "json_array"; } }
choice! { /// When results leave a window.
Emit: "`final` or `changes`" { Final: "final"; Changes: "changes"; } }

/// The URL of a feed: `http` or `https` with a host; the fragment is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(pub Url);

/// User and password never show.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() || !shown.username().is_empty() {
            let _ = shown.set_username("***");
            let _ = shown.set_password(None);
        }
        fmt::Display::fmt(&shown, f)
    }
}

impl Value for Endpoint {
    const EXPECTS: &'static str = "a URL such as `https://example.com:8080/sse`";
    fn read(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| match text.contains("{{") {
            true => {
                "has a variable where the host or port stands; `{{ NAME }}` is filled in in the path and the query".to_string()
            }
            false => format!("is no URL: {error}"),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("has the scheme '{}', not http or https", url.scheme()));
        }
        url.set_fragment(None);
        Ok(Endpoint(url))
    }
}

/// The method of a request, in the spelling of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method(pub String);

impl Value for Method {
    const EXPECTS: &'static str = "an HTTP method such as `GET` or `POST`";
    fn read(text: &str) -> Result<Self, String> {
        match text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) && !text.is_empty() {
            true => Ok(Method(text.to_ascii_uppercase())),
            false => Err("is no HTTP method".into()),
        }
    }
}

/// Names separated by commas, blanks around them dropped; none means all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameList(pub Vec<String>);

impl Value for NameList {
    const EXPECTS: &'static str = "names separated by commas";
    fn read(text: &str) -> Result<Self, String> {
        Ok(NameList(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect()))
    }
}

/// When the watchdog gives a silent connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadTimeout {
    /// Three times the heartbeat gap seen, at least 30 s.
    Auto,
    After(Duration),
    Off,
}

impl Value for ReadTimeout {
    const EXPECTS: &'static str = "`auto`, `off` or a duration such as `45s`";
    fn read(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(ReadTimeout::Auto),
            "off" => Ok(ReadTimeout::Off),
            _ => match Duration::read(text)? {
                Duration::ZERO => Err("would give up at once".into()),
                duration => Ok(ReadTimeout::After(duration)),
            },
        }
    }
}

/// How a reconnect says where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// By the request header `Last-Event-ID`.
    Header,
    /// By the named query parameter.
    Query(String),
    /// Not at all: the ids of this feed are no cursors.
    Off,
}

impl Value for Resume {
    const EXPECTS: &'static str = "`header`, `query:NAME` or `off`";
    fn read(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text.eq_ignore_ascii_case("header") => Ok(Resume::Header),
            None if text.eq_ignore_ascii_case("off") => Ok(Resume::Off),
            Some((word, name)) if word.trim().eq_ignore_ascii_case("query") && !name.trim().is_empty() => {
                Ok(Resume::Query(name.trim().into()))
            }
            _ => Err("is not known".into()),
        }
    }
}

/// A value, or the word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrOff<T> {
    On(T),
    Off,
}

impl<T> OrOff<T> {
    /// The value, unless it is off.
    pub fn on(self) -> Option<T> {
        match self {
            OrOff::On(value) => Some(value),
            OrOff::Off => None,
        }
    }
}

impl Value for OrOff<Duration> {
    const EXPECTS: &'static str = "a duration such as `10s`, or `off`";
    fn read(text: &str) -> Result<Self, String> {
        match text.eq_ignore_ascii_case("off") {
            true => Ok(OrOff::Off),
            false => Duration::read(text).map(OrOff::On),
        }
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl Value for Bytes {
    const EXPECTS: &'static str = "a size such as `16MiB`";
    fn read(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: usize = text[..digits].parse().map_err(|_| "is no size".to_string())?;
        let unit: usize = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1_000,
            "kib" => 1 << 10,
            "m" | "mb" => 1_000_000,
            "mib" => 1 << 20,
            "g" | "gb" => 1_000_000_000,
            "gib" => 1 << 30,
            unit => return Err(format!("has the unknown unit '{unit}'")),
        };
        match number.checked_mul(unit) {
            Some(0) | None => Err("is no size that can be kept".into()),
            Some(bytes) => Ok(Bytes(bytes)),
        }
    }
}

/// Longer than any feed runs, and far from where the sum of it and a time overflows.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Value for Duration {
    const EXPECTS: &'static str = "a duration with its unit, such as `500ms`, `5s` or `1 minute`";
    fn read(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if lower.bytes().all(|byte| byte.is_ascii_digit()) && lower != "0" {
            return Err("has no unit".into());
        }
        if lower.contains("month") || lower.contains("year") {
            return Err("has no fixed length".into());
        }
        let duration = humantime::parse_duration(&lower).map_err(|error| format!("is no duration: {error}"))?;
        if duration > DURATION_MAX { Err("is longer than a hundred years".into()) } else { Ok(duration) }
    }
}

impl Value for bool {
    const EXPECTS: &'static str = "`true` or `false`";
    fn read(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither true nor false".into()),
        }
    }
}

impl Value for u64 {
    const EXPECTS: &'static str = "a whole number";
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "is no whole number".into())
    }
}

impl Value for String {
    const EXPECTS: &'static str = "text";
    fn read(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl Value for PathBuf {
    const EXPECTS: &'static str = "a path";
    fn read(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

/// An option that may be left out: empty text is none.
impl<T: Value> Value for Option<T> {
    const EXPECTS: &'static str = T::EXPECTS;
    fn read(text: &str) -> Result<Self, String> {
        match text.is_empty() {
            true => Ok(None),
            false => T::read(text).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Vec<GivenOption> {
        pairs.iter().map(|(name, value)| GivenOption { name: (*name).into(), value: (*value).into(), span: None }).collect()
    }

    #[test]
    fn every_option_is_documented_and_every_default_can_be_read() {
        for option in TableOptions::DECLARED.iter().chain(ViewOptions::DECLARED) {
            assert!(option.doc.ends_with('.') && option.doc.len() > 20, "{}", option.name);
        }
        assert!(TableOptions::read(&given(&[("connector", "sse")])).is_ok());
        assert!(ViewOptions::read(&[]).is_ok());
    }

    #[test]
    fn all_errors_come_at_once_each_with_a_way_out() {
        let errors = TableOptions::read(&given(&[
            ("connector", "sse"),
            ("event", "a"),
            ("format", "jsn"),
            ("read_timeout", "30"),
            ("type", "sink"),
            ("url", "ftp://x"),
            ("endpoint", "http://x"),
            ("watermark_delay", "1 month"),
            ("reconnect_delay", "10000000000 weeks"),
        ]))
        .unwrap_err();
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "unknown option 'event'; did you mean 'events'?",
                "option 'url' is given twice; keep one of the two",
                "option 'url': 'ftp://x' has the scheme 'ftp', not http or https; give a URL such as `https://example.com:8080/sse`",
                "option 'type': a feed cannot be a sink: server-sent events flow from the server to its clients only; give `source`, or leave it out",
                "option 'format': 'jsn' is not known; did you mean 'json'?; give `json`, `raw_string`, `debezium_json` or `wal2json`",
                "option 'reconnect_delay': '10000000000 weeks' is longer than a hundred years; give a duration with its unit, such as `500ms`, `5s` or `1 minute`",
                "option 'read_timeout': '30' has no unit; give `auto`, `off` or a duration such as `45s`",
                "option 'watermark_delay': '1 month' has no fixed length; give a duration with its unit, such as `500ms`, `5s` or `1 minute`",
            ]
        );
    }

    #[test]
    fn spellings_of_other_programs_are_understood() {
        let options = TableOptions::read(&given(&[
            ("connector", "sse"),
            ("url", "https://u:p@example.com:8080/sse#x"),
            ("autoReconnect", "false"),
            ("reconnectDelay", "250"),
            ("maxReconnectAttempts", "5"),
            ("events", " a, b ,"),
        ]))
        .unwrap();
        assert_eq!(options.reconnect, Some(false));
        assert_eq!(options.reconnect_delay, Duration::from_millis(250));
        assert_eq!(options.max_reconnect_attempts, Some(5));
        assert_eq!(options.events.0, ["a", "b"]);
        assert_eq!(options.endpoint.unwrap().to_string(), "https://***@example.com:8080/sse");
    }
}
