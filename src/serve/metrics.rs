//! `GET /metrics`: what the server, its tables, views and streams count, in the text of OpenMetrics; read anew for every scrape.

use std::fmt::{self, Write};
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::problem::Result;
use super::stream::Counters;
use crate::engine;
use crate::error::Error;
use crate::feed::{self, FeedState};
use crate::operator::Report;
use crate::table;
use crate::time::Timestamp;
use crate::view::{Health, Latencies};

/// Before every name.
const PREFIX: &str = "streamgauge";

/// The text format that has units and an end, so that a broken answer is told from a short one.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Metrics of the server, its tables, views and streams.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "server", responses(
    (status = 200, content_type = "application/openmetrics-text", body = String, description = "OpenMetrics 1.0; the page `metrics` of the documentation lists the names"),
))]
async fn metrics(State(app): State<Arc<App>>) -> Result<Response> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape::of(&app)));
    let mut text = String::new();
    text::encode(&mut text, &registry).map_err(|error| Error::bug(format!("the metrics cannot be written: {error}")))?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS))], text).into_response())
}

static SERVER: &[Family<ServerMetrics>] = &[
    info("build", "The program that runs", || [("version", env!("CARGO_PKG_VERSION"))]),
    gauge("start_timestamp_seconds", "When the program started", |server| Some(seconds(server.started))),
    gauge("uptime_seconds", "For how long the program has run", |server| Some(seconds(server.now) - seconds(server.started))),
    gauge("memory_max_bytes", "Memory that tables and views may hold together", |server| Some(server.memory.most as f64)),
    gauge("memory_held_bytes", "Memory that they hold: rows, latest changes and state", |server| {
        Some(server.memory.bytes as f64)
    }),
    count("memory_shortened", "Times that histories or results were shortened to stay below", |server| server.memory.shortened),
    gauge("streams_open", "Event streams that are open now, of views and of named streams", |server| Some(server.streams as f64)),
];

static CHECKPOINTS: &[Family<engine::CheckpointStats>] = &[
    count("checkpoints", "Checkpoints taken", |report| report.taken),
    count("checkpoints_failed", "Checkpoints that came to nothing, so that the one before stayed", |report| report.failed),
    gauge("checkpoint_busy_seconds", "Time that checkpoints took since the start, from tables, views and the disk", |report| {
        Some(report.busy.as_secs_f64())
    }),
    gauge("checkpoint_timestamp_seconds", "When the last checkpoint was safe", |report| {
        report.last.as_ref().and_then(|last| finite(last.at))
    }),
    gauge("checkpoint_bytes", "Bytes written for the last checkpoint", |report| {
        report.last.as_ref().map(|last| last.bytes as f64)
    }),
    gauge("checkpoint_gathering_seconds", "How long the last checkpoint waited for all its tables and views", |report| {
        report.last.as_ref().map(|last| last.gathering.as_secs_f64())
    }),
    gauge("checkpoint_writing_seconds", "How long the last checkpoint was on its way to the disk", |report| {
        report.last.as_ref().map(|last| last.writing.as_secs_f64())
    }),
];

static TABLES: &[Family<TableMetrics>] = &[
    state("table_state", "What the feed is doing", |table| {
        FeedState::ALL.iter().map(|state| (state.as_str().replace(' ', "_"), *state == table.feed.state)).collect()
    }),
    count("table_events", "Events of wanted types that came", |table| table.feed.events),
    count("table_filtered", "Events of types that are not wanted", |table| table.feed.filtered),
    count("table_repeated", "Events that the server sent again after a reconnect and that counted before", |table| {
        table.feed.repeated
    }),
    count("table_oversized", "Events dropped for their size", |table| table.feed.oversized),
    count("table_read_bytes", "Bytes read from the feed, after decompression", |table| table.feed.bytes),
    count("table_rows", "Rows that were read from events", |table| table.rows.rows),
    count("table_bad", "Records that could not be read", |table| table.rows.bad),
    count("table_ahead", "Rows whose times lay too far ahead of the clock to move the watermark", |table| table.rows.ahead),
    count("table_skipped", "Records of a change feed that are about no row of this table", |table| table.rows.skipped),
    count("table_gaps", "Stretches of the feed that may have been missed", |table| table.feed.gaps),
    total("table_gap_seconds", "How long those stretches were together", |table| table.feed.gap_time.as_secs_f64()),
    count("table_connects", "Connections that came about", |table| table.feed.connects),
    counts(
        "table_reconnects",
        "cause",
        "Connections, or attempts at one, that came to nothing and were followed by another",
        |table| table.feed.reconnects.iter().map(|(cause, count)| (cause.as_str(), *count)).collect(),
    ),
    gauge("table_memory_bytes", "Memory of the rows of a table with a key", |table| {
        Some(table.held as f64).filter(|held| *held > 0.0)
    }),
    gauge("table_lag_seconds", "How much later than its event time the last row came; below zero where clocks differ", |table| {
        table.rows.lag_ms.map(|ms| ms as f64 / 1e3)
    }),
    gauge("table_watermark_timestamp_seconds", "Rows with an earlier event time are not expected", |table| {
        table.rows.watermark.and_then(finite)
    }),
    gauge("table_last_event_timestamp_seconds", "When the last event came", |table| table.feed.last_event_at.and_then(finite)),
];

static VIEWS: &[Family<ViewMetrics>] = &[
    state("view_state", "How the view fares", |view| {
        Health::WORDS.iter().map(|word| (word.to_string(), *word == view.health.as_str())).collect()
    }),
    count("view_changes", "Changes of its rows", |view| view.changes),
    gauge("view_rows", "Rows that stand now", |view| Some(view.rows as f64)),
    gauge("view_state_rows", "Rows in the state of its operators", |view| Some(view.report.state_rows as f64)),
    gauge("view_state_bytes", "Memory of that state, as an order of magnitude", |view| Some(view.report.state_bytes as f64)),
    gauge("view_open_windows", "Windows that hold rows and are not closed", |view| Some(view.report.open_windows as f64)),
    gauge("view_memory_bytes", "Memory of its rows, and of the latest changes with their encodings", |view| {
        Some(view.bytes as f64)
    }),
    count("view_late_rows", "Rows that came too late for every window they belong to", |view| view.report.late_rows),
    count("view_bad_rows", "Rows that an expression could not be computed for", |view| view.report.bad_rows),
    gauge("view_watermark_timestamp_seconds", "Results before this time are complete", |view| view.watermark.and_then(finite)),
    histogram(
        "view_emit_latency_seconds",
        "From the table that had rows or a watermark ready to the changes that follow from them",
        |view| view.latency.as_ref(),
    ),
];

static STREAMS: &[Family<StreamMetrics>] = &[
    gauge("stream_clients", "Clients that are connected now", |stream| Some(stream.read(|counters| &counters.clients) as f64)),
    count("stream_connects", "Clients that were ever connected", |stream| stream.read(|counters| &counters.connects)),
    count("stream_refused", "Clients that were refused because there were too many", |stream| {
        stream.read(|counters| &counters.refused)
    }),
    count("stream_events", "Events sent", |stream| stream.read(|counters| &counters.events)),
    count("stream_sent_bytes", "Bytes sent", |stream| stream.read(|counters| &counters.bytes)),
    count("stream_resets", "Clients that came back with an id from which their stream could not go on", |stream| {
        stream.read(|counters| &counters.resets)
    }),
    count("stream_lagged", "Clients that were cut off because they did not read what they asked for", |stream| {
        stream.read(|counters| &counters.lagged)
    }),
    count("stream_dropped", "Changes that those clients did not get", |stream| stream.read(|counters| &counters.dropped)),
    count("stream_render_errors", "Events whose template failed, sent in the default format", |stream| {
        stream.read(|counters| &counters.render_errors)
    }),
    count("stream_oversized", "Events that were too large to send", |stream| stream.read(|counters| &counters.oversized)),
];

/// The server at the moment of a scrape.
#[derive(Debug)]
struct ServerMetrics {
    started: Timestamp,
    now: Timestamp,
    streams: u64,
    memory: engine::Held,
}

#[derive(Debug)]
struct TableMetrics {
    name: String,
    feed: feed::FeedSnapshot,
    rows: table::TableSnapshot,
    held: usize,
}

#[derive(Debug)]
struct ViewMetrics {
    name: String,
    health: Health,
    changes: u64,
    rows: usize,
    bytes: usize,
    watermark: Option<Timestamp>,
    report: Report,
    latency: Option<Latencies>,
}

/// The streams of one view, of several views together, or a named one.
#[derive(Debug)]
struct StreamMetrics {
    kind: &'static str,
    name: String,
    counters: Arc<Counters>,
}

impl StreamMetrics {
    /// From the name that [`super::Streams::counters`] gives.
    fn of(name: &str, counters: Arc<Counters>) -> Self {
        match name.split_once(':') {
            Some(("stream", name)) => StreamMetrics { kind: "named", name: name.into(), counters },
            Some((_, name)) => StreamMetrics { kind: "view", name: name.into(), counters },
            None => StreamMetrics { kind: "views", name: String::new(), counters },
        }
    }

    fn read(&self, counter: impl Fn(&Counters) -> &std::sync::atomic::AtomicU64) -> u64 {
        Counters::get(counter(&self.counters))
    }
}

/// All that one scrape tells.
#[derive(Debug)]
struct Scrape {
    server: ServerMetrics,
    checkpoints: Option<engine::CheckpointStats>,
    tables: Vec<TableMetrics>,
    views: Vec<ViewMetrics>,
    streams: Vec<StreamMetrics>,
}

impl Scrape {
    fn of(app: &App) -> Self {
        let table = |table: Arc<table::Table>| TableMetrics {
            name: table.spec().name.clone(),
            feed: table.feed_status().snapshot(),
            rows: table.status().snapshot(),
            held: table.status().held(),
        };
        let view = |view: Arc<crate::engine::View>| {
            let live = view.live();
            let (watermark, report) = live.and_then(|live| live.progress()).map(|progress| progress.read()).unwrap_or_default();
            let (rows, bytes) = live.map(|live| live.size()).unwrap_or_default();
            ViewMetrics {
                name: view.name.clone(),
                health: live.map_or(Health::Waiting, |live| live.health()),
                changes: live.map_or(0, |live| live.head()),
                rows,
                bytes,
                watermark,
                report,
                latency: live.map(|live| live.latency().read()),
            }
        };
        Scrape {
            server: ServerMetrics {
                started: app.started,
                now: Timestamp::now(),
                streams: app.streams.clients(),
                memory: app.engine.memory(),
            },
            checkpoints: app.checkpoints.as_ref().map(|checkpoints| checkpoints.report()),
            tables: app.engine.tables().into_iter().map(table).collect(),
            views: app.engine.views().into_iter().map(view).collect(),
            streams: app.streams.counters().into_iter().map(|(name, counters)| StreamMetrics::of(&name, counters)).collect(),
        }
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        write(&mut encoder, SERVER, std::slice::from_ref(&self.server))?;
        write(&mut encoder, CHECKPOINTS, self.checkpoints.as_slice())?;
        write(&mut encoder, TABLES, &self.tables)?;
        write(&mut encoder, VIEWS, &self.views)?;
        write(&mut encoder, STREAMS, &self.streams)
    }
}

/// What metrics are about: the labels that tell one from another.
trait Subject: 'static {
    const LABELS: &[&str];
    fn labels(&self) -> Vec<(&'static str, String)>;
}

impl Subject for ServerMetrics {
    const LABELS: &[&str] = &[];
    fn labels(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

impl Subject for engine::CheckpointStats {
    const LABELS: &[&str] = &[];
    fn labels(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

impl Subject for TableMetrics {
    const LABELS: &[&str] = &["table"];
    fn labels(&self) -> Vec<(&'static str, String)> {
        vec![("table", self.name.clone())]
    }
}

impl Subject for ViewMetrics {
    const LABELS: &[&str] = &["view"];
    fn labels(&self) -> Vec<(&'static str, String)> {
        vec![("view", self.name.clone())]
    }
}

impl Subject for StreamMetrics {
    const LABELS: &[&str] = &["kind", "stream"];
    fn labels(&self) -> Vec<(&'static str, String)> {
        vec![("kind", self.kind.into()), ("stream", self.name.clone())]
    }
}

/// A metric, declared once for the scrape and the documentation.
struct Family<T: 'static> {
    /// Behind the prefix; of a counter without the `_total` that its samples have.
    name: &'static str,
    /// What it tells, as a sentence without its full stop.
    help: &'static str,
    read: Read<T>,
}

/// How the values of a metric are read.
enum Read<T: 'static> {
    Count(fn(&T) -> u64),
    /// A counter of something that is no whole number.
    Total(fn(&T) -> f64),
    /// One counter for each value of a label.
    Counts(&'static str, fn(&T) -> Vec<(&'static str, u64)>),
    Gauge(fn(&T) -> Option<f64>),
    /// 1 for the state that holds, 0 for the others.
    State(fn(&T) -> Vec<(String, bool)>),
    Histogram(fn(&T) -> Option<&Latencies>),
    Info(fn() -> [(&'static str, &'static str); 1]),
}

const fn count<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Family<T> {
    Family { name, help, read: Read::Count(read) }
}

const fn total<T>(name: &'static str, help: &'static str, read: fn(&T) -> f64) -> Family<T> {
    Family { name, help, read: Read::Total(read) }
}

const fn counts<T>(
    name: &'static str,
    label: &'static str,
    help: &'static str,
    read: fn(&T) -> Vec<(&'static str, u64)>,
) -> Family<T> {
    Family { name, help, read: Read::Counts(label, read) }
}

const fn gauge<T>(name: &'static str, help: &'static str, read: fn(&T) -> Option<f64>) -> Family<T> {
    Family { name, help, read: Read::Gauge(read) }
}

const fn state<T>(name: &'static str, help: &'static str, read: fn(&T) -> Vec<(String, bool)>) -> Family<T> {
    Family { name, help, read: Read::State(read) }
}

const fn histogram<T>(name: &'static str, help: &'static str, read: fn(&T) -> Option<&Latencies>) -> Family<T> {
    Family { name, help, read: Read::Histogram(read) }
}

const fn info<T>(name: &'static str, help: &'static str, read: fn() -> [(&'static str, &'static str); 1]) -> Family<T> {
    Family { name, help, read: Read::Info(read) }
}

impl<T: Subject> Family<T> {
    fn kind(&self) -> MetricType {
        match self.read {
            Read::Count(_) | Read::Total(_) | Read::Counts(..) => MetricType::Counter,
            Read::Gauge(_) | Read::State(_) => MetricType::Gauge,
            Read::Histogram(_) => MetricType::Histogram,
            Read::Info(_) => MetricType::Info,
        }
    }

    /// The name as samples have it.
    fn shown(&self) -> String {
        let suffix = match self.kind() {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("{PREFIX}_{}{suffix}", self.name)
    }

    fn labels(&self) -> Vec<&'static str> {
        let own = match &self.read {
            Read::Counts(label, _) => Some(*label),
            Read::State(_) => Some("state"),
            Read::Info(read) => Some(read()[0].0),
            Read::Count(_) | Read::Total(_) | Read::Gauge(_) | Read::Histogram(_) => None,
        };
        T::LABELS.iter().copied().chain(own).collect()
    }

    fn write(&self, encoder: &mut MetricEncoder<'_>, subject: &T) -> fmt::Result {
        let labels = subject.labels();
        let with = |label: &'static str, value: String| {
            let mut labels = labels.clone();
            labels.push((label, value));
            labels
        };
        match &self.read {
            Read::Count(read) if labels.is_empty() => encoder.encode_counter::<NoLabelSet, _, u64>(&read(subject), None),
            Read::Count(read) => encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&read(subject), None),
            Read::Total(read) => encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&read(subject), None),
            Read::Counts(label, read) => read(subject).into_iter().try_for_each(|(value, count)| {
                encoder.encode_family(&with(label, value.into()))?.encode_counter::<NoLabelSet, _, u64>(&count, None)
            }),
            Read::Gauge(read) => match read(subject) {
                Some(value) if labels.is_empty() => encoder.encode_gauge(&value),
                Some(value) => encoder.encode_family(&labels)?.encode_gauge(&value),
                None => Ok(()),
            },
            Read::State(read) => read(subject)
                .into_iter()
                .try_for_each(|(value, holds)| encoder.encode_family(&with("state", value))?.encode_gauge(&u64::from(holds))),
            Read::Histogram(read) => match read(subject) {
                Some(read) => {
                    encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(read.sum, read.count(), &read.classes, None)
                }
                None => Ok(()),
            },
            Read::Info(read) => encoder.encode_info(&read()),
        }
    }
}

fn write<T: Subject>(encoder: &mut DescriptorEncoder<'_>, families: &[Family<T>], subjects: &[T]) -> fmt::Result {
    for family in families {
        // The unit is the last word of a name; the encoder puts it there itself.
        let (name, unit) = match family.name.rsplit_once('_') {
            Some((name, "seconds")) => (name, Some(Unit::Seconds)),
            Some((name, "bytes")) => (name, Some(Unit::Bytes)),
            _ => (family.name, None),
        };
        let mut encoder = encoder.encode_descriptor(name, family.help, unit.as_ref(), family.kind())?;
        for subject in subjects {
            family.write(&mut encoder, subject)?;
        }
    }
    Ok(())
}

/// All metrics as a table in Markdown, for the documentation.
pub fn described() -> String {
    let mut text = "| metric | labels | what it tells |\n|---|---|---|\n".to_string();
    describe(&mut text, SERVER);
    describe(&mut text, CHECKPOINTS);
    describe(&mut text, TABLES);
    describe(&mut text, VIEWS);
    describe(&mut text, STREAMS);
    text
}

fn describe<T: Subject>(text: &mut String, families: &[Family<T>]) {
    for family in families {
        let labels: Vec<String> = family.labels().iter().map(|label| format!("`{label}`")).collect();
        // Writing to a text does not fail.
        let _ = writeln!(text, "| `{}` | {} | {} |", family.shown(), labels.join(", "), family.help);
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.nanos() as f64 / 1e9
}

/// A time that is one: not before the first row, nor after the last of a feed that has ended.
fn finite(time: Timestamp) -> Option<f64> {
    (!matches!(time, Timestamp::MIN | Timestamp::MAX)).then(|| seconds(time))
}
