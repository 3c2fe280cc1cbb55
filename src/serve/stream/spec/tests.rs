//! Streams as documentation and people write them, and what is told of mistakes.

use serde_json::json;

use super::*;

const VIEWS: &[&str] = &["orders", "inventory", "my-query", "sensors", "live-orders", "order-alerts"];

/// A stream that is written in YAML.
fn yaml(text: &str, views: &[&str]) -> Result<StreamSpec, Vec<Issue>> {
    StreamSpec::read(&serde_saphyr::from_str::<Value>(text).unwrap(), views)
}

fn web(spec: &StreamSpec) -> &Web {
    spec.web.as_ref().unwrap()
}

fn told(value: Value) -> Vec<String> {
    let issues = StreamSpec::read(&value, VIEWS).unwrap_err();
    issues.iter().map(|issue| format!("{}: {}", issue.pointer, issue.error)).collect()
}

#[test]
fn the_smallest_stream_has_the_documented_defaults() {
    let spec = yaml("kind: sse\nid: live-stream\nqueries: [my-query]\n", VIEWS).unwrap();
    let expected = json!({
        "kind": "sse", "id": "live-stream", "views": ["my-query"], "auto_start": true, "sse_path": "/events",
        "heartbeat_interval_ms": 30000, "format": "changes", "visibility": "private", "max_clients": 1000,
    });
    assert_eq!(serde_json::to_value(&spec).unwrap(), expected);
    assert_eq!(StreamSpec::read(&expected, VIEWS).unwrap(), spec);
}

#[test]
fn the_streams_of_the_documentation_load() {
    let text = "
kind: sse
id: dashboard-stream
queries: [live-orders, order-alerts]
host: 0.0.0.0
port: 8081
heartbeat_interval_ms: 30000
routes:
  live-orders:
    path: /orders
  order-alerts:
    path: /alerts
    added:
      template: '{\"alert\":\"high_value_order\",\"order\":{{json after}}}'
";
    let spec = yaml(text, VIEWS).unwrap();
    assert_eq!((web(&spec).host, web(&spec).port), (Some(IpAddr::from([0, 0, 0, 0])), Some(8081)));
    assert!(spec.templates("order-alerts").has(Op::Added));
    assert!(!spec.templates("live-orders").has(Op::Added));
    let paths: Vec<(String, Vec<usize>)> =
        spec.endpoints().into_iter().map(|end| (end.path, end.views.iter().map(|view| view.0).collect())).collect();
    let expected = [
        ("/alerts".into(), vec![1]),
        ("/events".into(), vec![0, 1]),
        ("/events/live-orders".into(), vec![0]),
        ("/events/order-alerts".into(), vec![1]),
        ("/orders".into(), vec![0]),
    ];
    assert_eq!(paths, expected);
    let again = serde_json::to_value(&spec).unwrap();
    assert_eq!(StreamSpec::read(&again, VIEWS).unwrap(), spec);
}

#[test]
fn every_use_of_the_documentation_loads() {
    let views = ["my-query", "sensors", "orders", "inventory", "events", "public-events", "all-events", "audit-events"];
    for text in [
        "{kind: sse, id: live-stream, queries: [my-query], host: 0.0.0.0, port: 8081, sse_path: /events}",
        r#"
kind: sse
id: custom-stream
queries: [sensors]
port: 8081
default_template:
  added:
    template: '{"event":"new","sensor":{{json after}}}'
  updated:
    template: '{"event":"update","sensor":{{json after}}}'
  deleted:
    template: '{"event":"remove","id":"{{before.id}}"}'
"#,
        r#"
kind: sse
id: multi-stream
queries: [orders, inventory]
port: 8081
sse_path: /events
routes:
  orders:
    path: /orders/stream
    added:
      template: '{"type":"order","data":{{json after}}}'
  inventory:
    path: /inventory/stream
    updated:
      template: '{"type":"stock","sku":"{{after.sku}}","qty":{{after.quantity}}}'
"#,
        "{kind: sse, id: long-lived-stream, queries: [events], port: 8081, heartbeat_interval_ms: 15000}",
        "{kind: sse, id: public-stream, queries: [public-events], port: 8081}",
        "{kind: sse, id: admin-stream, queries: [all-events, audit-events], port: 8082}",
        "{kind: sse, id: notifications, queries: [events], port: 8081, routes: {events: {path: /notifications}}}",
        "{kind: sse, id: iot-stream, queries: [sensors, events], port: 8081, heartbeat_interval_ms: 10000}",
    ] {
        let spec = yaml(text, &views).unwrap_or_else(|issues| panic!("{text}: {issues:?}"));
        let again = StreamSpec::read(&serde_json::to_value(&spec).unwrap(), &views).unwrap();
        assert_eq!(again, spec);
    }
}

#[test]
fn camel_case_and_common_templates_are_taken_too() {
    let spec = StreamSpec::read(
        &json!({
            "id": "s", "views": ["orders", "sensors"], "ssePath": "/all", "autoStart": false, "heartbeatIntervalMs": "off",
            "defaultTemplate": {"added": {"template": "new"}, "deleted": {"template": "gone"}},
            "routes": {"orders": {"added": {"template": "order", "path": "new"}, "path": "/orders"}},
            "maxClients": 5, "corsOrigins": "http://localhost:3000",
        }),
        VIEWS,
    )
    .unwrap();
    assert_eq!((spec.auto_start, web(&spec).heartbeat_interval_ms, web(&spec).max_clients), (false, Heartbeat::Off, 5));
    assert!(spec.templates("orders").has(Op::Deleted) && !spec.templates("orders").has(Op::Updated));
    let ends = spec.endpoints();
    let ops = |path: &str| ends.iter().find(|end| end.path == path).map(|end| end.views[0].1);
    assert_eq!(ops("/all/new"), Some(Ops::NONE.with(Op::Added)));
    assert_eq!(ops("/orders"), Some(Ops::ALL.without(Op::Added)));
    assert_eq!(ops("/all"), Some(Ops::ALL));
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let issues = told(json!({
        "kind": "logs", "id": "9 lives", "queries": ["order", "sensors", "sensors"], "host": "here", "port": 70000, "sse_path": "events",
        "heartbeat_interval_ms": 0, "format": "batches", "visibility": "all", "cors_origins": ["*", "http://localhost:3000/"],
        "routes": {"sensor": {"pth": "/a", "path": "/a b"}, "sensors": {"added": {"template": "{{json after}"}}},
        "default_template": {"added": {"path": "/x"}}, "max_clients": 0, "colour": 1,
    }));
    let expected = [
        "/kind: the kind 'logs' is not there; write sse or log",
        "/id: '9 lives' is no id; an id has at most 63 letters, digits, _ and -, and begins with a letter or _",
        "/queries/0: the view 'order' is not there; did you mean 'orders'?",
        "/queries/2: the view 'sensors' is named twice; name it once",
        "/host: 'here' is no address; write 127.0.0.1, or 0.0.0.0 for all interfaces",
        "/port: 70000 is no port; a port is at most 65535",
        "/sse_path: the path 'events' does not begin with /; write /events",
        "/heartbeat_interval_ms: a heartbeat comes every 100 to 3600000 milliseconds, not every 0; write 30000 for 30 seconds; without heartbeats (\"off\") proxies close a silent connection",
        "/format: option 'format' does not know 'batches'; did you mean 'batch'?",
        "/routes/sensor: the view 'sensor' is not one of the stream; did you mean 'sensors'?",
        "/routes/sensor/path: '/a b' is no path of a stream; write a fixed path such as /orders/stream",
        "/routes/sensor/pth: unknown field 'pth'; did you mean 'path'?",
        "/default_template/added/path: unknown field 'path'; the fields are template",
        "/visibility: the visibility 'all' is not there; write private or public",
        "/cors_origins/0: the origin * lets every page read the stream; name the origins, or set visibility to public",
        "/cors_origins/1: 'http://localhost:3000/' is no origin; write http://localhost:3000",
        "/max_clients: a stream without clients; give at least 1, or stop the stream",
    ];
    let (template, rest): (Vec<&String>, Vec<&String>) =
        issues.iter().partition(|issue| issue.contains("the template cannot be used"));
    assert!(
        template[0].starts_with("/routes/sensors/added/template: the template cannot be used, line 1 column"),
        "{template:?}"
    );
    for line in expected {
        assert!(rest.iter().any(|issue| *issue == line), "{line}\nis not in\n{rest:#?}");
    }
    assert!(rest.iter().any(|issue| issue.starts_with("/colour: unknown field 'colour'; the fields are kind, id, views")));
    assert_eq!(rest.len(), expected.len() + 1);
}

#[test]
fn a_log_of_the_documentation_loads() {
    let text = r#"
kind: log
id: metric-logger
queries: [sensors]
routes:
  sensors:
    added:
      template: "CRITICAL: {{after.name}} = {{after.value}}{{after.unit}}"
"#;
    let spec = yaml(text, VIEWS).unwrap();
    assert!(spec.templates("sensors").has(Op::Added) && !spec.templates("sensors").has(Op::Updated));
    assert!(spec.web.is_none() && spec.endpoints().is_empty());
    let shown = serde_json::to_value(&spec).unwrap();
    let names: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 6, "nothing of an address: {names:?}");
    assert_eq!(StreamSpec::read(&shown, VIEWS).unwrap(), spec);
}

#[test]
fn a_log_has_nothing_that_clients_need() {
    let sse =
        serde_json::to_value(yaml("{id: s, views: [orders], host: localhost, port: 1, corsOrigins: 'http://a'}", VIEWS).unwrap());
    let mut log = sse.unwrap();
    (log["kind"], log["routes"]) = ("log".into(), json!({"orders": {"path": "/a", "added": {"path": "/b"}}}));
    let issues = told(log);
    for name in ["host", "port", "sse_path", "heartbeat_interval_ms", "visibility", "cors_origins", "max_clients"] {
        let expected = format!("/{name}: a stream to the log has no '{name}'; leave it out, or write kind sse");
        assert!(issues.contains(&expected), "{expected}: {issues:#?}");
    }
    for pointer in ["/routes/orders/path", "/routes/orders/added/path"] {
        assert!(issues.iter().any(|issue| issue.starts_with(&format!("{pointer}: unknown field 'path'"))), "{issues:#?}");
    }
    assert_eq!(issues.len(), 9, "{issues:#?}");
}

#[test]
fn what_is_missing_is_told() {
    let expected = [
        "/id: a stream needs an id; such as \"id\": \"live-stream\"",
        "/views: a stream needs views; such as \"views\": [\"rolling_metrics\"]",
    ];
    assert_eq!(told(json!({})), expected);
    assert_eq!(told(json!([])), [": this must be an object, not a list"]);
}
