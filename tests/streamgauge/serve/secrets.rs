//! Secrets show nowhere: not in answers, not in mistakes, not in the log, whoever repeats them.

use reqwest::Method;
use serde_json::{Value, json};

use super::program::Process;
use super::{Answer, json as with_json, send};
use crate::support::server::{Answer as Feed, Server};

/// What all secrets here have in common.
const MARK: &str = "geheim";
const ADMIN: &str = "geheim-admin-0123456789";

/// Servers that repeat all they are told: in a mistake, then in events, one of which is no JSON.
async fn parrots(number: usize) -> Vec<Server> {
    let told = |request: &crate::support::server::Request| {
        let headers: Vec<&str> = request.headers.iter().map(|(_, value)| value.as_str()).collect();
        format!("{} {}", request.target, headers.join(" "))
    };
    let mut servers = Vec::new();
    for _ in 0..number {
        let fails = Feed::by(move |request| Feed::status(500).content_type("text/plain").text(&told(request)));
        let repeats = Feed::by(move |request| {
            let told = told(request);
            Feed::stream()
                .event("message", &json!({"id": told}).to_string())
                .text(&format!("id: {told}\nevent: {told}\ndata: {told}\n\n"))
                .stall()
        });
        servers.push(Server::start([fails, repeats]).await);
    }
    servers
}

#[tokio::test]
async fn no_secret_leaves_the_server() {
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().to_str().unwrap();
        let environment = [("STREAMGAUGE_TOKEN", ADMIN), ("FEED_TOKEN", "geheim-variable")];
        let process = Process::start(&["-v", "--data", data, "--log-format", format], &environment).await;
        let mut said = Said::default();
        let feeds = parrots(3).await;
        let [listed, in_url, in_body] = &feeds[..] else { unreachable!() };
        let with_user = in_url.url().replace("http://", "http://anna:geheim-password@");
        let configs = [
            json!({"endpoint": listed.url(), "headers": "Authorization: Bearer geheim-header, X-Api-Key: geheim-key, X-Token: {{ FEED_TOKEN }}"}),
            json!({"endpoint": format!("{with_user}/feed?api_key=geheim-query&token={{{{ FEED_TOKEN }}}}")}),
            json!({"endpoint": in_body.url(), "method": "POST", "reconnect": true, "headers": {"X-Session": "geheim-object"}, "body": "{\"key\": \"geheim-body\", \"token\": \"{{ FEED_TOKEN }}\"}"}),
        ];
        let ask = async |method: Method, path: &str, token: &str, body: Option<&Value>| -> Answer {
            let request = process.client.request(method, format!("{}{path}", process.url)).bearer_auth(token);
            send(match body {
                Some(body) => with_json(request, body),
                None => request,
            })
            .await
        };
        for (name, mut config) in ["listed", "in_url", "in_body"].into_iter().zip(configs) {
            config["reconnect_delay_ms"] = 0.into();
            let table = json!({"name": name, "connector": "sse", "config": config, "schema": {"fields": [{"name": "id", "type": "BIGINT"}]}});
            said.hear(ask(Method::POST, "/v1/connection_tables", ADMIN, Some(&table)).await, 201);
            said.hear(ask(Method::POST, "/v1/connection_tables", ADMIN, Some(&table)).await, 409);
            let view = json!({"name": format!("{name}_view"), "query": format!("SELECT id FROM {name}")});
            said.hear(ask(Method::POST, "/v1/views", ADMIN, Some(&view)).await, 201);
            // Wrong in one place, with the secrets in the others.
            let mut wrong = table.clone();
            wrong["config"]["event"] = "x".into();
            for path in ["", "/test", "/schemas/test"] {
                said.hear(ask(Method::POST, &format!("/v1/connection_tables{path}"), ADMIN, Some(&wrong)).await, 0);
            }
            said.hear(
                ask(Method::PATCH, &format!("/v1/connection_tables/{name}"), ADMIN, Some(&json!({"config": {"event": MARK}})))
                    .await,
                422,
            );
            for broken in ["headers", "body", "proxy", "endpoint"] {
                let mut wrong = table.clone();
                wrong["config"][broken] = json!(format!("http://{MARK}:{MARK}@ {MARK}"));
                said.hear(ask(Method::POST, "/v1/connection_tables/schemas/test", ADMIN, Some(&wrong)).await, 0);
            }
        }
        // Both attempts of every feed are told of.
        for feed in &feeds {
            feed.request(1).await;
        }
        for name in ["listed", "in_url", "in_body"] {
            while ask(Method::GET, &format!("/v1/connection_tables/{name}/errors"), ADMIN, None).await.json()["data"]
                .as_array()
                .unwrap()
                .len()
                < 2
            {
                tokio::task::yield_now().await;
            }
            for path in [
                "",
                "/events",
                "/errors",
                "/logs",
                "/gaps",
                "/events/stream?limit=2",
                "/errors/stream?limit=2",
                "/logs/stream?limit=2",
            ] {
                said.hear(ask(Method::GET, &format!("/v1/connection_tables/{name}{path}"), ADMIN, None).await, 200);
            }
            for sql in [
                format!("SHOW CREATE TABLE {name}"),
                format!("DESCRIBE {name}"),
                format!("EXPLAIN SELECT * FROM {name}"),
                format!("EXPLAIN VERBOSE SELECT * FROM {name}"),
                "SHOW TABLES; SHOW VIEWS".to_string(),
                "SELECT * FROM information_schema.tables".to_string(),
                "SELECT * FROM information_schema.views".to_string(),
                format!(
                    "CREATE TABLE {name} (id TEXT) WITH (connector = 'sse', endpoint = 'http://x/', headers = 'X-Key: {MARK}')"
                ),
                format!(
                    "CREATE TABLE other (id TEXT) WITH (connector = 'sse', endpiont = 'http://x/', headers = 'X-Key: {MARK}')"
                ),
            ] {
                let sql = json!({ "sql": sql });
                said.hear(ask(Method::POST, "/v1/sql", ADMIN, Some(&sql)).await, 0);
                said.hear(ask(Method::POST, "/v1/sql/validate", ADMIN, Some(&sql)).await, 0);
            }
        }
        // Ways in: a token and a ticket are told once, and never again.
        let token = ask(Method::POST, "/v1/tokens", ADMIN, Some(&json!({"name": "page", "scopes": ["stream:listed_view"]})))
            .await
            .with(201);
        let token = token["token"].as_str().unwrap();
        let ticket = ask(Method::POST, "/v1/tickets", ADMIN, Some(&json!({"views": ["listed_view"]}))).await.with(201);
        let ticket = ticket["ticket"].as_str().unwrap();
        said.secrets.extend([token.to_string(), ticket.to_string()]);
        let get = async |path: String| send(process.client.request(Method::GET, format!("{}{path}", process.url))).await;
        let stream = "/v1/views/listed_view/changes?limit=1";
        for (parameter, status) in [
            (format!("token={token}"), 200),
            (format!("ticket={ticket}"), 200),
            (format!("ticket={ticket}"), 401),
            (format!("token={MARK}-wrong"), 401),
            (format!("to%6Ben={MARK}-wrong"), 401),
            (format!("token={token}&limt={token}"), 400),
        ] {
            said.hear(get(format!("{stream}&{parameter}")).await, status);
        }
        said.hear(ask(Method::GET, "/v1/views", "geheim-wrong", None).await, 401);
        said.hear(ask(Method::GET, "/v1/views", token, None).await, 403);
        for path in [
            "/v1/connection_tables",
            "/v1/connectors",
            "/v1/connectors/sse",
            "/v1/views",
            "/v1/views/listed_view",
            "/v1/views/listed_view/results",
            "/v1/views/listed_view/changes",
            "/v1/views/listed_view/plan",
            "/v1/streams",
            "/v1/tokens",
            "/v1/info",
            "/v1/ping",
            "/healthz",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/docs/",
            "/api/v1/queries",
            "/api/v1/queries/listed_view",
            "/api/v1/queries/listed_view/results",
            "/api/v1/reactions",
            "/v1/views/none",
            "/v1/streams/none",
            "/nowhere",
        ] {
            said.hear(ask(Method::GET, path, ADMIN, None).await, 0);
        }
        for name in ["listed", "in_url", "in_body"] {
            said.hear(ask(Method::POST, &format!("/v1/connection_tables/{name}/pause"), ADMIN, Some(&json!({}))).await, 202);
            said.hear(ask(Method::DELETE, &format!("/v1/connection_tables/{name}"), ADMIN, None).await, 409);
        }
        let log = process.stop().await;
        assert!(log.contains("token=***") && log.contains("DEBUG"), "{log}");
        said.grep(&log);
        // Tokens are kept as hashes. What feeds need is kept as it was given.
        let kept = std::fs::read(dir.path().join("streamgauge.redb")).unwrap();
        let kept = String::from_utf8_lossy(&kept);
        assert!(kept.contains("geheim-header") && !kept.contains(ADMIN) && !kept.contains(token));
    }
}

/// Everything that was answered, free of secrets.
#[derive(Default)]
struct Said {
    secrets: Vec<String>,
}

impl Said {
    /// Status 0 stands for any.
    #[track_caller]
    fn hear(&mut self, answer: Answer, status: u16) {
        assert!(status == 0 || answer.status == status, "{answer:?}");
        assert!(answer.status < 500 || answer.text.contains("not ready"), "{answer:?}");
        self.grep(&format!("{answer:?}"));
    }

    #[track_caller]
    fn grep(&self, text: &str) {
        // The user and password of an address, as a server is told them: anna:geheim-password.
        let encoded = "YW5uYTpnZWhlaW0tcGFzc3dvcmQ";
        for secret in self.secrets.iter().map(String::as_str).chain([MARK, encoded]) {
            if let Some(place) = text.find(secret) {
                let (from, to) = (text.floor_char_boundary(place.saturating_sub(200)), text.ceil_char_boundary(place + 100));
                panic!("'{secret}' shows: …{}…", &text[from..to]);
            }
        }
    }
}
