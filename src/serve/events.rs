//! `GET /v1/events`: how every table, view and named stream fares now, and each change of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Interval, MissedTickBehavior, interval};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::body::Query;
use super::limits::Permit;
use super::listen::Shutdown;
use super::problem::Result;
use super::stream::{StreamState, Visitor};
use crate::feed::FeedState;
use crate::time::Timestamp;
use crate::view::Health;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Comments that keep a silent stream open.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How often the states are looked at. One that is over by the next look is not seen; the log of the table has it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What fares in one way or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum SubjectKind {
    Table,
    View,
    Stream,
}

/// How something fares from now on.
#[derive(Debug, Serialize, ToSchema)]
struct StateShown {
    kind: SubjectKind,
    name: String,
    /// As in the resource itself; `dropped` once it is gone.
    state: String,
    /// Why it is not as it should be.
    reason: Option<String>,
    /// When this was seen.
    at: String,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Following {
    /// End after so many.
    limit: Option<u64>,
}

/// How tables, views and named streams fare.
///
/// First the state of each, then every change as it is seen, four times a second at most. A table is `silent` where it has an `expect_every`
/// and nothing came for so long.
#[utoipa::path(get, operation_id = "stream_events", path = "/events", tag = "server", params(Following), responses(
    (status = 200, body = StateShown, content_type = "text/event-stream", description = "One in each event, of the type `state`"),
))]
async fn events(State(app): State<Arc<App>>, following: Query<Following>, parts: Parts) -> Result<Response> {
    let permit = app.streams.place(&Visitor::of(&parts))?;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let look = EventsClient {
        app,
        shutdown: parts.extensions.get::<Shutdown>().cloned().unwrap_or_default(),
        ticks,
        seen: BTreeMap::new(),
        left: following.0.limit.unwrap_or(u64::MAX),
        _permit: permit,
    };
    let chunks = stream::unfold(look, async |mut look| Some((stream::iter(look.changes().await?), look)));
    Ok(answer(chunks.flatten()))
}

/// Events as they come, with comments while none do; nothing between here and the client may hold them back.
pub(super) fn answer(events: impl Stream<Item = std::result::Result<Event, Infallible>> + Send + 'static) -> Response {
    let headers = [
        (CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    (headers, Sse::new(events).keep_alive(heartbeat)).into_response()
}

/// State and reason of everything, by kind and name.
type States = BTreeMap<(SubjectKind, String), (String, Option<String>)>;

/// A client that looks on.
struct EventsClient {
    app: Arc<App>,
    shutdown: Shutdown,
    ticks: Interval,
    /// What the client knows.
    seen: States,
    left: u64,
    /// It counts with the streams of views.
    _permit: Permit,
}

impl EventsClient {
    /// The next changes, some; `None` once the server stops or there were enough.
    async fn changes(&mut self) -> Option<Vec<std::result::Result<Event, Infallible>>> {
        while self.left > 0 {
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = self.shutdown.begun() => return None,
            }
            let now = states(&self.app);
            let at = Timestamp::now().to_string();
            let gone = self.seen.keys().filter(|name| !now.contains_key(*name)).map(|name| (name, ("dropped".to_string(), None)));
            // A reason that is told anew, such as the time of the next attempt, is no other state.
            let is_other = |(name, (state, _)): &(&(SubjectKind, String), &(String, _))| {
                self.seen.get(*name).is_none_or(|seen| seen.0 != *state)
            };
            let other = now.iter().filter(is_other).map(|(name, state)| (name, state.clone()));
            let shown = |((kind, name), (state, reason)): (&(SubjectKind, String), (String, Option<String>))| {
                let shown = StateShown { kind: *kind, name: name.clone(), state, reason, at: at.clone() };
                Ok(Event::default().event("state").data(serde_json::to_string(&shown).unwrap_or_default()))
            };
            let changes: Vec<_> = gone.chain(other).take(usize::try_from(self.left).unwrap_or(usize::MAX)).map(shown).collect();
            self.seen = now;
            self.left -= changes.len() as u64;
            if !changes.is_empty() {
                return Some(changes);
            }
        }
        None
    }
}

fn states(app: &App) -> States {
    let mut states = States::new();
    for table in app.engine.tables() {
        let state = table.feed_status().snapshot().state;
        let reason = table.silence().filter(|_| state != FeedState::Connected);
        states.insert((SubjectKind::Table, table.spec().name.clone()), (state.to_string().replace(' ', "_"), reason));
    }
    for view in app.engine.views() {
        let health = view.live().map_or(Health::Waiting, |live| live.health());
        let reason = match &health {
            Health::Failed(error) => Some(error.to_string()),
            _ => None,
        };
        states.insert((SubjectKind::View, view.name.clone()), (health.as_str().into(), reason));
    }
    for named in app.streams.list() {
        let (state, reason) = match named.state() {
            StreamState::Running => ("running", None),
            StreamState::Stopped => ("stopped", None),
            StreamState::Failed(reason) => ("failed", Some(reason)),
        };
        states.insert((SubjectKind::Stream, named.spec.id.clone()), (state.into(), reason));
    }
    states
}
