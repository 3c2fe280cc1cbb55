//! Bad events, refusals and secrets.

use std::process::Stdio;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use streamgauge::error::Code;
use streamgauge::sql::{self, StatementKind};
use streamgauge::table::{Follow, Table, TableSpec};

use super::{TIMED, counts, create, engine, event, failure, open, rest, table};
use crate::support::server::{Answer, Server};

const SECRET: &str = "s3cret-0f-a-broker";

fn with_bad_ones() -> Answer {
    let bad = ["{\"n\":\"abc\"}", "no JSON", "{\"n\":9}", "{\"n\":9,\"ts\":null}"];
    let bad: String = bad.iter().map(|data| format!("id: 8\ndata: {data}\n\n")).collect();
    Answer::stream().text(&(event(1, 0.5) + &bad + &event(2, 0.6)))
}

#[tokio::test]
async fn a_bad_event_costs_only_itself() {
    for (policy, samples) in [("dead_letter", 4), ("drop", 0)] {
        let server = Server::start([with_bad_ones()]).await;
        let engine = engine(&create("t", &server, TIMED, &format!("reconnect = 'false', bad_data = '{policy}'"))).await;
        assert_eq!(rest(&mut open(&engine, &counts("t")).await).await, ["rows=2, sum=3"]);
        let status = table(&engine).status().snapshot();
        assert_eq!((status.rows, status.bad, status.samples.len()), (2, 4, samples), "{policy}");
        if let Some(sample) = status.samples.last() {
            assert_eq!(
                (sample.bad.reason.as_str(), sample.bad.id.as_str()),
                ("event time 'ts' is missing at line 1 column 1", "8")
            );
        }
    }
}

#[tokio::test]
async fn a_bad_event_can_be_the_end_of_its_table() {
    let server = Server::start([with_bad_ones().stall()]).await;
    let engine = engine(&create("t", &server, TIMED, "bad_data = 'fail'")).await;
    let error = failure(&mut open(&engine, &counts("t")).await).await;
    assert_eq!(error.code(), Code::BadData);
    assert!(error.message().starts_with("table 't': ") && error.message().contains("'abc'"), "{error}");
    assert!(error.way_out().unwrap().contains("dead_letter"), "{error}");
    let why = table(&engine).silence().unwrap();
    assert!(why.starts_with("failed: ") && why.contains("'abc'"), "{why}");
    server.closed().await;
}

#[tokio::test]
async fn a_generated_column_that_cannot_be_computed_costs_only_its_row() {
    let events = [1, 0, 2, 0, 5].map(|n| format!("data: {{\"n\":{n}}}\n\n")).concat();
    let columns = "n BIGINT, part BIGINT GENERATED ALWAYS AS (10 / n)";
    let server = Server::start([Answer::stream().text(&events)]).await;
    let engine = engine(&create("t", &server, columns, "reconnect = 'false'")).await;
    assert_eq!(rest(&mut open(&engine, "SELECT part FROM t").await).await, ["part=10", "part=5", "part=2"]);
    let status = table(&engine).status().snapshot();
    assert_eq!((status.rows, status.bad, status.samples.len()), (3, 2, 2));
    assert!(status.samples[0].bad.reason.contains("zero"), "{:?}", status.samples[0]);

    let server = Server::start([Answer::stream().text(&events)]).await;
    let engine = super::engine(&create("t", &server, columns, "reconnect = 'false', bad_data = 'fail'")).await;
    assert_eq!(failure(&mut open(&engine, "SELECT part FROM t").await).await.code(), Code::BadData);
}

#[tokio::test]
async fn a_refusal_names_status_and_table() {
    let server = Server::start([Answer::status(401)]).await;
    let engine = engine(&create("prices", &server, TIMED, "")).await;
    let error = failure(&mut open(&engine, &counts("prices")).await).await;
    assert_eq!(error.code(), Code::Status);
    assert!(error.message().contains("table 'prices'") && error.message().contains("401"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

/// Runs a script as a process that knows the secret: exit code, standard output, standard error.
async fn run(script: String) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_streamgauge"));
    command.args(["run", "-c", &script]).env("TABLE_TEST_TOKEN", SECRET).env("RUST_LOG", "trace").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn run_stops_with_the_reason_and_tells_no_secret() {
    let told = Answer::status(401).text(&format!("the token {SECRET} is not known"));
    let server = Server::start([told]).await;
    let secret = "headers = 'Authorization: Bearer {{ TABLE_TEST_TOKEN }}'";
    let script = create("t", &server, TIMED, secret)
        + "SHOW CREATE TABLE t; SHOW STATUS; DESCRIBE t; EXPLAIN SELECT n FROM t; SELECT n FROM t;";
    let (code, out, err) = run(script).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("table 't'") && err.contains("401"), "{err}");
    assert!(out.contains("{{ TABLE_TEST_TOKEN }}"), "{out}");
    assert_eq!(server.requests()[0].header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
    for text in [&out, &err] {
        assert!(!text.contains(SECRET), "{text}");
    }

    let server = Server::start([with_bad_ones()]).await;
    let (code, _, err) = run(create("t", &server, TIMED, "bad_data = 'fail'") + &counts("t")).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("table 't': ") && err.contains("'abc'"), "{err}");
}

#[tokio::test]
async fn nothing_that_a_table_tells_of_itself_holds_a_secret() {
    let told = Answer::status(403).text(&format!("the token {SECRET} is not known"));
    let server = Server::start([told]).await;
    let options = "headers = 'Authorization: Bearer {{ TOKEN }}', body = '{{ TOKEN }}', method = 'POST'";
    let text = create("t", &server, TIMED, options);
    let (statements, _) = sql::parse(&text);
    let StatementKind::CreateTable(create) = &statements[0].kind else { panic!("no table") };
    let mut spec = TableSpec::new(create, &SessionContext::new().state()).unwrap();
    spec.feed = spec.feed.with_variables(Arc::new(|_| Some(SECRET.into())));
    let table = Table::new(spec);
    let mut subscription = table.subscribe(vec![0], Follow::EXACT).unwrap();
    table.start();
    let error = subscription.next().await.unwrap().unwrap_err();
    assert!(subscription.next().await.is_none());
    assert!(server.requests()[0].body.contains(SECRET));
    let (feed, status) = (table.feed_status(), table.status());
    let told = [
        format!("{error} {error:?}"),
        format!("{table:?} {:?}", table.spec()),
        format!("{feed:?} {:?}", feed.snapshot()),
        format!("{status:?} {:?}", status.snapshot()),
        table.silence().unwrap(),
        format!("{subscription:?}"),
    ];
    for text in told {
        assert!(!text.contains(SECRET), "{text}");
    }
}
