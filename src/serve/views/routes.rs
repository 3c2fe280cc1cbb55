//! `/v1/views`: the routes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::{ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::post::{ViewPost, located};
use super::results;
use super::shown::{Shown, find, shown};
use crate::engine::{Answer, Engine, Purpose, View};
use crate::error::{Code, Error};
use crate::serve::App;
use crate::serve::app::{planned_by, single};
use crate::serve::body::{Body, Query, shape};
use crate::serve::page::{Page, PageRequest};
use crate::serve::precondition::{check, tag};
use crate::serve::problem::{Problem, Result};
use crate::serve::rows;
use crate::view::Health;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(one, replace, drop_one))
        .routes(routes!(plan))
        .merge(results::routes())
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

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct ViewListing {
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

/// Makes a view, or another in the place of that of its name, which the body may leave out. One that is so already goes on running.
///
/// One that has failed is made anew also if it is so already.
#[utoipa::path(put, operation_id = "put_view", path = "/views/{id}", tag = "views", request_body = ViewPost,
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
    Body(mut body): Body<Value>,
) -> Result<Response> {
    let turn = app.changing().await;
    let there = find(&app.engine, &id).ok();
    check(&headers, there.as_ref().map(|view| tag_of(&app.engine, view)).as_ref())?;
    let name = there.as_ref().map_or(id, |view| view.name.clone());
    if let Some(members) = body.as_object_mut().filter(|members| members.get("name").is_none_or(Value::is_null)) {
        members.insert("name".into(), name.clone().into());
    }
    let post: ViewPost = shape(body)?;
    if post.name != name {
        let error =
            Error::new(Code::BadOption, format!("the address names the view '{name}', the body another")).hint("leave name out");
        return Err(Problem::from(error).at("/name"));
    }
    if writing.dry_run {
        return dry(&app, &post, true).await;
    }
    let statement = post.statement(there.is_some())?;
    match &there {
        Some(view) if plain(&view.text) == plain(&statement.text) && !has_failed(view) => {
            answer(&app.engine, &view.name, StatusCode::OK)
        }
        _ => {
            let done = turn.execute(&statement).await;
            done.map_err(|errors| located(errors).dependants(app.engine.readers(&post.name)))?;
            match there {
                Some(_) => answer_with(&app.engine, &post.name, StatusCode::OK, Some(ANEW)),
                None => answer(&app.engine, &post.name, StatusCode::CREATED),
            }
        }
    }
}

/// The views in the order they were made.
#[utoipa::path(get, operation_id = "list_views", path = "/views", tag = "views", params(ViewListing), responses(
    (status = 200, body = Page<Shown>, description = "A page"),
    (status = 422, body = Problem, description = "The list has not what `starting_after` names"),
))]
async fn list(State(app): State<Arc<App>>, Query(listing): Query<ViewListing>) -> Result<Json<Page<Shown>>> {
    let is = |asked: &Option<String>, value: &str| asked.as_ref().is_none_or(|asked| asked == value);
    let views = app.engine.views();
    let views = views.iter().map(|view| shown(&app.engine, view));
    let wanted = views.filter(|view| is(&listing.name, &view.name) && is(&listing.state, view.state));
    let part = PageRequest { limit: listing.limit, offset: listing.offset, starting_after: listing.starting_after.as_deref() };
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
    let Answer::Rows(rows) = app.engine.asked(Purpose::Reader, planned_by(), &statement).await? else {
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

/// Whether it runs only when it is made anew.
fn has_failed(view: &View) -> bool {
    view.live().is_some_and(|live| matches!(live.health(), Health::Failed(_)))
}

/// A statement but for whether it may replace.
fn plain(text: &str) -> String {
    text.replacen("CREATE OR REPLACE VIEW", "CREATE VIEW", 1)
}

/// What becomes of a view whose query or options change.
const ANEW: &str = "it is made anew: its rows are those of what comes from now on";

/// The view of this name.
fn answer(engine: &Engine, name: &str, status: StatusCode) -> Result<Response> {
    answer_with(engine, name, status, None)
}

fn answer_with(engine: &Engine, name: &str, status: StatusCode, warning: Option<&str>) -> Result<Response> {
    let view = find(engine, name)?;
    let mut shown = shown(engine, &view);
    shown.warnings.extend(warning.map(str::to_string));
    let mut response = (status, [(ETAG, tag_of(engine, &view))], Json(shown)).into_response();
    if let (StatusCode::CREATED, Ok(location)) = (status, HeaderValue::from_str(&format!("/v1/views/{name}"))) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// What would be made: planned by an engine of its own with the same definitions.
async fn dry(app: &Arc<App>, post: &ViewPost, or_replace: bool) -> Result<Response> {
    let statement = post.statement(or_replace)?;
    let tried = app.tried(|trial| async move { trial.execute(&statement).await.map(|_| trial) }).await;
    let trial = tried.map_err(|errors| located(errors).dependants(app.engine.readers(&post.name)))?;
    Ok(Json(shown(&trial, find(&trial, &post.name)?.as_ref())).into_response())
}

fn tag_of(engine: &Engine, view: &View) -> HeaderValue {
    tag(&view.text, engine.made(&view.name).map_or(0, |made| made.updated.nanos()))
}
