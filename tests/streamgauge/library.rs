//! Streamgauge as a guest of a plain DataFusion session, as the README shows it.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampNanosecondType};
use arrow::util::pretty::pretty_format_batches;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::prelude::SessionContext;
use futures::StreamExt;

use super::support::server::{Answer, Server, Signal};

const READY: &str = "{\"host\": \"a\", \"value\": 1, \"ts\": \"2026-03-01T12:00:01Z\"}";

fn table(url: &str, more: &str) -> String {
    format!(
        "CREATE TABLE metrics (host TEXT, value DOUBLE, ts TIMESTAMP, WATERMARK FOR ts)
         WITH (connector = 'sse', endpoint = '{url}', reconnect_delay = '1ms'{more})"
    )
}

fn hosts(batch: &RecordBatch) -> Vec<&str> {
    batch.column(0).as_string_view().iter().map(|host| host.unwrap_or_default()).collect()
}

/// The README's example, to the first window that closes; the feed goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_feed_on_a_plain_session_gives_rolling_rows() {
    let stream = Answer::stream()
        .event("message", READY)
        .event("message", "{\"host\": \"a\", \"value\": 2, \"ts\": \"2026-03-01T12:00:02Z\"}")
        .event("message", "{\"host\": \"b\", \"value\": 5, \"ts\": \"2026-03-01T12:00:11Z\"}")
        .stall();
    let server = Server::start([stream]).await;
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    streamgauge::create_table(&session, &table(&server.url(), "")).unwrap();
    let sql = "SELECT host, avg(value), TUMBLE(INTERVAL '10 seconds') AS window FROM metrics GROUP BY host, window";
    let rolling = session.sql(sql).await.unwrap();
    let mut rows = rolling.execute_stream().await.unwrap();
    let first = rows.next().await.unwrap().unwrap();
    assert_eq!(hosts(&first), ["a"]);
    assert_eq!(first.column(1).as_primitive::<Float64Type>().value(0), 1.5);
    assert_eq!(first.schema().field(2).name(), "window");
    drop(rows);
    // Who stops reading closes the connection.
    server.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_a_plain_session_ends_with_its_feed() {
    let server = Server::start([Answer::stream().event("message", READY), Answer::status(204)]).await;
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    streamgauge::create_table(&session, &table(&server.url(), "")).unwrap();
    let sql = "SELECT host, count(*) AS n, HOP(INTERVAL '5 seconds', INTERVAL '10 seconds') AS window FROM metrics GROUP BY host, window";
    let mut rows = session.sql(sql).await.unwrap().execute_stream().await.unwrap();
    let mut counts = Vec::new();
    while let Some(batch) = rows.next().await {
        counts.extend(batch.unwrap().column(1).as_primitive::<Int64Type>().values().iter().copied());
    }
    assert_eq!(counts, [1, 1]);
}

/// Each query has a connection of its own pace, and one of raw rows gives them as they come.
#[tokio::test(flavor = "multi_thread")]
async fn rows_come_as_the_feed_sends_them() {
    let next = Signal::default();
    let stream = Answer::stream().event("message", READY).wait(&next).event("message", &READY.replace("\"a\"", "\"b\"")).stall();
    let server = Server::start([stream]).await;
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    streamgauge::create_table(&session, &table(&server.url(), "")).unwrap();
    let mut rows = session.sql("SELECT host FROM metrics WHERE value > 0").await.unwrap().execute_stream().await.unwrap();
    assert_eq!(hosts(&rows.next().await.unwrap().unwrap()), ["a"]);
    next.notify_one();
    assert_eq!(hosts(&rows.next().await.unwrap().unwrap()), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_wrong_says_so() {
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    let wrong = streamgauge::create_table(&session, "CREATE TABLE t (a TEXT) WITH (connector = 'sse', endpont = 'http://x')");
    let text = format!("{:?}", wrong.err().map(|error| error.to_string()));
    assert!(text.contains("endpoint"), "{text}");
    streamgauge::create_table(&session, &table("http://127.0.0.1:9", "")).unwrap();
    let refused = async { session.sql("SELECT host, count(*) FROM metrics GROUP BY host").await?.execute_stream().await };
    let text = refused.await.err().unwrap().to_string();
    assert!(text.contains("never has its last word"), "{text}");
}

/// What an expression answers is decided in the session: there is no second road on which it answers otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_session_and_the_engine_give_the_same_answers() {
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    let engine = streamgauge::Engine::new().unwrap();
    let json =
        "(VALUES (1, '{\"level\": 5}'), (2, '{\"level\": 4.25}'), (3, '{\"level\": 3.5}'), (4, '{\"level\": \"5\"}')) t(id, d)";
    for query in [
        &format!("SELECT id FROM {json} WHERE (d -> 'level') > 4 ORDER BY id"),
        &format!("SELECT id FROM {json} WHERE (d -> 'level') IN (5, 3.5) ORDER BY id"),
        &format!("SELECT max(d -> 'level') AS most FROM {json} WHERE id < 4"),
        "SELECT a * b AS product FROM (VALUES (70000::int, 70000::int)) t(a, b)",
        "SELECT sum(v) AS v FROM (VALUES (9223372036854775807), (1), (-5)) t(v)",
        "SELECT sum(v) OVER (ORDER BY n ROWS 1 PRECEDING) AS v FROM (VALUES (1, 18014398509481984.0), (2, 1.0), (3, 1.0)) t(n, v)",
        "SELECT count(*) AS n, sum(a / b) FILTER (WHERE b <> 0) AS v FROM (VALUES (10, 0), (10, 2)) t(a, b)",
        "SELECT count(DISTINCT v) AS n FROM (VALUES (0.0), (-0.0)) t(v)",
        "SELECT length(replace(repeat('x', 100000), 'x', repeat('y', 100000))) AS n",
    ] {
        let plain = async {
            let rows = session.sql(query).await?.collect().await?;
            Ok::<_, datafusion::error::DataFusionError>(pretty_format_batches(&rows)?.to_string())
        };
        let plain = plain.await.map_err(|error| streamgauge::error::Error::from(error).message().to_string());
        let ours = answer(&engine, query).await.map_err(|error| error.message().to_string());
        assert_eq!(plain, ours, "{query}");
    }
    // Where nobody is told why a group has no value, that is an error.
    let wide = "SELECT sum(v) AS v FROM (VALUES (9223372036854775807), (1)) t(v)";
    let plain = session.sql(wide).await.unwrap().collect().await.unwrap_err();
    assert_eq!(streamgauge::error::Error::from(plain).message(), "sum(t.v) is out of range for BIGINT");
    assert_eq!(answer(&engine, wide).await.unwrap(), "+---+\n| v |\n+---+\n|   |\n+---+");
}

async fn answer(engine: &streamgauge::Engine, query: &str) -> streamgauge::error::Result<String> {
    let (statements, errors) = streamgauge::sql::parse(query);
    assert!(errors.is_empty(), "{errors:?}");
    let answer = engine.execute(&statements[0]).await.map_err(|errors| errors[0].clone())?;
    let streamgauge::engine::Answer::Query(query) = answer else { panic!("no query") };
    let mut outputs = engine.open(&[*query])?;
    let mut rows = Vec::new();
    while let Some(changes) = outputs[0].next_changes().await {
        rows.push(changes?.rows);
    }
    Ok(pretty_format_batches(&rows)?.to_string())
}

/// `now()` is the time of arrival where it is selected, and refused where it would stand still.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_in_a_query_that_runs_on_is_that_of_arrival() {
    let next = Signal::default();
    let stream = Answer::stream().event("message", READY).wait(&next).event("message", &READY.replace("\"a\"", "\"b\"")).stall();
    let server = Server::start([stream]).await;
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    streamgauge::create_table(&session, &table(&server.url(), "")).unwrap();
    for (sql, says) in [
        ("SELECT host FROM metrics WHERE ts > now() - INTERVAL '2 seconds'", "now() would stand still"),
        ("SELECT host, now() AS n, TUMBLE(INTERVAL '10 seconds') AS w FROM metrics GROUP BY host, w", "no time of arrival"),
    ] {
        let refused = async { session.sql(sql).await?.execute_stream().await };
        let text = refused.await.err().unwrap_or_else(|| panic!("{sql} runs")).to_string();
        assert!(text.contains(says), "{sql}: {text}");
    }
    let nanos = |batch: &RecordBatch| batch.column(1).as_primitive::<TimestampNanosecondType>().value(0);
    let mut rows = session.sql("SELECT host, now() AS seen FROM metrics").await.unwrap().execute_stream().await.unwrap();
    let first = nanos(&rows.next().await.unwrap().unwrap());
    let between = streamgauge::time::Timestamp::now().nanos();
    next.notify_one();
    let second = nanos(&rows.next().await.unwrap().unwrap());
    assert!(first <= between && between <= second, "{first} {between} {second}");
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Dice(Signature);

impl ScalarUDFImpl for Dice {
    fn name(&self) -> &str {
        "dice"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(4_i64.into()))
    }
}

/// A function that a program registers is held to what it says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_volatile_function_of_a_program_is_refused_over_rows_that_change() {
    let server = Server::start([Answer::stream().event("message", READY).stall()]).await;
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    session.register_udf(ScalarUDF::from(Dice(Signature::any(1, Volatility::Volatile))));
    streamgauge::create_table(&session, &table(&server.url(), "")).unwrap();
    let keyed = table(&server.url(), "").replace("TABLE metrics (host TEXT", "TABLE hosts (host TEXT PRIMARY KEY");
    streamgauge::create_table(&session, &keyed).unwrap();
    for sql in ["SELECT host, dice(value) FROM hosts", "SELECT host FROM hosts WHERE dice(value) > 3"] {
        let refused = async { session.sql(sql).await?.execute_stream().await };
        let text = refused.await.err().unwrap_or_else(|| panic!("{sql} runs")).to_string();
        assert!(text.contains("dice() gives another value"), "{sql}: {text}");
    }
    let mut rows = session.sql("SELECT host, dice(value) FROM metrics").await.unwrap().execute_stream().await.unwrap();
    assert_eq!(rows.next().await.unwrap().unwrap().column(1).as_primitive::<Int64Type>().value(0), 4);
}
