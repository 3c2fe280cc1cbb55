//! DataFusion's reasons why a query cannot be planned, as our errors: with the place in the script and the nearest known name.

use std::ops::ControlFlow;

use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use sqlparser::ast::{Expr, FunctionArguments, Ident, ObjectName, Query, Spanned, Visit, Visitor};

use super::foreign;
use super::statement::fold;
use super::syntax::small;
use crate::error::{Code, Error, Span, nearest};
use crate::window::WindowKind;

/// The names a query may have meant.
#[derive(Debug, Clone, Copy, Default)]
pub struct KnownNames<'a> {
    pub tables: &'a [String],
    pub functions: &'a [String],
}

/// Most columns that a hint lists.
const LISTED_MAX: usize = 12;

/// What DataFusion said about `query` as a sentence of ours. An error of ours that travelled through it comes out as it went in.
pub fn explain_error(error: DataFusionError, query: &Query, known: KnownNames) -> Error {
    let root = error.find_root();
    let explained = match root {
        DataFusionError::SchemaError(error, _) => schema(error, query),
        DataFusionError::Plan(text) => planning(text, query, known),
        DataFusionError::NotImplemented(text) => unsupported(text),
        _ => None,
    };
    let said = matches!(root, DataFusionError::Plan(_) | DataFusionError::NotImplemented(_));
    match explained {
        Some(explained) => explained,
        None if said => {
            let error = Error::from(error);
            placed(Error::new(error.code(), in_sql(&small(error.message()))), error.span())
        }
        None => explain_plan(error.into(), query),
    }
}

/// An error that came up when the whole query was planned: with the first place that it can be about.
pub fn explain_plan(error: Error, query: &Query) -> Error {
    let error = planned(error, query);
    let text = error.message().to_ascii_lowercase();
    let is_meant = |expr: &Expr| match expr {
        Expr::Function(function) if error.code() == Code::Window || error.code() == Code::EventTime => {
            let name = function.name.to_string().to_ascii_lowercase();
            super::rewrite::is_window_call(expr) && (text.contains(&name) || error.code() == Code::EventTime)
        }
        Expr::Function(function) if function.over.is_some() => {
            text.contains(" over") || text.starts_with(&format!("{}()", function.name.to_string().to_ascii_lowercase()))
        }
        _ => false,
    };
    // A sentence that begins with a call is about that.
    let called = text.split_once("()").map(|(name, _)| name);
    let is_called = |expr: &Expr| match expr {
        Expr::Function(function) => called.is_some_and(|called| called == by_its_name(&function.name)),
        _ => false,
    };
    let at = |meant: &dyn Fn(&Expr) -> bool| find(query, &|expr| meant(expr).then(|| super::rewrite::place(expr)), &|_| None);
    let place = at(&is_called).or_else(|| at(&is_meant));
    placed(error, place)
}

/// The name that DataFusion gives to a function whatever it is called in a query.
fn by_its_name(name: &ObjectName) -> String {
    let name = name.to_string().to_ascii_lowercase();
    match name.as_str() {
        "current_timestamp" => "now".into(),
        "today" => "current_date".into(),
        "rand" => "random".into(),
        _ => name,
    }
}

/// Nothing runs yet: what fails here is the statement's fault.
fn planned(error: Error, query: &Query) -> Error {
    if error.message().starts_with("Cannot run range queries on datatype: Struct") {
        let is_over = |expr: &Expr| match expr {
            Expr::Function(function) if function.over.is_some() => Some(super::rewrite::place(expr)),
            _ => None,
        };
        let error = Error::new(Code::Query, "a window, or another STRUCT, is no order for OVER (… ORDER BY …)");
        return placed(error, find(query, &is_over, &|_| None)).hint("order by one of its fields: ORDER BY window.start");
    }
    if error.message().starts_with("Cannot access field at argument") && error.message().contains("Utf8View") {
        return Error::new(Code::Query, "a text has no fields to be read by `.` or `[…]`")
            .hint("of a JSON column a field is read with ->>, as in d ->> 'name'");
    }
    if let Some(computed) = json(error.message()) {
        return computed;
    }
    if error.message().contains(" { ")
        && let Some(unknown) = unsupported(error.message())
    {
        return unknown;
    }
    if error.code() != Code::Runtime {
        return error;
    }
    if let Some(text) = between(error.message(), "Invalid input syntax for type interval: \"", "\"") {
        let is_meant = |expr: &Expr| match expr {
            Expr::Interval(interval) if interval.value.to_string().contains(text) => Some(expr.span().into()),
            _ => None,
        };
        return placed(Error::new(Code::Query, format!("'{text}' is no interval")), find(query, &is_meant, &|_| None))
            .hint("write a number and a unit, such as INTERVAL '10 seconds', '1 minute 30 seconds' or '2 days'");
    }
    let planned = placed(Error::new(Code::Query, error.message()), error.span());
    match error.way_out() {
        Some(hint) => planned.hint(hint),
        None => planned,
    }
}

fn schema(error: &SchemaError, query: &Query) -> Option<Error> {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => Some(unknown_column(field, valid_fields, query)),
        SchemaError::AmbiguousReference { field } => Some(
            placed(Error::new(Code::Query, format!("column '{}' is in several tables", field.name)), find_column(query, field))
                .hint(format!("write the table before it, as in t.{}", field.name)),
        ),
        _ => None,
    }
}

fn unknown_column(field: &Column, valid: &[Column], query: &Query) -> Error {
    let place = find_column(query, field);
    let relation = field.relation.as_ref().map(|relation| relation.table());
    if relation.unwrap_or(&field.name) == "window" && !valid.iter().any(|column| column.name == "window") {
        return placed(Error::new(Code::UnknownColumn, "column 'window' is not there"), place)
            .hint("SELECT the window under that name: TUMBLE(INTERVAL '1 minute') AS window, and GROUP BY window");
    }
    if let Some(table) = relation
        && !valid.iter().any(|column| column.relation.as_ref().is_some_and(|relation| relation.table() == table))
        && valid.iter().any(|column| column.relation.is_some())
    {
        let mut tables: Vec<&str> = valid.iter().filter_map(|column| Some(column.relation.as_ref()?.table())).collect();
        tables.dedup();
        let error = Error::new(Code::UnknownTable, format!("'{table}' in {table}.{} is no table of this query", field.name));
        return placed(error, place).hint(suggestion(table, &tables));
    }
    let mut names: Vec<&str> = valid
        .iter()
        .filter(|column| relation.is_none() || column.relation.as_ref().map(|relation| relation.table()) == relation)
        .map(|column| column.name.as_str())
        .collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    let error = placed(Error::new(Code::UnknownColumn, format!("column '{}' is not there", field.name)), place);
    let same = names.iter().find(|name| name.eq_ignore_ascii_case(&field.name));
    if same.is_none() && relation.is_none() {
        if let Some(hint) = foreign::column(&field.name) {
            return error.hint(hint);
        }
        if nearest(&field.name, names.iter().copied()).is_none() && is_quoted(query, &field.name) {
            return error.hint(format!("a text stands in single quotes: '{}'", field.name.replace('\'', "''")));
        }
    }
    match same {
        // Only upper and lower case keep them apart.
        Some(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => error.hint(format!("did you mean \"{name}\"?")),
        Some(name) => error.hint(format!("did you mean {name}?")),
        None if names.is_empty() => error,
        None => error.hint(suggestion(&field.name, &names)),
    }
}

fn suggestion(wrong: &str, names: &[&str]) -> String {
    match nearest(wrong, names.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None if names.len() > LISTED_MAX => format!("known are {}, …", names[..LISTED_MAX].join(", ")),
        None => format!("known are {}", names.join(", ")),
    }
}

/// What computes with a value that `->` gives: DataFusion speaks of the union that holds it.
fn json(text: &str) -> Option<Error> {
    if !text.contains("Union(Sparse") {
        return None;
    }
    let called = between(text, "argument types '", "(").or_else(|| between(text, "Function '", "'"));
    let message = match called {
        Some(name) => format!("{name} takes no value of JSON, as -> gives it: that may be of any kind"),
        None => "a value of JSON, as -> gives it, may be of any kind: it cannot be computed with".into(),
    };
    Some(Error::new(Code::Query, message).hint("say which kind it is: (d -> 'level')::DOUBLE, ::BOOLEAN or ::TEXT"))
}

fn planning(text: &str, query: &Query, known: KnownNames) -> Option<Error> {
    if let Some(computed) = json(text) {
        return Some(computed);
    }
    if let Some(name) = between(text, "table '", "' not found") {
        let name = name.rsplit('.').next().unwrap_or(name);
        let tables: Vec<&str> = known.tables.iter().map(String::as_str).collect();
        let error = placed(Error::new(Code::UnknownTable, format!("table '{name}' is not there")), find_table(query, name));
        return Some(match tables.is_empty() {
            true => error.hint("make it with CREATE TABLE"),
            false => error.hint(suggestion(name, &tables)),
        });
    }
    if let Some(name) = between(text, "Invalid function '", "'") {
        let place = find_function(query, name);
        let error = placed(Error::new(Code::UnknownFunction, format!("function '{name}' is not there")), place);
        return Some(match function_hint(name, known) {
            Some(hint) => error.hint(hint),
            None => error,
        });
    }
    if text.contains("UNION queries have different number of columns") {
        return Some(
            Error::new(Code::Query, "the queries of a UNION have different numbers of columns")
                .hint("select as many columns in each, in the same order; NULL AS name fills a gap"),
        );
    }
    if text.starts_with("Aggregate functions are not allowed in the WHERE clause") {
        return Some(
            Error::new(Code::Query, "an aggregate stands in WHERE, where rows are not grouped yet")
                .hint("filter groups with HAVING"),
        );
    }
    if let Some(column) = between(text, "column \"", "\" must appear in the GROUP BY clause") {
        let name = column.rsplit('.').next().unwrap_or(column);
        let place = find_column(query, &Column::from_name(name));
        return Some(
            placed(Error::new(Code::Query, format!("column '{column}' is neither grouped nor aggregated")), place)
                .hint(format!("add it to GROUP BY, or take one value of each group, as in MAX({name})")),
        );
    }
    if let Some(sides) = between(text, "Cannot coerce arithmetic expression ", " to valid types") {
        return Some(Error::new(Code::Query, format!("{} cannot be computed", in_sql(sides))).hint("CAST one of the two"));
    }
    if let (Some(condition), Some((_, kind))) = (between(text, "non-boolean predicate '", "'"), text.rsplit_once(" returning ")) {
        return Some(
            Error::new(Code::Query, format!("the condition {condition} is {}, neither true nor false", in_sql(kind)))
                .hint("compare it with something"),
        );
    }
    if let Some(name) = between(text, "Projections require unique expression names but the expression \"", "\" at position") {
        // As in `stocks.price` and `stocks.price AS p`.
        let name = name.rsplit(" AS ").next().unwrap_or(name);
        let name = if name.contains('(') { name } else { name.rsplit('.').next().unwrap_or(name) };
        return Some(
            Error::new(Code::Query, format!("'{name}' is twice in the result")).hint("give one of them another name with AS"),
        );
    }
    if let Some(field) = between(text, "Field ", " not found in struct") {
        let place = find_field(query, field);
        return Some(placed(Error::new(Code::UnknownColumn, format!("field '{field}' is not there")), place));
    }
    if let Some((before, after)) = text.split_once(" No function matches the given name and argument types '") {
        return Some(arguments(before, after, query));
    }
    None
}

/// `… No function matches the given name and argument types 'abs(Utf8)'. … Candidate functions:\n\tabs(Numeric(1))`
fn arguments(before: &str, after: &str, query: &Query) -> Error {
    let call = after.split("'.").next().unwrap_or(after);
    let name = call.split('(').next().unwrap_or(call);
    let message = match before.strip_prefix("Function '") {
        Some(rest) if !before.contains('\n') => format!("function '{}", rest.trim_end_matches('.')),
        _ => format!("function '{name}' does not take these arguments: {}", in_sql(call)),
    };
    let give = |kind: WindowKind| format!("give it the {}: {}", kind.lengths().join(", then the "), kind.example());
    let window = WindowKind::named(name).map(give);
    let candidates = after.split_once("Candidate functions:").map(|(_, list)| {
        list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("Any")).collect::<Vec<_>>().join(", ")
    });
    let error = placed(Error::new(Code::Query, message), find_function(query, name));
    match (window, candidates) {
        (Some(window), _) => error.hint(window),
        (None, Some(candidates)) if !candidates.is_empty() => {
            error.hint(format!("it takes {}; CAST the arguments", in_sql(&candidates)))
        }
        _ => error.hint("CAST the arguments"),
    }
}

/// DataFusion suggests the function that is nearest however far it is; ours must be near.
fn function_hint(name: &str, known: KnownNames) -> Option<String> {
    const OVER: [&str; 11] = [
        "lag",
        "lead",
        "row_number",
        "rank",
        "dense_rank",
        "percent_rank",
        "cume_dist",
        "ntile",
        "first_value",
        "last_value",
        "nth_value",
    ];
    let lower = name.to_ascii_lowercase();
    if let Some(hint) = foreign::function(&lower) {
        return Some(hint);
    }
    if OVER.contains(&lower.as_str()) {
        return Some(format!("it needs an OVER, as in {name}(…) OVER (PARTITION BY … ORDER BY …)"));
    }
    nearest(name, known.functions.iter().map(String::as_str)).map(|near| format!("did you mean '{near}'?"))
}

fn unsupported(text: &str) -> Option<Error> {
    if let Some(name) = text.strip_prefix("Unsupported SQL type ") {
        return Some(Error::new(Code::Type, format!("type {name} is not known")));
    }
    let name = match form(text)? {
        "InSubquery" => "IN (SELECT …) as a value",
        name => name,
    };
    let hint = foreign::form(name).unwrap_or("write it with SELECT, WHERE, GROUP BY a window, and joins");
    Some(Error::new(Code::NotYet, format!("{} is not known in a query here", name.to_ascii_uppercase())).hint(hint))
}

/// The form of SQL that a text shows as the parser's own tree, which is no text for people; `None` where it shows none.
fn form(text: &str) -> Option<&str> {
    let opens = |at: usize| {
        let before = text[..at].trim_end();
        let word = before.rsplit(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
        word.starts_with(char::is_uppercase) && word.contains(char::is_lowercase)
    };
    let begin = text.match_indices([' ', '(']).find_map(|(at, sign)| match sign {
        "(" if opens(at) => Some(at),
        " " if text[at..].starts_with(" {") && opens(at) => Some(at),
        _ => None,
    })?;
    text[..begin].trim_end().rsplit(|letter: char| !letter.is_alphanumeric()).next()
}

/// Arrow's names of types as SQL's.
fn in_sql(text: &str) -> String {
    const WORDS: [(&str, &str); 14] = [
        ("Utf8View", "TEXT"),
        ("LargeUtf8", "TEXT"),
        ("Utf8", "TEXT"),
        ("Boolean", "BOOLEAN"),
        ("UInt64", "BIGINT UNSIGNED"),
        ("UInt32", "INT UNSIGNED"),
        ("Int64", "BIGINT"),
        ("Int32", "INT"),
        ("Float64", "DOUBLE"),
        ("Float32", "REAL"),
        ("Timestamp(ns, \"UTC\")", "TIMESTAMP"),
        ("Timestamp(ns)", "TIMESTAMP WITHOUT TIME ZONE"),
        ("Interval(MonthDayNano)", "INTERVAL"),
        ("Date32", "DATE"),
    ];
    WORDS.iter().fold(text.into(), |text: String, (arrow, sql)| text.replace(arrow, sql))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let length = text[start..].find(after)?;
    Some(&text[start..start + length])
}

fn placed(error: Error, place: Option<Span>) -> Error {
    match place {
        Some(place) => error.at(place),
        None => error,
    }
}

/// The first place where a query names this column.
fn find_column(query: &Query, column: &Column) -> Option<Span> {
    let table = column.relation.as_ref().map(|relation| relation.table());
    let is = |ident: &Ident| fold(ident) == column.name;
    let exactly = |expr: &Expr| match expr {
        Expr::Identifier(ident) if is(ident) => Some(ident.span.into()),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [first, field, ..] if is(field) && table.is_none_or(|table| fold(first) == table) => Some(expr.span().into()),
            [first, ..] if table.is_none() && is(first) => Some(first.span.into()),
            _ => None,
        },
        // `user` without a column of that name is a function to the parser.
        Expr::Function(function) if matches!(function.args, FunctionArguments::None) => match function.name.0.as_slice() {
            [part] => part.as_ident().filter(|ident| is(ident)).map(|ident| ident.span.into()),
            _ => None,
        },
        _ => None,
    };
    let qualified = |expr: &Expr| exactly(expr).filter(|_| table.is_none() || matches!(expr, Expr::CompoundIdentifier(_)));
    find(query, &qualified, &|_| None).or_else(|| find(query, &exactly, &|_| None))
}

/// Whether a query names a column in double quotes, as other programs write a text.
fn is_quoted(query: &Query, name: &str) -> bool {
    let quoted = |expr: &Expr| match expr {
        Expr::Identifier(ident) if ident.quote_style == Some('"') && ident.value == name => Some(Span::from(ident.span)),
        _ => None,
    };
    find(query, &quoted, &|_| None).is_some()
}

/// The first place where a query reads a field of this name.
fn find_field(query: &Query, field: &str) -> Option<Span> {
    let read = |expr: &Expr| match expr {
        Expr::CompoundIdentifier(parts) => parts.iter().skip(1).find(|part| fold(part) == field).map(|part| part.span.into()),
        _ => None,
    };
    find(query, &read, &|_| None)
}

fn find_function(query: &Query, name: &str) -> Option<Span> {
    let called = |expr: &Expr| match expr {
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case(name) => Some(function.name.span().into()),
        _ => None,
    };
    find(query, &called, &|_| None)
}

fn find_table(query: &Query, name: &str) -> Option<Span> {
    let named = |table: &ObjectName| {
        let last = table.0.last().and_then(|part| part.as_ident())?;
        (fold(last) == name).then(|| table.span().into())
    };
    find(query, &|_| None, &named)
}

fn find(query: &Query, expr: &dyn Fn(&Expr) -> Option<Span>, table: &dyn Fn(&ObjectName) -> Option<Span>) -> Option<Span> {
    struct Find<'a> {
        expr: &'a dyn Fn(&Expr) -> Option<Span>,
        table: &'a dyn Fn(&ObjectName) -> Option<Span>,
    }
    impl Visitor for Find<'_> {
        type Break = Span;
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Span> {
            (self.expr)(expr).map_or(ControlFlow::Continue(()), ControlFlow::Break)
        }
        fn pre_visit_relation(&mut self, table: &ObjectName) -> ControlFlow<Span> {
            (self.table)(table).map_or(ControlFlow::Continue(()), ControlFlow::Break)
        }
    }
    match query.visit(&mut Find { expr, table }) {
        ControlFlow::Break(span) => Some(span),
        ControlFlow::Continue(()) => None,
    }
}
