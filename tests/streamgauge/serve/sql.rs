//! Statements over REST: what they give, what is wrong with them and where, who may run which, and how endless ones end.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use streamgauge::serve::settings::Settings;
use tokio::time::timeout;

use super::{Answer, HUNG, Service, json as with_json, send};
use crate::support::server::Signal;

const SQL: &str = "/v1/sql";

impl Service {
    async fn run(&self, sql: &str) -> Answer {
        self.post(SQL, json!({"sql": sql})).await
    }

    fn accept(&self, form: &str, body: Value) -> RequestBuilder {
        with_json(self.request(Method::POST, SQL).header("accept", form), &body)
    }
}

/// A server with a table `feed` of ids and totals whose feed never ends, and the view `orders` over it with two rows.
async fn orders() -> (Service, crate::support::server::Server) {
    let service = Service::start().await;
    let server = service.with_feed(&[(&Signal::default(), &[("a", 1), ("b", 2000)])]).await;
    service.sql("CREATE VIEW orders AS SELECT id, total FROM feed").await;
    service.changes("orders", 2).await;
    (service, server)
}

#[tokio::test]
async fn mistakes_have_their_place_in_the_text_as_it_was_sent() {
    let (service, _server) = orders().await;
    for (sql, start, end, expect) in [
        ("SELECT id,\n  totl\nFROM feed", (2, 3), (2, 7), "'total'"),
        // Columns count characters: what an editor shows.
        ("SELECT 'größe', idd FROM feed", (1, 17), (1, 20), "'id'"),
        ("SELECT '😀😀', idd FROM feed", (1, 14), (1, 17), "'id'"),
        ("\r\n\r\nSELECT id FROM fed", (3, 16), (3, 19), "did you mean 'feed'?"),
        ("SELECT 1;\n\tSELECT id FROM fed;\nSELECT 2", (2, 17), (2, 20), "did you mean 'feed'?"),
        ("CREATE VIEW v AS\n  SELECT cuont(*) FROM feed", (2, 10), (2, 15), "count"),
        ("SELECT 1;\nSELEC 2", (2, 1), (2, 6), ""),
        ("CREATE TABLE t (id TEXT) WITH (connector = 'sse',\n  endpiont = 'http://localhost/')", (2, 3), (2, 33), "'endpoint'"),
        ("DROP VIEW ordres", (1, 11), (1, 17), "did you mean 'orders'?"),
    ] {
        let span = json!({"start": {"line": start.0, "column": start.1}, "end": {"line": end.0, "column": end.1}});
        let problem = service.run(sql).await.with(422);
        assert_eq!((&problem["span"], &problem["errors"][0]["pointer"]), (&span, &json!("/sql")), "{sql}: {problem}");
        assert!(problem["errors"].to_string().contains(expect), "{sql}: {problem}");
        let checked = service.post("/v1/sql/validate", json!({"sql": sql})).await.with(200);
        assert_eq!((&checked["valid"], &checked["errors"][0]["span"]), (&json!(false), &span), "{sql}: {checked}");
        assert_eq!(checked["errors"][0]["code"], problem["code"], "{sql}");
        assert_eq!(checked["errors"][0]["hint"], problem["errors"][0]["hint"], "{sql}");
    }
    let long = service.run(&format!("SELECT '{}'", "x".repeat(64 * 1024))).await.with(413);
    assert_eq!(long["errors"][0]["pointer"], "/sql");
}

#[tokio::test]
async fn statements_run_one_after_the_other_until_one_fails() {
    let (service, _server) = orders().await;
    let script = "CREATE VIEW large AS SELECT id FROM orders WHERE total > 1000; -- a comment; with a semicolon\n\
                  SHOW VIEWS;\nSELECT id, total FROM orders ORDER BY total DESC;\nSELECT 'a;b' AS text, 1 AS one";
    let results = service.run(script).await.with(200)["results"].clone();
    let results = results.as_array().unwrap();
    assert_eq!(results.len(), 4, "{results:?}");
    assert!(results[0]["statement"].as_str().unwrap().starts_with("CREATE VIEW large"), "{}", results[0]);
    assert_eq!((results[0].get("rows"), results[0].get("ended_by")), (None, None));
    assert!(results[1]["rows"].to_string().contains("\"large\""), "{}", results[1]);
    assert_eq!(results[2]["rows"], json!([{"id": "b", "total": 2000}, {"id": "a", "total": 1}]));
    assert_eq!(results[2]["columns"][1], json!({"name": "total", "type": "BIGINT"}));
    assert_eq!((&results[2]["ended_by"], &results[3]["rows"]), (&json!("end"), &json!([{"text": "a;b", "one": 1}])));
    // What cannot be read is refused before anything is done; what fails ends the rest.
    service.run("DROP VIEW large; SELEC").await.with(422);
    service.get("/v1/views/large").await.with(200);
    service.run("DROP VIEW large; DROP VIEW lagre; DROP VIEW orders").await.with(422);
    service.get("/v1/views/large").await.with(404);
    service.get("/v1/views/orders").await.with(200);
    for nothing in ["", " ; -- nothing\n"] {
        assert_eq!(service.run(nothing).await.with(200)["results"], json!([]), "{nothing:?}");
    }
    // A secret is not sent back, not even to its sender.
    let table = "CREATE TABLE t (id TEXT) WITH (connector = 'sse', endpoint = 'http://127.0.0.1:1/', headers = 'X-Key: geheim')";
    let made = service.run(table).await;
    assert!(made.with(200)["results"][0]["statement"].as_str().unwrap().contains("X-Key: ***"), "{}", made.text);
}

#[tokio::test]
async fn each_statement_asks_for_its_own_scope() {
    let mut settings = Settings::default();
    settings.auth.token = Some("0123456789abcdef".to_string().into());
    let service = Service::start_with(settings).await;
    let _feed = service.with_feed(&[]).await;
    service.sql("CREATE VIEW orders AS SELECT id FROM feed").await;
    let post = async |token: &str, path: &str, body: Value| -> Answer {
        send(with_json(service.request(Method::POST, path).bearer_auth(token), &body)).await
    };
    let mut tokens = Vec::new();
    for scope in ["stream:orders", "read", "write", "admin"] {
        let made = post("0123456789abcdef", "/v1/tokens", json!({"name": scope, "scopes": [scope]})).await.with(201);
        tokens.push(made["token"].as_str().unwrap().to_string());
    }
    for (sql, statuses) in [
        ("SELECT 1", [403, 200, 200, 200]),
        ("SHOW TABLES", [403, 200, 200, 200]),
        ("EXPLAIN SELECT id FROM feed", [403, 200, 200, 200]),
        ("SUBSCRIBE orders", [403, 200, 200, 200]),
        ("SELECT 1; CREATE VIEW v AS SELECT id FROM feed", [403, 403, 200, 409]),
        ("DROP VIEW IF EXISTS w", [403, 403, 200, 200]),
        ("SET datafusion.execution.batch_size = 1000", [403, 403, 403, 200]),
        // Who may not even read is not told what is wrong.
        ("SELEC", [403, 422, 422, 422]),
    ] {
        for (token, status) in tokens.iter().zip(statuses) {
            let answer = post(token, SQL, json!({"sql": sql})).await;
            assert_eq!(answer.status, status, "{sql}: {}", answer.text);
        }
    }
    let refused = post(&tokens[1], SQL, json!({"sql": "CREATE VIEW x AS SELECT 1; SELECT 1"})).await.with(403);
    assert!(refused["detail"].as_str().unwrap().contains("'write'"), "{refused}");
    let path = "/v1/sql/validate";
    for (token, status) in tokens.iter().zip([403, 200, 200, 200]) {
        assert_eq!(post(token, path, json!({"sql": "DROP VIEW orders"})).await.status, status);
    }
    assert_eq!(service.app.engine.views().len(), 2, "orders, and v once");
}

#[tokio::test]
async fn an_endless_query_ends_as_it_is_told_to() {
    let (service, _server) = orders().await;
    let outcome = async |body: Value| service.post(SQL, body).await.with(200)["results"][0].clone();
    let endless = "SELECT id FROM feed";
    let late = outcome(json!({"sql": endless, "timeout": "10ms"})).await;
    assert_eq!((&late["ended_by"], &late["rows"]), (&json!("timeout"), &json!([])), "it joins after the events");
    let limited = outcome(json!({"sql": "SELECT id FROM orders", "limit": 1})).await;
    assert_eq!((&limited["ended_by"], &limited["rows"]), (&json!("limit"), &json!([{"id": "a"}])));
    let limit = outcome(json!({"sql": "SELECT id FROM orders LIMIT 1"})).await;
    assert_eq!((&limit["ended_by"], &limit["rows"]), (&json!("end"), &json!([{"id": "a"}])));
    let followed = outcome(json!({"sql": "SUBSCRIBE orders"})).await;
    assert_eq!(followed["rows"].as_array().unwrap().len(), 2);
    assert!(followed["notices"][0].as_str().unwrap().contains("/v1/views/orders/stream"), "{followed}");
    for (timeout, expect) in [("5", "unit"), ("soon", "soon"), ("", "")] {
        let problem = service.post(SQL, json!({"sql": endless, "timeout": timeout})).await.with(422);
        assert_eq!(problem["errors"][0]["pointer"], "/timeout");
        assert!(problem.to_string().contains(expect), "{problem}");
    }
    for (form, content_type, text) in [
        ("application/x-ndjson", "application/x-ndjson", "{\"id\":\"a\"}\n{\"id\":\"b\"}\n"),
        ("text/csv", "text/csv", "id\na\nb\n"),
        ("text/html, text/csv;q=0.5", "text/csv", "id\na\nb\n"),
    ] {
        let answer = send(service.accept(form, json!({"sql": "SELECT 1; SELECT id FROM orders"}))).await;
        assert_eq!((answer.status, answer.header("content-type"), answer.text.as_str()), (200, content_type, text), "{form}");
    }
    let form = "application/vnd.apache.arrow.stream";
    let arrow = service.accept(form, json!({"sql": "SELECT id FROM orders"})).send().await.unwrap();
    let mut arrow = arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(arrow.bytes().await.unwrap()), None).unwrap();
    assert_eq!(arrow.next().unwrap().unwrap().num_rows(), 2);
    let many = "SELECT unnest(range(0, 25000)) AS n";
    let arrow = service.accept(form, json!({"sql": many})).send().await.unwrap().bytes().await.unwrap();
    let arrow = arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(arrow), None).unwrap();
    assert_eq!(arrow.map(|rows| rows.unwrap().num_rows()).sum::<usize>(), 25_000, "no row is left out without a word");
    let none = send(service.accept("text/csv", json!({"sql": "SELECT id FROM orders WHERE total < 0"}))).await;
    assert_eq!(none.text, "id\n", "no rows, and yet a header");
    for (form, sql) in [("text/html", "SELECT 1"), (form, "SUBSCRIBE orders"), ("text/csv", "SUBSCRIBE orders")] {
        send(service.accept(form, json!({"sql": sql}))).await.with(406);
    }
    let lines = send(service.accept("application/x-ndjson", json!({"sql": "SUBSCRIBE orders", "limit": 2}))).await;
    assert_eq!(lines.text.lines().count(), 2, "{}", lines.text);
    assert!(lines.text.starts_with("{\"op\":\"added\""), "{}", lines.text);
}

#[tokio::test]
async fn a_limit_counts_changes_and_cuts_none_in_two() {
    let mut settings = Settings::default();
    settings.feeds.files = true;
    let service = Service::start_with(settings).await;
    let path = format!("{}/fixtures/database_changes.ndjson", env!("CARGO_MANIFEST_DIR"));
    let table = "CREATE TABLE gauges (id INT PRIMARY KEY, value DECIMAL(10, 2)) WITH (connector = 'file', format = 'wal2json'";
    service.sql(&format!("{table}, table = 'public.gauges', path = '{path}')")).await;
    let sql = "SELECT id, value FROM gauges WHERE id = 1";
    let all = service.run(sql).await.with(200)["results"][0]["rows"].clone();
    let ops: Vec<&str> = all.as_array().unwrap().iter().map(|change| change["op"].as_str().unwrap()).collect();
    assert_eq!(ops[..2], ["added", "updated"], "{all}");
    let two = service.post(SQL, json!({"sql": sql, "limit": 2})).await.with(200)["results"][0].clone();
    assert_eq!((&two["rows"][1], &two["rows"][2], &two["ended_by"]), (&all[1], &Value::Null, &json!("limit")), "{two}");
    let lines = send(service.accept("application/x-ndjson", json!({"sql": sql, "limit": 2}))).await;
    assert_eq!(
        lines.text.lines().map(|line| line.parse::<Value>().unwrap()).collect::<Vec<_>>(),
        [all[0].clone(), all[1].clone()]
    );
}

#[tokio::test]
async fn a_query_ends_with_its_client_and_with_the_server() {
    let service = Service::start().await;
    let server = service.with_feed(&[(&Signal::default(), &[("a", 1)])]).await;
    let endless = json!({"sql": "SELECT id FROM feed", "timeout": "5 minutes"});
    for (request, form) in ["application/x-ndjson", "application/json"].into_iter().enumerate() {
        let asking = tokio::spawn(send(service.accept(form, endless.clone())));
        // Nobody else reads the feed: its connection is the query's.
        server.request(request).await;
        asking.abort();
        timeout(HUNG, server.closed()).await.unwrap_or_else(|_| panic!("{form}: the query goes on without its client"));
    }
    let mut rows = service.accept("application/x-ndjson", endless).send().await.unwrap();
    assert_eq!(rows.chunk().await.unwrap().unwrap(), "{\"id\":\"a\"}\n");
    service.stop().await;
    assert_eq!(rows.chunk().await.unwrap(), None, "the body ends as it should");
}

#[tokio::test]
async fn a_check_makes_nothing_and_tells_everything() {
    let (service, server) = orders().await;
    let check = async |sql: &str| service.post("/v1/sql/validate", json!({"sql": sql})).await.with(200);
    let valid = check("CREATE VIEW a AS SELECT id, total * 2 AS double FROM orders; CREATE VIEW b AS SELECT id FROM a").await;
    assert_eq!((&valid["valid"], &valid["errors"]), (&json!(true), &json!([])), "{valid}");
    assert_eq!(valid["schema"], json!([{"name": "id", "type": "TEXT"}]));
    let windowed = check("SELECT count(*) AS n, TUMBLE(INTERVAL '1 minute') AS window FROM feed GROUP BY window").await;
    assert_eq!(windowed["valid"], true, "{windowed}");
    let several = check("SELECT idd FROM feed;\nSELECT id FROM fed;\nSELECT id FROM feed").await;
    let lines: Vec<&Value> = several["errors"].as_array().unwrap().iter().map(|error| &error["span"]["start"]["line"]).collect();
    assert_eq!(lines, [1, 2], "{several}");
    check("DROP TABLE feed CASCADE; SELECT 1").await;
    check(&format!("CREATE OR REPLACE VIEW orders AS SELECT id FROM feed; -- {}", server.url())).await;
    assert_eq!(service.app.engine.views().len(), 1);
    assert_eq!(service.get("/v1/views/orders").await.with(200)["columns"].as_array().unwrap().len(), 2);
    assert_eq!(server.requests().len(), 1, "nothing more is read");
}
