//! `GET /v1/events`: how tables, views and streams fare, and each change of it.

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{HUNG, Service};
use crate::support::server::{Answer, Server};

/// What a client of the states reads.
struct Client {
    answer: Response,
    text: String,
    seen: Vec<Value>,
}

impl Client {
    async fn of(service: &Service, path: &str) -> Client {
        let answer = service.client.request(Method::GET, format!("{}{path}", service.url)).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()), (200, "text/event-stream"));
        Client { answer, text: String::new(), seen: Vec::new() }
    }

    /// The next state; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.strip_prefix("event: state\ndata: ").unwrap_or_else(|| panic!("no state: {event}"));
                let state = serde_json::from_str(data).unwrap();
                self.text = rest.to_string();
                return Some(state);
            }
            let chunk = timeout(HUNG, self.answer.chunk()).await.expect("a state comes").unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Waits for a state, which may have come among others already; gives its reason.
    async fn until(&mut self, kind: &str, name: &str, state: &str) -> Value {
        let is_it = |shown: &Value| shown["kind"] == kind && shown["name"] == name && shown["state"] == state;
        while !self.seen.iter().any(is_it) {
            let shown = self.next().await.unwrap_or_else(|| panic!("{kind} {name} did not become {state}"));
            assert!(shown["at"].is_string(), "{shown}");
            self.seen.push(shown);
        }
        self.seen.iter().find(|shown| is_it(shown)).unwrap()["reason"].clone()
    }
}

#[tokio::test]
async fn states_come_as_they_are_and_as_they_change() {
    let feed = Server::start([Answer::stream().event("message", r#"{"id":1}"#).stall()]).await;
    let service = Service::start().await;
    let table =
        format!("CREATE TABLE feed (id BIGINT) WITH (connector = 'sse', endpoint = '{}', expect_every = '100ms')", feed.url());
    service.sql(&table).await;
    let mut client = Client::of(&service, "/v1/events").await;
    assert_eq!(client.until("table", "feed", "not_read").await, json!("no query reads it yet"));
    service.sql("CREATE VIEW ids AS SELECT id FROM feed").await;
    client.until("view", "ids", "running").await;
    let reason = client.until("table", "feed", "silent").await;
    assert!(reason.as_str().unwrap().starts_with("connected, and no event for 100ms (expect_every)"), "{reason}");
    service.post("/v1/streams", json!({"id": "live", "views": ["ids"]})).await.with(201);
    client.until("stream", "live", "running").await;
    service.request(Method::DELETE, "/v1/streams/live").send().await.unwrap();
    client.until("stream", "live", "dropped").await;
    service.sql("DROP VIEW ids").await;
    client.until("view", "ids", "dropped").await;
    let mut short = Client::of(&service, "/v1/events?limit=1").await;
    assert_eq!(short.next().await.unwrap()["name"], "feed");
    assert!(short.next().await.is_none(), "there were enough");
    service.stop().await;
    while client.next().await.is_some() {}
}
