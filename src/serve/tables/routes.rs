//! `/v1/connection_tables` and `/v1/connectors`: the routes.

use std::cell::RefCell;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::alias::translated;
use super::connectors::{Connector, connectors};
use super::post::ConnectionTablePost;
use super::shown::{ConnectionTable, id, status};
use super::statement::{Fault, Rendered};
use super::{mask, steer, trial};
use crate::catalog::listed;
use crate::engine::Engine;
use crate::error::{Code, Error};
use crate::serve::App;
use crate::serve::body::{self, Body, Query};
use crate::serve::page::{Page, PageRequest};
use crate::serve::precondition::{check, tag};
use crate::serve::problem::{Problem, Result};
use crate::table::Table;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(all_connectors))
        .routes(routes!(one_connector))
        .routes(routes!(create, list))
        .routes(routes!(one, replace, change, drop_one))
        .merge(trial::routes())
        .merge(steer::routes())
        .route(TEST, get(one_test).put(replace_test).patch(change_test).delete(drop_test))
}

/// The address of a trial, and of a table that happens to be called so.
const TEST: &str = "/connection_tables/test";

fn test() -> Path<String> {
    Path("test".into())
}

async fn one_test(app: State<Arc<App>>) -> Result<Response> {
    one(app, test()).await
}

async fn replace_test(app: State<Arc<App>>, making: Query<Making>, headers: HeaderMap, post: Body<Value>) -> Result<Response> {
    replace(app, test(), making, headers, post).await
}

async fn change_test(
    app: State<Arc<App>>,
    changing: Query<Changing>,
    headers: HeaderMap,
    patch: Body<Value>,
) -> Result<Response> {
    change(app, test(), changing, headers, patch).await
}

async fn drop_test(app: State<Arc<App>>, dropping: Query<Dropping>, headers: HeaderMap) -> Result<StatusCode> {
    drop_one(app, test(), dropping, headers).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Making {
    /// Do everything but make it.
    dry_run: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Changing {
    /// Do everything but change it.
    dry_run: bool,
    /// Make the table anew where it cannot change while it lives: what it has read and counted is lost.
    recreate: bool,
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
struct TableListing {
    /// At most so many; default 50, at most 500.
    limit: Option<usize>,
    /// Leave out so many first.
    offset: usize,
    /// The name or id of the last table of the page before.
    starting_after: Option<String>,
    /// Only the one of this name.
    name: Option<String>,
    /// Only those of this connector.
    connector: Option<String>,
    /// Only those of this type; all are `source`.
    r#type: Option<String>,
    /// Only those in this state, such as `connected`.
    state: Option<String>,
}

/// What tables can be made of.
#[utoipa::path(get, operation_id = "list_connectors", path = "/connectors", tag = "tables", responses((status = 200, body = Page<Connector>, description = "All of them")))]
async fn all_connectors() -> Json<Page<&'static Connector>> {
    Json(Page { data: connectors().iter().collect(), has_more: false, next: None })
}

/// What a connector takes.
#[utoipa::path(get, operation_id = "get_connector", path = "/connectors/{id}", tag = "tables", params(("id" = String, Path)), responses(
    (status = 200, body = Connector, description = "With the JSON Schema of its options"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn one_connector(Path(id): Path<String>) -> Result<Json<&'static Connector>> {
    let known = connectors().iter().map(|connector| connector.id);
    let found = connectors().iter().find(|connector| connector.id == id);
    found.map(Json).ok_or_else(|| Problem::not_found("connector", &id, known))
}

/// Makes a table over a feed.
///
/// Without fields the server looks at the feed, for 5 seconds at most; if that gives nothing, the whole event becomes one column
/// `value JSON`, and a warning says why.
#[utoipa::path(post, operation_id = "create_table", path = "/connection_tables", tag = "tables", request_body = ConnectionTablePost,
    params(Making, ("Idempotency-Key" = Option<String>, Header, description = "The same key with the same body is done once, for 24 hours")),
    responses(
        (status = 201, body = ConnectionTable, description = "Made"),
        (status = 200, body = ConnectionTable, description = "Would be made (dry run)"),
        (status = 409, body = Problem, description = "The name is taken"),
        (status = 422, body = Problem, description = "The body has no meaning"),
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    Query(making): Query<Making>,
    headers: HeaderMap,
    Body(body): Body<Value>,
) -> Result<Response> {
    let post = posted(body)?;
    let request = format!("connection_tables {} {}", making.dry_run, document(&post)?);
    app.once.run(&headers, request, make(&app, &post, &HeaderMap::new(), making.dry_run)).await
}

/// The tables in the order they were made.
#[utoipa::path(get, operation_id = "list_tables", path = "/connection_tables", tag = "tables", params(TableListing), responses(
    (status = 200, body = Page<ConnectionTable>, description = "A page"),
    (status = 422, body = Problem, description = "The list has not what `starting_after` names"),
))]
async fn list(State(app): State<Arc<App>>, Query(listing): Query<TableListing>) -> Result<Response> {
    let is = |asked: &Option<String>, value: &str| asked.as_ref().is_none_or(|asked| asked == value);
    let mut tables = Vec::new();
    for table in app.engine.tables() {
        let shown = ConnectionTable::of(&app.engine, &table)?;
        if is(&listing.name, &shown.table.name)
            && is(&listing.connector, &shown.table.connector)
            && is(&listing.r#type, shown.table_type)
            && is(&listing.state, &shown.status.state)
        {
            tables.push(shown);
        }
    }
    let part = PageRequest { limit: listing.limit, offset: listing.offset, starting_after: listing.starting_after.as_deref() };
    let page = Page::of(tables, part, |table| [table.table.name.clone(), table.id.clone()])?;
    Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(page)).into_response())
}

/// A table and what it is doing.
#[utoipa::path(get, operation_id = "get_table", path = "/connection_tables/{id}", tag = "tables", params(("id" = String, Path, description = "Name or id")), responses(
    (status = 200, body = ConnectionTable, description = "The table; the ETag is that of its definition"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response> {
    let table = find(&app.engine, &id)?;
    answer(&app.engine, &table, StatusCode::OK, Vec::new())
}

/// Makes a table, or another one in the place of that of its name.
#[utoipa::path(put, operation_id = "put_table", path = "/connection_tables/{id}", tag = "tables", request_body = ConnectionTablePost,
    params(("id" = String, Path, description = "Name or id"), Making,
        ("If-Match" = Option<String>, Header, description = "Only from the state of this ETag"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only where there is none")),
    responses(
        (status = 200, body = ConnectionTable, description = "Replaced"),
        (status = 201, body = ConnectionTable, description = "Made"),
        (status = 409, body = Problem, description = "Views read it"),
        (status = 412, body = Problem, description = "It is not in the state that the headers name"),
        (status = 422, body = Problem, description = "The body has no meaning"),
    )
)]
async fn replace(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(making): Query<Making>,
    headers: HeaderMap,
    Body(body): Body<Value>,
) -> Result<Response> {
    let post = posted(body)?;
    let there = find(&app.engine, &id).ok();
    check(&headers, there.as_deref().map(|table| tag_of(&app.engine, table)).as_ref())?;
    let name = there.as_ref().map_or(id, |table| table.spec().name.clone());
    same_name(&post, &name)?;
    match there {
        None => make(&app, &post, &headers, making.dry_run).await,
        Some(table) => alter(&app, &table, post, &headers, &Changing { dry_run: making.dry_run, recreate: true }).await,
    }
}

/// Changes a table by a merge patch (RFC 7396).
///
/// Headers, events, reconnecting and timeouts change while the table lives, and views keep their rows, also over a restart. Endpoint and
/// fields need a new table: `recreate=true`. What counts only for views that are made later is told among the warnings.
#[utoipa::path(patch, operation_id = "patch_table", path = "/connection_tables/{id}", tag = "tables",
    request_body(content = Object, content_type = "application/merge-patch+json"),
    params(("id" = String, Path, description = "Name or id"), Changing,
        ("If-Match" = Option<String>, Header, description = "Only from the state of this ETag")),
    responses(
        (status = 200, body = ConnectionTable, description = "Changed"),
        (status = 404, body = Problem, description = "There is none"),
        (status = 409, body = Problem, description = "It cannot change so while it lives, or views read it"),
        (status = 412, body = Problem, description = "It is not in the state that If-Match names"),
        (status = 422, body = Problem, description = "The result has no meaning"),
    )
)]
async fn change(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(changing): Query<Changing>,
    headers: HeaderMap,
    Body(patch): Body<Value>,
) -> Result<Response> {
    let table = find(&app.engine, &id)?;
    check(&headers, Some(&tag_of(&app.engine, &table)))?;
    let old = ConnectionTable::body(&table.spec())?;
    let name = old.name.clone();
    let mut post: ConnectionTablePost = body::shape(old.clone().patched(patch.clone())?)?;
    if !mask::is_same_way(&old, &post) {
        // What the patch does not give is what an answer shows of it: secrets stay where they were given for.
        post = body::shape(ConnectionTable::shown_body(&table.spec())?.patched(patch)?)?;
    }
    same_name(&post, &name)?;
    alter(&app, &table, post, &headers, &changing).await
}

/// Drops a table; its connection closes.
#[utoipa::path(delete, operation_id = "delete_table", path = "/connection_tables/{id}", tag = "tables",
    params(("id" = String, Path, description = "Name or id"), Dropping,
        ("If-Match" = Option<String>, Header, description = "Only from the state of this ETag")),
    responses(
        (status = 204, description = "Dropped"),
        (status = 404, body = Problem, description = "There is none"),
        (status = 409, body = Problem, description = "Views read it"),
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
    let table = find(&app.engine, &id)?;
    check(&headers, Some(&tag_of(&app.engine, &table)))?;
    let name = table.spec().name.clone();
    turn.remove("TABLE", &name, dropping.cascade).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The table that a name or an id means.
pub fn find(engine: &Engine, name: &str) -> Result<Arc<Table>> {
    if let Some(table) = engine.table(name) {
        return Ok(table);
    }
    let tables = engine.tables();
    let is_meant = |table: &&Arc<Table>| {
        let name_of = table.spec().name.clone();
        id(&name_of, engine.made(&name_of).map_or(0, |made| made.created.nanos())) == name
    };
    match tables.iter().find(is_meant) {
        Some(table) => Ok(Arc::clone(table)),
        None => {
            let names: Vec<String> = tables.iter().map(|table| table.spec().name.clone()).collect();
            Err(Problem::not_found("connection table", name, names.iter().map(String::as_str)))
        }
    }
}

/// What is wrong with a body as a problem. Places in a statement that nobody has written do not show.
pub fn problem(faults: Vec<Fault>) -> Problem {
    let (pointers, errors): (Vec<String>, Vec<Error>) =
        faults.into_iter().map(|Fault { pointer, error }| (pointer, error.unplaced())).unzip();
    let pointers = RefCell::new(pointers.into_iter());
    Problem::from(errors).point(|_| pointers.borrow_mut().next().filter(|pointer| !pointer.is_empty()))
}

/// Members of an answer that a body may have, too: what was read can be sent back.
const READ_ONLY: [&str; 8] = ["id", "table_type", "consumers", "sql", "warnings", "created_at", "updated_at", "status"];

/// The table that a body says, in our words or in others'.
pub fn posted(mut body: Value) -> Result<ConnectionTablePost> {
    if let Some(members) = body.as_object_mut() {
        members.retain(|name, _| !READ_ONLY.contains(&name.as_str()));
    }
    body::shape(translated(body).map_err(|fault| problem(vec![fault]))?)
}

/// Makes a table that is not there.
async fn make(app: &App, post: &ConnectionTablePost, headers: &HeaderMap, dry_run: bool) -> Result<Response> {
    let session = app.engine.session().state();
    // A clash is told before the feed is looked at, and again by the engine should another be faster.
    if app.engine.made(&post.name).is_some() {
        let error =
            Error::new(Code::Exists, format!("'{}' is there already", post.name)).hint("take another name, or PUT or PATCH it");
        return Err(Problem::from(error).at("/name"));
    }
    mask::restore(&mut post.clone(), None).map_err(problem)?;
    let completed = post.complete(&session).await.map_err(problem)?;
    let rendered = completed.post.statement(false).map_err(problem)?;
    if dry_run {
        let table = Table::new(rendered.spec(&session).map_err(problem)?);
        return planned(&table, completed.warnings);
    }
    let turn = app.changing().await;
    check(headers, app.engine.table(&post.name).map(|table| tag_of(&app.engine, &table)).as_ref())?;
    turn.execute(&rendered.statement).await.map_err(|errors| problem(rendered.faults(errors)))?;
    let table = find(&app.engine, &post.name)?;
    let mut response = answer(&app.engine, &table, StatusCode::CREATED, completed.warnings)?;
    let location = HeaderValue::from_str(&format!("/v1/connection_tables/{}", post.name));
    response.headers_mut().extend(location.ok().map(|location| (LOCATION, location)));
    Ok(response)
}

/// Gives a table another definition: while it lives if it can, else by making it anew where that is allowed.
async fn alter(
    app: &App,
    table: &Table,
    mut post: ConnectionTablePost,
    headers: &HeaderMap,
    changing: &Changing,
) -> Result<Response> {
    let session = app.engine.session().state();
    let old = ConnectionTable::body(&table.spec())?;
    mask::restore(&mut post, Some(&old)).map_err(problem)?;
    let completed = post.complete(&session).await.map_err(problem)?;
    let spec = completed.post.statement(false).and_then(|rendered| rendered.spec(&session)).map_err(problem)?;
    if changing.dry_run {
        return planned(&Table::new(spec), completed.warnings);
    }
    let turn = app.changing().await;
    let table = find(&app.engine, &post.name)?;
    check(headers, Some(&tag_of(&app.engine, &table)))?;
    // A feed is not disturbed for nothing.
    if ConnectionTable::body(&spec)? == ConnectionTable::body(&table.spec())? {
        return answer(&app.engine, &table, StatusCode::OK, completed.warnings);
    }
    match turn.reconfigure(spec).await {
        Err(error) if error.code() == Code::Recreate && changing.recreate => {
            let rendered = completed.post.statement(true).map_err(problem)?;
            let done = turn.execute(&rendered.statement).await;
            done.map_err(|errors| problem(rendered.faults(errors)).dependants(app.engine.readers(&post.name)))?;
        }
        Err(error) if error.code() == Code::Recreate => return Err(error.hint("say recreate=true to make it anew").into()),
        done => done?,
    }
    let table = find(&app.engine, &post.name)?;
    let warnings = completed.warnings.into_iter().chain(otherwise(&app.engine, &table)).collect();
    answer(&app.engine, &table, StatusCode::OK, warnings)
}

/// That views go on with what they were made with, where they do.
fn otherwise(engine: &Engine, table: &Table) -> Option<String> {
    let spec = table.spec();
    let views = engine.made_otherwise(&spec.name);
    (!views.is_empty()).then(|| {
        let lateness = humantime::format_duration(spec.allowed_lateness);
        format!(
            "an allowed lateness of {lateness} counts for views that are made from now on; {} {} on with what it was before, also after a \
             restart: make them anew to change that",
            listed(&views),
            if views.len() == 1 { "goes" } else { "go" },
        )
    })
}

fn same_name(post: &ConnectionTablePost, name: &str) -> Result<()> {
    if post.name == name {
        return Ok(());
    }
    let error = Error::new(Code::BadOption, format!("the address names the table '{name}', the body '{}'", post.name));
    Err(Problem::from(error.hint("a table keeps its name")).at("/name"))
}

fn answer(engine: &Engine, table: &Table, code: StatusCode, warnings: Vec<String>) -> Result<Response> {
    let mut shown = ConnectionTable::of(engine, table)?;
    shown.warn(warnings);
    let headers = [(ETAG, tag_of(engine, table)), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((code, headers, Json(shown)).into_response())
}

fn planned(table: &Table, warnings: Vec<String>) -> Result<Response> {
    let mut shown = ConnectionTable::planned(&table.spec(), status(table))?;
    shown.warn(warnings);
    Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(shown)).into_response())
}

fn tag_of(engine: &Engine, table: &Table) -> HeaderValue {
    let spec = table.spec();
    tag(&spec.text, engine.made(&spec.name).map_or(0, |made| made.updated.nanos()))
}

pub fn document(post: &ConnectionTablePost) -> Result<Value> {
    Ok(serde_json::to_value(post).map_err(|error| Error::bug(format!("a body is no JSON: {error}")))?)
}

impl ConnectionTablePost {
    /// The body with a merge patch (RFC 7396) applied. An option that the patch gives takes the place of its other spellings.
    fn patched(mut self, patch: Value) -> Result<Value> {
        if let Some(config) = patch.get("config").and_then(Value::as_object) {
            self.config.0.retain(|name, _| !config.keys().any(|given| given != name && super::post::is_same(given, name)));
        }
        let mut document = document(&self)?;
        merge(&mut document, patch);
        Ok(document)
    }
}

fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else { return *into = patch };
    if !into.is_object() {
        *into = Value::Object(serde_json::Map::new());
    }
    let Value::Object(into) = into else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(into.shift_remove(&name)),
            value => merge(into.entry(name).or_insert(Value::Null), value),
        }
    }
}

impl Rendered {
    pub fn faults(&self, errors: Vec<Error>) -> Vec<Fault> {
        errors.into_iter().map(|error| self.fault(error)).collect()
    }
}
