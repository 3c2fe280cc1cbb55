//! Statements over REST: run them, or only check them.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Json;
use axum::body::{Body as Bytes, Bytes as Chunk};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures::stream::{Stream, unfold};
use futures::{StreamExt, TryFutureExt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::app::changes_definitions;
use super::auth::{Identity, Scope};
use super::body::Body;
use super::limits::Permit;
use super::listen::Shutdown;
use super::problem::{Mistake, Problem, Result, Stretch};
use super::rows::{self, Form, RowsWriter};
use super::stream::Visitor;
use crate::change::Changes;
use crate::engine::{Answer, Attempts, Engine, Output, Purpose, Query};
use crate::error::{Code, Error};
use crate::format::encode::{Change, JsonRows};
use crate::format::infer::field_type;
use crate::options::Value;
use crate::sql::{self, StatementKind};
use crate::time::TimestampArray;
use crate::view::{Followed, Live};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(run)).routes(routes!(validate))
}

/// The longest text of statements.
pub const SQL_BYTES_MAX: usize = 64 * 1024;

/// Rows of one answer in JSON; the other forms go on without a bound.
const ROWS_MAX: u64 = 10_000;

/// A query over an endless feed is answered with what came until then.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Planning a query has so long, also where its rows have less.
const PLANNING_TIME_MIN: Duration = Duration::from_secs(2);

/// A query that is told to end by its timeout has so long to do it: then the answer goes out without its rows.
const ENDING_TIME_MAX: Duration = Duration::from_millis(500);

/// Bytes of the rows of one answer in JSON, which is put together before it is sent.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Rows that are written at once into such an answer.
const ROWS_AT_ONCE: u64 = 64;

/// Statements to run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SqlPost)]
struct Script {
    /// One or more statements, separated by `;`.
    #[schema(example = "SELECT * FROM rolling_metrics LIMIT 5")]
    sql: String,
    /// At most so many rows of each query; default 1000, at most 10000. In other forms than JSON: end after so many; default: never.
    limit: Option<u64>,
    /// End each query after this time, such as `5s`; default 10 s, at most 5 minutes. In other forms than JSON only its planning.
    timeout: Option<String>,
}

/// What the statements gave, one after the other.
#[derive(Serialize, ToSchema)]
#[schema(as = SqlResults)]
struct Results {
    results: Vec<Outcome>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SqlOutcome)]
struct Outcome {
    /// The statement as written, but for secrets in it.
    statement: String,
    /// What is worth knowing about it, as sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<ResultColumn>>,
    /// Rows as objects. Those of a query whose results are corrected later are changes: `op`, `before`, `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    rows: Option<Box<RawValue>>,
    /// Why there may be more rows: `limit`, `timeout`, or `size` where they are more than 64 MiB; `end` if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SqlColumn)]
struct ResultColumn {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
}

/// Runs statements. All of them are parsed before the first one runs; the first that fails ends the rest.
///
/// With another form than JSON in `Accept`, such as `application/x-ndjson`, the rows of the last query come as they are there, and go
/// on until it ends or the client leaves.
#[utoipa::path(post, operation_id = "run_sql", path = "/sql", tag = "sql", request_body = Script, responses(
    (status = 200, description = "What they gave, in the form that Accept asks for", content(
        (Results = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.arrow.stream"),
    )),
    (status = 403, body = Problem, description = "One of them needs another scope: `write` to make or drop, `admin` to SET; none has run"),
    (status = 404, body = Problem, description = "What one of them is about is not there; those before it have run"),
    (status = 406, body = Problem, description = "The rows have no such form"),
    (status = 409, body = Problem, description = "A name is taken, or what is to be dropped is in use; those before it have run"),
    (status = 422, body = Problem, description = "A statement is wrong; those before it have run"),
    (status = 502, body = Problem, description = "A feed that a query reads fails"),
    (status = 503, body = Problem, description = "Other queries are being answered, and no thread became free in time"),
))]
async fn run(
    State(app): State<Arc<App>>,
    Extension(identity): Extension<Identity>,
    Extension(shutdown): Extension<Shutdown>,
    parts: Parts,
    Body(script): Body<Script>,
) -> Result<Response> {
    let form = Form::negotiate(None, parts.headers.get(ACCEPT))?;
    // A stranger learns nothing, not even from what is wrong with his statements.
    identity.demand(&Scope::Read)?;
    let statements = parse(&script.sql)?;
    statements.iter().try_for_each(|statement| identity.demand(&needed(&statement.kind)))?;
    let timeout = match &script.timeout {
        Some(text) => Duration::read(text)
            .map_err(|reason| {
                let error = Error::new(Code::BadOption, format!("'{text}' {reason}")).hint(format!("give {}", Duration::EXPECTS));
                Problem::from(error).at("/timeout")
            })?
            .min(TIMEOUT_MAX),
        None => TIMEOUT_DEFAULT,
    };
    let limit = script.limit.unwrap_or(1000).min(ROWS_MAX);
    let mut results = Vec::new();
    let count = statements.len();
    for (index, statement) in statements.iter().enumerate() {
        let begun = Instant::now();
        let (deadline, planned_by) = (begun + timeout, begun + timeout.max(PLANNING_TIME_MIN));
        let executed = app.execute(statement, planned_by).map_err(|errors| wrong(errors, statement));
        let answer = match changes_definitions(&statement.kind) {
            // What is begun is also kept.
            true => executed.await?,
            false => shutdown.or(executed).await?,
        };
        if index + 1 == count && form != Form::Json {
            return shutdown.or(stream(&app, answer, form, script.limit, &parts)).await;
        }
        let mut outcome = shutdown.or(outcome(&app, answer, limit, deadline)).await?;
        outcome.statement = match &statement.kind {
            StatementKind::CreateTable(create) => create.shown(),
            _ => statement.text.clone(),
        };
        results.push(outcome);
    }
    Ok(Json(Results { results }).into_response())
}

/// What a token must be allowed so that it may run a statement.
fn needed(kind: &StatementKind) -> Scope {
    match kind {
        StatementKind::CreateTable(_)
        | StatementKind::CreateView(_)
        | StatementKind::Drop { .. }
        | StatementKind::Insert { .. } => Scope::Write,
        // A setting is that of everybody.
        StatementKind::Set { .. } => Scope::Admin,
        StatementKind::Query(_)
        | StatementKind::Subscribe(_)
        | StatementKind::Explain { .. }
        | StatementKind::Show(_)
        | StatementKind::Describe(_) => Scope::Read,
    }
}

fn parse(text: &str) -> Result<Vec<sql::Statement>> {
    if text.len() > SQL_BYTES_MAX {
        let error = Error::new(Code::TooLarge, format!("the statements are longer than {SQL_BYTES_MAX} bytes"))
            .hint("send them in parts");
        return Err(Problem::from(error).at("/sql"));
    }
    let (statements, errors) = sql::parse(text);
    match errors.is_empty() {
        true => Ok(statements),
        false => Err(in_sql(errors.into())),
    }
}

fn wrong(errors: Vec<Error>, statement: &sql::Statement) -> Problem {
    in_sql(errors.into_iter().map(|error| error.at(statement.span)).collect::<Vec<_>>().into())
}

fn in_sql(problem: Problem) -> Problem {
    problem.point(|_| Some("/sql".into()))
}

async fn outcome(app: &App, answer: Answer, limit: u64, deadline: Instant) -> Result<Outcome> {
    let mut outcome = Outcome { statement: String::new(), notices: Vec::new(), columns: None, rows: None, ended_by: None };
    match answer {
        Answer::Done(notices) => outcome.notices = notices,
        Answer::Rows(batch) => {
            outcome.columns = Some(columns(batch.schema_ref()));
            outcome.rows = Some(rows::array(&batch)?);
            outcome.ended_by = Some("end");
        }
        Answer::Query(query) => {
            outcome.notices = query.notices().to_vec();
            outcome.columns = Some(columns(&query.schema()));
            let (bytes, ended_by) = match query.continuous() {
                Some(_) => follow_until(open(app, *query)?, limit, deadline).await?,
                None => collected(app, *query, limit, deadline).await?,
            };
            (outcome.rows, outcome.ended_by) = (Some(rows::raw(&bytes)?), Some(ended_by));
        }
        Answer::Follow(live) => {
            let snapshot = live.snapshot()?.rows;
            let shown = usize::try_from(limit).unwrap_or(usize::MAX).min(snapshot.num_rows());
            let snapshot = snapshot.slice(0, shown);
            outcome.columns = Some(columns(snapshot.schema_ref()));
            outcome.rows = Some(rows::array(&snapshot)?);
            outcome.ended_by = Some("end");
            outcome.notices.push(format!(
                "these are the rows as they are; the changes come as NDJSON (Accept: application/x-ndjson) or at /v1/views/{}/stream",
                live.name
            ));
        }
    }
    Ok(outcome)
}

fn columns(schema: &arrow::datatypes::Schema) -> Vec<ResultColumn> {
    schema.fields().iter().map(|field| ResultColumn { name: field.name().clone(), data_type: field_type(field) }).collect()
}

/// The first rows or changes of a query over feeds as a JSON array, and why no more.
async fn follow_until(mut output: Output, limit: u64, deadline: Instant) -> Result<(Vec<u8>, &'static str)> {
    let mut collecting = Collecting::new(RowsWriter::of(Form::Json, &output.schema, output.changelog)?, limit);
    let ended_by = loop {
        if let Some(full) = collecting.full() {
            break full;
        }
        match timeout_at(deadline, output.next_changes()).await {
            Err(_) => break "timeout",
            Ok(None) => break "end",
            Ok(Some(changes)) => collecting.add(&changes?)?,
        }
    };
    Ok((collecting.finish()?, ended_by))
}

/// The same of a query that DataFusion answers by itself, as a question.
async fn collected(app: &App, query: Query, limit: u64, deadline: Instant) -> Result<(Vec<u8>, &'static str)> {
    let engine = Arc::clone(&app.engine);
    let work = async move {
        let mut collecting = Collecting::new(RowsWriter::of(Form::Json, &query.schema(), false)?, limit);
        let mut rows = engine.rows(&query)?;
        let ended_by = loop {
            if let Some(full) = collecting.full() {
                break full;
            }
            match timeout_at(deadline, rows.next()).await {
                Err(_) => break "timeout",
                Ok(None) => break "end",
                Ok(Some(rows)) => {
                    let rows = rows.map_err(Error::from)?;
                    let times = TimestampArray::from_value(0, rows.num_rows());
                    collecting.add(&Changes::inserts(rows, times))?;
                }
            }
        };
        Ok::<_, Error>((collecting.finish()?, ended_by))
    };
    Ok(app.engine.ask(Purpose::Reader, deadline.max(Instant::now()) + ENDING_TIME_MAX, work).await??)
}

/// Rows on their way into one answer.
struct Collecting {
    writer: RowsWriter,
    bytes: Vec<u8>,
    left: u64,
}

impl Collecting {
    fn new(writer: RowsWriter, limit: u64) -> Self {
        Collecting { writer, bytes: Vec::new(), left: limit }
    }

    /// Why no more rows are taken.
    fn full(&self) -> Option<&'static str> {
        match (self.left, self.bytes.len()) {
            (0, _) => Some("limit"),
            (_, bytes) if bytes > ANSWER_BYTES_MAX => Some("size"),
            _ => None,
        }
    }

    fn add(&mut self, changes: &Changes) -> Result<(), Error> {
        let mut start = 0;
        // Wide rows are written a few at a time, since only their text tells how large they are.
        while start < changes.len() && self.full().is_none() {
            let (part, count) = changes.slice(start, changes.len() - start).first(self.left.min(ROWS_AT_ONCE));
            start += part.len();
            self.left -= count;
            self.bytes.extend(self.writer.write(&part)?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>, Error> {
        self.bytes.extend(self.writer.finish()?);
        Ok(self.bytes)
    }
}

fn open(app: &App, query: Query) -> Result<Output> {
    app.engine.open(&[query])?.pop().ok_or_else(|| Error::bug("a query has no output").into())
}

/// The rows of the last statement as they come.
async fn stream(app: &App, answer: Answer, form: Form, limit: Option<u64>, parts: &Parts) -> Result<Response> {
    let left = limit.unwrap_or(u64::MAX);
    match answer {
        Answer::Done(notices) => {
            let line = serde_json::json!({ "notices": notices }).to_string() + "\n";
            Ok(rows::body(Form::Ndjson.content_type(), line.into_bytes()))
        }
        Answer::Rows(rows) => rows::answer(form, &rows, rows.num_rows(), ""),
        Answer::Query(query) if form == Form::Arrow && query.is_changelog() => Err(not_as_rows(form)),
        Answer::Query(query) => {
            let place = app.streams.place(&Visitor::of(parts))?;
            let output = open(app, *query)?;
            let writer = RowsWriter::of(form, &output.schema, output.changelog)?;
            let chunks = unfold(Some((output, writer, left)), move |state| async move {
                let (mut output, mut writer, left) = state?;
                let next = if left == 0 { None } else { output.next_changes().await };
                let Some(changes) = next else { return Some((writer.finish().map(Chunk::from), None)) };
                let written = changes.and_then(|changes| {
                    let (changes, count) = changes.first(left);
                    Ok((writer.write(&changes)?, count))
                });
                match written {
                    Ok((bytes, count)) => Some((Ok(Chunk::from(bytes)), Some((output, writer, left - count)))),
                    Err(error) if form == Form::Ndjson => Some((Ok(failed(&error)), None)),
                    // Nothing in the other forms says that rows are missing; an answer that is cut off does.
                    Err(error) => Some((Err(error), None)),
                }
            });
            Ok(endless(form, chunks, place, parts))
        }
        Answer::Follow(live) if form == Form::Ndjson => {
            let place = app.streams.place(&Visitor::of(parts))?;
            Ok(endless(form, follow(live, left)?, place, parts))
        }
        Answer::Follow(_) => Err(not_as_rows(form)),
    }
}

/// An answer that goes on until its rows end, the client leaves, or the server stops. It holds a place among the streams.
fn endless(
    form: Form,
    chunks: impl Stream<Item = Result<Chunk, Error>> + Send + 'static,
    place: Permit,
    parts: &Parts,
) -> Response {
    let shutdown = parts.extensions.get::<Shutdown>().cloned().unwrap_or_default();
    let chunks = chunks.inspect(move |_| _ = &place).take_until(async move { shutdown.begun().await });
    ([(CONTENT_TYPE, form.content_type())], Bytes::from_stream(chunks)).into_response()
}

/// Changes are no rows: a form that has no place for what a row is would show rows that were taken back.
fn not_as_rows(form: Form) -> Problem {
    let asked = form.content_type();
    Error::new(Code::NotAcceptable, format!("changes have no form that is '{asked}'"))
        .hint("ask for application/x-ndjson, or read the rows as they are with SELECT")
        .into()
}

/// An error in the middle of NDJSON, as its last line.
fn failed(error: &Error) -> Chunk {
    let line = serde_json::json!({ "error": error.message(), "code": error.code().to_string(), "hint": error.way_out() });
    Chunk::from(line.to_string() + "\n")
}

/// The rows of a view as `added`, then its changes, a line each.
fn follow(live: Arc<Live>, left: u64) -> Result<impl Stream<Item = Result<Chunk, Error>> + Send + 'static> {
    let snapshot = live.snapshot()?;
    let lines = JsonRows::new(&live.schema);
    let times = TimestampArray::from_value(0, snapshot.rows.num_rows());
    let first = Some(Changes::inserts(snapshot.rows, times));
    let start = (live.follow(snapshot.seq), lines, first, left);
    Ok(unfold(start, |(mut follower, lines, first, mut left)| async move {
        if left == 0 {
            return None;
        }
        let changes = match first {
            Some(changes) => changes,
            None => match follower.next().await {
                Followed::Entry(entry) => entry.changes.clone(),
                Followed::Dropped => return None,
                Followed::Gap { .. } => {
                    let error = Error::new(Code::Runtime, "this reader is too far behind: changes it has not read are forgotten")
                        .hint("read faster, or subscribe again: that begins with the rows as they are");
                    return Some((Ok(failed(&error)), (follower, lines, None, 0)));
                }
            },
        };
        let mut bytes = Vec::new();
        for change in Change::each(&changes).take(usize::try_from(left).unwrap_or(usize::MAX)) {
            lines.write_change(&changes.rows, change, &mut bytes);
            bytes.push(b'\n');
            left -= 1;
        }
        Some((Ok(Chunk::from(bytes)), (follower, lines, None, left)))
    }))
}

/// What is wrong with statements, without running them.
#[derive(Serialize, ToSchema)]
#[schema(as = SqlValidated)]
struct Validated {
    valid: bool,
    errors: Vec<Wrong>,
    /// What their author may not expect.
    notices: Vec<String>,
    /// The columns of the last query or view.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<Vec<ResultColumn>>,
    /// The operators of the last query or view over feeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SqlMistake)]
struct Wrong {
    code: String,
    #[serde(flatten)]
    mistake: Mistake,
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<Stretch>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SqlToValidate)]
struct Checked {
    #[schema(example = "CREATE VIEW v AS SELECT count(*) FROM metrics")]
    #[serde(alias = "query")]
    sql: String,
}

/// Checks statements against what there is: all errors with their places, nothing runs and nothing is made.
#[utoipa::path(post, operation_id = "validate_sql", path = "/sql/validate", tag = "sql", request_body = Checked, responses(
    (status = 200, body = Validated, description = "What is wrong with them"),
))]
async fn validate(State(app): State<Arc<App>>, Body(checked): Body<Checked>) -> Result<Json<Validated>> {
    if checked.sql.len() > SQL_BYTES_MAX {
        parse(&checked.sql)?;
    }
    let validated = app.tried(async move |trial: Engine| Ok(validated(&trial, &checked.sql).await));
    Ok(Json(validated.await?))
}

/// What is wrong with statements, which are run by an engine of their own.
async fn validated(trial: &Engine, text: &str) -> Validated {
    let (statements, mut errors, unread) = sql::parse_all(text);
    let mut attempts = Attempts::default();
    attempts.expect(&unread);
    let (mut notices, mut schema, mut plan) = (Vec::new(), None, None);
    for statement in &statements {
        match attempts.execute(trial, statement).await {
            Ok(Answer::Done(told)) => notices.extend(told),
            Ok(Answer::Query(query)) => {
                notices.extend(query.notices().iter().cloned());
                schema = Some(columns(&query.schema()));
                plan = query.continuous().and_then(|continuous| continuous.plan().describe().ok());
            }
            Ok(Answer::Rows(_) | Answer::Follow(_)) => {}
            Err(found) => errors.extend(found.into_iter().map(|error| error.at(statement.span))),
        }
        if let StatementKind::CreateView(create) = &statement.kind
            && let Some(view) = trial.view(&create.name.text)
        {
            schema = Some(columns(view.plan.schema().as_arrow()));
        }
    }
    let wrong = |error: &Error| Wrong {
        code: error.code().to_string(),
        mistake: Mistake::from(error),
        span: error.span().map(Stretch::from),
    };
    let valid = errors.is_empty();
    Validated { valid, errors: errors.iter().map(wrong).collect(), notices, schema, plan }
}
