//! The engine to the world: REST, event streams out, and what guards them. The only room that knows HTTP, JSON shapes and wire codes.

mod app;
pub mod body;
pub mod problem;
mod rows;
mod sql;
mod system;
mod views;

use std::sync::Arc;

use axum::Router;
use sha2::{Digest, Sha256};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use app::App;

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
    )
)]
struct Api;

/// Everything below `/v1`.
fn api() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().merge(system::routes()).merge(views::routes()).merge(sql::routes())
}

/// All routes of the server, and their description.
pub fn router(app: Arc<App>) -> (Router, utoipa::openapi::OpenApi) {
    let (same, _) = api().split_for_parts();
    let (router, description) =
        OpenApiRouter::with_openapi(Api::openapi()).merge(system::health()).nest("/v1", api()).split_for_parts();
    // Other products of this kind have their interface there.
    (router.nest("/api/v1", same).with_state(app), description)
}

/// A name for life: it tells a table or view from a later one of the same name.
fn opaque_id(prefix: &str, name: &str, created: i64) -> String {
    let digest = Sha256::digest(format!("{name}\0{created}"));
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}_{hex}")
}
