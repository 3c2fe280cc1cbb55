//! Views over REST: make, look at, drop; their rows in several forms, waiting for a change where asked.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::app::single;
use super::body::{Body, Query};
use super::listen::Shutdown;
use super::page::{Page, Part};
use super::precondition::{check, tag};
use super::problem::{Problem, Result};
use super::rows::{self, Form};
use super::sql::SQL_BYTES_MAX;
use crate::engine::{Answer, Engine, View};
use crate::error::{Code, Error};
use crate::feed::Policy;
use crate::format::infer::{field_type, identifier};
use crate::sql::Statement;
use crate::view::{Health, Live, Snapshot};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(one, replace, drop_one))
        .routes(routes!(results))
        .routes(routes!(plan))
}

/// A view to make: `CREATE VIEW` in other words.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewPost {
    #[schema(example = "rolling_metrics")]
    name: String,
    /// The query, without a `;`.
    #[schema(example = "SELECT host, avg(value), TUMBLE(INTERVAL '10 seconds') AS window FROM metrics GROUP BY host, window")]
    query: String,
    /// `final` (default): each window's result when it closes. `changes`: also before, as updates.
    emit: Option<String>,
    /// With `changes`: the least event time between two early results, such as `1s`.
    emit_interval: Option<String>,
    /// For how long after its end a window takes late rows, such as `5s`.
    allowed_lateness: Option<String>,
    /// How many of its latest rows the view keeps.
    retention: Option<u64>,
}

/// A view without its name, which the address says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ViewPut {
    name: Option<String>,
    query: String,
    emit: Option<String>,
    emit_interval: Option<String>,
    allowed_lateness: Option<String>,
    retention: Option<u64>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Writing {
    /// Do everything but make it.
    dry_run: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Dropping {
    /// Also drop the views that read it.
    cascade: bool,
}

/// A view.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = View)]
struct Shown {
    id: String,
    name: String,
    query: String,
    /// The statement that makes it.
    sql: String,
    columns: Vec<Column>,
    /// `append`: rows come and stay. `changelog`: rows are also updated and deleted.
    kind: &'static str,
    depends_on: Vec<String>,
    used_by: Vec<String>,
    state: &'static str,
    /// Why it is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Why nothing comes, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_because: Option<String>,
    stats: Stats,
    /// What its author may not expect of it.
    warnings: Vec<String>,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ViewColumn)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    nullable: bool,
}

/// How far a view has come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ViewStats)]
struct Stats {
    /// The id of its latest change, `<epoch>-<number>`.
    position: String,
    /// Changes so far.
    changes_total: u64,
    /// Rows that stand now.
    rows: usize,
    /// Memory of rows and history.
    bytes: usize,
    watermark: Option<String>,
    /// The watermark that lets the next result out.
    next_close: Option<String>,
    open_windows: usize,
    late_rows_total: u64,
    bad_rows_total: u64,
    /// Rows in the state of its operators.
    state_rows: usize,
    /// Memory of that state.
    state_bytes: usize,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// At most so many; default 50, at most 500.
    limit: Option<usize>,
    /// Leave out so many first.
    offset: usize,
    /// The name or id of the last view of the page before.
    starting_after: Option<String>,
    /// Only the one of this name.
    name: Option<String>,
    /// Only those in this state, such as `running`.
    state: Option<String>,
}

/// Longest name of a view.
const NAME_MAX: usize = 63;

/// The longest wait for a change: proxies give up on a silent answer after a minute.
const WAIT_MAX: Duration = Duration::from_secs(50);

/// Makes a view, which runs from then on.
#[utoipa::path(post, operation_id = "create_view", path = "/views", tag = "views", request_body = ViewPost,
    params(Writing, ("Idempotency-Key" = Option<String>, Header, description = "The same key with the same body is done once, for 24 hours")),
    responses(
        (status = 201, body = Shown, description = "Made"),
        (status = 200, body = Shown, description = "Would be made (dry run)"),
        (status = 409, body = Problem, description = "The name is taken"),
        (status = 422, body = Problem, description = "The query is wrong"),
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    Query(writing): Query<Writing>,
    headers: HeaderMap,
    Body(post): Body<ViewPost>,
) -> Result<Response> {
    let request = format!("views {} {post:?}", writing.dry_run);
    let write = async {
        if writing.dry_run {
            return dry(&app, &post, false).await;
        }
        let turn = app.changing().await;
        turn.execute(&post.statement(false)?).await.map_err(located)?;
        answer(&app.engine, &post.name, StatusCode::CREATED)
    };
    app.once.run(&headers, request, write).await
}

/// Makes a view, or another in the place of that of its name. One that is so already goes on running.
#[utoipa::path(put, operation_id = "put_view", path = "/views/{id}", tag = "views", request_body = ViewPut,
    params(("id" = String, Path, description = "Name or id"), Writing,
        ("If-Match" = Option<String>, Header, description = "Only from the state of this ETag"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only where there is none")),
    responses(
        (status = 200, body = Shown, description = "Replaced"),
        (status = 201, body = Shown, description = "Made"),
        (status = 409, body = Problem, description = "Other views read it"),
        (status = 412, body = Problem, description = "It is not in the state that the headers name"),
        (status = 422, body = Problem, description = "The query is wrong"),
    )
)]
async fn replace(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(writing): Query<Writing>,
    headers: HeaderMap,
    Body(put): Body<ViewPut>,
) -> Result<Response> {
    let turn = app.changing().await;
    let there = find(&app.engine, &id).ok();
    check(&headers, there.as_ref().map(|view| tag_of(&app.engine, view)).as_ref())?;
    let name = there.as_ref().map_or(id, |view| view.name.clone());
    if put.name.as_ref().is_some_and(|given| *given != name) {
        let error =
            Error::new(Code::BadOption, format!("the address names the view '{name}', the body another")).hint("leave name out");
        return Err(Problem::from(error).at("/name"));
    }
    let ViewPut { name: _, query, emit, emit_interval, allowed_lateness, retention } = put;
    let post = ViewPost { name, query, emit, emit_interval, allowed_lateness, retention };
    if writing.dry_run {
        return dry(&app, &post, true).await;
    }
    let statement = post.statement(there.is_some())?;
    match &there {
        Some(view) if plain(&view.text) == plain(&statement.text) => answer(&app.engine, &view.name, StatusCode::OK),
        _ => {
            let done = turn.execute(&statement).await;
            done.map_err(|errors| located(errors).dependants(app.engine.readers(&post.name)))?;
            answer(&app.engine, &post.name, if there.is_some() { StatusCode::OK } else { StatusCode::CREATED })
        }
    }
}

/// The views in the order they were made.
#[utoipa::path(get, operation_id = "list_views", path = "/views", tag = "views", params(Listing), responses(
    (status = 200, body = Page<Shown>, description = "A page"),
    (status = 422, body = Problem, description = "The list has not what `starting_after` names"),
))]
async fn list(State(app): State<Arc<App>>, Query(listing): Query<Listing>) -> Result<Json<Page<Shown>>> {
    let is = |asked: &Option<String>, value: &str| asked.as_ref().is_none_or(|asked| asked == value);
    let views = app.engine.views();
    let views = views.iter().map(|view| shown(&app.engine, view));
    let wanted = views.filter(|view| is(&listing.name, &view.name) && is(&listing.state, view.state));
    let part = Part { limit: listing.limit, offset: listing.offset, starting_after: listing.starting_after.as_deref() };
    Ok(Json(Page::of(wanted, part, |view| [view.name.clone(), view.id.clone()])?))
}

/// A view and how far it has come.
#[utoipa::path(get, operation_id = "get_view", path = "/views/{id}", tag = "views", params(("id" = String, Path, description = "Name or id")), responses(
    (status = 200, body = Shown, description = "The view; the ETag is that of its definition"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response> {
    let view = find(&app.engine, &id)?;
    answer(&app.engine, &view.name, StatusCode::OK)
}

/// Drops a view; its streams end.
#[utoipa::path(delete, operation_id = "delete_view", path = "/views/{id}", tag = "views",
    params(("id" = String, Path, description = "Name or id"), Dropping,
        ("If-Match" = Option<String>, Header, description = "Only from the state of this ETag")),
    responses(
        (status = 204, description = "Dropped"),
        (status = 404, body = Problem, description = "There is none"),
        (status = 409, body = Problem, description = "Other views read it, or a named stream shows it"),
        (status = 412, body = Problem, description = "It is not in the state that If-Match names"),
    )
)]
async fn drop_one(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(dropping): Query<Dropping>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    let turn = app.changing().await;
    let view = find(&app.engine, &id)?;
    check(&headers, Some(&tag_of(&app.engine, &view)))?;
    turn.remove("VIEW", &view.name, dropping.cascade).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// At most so many rows.
    limit: Option<usize>,
    /// Leave out so many first.
    offset: usize,
    /// A condition over the columns: `price > 10`.
    r#where: Option<String>,
    /// Columns or expressions, each perhaps with `DESC`, separated by commas.
    order_by: Option<String>,
    /// `json` (default), `ndjson`, `csv` or `arrow`; the header `Accept` says it as well.
    #[param(inline)]
    format: Option<Form>,
}

/// The rows of a view as they are now. With `If-None-Match` and `Prefer: wait=30` the answer waits until they change.
#[utoipa::path(get, operation_id = "view_results", path = "/views/{id}/results", tag = "views", params(("id" = String, Path), Wanted), responses(
    (status = 200, description = "Rows, in the form that was asked for; the ETag names their state", content(
        (rows::Rows = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.arrow.stream"),
    )),
    (status = 304, description = "They are still the ones that the ETag names"),
    (status = 404, body = Problem, description = "There is no such view"),
    (status = 406, body = Problem, description = "No such form"),
    (status = 422, body = Problem, description = "A condition or order is wrong"),
))]
async fn results(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
    Extension(shutdown): Extension<Shutdown>,
    headers: HeaderMap,
) -> Result<Response> {
    let form = Form::negotiate(wanted.format, headers.get(ACCEPT))?;
    let waits = wait_of(&headers);
    let (live, snapshot) = shutdown.or(fresh(&app.engine, &id, &headers, waits.unwrap_or_default())).await?;
    let applied = waits.map(|wait| (HeaderName::from_static("preference-applied"), format!("wait={}", wait.as_secs())));
    let tag = state(&live, snapshot.as_ref().map_or_else(|| live.head(), |snapshot| snapshot.seq));
    let mut response = match snapshot {
        None => StatusCode::NOT_MODIFIED.into_response(),
        Some(Snapshot { rows, seq, .. }) => {
            let total = rows.num_rows();
            let selected = app.engine.select(rows, wanted.r#where.as_deref(), wanted.order_by.as_deref()).await;
            let rows = selected.map_err(unselected)?;
            let start = wanted.offset.min(rows.num_rows());
            let rows = rows.slice(start, wanted.limit.unwrap_or(usize::MAX).min(rows.num_rows() - start));
            rows::answer(form, &rows, total, &position(&live, seq))?
        }
    };
    response.headers_mut().insert(ETAG, tag);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    if let Some((name, value)) = applied
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// The chain of operators that keeps the view up to date.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ViewPlan)]
struct PlanShown {
    /// The operators as `EXPLAIN` shows them.
    text: String,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanNode)]
struct Node {
    id: usize,
    operator: String,
    detail: String,
}

/// Rows flow from one node to another.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanEdge)]
struct Edge {
    from: usize,
    to: usize,
}

/// How a view is kept up to date.
#[utoipa::path(get, operation_id = "view_plan", path = "/views/{id}/plan", tag = "views", params(("id" = String, Path)), responses(
    (status = 200, body = PlanShown, description = "Its operators"),
    (status = 404, body = Problem, description = "There is no such view"),
))]
async fn plan(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<PlanShown>> {
    let view = find(&app.engine, &id)?;
    let statement = single(&format!("EXPLAIN {}", view.text))?;
    let Answer::Rows(rows) = app.engine.execute(&statement).await? else {
        return Err(Error::bug("EXPLAIN gave no rows").into());
    };
    let lines: Vec<String> = rows::texts(&rows);
    let (nodes, edges) = graph(&lines);
    Ok(Json(PlanShown { text: lines.join("\n"), nodes, edges }))
}

/// Nodes and edges of a tree that is shown by two blanks a level, the last operator first.
fn graph(lines: &[String]) -> (Vec<Node>, Vec<Edge>) {
    let mut path: Vec<usize> = Vec::new();
    let (mut nodes, mut edges) = (Vec::new(), Vec::new());
    for (id, line) in lines.iter().enumerate() {
        let level = (line.len() - line.trim_start().len()) / 2;
        let (operator, detail) = line.trim().split_once(": ").unwrap_or((line.trim(), ""));
        nodes.push(Node { id, operator: operator.into(), detail: detail.into() });
        path.truncate(level);
        edges.extend(path.last().map(|to| Edge { from: id, to: *to }));
        path.push(id);
    }
    (nodes, edges)
}

impl ViewPost {
    /// The statement that this post means. Its query stands on lines of its own, so that places in it can be told.
    fn statement(&self, or_replace: bool) -> Result<Statement> {
        let quoted = |text: &String| format!("'{}'", text.replace('\'', "''"));
        let options: Vec<String> = [
            ("emit", self.emit.as_ref().map(quoted)),
            ("emit_interval", self.emit_interval.as_ref().map(quoted)),
            ("allowed_lateness", self.allowed_lateness.as_ref().map(quoted)),
            ("retention", self.retention.map(|rows| format!("'{rows}'"))),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} = {}", value?)))
        .collect();
        let with = if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) };
        let replace = if or_replace { "OR REPLACE " } else { "" };
        let mut letters = self.name.bytes();
        let is_name = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, b'_' | b'-'))
            && self.name.len() <= NAME_MAX;
        if !is_name {
            let error = Error::new(Code::Syntax, "this is no name of a view");
            let hint = format!("give a letter or `_`, then letters, digits, `_` and `-`, at most {NAME_MAX} in all");
            return Err(Problem::from(error.hint(hint)).at("/name"));
        }
        if self.query.len() > SQL_BYTES_MAX {
            let error = Error::new(Code::TooLarge, format!("the query is longer than {SQL_BYTES_MAX} bytes"));
            return Err(Problem::from(error.hint("make views of its parts")).at("/query"));
        }
        let text = format!("CREATE {replace}VIEW {}{with} AS\n{}", identifier(&self.name), self.query);
        single(&text).map_err(located)
    }
}

/// A statement but for whether it may replace.
fn plain(text: &str) -> String {
    text.replacen("CREATE OR REPLACE VIEW", "CREATE VIEW", 1)
}

/// Why a condition or an order is wrong: whatever it names, the view itself is there.
fn unselected(error: Error) -> Problem {
    let problem = Problem::from(error.unplaced());
    match problem.status() {
        StatusCode::NOT_FOUND => problem.with_status(StatusCode::UNPROCESSABLE_ENTITY),
        _ => problem,
    }
}

/// Errors of a posted view: those in the query are told by their place in it.
fn located(errors: Vec<Error>) -> Problem {
    let mut pointers = Vec::new();
    let mut located = Vec::new();
    for error in errors {
        let option = error.message().strip_prefix("option '").and_then(|rest| rest.split('\'').next());
        // The name and the options stand in the line above the query, which nobody has written.
        let in_query = error.span().is_none_or(|span| span.start.line > 1);
        let pointer = match option {
            Some(option) => format!("/{option}"),
            // A query that is not there is missed at the end of that line.
            None if in_query || error.code() == Code::Syntax => "/query".to_string(),
            None => "/name".to_string(),
        };
        pointers.push(pointer);
        match in_query {
            true => located.push(error.moved_up(1)),
            false => located.push(error.unplaced()),
        }
    }
    let pointers = RefCell::new(pointers.into_iter());
    Problem::from(located).point(|_| pointers.borrow_mut().next())
}

/// The view of this name.
fn answer(engine: &Engine, name: &str, status: StatusCode) -> Result<Response> {
    let view = find(engine, name)?;
    let mut response = (status, [(ETAG, tag_of(engine, &view))], Json(shown(engine, &view))).into_response();
    if let (StatusCode::CREATED, Ok(location)) = (status, HeaderValue::from_str(&format!("/v1/views/{name}"))) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// What would be made: planned by an engine of its own with the same definitions.
async fn dry(app: &App, post: &ViewPost, or_replace: bool) -> Result<Response> {
    let statement = post.statement(or_replace)?;
    let trial = trial(app).await?;
    let planned = trial.execute(&statement).await;
    planned.map_err(|errors| located(errors).dependants(app.engine.readers(&post.name)))?;
    Ok(Json(shown(&trial, find(&trial, &post.name)?.as_ref())).into_response())
}

fn tag_of(engine: &Engine, view: &View) -> HeaderValue {
    tag(&view.text, engine.made(&view.name).map_or(0, |made| made.updated.nanos()))
}

/// An engine with the same definitions, in which nothing runs.
pub async fn trial(app: &App) -> Result<Engine> {
    let trial = Engine::keeping(Policy::default())?;
    for definition in app.engine.definitions() {
        trial.restore(&definition).await?;
    }
    trial.limit(app.policy());
    Ok(trial)
}

/// The view that a name or an id means.
pub fn find(engine: &Engine, name: &str) -> Result<Arc<View>> {
    if let Some(view) = engine.view(name) {
        return Ok(view);
    }
    let views = engine.views();
    match views.iter().find(|view| id(engine, view) == name) {
        Some(view) => Ok(Arc::clone(view)),
        None => Err(Problem::not_found("view", name, views.iter().map(|view| view.name.as_str()))),
    }
}

/// A view's rows and changes.
pub fn running(view: &View) -> Result<&Arc<Live>> {
    view.live().ok_or_else(|| Error::bug("a view of the server does not run").into())
}

/// The id of a change: `<epoch>-<number>`.
pub fn position(live: &Live, seq: u64) -> String {
    format!("{}-{seq}", live.epoch())
}

fn id(engine: &Engine, view: &View) -> String {
    let created = engine.made(&view.name).map_or(0, |made| made.created.nanos());
    super::opaque_id("vw", &view.name, created)
}

fn shown(engine: &Engine, view: &View) -> Shown {
    let made = engine.made(&view.name);
    let live = view.live();
    let (watermark, report) = live.and_then(|live| live.progress()).map(|progress| progress.read()).unwrap_or_default();
    let health = live.map_or(Health::Waiting, |live| live.health());
    let schema = live.map_or_else(|| Arc::clone(view.plan.schema().inner()), |live| Arc::clone(&live.schema));
    let (rows, bytes) = live.map(|live| live.size()).unwrap_or_default();
    let head = live.map_or(0, |live| live.head());
    let reason = match &health {
        Health::Ended => Some("its feeds have ended".to_string()),
        Health::Failed(error) => Some(error.to_string()),
        Health::Waiting | Health::Running | Health::Dropped => None,
    };
    let time = |time: crate::time::Timestamp| time.to_string();
    Shown {
        id: id(engine, view),
        name: view.name.clone(),
        query: view.query.clone(),
        sql: view.text.clone(),
        columns: schema
            .fields()
            .iter()
            .map(|field| Column { name: field.name().clone(), data_type: field_type(field), nullable: field.is_nullable() })
            .collect(),
        kind: if live.is_some_and(|live| live.is_changelog) { "changelog" } else { "append" },
        depends_on: engine.reads_of(&view.name),
        used_by: engine.readers(&view.name),
        state: health.as_str(),
        reason,
        silent_because: match health {
            Health::Running => silence(engine, view, &report),
            Health::Waiting | Health::Ended | Health::Failed(_) | Health::Dropped => None,
        },
        stats: Stats {
            position: live.map(|live| position(live, head)).unwrap_or_default(),
            changes_total: head,
            rows,
            bytes,
            watermark: watermark.map(time),
            next_close: report.next_close.map(time),
            open_windows: report.open_windows,
            late_rows_total: report.late_rows,
            bad_rows_total: report.bad_rows,
            state_rows: report.state_rows,
            state_bytes: report.state_bytes,
        },
        warnings: view.notices.clone(),
        created_at: made.map(|made| time(made.created)).unwrap_or_default(),
        updated_at: made.map(|made| time(made.updated)).unwrap_or_default(),
    }
}

/// Why nothing comes out of a running view: its feeds are silent, or its windows wait.
fn silence(engine: &Engine, view: &View, report: &crate::operator::Report) -> Option<String> {
    let sources = engine.sources(&view.name);
    let silent = sources.iter().find_map(|table| table.silence().map(|why| format!("table {}: {why}", table.spec().name)));
    silent.or_else(|| report.next_close.map(|close| format!("waiting for the watermark to reach {close}")))
}

/// The rows, or `None` if they are those that `If-None-Match` names and stay so for `wait`. A view that is made anew meanwhile is
/// another state; one that is dropped is not there.
async fn fresh(engine: &Engine, id: &str, headers: &HeaderMap, wait: Duration) -> Result<(Arc<Live>, Option<Snapshot>)> {
    let deadline = Instant::now() + wait;
    // Only the rows are held while waiting: holding the view would keep it running after it is dropped.
    let live = || find(engine, id).and_then(|view| running(&view).cloned());
    let mut live_now = live()?;
    loop {
        let mut follower = live_now.follow(live_now.head());
        if live_now.health() == Health::Dropped {
            live_now = live()?;
            continue;
        }
        let snapshot = live_now.snapshot()?;
        let tag = state(&live_now, snapshot.seq);
        let known =
            headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
        let is_known = known
            .map(|known| known.trim().trim_start_matches("W/"))
            .any(|known| known == "*" || known.as_bytes() == tag.as_bytes());
        if !is_known {
            return Ok((live_now, Some(snapshot)));
        }
        if tokio::time::timeout_at(deadline, follower.changed()).await.is_err() {
            return Ok((live_now, None));
        }
    }
}

/// The ETag of rows.
fn state(live: &Live, seq: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", position(live, seq))).unwrap_or(HeaderValue::from_static("\"\""))
}

/// `Prefer: wait=30` of RFC 7240, in seconds.
fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let waits = preferences.filter_map(|preference| preference.trim().strip_prefix("wait=")?.trim().parse::<u64>().ok());
    waits.map(Duration::from_secs).next().map(|wait| wait.min(WAIT_MAX))
}

/// Rows as bytes with their type.
pub fn body(content_type: &'static str, bytes: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(content_type))], Bytes::from(bytes)).into_response()
}
