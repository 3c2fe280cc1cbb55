//! A table as it is answered: its body, masked, and what it is doing.

use serde::Serialize;
use utoipa::ToSchema;

use super::post::ConnectionTablePost;
use crate::engine::Engine;
use crate::error::Error;
use crate::feed::{FeedState, Gap};
use crate::format::infer::identifier;
use crate::sql::{self, CreateTable, StatementKind};
use crate::table::{Table, TableSpec};
use crate::time::Timestamp;

/// A table over a feed. The first members are those of the body that makes it; what was written out as a credential shows as `***`.
#[derive(Serialize, ToSchema)]
pub struct ConnectionTable {
    pub id: String,
    #[serde(flatten)]
    pub table: ConnectionTablePost,
    /// `source`: events are read, never written.
    #[schema(value_type = String)]
    pub table_type: &'static str,
    /// The views that read it.
    pub consumers: Vec<String>,
    /// The statement that makes it.
    pub sql: String,
    /// What its author may not expect of it, as sentences.
    pub warnings: Vec<String>,
    pub created_at: String,
    pub updated_at: String,
    pub status: TableStatus,
}

/// What a table is doing and has done. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableStatus {
    /// `not_read`, `connecting`, `connected`, `silent` (`expect_every`), `backing_off`, `paused`, `disconnected`, `failed` or `completed`.
    pub state: String,
    pub since: String,
    /// Why nothing comes; absent while rows flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the server last answered, if not as a feed should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Attempts since the feed was last well.
    pub attempts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<String>,
    /// Connections that came about.
    pub connects_total: u64,
    /// What a reconnect sends; null before there is one.
    pub last_event_id: Option<String>,
    pub last_event_at: Option<String>,
    pub last_byte_at: Option<String>,
    /// Events of the wanted types.
    pub events_total: u64,
    /// Events of types that were not wanted.
    pub filtered_total: u64,
    /// Events that the server sent again after a reconnect.
    pub repeated_total: u64,
    /// Events dropped for their size.
    pub oversized_total: u64,
    pub rows_total: u64,
    pub decode_errors_total: u64,
    /// Rows whose times lay so far ahead of the clock that they moved no watermark (`max_future`).
    pub ahead_total: u64,
    pub bytes_total: u64,
    /// How far the latest row's event time lies behind its arrival; null before there is one.
    pub lag_ms: Option<i64>,
    pub watermark: Option<String>,
    /// The gap between heartbeats, once it is known.
    pub heartbeat_ms: Option<u64>,
    /// Stretches of the feed that may have been missed, and how long they were together.
    pub gaps_total: u64,
    pub gap_seconds_total: f64,
    /// The latest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_gap: Option<GapShown>,
    /// What is not as it should be without stopping the feed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A stretch of a feed that may have been missed.
#[derive(Debug, Serialize, ToSchema)]
pub struct GapShown {
    /// When the last event before it came.
    pub from: String,
    /// When the first event behind it came.
    pub to: String,
    /// The id that the feed was to go on after; null where there was none.
    pub last_id: Option<String>,
    /// The id of the first event behind it; null where it has none.
    pub next_id: Option<String>,
    /// How many events are missing; null where ids do not tell.
    pub missing: Option<u64>,
    /// `no_ids`, `shared_ids`, `resume_off`, `unsendable`, `elsewhere`, `skipped`, `maybe_skipped`, `renumbered`, `far_behind` or `place_lost`.
    pub reason: String,
    /// The same in words.
    pub detail: String,
}

impl GapShown {
    pub fn of(table: &Table, Gap { from, to, last_id, next_id, missing, reason }: Gap) -> Self {
        let id = |id: String| Some(table.feed_status().shown(&id)).filter(|id| !id.is_empty());
        GapShown {
            from: from.to_string(),
            to: to.to_string(),
            last_id: id(last_id),
            next_id: id(next_id),
            missing,
            reason: reason.as_str().into(),
            detail: reason.to_string(),
        }
    }
}

/// How a warning begins that tells of a look at a feed without result.
pub const NOT_INFERRED: &str = "schema not inferred";

impl ConnectionTable {
    /// A table of the engine.
    pub fn of(engine: &Engine, table: &Table) -> Result<ConnectionTable, Error> {
        let spec = table.spec();
        let made = engine.made(&spec.name);
        let created = made.map_or(0, |made| made.created.nanos());
        let mut shown = ConnectionTable::planned(&spec, status(table))?;
        shown.id = id(&spec.name, created);
        shown.consumers = engine.readers(&spec.name);
        if let Some(made) = made {
            (shown.created_at, shown.updated_at) = (made.created.to_string(), made.updated.to_string());
        }
        Ok(shown)
    }

    /// A table that is not made.
    pub fn planned(spec: &TableSpec, status: TableStatus) -> Result<ConnectionTable, Error> {
        let table = ConnectionTable::shown_body(spec)?;
        let mut warnings = spec.notices.clone();
        if table.schema.inferred == Some(false) {
            warnings.insert(0, format!("{NOT_INFERRED}: the whole event is one column 'value JSON'"));
        }
        let unset = spec.feed.unset_variables();
        if !unset.is_empty() {
            warnings.push(format!("not set in the environment of the server: {}", unset.join(", ")));
        }
        if identifier(&spec.name) != spec.name {
            warnings.push(format!("in SQL the name stands in double quotes: {}", identifier(&spec.name)));
        }
        Ok(ConnectionTable {
            id: String::new(),
            table,
            table_type: "source",
            consumers: Vec::new(),
            sql: spec.shown.clone(),
            warnings,
            created_at: String::new(),
            updated_at: String::new(),
            status,
        })
    }

    /// Puts warnings before its own. Why a schema was not inferred is known only when it was tried.
    pub fn warn(&mut self, warnings: Vec<String>) {
        if !warnings.is_empty() {
            self.warnings.retain(|known| !known.starts_with(NOT_INFERRED));
        }
        self.warnings.splice(0..0, warnings);
    }

    /// The body of a table with its secrets masked.
    pub fn shown_body(spec: &TableSpec) -> Result<ConnectionTablePost, Error> {
        Ok(ConnectionTablePost::of(&only(&spec.shown)?, spec))
    }

    /// The body that makes a table, with its secrets: for changes, never for an answer.
    pub fn body(spec: &TableSpec) -> Result<ConnectionTablePost, Error> {
        Ok(ConnectionTablePost::of(&only(&spec.text)?, spec))
    }
}

/// The one `CREATE TABLE` of a text.
fn only(text: &str) -> Result<CreateTable, Error> {
    match sql::parse(text).0.pop().map(|statement| statement.kind) {
        Some(StatementKind::CreateTable(create)) => Ok(*create),
        _ => Err(Error::bug("the statement of a table is no CREATE TABLE")),
    }
}

/// A table's name for life.
pub fn id(name: &str, created: i64) -> String {
    crate::serve::name::opaque_id("ct", name, created)
}

pub fn status(table: &Table) -> TableStatus {
    let feed = table.feed_status().snapshot();
    let rows = table.status().snapshot();
    let time = |time: Timestamp| time.to_string();
    let watermark = rows.watermark.filter(|time| !matches!(*time, Timestamp::MIN | Timestamp::MAX));
    TableStatus {
        state: table.state_text().replace(' ', "_"),
        since: time(feed.since),
        reason: table.silence(),
        http_status: feed.http_status,
        attempts: feed.attempts,
        next_attempt_at: feed.reconnect_at.filter(|_| feed.state == FeedState::BackingOff).map(time),
        connects_total: feed.connects,
        last_event_id: Some(table.feed_status().shown(&feed.last_event_id)).filter(|id| !id.is_empty()),
        last_event_at: feed.last_event_at.map(time),
        last_byte_at: feed.last_byte_at.map(time),
        events_total: feed.events,
        filtered_total: feed.filtered,
        repeated_total: feed.repeated,
        oversized_total: feed.oversized,
        rows_total: rows.rows,
        decode_errors_total: rows.bad,
        bytes_total: feed.bytes,
        lag_ms: rows.lag_ms,
        watermark: watermark.map(time),
        heartbeat_ms: feed.heartbeat.map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)),
        gaps_total: feed.gaps,
        gap_seconds_total: feed.gap_time.as_secs_f64(),
        last_gap: table.feed_status().gaps().entries_kept().pop().map(|gap| GapShown::of(table, gap)),
        ahead_total: rows.ahead,
        warnings: table.notes(),
    }
}
