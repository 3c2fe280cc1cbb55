//! `/v1/views/{id}/stream`, `/v1/views/{id}/changes`, `/v1/streams`, and the streams as Drasi's reactions.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRef, Path, State};
use axum::http::header::{ETAG, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ask::Ask;
use super::counters::Counters;
use super::fields::Issue;
use super::http::{Visitor, ask, bad_query, stream};
use super::named_stream::{Named, StreamState as Fare};
use super::poll::{self, Poll, ViewChanges};
use super::shape::Shape;
use super::spec::StreamSpec;
use super::streams::{Streams, Write};
use crate::error::{Code, Error};
use crate::serve::body::{self, Body, Query};
use crate::serve::drasi::{Envelope, envelope};
use crate::serve::listen::Shutdown;
use crate::serve::precondition;
use crate::serve::problem::{Problem, Result};

/// Below the base path.
pub fn routes<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S>
where
    Arc<Streams>: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(view_stream))
        .routes(routes!(view_changes))
        .routes(routes!(list, create))
        .routes(routes!(one, replace, remove))
        .routes(routes!(start))
        .routes(routes!(stop))
}

/// Drasi's names for the same, below `/api/v1`.
pub fn reactions<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S>
where
    Arc<Streams>: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(reaction_list))
        .routes(routes!(reaction))
        .routes(routes!(reaction_start))
        .routes(routes!(reaction_stop))
}

/// A named stream and how it fares.
#[derive(Debug, Serialize, ToSchema)]
struct StreamShown {
    #[serde(flatten)]
    spec: StreamSpec,
    /// `running`, `stopped` or `failed`.
    #[schema(value_type = String)]
    state: &'static str,
    /// Why it is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Where it listens by itself; absent where it is on the address of the REST interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    endpoints: Vec<StreamEndpoint>,
    stats: StreamStats,
    created_at: String,
    updated_at: String,
}

/// A path of a stream.
#[derive(Debug, Serialize, ToSchema)]
struct StreamEndpoint {
    path: String,
    views: Vec<String>,
}

/// What a stream has done since the program started.
#[derive(Debug, Serialize, ToSchema)]
struct StreamStats {
    clients: u64,
    connects_total: u64,
    refused_total: u64,
    events_total: u64,
    bytes_total: u64,
    resets_total: u64,
    lagged_total: u64,
    dropped_total: u64,
    render_errors_total: u64,
    oversized_total: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct StreamList {
    data: Vec<StreamShown>,
    has_more: bool,
    /// What to give as `starting_after` for the rest.
    next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct StreamListing {
    /// At most so many, up to 500.
    limit: usize,
    /// The id of the last stream of the page before.
    starting_after: Option<String>,
    /// Only those in this state.
    state: Option<String>,
}

impl Default for StreamListing {
    fn default() -> Self {
        StreamListing { limit: 50, starting_after: None, state: None }
    }
}

/// The longest page.
const LIST_MAX: usize = 500;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Writing {
    /// Do everything but make it.
    dry_run: bool,
}

/// Follows a view: its rows as they are, then every change, with ids from which a client can go on.
#[utoipa::path(get, operation_id = "stream_view", path = "/views/{id}/stream", tag = "streams", params(("id" = String, Path), Ask), responses(
    (status = 200, content_type = "text/event-stream", body = String, description = "Events until the client leaves"),
    (status = 400, body = Problem, description = "A parameter is wrong"),
    (status = 404, body = Problem, description = "There is no such view"),
    (status = 422, body = Problem, description = "The view has no such column, or the condition no meaning"),
    (status = 429, body = Problem, description = "This client has too many streams"),
    (status = 503, body = Problem, description = "Too many clients"),
))]
async fn view_stream(State(streams): State<Arc<Streams>>, Path(id): Path<String>, parts: Parts) -> Result<Response> {
    let ask = ask(&parts, Shape::default())?;
    if !ask.views.is_empty() {
        let error = Error::new(Code::BadOption, "the address names the view already").hint("leave view out, or use /v1/streams");
        return Err(bad_query(vec![error]));
    }
    let views = [streams.view(&id)?];
    streams.prepare(&views, &ask.shape).await?;
    stream(streams.connect(&views, &ask, &Visitor::of(&parts)), &ask)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Polling {
    /// The id after which changes are wanted, or `earliest` (default), or `latest`.
    after: String,
    /// At most so many events, up to 10,000; 1,000 by default.
    limit: Option<u64>,
    /// How long to wait for a change if there is none: seconds, up to 50.
    wait: Option<u64>,
    /// How changes are put into events.
    format: Option<String>,
    /// The kinds of changes: `added,updated,deleted`.
    ops: Option<String>,
    /// The columns, separated by commas.
    columns: Option<String>,
    /// A condition over the columns.
    r#where: Option<String>,
    token: Option<String>,
    ticket: Option<String>,
}

/// The changes of a view for clients without event streams: the same events with the same ids.
#[utoipa::path(get, operation_id = "poll_view", path = "/views/{id}/changes", tag = "streams", params(("id" = String, Path), Polling), responses(
    (status = 200, body = ViewChanges, description = "What came after, perhaps nothing yet"),
    (status = 400, body = Problem, description = "A parameter is wrong"),
    (status = 404, body = Problem, description = "There is no such view"),
    (status = 422, body = Problem, description = "The view has no such column, or the condition no meaning"),
))]
async fn view_changes(
    State(streams): State<Arc<Streams>>,
    Path(id): Path<String>,
    Query(polling): Query<Polling>,
    Extension(shutdown): Extension<Shutdown>,
) -> Result<Json<ViewChanges>> {
    let mut shape = Shape::default();
    let given = [("format", &polling.format), ("ops", &polling.ops), ("columns", &polling.columns), ("where", &polling.r#where)];
    let errors = given.into_iter().filter_map(|(name, value)| shape.read(name, value.as_ref()?).err());
    let errors: Vec<Error> = errors.collect();
    if !errors.is_empty() {
        return Err(bad_query(errors));
    }
    let asked = Poll {
        after: polling.after,
        limit: polling.limit.unwrap_or(poll::LIMIT).clamp(1, poll::LIMIT_MAX),
        wait: Duration::from_secs(polling.wait.unwrap_or(0)).min(poll::WAIT_MAX),
    };
    let views = [streams.view(&id)?];
    streams.prepare(&views, &shape).await?;
    let (live, encoder) = streams.encoder(&views[0], shape, None)?;
    let polled = async {
        match poll::poll(&live, &encoder, &asked).await {
            Ok(changes) => Ok(Json(changes)),
            Err(error) if error.code() == Code::BadOption => Err(bad_query(vec![error])),
            Err(error) => Err(error.into()),
        }
    };
    shutdown.or(polled).await
}

/// Follows several views on one connection (`?view=a&view=b`), or, without `view`, lists the named streams.
#[utoipa::path(get, operation_id = "list_streams", path = "/streams", tag = "streams",
    params(("view" = Option<Vec<String>>, Query, description = "Views to follow"), Ask, StreamListing),
    responses(
        (status = 200, description = "The streams, or events until the client leaves",
            content((StreamList = "application/json"), (String = "text/event-stream"))),
        (status = 400, body = Problem, description = "A parameter is wrong"),
        (status = 404, body = Problem, description = "There is no such view"),
        (status = 422, body = Problem, description = "The view has no such column, or the condition no meaning"),
        (status = 429, body = Problem, description = "This client has too many streams"),
        (status = 503, body = Problem, description = "Too many clients"),
    ))]
async fn list(State(streams): State<Arc<Streams>>, parts: Parts) -> Result<Response> {
    let query = parts.uri.query().unwrap_or_default();
    if url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "view") {
        let ask = ask(&parts, Shape::default())?;
        let mut views: Vec<String> = Vec::new();
        for view in &ask.views {
            if !views.contains(view) {
                views.push(view.clone());
            }
        }
        if views.is_empty() || views.len() > super::spec::MAX_VIEWS {
            let error = Error::new(Code::BadOption, format!("option 'view' names {} views", views.len()));
            return Err(bad_query(vec![error.hint(format!("name 1 to {}", super::spec::MAX_VIEWS))]));
        }
        streams.prepare(&views, &ask.shape).await?;
        return stream(streams.connect(&views, &ask, &Visitor::of(&parts)), &ask);
    }
    let listing: StreamListing = body::query(query)?;
    let limit = listing.limit.clamp(1, LIST_MAX);
    let after = |named: &Arc<Named>| listing.starting_after.as_ref().is_none_or(|after| named.spec.id > *after);
    let shown = streams.list().into_iter().filter(after).map(|named| shown(&named));
    let wanted = |shown: &StreamShown| listing.state.as_ref().is_none_or(|state| shown.state == state);
    let mut data: Vec<StreamShown> = shown.filter(wanted).take(limit + 1).collect();
    let has_more = data.len() > limit;
    data.truncate(limit);
    let next = data.last().filter(|_| has_more).map(|shown| shown.spec.id.clone());
    Ok(Json(StreamList { data, has_more, next }).into_response())
}

/// Makes a named stream.
#[utoipa::path(post, operation_id = "create_stream", path = "/streams", tag = "streams", params(Writing), request_body = StreamSpec, responses(
    (status = 201, body = StreamShown, description = "Made"),
    (status = 200, body = StreamSpec, description = "Would be made (dry run)"),
    (status = 409, body = Problem, description = "The id, a path or the address is taken"),
    (status = 422, body = Problem, description = "The stream is wrong"),
))]
async fn create(
    State(streams): State<Arc<Streams>>,
    Query(writing): Query<Writing>,
    Body(value): Body<Value>,
) -> Result<Response> {
    if writing.dry_run {
        return Ok(Json(streams.check(&value, Write::Create).map_err(problem)?).into_response());
    }
    let named = streams.put(&value, Write::Create).await.map_err(problem)?;
    let mut response = answer(StatusCode::CREATED, &named);
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/streams/{}", named.spec.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// A named stream and how it fares.
#[utoipa::path(get, operation_id = "get_stream", path = "/streams/{id}", tag = "streams", params(("id" = String, Path)), responses(
    (status = 200, body = StreamShown, description = "The stream"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn one(State(streams): State<Arc<Streams>>, Path(id): Path<String>) -> Result<Response> {
    Ok(answer(StatusCode::OK, &*find(&streams, &id)?))
}

/// Makes a named stream, or another of its id in its place; its clients are sent to the new one.
#[utoipa::path(put, operation_id = "put_stream", path = "/streams/{id}", tag = "streams", request_body = StreamSpec,
    params(("id" = String, Path), Writing,
        ("If-Match" = Option<String>, Header, description = "Only from the state of this ETag"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only where there is none")),
    responses(
        (status = 200, body = StreamShown, description = "Replaced"),
        (status = 201, body = StreamShown, description = "Made"),
        (status = 409, body = Problem, description = "A path or the address is taken"),
        (status = 412, body = Problem, description = "It is not in the state that the headers name"),
        (status = 422, body = Problem, description = "The stream is wrong"),
    )
)]
async fn replace(
    State(streams): State<Arc<Streams>>,
    Path(id): Path<String>,
    Query(writing): Query<Writing>,
    headers: HeaderMap,
    Body(mut value): Body<Value>,
) -> Result<Response> {
    if let Some(members) = value.as_object_mut() {
        let given = members.entry("id").or_insert_with(|| id.as_str().into());
        if *given != id {
            let error = Error::new(Code::BadOption, format!("the address names the stream '{id}', the body another"));
            return Err(Problem::from(error.hint("leave id out")).at("/id"));
        }
    }
    if writing.dry_run {
        return Ok(Json(streams.check(&value, Write::Replace).map_err(problem)?).into_response());
    }
    let old = streams.find(&id);
    precondition::check(&headers, old.as_ref().map(|named| tag(named)).as_ref())?;
    let status = if old.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    Ok(answer(status, &*streams.put(&value, Write::Replace).await.map_err(problem)?))
}

/// Removes a named stream; its clients are told.
#[utoipa::path(delete, operation_id = "delete_stream", path = "/streams/{id}", tag = "streams",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "Only from the state of this ETag")),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, body = Problem, description = "There is none"),
        (status = 412, body = Problem, description = "It is not in the state that If-Match names"),
    )
)]
async fn remove(State(streams): State<Arc<Streams>>, Path(id): Path<String>, headers: HeaderMap) -> Result<StatusCode> {
    precondition::check(&headers, Some(&tag(&*find(&streams, &id)?)))?;
    streams.remove(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a stopped stream run.
#[utoipa::path(post, operation_id = "start_stream", path = "/streams/{id}/start", tag = "streams", params(("id" = String, Path)), responses(
    (status = 200, body = StreamShown, description = "It runs"),
    (status = 404, body = Problem, description = "There is none"),
    (status = 409, body = Problem, description = "Its address is taken"),
))]
async fn start(State(streams): State<Arc<Streams>>, Path(id): Path<String>) -> Result<Json<StreamShown>> {
    let named = find(&streams, &id)?;
    streams.start(&named).await?;
    Ok(Json(shown(&named)))
}

/// Ends the clients of a stream, and refuses new ones until it is started.
#[utoipa::path(post, operation_id = "stop_stream", path = "/streams/{id}/stop", tag = "streams", params(("id" = String, Path)), responses(
    (status = 200, body = StreamShown, description = "It is stopped"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn stop(State(streams): State<Arc<Streams>>, Path(id): Path<String>) -> Result<Json<StreamShown>> {
    let named = find(&streams, &id)?;
    streams.stop(&named).await;
    Ok(Json(shown(&named)))
}

/// A named stream in Drasi's words.
#[derive(Debug, Serialize, ToSchema)]
struct Reaction {
    id: String,
    #[schema(value_type = String)]
    kind: &'static str,
    /// `Running`, `Stopped` or `Error`.
    #[schema(value_type = String)]
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    queries: Vec<String>,
    auto_start: bool,
    /// The stream itself.
    config: StreamShown,
}

/// The named streams as reactions.
#[utoipa::path(get, operation_id = "list_reactions", path = "/reactions", tag = "drasi", responses((status = 200, body = Envelope<Vec<Reaction>>, description = "All of them")))]
async fn reaction_list(State(streams): State<Arc<Streams>>) -> Json<Envelope<Vec<Reaction>>> {
    envelope(streams.list().iter().map(|named| Reaction::of(named)).collect())
}

/// A named stream as a reaction.
#[utoipa::path(get, operation_id = "get_reaction", path = "/reactions/{id}", tag = "drasi", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Reaction>, description = "The reaction"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn reaction(State(streams): State<Arc<Streams>>, Path(id): Path<String>) -> Result<Json<Envelope<Reaction>>> {
    Ok(envelope(Reaction::of(&*find(&streams, &id)?)))
}

/// Lets a stopped reaction run.
#[utoipa::path(post, operation_id = "start_reaction", path = "/reactions/{id}/start", tag = "drasi", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Reaction>, description = "It runs"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn reaction_start(State(streams): State<Arc<Streams>>, Path(id): Path<String>) -> Result<Json<Envelope<Reaction>>> {
    let named = find(&streams, &id)?;
    streams.start(&named).await?;
    Ok(envelope(Reaction::of(&named)))
}

/// Stops a reaction.
#[utoipa::path(post, operation_id = "stop_reaction", path = "/reactions/{id}/stop", tag = "drasi", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Reaction>, description = "It is stopped"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn reaction_stop(State(streams): State<Arc<Streams>>, Path(id): Path<String>) -> Result<Json<Envelope<Reaction>>> {
    let named = find(&streams, &id)?;
    streams.stop(&named).await;
    Ok(envelope(Reaction::of(&named)))
}

impl Reaction {
    fn of(named: &Named) -> Reaction {
        let (status, error_message) = match named.state() {
            Fare::Running => ("Running", None),
            Fare::Stopped => ("Stopped", None),
            Fare::Failed(reason) => ("Error", Some(reason)),
        };
        Reaction {
            id: named.spec.id.clone(),
            kind: named.spec.kind.name(),
            status,
            error_message,
            queries: named.spec.views.clone(),
            auto_start: named.spec.auto_start,
            config: shown(named),
        }
    }
}

/// A stream with the tag of its definition.
fn answer(status: StatusCode, named: &Named) -> Response {
    (status, [(ETAG, tag(named))], Json(shown(named))).into_response()
}

fn tag(named: &Named) -> HeaderValue {
    precondition::tag(&serde_json::to_string(&named.spec).unwrap_or_default(), &named.updated_at)
}

fn find(streams: &Streams, id: &str) -> Result<Arc<Named>> {
    streams.find(id).ok_or_else(|| {
        let known = streams.list();
        Problem::not_found("stream", id, known.iter().map(|named| named.spec.id.as_str()))
    })
}

fn shown(named: &Named) -> StreamShown {
    let (state, reason) = match named.state() {
        Fare::Running => ("running", None),
        Fare::Stopped => ("stopped", None),
        Fare::Failed(reason) => ("failed", Some(reason)),
    };
    let endpoint = |endpoint: &super::spec::Endpoint| StreamEndpoint {
        path: endpoint.path.clone(),
        views: endpoint.views.iter().map(|(index, _)| named.spec.views[*index].clone()).collect(),
    };
    let counters = &named.counters;
    StreamShown {
        spec: named.spec.clone(),
        state,
        reason,
        address: named.address.map(|address| address.to_string()),
        endpoints: named.endpoints.iter().map(endpoint).collect(),
        stats: StreamStats {
            clients: Counters::get(&counters.clients),
            connects_total: Counters::get(&counters.connects),
            refused_total: Counters::get(&counters.refused),
            events_total: Counters::get(&counters.events),
            bytes_total: Counters::get(&counters.bytes),
            resets_total: Counters::get(&counters.resets),
            lagged_total: Counters::get(&counters.lagged),
            dropped_total: Counters::get(&counters.dropped),
            render_errors_total: Counters::get(&counters.render_errors),
            oversized_total: Counters::get(&counters.oversized),
        },
        created_at: named.created_at.clone(),
        updated_at: named.updated_at.clone(),
    }
}

/// What is wrong with a stream, each mistake with its place in the body.
fn problem(issues: Vec<Issue>) -> Problem {
    let (pointers, errors): (Vec<String>, Vec<Error>) = issues.into_iter().map(|issue| (issue.pointer, issue.error)).unzip();
    let status = match errors.first().map(Error::code) {
        Some(Code::Exists) => StatusCode::CONFLICT,
        Some(Code::Bug | Code::Data) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let pointers = RefCell::new(pointers.into_iter());
    Problem::from(errors).point(|_| pointers.borrow_mut().next().filter(|pointer| !pointer.is_empty())).with_status(status)
}
