//! A view as it is answered: its definition, and how far it has come.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::results::position;
use crate::engine::{Engine, View};
use crate::format::infer::field_type;
use crate::serve::name::opaque_id;
use crate::serve::problem::{Problem, Result};
use crate::view::Health;

/// A view.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = View)]
pub struct Shown {
    pub id: String,
    pub name: String,
    query: String,
    /// The statement that makes it.
    sql: String,
    columns: Vec<ViewColumn>,
    /// `append`: rows come and stay. `changelog`: rows are also updated and deleted.
    kind: &'static str,
    depends_on: Vec<String>,
    used_by: Vec<String>,
    pub state: &'static str,
    /// Why it is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Why nothing comes, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_because: Option<String>,
    stats: Stats,
    /// What its author may not expect of it.
    pub warnings: Vec<String>,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ViewColumn)]
struct ViewColumn {
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

/// A view of this engine.
pub fn shown(engine: &Engine, view: &View) -> Shown {
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
            .map(|field| ViewColumn { name: field.name().clone(), data_type: field_type(field), nullable: field.is_nullable() })
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

fn id(engine: &Engine, view: &View) -> String {
    let created = engine.made(&view.name).map_or(0, |made| made.created.nanos());
    opaque_id("vw", &view.name, created)
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
