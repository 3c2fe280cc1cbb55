//! What a query is rewritten to, and that DataFusion plans it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, Schema, TimeUnit};
use datafusion::common::tree_node::TreeNode;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result as Planned};
use datafusion::logical_expr::{
    ColumnarValue, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use futures::executor::block_on;

use super::*;
use crate::sql::{KnownNames, StatementKind, explain_error, parse};

/// Stands for `TUMBLE`, `HOP` and `SESSION`; whatever plans them for real replaces it before it runs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker(&'static str, Signature);

impl Marker {
    fn new(name: &'static str, intervals: usize) -> Self {
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        Marker(name, Signature::new(TypeSignature::Exact(vec![interval; intervals]), Volatility::Volatile))
    }
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        self.0
    }
    fn signature(&self) -> &Signature {
        &self.1
    }
    fn return_type(&self, _: &[DataType]) -> Planned<DataType> {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
        Ok(DataType::Struct(Fields::from(vec![Field::new("start", time.clone(), false), Field::new("end", time, false)])))
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Planned<ColumnarValue> {
        Err(DataFusionError::Internal("a marker is never run".into()))
    }
}

const TIME: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);

/// `stocks(symbol, price, time)`, `gauges(k, v, window)` where `window` is a number, `minutes(k, n, window)` where it is a window,
/// and `cased("userId")`.
fn tables() -> Vec<(&'static str, Schema)> {
    let window = Marker::new("", 0).return_type(&[]).unwrap();
    let schema = |fields: &[(&str, DataType)]| {
        Schema::new(fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect::<Vec<_>>())
    };
    vec![
        ("stocks", schema(&[("symbol", DataType::Utf8View), ("price", DataType::Float64), ("time", TIME)])),
        ("gauges", schema(&[("k", DataType::Utf8View), ("v", DataType::Float64), ("window", DataType::Int64)])),
        ("cased", schema(&[("userId", DataType::Utf8View)])),
        ("minutes", schema(&[("k", DataType::Utf8View), ("n", DataType::Int64), ("window", window)])),
    ]
}

fn context() -> SessionContext {
    let context = SessionContext::new();
    for (name, schema) in tables() {
        let table = MemTable::try_new(Arc::new(schema), vec![vec![]]).unwrap();
        context.register_table(name, Arc::new(table)).unwrap();
    }
    for (name, intervals) in [("tumble", 1), ("hop", 2), ("session", 1)] {
        context.register_udf(ScalarUDF::from(Marker::new(name, intervals)));
    }
    context
}

fn query(sql: &str) -> Box<ast::Query> {
    let (mut statements, errors) = parse(sql);
    assert_eq!(errors, [], "{sql}");
    match statements.pop().unwrap().kind {
        StatementKind::Query(query) => query,
        other => panic!("{other:?}"),
    }
}

fn rewritten(sql: &str) -> Result<Box<ast::Query>> {
    let mut query = query(sql);
    let columns = |name: &ast::ObjectName| {
        let name = name.to_string();
        let (_, schema) = tables().into_iter().find(|(table, _)| *table == name)?;
        Some(schema.fields().iter().map(|field| field.name().clone()).collect())
    };
    rewrite(&mut query, &columns)?;
    Ok(query)
}

fn plan(sql: &str) -> Result<LogicalPlan> {
    let query = rewritten(sql)?;
    let context = context();
    let names: Vec<String> = tables().into_iter().map(|(name, _)| name.to_string()).collect();
    let functions: Vec<String> = context.state().scalar_functions().keys().cloned().collect();
    let statement = Statement::Statement(Box::new(ast::Statement::Query(query.clone())));
    block_on(context.state().statement_to_plan(statement))
        .map_err(|error| explain_error(error, &query, KnownNames { tables: &names, functions: &functions }))
}

/// The query is rewritten to this one, and DataFusion plans it.
#[track_caller]
fn becomes(sql: &str, expected: &str) {
    assert_eq!(rewritten(sql).map(|query| query.to_string()).unwrap(), expected);
    let plan = plan(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert!(!leaves_a_marker(&plan), "{sql}\n{}", plan.display_indent());
}

/// Whether a window is asked for anywhere but in a `GROUP BY`.
fn leaves_a_marker(plan: &LogicalPlan) -> bool {
    let marker = |expr: &datafusion::prelude::Expr| matches!(expr, datafusion::prelude::Expr::ScalarFunction(call) if call.func.inner().is::<Marker>());
    plan.exists(|node| {
        let asked = node.expressions().iter().any(|expr| expr.exists(|expr| Ok(marker(expr))).unwrap());
        Ok(asked && !matches!(node, LogicalPlan::Aggregate(_)))
    })
    .unwrap()
}

#[track_caller]
fn unchanged(sql: &str) {
    becomes(sql, sql);
}

#[track_caller]
fn refused(sql: &str, code: Code, at: (u64, u64), text: &str) {
    let error = plan(sql).map(|plan| plan.display_indent().to_string()).unwrap_err();
    assert_eq!(error.to_string(), text);
    assert_eq!(error.code(), code);
    assert_eq!(error.span().map(|span| (span.start.column, span.end.column)), Some(at), "{sql}");
}

const MINUTE: &str = "TUMBLE(INTERVAL '1 minute')";

#[test]
fn a_window_is_grouped_by_however_it_is_named() {
    let spelled =
        "SELECT symbol, TUMBLE(INTERVAL '1 minute') AS window, COUNT(*) FROM stocks GROUP BY symbol, TUMBLE(INTERVAL '1 minute')";
    for group_by in ["symbol, window", "symbol, 2", "symbol, WINDOW, 2", "symbol, TUMBLE(INTERVAL '1 minute'), window"] {
        becomes(&format!("SELECT symbol, {MINUTE} AS window, COUNT(*) FROM stocks GROUP BY {group_by}"), spelled);
    }
    // The first of equal spellings is kept.
    becomes(&format!("SELECT symbol, {MINUTE} window, COUNT(*) FROM stocks GROUP BY symbol, window"), spelled);
    becomes(&format!("SELECT symbol, {MINUTE}, COUNT(*) FROM stocks GROUP BY symbol, window"), spelled);
    becomes(&format!("SELECT symbol, {MINUTE}, COUNT(*) FROM stocks GROUP BY symbol, 2"), spelled);
    becomes(
        "SELECT symbol, tumble(INTERVAL '1 minute') AS w, COUNT(*) FROM stocks GROUP BY symbol, TUMBLE(INTERVAL '1 minute')",
        "SELECT symbol, tumble(INTERVAL '1 minute') AS w, COUNT(*) FROM stocks GROUP BY symbol, TUMBLE(INTERVAL '1 minute')",
    );
    unchanged(&format!("SELECT COUNT(*) FROM stocks GROUP BY {MINUTE}"));
    unchanged(&format!("SELECT symbol, {MINUTE} AS w, COUNT(*) FROM stocks GROUP BY ALL"));
}

#[test]
fn a_window_wins_over_a_column_of_its_name_in_group_by() {
    becomes(
        &format!("SELECT {MINUTE} AS window, SUM(v) FROM gauges GROUP BY window"),
        "SELECT TUMBLE(INTERVAL '1 minute') AS window, SUM(v) FROM gauges GROUP BY TUMBLE(INTERVAL '1 minute')",
    );
    unchanged("SELECT window, SUM(v) FROM gauges GROUP BY window");
}

#[test]
fn fields_of_a_window_can_be_read_everywhere() {
    becomes(
        &format!(
            "SELECT {MINUTE} AS w, w.start, w.\"end\" AS till, SUM(v) FROM gauges GROUP BY w HAVING w.end > w.start ORDER BY w.end DESC"
        ),
        "SELECT TUMBLE(INTERVAL '1 minute') AS w, (TUMBLE(INTERVAL '1 minute'))['start'] AS start, (TUMBLE(INTERVAL '1 minute'))['end'] AS till, \
         SUM(v) FROM gauges GROUP BY TUMBLE(INTERVAL '1 minute') \
         HAVING (TUMBLE(INTERVAL '1 minute'))['end'] > (TUMBLE(INTERVAL '1 minute'))['start'] ORDER BY w.end DESC",
    );
    // A field of a window that a view has made is a column like any other.
    unchanged("SELECT k, window.start FROM minutes WHERE window.end > window.start ORDER BY window.start");
    unchanged("SELECT m.window.start FROM minutes AS m");
    refused(
        &format!("SELECT {MINUTE} AS w, w.begin FROM gauges GROUP BY w"),
        Code::UnknownColumn,
        (44, 49),
        "a window has no field 'begin'; write w.start or w.end",
    );
}

#[test]
fn windows_can_be_ordered_by_and_nested() {
    becomes(
        &format!(
            "SELECT symbol, {MINUTE} AS window, COUNT(*) AS n FROM stocks GROUP BY symbol, window ORDER BY window DESC, n DESC"
        ),
        "SELECT symbol, TUMBLE(INTERVAL '1 minute') AS window, COUNT(*) AS n FROM stocks GROUP BY symbol, TUMBLE(INTERVAL '1 minute') \
         ORDER BY window DESC, n DESC",
    );
    becomes(
        &format!(
            "SELECT window, MAX(n) FROM (SELECT symbol, {MINUTE} AS window, COUNT(*) AS n FROM stocks GROUP BY symbol, window) GROUP BY window"
        ),
        "SELECT window, MAX(n) FROM (SELECT symbol, TUMBLE(INTERVAL '1 minute') AS window, COUNT(*) AS n FROM stocks \
         GROUP BY symbol, TUMBLE(INTERVAL '1 minute')) GROUP BY window",
    );
    becomes(
        &format!(
            "WITH c AS (SELECT {MINUTE}, COUNT(*) AS n FROM stocks GROUP BY window) SELECT window.start, n + 1 AS n, n * 2 AS m FROM c"
        ),
        "WITH c AS (SELECT TUMBLE(INTERVAL '1 minute') AS window, COUNT(*) AS n FROM stocks GROUP BY TUMBLE(INTERVAL '1 minute')) \
         SELECT window.start, n + 1 AS n, n * 2 AS m FROM c",
    );
    becomes(
        "SELECT HOP(INTERVAL '1 hour', INTERVAL '1 day') AS d, SUM(n) FROM minutes GROUP BY d UNION ALL \
         SELECT SESSION(INTERVAL '1 hour') AS s, SUM(n) FROM minutes GROUP BY s",
        "SELECT HOP(INTERVAL '1 hour', INTERVAL '1 day') AS d, SUM(n) FROM minutes GROUP BY HOP(INTERVAL '1 hour', INTERVAL '1 day') UNION ALL \
         SELECT SESSION(INTERVAL '1 hour') AS s, SUM(n) FROM minutes GROUP BY SESSION(INTERVAL '1 hour')",
    );
}

#[test]
fn windows_without_a_meaning_are_refused_with_what_would_work() {
    refused(
        &format!("SELECT symbol, {MINUTE} AS w, COUNT(*) FROM stocks GROUP BY symbol"),
        Code::Window,
        (16, 43),
        "TUMBLE(INTERVAL '1 minute') stands in SELECT and not in GROUP BY; add it: GROUP BY symbol, w",
    );
    refused(
        "SELECT TUMBLE(INTERVAL '1 minute') AS a, SESSION(INTERVAL '5 minutes') AS b FROM stocks GROUP BY a, b",
        Code::Window,
        (42, 71),
        "TUMBLE(INTERVAL '1 minute') and SESSION(INTERVAL '5 minutes') stand in one SELECT; \
         a query groups by one window; compute the other in a view of its own, or group the results of this one again",
    );
    refused(
        &format!("SELECT symbol FROM stocks WHERE {MINUTE} IS NOT NULL"),
        Code::Window,
        (33, 60),
        "TUMBLE(INTERVAL '1 minute') stands in WHERE, where rows are not in windows yet; \
         filter its results with HAVING, as in HAVING window.start >= …",
    );
    refused(
        &format!("SELECT {MINUTE} AS w, COUNT(*) FROM stocks WHERE w.start > now() GROUP BY w"),
        Code::Window,
        (8, 35),
        "TUMBLE(INTERVAL '1 minute') stands in WHERE, where rows are not in windows yet; \
         filter its results with HAVING, as in HAVING window.start >= …",
    );
    refused(
        &format!("SELECT COUNT(*) FROM stocks GROUP BY coalesce({MINUTE}, NULL)"),
        Code::Window,
        (38, 81),
        "TUMBLE(INTERVAL '1 minute') stands inside of another expression of GROUP BY; \
         group by the window itself: SELECT TUMBLE(INTERVAL '1 minute') AS window, … GROUP BY window",
    );
    refused(
        &format!("SELECT {MINUTE} AS w, COUNT(*) FROM stocks GROUP BY w.start"),
        Code::Window,
        (72, 79),
        "GROUP BY w.start is a part of a window; group by the whole: GROUP BY w",
    );
    refused(
        &format!("SELECT COUNT(*) FROM stocks ORDER BY {MINUTE}"),
        Code::Window,
        (38, 65),
        "TUMBLE(INTERVAL '1 minute') stands in ORDER BY and not in GROUP BY; \
         add it to the query: SELECT TUMBLE(INTERVAL '1 minute') AS window, … GROUP BY window",
    );
    refused(
        &format!("SELECT k FROM stocks JOIN minutes ON {MINUTE} = minutes.window"),
        Code::Window,
        (38, 65),
        "TUMBLE(INTERVAL '1 minute') stands in a JOIN, where rows are not in windows yet; \
         compute the windows in views, and join those ON a.window = b.window",
    );
    refused(
        "SELECT * FROM TUMBLE(stocks, time, INTERVAL '1 minute')",
        Code::Window,
        (15, 21),
        "TUMBLE stands in FROM; windows stand in SELECT: \
         SELECT TUMBLE(INTERVAL '1 minute') AS window, COUNT(*) FROM t GROUP BY window",
    );
}

#[test]
fn an_alias_can_be_used_after_its_place() {
    becomes(
        "SELECT price * 2 AS double, double + 1 AS more, more / double AS ratio FROM stocks",
        "SELECT price * 2 AS double, (price * 2) + 1 AS more, ((price * 2) + 1) / (price * 2) AS ratio FROM stocks",
    );
    // A column of the table wins, and so does its table's name before a dot.
    unchanged("SELECT price * 2 AS price, price + 1 AS more FROM stocks");
    unchanged("SELECT price * 2 AS s, s.price + 1 AS more FROM stocks AS s");
    // A subquery has names of its own.
    becomes(
        "SELECT price AS x, (SELECT MAX(x) FROM (VALUES (1)) AS v (x)) AS y, x + 1 AS z FROM stocks",
        "SELECT price AS x, (SELECT MAX(x) FROM (VALUES (1)) AS v (x)) AS y, price + 1 AS z FROM stocks",
    );
    becomes(
        "SELECT 1 AS start, (named_struct('start', price)).start AS s FROM stocks",
        "SELECT 1 AS start, (named_struct('start', price))['start'] AS s FROM stocks",
    );
}

#[test]
fn an_alias_in_where_stands_for_its_expression() {
    becomes(
        "SELECT price * 2 AS double FROM stocks WHERE double > 5",
        "SELECT price * 2 AS double FROM stocks WHERE (price * 2) > 5",
    );
    unchanged("SELECT price * 2 AS price FROM stocks WHERE price > 5");
}

#[test]
fn a_condition_on_an_over_moves_to_qualify() {
    const OVER: &str = "LAG(price, 1) OVER (PARTITION BY symbol ORDER BY time)";
    becomes(
        &format!("SELECT symbol, {OVER} AS prev, price - prev AS change FROM stocks WHERE ABS(change) > 5.0 AND symbol <> 'X'"),
        &format!(
            "SELECT symbol, {OVER} AS prev, price - {OVER} AS change FROM stocks WHERE symbol <> 'X' QUALIFY ABS((price - {OVER})) > 5.0"
        ),
    );
    becomes(
        &format!(
            "SELECT price FROM stocks WHERE (symbol = 'A' AND ({OVER} > 1 OR price > 1)) QUALIFY ROW_NUMBER() OVER (ORDER BY time) < 9"
        ),
        &format!(
            "SELECT price FROM stocks WHERE symbol = 'A' QUALIFY ROW_NUMBER() OVER (ORDER BY time) < 9 AND ({OVER} > 1 OR price > 1)"
        ),
    );
    let shown =
        plan(&format!("SELECT {OVER} AS prev FROM stocks WHERE prev > 5 AND price > 1")).unwrap().display_indent().to_string();
    let kinds: Vec<&str> = shown.lines().map(|line| line.trim_start().split(':').next().unwrap()).collect();
    assert_eq!(kinds, ["Projection", "Filter", "WindowAggr", "Filter", "TableScan"], "{shown}");
}

#[test]
fn aliases_of_aliases_cannot_grow_without_end() {
    for (sum, count) in [("{} + {}", 40), ("{} + 1", 1_000), ("f({}) + 1", 1_000)] {
        let items: Vec<String> = (1..count).map(|n| format!("{} AS a{n}", sum.replace("{}", &format!("a{}", n - 1)))).collect();
        let error = rewritten(&format!("SELECT price AS a0, {} FROM stocks", items.join(", "))).unwrap_err();
        assert_eq!(error.message(), "aliases that stand for aliases make this query too large");
    }
    // What people write is far from the bound.
    let items: Vec<String> = (1..20).map(|n| format!("a{} + 1 AS a{n}", n - 1)).collect();
    plan(&format!("SELECT price AS a0, {} FROM stocks WHERE a19 > 0", items.join(", "))).unwrap();
    plan(&format!("SELECT price{} AS a FROM stocks WHERE a{} > 0", " + 1".repeat(100), " + 1".repeat(100))).unwrap();
}

#[tokio::test]
async fn datafusion_sorts_windows_itself() {
    let sql = "SELECT n FROM (SELECT named_struct('start', n, 'end', n) AS window, n FROM (VALUES (2), (3), (1)) AS t (n)) \
               ORDER BY window DESC";
    let rows = SessionContext::new().sql(sql).await.unwrap().collect().await.unwrap();
    let rows = arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap();
    let n: &arrow::array::Int64Array = arrow::array::AsArray::as_primitive(rows.column(0));
    assert_eq!(n.values(), &[3, 2, 1]);
}

#[test]
fn reasons_of_datafusion_become_errors_with_a_place() {
    for (sql, code, at, text) in [
        ("SELECT symbl FROM stocks", Code::UnknownColumn, (8, 13), "column 'symbl' is not there; did you mean 'symbol'?"),
        ("SELECT xyz FROM stocks", Code::UnknownColumn, (8, 11), "column 'xyz' is not there; known are symbol, price, time"),
        ("SELECT s.pric FROM stocks s", Code::UnknownColumn, (8, 14), "column 'pric' is not there; did you mean 'price'?"),
        ("SELECT x.price FROM stocks", Code::UnknownTable, (8, 15), "'x' in x.price is no table of this query; known are stocks"),
        ("SELECT price FROM stoks", Code::UnknownTable, (19, 24), "table 'stoks' is not there; did you mean 'stocks'?"),
        ("SELECT abz(price) FROM stocks", Code::UnknownFunction, (8, 11), "function 'abz' is not there; did you mean 'abs'?"),
        (
            "SELECT lag(price) FROM stocks",
            Code::UnknownFunction,
            (8, 11),
            "function 'lag' is not there; it needs an OVER, as in lag(…) OVER (PARTITION BY … ORDER BY …)",
        ),
        (
            "SELECT TUMBLE_START(INTERVAL '1 minute') FROM stocks",
            Code::UnknownFunction,
            (8, 20),
            "function 'tumble_start' is not there; give the window a name, as in TUMBLE(INTERVAL '1 minute') AS window, and write window.start",
        ),
        (
            "SELECT symbol, MAX(price) FROM stocks",
            Code::Query,
            (8, 14),
            "column 'stocks.symbol' is neither grouped nor aggregated; add it to GROUP BY, or take one value of each group, as in MAX(symbol)",
        ),
        (
            "SELECT sum(symbol) FROM stocks",
            Code::Query,
            (8, 11),
            "function 'sum' does not take these arguments: sum(TEXT); it takes sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), \
             sum(DOUBLE), sum(Duration), sum(Interval); CAST the arguments",
        ),
        (
            "SELECT HOP(INTERVAL '1 minute') AS w, count(*) FROM stocks GROUP BY w",
            Code::Query,
            (8, 11),
            "function 'hop' does not take these arguments: hop(INTERVAL); \
             give it the slide, then the width: HOP(INTERVAL '10 seconds', INTERVAL '1 minute')",
        ),
        ("SELECT \"Price\" FROM stocks", Code::UnknownColumn, (8, 15), "column 'Price' is not there; did you mean price?"),
        ("SELECT \"userid\" FROM cased", Code::UnknownColumn, (8, 16), "column 'userid' is not there; did you mean \"userId\"?"),
        ("SELECT window.begin FROM minutes", Code::UnknownColumn, (15, 20), "field 'begin' is not there"),
        (
            "SELECT k FROM gauges, minutes",
            Code::Query,
            (8, 9),
            "column 'k' is in several tables; write the table before it, as in t.k",
        ),
        (
            "SELECT abs(symbol) FROM stocks",
            Code::Query,
            (8, 11),
            "function 'abs' expects Numeric but received String; it takes abs(Numeric(1)); CAST the arguments",
        ),
    ] {
        refused(sql, code, at, text);
    }
    for (sql, text) in [
        ("SELECT price + symbol FROM stocks", "DOUBLE + TEXT cannot be computed; CAST one of the two"),
        (
            "SELECT count(*) AS n FROM stocks WHERE n > 1",
            "an aggregate stands in WHERE, where rows are not grouped yet; filter groups with HAVING",
        ),
        ("SELECT CAST(price AS GEOMETRY) FROM stocks", "type GEOMETRY is not known"),
        (
            "SELECT price FROM stocks WHERE symbol",
            "the condition stocks.symbol is TEXT, neither true nor false; compare it with something",
        ),
        ("SELECT price, price FROM stocks", "'price' is twice in the result; give one of them another name with AS"),
        (
            "SELECT price FROM stocks UNION SELECT 1, 2",
            "the queries of a UNION have different numbers of columns; select as many columns in each, in the same order; \
             NULL AS name fills a gap",
        ),
    ] {
        assert_eq!(plan(sql).map(|plan| plan.to_string()).unwrap_err().to_string(), text);
    }
}

#[test]
fn named_windows_are_spelled_out() {
    becomes(
        "SELECT sum(price) OVER (w ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s, max(price) OVER w AS m FROM stocks \
         WINDOW w AS (PARTITION BY symbol ORDER BY time)",
        "SELECT sum(price) OVER (PARTITION BY symbol ORDER BY time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s, \
         max(price) OVER (PARTITION BY symbol ORDER BY time) AS m FROM stocks",
    );
    becomes(
        "SELECT rank() OVER b AS r FROM stocks WHERE lag(price) OVER a > 1 WINDOW a AS (PARTITION BY symbol), b AS (a ORDER BY time)",
        "SELECT rank() OVER (PARTITION BY symbol ORDER BY time) AS r FROM stocks QUALIFY lag(price) OVER (PARTITION BY symbol) > 1",
    );
    for (over, at, text) in [
        ("w", (24, 25), "there is no window 'w'; did you mean 'w1'?"),
        (
            "(w1 PARTITION BY time)",
            (25, 27),
            "the window 'w1' has its own PARTITION BY, which cannot be given anew; write OVER w1, or spell the window out",
        ),
        ("(w1 ORDER BY price)", (25, 27), "the window 'w1' has its own ORDER BY; write OVER w1, or spell the window out"),
    ] {
        let sql = format!("SELECT max(price) OVER {over} FROM stocks WINDOW w1 AS (PARTITION BY symbol ORDER BY time)");
        refused(&sql, Code::Query, at, text);
    }
}

#[test]
fn a_window_that_only_group_by_spells_out_is_called_window() {
    becomes(
        &format!(
            "SELECT symbol, window, COUNT(*) AS n FROM stocks GROUP BY symbol, {MINUTE} HAVING window.start > '2026-01-01' ORDER BY window, n"
        ),
        "SELECT symbol, TUMBLE(INTERVAL '1 minute') AS window, COUNT(*) AS n FROM stocks GROUP BY symbol, TUMBLE(INTERVAL '1 minute') \
         HAVING (TUMBLE(INTERVAL '1 minute'))['start'] > '2026-01-01' ORDER BY TUMBLE(INTERVAL '1 minute'), n",
    );
    unchanged(&format!("SELECT window, SUM(v) FROM gauges GROUP BY window, {MINUTE}"));
}

#[test]
fn columns_with_literals_are_named_as_written() {
    becomes(
        "SELECT price * 2, COUNT(*) FROM stocks GROUP BY price * 2",
        "SELECT price * 2 AS \"price * 2\", COUNT(*) FROM stocks GROUP BY price * 2",
    );
    becomes(
        "SELECT sum(price * 2) FROM stocks ORDER BY sum(price * 2)",
        "SELECT sum(price * 2) AS \"sum(price * 2)\" FROM stocks ORDER BY sum(price * 2)",
    );
}

#[test]
fn the_documented_views_are_planned() {
    let context = context();
    let (statements, _) = parse(crate::sql::tests::DOCUMENTED);
    let mut known = Vec::new();
    for statement in &statements {
        match &statement.kind {
            StatementKind::CreateTable(table) => {
                let fields: Vec<Field> = table.columns.iter().map(|column| column.field().unwrap().unwrap()).collect();
                known.push((table.name.text.clone(), fields.iter().map(|field| field.name().clone()).collect::<Vec<_>>()));
                let table_of = MemTable::try_new(Arc::new(Schema::new(fields)), vec![vec![]]).unwrap();
                context.register_table(table.name.text.as_str(), Arc::new(table_of)).unwrap();
            }
            StatementKind::CreateView(view) => {
                let mut query = view.query.clone();
                let columns = |name: &ast::ObjectName| {
                    known.iter().find(|(table, _)| *table == name.to_string()).map(|(_, columns)| columns.clone())
                };
                rewrite(&mut query, &columns).unwrap();
                let statement = Statement::Statement(Box::new(ast::Statement::Query(query)));
                let plan = block_on(context.state().statement_to_plan(statement)).unwrap();
                assert!(!leaves_a_marker(&plan), "{}", plan.display_indent());
                context.state().optimize(&plan).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(known.len(), 7);
}

/// Servers plan on threads of 2 MiB, below futures that have taken much of them.
#[test]
fn a_deep_query_needs_no_deep_stack() {
    let (open, close) = ("(1 + ".repeat(15), ")".repeat(15));
    let deep = format!("SELECT {open}avg(v){close}, {MINUTE} AS window FROM gauges GROUP BY window");
    let planning = std::thread::Builder::new().stack_size(512 * 1024).spawn(move || rewritten(&deep).is_ok());
    assert!(planning.unwrap().join().unwrap());
}
