//! The front door: statements in, answers out. Execute, query, subscribe, stop.

mod checkpoints;
mod keep;
mod ledger;
mod mark;
mod show;
mod sized;

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::ViewTable;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as SqlStatement;
use futures::{FutureExt, StreamExt};
use sqlparser::ast;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub use self::checkpoints::{Checkpoints, Failure, INTERVAL_MIN, Report, Taken};
pub use self::keep::Anew;
use self::keep::{Kept, Snapshots};
pub use self::ledger::{Ledger, PRINT, Printed, Said, Stop};
use crate::catalog::{Catalog, Made};
use crate::change::Changes;
use crate::error::{Code, Error, Result, nearest};
use crate::feed::Policy;
use crate::operator::state::Part;
use crate::operator::{Epoch, Message};
use crate::options::{self, ViewOptions};
use crate::plan::{self, Emit};
use crate::sql::{self, CreateTable, CreateView, Kind, Name, Names, Object, Statement};
use crate::table::{Follow, Spec, Table};
use crate::time::{Timestamp, TimestampArray};
use crate::view::{self, Budget, ContinuousExec, Live, Progress, Run};

/// Tables, views and the session they live in.
pub struct Engine {
    session: SessionContext,
    catalog: RwLock<Catalog<Arc<Table>, Arc<View>>>,
    /// Where views are kept running: the session in which a view is a table of its rows.
    answers: Option<SessionContext>,
    /// Whether kept views run from their creation on, or wait for [`Engine::start`].
    started: AtomicBool,
    /// The last mark that was sent. Held while a view joins its tables: it meets a mark at all of them or at none.
    marked: Mutex<Epoch>,
    /// States that tables and views go on from when they start, by the names of their parts.
    states: Mutex<HashMap<String, Part>>,
    /// Where outputs go whose state is kept, see [`Engine::print`].
    printing: Mutex<Option<ledger::Printing>>,
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
    pub emit: Emit,
    pub budget: Budget,
    /// What its author may not expect of it.
    pub notices: Vec<String>,
    kept: Option<Kept>,
}

/// A statement that makes a table or view, to be kept and run again.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    pub name: String,
    pub text: String,
    pub made: Made,
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

/// A running query: its changes as they come, until the feeds end or it is dropped.
pub struct Output<T = Changes> {
    pub name: Option<String>,
    pub schema: SchemaRef,
    /// Whether results are corrected later, so that weights matter.
    pub changelog: bool,
    pub changes: mpsc::Receiver<Result<T>>,
    /// How far a continuous query has come; `None` for one that is answered at once.
    pub progress: Option<Arc<Progress>>,
    task: AbortHandle,
}

/// Batches of results that may wait for their reader: then the query waits, and with it the feed.
const OUTPUT_QUEUE: usize = 8;

/// Most nodes of a plan. A view stands in a plan as what it is made of, and views over views could double it with each.
const NODES_MAX: usize = 500;

impl<T> Output<T> {
    fn new(query: &Query, progress: Option<Arc<Progress>>, changes: mpsc::Receiver<Result<T>>, task: AbortHandle) -> Self {
        let (name, schema, changelog) = (query.name.clone(), query.schema(), query.is_changelog());
        Output { name, schema, changelog, changes, progress, task }
    }
}

impl<T> Drop for Output<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl View {
    /// The view's rows and changes, where it is kept running.
    pub fn live(&self) -> Option<&Arc<Live>> {
        self.kept.as_ref().map(|kept| &kept.live)
    }
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
            started: AtomicBool::new(false),
            marked: Mutex::default(),
            states: Mutex::default(),
            printing: Mutex::default(),
        })
    }

    /// An engine in which every view runs all the time, from [`Engine::start`] on. A query over views reads their rows as they are.
    pub fn keeping(policy: Policy) -> Result<Self> {
        let engine = Engine { answers: Some(session()?), ..Engine::new()? };
        engine.limit(policy);
        Ok(engine)
    }

    /// What the feeds of tables to come may use and reach.
    pub fn limit(&self, policy: Policy) {
        self.session.state_ref().write().config_mut().set_extension(Arc::new(policy));
    }

    /// Runs one statement. All errors of the statement, not only the first.
    pub async fn execute(&self, statement: &Statement) -> Result<Answer, Vec<Error>> {
        match &statement.kind {
            Kind::CreateTable(create) => self.create_table(create),
            Kind::CreateView(create) => self.create_view(create).await,
            Kind::Query(query) => self.answer(query).await.map(Box::new).map(Answer::Query).map_err(one),
            Kind::Subscribe(query) => self.subscribe(query).await.map_err(one),
            Kind::Explain { statement, analyze } => self.explain(statement, *analyze).await,
            Kind::Drop { what, names, if_exists, cascade } => self.drop(*what, names, *if_exists, *cascade).map_err(one),
            Kind::Show(show) => self.show(show).map_err(one),
            Kind::Describe(name) => self.describe(name).map_err(one),
            Kind::Insert { table } => Err(one(self.refuse_insert(table))),
            Kind::Set { name, value } => self.set(name, value).await.map_err(one),
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

    /// Runs queries together: all of them see every event of the feeds they share.
    pub fn open(&self, queries: &[Query]) -> Result<Vec<Output>> {
        let mut tables: Vec<Arc<Table>> = Vec::new();
        let mut outputs = Vec::new();
        for query in queries {
            let context = query.state.task_ctx();
            let (sender, changes) = mpsc::channel(OUTPUT_QUEUE);
            let (progress, task) = match query.continuous() {
                Some(continuous) => {
                    let (mut run, read) = continuous.run(context, self.casually())?;
                    run.limit(query.budget);
                    tables.extend(read);
                    (Some(run.progress()), tokio::spawn(told(sender.clone(), follow(run, sender))))
                }
                None => {
                    let rows = execute_stream(Arc::clone(&query.plan), context)?;
                    (None, tokio::spawn(told(sender.clone(), answer(rows, sender))))
                }
            };
            outputs.push(Output::new(query, progress, changes, task.abort_handle()));
        }
        for table in tables {
            table.start();
        }
        Ok(outputs)
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

    /// Some of `rows`: those that meet the condition `filter`, by `order`, a list as behind `ORDER BY`. No subqueries.
    pub async fn select(&self, rows: RecordBatch, filter: Option<&str>, order: Option<&str>) -> Result<RecordBatch> {
        if filter.is_none() && order.is_none() {
            return Ok(rows);
        }
        let schema = rows.schema();
        let filter = filter.map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
        let order = order.map(|order| format!(" ORDER BY {order}")).unwrap_or_default();
        let (statements, errors) = sql::parse(&format!("SELECT * FROM rows{filter}{order}"));
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        let [Statement { kind: Kind::Query(query), .. }] = statements.as_slice() else {
            return Err(
                Error::new(Code::Syntax, "a condition or an order is more than that").hint("give an expression over the columns")
            );
        };
        // Whoever may read a view may not have its rows multiplied with themselves.
        if !sql::is_single(query) {
            return Err(Error::new(Code::Query, "a condition or an order holds a query of its own")
                .hint("compare columns with values; what needs more is a view: CREATE VIEW … AS SELECT …"));
        }
        // In a session of its own: a condition sees these rows and nothing else.
        let alone = session()?;
        alone.register_batch("rows", rows)?;
        let state = alone.state();
        let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let mut query = query.as_ref().clone();
        sql::rewrite(&mut query, &|_| Some(columns.clone()))?;
        let plan = state.statement_to_plan(statement(&query)).await.map_err(|error| {
            let functions: Vec<String> = state.udfs().into_iter().collect();
            sql::explain_error(error, &query, Names { tables: &["rows".into()], functions: &functions })
        })?;
        let batches = alone.execute_logical_plan(plan).await?.collect().await?;
        Ok(arrow::compute::concat_batches(&schema, &batches)?)
    }

    /// That there is no such table or view, with the nearest name.
    pub fn missing(&self, what: &str, name: &str) -> Error {
        self.catalog().unknown(what, name)
    }

    /// Gives a table another definition while it lives, as far as [`Table::reconfigure`] can.
    pub fn reconfigure(&self, spec: Spec) -> Result<()> {
        let name = spec.name.clone();
        let table = self.table(&name).ok_or_else(|| self.missing("table", &name))?;
        table.reconfigure(spec)?;
        let mut catalog = self.catalog_mut();
        if let Some(made) = catalog.made(&name) {
            catalog.set_made(&name, Made { updated: Timestamp::now(), ..made });
        }
        Ok(())
    }

    /// All tables and views as the statements that make them, in an order in which they can be run again.
    pub fn definitions(&self) -> Vec<Definition> {
        let catalog = self.catalog();
        let text = |name: &str| match (catalog.table(name), catalog.view(name)) {
            (Some(table), _) => Some(table.spec().text.clone()),
            (None, view) => view.map(|view| view.text.clone()),
        };
        let definition = |name: &str| Some(Definition { name: name.into(), text: text(name)?, made: catalog.made(name)? });
        catalog.names().filter_map(definition).collect()
    }

    /// Makes a table or view again as it was kept.
    pub async fn restore(&self, definition: &Definition) -> Result<(), Vec<Error>> {
        let (statements, errors) = sql::parse(&definition.text);
        if !errors.is_empty() {
            return Err(errors);
        }
        for statement in &statements {
            self.execute(statement).await?;
        }
        self.catalog_mut().set_made(&definition.name, definition.made);
        Ok(())
    }

    /// How a query follows its feeds: where views are kept running, none may hold them up.
    fn casually(&self) -> Follow {
        match self.answers {
            Some(_) => Follow::Casual,
            None => Follow::Exact,
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
    let [Statement { kind: Kind::CreateTable(create), .. }] = statements.as_slice() else {
        return Err(Error::new(Code::Syntax, "this is not one CREATE TABLE statement")
            .hint("write CREATE TABLE … WITH (connector = 'sse', …)"));
    };
    let spec = Spec::new(create, &session.state()).map_err(|mut errors| errors.swap_remove(0))?;
    let table = Table::new(spec);
    session.register_table(TableReference::bare(create.name.text.as_str()), Arc::clone(&table) as Arc<dyn TableProvider>)?;
    Ok(table)
}

impl Engine {
    fn create_table(&self, create: &CreateTable) -> Result<Answer, Vec<Error>> {
        let name = &create.name.text;
        if create.if_not_exists && self.catalog().contains(name) {
            return Ok(Answer::Done(vec![format!("table {name} is there already")]));
        }
        let spec = Spec::new(create, &self.session.state())?;
        let notices = spec.notices.iter().map(|notice| format!("table {name}: {notice}")).collect();
        let table = Table::new(spec);
        let mut catalog = self.catalog_mut();
        let created = catalog.create_table(name, Arc::clone(&table), create.or_replace, Timestamp::now());
        created.map_err(|error| one(error.at(create.name.span)))?;
        self.register(name, Arc::clone(&table) as _, table).map_err(one)?;
        Ok(Answer::Done(notices))
    }

    async fn create_view(&self, create: &CreateView) -> Result<Answer, Vec<Error>> {
        let name = &create.name.text;
        if create.if_not_exists && self.catalog().contains(name) {
            return Ok(Answer::Done(vec![format!("view {name} is there already")]));
        }
        let options = ViewOptions::read(&create.options)?;
        let emit = emit(create, &options);
        let plan = self.logical(&create.query).await.map_err(one)?;
        // Planned once to the end, so that what cannot run is refused here and not when it is read.
        let (physical, state) = self.physical(&plan, emit).await.map_err(|error| one(sql::explain_plan(error, &create.query)))?;
        let budget = Budget::of(&options);
        let query = Query { name: Some(name.clone()), plan: physical, state, budget };
        let reads = self.reads(&create.query).map_err(one)?;
        let notices = query.notices().to_vec();
        let retention = usize::try_from(options.retention).unwrap_or(usize::MAX);
        let kept = match &self.answers {
            Some(_) => Some(Kept::new(name, query, &plan, retention).map_err(one)?),
            None => None,
        };
        let live = kept.as_ref().map(|kept| Arc::clone(&kept.live));
        let told = notices.iter().map(|notice| format!("view {name}: {notice}")).collect();
        let (text, query) = (create.text.clone(), create.query.to_string());
        let view = Arc::new(View { name: name.clone(), text, query, plan: plan.clone(), emit, budget, notices, kept });
        {
            let mut catalog = self.catalog_mut();
            let created = catalog.create_view(name, Arc::clone(&view), reads, create.or_replace, Timestamp::now());
            created.map_err(|error| one(error.at(create.name.span)))?;
            let inlined = Arc::new(ViewTable::new(plan, Some(create.text.clone())));
            let rows = live.map_or_else(|| Arc::clone(&inlined) as Arc<dyn TableProvider>, |live| Arc::new(Snapshots(live)));
            self.register(name, inlined, rows).map_err(one)?;
        }
        if let Some(kept) = view.kept.as_ref().filter(|_| self.started.load(Relaxed)) {
            let tables = {
                let marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
                kept.run(None, *marked)
            };
            let tables = tables.map_err(|error| {
                // It would stay without ever running, and without being kept.
                let _ = self.drop(Object::View, std::slice::from_ref(&create.name), true, true);
                one(error)
            })?;
            tables.iter().for_each(|table| table.start());
        }
        Ok(Answer::Done(told))
    }

    /// Makes a name known: to continuous queries as what it stands for, to queries that are answered once as its rows.
    fn register(&self, name: &str, inlined: Arc<dyn TableProvider>, rows: Arc<dyn TableProvider>) -> Result<()> {
        self.deregister(name)?;
        self.session.register_table(TableReference::bare(name), inlined)?;
        if let Some(answers) = &self.answers {
            answers.register_table(TableReference::bare(name), rows)?;
        }
        Ok(())
    }

    fn deregister(&self, name: &str) -> Result<()> {
        for session in [Some(&self.session), self.answers.as_ref()].into_iter().flatten() {
            session.deregister_table(TableReference::bare(name))?;
        }
        Ok(())
    }

    /// A query that is answered once, as far as its tables end.
    async fn answer(&self, query: &ast::Query) -> Result<Query> {
        let Some(answers) = &self.answers else { return self.query(query, Emit::default()).await };
        let plan = self.logical_in(answers, query).await?;
        let state = answers.state();
        let plan = state.create_physical_plan(&plan).await.map_err(|error| sql::explain_plan(error.into(), query))?;
        Ok(Query { name: None, plan, state, budget: Budget::default() })
    }

    /// A query whose changes are followed; one of a whole view follows that view.
    async fn subscribe(&self, query: &ast::Query) -> Result<Answer> {
        let view = sql::whole(query).and_then(|name| self.view(&name));
        match view.as_ref().and_then(|view| view.kept.as_ref()) {
            Some(kept) => Ok(Answer::Follow(Arc::clone(&kept.live))),
            None => Ok(Answer::Query(Box::new(self.query(query, changes()).await?))),
        }
    }

    async fn query(&self, query: &ast::Query, emit: Emit) -> Result<Query> {
        let plan = self.logical(query).await?;
        let (plan, state) = self.physical(&plan, emit).await.map_err(|error| sql::explain_plan(error, query))?;
        Ok(Query { name: None, plan, state, budget: Budget::default() })
    }

    async fn view_query(&self, view: &View) -> Result<Query> {
        let (plan, state) = self.physical(&view.plan, view.emit).await?;
        Ok(Query { name: Some(view.name.clone()), plan, state, budget: view.budget })
    }

    /// Resolves a query's names.
    async fn logical(&self, query: &ast::Query) -> Result<LogicalPlan> {
        self.logical_in(&self.session, query).await
    }

    async fn logical_in(&self, session: &SessionContext, query: &ast::Query) -> Result<LogicalPlan> {
        let mut query = query.clone();
        sql::rewrite(&mut query, &|table| self.columns(table))?;
        let state = session.state();
        let plan = state.statement_to_plan(statement(&query)).await.map_err(|error| {
            let tables: Vec<String> = {
                let catalog = self.catalog();
                catalog.tables().map(|(name, _)| name).chain(catalog.views().map(|(name, _)| name)).map(str::to_string).collect()
            };
            let functions: Vec<String> = state.udfs().into_iter().chain(state.udafs()).chain(state.udwfs()).collect();
            sql::explain_error(error, &query, Names { tables: &tables, functions: &functions })
        })?;
        let mut nodes = 0;
        plan.apply(|_| {
            nodes += 1;
            Ok(if nodes > NODES_MAX { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        match nodes > NODES_MAX {
            true => {
                Err(Error::new(Code::Query, format!("with the views that it reads, the query has more than {NODES_MAX} parts"))
                    .hint("read from views that are less deep"))
            }
            false => Ok(plan),
        }
    }

    /// The columns of a table or view, if there is one of that name.
    fn columns(&self, name: &ast::ObjectName) -> Option<Vec<String>> {
        let name = sql::folded(name)?;
        let catalog = self.catalog();
        let schema = match (catalog.table(&name), catalog.view(&name)) {
            (Some(table), _) => Arc::clone(&table.spec().schema),
            (None, Some(view)) => Arc::clone(view.plan.schema().inner()),
            (None, None) => return None,
        };
        Some(schema.fields().iter().map(|field| field.name().clone()).collect())
    }

    /// The tables and views that a query names.
    fn reads(&self, query: &ast::Query) -> Result<Vec<String>> {
        let references = self.session.state().resolve_table_references(&statement(query))?;
        Ok(references.iter().map(|reference| reference.table().to_string()).collect())
    }

    pub fn view_count(&self) -> usize {
        self.catalog().views().count()
    }

    async fn physical(&self, plan: &LogicalPlan, emit: Emit) -> Result<(Arc<dyn ExecutionPlan>, SessionState)> {
        let state = plan::session(self.session.state(), |config| config.with_extension(Arc::new(emit)));
        Ok((state.create_physical_plan(plan).await?, state))
    }

    async fn explain(&self, statement: &Kind, analyze: bool) -> Result<Answer, Vec<Error>> {
        if analyze {
            return Err(one(Error::new(Code::NotYet, "EXPLAIN ANALYZE of an endless query never ends")
                .hint("use EXPLAIN for the plan, and SHOW STATUS for live counters")));
        }
        let (query, emit) = match statement {
            Kind::Query(query) => (query, Emit::default()),
            Kind::Subscribe(query) => (query, changes()),
            Kind::CreateView(create) => (&create.query, emit(create, &ViewOptions::read(&create.options)?)),
            _ => return Err(one(Error::bug("only a query or a CREATE VIEW is parsed behind EXPLAIN"))),
        };
        let query = self.query(query, emit).await.map_err(one)?;
        let text = match query.continuous() {
            Some(continuous) => continuous.plan().describe().map_err(one)?,
            None => plan::readable(&datafusion::physical_plan::displayable(query.plan.as_ref()).indent(false).to_string()),
        };
        column("plan", text.lines().map(str::to_string)).map_err(one)
    }

    fn drop(&self, what: Object, names: &[Name], if_exists: bool, cascade: bool) -> Result<Answer> {
        let mut done = Vec::new();
        for name in names {
            let mut catalog = self.catalog_mut();
            let dropped = match what {
                Object::Table => catalog.drop_table(&name.text, if_exists, cascade),
                Object::View => catalog.drop_view(&name.text, if_exists, cascade),
            };
            for gone in dropped.map_err(|error| error.at(name.span))? {
                self.deregister(&gone)?;
                done.push(format!("{gone} dropped"));
            }
        }
        Ok(Answer::Done(done))
    }

    /// Event streams are read, never written (the protocol has no way back).
    fn refuse_insert(&self, table: &Name) -> Error {
        if !self.catalog().contains(&table.text) {
            return self.unknown(table);
        }
        Error::new(
            Code::Query,
            format!("'{table}' cannot be written to: server-sent events flow from the server to its clients only"),
        )
        .hint("read a view's results instead: streamgauge run prints them as NDJSON")
        .at(table.span)
    }

    async fn set(&self, name: &Name, value: &str) -> Result<Answer> {
        let statement = format!("SET {} = '{}'", name.text, value.replace('\'', "''"));
        let set = async {
            for session in [Some(&self.session), self.answers.as_ref()].into_iter().flatten() {
                session.sql(&statement).await?;
            }
            Ok(())
        };
        set.await.map_err(|error: datafusion::error::DataFusionError| {
            let known = self.session.state().config_options().entries();
            let error = Error::from(error);
            let problem = match known.iter().any(|entry| entry.key == name.text) {
                true => format!("setting '{}': {}", name.text, error.message()),
                false => format!("there is no setting '{}'", name.text),
            };
            let hint = match nearest(&name.text, known.iter().map(|entry| entry.key.as_str())) {
                Some(near) if near != name.text => format!("did you mean {near}?"),
                _ => "settings are those of DataFusion, such as datafusion.execution.batch_size".into(),
            };
            Error::new(Code::BadOption, problem).hint(hint).at(name.span)
        })?;
        Ok(Answer::Done(Vec::new()))
    }

    fn unknown(&self, name: &Name) -> Error {
        self.catalog().unknown("table or view", &name.text).at(name.span)
    }

    fn catalog(&self) -> RwLockReadGuard<'_, Catalog<Arc<Table>, Arc<View>>> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog<Arc<Table>, Arc<View>>> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn session() -> Result<SessionContext> {
    let config = SessionConfig::new().with_information_schema(true).with_target_partitions(1);
    let session = SessionContext::new_with_config(config);
    view::register(&session)?;
    sized::bound(&session)?;
    Ok(session)
}

/// When a view gives results, by its options and its `EMIT CHANGES`.
fn emit(create: &CreateView, options: &ViewOptions) -> Emit {
    let is_early = create.emit_changes || options.emit == options::Emit::Changes;
    Emit { early: is_early.then_some(options.emit_interval), allowed_lateness: options.allowed_lateness }
}

/// A view's early results at the default pace.
fn changes() -> Emit {
    Emit { early: Some(std::time::Duration::from_secs(1)), allowed_lateness: None }
}

fn statement(query: &ast::Query) -> SqlStatement {
    SqlStatement::Statement(Box::new(ast::Statement::Query(Box::new(query.clone()))))
}

fn one(error: Error) -> Vec<Error> {
    vec![error]
}

fn column(name: &str, cells: impl IntoIterator<Item = String>) -> Result<Answer> {
    let cells: ArrayRef = Arc::new(StringArray::from(cells.into_iter().collect::<Vec<_>>()));
    Ok(Answer::Rows(RecordBatch::try_from_iter([(name, cells)])?))
}

/// Runs a query's task; if it panics, its reader is told: a result must not look complete that is not.
async fn told<T>(changes: mpsc::Sender<Result<T>>, task: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
        let error = panic_error(panic.as_ref());
        let _ = changes.send(Err(error)).await;
    }
}

fn panic_error(panic: &(dyn Any + Send)) -> Error {
    let what = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    Error::bug(format!("a running query broke off: {}", what.unwrap_or("no reason is known")))
}

/// Hands on the changes of a continuous query until it ends or nobody reads it.
async fn follow(mut run: Run, changes: mpsc::Sender<Result<Changes>>) {
    loop {
        let sent = match run.next().await {
            Ok(Some(Message::Changes(rows))) => changes.send(Ok(rows)).await,
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(error) => return drop(changes.send(Err(error)).await),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Hands on the rows of a query that DataFusion answers by itself; they have no event time.
async fn answer<T: From<Changes>>(mut rows: SendableRecordBatchStream, changes: mpsc::Sender<Result<T>>) {
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(Error::from).map(|rows| {
            let times = TimestampArray::from_value(0, rows.num_rows());
            T::from(Changes::inserts(rows, times))
        });
        if changes.send(batch).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::view::{Followed, Health};

    #[tokio::test]
    async fn a_query_that_panics_says_so() {
        let (sender, mut changes) = mpsc::channel::<Result<Changes>>(1);
        tokio::spawn(told(sender, async { panic!("no such thing") }));
        let error = changes.recv().await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Bug, "a running query broke off: no such thing"));
        assert!(changes.recv().await.is_none());
    }

    async fn execute(engine: &Engine, text: &str) -> Answer {
        let (statements, errors) = sql::parse(text);
        assert!(errors.is_empty(), "{errors:?}");
        engine.execute(&statements[0]).await.unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
    }

    async fn number(engine: &Engine, query: &str) -> i64 {
        let Answer::Query(query) = execute(engine, query).await else { panic!("no query") };
        let mut outputs = engine.open(&[*query]).unwrap();
        let changes = outputs[0].changes.recv().await.unwrap().unwrap();
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
