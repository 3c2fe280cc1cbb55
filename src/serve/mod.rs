//! The engine to the world: REST, event streams out, and what guards them. The only room that knows HTTP, JSON shapes and wire codes.

mod activity;
mod app;
pub mod auth;
pub mod body;
mod checkpoints;
pub mod connections;
mod describe;
mod docs;
mod drasi;
mod events;
pub mod guard;
mod idempotency;
pub mod limits;
pub mod listen;
pub mod log;
pub mod metrics;
mod name;
mod page;
mod precondition;
pub mod problem;
pub mod proxies;
mod reload;
mod rows;
pub mod settings;
mod sql;
mod start;
pub mod stream;
mod system;
pub mod tables;
mod views;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::{IntoResponse, Redirect, Response};
use utoipa_axum::router::OpenApiRouter;

pub use app::App;
pub use start::Server;

use self::problem::Problem;
use self::stream::Streams;
use crate::error::{Code, Error};

/// Everything below `/v1`.
fn api(app: &Arc<App>) -> OpenApiRouter {
    let own = OpenApiRouter::new()
        .merge(system::routes())
        .merge(events::routes())
        .merge(tables::routes())
        .merge(views::routes())
        .merge(sql::routes())
        .merge(checkpoints::routes())
        .with_state(Arc::clone(app));
    let streams = stream::routes().with_state(Arc::clone(&app.streams));
    let gate = auth::router().with_state(app.gate.clone());
    OpenApiRouter::new().merge(own).merge(streams).merge(gate)
}

/// All routes of the server. What is at none of them may be a named stream.
pub fn router(app: Arc<App>) -> Router {
    // Other products of this kind have their interface there.
    let (same, _) = api(&app).split_for_parts();
    let drasi = drasi::routes().with_state(Arc::clone(&app));
    let reactions = stream::reactions().with_state(Arc::clone(&app.streams));
    let (router, description) = describe::base()
        .merge(system::health().with_state(Arc::clone(&app)))
        .merge(metrics::routes().with_state(Arc::clone(&app)))
        .nest("/v1", api(&app))
        .nest("/api/v1", OpenApiRouter::new().merge(drasi).merge(reactions))
        .split_for_parts();
    let elsewhere = Router::new().fallback(elsewhere).with_state(Arc::clone(&app.streams));
    router
        .merge(docs::routes())
        .merge(describe::routes(&description, &app.settings.now().http.base_path))
        .merge(Router::new().nest("/api/v1", same))
        .merge(elsewhere)
}

/// A named stream on the address of the REST interface, or nothing; the root tells what else there is.
async fn elsewhere(State(streams): State<Arc<Streams>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match streams.at(None, parts.uri.path()) {
        Some(_) => stream::named(&streams, None, &parts).await.into_response(),
        None if parts.uri.path() == "/" && parts.method == Method::GET => Redirect::temporary("docs/").into_response(),
        None => {
            let error =
                Error::new(Code::NoRoute, format!("nothing is at {}", parts.uri.path())).hint("see /docs for what there is");
            Problem::from(error).into_response()
        }
    }
}
