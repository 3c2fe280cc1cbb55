//! What a table's user does with its running feed: stops and starts it, looks at its latest events, bad events and turns.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::routes::find;
use super::shown::{GapShown, TableStatus, status};
use crate::feed::{Gap, Happening, Journal, RecentEvent};
use crate::serve::App;
use crate::serve::body::Query;
use crate::serve::events::answer;
use crate::serve::limits::Permit;
use crate::serve::listen::Shutdown;
use crate::serve::page::LIMIT_DEFAULT;
use crate::serve::problem::{Problem, Result};
use crate::serve::stream::Visitor;
use crate::table::{BadSample, Table};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(disconnect))
        .routes(routes!(reconnect))
        .routes(routes!(events))
        .routes(routes!(events_stream))
        .routes(routes!(errors))
        .routes(routes!(errors_stream))
        .routes(routes!(logs))
        .routes(routes!(logs_stream))
        .routes(routes!(gaps))
        .routes(routes!(gaps_stream))
}

/// Closes the connection until `resume`, which goes on where the feed stopped.
#[utoipa::path(post, operation_id = "pause_table", path = "/connection_tables/{id}/pause", tag = "tables", params(("id" = String, Path)), responses(
    (status = 202, body = TableStatus, description = "It will pause"),
    (status = 404, body = Problem, description = "There is no such table"),
))]
async fn pause(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response> {
    order(&app, &id, Table::pause)
}

/// Ends a pause or a disconnection.
#[utoipa::path(post, operation_id = "resume_table", path = "/connection_tables/{id}/resume", tag = "tables", params(("id" = String, Path)), responses(
    (status = 202, body = TableStatus, description = "It will go on"),
    (status = 404, body = Problem, description = "There is no such table"),
))]
async fn resume(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response> {
    order(&app, &id, Table::resume)
}

/// Closes the connection; nothing connects again before `reconnect`.
#[utoipa::path(post, operation_id = "disconnect_table", path = "/connection_tables/{id}/disconnect", tag = "tables", params(("id" = String, Path)), responses(
    (status = 202, body = TableStatus, description = "It will close"),
    (status = 404, body = Problem, description = "There is no such table"),
))]
async fn disconnect(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response> {
    order(&app, &id, Table::disconnect)
}

/// Connects anew and at once, whatever the feed was doing: also one that was given up.
#[utoipa::path(post, operation_id = "reconnect_table", path = "/connection_tables/{id}/reconnect", tag = "tables", params(("id" = String, Path)), responses(
    (status = 202, body = TableStatus, description = "It will connect, as soon as anybody reads it"),
    (status = 404, body = Problem, description = "There is no such table"),
))]
async fn reconnect(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response> {
    order(&app, &id, Table::reconnect)
}

fn order(app: &App, id: &str, order: impl FnOnce(&Table)) -> Result<Response> {
    let table = find(&app.engine, id)?;
    order(&table);
    Ok((StatusCode::ACCEPTED, Json(status(&table))).into_response())
}

/// An event as it came in.
#[derive(Serialize, ToSchema)]
struct EventShown {
    received_at: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    /// The beginning of its data.
    data: String,
    /// Its type was not wanted.
    filtered: bool,
}

/// An event that could not be read.
#[derive(Serialize, ToSchema)]
struct BadShown {
    received_at: String,
    /// What is wrong with it, and where.
    reason: String,
    /// Where the trouble is, in bytes of its data.
    offset: u64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    /// The beginning of its data.
    data: String,
}

/// A turn in the life of a feed.
#[derive(Serialize, ToSchema)]
struct TurnShown {
    at: String,
    /// The state that was entered.
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What can be looked at: an entry of a journal, as it is answered.
trait Shown: Serialize + Send + Sync + 'static {
    type Entry: Clone + Send + Sync;
    fn journal(table: &Table) -> &Journal<Self::Entry>;
    fn of(table: &Table, entry: Self::Entry) -> Self;
}

impl Shown for EventShown {
    type Entry = RecentEvent;
    fn journal(table: &Table) -> &Journal<RecentEvent> {
        table.feed_status().recent()
    }
    fn of(table: &Table, RecentEvent { received, kind, id, data, filtered }: RecentEvent) -> Self {
        let shown = |text: String| table.feed_status().shown(&text);
        EventShown { received_at: received.to_string(), kind: shown(kind), id: shown(id), data: shown(data), filtered }
    }
}

impl Shown for BadShown {
    type Entry = BadSample;
    fn journal(table: &Table) -> &Journal<BadSample> {
        table.status().samples()
    }
    fn of(table: &Table, BadSample { received, bad }: BadSample) -> Self {
        let shown = |text: String| table.feed_status().shown(&text);
        let (reason, kind, id, data) = (shown(bad.reason), shown(bad.kind), shown(bad.id), shown(bad.data));
        BadShown { received_at: received.to_string(), reason, offset: bad.offset, kind, id, data }
    }
}

impl Shown for TurnShown {
    type Entry = Happening;
    fn journal(table: &Table) -> &Journal<Happening> {
        table.feed_status().log()
    }
    fn of(_: &Table, Happening { at, state, reason }: Happening) -> Self {
        TurnShown { at: at.to_string(), state: state.to_string().replace(' ', "_"), reason }
    }
}

impl Shown for GapShown {
    type Entry = Gap;
    fn journal(table: &Table) -> &Journal<Gap> {
        table.feed_status().gaps()
    }
    fn of(table: &Table, gap: Gap) -> Self {
        GapShown::of(table, gap)
    }
}

/// The latest entries of a journal, the oldest first.
#[derive(Serialize, ToSchema)]
struct Latest<T> {
    data: Vec<Numbered<T>>,
    /// What to give as `after` for what comes next.
    next: u64,
}

/// An entry with its number: they begin with 1, and only the latest are kept.
#[derive(Serialize, ToSchema)]
struct Numbered<T> {
    number: u64,
    #[serde(flatten)]
    entry: T,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Looking {
    /// At most so many, the latest; default 50.
    limit: Option<usize>,
    /// Only those after this number.
    after: u64,
}

/// The latest events of a table's feed, wanted or not.
#[utoipa::path(get, operation_id = "table_events", path = "/connection_tables/{id}/events", tag = "tables", params(("id" = String, Path), Looking), responses(
    (status = 200, body = Latest<EventShown>, description = "Events as they came"),
    (status = 404, body = Problem, description = "There is no such table"),
))]
async fn events(app: State<Arc<App>>, id: Path<String>, looking: Query<Looking>) -> Result<Response> {
    latest::<EventShown>(&app, &id, &looking.0)
}

/// The events that could not be read, and why: the dead letters.
#[utoipa::path(get, operation_id = "table_errors", path = "/connection_tables/{id}/errors", tag = "tables", params(("id" = String, Path), Looking), responses(
    (status = 200, body = Latest<BadShown>, description = "The latest of them"),
    (status = 404, body = Problem, description = "There is no such table"),
))]
async fn errors(app: State<Arc<App>>, id: Path<String>, looking: Query<Looking>) -> Result<Response> {
    latest::<BadShown>(&app, &id, &looking.0)
}

/// What the feed went through: connections, their ends and why.
#[utoipa::path(get, operation_id = "table_logs", path = "/connection_tables/{id}/logs", tag = "tables", params(("id" = String, Path), Looking), responses(
    (status = 200, body = Latest<TurnShown>, description = "The latest turns"),
    (status = 404, body = Problem, description = "There is no such table"),
))]
async fn logs(app: State<Arc<App>>, id: Path<String>, looking: Query<Looking>) -> Result<Response> {
    latest::<TurnShown>(&app, &id, &looking.0)
}

/// The stretches of the feed that may have been missed.
#[utoipa::path(get, operation_id = "table_gaps", path = "/connection_tables/{id}/gaps", tag = "tables", params(("id" = String, Path), Looking), responses(
    (status = 200, body = Latest<GapShown>, description = "The latest of them"),
    (status = 404, body = Problem, description = "There is no such table"),
))]
async fn gaps(app: State<Arc<App>>, id: Path<String>, looking: Query<Looking>) -> Result<Response> {
    latest::<GapShown>(&app, &id, &looking.0)
}

/// The latest events, and those that come from now on, as an event stream.
#[utoipa::path(get, operation_id = "stream_table_events", path = "/connection_tables/{id}/events/stream", tag = "tables",
    params(("id" = String, Path), Following, ("Last-Event-ID" = Option<u64>, Header, description = "Only those after this number")),
    responses(
        (status = 200, body = EventShown, content_type = "text/event-stream", description = "One in each event"),
        (status = 404, body = Problem, description = "There is no such table"),
    )
)]
async fn events_stream(app: State<Arc<App>>, id: Path<String>, following: Query<Following>, parts: Parts) -> Result<Response> {
    follow::<EventShown>(&app, &id, &following.0, &parts)
}

/// The latest dead letters, and those that come from now on, as an event stream.
#[utoipa::path(get, operation_id = "stream_table_errors", path = "/connection_tables/{id}/errors/stream", tag = "tables",
    params(("id" = String, Path), Following, ("Last-Event-ID" = Option<u64>, Header, description = "Only those after this number")),
    responses(
        (status = 200, body = BadShown, content_type = "text/event-stream", description = "One in each event"),
        (status = 404, body = Problem, description = "There is no such table"),
    )
)]
async fn errors_stream(app: State<Arc<App>>, id: Path<String>, following: Query<Following>, parts: Parts) -> Result<Response> {
    follow::<BadShown>(&app, &id, &following.0, &parts)
}

/// The latest turns, and those that come from now on, as an event stream.
#[utoipa::path(get, operation_id = "stream_table_logs", path = "/connection_tables/{id}/logs/stream", tag = "tables",
    params(("id" = String, Path), Following, ("Last-Event-ID" = Option<u64>, Header, description = "Only those after this number")),
    responses(
        (status = 200, body = TurnShown, content_type = "text/event-stream", description = "One in each event"),
        (status = 404, body = Problem, description = "There is no such table"),
    )
)]
async fn logs_stream(app: State<Arc<App>>, id: Path<String>, following: Query<Following>, parts: Parts) -> Result<Response> {
    follow::<TurnShown>(&app, &id, &following.0, &parts)
}

/// The latest gaps, and those that come from now on, as an event stream.
#[utoipa::path(get, operation_id = "stream_table_gaps", path = "/connection_tables/{id}/gaps/stream", tag = "tables",
    params(("id" = String, Path), Following, ("Last-Event-ID" = Option<u64>, Header, description = "Only those after this number")),
    responses(
        (status = 200, body = GapShown, content_type = "text/event-stream", description = "One in each event"),
        (status = 404, body = Problem, description = "There is no such table"),
    )
)]
async fn gaps_stream(app: State<Arc<App>>, id: Path<String>, following: Query<Following>, parts: Parts) -> Result<Response> {
    follow::<GapShown>(&app, &id, &following.0, &parts)
}

fn latest<T: Shown>(app: &App, id: &str, looking: &Looking) -> Result<Response> {
    let table = find(&app.engine, id)?;
    let entries = T::journal(&table).after(looking.after);
    let skipped = entries.len().saturating_sub(looking.limit.unwrap_or(LIMIT_DEFAULT));
    let next = entries.last().map_or(looking.after.min(T::journal(&table).last()), |(number, _)| *number);
    let numbered = |(number, entry)| Numbered { number, entry: T::of(&table, entry) };
    let latest = Latest { data: entries.into_iter().skip(skipped).map(numbered).collect(), next };
    Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(latest)).into_response())
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Following {
    /// Only those after this number.
    after: u64,
    /// End after so many.
    limit: Option<u64>,
}

/// How long a stream may outlive its table.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where a stream is.
struct TailPosition {
    app: Arc<App>,
    shutdown: Shutdown,
    table: Arc<Table>,
    number: u64,
    left: u64,
    /// It counts with the streams of views.
    _permit: Permit,
}

fn follow<T: Shown>(app: &Arc<App>, id: &str, following: &Following, parts: &Parts) -> Result<Response> {
    let table = find(&app.engine, id)?;
    let permit = app.streams.place(&Visitor::of(parts))?;
    let last_id = parts.headers.get("last-event-id").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // A number that the journal has not reached is of another life of the table.
    let number = last_id.unwrap_or(following.after);
    let number = if number > T::journal(&table).last() { 0 } else { number };
    let shutdown = parts.extensions.get::<Shutdown>().cloned().unwrap_or_default();
    let left = following.limit.unwrap_or(u64::MAX);
    let place = TailPosition { app: Arc::clone(app), shutdown, table, number, left, _permit: permit };
    let chunks = stream::unfold(place, async |mut place| {
        let entries = place.next::<T>().await?;
        let events: Vec<_> = entries.into_iter().map(|(number, entry)| event(number, &T::of(&place.table, entry))).collect();
        Some((stream::iter(events), place))
    });
    Ok(answer(futures::StreamExt::flatten(chunks)))
}

/// JSON has no line breaks in it, so that any entry is one line of data.
fn event(number: u64, entry: &impl Serialize) -> Result<Event, Infallible> {
    let data = serde_json::to_string(entry).unwrap_or_default();
    Ok(Event::default().id(number.to_string()).data(data))
}

impl TailPosition {
    /// The next entries; `None` once the table is gone, the server stops, or there were enough.
    async fn next<T: Shown>(&mut self) -> Option<Vec<(u64, T::Entry)>> {
        let journal = T::journal(&self.table);
        while self.left > 0 {
            let mut entries = journal.after(self.number);
            if let Some((last, _)) = entries.last() {
                self.number = *last;
                entries.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= entries.len() as u64;
                return Some(entries);
            }
            tokio::select! {
                () = journal.written_after(self.number) => {}
                () = sleep(LOOK_EVERY) => if !self.is_there() { return None },
                () = self.shutdown.begun() => return None,
            }
        }
        None
    }

    fn is_there(&self) -> bool {
        let now = self.app.engine.table(&self.table.spec().name);
        now.is_some_and(|now| Arc::ptr_eq(&now, &self.table))
    }
}
