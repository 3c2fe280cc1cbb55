//! What a table is, valid by construction: where its events come from, its columns, and which of them is the event time.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator as Op};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use sqlparser::ast;

use super::key::{self, column_named};
use crate::error::{Code, Error, Result, Span, nearest};
use crate::feed;
use crate::format::{self, Column, FieldName, Metadata, Origin};
use crate::operator::state;
use crate::options::{BadData, Connector, Format, TableOptions};
use crate::sql::{self, CreateTable, Origin as Declared};
use crate::time::EVENT_TIME;

/// A table over a feed.
pub struct TableSpec {
    pub name: String,
    /// All columns in their declared order; the event time carries the metadata key `streamgauge.event_time`.
    pub schema: SchemaRef,
    /// Where each column of `schema` comes from.
    pub columns: Vec<ColumnSource>,
    pub feed: feed::FeedSpec,
    pub format: format::FormatSpec,
    /// The columns that name a row, in the order of `schema`, for a table whose events say what a row is from now on; `None` where every event is a row of its own.
    pub key: Option<Vec<usize>>,
    /// Of a change feed that carries several tables of a database: the one to keep.
    pub source_table: Option<String>,
    pub time: EventTime,
    /// The watermark is the greatest event time seen minus this.
    pub delay: Duration,
    pub allowed_lateness: Duration,
    /// After so much silence the watermark goes on with the clock; `None` never.
    pub idle: Option<Duration>,
    /// How far an event time may lie ahead of the clock and still move the watermark; `None` however far.
    pub max_future: Option<Duration>,
    /// A connected feed without an event for so long is silent.
    pub expect_every: Option<Duration>,
    pub bad_data: BadData,
    /// Whether the feed ends by itself: a file, or an endpoint without reconnect.
    pub finite: bool,
    /// The statement that made the table, as written: it may hold secrets.
    pub text: String,
    /// The same for people, its secrets masked.
    pub shown: String,
    /// What a user should know about this table, as sentences.
    pub notices: Vec<String>,
}

/// Shows no secret.
impl std::fmt::Debug for TableSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spec").field("shown", &self.shown).field("feed", &self.feed).finish_non_exhaustive()
    }
}

impl TableSpec {
    /// The name of the table's part of a checkpoint.
    pub fn part_name(&self) -> String {
        format!("table/{}", self.name)
    }

    /// A hash of [`TableSpec::essence`].
    pub fn fingerprint(&self) -> String {
        state::fingerprint(&self.essence().map(|(_, text)| text).join(" "))
    }

    /// All that the rows and their times depend on, part by part: where the feed is, what is read from it, and how. A table that lives
    /// cannot take over a spec in which a part of this differs, and its state cannot either: whatever else an option says takes
    /// effect while the table lives, and state outlives it.
    pub fn essence(&self) -> [(&'static str, String); 7] {
        let TableSpec { name, schema, columns, feed, format, key, source_table, time, .. } = self;
        // As text that is the same in every process.
        let fields: Vec<_> = schema.fields().iter().map(|field| (field.name(), format::infer::field_type(field))).collect();
        let columns = columns.iter().map(|source| match source {
            ColumnSource::Decoded(at) => at.to_string(),
            ColumnSource::Generated(generated) => state::zoneless(&fmt_sql(generated.expr.as_ref()).to_string()),
        });
        let columns: Vec<String> = columns.collect();
        [
            ("name", name.clone()),
            ("endpoint", feed.place()),
            ("schema", format!("{fields:?} {columns:?}")),
            ("format", state::zoneless(&format!("{format:?}"))),
            ("primary key", format!("{key:?}")),
            ("table of the database", format!("{source_table:?}")),
            ("event time", format!("{time:?}")),
        ]
    }
}

/// Where a column's values come from.
#[derive(Debug)]
pub enum ColumnSource {
    /// The column at this index of `format.columns`.
    Decoded(usize),
    Generated(Generated),
}

/// A column computed from decoded ones; `expr` is over the schema of all of `format.columns`.
#[derive(Debug, Clone)]
pub struct Generated {
    pub expr: Arc<dyn PhysicalExpr>,
}

/// Which time a row belongs to.
#[derive(Debug)]
pub enum EventTime {
    /// When the event came in.
    Arrival,
    /// The decoded column at this index of `format.columns`.
    Column(usize),
    /// The generated column at this index of `columns`.
    Computed(usize),
}

impl TableSpec {
    /// The meaning of a `CREATE TABLE`; all errors, not only the first. Nothing is connected to. A [`feed::Policy`] among the session's
    /// extensions says what the feed may use and reach.
    pub fn new(create: &CreateTable, session: &SessionState) -> Result<TableSpec, Vec<Error>> {
        let options = TableOptions::read(&create.options).map_err(|errors| placed(errors, create))?;
        let mut errors = misplaced(create, &options);
        let policy = session.config().get_extension::<feed::Policy>().unwrap_or_default();
        let feed = keep(feed::FeedSpec::new(&options).and_then(|feed| feed.with_policy(policy)), &mut errors);
        let declared = keep(declared(create, &options), &mut errors);
        let (Some(feed), Some(declared)) = (feed, declared) else { return Err(placed(errors, create)) };
        let columns = keep(resolve(declared, session), &mut errors);
        let (Some(columns), true) = (columns, errors.is_empty()) else { return Err(placed(errors, create)) };
        let time = event_time(create, &options, &columns, session).map_err(|error| placed(vec![error], create))?;
        let key = key::of(create, &options, &columns).map_err(|error| placed(vec![error], create))?;
        Self::build(create, options, feed, columns, time, key).map_err(|errors| placed(errors, create))
    }

    fn build(
        create: &CreateTable,
        options: TableOptions,
        feed: feed::FeedSpec,
        mut columns: Columns,
        time: Time,
        key: Option<Vec<usize>>,
    ) -> Result<TableSpec, Vec<Error>> {
        for index in key.iter().flatten() {
            // What names a row is never NULL.
            columns.fields[*index] = Arc::new(columns.fields[*index].as_ref().clone().with_nullable(false));
            if let ColumnSource::Decoded(at) = columns.sources[*index] {
                columns.decoded[at].nullable = false;
            }
        }
        let mark = |index: usize, field: &FieldRef| match time.column == Some(index) {
            true => {
                let mut metadata = field.metadata().clone();
                metadata.insert(EVENT_TIME.into(), "true".into());
                Arc::new(field.as_ref().clone().with_metadata(metadata))
            }
            false => Arc::clone(field),
        };
        let fields: Vec<FieldRef> = columns.fields.iter().enumerate().map(|(index, field)| mark(index, field)).collect();
        // Rows that change have no windows, so that no time counts.
        let notices = if key.is_none() { notices(&columns, &time) } else { Vec::new() };
        let event_time = match time.column.map(|index| (index, &columns.sources[index])) {
            None => EventTime::Arrival,
            Some((_, ColumnSource::Decoded(at))) => EventTime::Column(*at),
            Some((index, ColumnSource::Generated(_))) => EventTime::Computed(index),
        };
        let endpoint = match (&options.endpoint, &options.path) {
            (Some(endpoint), _) => feed::masked("endpoint", &endpoint.to_string()),
            (None, path) => path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        };
        let decoded_time = match event_time {
            EventTime::Column(at) => Some(at),
            EventTime::Arrival | EventTime::Computed(_) => None,
        };
        let format = format::FormatSpec::new(
            options.format,
            options.framing,
            options.json_timestamp_format,
            endpoint,
            columns.decoded,
            decoded_time,
        )?;
        // For a file the clock has no say, and it is not listened to.
        let is_live = !feed.is_file();
        Ok(TableSpec {
            name: create.name.text.clone(),
            schema: Arc::new(Schema::new(fields)),
            columns: columns.sources,
            finite: feed.is_finite(),
            feed,
            format,
            key,
            source_table: options.table,
            time: event_time,
            delay: time.delay,
            allowed_lateness: options.allowed_lateness,
            idle: options.idle_timeout.on(),
            max_future: options.max_future.on().filter(|_| is_live),
            expect_every: options.expect_every.filter(|_| is_live),
            bad_data: options.bad_data,
            text: create.text.clone(),
            shown: create.shown(),
            notices,
        })
    }
}

impl TableSpec {
    /// The event time in words, for `EXPLAIN` and `SHOW STATUS`.
    pub fn time_text(&self) -> String {
        match self.schema.fields().iter().find(|field| field.metadata().contains_key(EVENT_TIME)) {
            Some(field) => format!("event time {}, delay {}", field.name(), humantime::format_duration(self.delay)),
            None => "time of arrival".into(),
        }
    }

    /// The names of the key's columns, separated by commas; `None` for a table without.
    pub fn key_text(&self) -> Option<String> {
        let names = |key: &Vec<usize>| key.iter().map(|index| self.schema.field(*index).name().as_str()).collect::<Vec<_>>();
        self.key.as_ref().map(|key| names(key).join(", "))
    }
}

/// Errors without a place of their own point at the option they begin with, or at the table's name.
fn placed(errors: Vec<Error>, create: &CreateTable) -> Vec<Error> {
    let option = |error: &Error| {
        let name = error.message().strip_prefix("option '")?.split('\'').next()?;
        create.options.iter().find(|given| given.name.eq_ignore_ascii_case(name))?.span
    };
    errors.into_iter().map(|error| option(&error).into_iter().fold(error, Error::at).at(create.name.span)).collect()
}

/// `path` belongs to files and `endpoint` to servers: a table that has the other's was meant differently.
fn misplaced(create: &CreateTable, options: &TableOptions) -> Vec<Error> {
    let (connector, other, wrong) = match options.connector {
        Connector::Sse => ("sse", "file", &["path"][..]),
        Connector::File => ("file", "sse", &["endpoint", "url"][..]),
    };
    let given = create.options.iter().filter(|given| wrong.iter().any(|name| given.name.eq_ignore_ascii_case(name)));
    let error = |name: &str| {
        Error::new(Code::BadOption, format!("option '{name}' means nothing to connector '{connector}'"))
            .hint(format!("leave it out, or say connector = '{other}'"))
    };
    given.map(|given| error(&given.name)).collect()
}

fn keep<T>(result: Result<T, Vec<Error>>, errors: &mut Vec<Error>) -> Option<T> {
    result.map_err(|found| errors.extend(found)).ok()
}

/// A column as declared: decoded from the event, or computed.
enum DeclaredValue {
    /// The origin, and the names of the payload's fields where they are other than the type says: the column's, and those inside.
    Decoded(Origin, Option<(FieldName, Vec<FieldName>)>),
    Generated(Box<ast::Expr>, Option<DataType>, Span),
}

type DeclaredColumn = (FieldRef, DeclaredValue);

fn declared(create: &CreateTable, options: &TableOptions) -> Result<Vec<DeclaredColumn>, Vec<Error>> {
    let payload = create.columns.iter().any(|column| matches!(column.origin, Declared::Payload));
    let value = |data_type: FieldRef, origin| {
        (Arc::new(data_type.as_ref().clone().with_name("value")), DeclaredValue::Decoded(origin, None))
    };
    if options.json_unstructured {
        if options.format.is_change_feed() {
            return Err(vec![
                Error::new(Code::BadOption, "option 'json.unstructured': the rows of a change feed have columns")
                    .hint("declare the columns that you need, and leave the option out"),
            ]);
        }
        let declared = create.columns.iter().filter(|column| matches!(column.origin, Declared::Payload)).collect::<Vec<_>>();
        if let [column] = declared[..]
            && column.name.text == "value"
            && column.field().is_ok_and(|field| field.as_ref().is_some_and(format::is_json))
        {
            return fields(create, Vec::new(), Origin::Whole);
        }
        if payload {
            return Err(vec![
                Error::new(Code::BadOption, "with json.unstructured the payload is one column, 'value JSON'")
                    .hint("leave the payload columns out, or the option"),
            ]);
        }
        return fields(
            create,
            vec![value(sql::arrow_type(&ast::DataType::JSON).map_err(|error| vec![error])?, Origin::Whole)],
            Origin::Payload,
        );
    }
    match options.format {
        format if format.is_change_feed() && create.columns.is_empty() => Err(vec![
            Error::new(Code::Query, format!("table '{}' has no columns", create.name))
                .hint("declare the columns of the database's table that you need, and its PRIMARY KEY"),
        ]),
        Format::RawString if !payload => {
            fields(create, vec![value(Arc::new(Field::new("value", DataType::Utf8View, true)), Origin::Payload)], Origin::Payload)
        }
        Format::Json if create.columns.is_empty() => Err(vec![
            Error::new(Code::Query, format!("table '{}' has no columns", create.name))
                .hint("declare the fields to decode, or set 'json.unstructured' = 'true' for one column 'value JSON'"),
        ]),
        Format::RawString | Format::Json | Format::Debezium | Format::Wal2json => fields(create, Vec::new(), Origin::Payload),
    }
}

/// The declared columns after those in `columns`; the ones of the payload come from `payload`.
fn fields(create: &CreateTable, mut columns: Vec<DeclaredColumn>, payload: Origin) -> Result<Vec<DeclaredColumn>, Vec<Error>> {
    let mut errors = Vec::new();
    for column in &create.columns {
        let name = &column.name.text;
        if columns.iter().any(|(field, _)| field.name() == name) {
            errors.push(
                Error::new(Code::Exists, format!("column '{name}' is declared twice"))
                    .hint("keep one of the two")
                    .at(column.span),
            );
            continue;
        }
        let given = match &column.origin {
            Declared::Payload => Ok(DeclaredValue::Decoded(payload, Some(column.keys()))),
            Declared::Metadata { key, span } => Metadata::from_name(key)
                .map(|metadata| DeclaredValue::Decoded(Origin::Metadata(metadata), None))
                .map_err(|error| error.at(*span)),
            Declared::Generated(expr) => Ok(DeclaredValue::Generated(expr.clone(), None, column.span)),
        };
        match (column.field(), given) {
            (Err(error), _) | (_, Err(error)) => errors.push(error.at(column.span)),
            (Ok(None), Ok(given @ DeclaredValue::Generated(..))) => {
                columns.push((Arc::new(Field::new(name, DataType::Null, true)), given))
            }
            (Ok(None), Ok(DeclaredValue::Decoded(..))) => errors.push(
                Error::new(Code::Type, format!("column '{name}' has no type"))
                    .hint(format!("write {name} TEXT, for example"))
                    .at(column.span),
            ),
            (Ok(Some(field)), Ok(DeclaredValue::Generated(expr, _, span))) => {
                let data_type = field.data_type().clone();
                columns.push((Arc::new(field), DeclaredValue::Generated(expr, Some(data_type), span)));
            }
            (Ok(Some(field)), Ok(given)) => columns.push((Arc::new(field), given)),
        }
    }
    if errors.is_empty() { Ok(columns) } else { Err(errors) }
}

pub(super) struct Columns {
    /// One a column of the table.
    pub(super) fields: Vec<FieldRef>,
    pub(super) sources: Vec<ColumnSource>,
    /// One a decoded column.
    decoded: Vec<Column>,
}

/// Plans the generated columns over the decoded ones.
fn resolve(declared: Vec<DeclaredColumn>, session: &SessionState) -> Result<Columns, Vec<Error>> {
    // The decoder goes by the payload's spelling, the generated columns by that of SQL; both by position.
    let (mut decoded, mut fields) = (Vec::new(), Vec::new());
    for (field, given) in &declared {
        if let DeclaredValue::Decoded(origin, keys) = given {
            let column = Column::from_field(field, *origin);
            decoded.push(match keys {
                Some((FieldName { name, exact }, keys)) => {
                    Column { name: name.clone(), exact: *exact, keys: keys.clone(), ..column }
                }
                None => column,
            });
            fields.push(Arc::clone(field));
        }
    }
    let schema = DFSchema::try_from(Schema::new(fields)).map_err(|error| vec![error.into()])?;
    let mut columns = Columns { fields: Vec::new(), sources: Vec::new(), decoded };
    let mut errors = Vec::new();
    let mut next = 0;
    for (field, given) in declared {
        match given {
            DeclaredValue::Decoded(..) => {
                columns.fields.push(field);
                columns.sources.push(ColumnSource::Decoded(next));
                next += 1;
            }
            DeclaredValue::Generated(expr, data_type, span) => match generate(&field, &expr, data_type, &schema, session) {
                Ok((field, generated)) => {
                    columns.fields.push(field);
                    columns.sources.push(ColumnSource::Generated(generated));
                }
                Err(error) => errors.push(error.at(span)),
            },
        }
    }
    if errors.is_empty() { Ok(columns) } else { Err(errors) }
}

fn generate(
    field: &FieldRef,
    expr: &ast::Expr,
    data_type: Option<DataType>,
    schema: &DFSchema,
    session: &SessionState,
) -> Result<(FieldRef, Generated)> {
    let expr = logical(expr, schema, session)?;
    let expr = match &data_type {
        Some(data_type) => expr.cast_to(data_type, schema)?,
        None => expr,
    };
    let data_type = expr.get_type(schema)?;
    let physical = session.create_physical_expr(expr, schema)?;
    // An expression may fail to give a value whatever its column says.
    let field = Field::new(field.name(), data_type, true).with_metadata(field.metadata().clone());
    Ok((Arc::new(field), Generated { expr: physical }))
}

fn logical(expr: &ast::Expr, schema: &DFSchema, session: &SessionState) -> Result<Expr> {
    let mut expr = expr.clone();
    sql::zones(&mut expr);
    let expr = sqlparser::ast::ExprWithAlias { expr, alias: None };
    let expr = session.create_logical_expr_from_sql_expr(expr, schema)?;
    match sql::frozen(&expr) {
        Some(name) => Err(Error::new(Code::Query, format!("{name}() would stand still at the time at which the table is made"))
            .hint("declare the time of arrival: received_at TIMESTAMP METADATA FROM 'received_at'")),
        None => Ok(expr),
    }
}

/// The event time as declared: a column of the table, and how far rows may be out of order.
struct Time {
    column: Option<usize>,
    delay: Duration,
}

fn event_time(create: &CreateTable, options: &TableOptions, columns: &Columns, session: &SessionState) -> Result<Time> {
    let by_option = options.event_time_field.as_ref().map(|field| column_named(field, &columns.fields).1);
    let (name, span) = match (&create.watermark, by_option) {
        (Some(watermark), Some(field)) if watermark.column.text != field => {
            return Err(Error::new(
                Code::EventTime,
                format!("the event time is '{}' by WATERMARK FOR and '{field}' by event_time_field", watermark.column),
            )
            .hint("keep one of the two")
            .at(watermark.span));
        }
        (Some(watermark), _) => (watermark.column.text.as_str(), watermark.span),
        (None, Some(field)) => {
            let given = create.options.iter().find(|given| given.name.eq_ignore_ascii_case("event_time_field"));
            (field, given.and_then(|given| given.span).unwrap_or(create.name.span))
        }
        (None, None) => return Ok(Time { column: None, delay: options.watermark_delay.unwrap_or_default() }),
    };
    let names = || columns.fields.iter().map(|field| field.name().as_str());
    let Some(index) = names().position(|known| known == name) else {
        let error =
            Error::new(Code::UnknownColumn, format!("the event time '{name}' is no column of table '{}'", create.name.text));
        let hint =
            nearest(name, names()).map_or("name one of the table's columns".into(), |near| format!("did you mean '{near}'?"));
        return Err(error.hint(hint).at(span));
    };
    let data_type = columns.fields[index].data_type();
    if !matches!(data_type, DataType::Timestamp(..)) {
        return Err(Error::new(Code::EventTime, format!("the event time '{name}' is no TIMESTAMP")).hint(
            "declare the column as TIMESTAMP (numbers are read by 'json.timestamp_format'), or compute one: ts TIMESTAMP GENERATED ALWAYS AS (to_timestamp_millis(ms))",
        ).at(span));
    }
    let by_expr = match create.watermark.as_ref().and_then(|watermark| watermark.expr.as_ref()) {
        Some(expr) => Some(delay_of(expr, name, columns, session).map_err(|error| error.at(span))?),
        None => None,
    };
    let delay = match (by_expr, options.watermark_delay) {
        (Some(one), Some(other)) if one != other => {
            return Err(Error::new(
                Code::EventTime,
                "the watermark's delay is given twice, by WATERMARK FOR and by watermark_delay",
            )
            .hint("keep one of the two")
            .at(span));
        }
        (Some(delay), _) | (None, Some(delay)) => delay,
        (None, None) => Duration::ZERO,
    };
    Ok(Time { column: Some(index), delay })
}

/// The delay in `column - INTERVAL '5 seconds'`; the column alone has none.
fn delay_of(expr: &ast::Expr, column: &str, columns: &Columns, session: &SessionState) -> Result<Duration> {
    let schema = DFSchema::try_from(Schema::new(columns.fields.clone()))?;
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(found) if found.name == column);
    let nanos = match logical(expr, &schema, session)? {
        expr if is_column(&expr) => Some(0),
        Expr::BinaryExpr(binary) if binary.op == Op::Minus && is_column(&binary.left) => match *binary.right {
            Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if interval.months == 0 => {
                i64::from(interval.days).checked_mul(86_400_000_000_000).and_then(|days| days.checked_add(interval.nanoseconds))
            }
            _ => None,
        },
        _ => None,
    };
    match nanos.and_then(|nanos| u64::try_from(nanos).ok()) {
        Some(nanos) => Ok(Duration::from_nanos(nanos)),
        None => Err(Error::new(Code::EventTime, "a watermark is the event time minus a fixed interval")
            .hint(format!("write WATERMARK FOR {column} AS {column} - INTERVAL '5 seconds'"))),
    }
}

/// Says which time counts when the events have times and the table uses none of them. The time of arrival as a column is no such time.
fn notices(columns: &Columns, time: &Time) -> Vec<String> {
    let of_the_event = |source: &ColumnSource| match source {
        ColumnSource::Decoded(at) => !matches!(columns.decoded[*at].origin, Origin::Metadata(_)),
        ColumnSource::Generated(_) => true,
    };
    let unused = columns
        .fields
        .iter()
        .zip(&columns.sources)
        .find(|(field, source)| matches!(field.data_type(), DataType::Timestamp(..)) && of_the_event(source));
    let by = time.column.map(|at| &columns.fields[at]);
    match (by, unused) {
        (Some(field), _) if matches!(field.data_type(), DataType::Timestamp(_, None)) => vec![format!(
            "the event time '{}' is a local time without a zone: it counts as UTC; for another zone compute an instant, as in GENERATED ALWAYS AS ({} AT TIME ZONE 'Europe/Berlin')",
            field.name(),
            field.name()
        )],
        (None, Some((field, _))) => vec![format!(
            "windows go by the time of arrival, not by '{0}'; to use it, add WATERMARK FOR {0} or event_time_field = '{0}'",
            field.name()
        )],
        _ => Vec::new(),
    }
}
