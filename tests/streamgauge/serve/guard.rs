//! Who is let in and how many, where feeds may go, and what no text may do to the program.

use reqwest::Method;
use serde_json::{Value, json};
use streamgauge::serve::settings::{Settings, Words};

use super::{Service, json as with_json, send};
use crate::support::server::{Answer as Feed, Server, Signal};

#[tokio::test]
async fn pages_of_others_and_foreign_names_are_kept_out() {
    let mut settings = Settings::default();
    settings.http.cors_origins = Words(vec!["https://dash.example".into()]);
    let service = Service::start_with(settings).await;
    let _feed = service.with_feed(&[]).await;
    let view = json!({"name": "v", "query": "SELECT id FROM feed"});
    for (headers, status) in [
        (&[("host", "evil.example")][..], 421),
        (&[("origin", "https://evil.example")], 403),
        (&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], 403),
        (&[("origin", "null")], 403),
        (&[("origin", "https://dash.example")], 201),
        (&[], 409),
    ] {
        let refused = service.change(Method::POST, "/v1/views", view.clone(), headers).await;
        assert_eq!(refused.status, status, "{headers:?}: {}", refused.text);
    }
    // A form of a page sends without asking first; it cannot say that its body is JSON.
    let form = service.request(Method::POST, "/v1/views").header("content-type", "text/plain").body(view.to_string());
    send(form).await.with(415);
    let read = send(service.request(Method::GET, "/v1/views").header("origin", "https://evil.example")).await;
    assert_eq!((read.status, read.headers.get("access-control-allow-origin")), (200, None), "a page may not read it");
}

#[tokio::test]
async fn a_token_has_so_many_streams_and_a_ticket_one() {
    let mut settings = Settings::default();
    settings.auth.token = Some("0123456789abcdef".to_string().into());
    settings.http.streams_per_token_max = 2;
    let service = Service::start_with(settings).await;
    let _feed = service.with_feed(&[(&Signal::default(), &[("a", 1)])]).await;
    service.sql("CREATE VIEW orders AS SELECT id FROM feed").await;
    service.changes("orders", 1).await;
    let admin = async |path: &str, body: Value| {
        send(with_json(service.request(Method::POST, path).bearer_auth("0123456789abcdef"), &body)).await.with(201)
    };
    let mut tokens = Vec::new();
    for name in ["one", "two"] {
        let made = admin("/v1/tokens", json!({"name": name, "scopes": ["stream:orders"]})).await;
        tokens.push(made["token"].as_str().unwrap().to_string());
    }
    let stream = |credentials: &str| service.request(Method::GET, &format!("/v1/views/orders/stream?{credentials}"));
    let follow = async |credentials: &str| stream(credentials).send().await.unwrap();
    let first = format!("token={}", tokens[0]);
    let mut open = vec![follow(&first).await, follow(&first).await];
    let refused = send(stream(&first)).await;
    assert_eq!((refused.with(429)["status"].clone(), refused.header("retry-after").is_empty()), (json!(429), false));
    open.push(follow(&format!("token={}", tokens[1])).await);
    assert!(open.iter().all(|stream| stream.status() == 200));
    let ticket = admin("/v1/tickets", json!({"views": ["orders"], "ttl_s": 60})).await;
    let ticket = format!("ticket={}&limit=1", ticket["ticket"].as_str().unwrap());
    assert_eq!(send(stream(&ticket)).await.status, 200);
    let used = send(stream(&ticket)).await;
    assert_eq!((used.status, used.header("www-authenticate").is_empty()), (401, false));
    let endless = json!({"sql": "SUBSCRIBE orders"});
    let reader = admin("/v1/tokens", json!({"name": "reader", "scopes": ["read"]})).await;
    let ask = || {
        let request = service.request(Method::POST, "/v1/sql").header("accept", "application/x-ndjson");
        with_json(request.bearer_auth(reader["token"].as_str().unwrap()), &endless)
    };
    open.extend([ask().send().await.unwrap(), ask().send().await.unwrap()]);
    send(ask()).await.with(429);
    drop(open.pop());
    while send(ask().body(json!({"sql": "SUBSCRIBE orders", "limit": 1}).to_string())).await.status == 429 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_look_at_a_feed_takes_the_place_of_a_stream() {
    let mut settings = Settings::default();
    settings.http.streams_max = 1;
    let service = Service::start_with(settings).await;
    let _feed = service.with_feed(&[]).await;
    let look = |what: &str| service.request(Method::GET, &format!("/v1/connection_tables/feed/{what}/stream"));
    let open = look("events").send().await.unwrap();
    assert_eq!(open.status(), 200);
    for what in ["events", "errors", "logs", "gaps"] {
        assert_eq!(send(look(what)).await.status, 503, "{what}");
    }
}

#[tokio::test]
async fn feeds_stay_away_from_where_clouds_keep_their_secrets() {
    let mut settings = Settings::default();
    settings.secrets.env = Some(Words(vec!["FEED_*".into()]));
    let service = Service::start_with(settings).await;
    let table = |endpoint: &str, headers: &str| json!({"name": "a", "connector": "sse", "config": {"endpoint": endpoint, "headers": headers}});
    for (endpoint, headers, expect) in [
        ("http://169.254.169.254/latest/meta-data", "", "169.254.169.254"),
        ("http://[fe80::1]/", "", "fe80::1"),
        ("file:///etc/passwd", "", "endpoint"),
        ("http://127.0.0.1:1/", "X-Key: {{ AWS_SECRET_ACCESS_KEY }}", "AWS_SECRET_ACCESS_KEY"),
        ("http://127.0.0.1:1/?key={{ STREAMGAUGE_TOKEN }}", "", "STREAMGAUGE_TOKEN"),
    ] {
        for path in ["", "/test"] {
            let problem = service.post(&format!("/v1/connection_tables{path}"), table(endpoint, headers)).await.with(422);
            assert!(problem["errors"][0]["message"].as_str().unwrap().contains(expect), "{problem}");
        }
    }
    let file = "CREATE TABLE a (id TEXT) WITH (connector = 'file', path = 'fixtures/news.ndjson')";
    service.post("/v1/sql", json!({"sql": file})).await.with(422);
    // Nor are they led there.
    let server = Server::start([Feed::redirect(302, "http://169.254.169.254/latest/meta-data")]).await;
    let led = table(&server.url(), "");
    let tested =
        service.change(Method::POST, "/v1/connection_tables/test", led, &[("accept", "application/json")]).await.with(200);
    assert_eq!((&tested["success"], server.requests().len()), (&json!(false), 1), "{tested}");
    assert!(tested["message"].as_str().unwrap().contains("169.254.169.254"), "{tested}");
}

/// Longer than any query is, and short enough for the head of a request.
const LONG: usize = 20_000;

#[tokio::test]
async fn no_text_is_too_deep_or_too_long() {
    let service = Service::start().await;
    let _feed = service.with_feed(&[(&Signal::default(), &[("a", 1)])]).await;
    service.sql("CREATE VIEW orders AS SELECT id, total FROM feed").await;
    let nested = |open: &str, close: &str| {
        let times = LONG / (open.len() + close.len());
        format!("{}1{}", open.repeat(times), close.repeat(times))
    };
    let condition = |text: &str| url::form_urlencoded::Serializer::new(String::new()).append_pair("where", text).finish();
    let chained = |first: &str, more: &str| format!("{first}{}", more.repeat(LONG / more.len()));
    for text in [
        nested("(", ")"),
        nested("- ", ""),
        nested("abs(", ")"),
        nested("case when true then ", " end"),
        nested("(select ", ")"),
        chained("true", " and true"),
        chained("1=1", " or 1=1"),
        chained("not ", "not "),
        chained("'a'", "||'a'"),
        chained("1", "::int"),
        chained("id", "[1]"),
        chained("'{}'", "->'a'"),
    ] {
        let sql = format!("SELECT {text}");
        service.post("/v1/sql", json!({"sql": sql})).await.with(422);
        assert_eq!(service.post("/v1/sql/validate", json!({"sql": sql})).await.with(200)["valid"], false);
        service.post("/v1/views?dry_run=true", json!({"name": "v", "query": format!("{sql} FROM feed")})).await.with(422);
        for path in ["results", "changes", "stream"] {
            service.get(&format!("/v1/views/orders/{path}?{}", condition(&text))).await.with(422);
        }
    }
    for text in [
        format!("SELECT 1 FROM orders{}", ", orders".repeat(LONG / 10)),
        format!("WITH a AS (SELECT 1){} SELECT 1", ", b AS (SELECT * FROM a)".repeat(LONG / 30)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(LONG / 20)),
        format!("SELECT * FROM orders{}", " CROSS JOIN orders".repeat(LONG / 20)),
    ] {
        service.post("/v1/sql", json!({"sql": text})).await.with(422);
        service.post("/v1/views", json!({"name": "v", "query": text})).await.with(422);
    }
    // Each of these views reads the one before twice.
    let doubled = async |number: usize| {
        let before = if number == 0 { "orders".to_string() } else { format!("v{}", number - 1) };
        let query = format!("SELECT id FROM {before} UNION ALL SELECT id FROM {before}");
        service.post("/v1/views", json!({"name": format!("v{number}"), "query": query})).await
    };
    let mut last = 0;
    while doubled(last).await.status == 201 {
        last += 1;
    }
    assert!((4..12).contains(&last), "{last}");
    assert!(doubled(last).await.with(422)["detail"].as_str().unwrap().contains("more than 500 parts"));
    let list = format!("id IN ('a'{})", ", 'b'".repeat(LONG / 10));
    service.get(&format!("/v1/views/orders/changes?{}", condition(&list))).await.with(200);
}
