//! Tries a posted table without making it: what its feed sends, and what that would be in SQL.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, HeaderName};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::interval;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::look::{EVENTS_MAX, TIME_MAX};
use super::mask;
use super::post::{ConnectionTablePost, FieldPost};
use super::routes::{posted, problem};
use super::shown::{ConnectionTable, NOT_INFERRED};
use super::statement::Fault;
use crate::error::{Error, ErrorKind};
use crate::feed::FeedState;
use crate::format::{Bad, Decoder, RawEvent};
use crate::options::Format;
use crate::serve::App;
use crate::serve::body::Body;
use crate::serve::problem::{Mistake, Problem, Result};
use crate::table::TableSpec;
use crate::table::peek::Peek;
use crate::time::Timestamp;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(test)).routes(routes!(test_schema))
}

/// Samples that are shown.
const SAMPLES_MAX: usize = 10;

/// Events that cannot be read, and are shown.
const BAD_MAX: usize = 10;

/// Lines of progress that wait for a slow client.
const LINES_MAX: usize = 16;

/// How often a connection is asked for its progress.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A line of progress. The last one is `done`.
#[derive(Serialize, ToSchema)]
pub struct Progress {
    pub error: bool,
    pub done: bool,
    pub message: String,
    /// With the last line: the data of the first events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Vec<Value>>,
    /// With the last line: the columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Vec<FieldPost>>,
}

/// What a look at a feed told.
#[derive(Serialize, ToSchema)]
pub struct Tested {
    pub success: bool,
    pub message: String,
    /// The data of the first events: JSON where it is JSON, else text.
    pub sample_data: Vec<Value>,
    pub statistics: Statistics,
    /// The columns that the events suggest.
    pub inferred_schema: Vec<FieldPost>,
    /// Events that the columns of the body cannot take, with the reasons.
    pub decode_errors: Vec<String>,
}

#[derive(Default, Serialize, ToSchema)]
pub struct Statistics {
    pub events: u64,
    pub filtered: u64,
    pub bytes: u64,
    pub http_status: Option<u16>,
    pub heartbeat_ms: Option<u64>,
    /// The types of the events and how many there were of each.
    #[schema(value_type = Object)]
    pub types: serde_json::Map<String, Value>,
}

/// What is known of a table without making it.
#[derive(Serialize, ToSchema)]
pub struct SchemaTested {
    pub valid: bool,
    /// The columns that a look at the feed has found, where the body has none.
    pub inferred_schema: Option<Vec<FieldPost>>,
    /// The statement that would make the table.
    pub ddl: Option<String>,
    pub problems: Vec<Mistake>,
    pub warnings: Vec<String>,
}

/// Connects to the feed of a table that is not made, for 5 seconds at most.
///
/// The answer is an event stream of lines of progress; with `Accept: application/json`, one object at the end.
#[utoipa::path(post, operation_id = "test_table", path = "/connection_tables/test", tag = "tables", request_body = ConnectionTablePost, responses(
    (status = 200, description = "How it went, well or not", content(
        (Progress = "text/event-stream"), (Tested = "application/json"),
    )),
    (status = 422, body = Problem, description = "The body has no meaning"),
))]
async fn test(State(app): State<Arc<App>>, headers: HeaderMap, Body(body): Body<Value>) -> Result<Response> {
    let mut post = posted(body)?;
    restore(&app, &mut post).map_err(problem)?;
    let session = app.engine.session().state();
    let feed = post.feed(&session).map_err(problem)?;
    let spec = match post.needs_fields() {
        true => None,
        false => Some(post.statement(false).and_then(|rendered| rendered.spec(&session)).map_err(problem)?),
    };
    let (lines, progress) = mpsc::channel(LINES_MAX);
    let trial = trial(Peek::new(feed), spec, lines);
    if wants_json(&headers) {
        drop(progress);
        return Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(trial.await)).into_response());
    }
    // The trial runs inside the stream, so it ends with it.
    let events = stream::unfold((Some(Box::pin(trial)), progress), async |(trial, mut progress)| {
        let mut trial = trial?;
        let (line, trial) = tokio::select! {
            biased;
            Some(line) = progress.recv() => (line, Some(trial)),
            tested = &mut trial => (last(tested), None),
        };
        Some((Event::default().json_data(&line).or_else(|_| Ok::<_, Infallible>(Event::default())), (trial, progress)))
    });
    let headers = [
        (CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Sse::new(events).keep_alive(KeepAlive::default())).into_response())
}

/// Says what a body means, without making a table: its statement, its mistakes, and the columns where it has none.
#[utoipa::path(post, operation_id = "test_schema", path = "/connection_tables/schemas/test", tag = "tables", request_body = ConnectionTablePost, responses(
    (status = 200, body = SchemaTested, description = "Whether it can be made"),
    (status = 422, body = Problem, description = "The body has not the form of a table"),
))]
async fn test_schema(State(app): State<Arc<App>>, Body(body): Body<Value>) -> Result<Json<SchemaTested>> {
    let mut post = posted(body)?;
    let restored = restore(&app, &mut post);
    let session = app.engine.session().state();
    let mut tested = SchemaTested { valid: false, inferred_schema: None, ddl: None, problems: Vec::new(), warnings: Vec::new() };
    let meant = async {
        restored?;
        let completed = post.complete(&session).await?;
        if completed.inferred {
            tested.inferred_schema = Some(completed.post.schema.fields.clone());
        }
        tested.warnings = completed.warnings;
        let rendered = completed.post.statement(false)?;
        let spec = rendered.spec(&session)?;
        tested.ddl = Some(spec.shown.clone());
        Ok::<TableSpec, Vec<Fault>>(spec)
    };
    match meant.await {
        Ok(spec) => {
            tested.valid = true;
            tested.warnings.extend(spec.notices);
        }
        Err(faults) => tested.problems = faults.into_iter().map(mistake).collect(),
    }
    Ok(Json(tested))
}

/// Puts the secrets of the table that a body describes in the place of their masks.
fn restore(app: &App, post: &mut ConnectionTablePost) -> std::result::Result<(), Vec<Fault>> {
    let old = app.engine.table(&post.name).map(|table| ConnectionTable::body(&table.spec())).transpose();
    let old = old.map_err(|error| vec![Fault::new("", error)])?;
    mask::restore(post, old.as_ref())
}

fn mistake(Fault { pointer, error }: Fault) -> Mistake {
    Mistake { pointer: Some(pointer).filter(|pointer| !pointer.is_empty()), ..Mistake::from(&error) }
}

/// `Accept` that names JSON and not an event stream. Whoever names neither gets the stream.
fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = |kind: &str| headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(kind)));
    accepts("application/json") && !accepts("text/event-stream")
}

/// Looks at a feed, and tells how it goes. Lines that nobody takes are left out.
async fn trial(mut peek: Peek, spec: Option<TableSpec>, lines: mpsc::Sender<Progress>) -> Tested {
    let tell =
        |message: String| drop(lines.try_send(Progress { error: false, done: false, message, sample: None, schema: None }));
    tell("connecting".into());
    let status = Arc::clone(peek.status());
    let mut told = (FeedState::Connecting, 0);
    let watch = async {
        let mut ticks = interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let now = status.snapshot();
            if (now.state, now.events) != told {
                told = (now.state, now.events);
                match now.state {
                    FeedState::Connected if now.events > 0 => tell(format!("{} events", now.events)),
                    state => tell(state.to_string()),
                }
            }
        }
    };
    let read = tokio::select! {
        read = peek.read(EVENTS_MAX, TIME_MAX) => read,
        never = watch => never,
    };
    let feed = Arc::clone(&status);
    let status = status.snapshot();
    let summary = &peek.summary;
    let fields = summary.columns().iter().map(|column| FieldPost::typed(&column.name, &column.sql_type)).collect::<Vec<_>>();
    let bad = spec.map(|spec| decode(&spec, summary.data())).unwrap_or_default();
    let message = match &read {
        Err(error) => reason(error),
        Ok(()) if bad.is_empty() => format!("{} events came", summary.events()),
        Ok(()) => format!("{} events came, and not all can be read", summary.events()),
    };
    let shown = |text: &str| feed.shown(text);
    let sample = |data: &str| serde_json::from_str(&shown(data)).unwrap_or_else(|_| shown(data).into());
    Tested {
        success: read.is_ok(),
        message,
        sample_data: summary.data().take(SAMPLES_MAX).map(|(_, data)| sample(data)).collect(),
        statistics: Statistics {
            events: summary.events(),
            filtered: status.filtered,
            bytes: status.bytes,
            http_status: status.http_status,
            heartbeat_ms: status.heartbeat.and_then(|gap| u64::try_from(gap.as_millis()).ok()),
            types: summary.kinds().map(|(name, count)| (name.to_string(), count.into())).collect(),
        },
        inferred_schema: fields,
        decode_errors: bad.iter().map(|reason| shown(reason)).collect(),
    }
}

fn reason(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Bug => "the look at the feed failed".into(),
        _ => error.to_string(),
    }
}

/// Why events are no rows of a table.
fn decode<'a>(spec: &TableSpec, events: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    // Rows within changes of a database are not read here.
    if !matches!(spec.format.format, Format::Json | Format::RawString) {
        return Vec::new();
    }
    let all: Vec<usize> = (0..spec.format.columns.len()).collect();
    let mut decoder = match Decoder::new(&spec.format, &all) {
        Ok(decoder) => decoder,
        Err(error) => return vec![reason(&error)],
    };
    let mut reasons: Vec<String> = Vec::new();
    for (kind, data) in events {
        let mut keep = |bad: Bad| {
            if reasons.len() < BAD_MAX && !reasons.contains(&bad.reason) {
                reasons.push(bad.reason);
            }
        };
        decoder.push(RawEvent { kind, data, id: "", received: Timestamp::now() }, &mut keep);
    }
    reasons
}

fn last(tested: Tested) -> Progress {
    let schema = tested.inferred_schema;
    let message = match (tested.success, schema.is_empty()) {
        (true, true) => format!("{}; {NOT_INFERRED}: their data are no JSON objects", tested.message),
        _ => tested.message,
    };
    Progress { error: !tested.success, done: true, message, sample: Some(tested.sample_data), schema: Some(schema) }
}
