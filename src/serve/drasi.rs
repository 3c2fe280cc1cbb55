//! Drasi's names for views and their rows, below `/api/v1`: `{"success":…,"data":…,"error":…}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::problem::{Problem, Result};
use super::rows;
use super::views::{find, running};
use crate::engine::View;
use crate::view::Health;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(one)).routes(routes!(results))
}

/// Every answer of this interface that is no problem.
#[derive(Debug, Serialize, ToSchema)]
pub struct Envelope<T> {
    success: bool,
    data: T,
    #[schema(value_type = Option<String>)]
    error: Option<&'static str>,
}

pub fn envelope<T>(data: T) -> Json<Envelope<T>> {
    Json(Envelope { success: true, data, error: None })
}

/// A view as a query.
#[derive(Serialize, ToSchema)]
struct QueryShown {
    id: String,
    query: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
}

/// The rows of a view.
#[derive(Serialize, ToSchema)]
#[schema(as = QueryResults)]
struct Results {
    #[schema(value_type = Vec<Object>)]
    results: Box<RawValue>,
    count: usize,
    /// The number of the latest change in them.
    sequence: u64,
}

/// The views as queries.
#[utoipa::path(get, path = "/queries", operation_id = "drasi_queries", tag = "drasi", responses(
    (status = 200, body = Envelope<Vec<QueryShown>>, description = "All of them")
))]
async fn list(State(app): State<Arc<App>>) -> Json<Envelope<Vec<QueryShown>>> {
    envelope(app.engine.views().iter().map(|view| shown(view)).collect())
}

/// One view as a query.
#[utoipa::path(get, path = "/queries/{id}", operation_id = "drasi_query", tag = "drasi", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<QueryShown>, description = "The view"),
    (status = 404, body = Problem, description = "There is none"),
))]
async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Envelope<QueryShown>>> {
    Ok(envelope(shown(find(&app.engine, &id)?.as_ref())))
}

/// The rows of a view as they are now.
#[utoipa::path(get, path = "/queries/{id}/results", operation_id = "drasi_results", tag = "drasi", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Results>, description = "The rows"),
    (status = 404, body = Problem, description = "There is no such view"),
))]
async fn results(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Envelope<Results>>> {
    let view = find(&app.engine, &id)?;
    let snapshot = running(&view)?.snapshot()?;
    Ok(envelope(Results { results: rows::array(&snapshot.rows)?, count: snapshot.rows.num_rows(), sequence: snapshot.seq }))
}

fn shown(view: &View) -> QueryShown {
    let health = view.live().map_or(Health::Waiting, |live| live.health());
    let (status, error_message) = match health {
        Health::Waiting => ("Starting", None),
        Health::Running => ("Running", None),
        Health::Ended | Health::Dropped => ("Stopped", None),
        Health::Failed(error) => ("Error", Some(error.to_string())),
    };
    QueryShown { id: view.name.clone(), query: view.query.clone(), status, error_message }
}
