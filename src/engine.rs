//! The front door: statements in, answers out. Execute, query, subscribe, stop.

mod attempt;
mod barriers;
mod checkpoints;
mod condition;
mod memory;
mod output;
mod output_barriers;
mod query_pool;
mod running_view;
mod show;
mod statements;
mod yielding;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::time::Instant;

pub use self::attempt::Attempts;
pub use self::checkpoints::{CheckpointStats, Checkpoints, FailedCheckpoint, INTERVAL_MIN, LAST_CHECKPOINT_TIMEOUT, Taken};
pub use self::memory::{Held, memory_max_default};
pub use self::output::Output;
pub use self::output_barriers::{OutputBarriers, PRINT, Printed};
pub use self::query_pool::{Purpose, QueryPool};
use self::running_view::RunningView;
pub use self::running_view::StateLost;
use self::statements::statement;
use self::yielding::YieldingRule;
use crate::catalog::{Catalog, Made};
use crate::checkpoint::CrashGuard;
use crate::error::{Code, Error, Result};
use crate::feed::Policy;
use crate::operator::Epoch;
use crate::operator::state::StatePart;
use crate::plan::Emit;
use crate::sql::{self, Statement, StatementKind};
use crate::table::{Follow, Table, TableSpec};
use crate::time::Timestamp;
use crate::view::{self, Budget, ContinuousExec, Live};
use crate::zone::Zone;

/// Tables, views and the session they live in.
pub struct Engine {
    session: SessionContext,
    catalog: RwLock<Catalog<Arc<Table>, Arc<View>>>,
    /// Where views are kept running: the session in which a view is a table of its rows.
    answers: Option<SessionContext>,
    memory: memory::Memory,
    /// Where questions are answered, if not where they are asked.
    aside: Option<QueryPool>,
    /// Whether kept views run from their creation on, or wait for [`Engine::start`].
    started: AtomicBool,
    /// The last barrier that was sent. Held while a view joins its tables: it meets a barrier at all of them or at none.
    last_barrier: Mutex<Epoch>,
    /// States that tables and views go on from when they start, by the names of their parts.
    states: Mutex<HashMap<String, StatePart>>,
    /// Where outputs go whose state is kept, see [`Engine::print`].
    printing: Mutex<Option<output_barriers::Printing>>,
    /// Who watches over the views, where the process before may have died of one.
    crash_guard: OnceLock<Arc<CrashGuard>>,
    /// By which clocks instants are printed: `SET TIME ZONE`.
    zone: RwLock<Zone>,
    /// Definitions of before that cannot be made any more: they are kept, and nothing runs.
    passed: Mutex<Vec<Definition>>,
}

/// A named query over tables and other views.
#[derive(Debug)]
pub struct View {
    pub name: String,
    /// The statement that made it, as written.
    pub text: String,
    /// The query in it.
    pub query: String,
    pub plan: LogicalPlan,
    /// As its statement says.
    pub emit: Emit,
    lateness: Lateness,
    pub budget: Budget,
    /// What its author may not expect of it.
    pub notices: Vec<String>,
    kept: Option<RunningView>,
}

/// The allowed lateness of the tables below a view, by name, as it was when the view was made. Whether results are corrected is a
/// property of a view's rows from the first one on, so that it goes on with these whatever its tables are told later, and a restart
/// makes it with the same.
pub type Lateness = BTreeMap<String, Duration>;

/// A statement that makes a table or view, to be kept and run again.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its place among all: greater than that of whatever it reads.
    pub number: u64,
    pub name: String,
    pub text: String,
    pub made: Made,
    /// Of a view, where a table has another one now.
    pub lateness: Lateness,
}

/// What a statement gives back.
pub enum Answer {
    /// Something was made, changed or dropped; each sentence is worth telling.
    Done(Vec<String>),
    /// Rows that were there already.
    Rows(RecordBatch),
    /// A query, planned and not yet running.
    Query(Box<Query>),
    /// A view that runs already: its rows, then its changes.
    Follow(Arc<Live>),
}

/// A planned query. [`Engine::open`] runs it.
#[derive(Debug)]
pub struct Query {
    /// The view's name where the query is a whole view.
    pub name: Option<String>,
    pub plan: Arc<dyn ExecutionPlan>,
    state: SessionState,
    budget: Budget,
}

impl View {
    /// The view's rows and changes, where it is kept running.
    pub fn live(&self) -> Option<&Arc<Live>> {
        self.kept.as_ref().map(|kept| &kept.live)
    }

    /// When results leave as it runs.
    fn emission(&self) -> Emit {
        emission(self.emit, &self.lateness)
    }
}

/// `emit` over tables of this lateness.
fn emission(emit: Emit, lateness: &Lateness) -> Emit {
    Emit { allowed_lateness: emit.allowed_lateness.or_else(|| lateness.values().max().copied()), ..emit }
}

impl Query {
    pub fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// The plan of a query over feeds; `None` for one that DataFusion answers by itself.
    pub fn continuous(&self) -> Option<&ContinuousExec> {
        (self.plan.as_ref() as &dyn std::any::Any).downcast_ref()
    }

    /// Whether its results are corrected later, so that weights matter.
    pub fn is_changelog(&self) -> bool {
        self.continuous().is_some_and(|continuous| continuous.plan().is_changelog())
    }

    /// What its author may not expect of it.
    pub fn notices(&self) -> &[String] {
        self.continuous().map_or(&[], |continuous| &continuous.plan().notices)
    }
}

impl Engine {
    /// An engine in which a view runs when it is read.
    pub fn new() -> Result<Self> {
        Ok(Engine {
            session: session()?,
            catalog: RwLock::default(),
            answers: None,
            memory: memory::Memory::default(),
            aside: None,
            started: AtomicBool::new(false),
            last_barrier: Mutex::default(),
            states: Mutex::default(),
            printing: Mutex::default(),
            crash_guard: OnceLock::new(),
            zone: RwLock::new(Zone::UTC),
            passed: Mutex::default(),
        })
    }

    /// The same where the rows that a query puts in order, groups or joins may take so much memory: what does not fit goes to the disk for
    /// the time, as far as DataFusion can put it there, and else fails.
    pub fn within(bytes: usize) -> Result<Self> {
        let memory = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(bytes))).build_arc()?;
        Ok(Engine { session: for_questions(memory)?, ..Engine::new()? })
    }

    /// An engine in which every view runs all the time, from [`Engine::start`] on. A query over views reads their rows as they are.
    pub fn keeping(policy: Policy) -> Result<Self> {
        let engine = Engine { answers: Some(for_questions(Arc::default())?), ..Engine::new()? };
        engine.limit(policy);
        Ok(engine)
    }

    /// The same with questions on threads of their own.
    pub fn beside(self, aside: QueryPool) -> Self {
        Engine { aside: Some(aside), ..self }
    }

    /// What comes of `work`, a question: see [`QueryPool::ask`].
    pub async fn ask<T: Send + 'static>(
        &self,
        asking: Purpose,
        deadline: Instant,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        match &self.aside {
            Some(aside) => aside.ask(asking, deadline, work).await,
            None => Ok(work.await),
        }
    }

    /// As [`Engine::execute`], as a question.
    pub async fn asked(
        self: &Arc<Self>,
        asking: Purpose,
        deadline: Instant,
        statement: &Statement,
    ) -> Result<Answer, Vec<Error>> {
        let (engine, statement) = (Arc::clone(self), statement.clone());
        self.ask(asking, deadline, async move { engine.execute(&statement).await }).await.map_err(one)?
    }

    /// The rows of a query that DataFusion answers by itself, with memory of their own: to be read within [`Engine::ask`].
    pub fn rows(&self, query: &Query) -> Result<SendableRecordBatchStream> {
        let context = TaskContext::from(&query.state);
        let context = match &self.aside {
            Some(aside) => context.with_runtime(aside.memory()?),
            None => context,
        };
        Ok(execute_stream(Arc::clone(&query.plan), Arc::new(context))?)
    }

    /// The zone by whose clocks results are to be printed. What they are computed from knows no zone.
    pub fn zone(&self) -> Zone {
        *self.zone.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the feeds of tables to come may use and reach.
    pub fn limit(&self, policy: Policy) {
        self.session.state_ref().write().config_mut().set_extension(Arc::new(policy));
    }

    /// From [`Engine::start`] on, `crash_guard` watches the views; it names those that killed the process before, which are not started.
    pub fn watch(&self, crash_guard: Arc<CrashGuard>) {
        let _ = self.crash_guard.set(crash_guard);
    }

    /// Who watches over the views, where somebody does.
    pub fn crash_guard(&self) -> Option<&Arc<CrashGuard>> {
        self.crash_guard.get()
    }

    /// All views as the crash guard knows them: by name and time of creation, so that a view created anew is another.
    pub fn watched(&self) -> BTreeSet<String> {
        self.views().iter().map(|view| self.watched_as(&view.name)).collect()
    }

    fn watched_as(&self, view: &str) -> String {
        format!("{view} {}", self.made(view).map_or(0, |made| made.updated.nanos()))
    }

    /// Runs one statement. All errors of the statement, not only the first.
    pub async fn execute(&self, statement: &Statement) -> Result<Answer, Vec<Error>> {
        match &statement.kind {
            StatementKind::CreateTable(create) => create.refuse_masks().and_then(|()| self.create_table(create)),
            StatementKind::CreateView(create) => self.create_view(create).await,
            StatementKind::Query(query) => self.answer(query).await.map(Box::new).map(Answer::Query).map_err(one),
            StatementKind::Subscribe(query) => self.subscribe(query).await.map_err(one),
            StatementKind::Explain { statement, analyze } => self.explain(statement, *analyze).await,
            StatementKind::Drop { what, names, if_exists, cascade } => self.drop(*what, names, *if_exists, *cascade).map_err(one),
            StatementKind::Show(show) => self.show(show).map_err(one),
            StatementKind::Describe(name) => self.describe(name).map_err(one),
            StatementKind::Insert { table } => Err(one(self.refuse_insert(table))),
            StatementKind::Set { name, value } => self.set(name, value).await.map_err(one),
        }
    }

    /// The views that no other view reads, in the order they were made.
    pub async fn top_views(&self) -> Result<Vec<Query>> {
        let mut queries = Vec::new();
        for view in self.tops() {
            queries.push(self.view_query(&view).await?);
        }
        Ok(queries)
    }

    fn tops(&self) -> Vec<Arc<View>> {
        let catalog = self.catalog();
        catalog.views().filter(|(name, _)| catalog.readers(name).is_empty()).map(|(_, view)| Arc::clone(view)).collect()
    }

    /// The tables in the order they were made.
    pub fn tables(&self) -> Vec<Arc<Table>> {
        let catalog = self.catalog();
        catalog.tables().map(|(_, table)| Arc::clone(table)).collect()
    }

    pub fn table(&self, name: &str) -> Option<Arc<Table>> {
        self.catalog().table(name).cloned()
    }

    /// The views in the order they were made.
    pub fn views(&self) -> Vec<Arc<View>> {
        let catalog = self.catalog();
        catalog.views().map(|(_, view)| Arc::clone(view)).collect()
    }

    pub fn view_count(&self) -> usize {
        self.catalog().views().count()
    }

    pub fn view(&self, name: &str) -> Option<Arc<View>> {
        self.catalog().view(name).cloned()
    }

    /// When a table or view was made, and made anew.
    pub fn made(&self, name: &str) -> Option<Made> {
        self.catalog().made(name)
    }

    /// The views that read `name` themselves.
    pub fn readers(&self, name: &str) -> Vec<String> {
        self.catalog().readers(name).into_iter().map(str::to_string).collect()
    }

    /// The tables and views that the view `name` reads itself.
    pub fn reads_of(&self, name: &str) -> Vec<String> {
        self.catalog().reads(name).to_vec()
    }

    /// The tables that `name` reads, itself or through views; a table is its own.
    pub fn sources(&self, name: &str) -> Vec<Arc<Table>> {
        let catalog = self.catalog();
        catalog.sources(name).into_iter().filter_map(|name| catalog.table(name).cloned()).collect()
    }

    /// That there is no such table or view, with the nearest name.
    pub fn missing(&self, what: &str, name: &str) -> Error {
        self.catalog().unknown(what, name)
    }

    /// Gives a table another definition while it lives, as far as [`Table::reconfigure`] can.
    pub fn reconfigure(&self, spec: TableSpec) -> Result<()> {
        let name = spec.name.clone();
        let table = self.table(&name).ok_or_else(|| self.missing("table", &name))?;
        table.reconfigure(spec)?;
        let mut catalog = self.catalog_mut();
        if let Some(made) = catalog.made(&name) {
            catalog.set_made(&name, Made { updated: Timestamp::now(), ..made });
        }
        // What is kept of a view says where it differs from its tables.
        let is_over = |view: &Arc<View>| view.lateness.contains_key(&name);
        let views: Vec<String> = catalog.views().filter(|(_, view)| is_over(view)).map(|(name, _)| name.to_string()).collect();
        views.iter().for_each(|view| catalog.touch(view));
        Ok(())
    }

    /// The views over the table `name` that were made when its allowed lateness was another, and go on with that.
    pub fn made_otherwise(&self, name: &str) -> Vec<String> {
        let catalog = self.catalog();
        let Some(now) = catalog.table(name).map(|table| table.spec().allowed_lateness) else { return Vec::new() };
        let differs =
            |view: &View| view.emit.allowed_lateness.is_none() && view.lateness.get(name).is_some_and(|then| *then != now);
        catalog.views().filter(|(_, view)| differs(view)).map(|(name, _)| name.to_string()).collect()
    }

    /// All tables and views as the statements that make them, in an order in which they can be run again.
    pub fn definitions(&self) -> Vec<Definition> {
        let catalog = self.catalog();
        catalog.names().filter_map(|name| definition(&catalog, name)).collect()
    }

    /// What was made or changed since the last call, and the numbers of what was dropped. What was passed over is kept until something of its
    /// name is made.
    pub fn take_changed(&self) -> Vec<(u64, Option<Definition>)> {
        let mut catalog = self.catalog_mut();
        let touched = catalog.take_touched();
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = passed.extract_if(.., |passed| catalog.contains(&passed.name)).map(|passed| (passed.number, None));
        let now = |number: u64| catalog.name(number).and_then(|name| definition(&catalog, name));
        touched.into_iter().map(|number| (number, now(number))).chain(replaced).collect()
    }

    /// What [`Engine::take_changed`] gave could not be kept: the next call gives it again.
    pub fn change_again(&self, numbers: impl Iterator<Item = u64>) {
        self.catalog_mut().touch_again(numbers.collect::<BTreeSet<_>>());
    }

    /// Leaves out a definition that cannot be made again. It stays kept by its number until something of its name is made.
    pub fn pass_over(&self, definition: Definition) {
        self.catalog_mut().skip_to(definition.number + 1);
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).push(definition);
    }

    /// Makes a table or view again as it was kept.
    pub async fn restore(&self, definition: &Definition) -> Result<(), Vec<Error>> {
        self.catalog_mut().skip_to(definition.number);
        let (statements, errors) = sql::parse(&definition.text);
        if !errors.is_empty() {
            return Err(errors);
        }
        for statement in &statements {
            match &statement.kind {
                // What was taken once is taken again.
                StatementKind::CreateTable(create) => self.create_table(create)?,
                StatementKind::CreateView(create) => self.make_view(create, &definition.lateness).await?,
                _ => self.execute(statement).await?,
            };
        }
        self.catalog_mut().set_made(&definition.name, definition.made);
        Ok(())
    }

    /// How a query follows its feeds: where views are kept running, none may hold them up.
    fn casually(&self) -> Follow {
        match self.answers {
            Some(_) => Follow::CASUAL,
            None => Follow::EXACT,
        }
    }

    /// The DataFusion session, for programs that go on by themselves.
    pub fn session(&self) -> &SessionContext {
        &self.session
    }
}

/// Makes a table over a feed in a DataFusion session, by a `CREATE TABLE` statement. Nothing is connected to before a query runs.
pub fn create_table(session: &SessionContext, statement: &str) -> Result<Arc<Table>> {
    let (statements, errors) = sql::parse(statement);
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    let [Statement { kind: StatementKind::CreateTable(create), .. }] = statements.as_slice() else {
        return Err(Error::new(Code::Syntax, "this is not one CREATE TABLE statement")
            .hint("write CREATE TABLE … WITH (connector = 'sse', …)"));
    };
    let spec = TableSpec::new(create, &session.state()).map_err(|mut errors| errors.swap_remove(0))?;
    let table = Table::new(spec);
    session.register_table(TableReference::bare(create.name.text.as_str()), Arc::clone(&table) as Arc<dyn TableProvider>)?;
    Ok(table)
}

impl Engine {
    fn catalog(&self) -> RwLockReadGuard<'_, Catalog<Arc<Table>, Arc<View>>> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog<Arc<Table>, Arc<View>>> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session for what is asked once.
fn for_questions(memory: Arc<RuntimeEnv>) -> Result<SessionContext> {
    let session = session_within(memory)?;
    let state = SessionStateBuilder::new_from_existing(session.state()).with_physical_optimizer_rule(Arc::new(YieldingRule));
    *session.state_ref().write() = state.build();
    Ok(session)
}

fn session() -> Result<SessionContext> {
    session_within(Arc::default())
}

fn session_within(memory: Arc<RuntimeEnv>) -> Result<SessionContext> {
    let config = SessionConfig::new().with_information_schema(true).with_target_partitions(1);
    let session = SessionContext::new_with_config_rt(config, memory);
    view::register(&session)?;
    Ok(session)
}

fn one(error: Error) -> Vec<Error> {
    vec![error]
}

fn definition(catalog: &Catalog<Arc<Table>, Arc<View>>, name: &str) -> Option<Definition> {
    let now = |table: &str| catalog.table(table).map(|table| table.spec().allowed_lateness);
    let (text, lateness) = match (catalog.table(name), catalog.view(name)) {
        (Some(table), _) => (table.spec().text.clone(), Lateness::new()),
        (None, view) => {
            let View { text, lateness, .. } = view?.as_ref();
            let differs = lateness.iter().filter(|(table, then)| now(table).is_some_and(|now| now != **then));
            (text.clone(), differs.map(|(table, then)| (table.clone(), *then)).collect())
        }
    };
    Some(Definition { number: catalog.number(name)?, name: name.into(), text, made: catalog.made(name)?, lateness })
}

fn column(name: &str, cells: impl IntoIterator<Item = String>) -> Result<Answer> {
    let cells: ArrayRef = Arc::new(StringArray::from(cells.into_iter().collect::<Vec<_>>()));
    Ok(Answer::Rows(RecordBatch::try_from_iter([(name, cells)])?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::view::{Followed, Health};

    async fn execute(engine: &Engine, text: &str) -> Answer {
        let (statements, errors) = sql::parse(text);
        assert!(errors.is_empty(), "{errors:?}");
        engine.execute(&statements[0]).await.unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
    }

    async fn number(engine: &Engine, query: &str) -> i64 {
        let Answer::Query(query) = execute(engine, query).await else { panic!("no query") };
        let mut outputs = engine.open(&[*query]).unwrap();
        let changes = outputs[0].next_changes().await.unwrap().unwrap();
        changes.rows.column(0).as_primitive::<Int64Type>().value(0)
    }

    #[tokio::test]
    async fn a_kept_view_runs_by_itself_and_is_read_as_its_rows() {
        let engine = Engine::keeping(Policy::default()).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/system_metrics.sse");
        let table = "CREATE TABLE metrics (host TEXT, value DOUBLE, timestamp TIMESTAMP, WATERMARK FOR timestamp AS timestamp - INTERVAL '5 seconds')";
        execute(&engine, &format!("{table} WITH (connector = 'file', path = '{}')", path.display())).await;
        let counts =
            "SELECT count(*) AS n, TUMBLE(INTERVAL '10 seconds') AS window FROM metrics GROUP BY window ORDER BY window DESC";
        execute(&engine, &format!("CREATE VIEW counts AS {counts}")).await;
        let live = Arc::clone(engine.view("counts").unwrap().live().unwrap());
        assert_eq!((live.health(), live.head()), (Health::Waiting, 0));
        engine.start().unwrap();
        let mut follower = live.follow(0);
        while live.health() != Health::Ended {
            follower.changed().await;
        }
        let rows = live.snapshot().unwrap().rows;
        let starts = rows.column(1).as_struct().column(0).clone();
        let starts = starts.as_primitive::<arrow::datatypes::TimestampNanosecondType>().values().to_vec();
        assert!(starts.len() > 1 && starts.windows(2).all(|pair| pair[0] > pair[1]), "{starts:?}");
        let all: i64 = rows.column(0).as_primitive::<Int64Type>().values().iter().sum();
        assert_eq!(number(&engine, "SELECT sum(n) FROM counts").await, all);
        assert_eq!(number(&engine, "SELECT count(*) FROM metrics").await, all);
        // A view over a view is a query of its own; one made later runs at once.
        execute(&engine, "CREATE VIEW busy AS SELECT n, window FROM counts WHERE n > 0").await;
        let busy = Arc::clone(engine.view("busy").unwrap().live().unwrap());
        assert!(matches!(busy.follow(0).next().await, Followed::Entry(_)));
        assert!(matches!(execute(&engine, "SUBSCRIBE counts").await, Answer::Follow(live) if live.name == "counts"));
        assert_eq!(engine.definitions().iter().map(|made| made.name.as_str()).collect::<Vec<_>>(), ["metrics", "counts", "busy"]);
        let mut follower = busy.follow(busy.head());
        execute(&engine, "DROP VIEW busy").await;
        assert!(matches!(follower.next().await, Followed::Dropped));
    }
}
