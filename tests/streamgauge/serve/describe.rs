//! What the server says about itself: the OpenAPI document and every operation in it, the page that shows it, the metrics.

use std::collections::BTreeSet;
use std::path::Path;

use reqwest::Method;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use streamgauge::docs::PAGES;
use streamgauge::serve::metrics;
use streamgauge::serve::settings::Settings;

use super::{Answer, Service, send};
use crate::support::server::{Answer as Feed, Server};

const ADMIN: &str = "0123456789abcdef";
const SECRET: &str = "geheimnis";
const BODY_BYTES_MAX: usize = 10_000;

/// A server with a table `feed`, a view `orders` and a stream `live`, behind tokens.
struct Guarded {
    service: Service,
    reader: String,
    document: Value,
    feed: Server,
    _data: tempfile::TempDir,
}

/// An operation of the document.
struct Operation<'a> {
    method: Method,
    path: &'a str,
    says: &'a Value,
}

impl Guarded {
    async fn start() -> Guarded {
        let data = tempfile::tempdir().unwrap();
        let mut settings = Settings { data: Some(data.path().into()), ..Settings::default() };
        settings.auth.token = Some(ADMIN.to_string().into());
        settings.http.body_bytes_max = BODY_BYTES_MAX;
        let service = Service::start_with(settings).await;
        let feed =
            Server::start([Feed::stream().event("message", r#"{"id": "a", "total": 7}"#).event("message", "{").stall()]).await;
        let admin = |path: &str, body: Value| {
            let request = service.request(Method::POST, path).bearer_auth(ADMIN);
            send(super::json(request, &body))
        };
        let table = json!({
            "name": "feed",
            "connector": "sse",
            "config": {"endpoint": feed.url(), "headers": format!("Authorization: Bearer {SECRET}")},
            "schema": {"format": "json", "fields": [{"name": "id", "type": "TEXT"}, {"name": "total", "type": "BIGINT"}]},
        });
        admin("/v1/connection_tables", table).await.with(201);
        admin("/v1/views", json!({"name": "orders", "query": "SELECT id, total FROM feed"})).await.with(201);
        let stream = json!({"id": "live", "views": ["orders"], "path": "/live", "visibility": "public"});
        admin("/v1/streams", stream).await.with(201);
        let token = admin("/v1/tokens", json!({"name": "reader", "scopes": ["read"]})).await.with(201);
        let reader = token["token"].as_str().unwrap().to_string();
        let document = service.get("/openapi.json").await.with(200);
        Guarded { service, reader, document, feed, _data: data }
    }

    fn operations(&self) -> Vec<Operation<'_>> {
        let paths = self.document["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let item = item.as_object().unwrap();
            item.iter().map(|(method, says)| Operation { method: method.to_uppercase().parse().unwrap(), path, says })
        });
        operations.collect()
    }

    /// Asks, and checks that the document knows this answer.
    async fn ask(&self, operation: &Operation<'_>, id: &str, token: Option<&str>, body: Option<(&str, &str)>) -> Answer {
        let mut request = self.service.request(operation.method.clone(), &operation.path.replace("{id}", id));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some((content_type, body)) = body {
            request = request.header("content-type", content_type).body(body.to_string());
        }
        let answer = send(request).await;
        let status = answer.status.to_string();
        let known = &operation.says["responses"][&status];
        assert!(!known.is_null(), "{}: the document does not know {status}: {}", operation.line(), answer.text);
        if answer.status >= 400 && operation.path != "/readyz" {
            assert_eq!(answer.header("content-type"), "application/problem+json", "{}", operation.line());
            let problem = answer.json();
            assert_ne!(problem["code"], "SG-1602", "{}: nothing is there", operation.line());
        }
        assert!(answer.status < 500 || operation.path == "/readyz", "{}: {}", operation.line(), answer.text);
        answer
    }

    /// The schema of an operation's body.
    fn body<'a>(&'a self, operation: &'a Operation<'_>) -> Option<&'a Value> {
        let content = operation.says["requestBody"]["content"].as_object()?;
        let schema = &content.values().next()?["schema"];
        match schema["$ref"].as_str() {
            Some(name) => self.document.pointer(name.trim_start_matches('#')),
            None => Some(schema),
        }
    }
}

impl Operation<'_> {
    fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn name(&self) -> String {
        self.says["operationId"].as_str().unwrap().to_string()
    }

    /// Whether the document knows the type of this answer.
    fn gives(&self, answer: &Answer) -> bool {
        let content_type = answer.header("content-type").split(';').next().unwrap();
        !self.says["responses"][answer.status.to_string()]["content"][content_type].is_null()
    }

    fn is_open(&self) -> bool {
        self.says["security"] == json!([])
    }

    /// It goes on until the client leaves.
    fn is_endless(&self) -> bool {
        let content = &self.says["responses"]["200"]["content"];
        self.method == Method::GET && !content["text/event-stream"].is_null() && content["application/json"].is_null()
    }

    /// Something that is there.
    fn known(&self) -> &'static str {
        match self.path.split('/').find(|part| !matches!(*part, "" | "v1" | "api")).unwrap() {
            "connection_tables" => "feed",
            "connectors" => "sse",
            "views" | "queries" => "orders",
            "streams" | "reactions" => "live",
            "tokens" => "reader",
            other => other.to_string().leak(),
        }
    }
}

/// Rewritten by `UPDATE_GOLDEN=1 cargo test describe`.
#[tokio::test]
async fn the_document_is_the_one_that_is_kept_and_holds_together() {
    let server = Guarded::start().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/openapi.json");
    let fresh = serde_json::to_string_pretty(&server.document).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let wrong = kept.lines().zip(fresh.lines()).find(|(old, new)| old != new);
    assert!(kept == fresh, "UPDATE_GOLDEN=1 writes it anew; the first difference: {wrong:?}");

    let mut names = BTreeSet::new();
    for operation in server.operations() {
        let line = operation.line();
        assert!(names.insert(operation.name()), "{line}: its id is taken");
        assert!(operation.says["summary"].is_string(), "{line} has no summary");
        let tag = &operation.says["tags"][0];
        assert!(server.document["tags"].as_array().unwrap().iter().any(|known| known["name"] == *tag), "{line}: {tag}");
    }
    let mut rest = vec![&server.document];
    while let Some(value) = rest.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            assert!(server.document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
        }
        rest.extend(value.as_object().into_iter().flat_map(|members| members.values()));
        rest.extend(value.as_array().into_iter().flatten());
    }
}

#[tokio::test]
async fn every_operation_asks_for_a_token_unless_it_is_open() {
    let server = Guarded::start().await;
    for operation in server.operations() {
        let body = server.body(&operation).map(|_| ("application/json", "{}"));
        for token in [None, Some("not-a-token")] {
            if operation.is_open() {
                server.ask(&operation, "nothing", token, body).await;
                continue;
            }
            let refused = server.ask(&operation, operation.known(), token, body).await;
            assert_eq!(refused.status, 401, "{}", operation.line());
            assert!(refused.header("www-authenticate").starts_with("Bearer"), "{}", operation.line());
        }
    }
}

#[tokio::test]
async fn who_may_read_may_not_write() {
    let server = Guarded::start().await;
    for operation in server.operations() {
        let reads = operation.method == Method::GET && !operation.path.starts_with("/v1/tokens");
        if reads || ["/v1/sql", "/v1/sql/validate", "/v1/tickets"].contains(&operation.path) {
            continue;
        }
        let body = server.body(&operation).map(|_| ("application/json", "{}"));
        let refused = server.ask(&operation, operation.known(), Some(&server.reader), body).await;
        assert_eq!(refused.status, 403, "{}: {}", operation.line(), refused.text);
    }
    for (statement, status) in
        [("SELECT * FROM orders LIMIT 1", 200), ("DROP VIEW orders", 403), ("SELECT 1; DROP TABLE feed", 403)]
    {
        let request = server.service.request(Method::POST, "/v1/sql").bearer_auth(&server.reader);
        send(super::json(request, &json!({"sql": statement, "timeout": "1ms"}))).await.with(status);
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_404() {
    let server = Guarded::start().await;
    for operation in server.operations() {
        if operation.path.contains('{') && operation.method != Method::PUT {
            let body = server.body(&operation).map(|_| ("application/json", "{}"));
            let missing = server.ask(&operation, "nothing", Some(ADMIN), body).await;
            assert_eq!(missing.status, 404, "{}: {}", operation.line(), missing.text);
        }
    }
}

#[tokio::test]
async fn every_operation_can_be_done() {
    let server = Guarded::start().await;
    // As many events as a trial looks at; fewer would let it wait for more.
    let busy = (0..100).fold(Feed::stream(), |feed, _| feed.event("message", r#"{"id": "a", "total": 7}"#));
    let busy = Server::start([busy.stall()]).await;
    let fields = json!([{"name": "id", "type": "TEXT"}, {"name": "total", "type": "BIGINT"}]);
    let table = json!({
        "name": "second",
        "connector": "sse",
        "config": {"endpoint": busy.url()},
        "schema": {"format": "json", "fields": fields},
    });
    let mut undone: BTreeSet<String> = server.operations().iter().map(|operation| operation.name()).collect();
    for (name, id, body, status) in [
        ("test_schema", "", table.clone(), 200),
        ("test_table", "", table.clone(), 200),
        ("create_table", "", table.clone(), 201),
        ("put_table", "second", table, 200),
        ("patch_table", "second", json!({"config": {"headers": "X-Trace: b"}}), 200),
        ("pause_table", "second", Value::Null, 202),
        ("resume_table", "second", Value::Null, 202),
        ("disconnect_table", "second", Value::Null, 202),
        ("reconnect_table", "second", Value::Null, 202),
        ("create_view", "", json!({"name": "copy", "query": "SELECT id FROM second"}), 201),
        ("put_view", "copy", json!({"query": "SELECT id, total FROM second"}), 200),
        ("validate_sql", "", json!({"sql": "SELECT id FROM copy"}), 200),
        ("run_sql", "", json!({"sql": "SHOW TABLES"}), 200),
        ("create_stream", "", json!({"id": "other", "views": ["copy"], "path": "/other"}), 201),
        ("put_stream", "other", json!({"views": ["copy", "orders"], "path": "/others"}), 200),
        ("stop_stream", "other", Value::Null, 200),
        ("start_stream", "other", Value::Null, 200),
        ("stop_reaction", "other", Value::Null, 200),
        ("start_reaction", "other", Value::Null, 200),
        ("take_checkpoint", "", Value::Null, 201),
        ("create_ticket", "", json!({"views": ["copy"]}), 201),
        ("create_token", "", json!({"name": "second", "scopes": ["read"]}), 201),
        ("delete_token", "second", Value::Null, 204),
        ("delete_stream", "other", Value::Null, 204),
        ("delete_view", "copy", Value::Null, 204),
        ("delete_table", "second", Value::Null, 204),
    ] {
        let operations = server.operations();
        let operation = operations.iter().find(|operation| operation.name() == name).expect(name);
        let text = body.to_string();
        let body = (!body.is_null()).then_some(("application/json", text.as_str()));
        let answer = server.ask(operation, id, Some(ADMIN), body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
        if status != 204 {
            assert!(operation.gives(&answer), "{name}: the document does not know {}", answer.header("content-type"));
        }
        undone.remove(name);
    }
    for operation in server.operations().iter().filter(|operation| operation.method == Method::GET) {
        undone.remove(&operation.name());
        if !operation.is_endless() {
            let answer = server.ask(operation, operation.known(), Some(ADMIN), None).await;
            assert_eq!(answer.status, 200, "{}: {}", operation.line(), answer.text);
            assert!(operation.gives(&answer), "{}: {}", operation.line(), answer.header("content-type"));
            continue;
        }
        let path = operation.path.replace("{id}", operation.known());
        let stream = server.service.request(Method::GET, &path).bearer_auth(ADMIN).send().await.unwrap();
        assert_eq!(stream.status(), 200, "{path}");
        assert_eq!(stream.headers()["content-type"], "text/event-stream", "{path}");
    }
    assert!(undone.is_empty(), "no test shows that these can be done: {undone:?}");
}

#[tokio::test]
async fn wrong_bodies_are_refused_with_the_reason() {
    let server = Guarded::start().await;
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(BODY_BYTES_MAX));
    for operation in server.operations() {
        let Some(schema) = server.body(&operation) else { continue };
        let ask = async |content_type: &str, body: &str| {
            server.ask(&operation, operation.known(), Some(ADMIN), Some((content_type, body))).await
        };
        let line = operation.line();
        for (content_type, body) in [("application/json", "{\"a\": "), ("application/json", ""), ("application/yaml", "a: [")] {
            assert_eq!(ask(content_type, body).await.status, 400, "{line}: {body}");
        }
        assert_eq!(ask("text/plain", "{}").await.status, 415, "{line}");
        assert_eq!(ask("application/json", &large).await.status, 413, "{line}");
        assert_eq!(ask("application/json", "[]").await.status, 422, "{line}");
        let Some(name) = schema["properties"].as_object().and_then(|known| known.keys().max_by_key(|name| name.len())) else {
            continue;
        };
        let wrong = json!({&name[..name.len() - 1]: 1}).to_string();
        let answer = ask("application/json", &wrong).await;
        let problem = answer.with(422);
        let told = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .any(|mistake| mistake["hint"].as_str().is_some_and(|hint| hint.contains(&format!("did you mean '{name}'?"))));
        assert!(told, "{line}: {wrong} gives {problem}");
    }
}

#[tokio::test]
async fn a_query_parameter_that_is_not_known_is_refused() {
    let server = Guarded::start().await;
    for operation in server.operations() {
        let parameters = operation.says["parameters"].as_array().cloned().unwrap_or_default();
        let Some(name) = parameters.iter().find(|parameter| parameter["in"] == "query").and_then(|known| known["name"].as_str())
        else {
            continue;
        };
        let path = format!("{}?{name}x=1", operation.path.replace("{id}", operation.known()));
        let mut request = server.service.request(operation.method.clone(), &path).bearer_auth(ADMIN);
        if server.body(&operation).is_some() {
            request = super::json(request, &json!({}));
        }
        let answer = send(request).await;
        assert_eq!(answer.status, 400, "{}: {}", operation.line(), answer.text);
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let service = Service::start().await;
    let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    for path in ["/", "/docs"] {
        let answer = client.get(format!("{}{path}", service.url)).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (307, "docs/"), "{path}");
    }
    let page = service.get("/docs/api/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html"));
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    let links: Vec<&str> = page.text.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css")).collect();
    assert!(links.len() >= 4, "{}", page.text);
    for link in links {
        assert!(!link.contains("//"), "{link} is elsewhere");
        assert_eq!(service.get(&format!("/docs/api/{}", link.trim_start_matches("./"))).await.status, 200, "{link}");
    }
    let start = service.get("/docs/api/swagger-initializer.js").await;
    assert!(start.text.contains("/openapi.json") && start.text.contains("\"validatorUrl\": \"none\""), "{}", start.text);
    assert_eq!(service.get("/docs/api/nothing").await.status, 404);
}

#[tokio::test]
async fn the_documentation_is_shown_page_by_page() {
    let service = Service::start().await;
    let index = service.get("/docs/").await;
    assert!(index.text.contains("<a href=\"api/\">"), "{}", index.text);
    for page in PAGES {
        assert!(index.text.contains(&format!("<a href=\"{}\">", page.name)), "{}", index.text);
        let shown = service.get(&format!("/docs/{}", page.name)).await;
        assert_eq!((shown.status, shown.header("content-type")), (200, "text/html; charset=utf-8"), "{}", page.name);
        assert!(shown.header("content-security-policy").contains("default-src 'none'"));
        assert!(shown.text.contains(&format!("<title>{}</title>", page.title())), "{}", shown.text);
    }
    assert!(service.get("/docs/settings").await.text.contains("<code class=\"language-toml\">"));
    assert!(service.get("/docs/metrics").await.text.contains("<td><code>streamgauge_build_info</code></td>"));
    assert_eq!(service.get("/docs/style.css").await.header("content-type"), "text/css");
    let wrong = service.get("/docs/setings").await;
    assert_eq!(wrong.status, 404);
    assert!(wrong.text.contains("did you mean /docs/settings?"), "{}", wrong.text);
}

#[tokio::test]
async fn info_tells_what_may_be_expected() {
    let server = Guarded::start().await;
    let info = send(server.service.request(Method::GET, "/v1/info").bearer_auth(ADMIN)).await.with(200);
    assert_eq!((&info["auth"], &info["tables"], &info["views"]), (&json!("token"), &json!(1), &json!(1)));
    assert_eq!(info["limits"]["body_bytes_max"], BODY_BYTES_MAX);
    assert!(info["limits"]["streams_max"].is_u64() && info["limits"]["streams_per_address_max"].is_null(), "{info}");
    assert_eq!(info["features"], json!({"connectors": ["sse"], "keeps": true, "files": false}));
}

#[tokio::test]
async fn the_metrics_tell_of_the_server_its_tables_views_and_streams() {
    let server = Guarded::start().await;
    let statement = json!({"sql": r#"CREATE VIEW "a""b\c" AS SELECT id FROM feed"#});
    send(super::json(server.service.request(Method::POST, "/v1/sql").bearer_auth(ADMIN), &statement)).await.with(200);
    let live = server.service.app.streams.live("orders").unwrap();
    let mut follower = live.follow(0);
    while live.head() < 1 {
        follower.changed().await;
    }
    let mut stream = server.service.request(Method::GET, "/v1/views/orders/stream").bearer_auth(ADMIN).send().await.unwrap();
    let mut seen = String::new();
    while !seen.contains("\"total\":7") {
        seen += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
    }
    let answer = send(server.service.request(Method::GET, "/metrics").bearer_auth(&server.reader)).await;
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text;
    assert!(text.ends_with("# EOF\n"), "{text}");
    for sample in [
        format!("streamgauge_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        "streamgauge_streams_open 1.0".into(),
        "streamgauge_table_state{table=\"feed\",state=\"connected\"} 1".into(),
        "streamgauge_table_state{table=\"feed\",state=\"backing_off\"} 0".into(),
        "streamgauge_table_events_total{table=\"feed\"} 2".into(),
        "streamgauge_table_rows_total{table=\"feed\"} 1".into(),
        "streamgauge_table_bad_total{table=\"feed\"} 1".into(),
        "streamgauge_table_gaps_total{table=\"feed\"} 0".into(),
        "streamgauge_table_gap_seconds_total{table=\"feed\"} 0.0".into(),
        "streamgauge_table_reconnects_total{table=\"feed\",cause=\"broken\"} 0".into(),
        "streamgauge_view_state{view=\"orders\",state=\"running\"} 1".into(),
        "streamgauge_view_changes_total{view=\"orders\"} 1".into(),
        "streamgauge_view_rows{view=\"orders\"} 1.0".into(),
        "streamgauge_view_state_bytes{view=\"orders\"} 0.0".into(),
        "streamgauge_checkpoints_failed_total 0".into(),
        "streamgauge_view_rows{view=\"a\\\"b\\\\c\"} ".into(),
        "streamgauge_view_emit_latency_seconds_count{view=\"orders\"} 1".into(),
        "streamgauge_view_emit_latency_seconds_bucket{le=\"+Inf\",view=\"orders\"} 1".into(),
        "streamgauge_stream_clients{kind=\"view\",stream=\"orders\"} 1.0".into(),
        "streamgauge_stream_clients{kind=\"named\",stream=\"live\"} 0.0".into(),
        "# UNIT streamgauge_table_read_bytes bytes".into(),
    ] {
        assert!(text.contains(&format!("\n{sample}")), "{sample} is missing in\n{text}");
    }
    for secret in [SECRET, &server.feed.url(), ADMIN, &server.reader] {
        assert!(!text.contains(secret), "{secret}");
    }
    for line in metrics::described().lines().skip(2) {
        let name = line.split('`').nth(1).unwrap();
        let family = name.trim_end_matches("_total").trim_end_matches("_info");
        for about in ["HELP", "TYPE"] {
            assert!(text.contains(&format!("# {about} {family} ")), "{about} of {family} is missing");
        }
    }
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(families.iter().collect::<BTreeSet<_>>().len(), families.len(), "a metric is told twice");
    assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("streamgauge_")));
}
