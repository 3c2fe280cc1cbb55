//! What the server tells about itself: that it is there, whether it is ready, what it is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Identity, Scope};
use super::page::LIMIT_MAX;
use super::settings::Words;
use crate::feed::FeedState;
use crate::table::Table;
use crate::time::Timestamp;
use crate::view::{HISTORY_CHANGES_MAX, Health};

/// Below the base path.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(ping)).routes(routes!(info))
}

/// At the root, where load balancers look.
pub fn health() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(alive)).routes(routes!(ready))
}

/// Says "Pong".
#[utoipa::path(get, operation_id = "ping", path = "/ping", tag = "server", responses((status = 200, content_type = "application/json", body = String, description = "The server is there")))]
async fn ping() -> Json<&'static str> {
    Json("Pong")
}

/// What the server is.
#[derive(Serialize, ToSchema)]
struct Info {
    name: &'static str,
    version: &'static str,
    started_at: String,
    uptime_seconds: u64,
    /// `token`, or `none` where everybody may do everything.
    auth: &'static str,
    tables: usize,
    views: usize,
    /// Bytes that tables and views hold in memory.
    memory_held: usize,
    features: Features,
    limits: InfoLimits,
}

/// What depends on how the server was started.
#[derive(Serialize, ToSchema)]
struct Features {
    connectors: Vec<&'static str>,
    /// Definitions survive a restart.
    keeps: bool,
    /// Requests may make tables over files of the server.
    files: bool,
}

/// What the server refuses to exceed.
#[derive(Serialize, ToSchema)]
struct InfoLimits {
    body_bytes_max: usize,
    sql_bytes_max: usize,
    streams_max: usize,
    streams_per_token_max: usize,
    /// Null: 50, but as many as there may be at all for this machine.
    streams_per_address_max: Option<usize>,
    /// Members of a page.
    page_max: usize,
    /// Changes of a view that a stream can go on from.
    history_changes_max: u64,
    /// Bytes that tables and views may hold in memory together.
    memory_max: usize,
}

/// Version, uptime and how much there is.
#[utoipa::path(get, operation_id = "info", path = "/info", tag = "server", responses((status = 200, body = Info, description = "About this server")))]
async fn info(State(app): State<Arc<App>>) -> Json<Info> {
    let settings = app.settings.now();
    let uptime = Timestamp::now().nanos().saturating_sub(app.started.nanos()).max(0) as u64;
    Json(Info {
        name: "streamgauge",
        version: env!("CARGO_PKG_VERSION"),
        started_at: app.started.to_string(),
        uptime_seconds: uptime / 1_000_000_000,
        auth: app.gate.mode(),
        tables: app.engine.tables().len(),
        views: app.engine.view_count(),
        memory_held: app.engine.memory().bytes,
        features: Features {
            connectors: super::tables::connectors().iter().map(|connector| connector.id).collect(),
            keeps: settings.data.is_some(),
            files: settings.feeds.files,
        },
        limits: InfoLimits {
            body_bytes_max: settings.http.body_bytes_max,
            sql_bytes_max: super::sql::SQL_BYTES_MAX,
            streams_max: settings.http.streams_max,
            streams_per_token_max: settings.http.streams_per_token_max,
            streams_per_address_max: settings.http.streams_per_address_max,
            page_max: LIMIT_MAX,
            history_changes_max: HISTORY_CHANGES_MAX,
            memory_max: app.settings.now().memory_max,
        },
    })
}

/// How the server fares.
#[derive(Serialize, ToSchema)]
struct ServerReport {
    status: &'static str,
    /// What is not as it should be, as sentences; only for those who may read. A feed that has fallen silent is told, and does not make the
    /// server less ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

/// Whether the program runs at all.
#[utoipa::path(get, operation_id = "healthz", path = "/healthz", tag = "server", responses((status = 200, body = ServerReport, description = "The program runs")))]
async fn alive() -> Json<ServerReport> {
    Json(ServerReport { status: "ok", problems: Vec::new() })
}

/// Whether the server answers: its views were started, and what the settings name in `[ready]` is up.
///
/// Feeds and views that fail besides are told and change nothing.
#[utoipa::path(get, operation_id = "readyz", path = "/readyz", tag = "server", responses(
    (status = 200, body = ServerReport, description = "It is ready; `problems` tells what is not as it should be"),
    (status = 503, body = ServerReport, description = "It is not: views are being started, or something that must be up is not"),
))]
async fn ready(State(app): State<Arc<App>>, Extension(identity): Extension<Identity>) -> (StatusCode, Json<ServerReport>) {
    let needed = app.settings.now().ready.clone();
    let is_needed = |names: &Words, name: &str| names.0.iter().any(|needed| needed == "*" || needed.eq_ignore_ascii_case(name));
    let mut problems = Vec::new();
    let mut is_ready = true;
    for table in app.engine.tables() {
        let (name, state) = (table.spec().name.clone(), table.feed_status().snapshot().state);
        let needed = is_needed(&needed.tables, &name);
        let is_up = matches!(state, FeedState::Connected | FeedState::Silent | FeedState::Completed);
        if state == FeedState::Failed || needed && !is_up {
            is_ready &= !needed;
            problems.push(format!("table {name}: {}", table.silence().unwrap_or_else(|| state.to_string())));
        }
    }
    for view in app.engine.views() {
        match view.live().map(|live| live.health()) {
            Some(Health::Failed(error)) => {
                is_ready &= !is_needed(&needed.views, &view.name);
                problems.push(format!("view {}: {error}", view.name));
            }
            Some(Health::Waiting) => {
                is_ready = false;
                problems.push(format!("view {} does not run yet", view.name));
            }
            Some(Health::Running | Health::Ended | Health::Dropped) | None => {}
        }
    }
    let is_silent = |table: &Arc<Table>| table.feed_status().snapshot().state == FeedState::Silent;
    let tell = |table: &Arc<Table>| format!("table {}: {}", table.spec().name, table.silence().unwrap_or_default());
    let silent: Vec<String> = app.engine.tables().iter().filter(|table| is_silent(table)).map(tell).collect();
    for (what, names, known) in [
        ("table", &needed.tables, app.engine.tables().iter().map(|table| table.spec().name.clone()).collect::<Vec<_>>()),
        ("view", &needed.views, app.engine.views().iter().map(|view| view.name.clone()).collect()),
    ] {
        for missing in names.0.iter().filter(|name| *name != "*" && !known.iter().any(|known| known.eq_ignore_ascii_case(name))) {
            is_ready = false;
            problems.push(format!("{what} {missing} is not there, and [ready] names it"));
        }
    }
    let (code, status) = match is_ready {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    problems.extend(silent);
    problems.retain(|_| identity.allows(&Scope::Read));
    (code, Json(ServerReport { status, problems }))
}
