//! The front door: statements in, answers out. Execute, query, subscribe, stop.

use std::sync::{Arc, RwLock};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as SqlStatement;
use futures::StreamExt;
use sqlparser::ast;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::catalog::Catalog;
use crate::change::Changes;
use crate::error::{Code, Error, Result, nearest};
use crate::operator::Message;
use crate::options::{self, ViewOptions};
use crate::plan::{self, Emit};
use crate::sql::{self, CreateTable, CreateView, Kind, Name, Object, Show, Statement};
use crate::table::{Spec, Table};
use crate::time::TimestampArray;
use crate::view::{self, ContinuousExec, Progress};

/// Tables, views and the session they live in.
pub struct Engine {
    session: SessionContext,
    catalog: RwLock<Catalog<Arc<Table>, Arc<View>>>,
}

/// A named query over tables and other views.
#[derive(Debug)]
pub struct View {
    pub name: String,
    pub text: String,
    pub plan: LogicalPlan,
    pub emit: Emit,
}

/// What a statement gives back.
pub enum Answer {
    /// Something was made, changed or dropped; each sentence is worth telling.
    Done(Vec<String>),
    /// Rows that were there already.
    Rows(RecordBatch),
    /// A query, planned and not yet running.
    Query(Query),
}

/// A planned query. [`Engine::open`] runs it.
#[derive(Debug)]
pub struct Query {
    /// The view's name where the query is a whole view.
    pub name: Option<String>,
    pub plan: Arc<dyn ExecutionPlan>,
    state: SessionState,
}

/// A running query: its changes as they come, until the feeds end or it is dropped.
pub struct Output {
    pub name: Option<String>,
    pub schema: SchemaRef,
    /// Whether results are corrected later, so that weights matter.
    pub changelog: bool,
    pub changes: mpsc::Receiver<Result<Changes>>,
    /// How far a continuous query has come; `None` for one that is answered at once.
    pub progress: Option<Arc<Progress>>,
    task: AbortHandle,
}

/// Batches of results that may wait for their reader: then the query waits, and with it the feed.
const OUTPUT_QUEUE: usize = 8;

impl Drop for Output {
    fn drop(&mut self) {
        self.task.abort();
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
}

impl Engine {
    pub fn new() -> Result<Self> {
        let config = SessionConfig::new().with_information_schema(true).with_target_partitions(1);
        let session = SessionContext::new_with_config(config);
        view::register(&session)?;
        Ok(Engine { session, catalog: RwLock::default() })
    }

    /// Runs one statement. All errors of the statement, not only the first.
    pub async fn execute(&self, statement: &Statement) -> Result<Answer, Vec<Error>> {
        match &statement.kind {
            Kind::CreateTable(create) => self.create_table(create),
            Kind::CreateView(create) => self.create_view(create).await,
            Kind::Query(query) => self.query(query, Emit::default()).await.map(Answer::Query).map_err(one),
            Kind::Subscribe(query) => self.query(query, changes()).await.map(Answer::Query).map_err(one),
            Kind::Explain { statement, analyze } => self.explain(statement, *analyze).await.map_err(one),
            Kind::Drop { what, names, if_exists, cascade } => self.drop(*what, names, *if_exists, *cascade).map_err(one),
            Kind::Show(show) => self.show(show).map_err(one),
            Kind::Describe(name) => self.describe(name).map_err(one),
            Kind::Insert { table } => Err(one(self.refuse_insert(table))),
            Kind::Set { name, value } => self.set(name, value).await.map_err(one),
        }
    }

    /// The views that no other view reads, in the order they were made.
    pub async fn top_views(&self) -> Result<Vec<Query>> {
        let views: Vec<Arc<View>> = {
            let catalog = self.catalog.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            catalog.views().filter(|(name, _)| catalog.readers(name).is_empty()).map(|(_, view)| Arc::clone(view)).collect()
        };
        let mut queries = Vec::new();
        for view in views {
            queries.push(self.view_query(&view).await?);
        }
        Ok(queries)
    }

    /// Runs queries together: all of them see every event of the feeds they share.
    pub fn open(&self, queries: &[Query]) -> Result<Vec<Output>> {
        let mut tables: Vec<Arc<Table>> = Vec::new();
        let mut outputs = Vec::new();
        for query in queries {
            let context = query.state.task_ctx();
            let (sender, changes) = mpsc::channel(OUTPUT_QUEUE);
            let (changelog, progress, task) = match query.continuous() {
                Some(continuous) => {
                    let (run, read) = continuous.run(context)?;
                    tables.extend(read);
                    (continuous.plan().is_changelog(), Some(run.progress()), tokio::spawn(follow(run, sender)))
                }
                None => (false, None, tokio::spawn(answer(execute_stream(Arc::clone(&query.plan), context)?, sender))),
            };
            let (name, schema, task) = (query.name.clone(), query.schema(), task.abort_handle());
            outputs.push(Output { name, schema, changelog, changes, progress, task });
        }
        for table in tables {
            table.start();
        }
        Ok(outputs)
    }

    /// The tables in the order they were made.
    pub fn tables(&self) -> Vec<Arc<Table>> {
        let catalog = self.catalog.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        catalog.tables().map(|(_, table)| Arc::clone(table)).collect()
    }

    /// The DataFusion session, for programs that go on by themselves.
    pub fn session(&self) -> &SessionContext {
        &self.session
    }
}
