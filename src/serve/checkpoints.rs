//! Checkpoints from outside: how they fare, and one now.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::problem::{Problem, Result};
use crate::engine::{CheckpointStats, Checkpoints, Taken};
use crate::error::{Code, Error};
use crate::time::Timestamp;

/// Below the base path.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(show, take))
}

/// How the state of tables and views is kept.
#[derive(Debug, Serialize, ToSchema)]
struct CheckpointReport {
    interval_ms: u64,
    taken: u64,
    failed: u64,
    /// The last one that is safe.
    last: Option<Checkpoint>,
    /// Why the latest one failed, where it did.
    failure: Option<CheckpointFailure>,
    /// Tables and views whose state could not be kept in the last one: after a restart they begin anew.
    left_out: Vec<LeftOut>,
    /// The share of one processor that checkpoints took since the start.
    share: f64,
}

/// One checkpoint.
#[derive(Debug, Serialize, ToSchema)]
struct Checkpoint {
    epoch: u64,
    at: String,
    /// Tables and views in it.
    parts: usize,
    /// Bytes written for it.
    bytes: u64,
    /// Bytes of earlier ones that it builds on.
    reused_bytes: u64,
    /// Until the last table and view had come to it.
    gathering_ms: f64,
    /// Time that tables and views spent on it, together.
    saving_ms: f64,
    /// Until it was safe on the disk; the flow goes on meanwhile.
    writing_ms: f64,
}

/// A checkpoint that came to nothing; the one before stays.
#[derive(Debug, Serialize, ToSchema)]
struct CheckpointFailure {
    at: String,
    reason: String,
}

/// A table or view without a state.
#[derive(Debug, Serialize, ToSchema)]
struct LeftOut {
    /// `table/<name>` or `view/<name>`.
    part: String,
    reason: String,
}

/// How the state of tables and views is kept
#[utoipa::path(get, operation_id = "checkpoints", path = "/checkpoints", tag = "server", responses(
    (status = 200, body = CheckpointReport, description = "The last one, and what they cost"),
    (status = 404, body = Problem, description = "The server has no data directory"),
))]
async fn show(State(app): State<Arc<App>>) -> Result<Json<CheckpointReport>> {
    let CheckpointStats { last, taken, failed, failure, busy, left_out } = kept(&app)?.report();
    let uptime = Timestamp::now().nanos().saturating_sub(app.started.nanos()).max(1) as f64;
    Ok(Json(CheckpointReport {
        interval_ms: u64::try_from(app.settings.now().checkpoint_interval.as_millis()).unwrap_or(u64::MAX),
        taken,
        failed,
        last: last.as_ref().map(checkpoint),
        failure: failure.map(|failure| CheckpointFailure { at: failure.at.to_string(), reason: failure.reason }),
        left_out: left_out.into_iter().map(|(part, reason)| LeftOut { part, reason }).collect(),
        share: busy.as_nanos() as f64 / uptime,
    }))
}

/// Take a checkpoint now
#[utoipa::path(post, operation_id = "take_checkpoint", path = "/checkpoints", tag = "server", responses(
    (status = 201, body = Checkpoint, description = "It is safe"),
    (status = 404, body = Problem, description = "The server has no data directory"),
    (status = 503, body = Problem, description = "It failed; the one before stays"),
))]
async fn take(State(app): State<Arc<App>>) -> Result<(StatusCode, Json<Checkpoint>)> {
    let taken = kept(&app)?.take().await.map_err(|error| {
        let failed = Error::new(Code::Unavailable, error.message().to_string());
        Problem::from(failed.hint(error.way_out().unwrap_or("see the log; the checkpoint before stays").to_string()))
    })?;
    Ok((StatusCode::CREATED, Json(checkpoint(&taken))))
}

fn kept(app: &App) -> Result<&Checkpoints> {
    let none = || {
        let error = Error::new(Code::NotFound, "this server keeps no state: it has no data directory");
        Problem::from(error.hint("start it with --data DIR"))
    };
    app.checkpoints.as_deref().ok_or_else(none)
}

fn checkpoint(taken: &Taken) -> Checkpoint {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    Checkpoint {
        epoch: taken.epoch,
        at: taken.at.to_string(),
        parts: taken.parts,
        bytes: taken.bytes,
        reused_bytes: taken.reused_bytes,
        gathering_ms: ms(taken.gathering),
        saving_ms: ms(taken.saving),
        writing_ms: ms(taken.writing),
    }
}
