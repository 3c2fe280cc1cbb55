//! Named streams as a resource, their templates, and Drasi's names for views and streams.

use reqwest::Method;
use serde_json::{Value, json};

use super::tables::pointers;
use super::{HUNG, Service, send};
use crate::support::server::{Server, Signal};

const STREAMS: &str = "/v1/streams";

async fn orders() -> (Service, Server) {
    let service = Service::start().await;
    // A view sees what comes after it: both exist before the first row.
    let (start, hold) = (Signal::default(), Signal::default());
    let server = service.with_feed(&[(&start, &[]), (&hold, &[("a", 1), ("b", 2000)])]).await;
    service.sql(r#"CREATE VIEW "current-totals" AS SELECT id, total FROM feed"#).await;
    service.sql("CREATE VIEW alerts AS SELECT id, total FROM feed WHERE total > 1000").await;
    start.notify_one();
    service.changes("current-totals", 2).await;
    service.changes("alerts", 1).await;
    (service, server)
}

#[tokio::test]
async fn a_view_is_a_query_and_a_stream_a_reaction() {
    let (service, _server) = orders().await;
    let results = service.get("/api/v1/queries/current-totals/results").await.with(200);
    let rows = json!([{"id": "a", "total": 1}, {"id": "b", "total": 2000}]);
    assert_eq!(results, json!({"success": true, "data": {"results": rows, "count": 2, "sequence": 2}, "error": null}));
    let queries = service.get("/api/v1/queries").await.with(200);
    assert_eq!((&queries["data"][0]["id"], &queries["data"][0]["status"]), (&json!("current-totals"), &json!("Running")));
    assert_eq!(service.get("/api/v1/queries/alerts").await.with(200)["data"], queries["data"][1]);
    service.post(STREAMS, json!({"id": "live", "queries": ["current-totals"], "ssePath": "/live"})).await.with(201);
    let reaction = service.get("/api/v1/reactions/live").await.with(200);
    assert_eq!((&reaction["success"], &reaction["error"]), (&json!(true), &Value::Null));
    let data = &reaction["data"];
    assert_eq!((&data["id"], &data["kind"], &data["status"]), (&json!("live"), &json!("sse"), &json!("Running")));
    assert_eq!((&data["queries"], &data["auto_start"]), (&json!(["current-totals"]), &json!(true)));
    assert_eq!(service.get("/api/v1/reactions").await.with(200)["data"], json!([data]));
    for (order, status) in [("stop", "Stopped"), ("stop", "Stopped"), ("start", "Running"), ("start", "Running")] {
        assert_eq!(service.post(&format!("/api/v1/reactions/live/{order}"), json!({})).await.with(200)["data"]["status"], status);
        assert_eq!(service.get("/live?limit=1").await.status, if status == "Running" { 200 } else { 503 });
    }
    for (path, hint) in [("queries/alert", "alerts"), ("queries/alert/results", "alerts"), ("reactions/life", "live")] {
        let missing = service.get(&format!("/api/v1/{path}")).await.with(404);
        assert_eq!(missing["errors"][0]["hint"], format!("did you mean '{hint}'?"), "{path}");
        assert_eq!(missing["error"], missing["detail"], "a client of that interface looks there");
    }
    // Only below that address have they these names.
    service.get("/v1/queries").await.with(404);
}

#[tokio::test]
async fn streams_are_made_listed_replaced_and_removed() {
    let (service, _server) = orders().await;
    let made = service.post(STREAMS, json!({"id": "one", "views": ["alerts"], "path": "/one"})).await;
    assert_eq!((made.status, made.header("location")), (201, "/v1/streams/one"));
    let one = service.get(&format!("{STREAMS}/one")).await;
    assert_eq!((one.with(200), one.header("etag")), (made.json(), made.header("etag")));
    let yaml = "# the same, otherwise\nviews:\n  - alerts\n  - current-totals\nsse_path: /one\nheartbeat_interval_ms: 15000\n\
                routes:\n  alerts:\n    path: /alerts\n    added:\n      template: |-\n        {\"alert\": {{json after}}}\n";
    let put = async |path: &str, body: &str, headers: &[(&str, &str)]| {
        let request = service.request(Method::PUT, &format!("{STREAMS}/{path}")).header("content-type", "application/yaml");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        send(request.body(body.to_string())).await
    };
    put("one", yaml, &[("if-none-match", "*")]).await.with(412);
    put("one", yaml, &[("if-match", "\"old\"")]).await.with(412);
    let replaced = put("one", yaml, &[("if-match", made.header("etag"))]).await;
    assert_eq!(
        (replaced.with(200)["created_at"].clone(), &replaced.json()["views"]),
        (made.json()["created_at"].clone(), &json!(["alerts", "current-totals"]))
    );
    assert_ne!(replaced.header("etag"), made.header("etag"));
    let stream = service.get("/alerts?limit=1").await;
    assert!(stream.text.contains("\ndata: {\"alert\": {\"id\":\"b\",\"total\":2000}}\n"), "{}", stream.text);
    let paths: Vec<String> =
        replaced.json()["endpoints"].as_array().unwrap().iter().map(|at| at["path"].as_str().unwrap().to_string()).collect();
    assert_eq!(paths, ["/alerts", "/one", "/one/alerts", "/one/current-totals"]);
    assert_eq!(put("two", "views: [alerts]\npath: /two\n", &[("if-none-match", "*")]).await.status, 201);
    assert_eq!(pointers(&put("two", "id: three\nviews: [alerts]\n", &[]).await.with(422)), ["/id"]);
    put("two", "views: [alerts]\npath: /one\n", &[]).await.with(409);
    assert_eq!(service.get("/two?limit=1").await.status, 200, "what could not be replaced goes on");
    let malformed = put("two", "views: [alerts\npath: /two\n", &[]).await.with(400);
    assert!(malformed["span"]["start"]["line"].as_u64() >= Some(1), "{malformed}");
    let page = service.get(&format!("{STREAMS}?limit=1&starting_after=one")).await.with(200);
    assert_eq!((&page["data"][0]["id"], &page["has_more"], &page["next"]), (&json!("two"), &json!(false), &Value::Null));
    assert!(service.get(&format!("{STREAMS}?state=stopped")).await.with(200)["data"].as_array().unwrap().is_empty());
    assert_eq!(service.get(&format!("{STREAMS}?stat=stopped")).await.status, 400);
    for id in ["one", "two"] {
        assert_eq!(service.delete(&format!("{STREAMS}/{id}")).await.status, 204);
        service.delete(&format!("{STREAMS}/{id}")).await.with(404);
    }
    service.get("/alerts").await.with(404);
}

#[tokio::test]
async fn a_bad_template_is_refused_with_its_place() {
    let (service, _server) = orders().await;
    let stream = |template: &str| {
        let added = json!({"added": {"template": template}});
        json!({"id": "x", "views": ["alerts"], "routes": {"alerts": added.clone()}, "default_template": added})
    };
    for (template, expect) in [
        ("{\n \"row\": {{json after}\n}", "line 2 column"),
        ("{{#if after.total}}large", "line 1 column"),
        ("{{/if}}", "line 1 column"),
        ("{{jsno after}}", "line 1 column 1: Helper not found jsno"),
        ("ok\n  {{> other}}", "line 2 column 3: partials"),
        ("{{", "line 1 column"),
    ] {
        let problem = service.post(STREAMS, stream(template)).await.with(422);
        let mut places = pointers(&problem);
        places.sort_unstable();
        assert_eq!(places, ["/default_template/added/template", "/routes/alerts/added/template"], "{template}: {problem}");
        for mistake in problem["errors"].as_array().unwrap() {
            let message = mistake["message"].as_str().unwrap();
            assert!(message.starts_with("the template cannot be used") && message.contains(expect), "{template}: {message}");
            assert!(mistake["hint"].as_str().unwrap().contains("{{json after}}"), "{mistake}");
        }
    }
    // One that fails only with some rows is no mistake of the stream: those rows come in the default format.
    service.post(STREAMS, stream("{{#each after.total}}{{/each}}{{after.total.deeper}}|{{after.id}}")).await.with(201);
    let mut unknown = stream("x");
    (unknown["rotues"], unknown["id"]) = (unknown["routes"].take(), "y".into());
    let problem = service.post(STREAMS, unknown).await.with(422);
    assert_eq!((pointers(&problem), &problem["errors"][0]["hint"]), (vec!["/rotues"], &json!("did you mean 'routes'?")));
}

#[tokio::test]
async fn a_log_writes_from_the_next_change_on_while_it_runs() {
    let service = Service::start().await;
    let signals: [Signal; 5] = Default::default();
    let rows = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)];
    let batches: Vec<(&Signal, &[(&str, i64)])> = signals.iter().zip(rows.chunks(1)).collect();
    let _server = service.with_feed(&batches).await;
    service.sql("CREATE VIEW orders AS SELECT id, total FROM feed").await;
    service.changes("orders", 1).await;
    let log = "kind: log\nid: logger\nqueries: [orders]\nroutes: {orders: {added: {template: '{{after.id}}'}}}\n";
    let post = service.request(Method::POST, STREAMS).header("content-type", "application/yaml").body(log);
    let made = send(post).await.with(201);
    assert_eq!((&made["kind"], &made["state"], &made["endpoints"]), (&json!("log"), &json!("running"), &json!([])));
    for field in ["address", "host", "port", "sse_path", "heartbeat_interval_ms", "visibility", "cors_origins", "max_clients"] {
        assert!(made.get(field).is_none(), "{field}: {made}");
    }
    let lines = async |number: u64| {
        let written = async {
            while service.get("/v1/streams/logger").await.with(200)["stats"]["events_total"] != number {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(HUNG, written).await.unwrap_or_else(|_| panic!("not {number} lines"));
    };
    signals[0].notify_one();
    lines(1).await;
    let metrics = service.get("/metrics").await.text;
    assert!(metrics.contains("\nstreamgauge_stream_events_total{kind=\"named\",stream=\"logger\"} 1\n"), "{metrics}");
    service.get("/events").await.with(404);
    let reaction = service.get("/api/v1/reactions/logger").await.with(200);
    assert_eq!((&reaction["data"]["kind"], &reaction["data"]["status"]), (&json!("log"), &json!("Running")));
    service.post("/api/v1/reactions/logger/stop", json!({})).await.with(200);
    signals[1].notify_one();
    service.changes("orders", 3).await;
    service.post("/v1/streams/logger/start", json!({})).await.with(200);
    signals[2].notify_one();
    lines(2).await;
    service.sql("CREATE OR REPLACE VIEW orders AS SELECT total, id FROM feed").await;
    signals[3].notify_one();
    lines(3).await;
    service.delete("/v1/views/orders").await.with(409);
    assert_eq!(service.delete(&format!("{STREAMS}/logger")).await.status, 204);
    assert_eq!(service.delete("/v1/views/orders").await.status, 204);
}

#[tokio::test]
async fn a_log_takes_nothing_that_only_clients_need() {
    let (service, _server) = orders().await;
    let log = json!({"kind": "log", "id": "logger", "views": ["alerts"], "port": 8081, "ssePath": "/events", "maxClients": 5});
    let problem = service.post(STREAMS, log).await.with(422);
    assert_eq!(pointers(&problem), ["/port", "/ssePath", "/maxClients"], "{problem}");
    assert_eq!(problem["errors"][0]["message"], "a stream to the log has no 'port'");
    let log = json!({"kind": "log", "id": "logger", "views": ["alerts"], "routes": {"alerts": {"path": "/alerts"}}});
    assert_eq!(pointers(&service.post(STREAMS, log).await.with(422)), ["/routes/alerts/path"]);
}
