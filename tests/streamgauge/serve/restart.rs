//! What a server keeps: definitions, streams and tokens come back, and ids of before go on.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use streamgauge::checkpoint::{Definition, Store};
use streamgauge::serve::Server as Opened;
use streamgauge::serve::settings::{Settings, Words};

use super::{Answer, Service, json as with_json, send};
use crate::support::server::{Answer as Feed, Server, Signal};

pub(super) fn kept_in(dir: &Path) -> Settings {
    Settings { bind: "127.0.0.1:0".parse().unwrap(), data: Some(dir.into()), ..Settings::default() }
}

#[tokio::test]
async fn what_was_defined_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start_with(kept_in(dir.path())).await;
    let _server = service.with_feed(&[(&Signal::default(), &[("a", 1), ("b", 2)])]).await;
    let other = Server::start([Feed::stream().stall()]).await;
    let table = json!({
        "name": "other",
        "connector": "sse",
        "config": {"endpoint": other.url(), "headers": "X-Key: geheim, X-Home: {{ HOME }}", "events": "a,b"},
        "schema": {"fields": [{"name": "id", "type": "TEXT"}]},
    });
    service.post("/v1/connection_tables", table).await.with(201);
    service.post("/v1/views", json!({"name": "orders", "query": "SELECT id FROM feed", "retention": 7})).await.with(201);
    service.sql(r#"CREATE VIEW "both-of-them" AS SELECT id FROM orders UNION ALL SELECT id FROM other"#).await;
    service.sql("CREATE VIEW gone AS SELECT id FROM orders").await;
    service.sql("DROP VIEW gone").await;
    let stream =
        json!({"id": "live", "views": ["orders"], "path": "/live", "default_template": {"added": {"template": "{{after.id}}"}}});
    service.post("/v1/streams", stream).await.with(201);
    service.changes("orders", 2).await;
    let position = service.get("/v1/views/orders/results").await.with(200)["position"].as_str().unwrap().to_string();
    let paths = [
        "/v1/connection_tables/feed",
        "/v1/connection_tables/other",
        "/v1/views/orders",
        "/v1/views/both-of-them",
        "/v1/streams/live",
    ];
    let look = async |service: &Service, token: &str| {
        let mut looks = Vec::new();
        for path in paths {
            let answer: Answer = send(service.request(Method::GET, path).bearer_auth(token)).await;
            let (mut shown, tag) = (answer.with(200), answer.header("etag").to_string());
            // What it does now is another matter than what it is.
            for living in ["status", "stats", "state", "silent_because"] {
                shown.as_object_mut().unwrap().remove(living);
            }
            looks.push((shown, tag));
        }
        looks
    };
    let before = look(&service, "x").await;
    let token = json!({"name": "ci", "scopes": ["admin"]});
    let token = service.post("/v1/tokens", token).await.with(201)["token"].as_str().unwrap().to_string();
    service.stop().await;

    let service = Service::start_with(kept_in(dir.path())).await;
    service.get("/v1/views").await.with(401);
    assert_eq!(look(&service, &token).await, before);
    assert_eq!(service.app.engine.views().len(), 2);
    let get = async |path: &str| send(service.request(Method::GET, path).bearer_auth(&token)).await;
    // The view goes on where it was: under a new epoch, in which an id of before means what it meant.
    let changed = get("/v1/views/orders/results").await.with(200)["position"].as_str().unwrap().to_string();
    let epoch = |position: &str| position.split_once('-').unwrap().0.parse::<u64>().unwrap();
    assert!(epoch(&changed) > epoch(&position), "{changed} after {position}");
    let stream = service.request(Method::GET, "/live?limit=1").bearer_auth(&token).header("last-event-id", &position);
    let text = send(stream).await.text;
    assert!(text.contains("\"resumed\":true") && !text.contains("event: reset"), "{text}");
    let polled = get(&format!("/v1/views/orders/changes?after={position}")).await.with(200);
    assert_eq!(polled["gap"], json!(false));
    // Secrets came back as well.
    assert_eq!(other.request(1).await.header("x-key"), Some("geheim"));
    // And what is dropped now stays so.
    let delete = |path: &str| send(service.request(Method::DELETE, path).bearer_auth(&token));
    for path in ["/v1/streams/live", "/v1/connection_tables/feed?cascade=true", "/v1/tokens/ci"] {
        assert_eq!(delete(path).await.status, 204, "{path}");
    }
    service.stop().await;
    let service = Service::start_with(kept_in(dir.path())).await;
    let names = |page: Value| page["data"].as_array().unwrap().iter().map(|one| one["name"].to_string()).collect::<Vec<_>>();
    assert_eq!(names(service.get("/v1/connection_tables").await.with(200)), ["\"other\""]);
    assert!(names(service.get("/v1/views").await.with(200)).is_empty());
}

#[tokio::test]
async fn an_idempotency_key_and_a_dry_run_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start_with(kept_in(dir.path())).await;
    let _server = service.with_feed(&[]).await;
    for path in ["/v1/views?dry_run=true", "/v1/views"] {
        let post = service.request(Method::POST, path).header("idempotency-key", path);
        let made = send(with_json(post, &json!({"name": "v", "query": "SELECT id FROM feed"}))).await;
        assert!(matches!(made.status, 200 | 201), "{made:?}");
        if path.ends_with("views") {
            service.sql("DROP VIEW v").await;
        }
    }
    service.stop().await;
    let service = Service::start_with(kept_in(dir.path())).await;
    assert!(service.app.engine.views().is_empty());
}

#[tokio::test]
async fn a_view_whose_statement_is_not_taken_any_more_is_left_out_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start_with(kept_in(dir.path())).await;
    let _server = service.with_feed(&[]).await;
    service.sql("CREATE VIEW a AS SELECT id FROM feed").await;
    service.stop().await;
    let kept = |dir: &Path| Store::open(dir).unwrap().definitions().unwrap();
    let mut definitions = kept(dir.path());
    for (name, text) in [
        ("old", "CREATE VIEW old AS SELECT id FROM feed WHERE now() > '2020-01-01'"),
        ("over", "CREATE VIEW over AS SELECT id FROM old"),
    ] {
        let (last, definition) = definitions.last().unwrap().clone();
        definitions.push((last + 1, Definition { name: name.into(), text: text.into(), ..definition }));
    }
    let added: Vec<_> = definitions.iter().map(|(number, definition)| (*number, Some(definition.clone()))).collect();
    Store::open(dir.path()).unwrap().change_definitions(&added).unwrap();
    for _ in 0..2 {
        let service = Service::start_with(kept_in(dir.path())).await;
        assert_eq!(service.app.engine.views().iter().map(|view| view.name.clone()).collect::<Vec<_>>(), ["a"]);
        service.sql("CREATE VIEW b AS SELECT id FROM a").await;
        service.sql("DROP VIEW b").await;
        service.stop().await;
        assert_eq!(kept(dir.path()), definitions);
    }
    // What is made in its place is what is kept.
    let service = Service::start_with(kept_in(dir.path())).await;
    service.sql("CREATE VIEW old AS SELECT id, total FROM feed").await;
    service.stop().await;
    // And what reads it can be made again.
    for _ in 0..2 {
        let service = Service::start_with(kept_in(dir.path())).await;
        assert_eq!(service.get("/v1/views/old").await.with(200)["columns"][1]["name"], "total");
        assert_eq!(service.get("/v1/views/over").await.with(200)["state"], "running");
        service.stop().await;
        let names: Vec<String> = kept(dir.path()).into_iter().map(|(_, definition)| definition.name).collect();
        assert_eq!(names, ["feed", "a", "old", "over"]);
    }
}

#[tokio::test]
async fn what_can_no_longer_be_made_ends_the_start_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start_with(kept_in(dir.path())).await;
    let table =
        "CREATE TABLE feed (id TEXT) WITH (connector = 'sse', endpoint = 'http://127.0.0.1:1/', headers = 'X: {{ FEED_KEY }}')";
    service.sql(table).await;
    service.stop().await;
    let mut settings = kept_in(dir.path());
    settings.secrets.env = Some(Words(vec!["OTHER_*".into()]));
    let error = Opened::open(settings).await.map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("'feed', which the data directory keeps, cannot be made again") && error.contains("FEED_KEY"),
        "{error}"
    );
    // Nothing is forgotten over it.
    let service = Service::start_with(kept_in(dir.path())).await;
    service.get("/v1/connection_tables/feed").await.with(200);
}
