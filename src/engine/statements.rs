//! What each statement does: names are resolved, queries planned, tables and views made and dropped.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::ViewTable;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as SqlStatement;
use sqlparser::ast;

use super::running_view::{RunningView, Snapshots};
use super::{Answer, Engine, Lateness, Query, View, column, emission, one, yielding};
use crate::error::{Code, Error, Result, nearest};
use crate::options::{self, ViewOptions};
use crate::plan::{self, Emit};
use crate::sql::{self, CreateTable, CreateView, DropTarget, KnownNames, Name, StatementKind};
use crate::table::{Table, TableSpec};
use crate::time::Timestamp;
use crate::view::Budget;
use crate::zone::Zone;

/// Most nodes of a plan. A view stands in a plan as what it is made of, and views over views could double it with each.
const NODES_MAX: usize = 500;

impl Engine {
    pub(super) fn create_table(&self, create: &CreateTable) -> Result<Answer, Vec<Error>> {
        let name = &create.name.text;
        if create.if_not_exists && self.catalog().contains(name) {
            return Ok(Answer::Done(vec![format!("table {name} is there already")]));
        }
        let spec = TableSpec::new(create, &self.session.state())?;
        let notices = spec.notices.iter().map(|notice| format!("table {name}: {notice}")).collect();
        let table = Table::new(spec);
        let mut catalog = self.catalog_mut();
        let created = catalog.create_table(name, Arc::clone(&table), create.or_replace, Timestamp::now());
        created.map_err(|error| one(error.at(create.name.span)))?;
        self.register(name, Arc::clone(&table) as _, table).map_err(one)?;
        Ok(Answer::Done(notices))
    }

    pub(super) async fn create_view(&self, create: &CreateView) -> Result<Answer, Vec<Error>> {
        self.make_view(create, &Lateness::new()).await
    }

    /// Makes a view over tables whose lateness is as in `before`; where that says nothing, as it is now.
    pub(super) async fn make_view(&self, create: &CreateView, before: &Lateness) -> Result<Answer, Vec<Error>> {
        let name = &create.name.text;
        if create.if_not_exists && self.catalog().contains(name) {
            return Ok(Answer::Done(vec![format!("view {name} is there already")]));
        }
        let options = ViewOptions::read(&create.options)?;
        let emit = emit(create, &options);
        let plan = self.logical(&create.query).await.map_err(one)?;
        // Planned once to the end, so that what cannot run is refused here and not when it is read.
        let lateness = lateness(&plan, before);
        let physical = self.physical(&plan, emission(emit, &lateness)).await;
        let (physical, state) = physical.map_err(|error| one(sql::explain_plan(error, &create.query)))?;
        // Planning may have taken so long that nobody waits for the view any more: then nothing is made.
        tokio::task::yield_now().await;
        let budget = Budget::of(&options);
        let query = Query { name: Some(name.clone()), plan: physical, state, budget };
        let reads = self.reads(&create.query).map_err(one)?;
        let notices = query.notices().to_vec();
        let retention = usize::try_from(options.retention).unwrap_or(usize::MAX);
        let kept = match &self.answers {
            Some(_) => Some(RunningView::new(name, query, &plan, emit, &lateness, retention).map_err(one)?),
            None => None,
        };
        let live = kept.as_ref().map(|kept| Arc::clone(&kept.live));
        let told = notices.iter().map(|notice| format!("view {name}: {notice}")).collect();
        let (text, query) = (create.text.clone(), create.query.to_string());
        let view = Arc::new(View { name: name.clone(), text, query, plan: plan.clone(), emit, lateness, budget, notices, kept });
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
                let last_barrier = self.last_barrier.lock().unwrap_or_else(PoisonError::into_inner);
                let over = self.crash_guard.get().map(|crash_guard| (Arc::clone(crash_guard), self.watched_as(name)));
                kept.run(None, *last_barrier, over)
            };
            let tables = tables.map_err(|error| {
                // It would stay without ever running, and without being kept.
                let _ = self.drop(DropTarget::View, std::slice::from_ref(&create.name), true, true);
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
    pub(super) async fn answer(&self, query: &ast::Query) -> Result<Query> {
        let Some(answers) = &self.answers else { return self.query(query, Emit::default()).await };
        let plan = self.logical_in(answers, query).await?;
        let state = answers.state();
        let plan = state.create_physical_plan(&plan).await.map_err(|error| sql::explain_plan(error.into(), query))?;
        Ok(Query { name: None, plan, state, budget: Budget::default() })
    }

    /// A query whose changes are followed; one of a whole view follows that view.
    pub(super) async fn subscribe(&self, query: &ast::Query) -> Result<Answer> {
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

    pub(super) async fn view_query(&self, view: &View) -> Result<Query> {
        let (plan, state) = self.physical(&view.plan, view.emission()).await?;
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
            sql::explain_error(error, &query, KnownNames { tables: &tables, functions: &functions })
        })?;
        let mut names = HashSet::new();
        if let Some(name) = plan.schema().fields().iter().map(|field| field.name()).find(|name| !names.insert(*name)) {
            return Err(Error::new(Code::Query, format!("'{name}' is twice in the result"))
                .hint("give one of them another name with AS, or name the columns in the place of `*`"));
        }
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

    async fn physical(&self, plan: &LogicalPlan, emit: Emit) -> Result<(Arc<dyn ExecutionPlan>, SessionState)> {
        let state = plan::session(self.session.state(), |config| config.with_extension(Arc::new(emit)));
        Ok((state.create_physical_plan(plan).await?, state))
    }

    pub(super) async fn explain(&self, statement: &StatementKind, analyze: bool) -> Result<Answer, Vec<Error>> {
        if analyze {
            return Err(one(Error::new(Code::NotYet, "EXPLAIN ANALYZE of an endless query never ends")
                .hint("use EXPLAIN for the plan, and SHOW STATUS for live counters")));
        }
        let (query, emit) = match statement {
            StatementKind::Query(query) => (query, Emit::default()),
            StatementKind::Subscribe(query) => (query, changes()),
            StatementKind::CreateView(create) => (&create.query, emit(create, &ViewOptions::read(&create.options)?)),
            _ => return Err(one(Error::bug("only a query or a CREATE VIEW is parsed behind EXPLAIN"))),
        };
        let query = self.query(query, emit).await.map_err(one)?;
        let text = match query.continuous() {
            Some(continuous) => continuous.plan().describe().map_err(one)?,
            None => {
                let bare = yielding::bare(Arc::clone(&query.plan)).map_err(|error| one(error.into()))?;
                plan::readable(&datafusion::physical_plan::displayable(bare.as_ref()).indent(false).to_string())
            }
        };
        column("plan", text.lines().map(str::to_string)).map_err(one)
    }

    pub(super) fn drop(&self, what: DropTarget, names: &[Name], if_exists: bool, cascade: bool) -> Result<Answer> {
        let mut done = Vec::new();
        for name in names {
            let mut catalog = self.catalog_mut();
            let dropped = match what {
                DropTarget::Table => catalog.drop_table(&name.text, if_exists, cascade),
                DropTarget::View => catalog.drop_view(&name.text, if_exists, cascade),
            };
            for gone in dropped.map_err(|error| error.at(name.span))? {
                self.deregister(&gone)?;
                done.push(format!("{gone} dropped"));
            }
        }
        Ok(Answer::Done(done))
    }

    /// Event streams are read, never written (the protocol has no way back).
    pub(super) fn refuse_insert(&self, table: &Name) -> Error {
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

    /// `SET TIME ZONE` changes how instants are printed. A server prints for many, so there it has no place.
    fn set_zone(&self, name: &Name, value: &str) -> Result<Answer> {
        if self.answers.is_some() {
            return Err(Error::new(
                Code::NotAllowed,
                "SET TIME ZONE is for what one program prints: a server shows all times in UTC",
            )
            .hint("ask for the time in a zone: ts AT TIME ZONE 'Europe/Berlin'")
            .at(name.span));
        }
        let zone = match value.to_ascii_lowercase().as_str() {
            "default" | "local" => Zone::UTC,
            _ => Zone::read(value).map_err(|error| error.at(name.span))?,
        };
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
        Ok(Answer::Done(Vec::new()))
    }

    pub(super) async fn set(&self, name: &Name, value: &str) -> Result<Answer> {
        if matches!(name.text.as_str(), "timezone" | "time_zone" | "datafusion.execution.time_zone") {
            return self.set_zone(name, value);
        }
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

    pub(super) fn unknown(&self, name: &Name) -> Error {
        self.catalog().unknown("table or view", &name.text).at(name.span)
    }
}

/// The lateness of the tables below a plan: as in `before`, else as it is now.
fn lateness(plan: &LogicalPlan, before: &Lateness) -> Lateness {
    let of = |table: &Arc<Table>| {
        let spec = table.spec();
        (spec.name.clone(), before.get(&spec.name).copied().unwrap_or(spec.allowed_lateness))
    };
    plan::tables(plan).iter().map(of).collect()
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

pub(super) fn statement(query: &ast::Query) -> SqlStatement {
    SqlStatement::Statement(Box::new(ast::Statement::Query(Box::new(query.clone()))))
}
