//! Views that are kept running, and their rows as a table.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use tokio::task::{AbortHandle, JoinHandle};

use super::output::panic_error;
use super::{Lateness, Query};
use crate::checkpoint::CrashGuard;
use crate::error::{Error, Result};
use crate::operator::Epoch;
use crate::operator::state::{self, Frame};
use crate::plan::Emit;
use crate::sql::DropTarget;
use crate::table::{Follow, Table};
use crate::view::{ContinuousExec, Health, Live, Order, Rows, Run};

/// A view's running: it ends when this is dropped.
pub struct RunningView {
    pub live: Arc<Live>,
    /// The query until it runs, then its task.
    query: Mutex<Option<Query>>,
    /// What a state of this view belongs to.
    pub fingerprint: String,
    task: Mutex<Option<AbortHandle>>,
}

impl RunningView {
    /// A view over `query`, whose logical plan is `plan`. `retention` is how many results of closed windows stay.
    pub fn new(name: &str, query: Query, plan: &LogicalPlan, emit: Emit, lateness: &Lateness, retention: usize) -> Result<Self> {
        let schema = query.schema();
        let continuous = query.continuous().map(|continuous| continuous.plan());
        let is_changelog = continuous.is_some_and(|plan| plan.is_changelog());
        let rows = match (is_changelog, continuous.is_some_and(|plan| plan.is_windowed())) {
            (false, _) => Rows::appended(retention),
            (true, true) => Rows::standing(&schema, Some(retention))?,
            (true, false) => Rows::standing(&schema, None)?,
        };
        let order = order(plan, &query.state);
        let fingerprint = fingerprint(&query, plan, emit, lateness, retention);
        let live = Arc::new(Live::new(name, schema, is_changelog, rows).ordered(order));
        Ok(RunningView { live, query: Mutex::new(Some(query)), fingerprint, task: Mutex::default() })
    }

    /// Runs the view, once; from `state` on, if that can be read. Barriers up to `last_barrier` are on their way already. Gives the tables to
    /// start when all that shall see their first event have joined. The crash guard knows it by the name beside.
    pub fn run(
        &self,
        state: Option<Vec<Frame>>,
        last_barrier: Epoch,
        over: Option<(Arc<CrashGuard>, String)>,
    ) -> Result<Vec<Arc<Table>>> {
        let Some(query) = lock(&self.query).take() else { return Ok(Vec::new()) };
        let live = Arc::clone(&self.live);
        let (context, budget) = (query.state.task_ctx(), query.budget);
        let (task, tables) = match query.continuous() {
            Some(continuous) => {
                let restored = state.and_then(|state| self.restored(continuous, &context, state));
                let (mut run, tables) = match restored {
                    Some(restored) => restored,
                    None => continuous.run(context, Follow::VIEW)?,
                };
                run.limit(budget);
                run.ignore_barriers(last_barrier);
                live.enter(Health::Running);
                let task = guarded(Arc::clone(&live), live.run(run, self.fingerprint.clone()));
                (spawn(over, task), tables)
            }
            None => {
                live.enter(Health::Running);
                let rows = execute_stream(Arc::clone(&query.plan), context)?;
                (spawn(over, guarded(Arc::clone(&live), live.fill(rows))), Vec::new())
            }
        };
        *lock(&self.task) = Some(task.abort_handle());
        Ok(tables)
    }

    /// A run that goes on from a state. A state that cannot be read is let go, and said to be.
    fn restored(
        &self,
        continuous: &ContinuousExec,
        context: &Arc<TaskContext>,
        state: Vec<Frame>,
    ) -> Option<(Run, Vec<Arc<Table>>)> {
        let run = continuous.run(Arc::clone(context), Follow::VIEW.restored()).and_then(|(mut run, tables)| {
            self.live.load(Some(&mut run), state)?;
            Ok((run, tables))
        });
        run.inspect_err(|error| tracing::warn!(view = self.live.name, reason = %error, "its state is lost: the view begins anew"))
            .ok()
    }

    /// The view is not run: it has failed, and shows what it had said in `state`, if that can be read.
    pub fn leave_out(&self, state: Option<Vec<Frame>>, error: Error) {
        drop(lock(&self.query).take());
        let shown = state.map_or(Ok(()), |state| self.live.load(None, state));
        if let Err(error) = shown {
            tracing::warn!(view = self.live.name, reason = %error, "its last rows are lost");
        }
        self.live.enter(Health::Failed(error));
    }

    /// Shows what the view had said when it ended or failed, instead of running it again; whether that could be read.
    pub fn settle(&self, state: Vec<Frame>) -> bool {
        match self.live.settle(state) {
            Ok(()) => {
                drop(lock(&self.query).take());
                true
            }
            Err(error) => {
                tracing::warn!(view = self.live.name, reason = %error, "its last rows are lost: the view begins anew");
                false
            }
        }
    }
}

impl RunningView {
    /// Ends the view as failed, and lets all go that it holds.
    pub fn give_up(&self, error: Error) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
        self.live.enter(Health::Failed(error));
        if let Err(error) = self.live.clear() {
            tracing::error!(view = self.live.name, %error, "the rows of the view stay");
        }
    }
}

impl Drop for RunningView {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
        self.live.enter(Health::Dropped);
    }
}

impl fmt::Debug for RunningView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.live.fmt(f)
    }
}

fn spawn(over: Option<(Arc<CrashGuard>, String)>, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    match over {
        Some((crash_guard, view)) => tokio::spawn(crash_guard.over(view, task)),
        None => tokio::spawn(task),
    }
}

/// A view that panics has failed, and says so.
async fn guarded(live: Arc<Live>, task: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
        live.enter(Health::Failed(panic_error(panic.as_ref())));
    }
}

/// Why a state is not that of the table or view of its name.
pub(super) const REDEFINED: &str = "it has been defined anew";

/// What cannot go on where it was: a place in a feed, or the state of a view.
#[derive(Debug, Clone, PartialEq)]
pub struct StateLost {
    pub of: DropTarget,
    pub name: String,
    /// Why; `None` for a view that has no state in the checkpoint.
    pub reason: Option<String>,
}

impl StateLost {
    pub(super) fn log(&self) {
        let StateLost { of, name, reason } = self;
        match (of, reason) {
            (DropTarget::Table, reason) => {
                tracing::warn!(table = name, reason, "its place in the feed is lost: the table begins anew");
            }
            (DropTarget::View, Some(reason)) => tracing::warn!(view = name, reason, "its state is lost: the view begins anew"),
            (DropTarget::View, None) => tracing::info!(view = name, "it has no state in the checkpoint: the view begins anew"),
        }
    }
}

impl fmt::Display for StateLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.of {
            DropTarget::Table => "table",
            DropTarget::View => "view",
        };
        match &self.reason {
            Some(reason) => write!(f, "{of} {} begins anew: {reason}", self.name),
            None => write!(f, "{of} {} has no state in the checkpoint: it begins anew", self.name),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hash of all that a view's state depends on: its query to the end, and the tables below it, with the lateness that it allows them.
pub(super) fn fingerprint(query: &Query, plan: &LogicalPlan, emit: Emit, lateness: &Lateness, retention: usize) -> String {
    let emit = Some(emit);
    let tables = crate::plan::tables(plan);
    let allowed = |table: &Table| lateness.get(&table.spec().name).copied().unwrap_or_default();
    let tables: Vec<_> = tables.iter().map(|table| (table.fingerprint(), allowed(table))).collect();
    let schema = query.schema();
    let columns: Vec<_> = schema.fields().iter().map(|field| (field.name(), crate::format::infer::field_type(field))).collect();
    let plan = state::zoneless(&plan.display_indent().to_string());
    let text = format!("{plan} {columns:?} {emit:?} {retention} {tables:?}");
    state::fingerprint(&text)
}

/// The `ORDER BY` of the whole view over its own columns; none where it orders by something that it does not show.
fn order(plan: &LogicalPlan, session: &SessionState) -> Vec<Order> {
    let sort = match plan {
        LogicalPlan::Sort(sort) => sort,
        LogicalPlan::Limit(limit) => match limit.input.as_ref() {
            LogicalPlan::Sort(sort) => sort,
            _ => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    let Ok(schema) = DFSchema::try_from(plan.schema().inner().as_ref().clone()) else { return Vec::new() };
    let bare = |expr: Expr| {
        expr.transform(|expr| match expr {
            Expr::Column(column) => Ok(Transformed::yes(Expr::Column(Column::from_name(column.name)))),
            other => Ok(Transformed::no(other)),
        })
    };
    let orders = sort.expr.iter().map(|by| {
        let expr = session.create_physical_expr(bare(by.expr.clone())?.data, &schema)?;
        Ok(Order { expr, options: SortOptions { descending: !by.asc, nulls_first: by.nulls_first } })
    });
    orders.collect::<DataFusionResult<_>>().unwrap_or_default()
}

/// A kept view as a table that a query reads once: its rows at the moment the query is planned.
#[derive(Debug)]
pub struct Snapshots(pub Arc<Live>);

#[async_trait]
impl TableProvider for Snapshots {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let rows = self.0.snapshot()?.rows;
        MemTable::try_new(rows.schema(), vec![vec![rows]])?.scan(session, projection, filters, limit).await
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::Engine;
    use crate::feed::Policy;
    use crate::options::{TableOptions, Takes};
    use crate::sql::{self, StatementKind};
    use crate::table::TableSpec;

    const COLUMNS: &str = "(k TEXT, v BIGINT, ts TIMESTAMP, other TIMESTAMP)";
    const WINDOWS: &str = "SELECT k, count(*) AS n, TUMBLE(INTERVAL '1 minute') AS window FROM t GROUP BY k, window";
    const ROWS: &str = "SELECT * FROM t";

    /// A table before and after a change of one option, and a view over it.
    fn changed(option: &str) -> (String, String, &'static str) {
        let sse = |columns: &str, options: &str| {
            format!("CREATE TABLE t {columns} WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/'{options})")
        };
        let file = |path: &str| format!("CREATE TABLE t {COLUMNS} WITH (connector = 'file', path = '{path}')");
        let plain = |before: &str, after: &str| {
            let with = |value: &str| sse(COLUMNS, &format!(", '{option}' = '{value}'"));
            (with(before), with(after), WINDOWS)
        };
        let beside = |more: &str, before: &str, after: &str| {
            let with = |value: &str| sse(COLUMNS, &format!(", {more}, '{option}' = '{value}'"));
            (with(before), with(after), WINDOWS)
        };
        match option {
            "connector" => (sse(COLUMNS, ""), file("a.ndjson"), WINDOWS),
            "endpoint" => (sse(COLUMNS, ""), sse(COLUMNS, "").replace(":9/", ":10/"), WINDOWS),
            "path" => (file("a.ndjson"), file("b.ndjson"), WINDOWS),
            "format" => (sse("(value TEXT)", ""), sse("(value TEXT)", ", format = 'raw_string'"), ROWS),
            "primary_key" => (sse(COLUMNS, ""), sse(COLUMNS, ", primary_key = 'k'"), ROWS),
            "table" => {
                let of = |name: &str| sse("(k TEXT PRIMARY KEY)", &format!(", format = 'debezium_json', 'table' = '{name}'"));
                (of("a"), of("b"), ROWS)
            }
            "json.unstructured" => (sse("(value JSON)", ""), sse("", ", 'json.unstructured' = 'true'"), ROWS),
            "terminator" => plain("[DONE]", "[END]"),
            "watermark_delay" => beside("event_time_field = 'ts'", "1s", "2s"),
            "body" => beside("method = 'PUT'", "a", "b"),
            "headers" => plain("A: b", "A: c"),
            "events" => plain("a", "a,b"),
            "method" => plain("GET", "PUT"),
            "reconnect" | "deduplicate" => plain("true", "false"),
            "reconnect_delay" | "reconnect_max_delay" | "connect_timeout" => plain("10s", "20s"),
            "max_reconnect_attempts" => plain("1", "2"),
            "read_timeout" => plain("auto", "45s"),
            "last_event_id" => plain("1", "2"),
            "resume" => plain("header", "off"),
            "max_event_bytes" => plain("1MiB", "2MiB"),
            "tls_ca_file" | "tls_client_file" => plain("a.pem", "b.pem"),
            "proxy" => plain("off", "http://127.0.0.1:3128"),
            "bad_data" => plain("drop", "fail"),
            "event_time_field" => plain("ts", "other"),
            "allowed_lateness" => plain("0s", "5s"),
            "idle_timeout" | "max_future" => plain("10s", "off"),
            "expect_every" => plain("10s", "20s"),
            "json.timestamp_format" => plain("rfc3339", "unix_millis"),
            "framing" => plain("none", "newline"),
            other => panic!("how does a change of '{other}' look?"),
        }
    }

    fn parsed(text: &str) -> sql::Statement {
        let (mut statements, errors) = sql::parse(text);
        assert!(errors.is_empty(), "{text}: {errors:?}");
        statements.remove(0)
    }

    async fn engine(texts: &[&str]) -> Engine {
        let engine = Engine::keeping(Policy::default()).unwrap();
        for text in texts {
            engine.execute(&parsed(text)).await.map(drop).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        }
        engine
    }

    fn kept(engine: &Engine) -> (String, String, bool) {
        let view = engine.view("v").unwrap();
        let kept = view.kept.as_ref().unwrap();
        (kept.fingerprint.clone(), engine.table("t").unwrap().fingerprint(), kept.live.is_changelog)
    }

    /// What a change leaves running is known again after a restart; what it does not is made anew for it.
    #[tokio::test]
    async fn every_option_takes_effect_when_it_says_also_after_a_restart() {
        for option in TableOptions::DECLARED {
            let name = option.name.trim_start_matches("r#");
            // It has one value only.
            if name == "type" {
                continue;
            }
            let (before, after, query) = changed(name);
            let view = format!("CREATE VIEW v AS {query}");
            let running = engine(&[&before, &view]).await;
            let was = kept(&running);
            let StatementKind::CreateTable(create) = parsed(&after).kind else { panic!("{after}") };
            let spec = TableSpec::new(&create, &running.session().state()).unwrap_or_else(|errors| panic!("{after}: {errors:?}"));
            let ends_otherwise = spec.finite != running.table("t").unwrap().spec().finite;
            let taken = running.reconfigure(spec);
            assert_eq!(taken.is_ok(), option.takes != Takes::Anew, "{name}: {taken:?}");
            if taken.is_err() {
                let anew = engine(&[&after, &view]).await;
                assert!(ends_otherwise || kept(&anew).1 != was.1, "{name}");
                continue;
            }
            assert_eq!(running.made_otherwise("t").is_empty(), option.takes != Takes::LaterViews, "{name}");
            let again = Engine::keeping(Policy::default()).unwrap();
            for definition in running.definitions() {
                again.restore(&definition).await.unwrap();
            }
            assert_eq!(kept(&again), was, "{name}");
            assert_eq!(again.definitions(), running.definitions(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_view_that_is_made_anew_follows_its_table_again() {
        let (before, after, query) = changed("allowed_lateness");
        let running = engine(&[&before, &format!("CREATE VIEW v AS {query}")]).await;
        let StatementKind::CreateTable(create) = parsed(&after).kind else { panic!("{after}") };
        running.reconfigure(TableSpec::new(&create, &running.session().state()).unwrap()).unwrap();
        assert_eq!((running.made_otherwise("t"), kept(&running).2), (vec!["v".to_string()], false));
        running.execute(&parsed(&format!("CREATE OR REPLACE VIEW v AS {query}"))).await.map(drop).unwrap();
        assert_eq!((running.made_otherwise("t"), kept(&running).2), (vec![], true));
        let own = format!("CREATE OR REPLACE VIEW v WITH (allowed_lateness = '1s') AS {query}");
        running.execute(&parsed(&own)).await.map(drop).unwrap();
        assert!(running.made_otherwise("t").is_empty());
    }
}
