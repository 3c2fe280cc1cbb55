//! Connection tables over REST.

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use streamgauge::serve::settings::Settings;

use super::{Answer, Service, json as with_json, send};
use crate::support::server::{Answer as Feed, Server, Signal};

/// The command of the fourth source document.
const CURL: &str = r#"curl -X POST http://localhost:8000/v1/connection_tables \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -d '{
    "name": "live_updates",
    "connector": "sse",
    "config": {
      "endpoint": "https://api.example.com/v1/events",
      "headers": "Authorization: Bearer {{ SSE_TOKEN }}",
      "events": "update,insert,delete"
    },
    "schema": {
      "format": {
        "json": {}
      }
    }
  }'"#;

pub(super) const TABLES: &str = "/v1/connection_tables";

/// A table with fields, over a server.
fn table(name: &str, server: &Server) -> Value {
    json!({
        "name": name,
        "connector": "sse",
        "config": {"endpoint": server.url(), "headers": "Authorization: Bearer geheim, X-Key: {{ PATH }}", "reconnect_delay_ms": 0},
        "schema": {"format": "json", "fields": [{"name": "n", "type": "BIGINT", "required": true}, {"name": "ts", "type": "TIMESTAMP"}]},
        "event_time_field": "ts",
        "watermark_delay": "5 seconds",
    })
}

/// A table whose rows count by their arrival.
fn plain(name: &str, server: &Server) -> Value {
    let mut body = table(name, server);
    body["schema"]["fields"].as_array_mut().unwrap().pop();
    (body["event_time_field"], body["watermark_delay"]) = (Value::Null, Value::Null);
    body
}

/// A server that has nothing to say.
async fn silent() -> Server {
    Server::start([Feed::stream().stall()]).await
}

impl Service {
    pub(super) async fn change(&self, method: Method, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        let request = headers.iter().fold(self.request(method, path), |request, (name, value)| request.header(*name, *value));
        send(with_json(request, &body)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }
}

/// The pointers of a problem's mistakes.
pub(super) fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|mistake| mistake["pointer"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn the_command_of_the_source_document_makes_a_table() {
    let service = Service::start().await;
    // The feed is never reached: the variable of its header is not set.
    let command = CURL.replace("http://localhost:8000", &service.url) + " --silent --show-error --write-out '\n%{http_code}'";
    let output = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &command]).env("NO_PROXY", "*").output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if text.is_empty() && output.status.code() == Some(127) {
        // Without curl the same body goes another way.
        let body = CURL.split_once("-d '").unwrap().1.trim_end_matches('\'');
        service.post(TABLES, serde_json::from_str(body).unwrap()).await.with(201);
    } else {
        assert!(text.ends_with("\n201"), "{text} {}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("schema not inferred"), "{text}");
    }
    let shown = service.get(&format!("{TABLES}/live_updates")).await.with(200);
    assert_eq!(shown["config"]["headers"], "Authorization: Bearer {{ SSE_TOKEN }}");
    assert_eq!(shown["config"]["events"], "update,insert,delete");
    assert_eq!(shown["schema"]["fields"][0], json!({"name": "value", "type": "JSON", "nullable": true}));
    assert_eq!(shown["schema"]["inferred"], false);
    assert!(shown["id"].as_str().unwrap().starts_with("ct_"), "{shown}");
    assert!(shown["warnings"].to_string().contains("SSE_TOKEN"), "{shown}");
    assert!(service.sql("DESCRIBE live_updates").await[0].contains("value"));
    assert!(service.sql("SHOW CREATE TABLE live_updates").await[0].contains("{{ SSE_TOKEN }}"));
    service.sql("CREATE VIEW kinds AS SELECT value ->> 'kind' AS kind FROM live_updates").await;
    assert_eq!(service.get(&format!("/api{TABLES}/live_updates")).await.with(200)["consumers"], json!(["kinds"]));
}

#[tokio::test]
async fn without_fields_a_look_at_the_feed_finds_them() {
    let service = Service::start().await;
    let feed = Feed::stream().event("update", r#"{"id":1,"price":2.5,"at":"2026-03-01T12:00:00Z"}"#).event("other", "x");
    let server = Server::start([feed]).await;
    let body = |name: &str, inference: &str| json!({"name": name, "connector": "sse", "config": {"url": server.url()}, "schema": {"inference": inference}});
    let made = service.post(TABLES, body("a", "best_effort")).await.with(201);
    let types: Vec<&str> =
        made["schema"]["fields"].as_array().unwrap().iter().map(|field| field["type"].as_str().unwrap()).collect();
    assert_eq!((types, &made["schema"]["inferred"]), (vec!["BIGINT", "DOUBLE", "TIMESTAMP"], &json!(true)));
    assert!(made["sql"].as_str().unwrap().contains("-- inferred from the feed"), "{made}");
    // What `peek` proposes: the time that every event has, and only the events that are rows.
    assert_eq!((&made["event_time_field"], &made["config"]["events"]), (&json!("at"), &json!("update")), "{made}");
    assert_eq!(made["watermark_delay"], "5 seconds");
    assert_eq!(server.requests().len(), 1);
    let none = service.post(TABLES, body("b", "none")).await.with(201);
    assert_eq!((none["schema"]["fields"][0]["type"].as_str(), server.requests().len()), (Some("JSON"), 1));
    let mut nobody = body("d", "best_effort");
    nobody["config"]["url"] = "http://127.0.0.1:1/".into();
    let made = service.post(TABLES, nobody).await.with(201);
    assert!(made["warnings"][0].as_str().unwrap().starts_with("schema not inferred: "), "{made}");
    let text = Server::start([Feed::stream().event("a", "it rains")]).await;
    let mut required = body("c", "required");
    required["config"]["url"] = text.url().into();
    let refused = service.post(TABLES, required).await.with(422);
    assert_eq!(pointers(&refused), ["/schema/fields"]);
    assert!(refused["detail"].as_str().unwrap().contains("no JSON objects"), "{refused}");
}

#[tokio::test]
async fn tables_are_made_listed_shown_and_dropped() {
    let (service, server) = (Service::start().await, silent().await);
    let made = service.post(TABLES, table("a", &server)).await;
    assert_eq!((made.status, made.header("location")), (201, "/v1/connection_tables/a"));
    assert_eq!(made.header("cache-control"), "no-store");
    let made = made.json();
    let one = service.get(&format!("{TABLES}/a")).await;
    assert!(one.header("etag").starts_with('"'), "{one:?}");
    assert_eq!(one.json(), made);
    assert_eq!(service.get(&format!("{TABLES}/{}", made["id"].as_str().unwrap())).await.json(), made);
    assert_eq!((&made["status"]["state"], &made["table_type"]), (&json!("not_read"), &json!("source")));
    assert_eq!(made["schema"]["fields"][0], json!({"name": "n", "type": "BIGINT", "nullable": false}));
    assert_eq!((&made["event_time_field"], &made["watermark_delay"]), (&json!("ts"), &json!("5 seconds")));
    service.sql(&format!("CREATE TABLE b (m TEXT) WITH (connector = 'sse', endpoint = '{}')", server.url())).await;
    service.post(TABLES, table("c", &server)).await.with(201);
    let names = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap().to_string()).collect()
    };
    let page = service.get(&format!("{TABLES}?limit=2")).await.with(200);
    assert_eq!((names(&page), &page["has_more"], &page["next"]), (vec!["a".into(), "b".into()], &json!(true), &json!("b")));
    let page =
        service.get(&format!("{TABLES}?limit=2&starting_after=b&state=not_read&connector=sse&type=source")).await.with(200);
    assert_eq!((names(&page), &page["has_more"]), (vec!["c".to_string()], &json!(false)));
    assert_eq!(names(&service.get(&format!("{TABLES}?name=b")).await.with(200)), ["b"]);
    assert_eq!(service.get(&format!("{TABLES}?starting_after=x")).await.status, 422);
    assert_eq!(service.get(&format!("{TABLES}?limt=2")).await.status, 400);
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
    let used = service.delete(&format!("{TABLES}/a")).await.with(409);
    assert_eq!(used["dependants"], json!(["v"]));
    assert_eq!(service.delete(&format!("{TABLES}/a?cascade=true")).await.status, 204);
    let gone = service.delete(&format!("{TABLES}/a")).await.with(404);
    assert!(gone["detail"].as_str().unwrap().contains("'a'"), "{gone}");
    let near = service.get(&format!("{TABLES}/bb")).await.with(404);
    assert_eq!(near["errors"][0]["hint"], "did you mean 'b'?");
}

#[tokio::test]
async fn a_table_may_be_called_like_a_route() {
    let (service, server) = (Service::start().await, silent().await);
    for name in ["test", "schemas"] {
        service.post(TABLES, table(name, &server)).await.with(201);
        let path = format!("{TABLES}/{name}");
        assert_eq!(service.get(&path).await.with(200)["name"], name);
        service.change(Method::PATCH, &path, json!({"config": {"events": "x"}}), &[]).await.with(200);
        service.change(Method::PUT, &path, table(name, &server), &[]).await.with(200);
        service.post(&format!("{path}/pause"), json!({})).await.with(202);
        service.get(&format!("{path}/logs")).await.with(200);
        assert_eq!(service.delete(&path).await.status, 204);
    }
}

#[tokio::test]
async fn bad_bodies_say_what_is_wrong_where() {
    let (service, server) = (Service::start().await, silent().await);
    let with = |pointer: &str, value: Value| {
        let mut body = table("a", &server);
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match body.pointer_mut(pointer) {
            Some(member) => *member = value,
            None => body.pointer_mut(parent).unwrap()[name] = value,
        }
        body
    };
    for (body, pointer, hint) in [
        (with("/config/event", "a".into()), "/config/event", "did you mean 'events'?"),
        (with("/shema", json!({})), "/shema", "did you mean 'schema'?"),
        (with("/schema/fromat", "json".into()), "/schema/fromat", "did you mean 'format'?"),
        (with("/schema/fields/0", json!({"name": "n", "type": "BIGIN"})), "/schema/fields/0/type", "did you mean BIGINT?"),
        (with("/config/endpoint", "x".into()), "/config/endpoint", "give a URL such as"),
        (with("/connector", "kafka".into()), "/connector", "give `sse`"),
        (with("/name", "1".into()), "/name", "give a letter"),
        (with("/name", 1.into()), "/name", ""),
        (with("/connection_profile_id", "x".into()), "/connection_profile_id", "leave it out"),
        (with("/event_time_field", "t".into()), "/event_time_field", "did you mean 'ts'?"),
        (with("/schema/bad_data", "dorp".into()), "/schema/bad_data", ""),
        (json!({"name": "a", "connector": "sse"}), "/config", ""),
    ] {
        let problem = service.post(TABLES, body.clone()).await.with(422);
        assert_eq!(pointers(&problem), [pointer], "{body}: {problem}");
        let given = problem["errors"][0]["hint"].as_str().unwrap_or_default();
        assert!(given.contains(hint), "{body}: {problem}");
        assert!(problem.get("span").is_none() && problem["code"].as_str().unwrap().starts_with("SG-"), "{problem}");
    }
    for (text, kind, status) in [("{", "application/json", 400), ("{}", "text/plain", 415), ("[]", "application/json", 422)] {
        let request = service.request(Method::POST, TABLES).header("content-type", kind).body(text);
        assert_eq!(send(request).await.status, status, "{text}");
    }
    let yaml = "name: yaml\nconnector: sse\nconfig:\n  endpoint: http://127.0.0.1:1/\nschema:\n  format: raw_string\n";
    let request = service.request(Method::POST, TABLES).header("content-type", "application/yaml").body(yaml);
    send(request).await.with(201);
    assert_eq!(service.post(TABLES, table("yaml", &server)).await.with(409)["errors"][0]["pointer"], "/name");
    assert_eq!(service.get(TABLES).await.with(200)["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_api_definition_of_a_client_library_is_a_table() {
    let (service, server) = (Service::start().await, Server::start([Feed::stream().event("message", "{\"a\":1}")]).await);
    let yaml = format!(
        "API:\n  sseEvents:\n    type: sse                    # Required\n    url: {}\n    sseOptions:\n      autoReconnect: true\n      \
         reconnectDelay: 1000\n    onResponse:\n      executeCode:\n        body: |\n          var eventData = response.body.data;\n",
        server.url()
    );
    let request = service.request(Method::POST, TABLES).header("content-type", "application/yaml").body(yaml);
    let made = send(request).await.with(201);
    let config = json!({"reconnect": true, "reconnect_delay_ms": 1000, "max_reconnect_attempts": 5});
    for (name, value) in config.as_object().unwrap() {
        assert_eq!(&made["config"][name], value, "{made}");
    }
    assert_eq!(made["schema"]["fields"][0]["name"], "a");
    service.post(&format!("{TABLES}/sseEvents/disconnect"), json!({})).await.with(202);
}

#[tokio::test]
async fn a_table_of_changes_has_a_key() {
    let (service, server) = (Service::start().await, silent().await);
    let mut body = json!({
        "name": "metrics",
        "connector": "sse",
        "config": {"endpoint": server.url(), "table": "public.metrics"},
        "schema": {
            "format": {"wal2json": {}},
            "fields": [{"name": "id", "type": "BIGINT"}, {"name": "value", "type": "DOUBLE"}],
            "primary_keys": ["id"],
        },
    });
    let made = service.post(TABLES, body.clone()).await.with(201);
    assert_eq!((&made["schema"]["primary_keys"], &made["schema"]["fields"][0]["nullable"]), (&json!(["id"]), &json!(false)));
    let sent_back = service.change(Method::PUT, &format!("{TABLES}/metrics"), made.clone(), &[]).await.with(200);
    assert_eq!(sent_back["schema"], made["schema"]);
    body["name"] = "others".into();
    body["schema"]["primary_keys"] = json!(["idd"]);
    assert_eq!(pointers(&service.post(TABLES, body.clone()).await.with(422)), ["/schema/primary_keys/0"]);
    body["schema"]["primary_keys"] = json!([]);
    assert_eq!(pointers(&service.post(TABLES, body.clone()).await.with(422)), ["/schema/primary_keys"]);
    body["config"]["primary_key"] = json!(["id"]);
    assert_eq!(service.post(TABLES, body.clone()).await.with(201)["schema"]["primary_keys"], json!(["id"]));
    body["name"] = "more".into();
    body["config"]["primary_key"] = json!(["idd"]);
    assert_eq!(pointers(&service.post(TABLES, body).await.with(422)), ["/config/primary_key"]);
}

#[tokio::test]
async fn a_dry_run_makes_nothing_and_a_key_makes_it_once() {
    let (service, server) = (Service::start().await, silent().await);
    let dry = service.post(&format!("{TABLES}?dry_run=true"), table("a", &server)).await.with(200);
    assert_eq!((&dry["name"], &dry["id"]), (&json!("a"), &json!("")));
    service.get(&format!("{TABLES}/a")).await.with(404);
    let key = [("idempotency-key", "k1")];
    let first = service.change(Method::POST, TABLES, table("a", &server), &key).await;
    let again = service.change(Method::POST, TABLES, table("a", &server), &key).await;
    assert_eq!((first.with(201), again.with(201)), (first.json(), first.json()));
    assert_eq!(first.header("location"), again.header("location"));
    service.change(Method::POST, TABLES, table("b", &server), &key).await.with(422);
    service.change(Method::POST, TABLES, table("a", &server), &[("idempotency-key", "k2")]).await.with(409);
}

#[tokio::test]
async fn a_put_makes_or_replaces_from_the_state_it_names() {
    let (service, server) = (Service::start().await, silent().await);
    let path = format!("{TABLES}/a");
    let put = async |headers: &[(&str, &str)], body: Value| service.change(Method::PUT, &path, body, headers).await;
    put(&[("if-match", "*")], table("a", &server)).await.with(412);
    let made = put(&[("if-none-match", "*")], table("a", &server)).await;
    assert_eq!((made.status, made.header("location")), (201, "/v1/connection_tables/a"));
    put(&[("if-none-match", "*")], table("a", &server)).await.with(412);
    put(&[], table("b", &server)).await.with(422);
    let mut other = table("a", &server);
    other["schema"]["fields"][0]["type"] = "TEXT".into();
    let replaced = put(&[("if-match", made.header("etag"))], other.clone()).await;
    assert_eq!(replaced.with(200)["schema"]["fields"][0]["type"], "TEXT");
    put(&[("if-match", made.header("etag"))], table("a", &server)).await.with(412);
    // What was read can be sent back, the mask included.
    let shown = replaced.json();
    assert_eq!(shown["config"]["headers"], "Authorization: Bearer ***, X-Key: {{ PATH }}");
    let same = put(&[], shown.clone()).await;
    assert_eq!((same.with(200), same.header("etag")), (shown.clone(), replaced.header("etag")));
    let mut copy = shown;
    copy["name"] = "b".into();
    assert_eq!(pointers(&service.post(TABLES, copy).await.with(422)), ["/config/headers"]);
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
    assert_eq!(server.request(0).await.header("authorization"), Some("Bearer geheim"));
    let used = put(&[], table("a", &server)).await.with(409);
    assert_eq!(used["dependants"], json!(["v"]));
}

#[tokio::test]
async fn a_patch_changes_what_can_change_and_keeps_what_is_masked() {
    let service = Service::start().await;
    let server = Server::start([Feed::stream().stall()]).await;
    service.post(TABLES, table("a", &server)).await.with(201);
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
    assert_eq!(server.request(0).await.header("authorization"), Some("Bearer geheim"));
    let path = format!("{TABLES}/a");
    let patch = async |query: &str, body: Value, headers: &[(&str, &str)]| {
        service.change(Method::PATCH, &format!("{path}{query}"), body, headers).await
    };
    // What an answer shows can be sent back: the mask stands for what it hides.
    let shown = service.get(&path).await;
    let headers = shown.json()["config"]["headers"].as_str().unwrap().replace("X-Key: {{ PATH }}", "X-Key: {{ HOME }}");
    assert_eq!(headers, "Authorization: Bearer ***, X-Key: {{ HOME }}");
    let body = json!({"config": {"headers": headers, "reconnectDelay": 250, "events": ["a", "b"]}});
    let changed = patch("", body, &[("if-match", shown.header("etag"))]).await;
    let config = &changed.with(200)["config"];
    assert_eq!((&config["reconnect_delay_ms"], &config["events"]), (&json!(250), &json!("a,b")));
    assert_eq!(
        (&config["headers"], config.get("reconnect_delay")),
        (&json!("Authorization: Bearer ***, X-Key: {{ HOME }}"), None)
    );
    let request = server.request(1).await;
    assert_eq!(request.header("authorization"), Some("Bearer geheim"));
    assert_eq!(request.header("x-key").map(str::to_string), std::env::var("HOME").ok());
    assert_eq!(changed.json()["id"], shown.json()["id"]);
    assert_ne!(changed.header("etag"), shown.header("etag"));
    patch("", json!({"config": {"events": "c"}}), &[("if-match", shown.header("etag"))]).await.with(412);
    let events = patch("", json!({"config": {"events": null}}), &[]).await.with(200);
    assert_eq!(events["config"].get("events"), None);
    // A new table is made only where that is asked for, and not under a view.
    let other = json!({"config": {"endpoint": format!("{}/other", server.url())}});
    let refused = patch("", other.clone(), &[]).await.with(409);
    assert!(refused["errors"][0]["hint"].as_str().unwrap().contains("recreate=true"), "{refused}");
    assert_eq!(patch("?recreate=true", other.clone(), &[]).await.with(409)["dependants"], json!(["v"]));
    service.sql("DROP VIEW v").await;
    let dry = patch("?recreate=true&dry_run=true", other.clone(), &[]).await.with(200);
    assert!(dry["config"]["endpoint"].as_str().unwrap().ends_with("/other"), "{dry}");
    assert_ne!(service.get(&path).await.json()["config"], dry["config"]);
    patch("?recreate=true", other, &[]).await.with(200);
    assert_eq!(service.get(&path).await.json()["config"], dry["config"]);
    for (body, pointer) in [
        (json!({"name": "b"}), "/name"),
        (json!({"config": {"headers": "X-Other: ***"}}), "/config/headers"),
        (json!({"config": {"endpoint": 5}}), "/config/endpoint"),
        (json!({"confg": {}}), "/confg"),
        (json!("text"), ""),
    ] {
        assert_eq!(pointers(&patch("", body, &[]).await.with(422)), [pointer]);
    }
    patch("", json!({"config": {"headers": null}}), &[]).await.with(200);
}

#[tokio::test]
async fn a_feed_is_paused_disconnected_and_connected_again() {
    let service = Service::start().await;
    let events = |number: u64| Feed::stream().text(&format!("id: {number}\ndata: {{\"n\":{number}}}\n\n")).stall();
    let server = Server::start([events(1), events(2), events(3)]).await;
    service.post(TABLES, plain("a", &server)).await.with(201);
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
    let order = async |order: &str| service.post(&format!("{TABLES}/a/{order}"), json!({})).await.with(202);
    for (request, stop, go) in [(0, "pause", "resume"), (1, "disconnect", "reconnect")] {
        reach(&service, "a", |status| status["events_total"] == request + 1).await;
        order(stop).await;
        server.closed().await;
        let state = if stop == "pause" { "paused" } else { "disconnected" };
        reach(&service, "a", |status| status["state"] == state).await;
        assert_eq!(service.get(&format!("{TABLES}?state={state}")).await.with(200)["data"].as_array().unwrap().len(), 1);
        order(go).await;
    }
    assert_eq!(server.request(2).await.header("last-event-id"), Some("2"));
    reach(&service, "a", |status| status["events_total"] == 3).await;
    for order in ["pause", "resume", "disconnect", "reconnect"] {
        service.post(&format!("{TABLES}/b/{order}"), json!({})).await.with(404);
    }
}

/// Waits until a table's status is so.
pub(super) async fn reach(service: &Service, name: &str, is_so: impl Fn(&Value) -> bool) {
    let began = std::time::Instant::now();
    loop {
        let status = service.get(&format!("{TABLES}/{name}")).await.with(200)["status"].clone();
        if is_so(&status) {
            return;
        }
        assert!(began.elapsed() < super::HUNG, "it does not come to be so: {status}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn events_bad_events_and_turns_can_be_looked_at_and_followed() {
    let (service, go) = (Service::start().await, Signal::default());
    let feed = Feed::stream()
        .text("id: 7\nevent: x\ndata: {\"n\":1}\n\ndata: nonsense\n\n")
        .wait(&go)
        .text("data: {\"n\":2}\n\n")
        .stall();
    let server = Server::start([feed]).await;
    service.post(TABLES, plain("a", &server)).await.with(201);
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
    reach(&service, "a", |status| status["decode_errors_total"] == 1).await;
    let look = async |what: &str| service.get(&format!("{TABLES}/a/{what}")).await.with(200);
    let events = look("events").await;
    assert_eq!(
        (&events["data"][0]["type"], &events["data"][0]["id"], &events["data"][1]["data"]),
        (&json!("x"), &json!("7"), &json!("nonsense"))
    );
    assert_eq!(look("events?limit=1").await["data"][0]["number"], 2);
    assert_eq!(look(&format!("events?after={}", events["next"])).await, json!({"data": [], "next": 2}));
    let bad = look("errors").await;
    assert_eq!((bad["data"].as_array().unwrap().len(), &bad["data"][0]["data"]), (1, &json!("nonsense")));
    assert!(!bad["data"][0]["reason"].as_str().unwrap().is_empty());
    assert!(look("logs").await["data"].to_string().contains("\"connected\""));
    let stream = service.request(Method::GET, &format!("{TABLES}/a/events/stream?limit=2")).header("last-event-id", "1");
    let (followed, ()) = tokio::join!(send(stream), async { go.notify_one() });
    assert_eq!((followed.header("content-type"), followed.header("x-accel-buffering")), ("text/event-stream", "no"));
    let ids: Vec<&str> = followed.text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["2", "3"], "{}", followed.text);
    for (what, expect) in [("errors", "nonsense"), ("logs", "connect")] {
        let followed = service.get(&format!("{TABLES}/a/{what}/stream?limit=1")).await;
        assert!(followed.text.starts_with("id: 1\ndata: {") && followed.text.contains(expect), "{}", followed.text);
    }
    for what in ["events", "errors", "logs", "events/stream", "errors/stream", "logs/stream"] {
        service.get(&format!("{TABLES}/b/{what}")).await.with(404);
        assert_eq!(service.get(&format!("{TABLES}/a/{what}?x=1")).await.status, 400);
    }
}

#[tokio::test]
async fn a_feed_is_tried_without_making_a_table() {
    let service = Service::start().await;
    let feed = Feed::stream().event("x", r#"{"n":1,"ts":"2026-03-01T12:00:00Z"}"#).event("x", r#"{"n":"many"}"#);
    let server = Server::start([feed.clone(), feed, Feed::status(401)]).await;
    let path = format!("{TABLES}/test");
    let tested = service.change(Method::POST, &path, table("a", &server), &[("accept", "application/json")]).await.with(200);
    assert_eq!((&tested["success"], &tested["statistics"]["types"]), (&json!(true), &json!({"x": 2})));
    assert_eq!(tested["sample_data"][0]["n"], 1);
    assert_eq!(tested["inferred_schema"][1], json!({"name": "ts", "type": "TIMESTAMP"}));
    assert!(tested["decode_errors"][0].as_str().unwrap().contains("'n'"), "{tested}");
    let stream = service.post(&path, table("a", &server)).await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let lines: Vec<Value> = stream
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0], json!({"error": false, "done": false, "message": "connecting"}));
    let last = lines.last().unwrap();
    assert_eq!((&last["error"], &last["done"], &last["sample"][0]["n"]), (&json!(false), &json!(true), &json!(1)), "{last}");
    assert!(lines.iter().rev().skip(1).all(|line| line["done"] == false));
    let failed = service.change(Method::POST, &path, table("a", &server), &[("accept", "application/json")]).await.with(200);
    assert_eq!((&failed["success"], &failed["statistics"]["http_status"]), (&json!(false), &json!(401)), "{failed}");
    let mut bad = table("a", &server);
    bad["config"]["event"] = "x".into();
    assert_eq!(pointers(&service.post(&path, bad).await.with(422)), ["/config/event"]);
    service.get(&format!("{TABLES}/a")).await.with(404);
}

#[tokio::test]
async fn a_schema_is_tried_without_making_a_table() {
    let service = Service::start().await;
    let server = Server::start([Feed::stream().event("x", r#"{"n":1}"#)]).await;
    let test = async |body: Value| service.post(&format!("{TABLES}/schemas/test"), body).await.with(200);
    let mut body = table("a", &server);
    let valid = test(body.clone()).await;
    assert_eq!((&valid["valid"], &valid["problems"], &valid["inferred_schema"]), (&json!(true), &json!([]), &Value::Null));
    assert!(valid["ddl"].as_str().unwrap().contains("n BIGINT NOT NULL"), "{valid}");
    body["schema"]["fields"][0]["type"] = "BIGIN".into();
    let invalid = test(body.clone()).await;
    assert_eq!((&invalid["valid"], &invalid["problems"][0]["pointer"]), (&json!(false), &json!("/schema/fields/0/type")));
    let bare = json!({"name": "a", "connector": "sse", "config": {"endpoint": server.url()}});
    let inferred = test(bare).await;
    assert_eq!((&inferred["valid"], &inferred["inferred_schema"]), (&json!(true), &json!([{"name": "n", "type": "BIGINT"}])));
    service.post(&format!("{TABLES}/schemas/test"), json!({"x": 1})).await.with(422);
}

#[tokio::test]
async fn connectors_say_what_they_take() {
    let service = Service::start().await;
    let all = service.get("/v1/connectors").await.with(200);
    assert_eq!((all["data"].as_array().unwrap().len(), &all["data"][0]["id"]), (1, &json!("sse")));
    let sse = service.get("/v1/connectors/sse").await.with(200);
    assert_eq!(
        (&sse["source"], &sse["sink"], &sse["table_config"]["additionalProperties"]),
        (&json!(true), &json!(false), &json!(false))
    );
    assert_eq!(service.get("/v1/connectors/ssee").await.with(404)["errors"][0]["hint"], "did you mean 'sse'?");
}

#[tokio::test]
async fn what_is_secret_shows_nowhere() {
    let service = Service::start().await;
    let server = Server::start([Feed::status(500)]).await;
    let mut body = table("a", &server);
    let url = server.url().replace("http://", "http://user:geheim@");
    body["config"]["endpoint"] = format!("{url}/x?api_key=geheim&a=1").into();
    body["config"]["headers"] = json!({"Authorization": "Bearer geheim", "X-Plain": "geheim"});
    let mut answers = vec![service.post(TABLES, body.clone()).await];
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
    server.request(0).await;
    for path in ["", "/a", "/a/events", "/a/errors", "/a/logs"] {
        answers.push(service.get(&format!("{TABLES}{path}")).await);
    }
    answers.push(service.post(&format!("{TABLES}/a/pause"), json!({})).await);
    answers.push(service.post(&format!("{TABLES}/schemas/test"), body.clone()).await);
    answers.push(service.change(Method::POST, &format!("{TABLES}/test"), body.clone(), &[("accept", "application/json")]).await);
    answers.push(service.change(Method::PATCH, &format!("{TABLES}/a"), json!({"config": {"events": "x"}}), &[]).await);
    answers.push(service.post(TABLES, body.clone()).await);
    body["config"]["headers"] = "geheim".into();
    answers.push(service.post(TABLES, body.clone()).await);
    body["config"]["headers"] = json!({"A": ["geheim"]});
    answers.push(service.post(&format!("{TABLES}/test"), body).await);
    for answer in answers {
        assert!(!answer.text.contains("geheim"), "{}", answer.text);
    }
    let shown = service.get(&format!("{TABLES}/a")).await.json();
    assert_eq!(shown["config"]["headers"], json!({"Authorization": "Bearer ***", "X-Plain": "***"}));
    assert!(shown["config"]["endpoint"].as_str().unwrap().ends_with("/x?api_key=***&a=1"), "{shown}");
}

#[tokio::test]
async fn every_address_asks_for_its_token() {
    let mut settings = Settings::default();
    settings.auth.token = Some("0123456789abcdef".to_string().into());
    let service = Service::start_with(settings).await;
    let server = silent().await;
    for line in [
        "GET /v1/connectors",
        "GET /v1/connectors/sse",
        "GET /v1/connection_tables",
        "POST /v1/connection_tables",
        "POST /api/v1/connection_tables",
        "POST /v1/connection_tables/test",
        "POST /v1/connection_tables/schemas/test",
        "GET /v1/connection_tables/a",
        "PUT /v1/connection_tables/a",
        "PATCH /v1/connection_tables/a",
        "DELETE /v1/connection_tables/a",
        "POST /v1/connection_tables/a/pause",
        "POST /v1/connection_tables/a/resume",
        "POST /v1/connection_tables/a/disconnect",
        "POST /v1/connection_tables/a/reconnect",
        "GET /v1/connection_tables/a/events",
        "GET /v1/connection_tables/a/errors",
        "GET /v1/connection_tables/a/logs",
        "GET /v1/connection_tables/a/gaps",
        "GET /v1/connection_tables/a/events/stream",
        "GET /v1/connection_tables/a/errors/stream",
        "GET /v1/connection_tables/a/logs/stream",
        "GET /v1/connection_tables/a/gaps/stream",
    ] {
        let (method, path) = line.split_once(' ').unwrap();
        for token in [None, Some("Bearer 0123456789abcdeX")] {
            let request = with_json(service.request(method.parse().unwrap(), path), &table("a", &server));
            let refused = send(token.iter().fold(request, |request, token| request.header("authorization", *token))).await;
            assert_eq!(refused.status, 401, "{line}");
            assert!(refused.header("www-authenticate").starts_with("Bearer"), "{line}");
        }
    }
    let token = [("authorization", "Bearer 0123456789abcdef")];
    service.change(Method::POST, TABLES, table("a", &server), &token).await.with(201);
}

#[tokio::test]
async fn streams_end_with_their_table_and_with_the_server() {
    let (service, server) = (Service::start().await, silent().await);
    for name in ["a", "b"] {
        service.post(TABLES, plain(name, &server)).await.with(201);
    }
    let follow = async |name: &str| service.request(Method::GET, &format!("{TABLES}/{name}/events/stream")).send().await.unwrap();
    let (gone, stopped) = (follow("a").await, follow("b").await);
    assert_eq!(service.delete(&format!("{TABLES}/a")).await.status, 204);
    assert_eq!(gone.text().await.unwrap(), "");
    let (text, ()) = tokio::join!(stopped.text(), service.stop());
    assert_eq!(text.unwrap(), "");
}
