//! The engine to the world: REST, event streams out, and what guards them. The only room that knows HTTP, JSON shapes and wire codes.

mod app;
pub mod auth;
pub mod body;
mod drasi;
pub mod guard;
pub mod listen;
pub mod log;
mod once;
mod page;
mod precondition;
pub mod problem;
mod rows;
pub mod settings;
mod sql;
mod start;
pub mod stream;
mod system;
pub mod tables;
pub mod turnstile;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use app::App;
pub use start::Server;

use self::problem::Problem;
use self::stream::Streams;
use crate::error::{Code, Error};

/// The description of everything that can be asked.
#[derive(OpenApi)]
#[openapi(
    info(title = "Streamgauge", description = "Server-Sent Event feeds as SQL tables, and views that stay up to date."),
    tags(
        (name = "server", description = "The server itself"),
        (name = "tables", description = "Tables over feeds"),
        (name = "views", description = "Queries that are kept up to date"),
        (name = "streams", description = "Changes of views as event streams"),
        (name = "sql", description = "Statements"),
        (name = "drasi", description = "The same by the names that Drasi has for it"),
    )
)]
struct Api;

/// Everything below `/v1`.
fn api(app: &Arc<App>) -> OpenApiRouter {
    let own = OpenApiRouter::new()
        .merge(system::routes())
        .merge(tables::routes())
        .merge(views::routes())
        .merge(sql::routes())
        .with_state(Arc::clone(app));
    let streams = stream::routes().with_state(Arc::clone(&app.streams));
    let gate = auth::router().with_state(app.gate.clone());
    OpenApiRouter::new().merge(own).merge(streams).merge(gate)
}

/// All routes of the server, and their description. What is at none of them may be a named stream.
pub fn router(app: Arc<App>) -> (Router, utoipa::openapi::OpenApi) {
    // Other products of this kind have their interface there.
    let (same, _) = api(&app).split_for_parts();
    let drasi = drasi::routes().with_state(Arc::clone(&app));
    let reactions = stream::reactions().with_state(Arc::clone(&app.streams));
    let (router, description) = OpenApiRouter::with_openapi(Api::openapi())
        .merge(system::health().with_state(Arc::clone(&app)))
        .nest("/v1", api(&app))
        .nest("/api/v1", OpenApiRouter::new().merge(drasi).merge(reactions))
        .split_for_parts();
    let elsewhere = Router::new().fallback(elsewhere).with_state(Arc::clone(&app.streams));
    (router.merge(Router::new().nest("/api/v1", same)).merge(elsewhere), description)
}

/// A named stream on the address of the REST interface, or nothing.
async fn elsewhere(State(streams): State<Arc<Streams>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match streams.at(None, parts.uri.path()) {
        Some(_) => stream::named(&streams, None, &parts).into_response(),
        None => {
            let error =
                Error::new(Code::NoRoute, format!("nothing is at {}", parts.uri.path())).hint("see /docs for what there is");
            Problem::from(error).into_response()
        }
    }
}

/// A name for life: it tells a table or view from a later one of the same name.
fn opaque_id(prefix: &str, name: &str, created: i64) -> String {
    let digest = Sha256::digest(format!("{name}\0{created}"));
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}_{hex}")
}
