//! Streams over real connections: what is sent, how clients come back, how streams are named, stopped and full.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use streamgauge::serve::listen::{Shutdown, Stop};
use streamgauge::serve::settings::Settings;
use streamgauge::serve::stream::Streams;
use streamgauge::serve::{self, App};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::server::{Answer, Server, Signal};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with the views `orders` and `alerts` over a feed that a test feeds.
struct Gauge {
    app: Arc<App>,
    streams: Arc<Streams>,
    address: SocketAddr,
    signals: Vec<Signal>,
    _feed: Server,
    stop: Stop,
    serving: JoinHandle<()>,
}

impl Gauge {
    /// `batches` come one after the other, each when [`Gauge::feed`] lets it; the first at once.
    async fn start(batches: &[&str], clients_max: usize) -> Gauge {
        let mut settings = Settings::default();
        settings.http.streams_max = clients_max;
        Gauge::with(batches, settings).await
    }

    async fn with(batches: &[&str], settings: Settings) -> Gauge {
        let signals: Vec<Signal> = batches.iter().map(|_| Signal::default()).collect();
        let mut answer = Answer::stream();
        for (batch, signal) in batches.iter().zip(&signals) {
            answer = answer.wait(signal);
            for row in batch.split(' ').filter(|row| !row.is_empty()) {
                let (id, total) = row.split_once('=').unwrap();
                answer = answer.event("message", &json!({"id": id, "total": total.parse::<i64>().unwrap()}).to_string());
            }
        }
        let feed = Server::start([answer.stall()]).await;
        let server = open(settings).await;
        for statement in [
            &format!("CREATE TABLE feed (id TEXT, total BIGINT) WITH (connector = 'sse', endpoint = '{}')", feed.url()),
            "CREATE VIEW orders AS SELECT id, total FROM feed",
            "CREATE VIEW alerts AS SELECT id, total FROM feed WHERE total > 1000",
        ] {
            super::execute(&server.app, statement).await.unwrap();
        }
        let (app, address) = (Arc::clone(&server.app), server.addresses[0]);
        let (stop, serving) = run(server).await;
        let gauge = Gauge { streams: Arc::clone(&app.streams), app, address, signals, _feed: feed, stop, serving };
        gauge.feed(0);
        gauge
    }

    fn feed(&self, batch: usize) {
        self.signals[batch].notify_one();
    }

    /// Waits until the view has had so many changes.
    async fn changes(&self, view: &str, number: u64) {
        let live = self.streams.live(view).unwrap();
        let mut follower = live.follow(0);
        while live.head() < number {
            tokio::time::timeout(PATIENCE, follower.changed()).await.expect("the view changes");
        }
    }

    async fn get(&self, target: &str, headers: &str) -> Reply {
        send(self.address, "GET", target, headers, "").await
    }

    async fn json(&self, method: &str, target: &str, body: Value) -> (u16, Value) {
        let mut reply = send(self.address, method, target, "content-type: application/json\r\n", &body.to_string()).await;
        let text = reply.rest().await;
        (reply.status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Waits until nobody is connected.
    async fn alone(&self) {
        let gone = async {
            while self.streams.clients() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("clients that left are forgotten");
    }
}

async fn open(mut settings: Settings) -> serve::Server {
    settings.bind.set_port(0);
    serve::Server::open(settings).await.unwrap()
}

async fn run(server: serve::Server) -> (Stop, JoinHandle<()>) {
    server.start().await.unwrap();
    let (stop, shutdown) = Shutdown::new();
    (stop, tokio::spawn(server.serve(shutdown)))
}

/// An address that is free, and that nobody else takes: other tests listen on 127.0.0.1.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.2:0").await.unwrap().local_addr().unwrap()
}

/// Waits until nobody listens there. A process that another test is just starting has a copy of the socket until its own program runs.
async fn refused(address: SocketAddr) {
    let gone = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the port is given back");
}

/// An answer that is being read.
struct Reply {
    status: u16,
    /// With small letters.
    head: String,
    socket: TcpStream,
    raw: Vec<u8>,
    body: String,
    ended: bool,
}

async fn send(address: SocketAddr, method: &str, target: &str, headers: &str, body: &str) -> Reply {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
    let mut reply = Reply { status: 0, head: String::new(), socket, raw: Vec::new(), body: String::new(), ended: false };
    let end = loop {
        if let Some(end) = reply.raw.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(reply.more().await, "the answer has no head");
    };
    let head: Vec<u8> = reply.raw.drain(..end).collect();
    reply.head = String::from_utf8(head).unwrap().to_lowercase();
    reply.status = reply.head.split(' ').nth(1).unwrap().parse().unwrap();
    reply
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.raw)).await.expect("the server goes on");
        read.unwrap_or(0) > 0
    }

    /// Reads until the body has this text; gives all of it so far.
    async fn until(&mut self, text: &str) -> &str {
        while !self.body.contains(text) {
            assert!(self.step().await, "'{text}' never came: {}", self.body);
        }
        &self.body
    }

    /// Reads to the end.
    async fn rest(&mut self) -> String {
        while self.step().await {}
        self.body.clone()
    }

    /// Takes a piece of the body.
    async fn step(&mut self) -> bool {
        if self.ended {
            return false;
        }
        if self.header("transfer-encoding").is_none() {
            let more = self.more().await;
            self.body.push_str(&String::from_utf8(std::mem::take(&mut self.raw)).unwrap());
            self.ended = !more;
            return more;
        }
        loop {
            if let Some(line) = self.raw.windows(2).position(|bytes| bytes == b"\r\n") {
                let length = usize::from_str_radix(std::str::from_utf8(&self.raw[..line]).unwrap(), 16).unwrap();
                if self.raw.len() >= line + 2 + length + 2 {
                    self.ended = length == 0;
                    let chunk: Vec<u8> = self.raw.drain(..line + 2 + length + 2).skip(line + 2).take(length).collect();
                    self.body.push_str(std::str::from_utf8(&chunk).unwrap());
                    return !self.ended;
                }
            }
            if !self.more().await {
                self.ended = true;
                return false;
            }
        }
    }
}

/// The ids of the events in a text.
fn ids(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
}

#[tokio::test]
async fn a_view_is_followed_from_its_rows_on_and_resumed_where_a_client_left() {
    let gauge = Gauge::start(&["a=1 b=2", "c=3", "d=4"], 10).await;
    gauge.changes("orders", 2).await;
    let epoch = gauge.streams.live("orders").unwrap().epoch();
    let mut client = gauge.get("/v1/views/orders/stream", "").await;
    assert_eq!(client.status, 200);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache, no-transform"),
        ("x-accel-buffering", "no"),
        ("vary", "origin"),
        ("last-event-id", &format!("{epoch}-2")),
    ] {
        assert_eq!(client.header(name), Some(value), "{name}");
    }
    client.until(&format!("id: {epoch}-2\nevent: snapshot_end\n")).await;
    assert!(client.body.starts_with("retry: 3000\n\nevent: connected\ndata: {\"clientId\":\"c_"), "{}", client.body);
    assert!(client.body.contains("\n\ndata: {\"op\":\"added\",\"query\":\"orders\",\"after\":{\"id\":\"a\",\"total\":1}}\n\n"));
    let (_, shown) = gauge.json("GET", "/v1/views/orders", Value::Null).await;
    let by_id = gauge.get(&format!("/v1/views/{}/stream?limit=1", shown["id"].as_str().unwrap()), "").await;
    assert_eq!(by_id.status, 200);
    gauge.feed(1);
    let third =
        format!("id: {epoch}-3\ndata: {{\"op\":\"added\",\"query\":\"orders\",\"after\":{{\"id\":\"c\",\"total\":3}}}}\n\n");
    client.until(&third).await;
    drop(client);
    gauge.alone().await;
    gauge.feed(2);
    gauge.changes("orders", 4).await;
    let mut client =
        gauge.get("/v1/views/orders/stream?limit=2&last_event_id=1-1", &format!("last-event-id: {epoch}-2\r\n")).await;
    assert_eq!(client.header("last-event-id"), Some(format!("{epoch}-2").as_str()));
    let text = client.rest().await;
    assert!(text.contains("\"resumed\":true"), "{text}");
    assert_eq!(ids(&text), [format!("{epoch}-2"), format!("{epoch}-3"), format!("{epoch}-4")]);
}

#[tokio::test]
async fn an_id_that_says_nothing_is_answered_with_the_rows() {
    let gauge = Gauge::start(&["a=1 b=2"], 10).await;
    gauge.changes("orders", 2).await;
    let epoch = gauge.streams.live("orders").unwrap().epoch();
    for (id, reason) in [
        ("rubbish", "garbage"),
        ("7", "garbage"),
        ("é", "garbage"),
        ("orders", "garbage"),
        ("18446744073709551616-1", "garbage"),
        (&"9".repeat(8_000), "garbage"),
        (&format!("{epoch}-3"), "garbage"),
        (&format!("{}-1", epoch - 1), "epoch"),
        (&format!("{}-1", epoch + 1), "epoch"),
    ] {
        let mut client = gauge.get("/v1/views/orders/stream?limit=2", &format!("last-event-id: {id}\r\n")).await;
        assert_eq!((client.status, client.header("last-event-id")), (200, Some(format!("{epoch}-2").as_str())), "{id}");
        let text = client.rest().await;
        let reset = format!(
            "event: reset\ndata: {{\"reason\":\"{reason}\",\"view\":\"orders\",\"oldest\":\"{epoch}-1\",\"action\":\"resnapshot\"}}\n\n"
        );
        assert!(text.contains(&reset) && text.contains("\"resumed\":false"), "{id}: {text}");
        assert_eq!(text.matches("\"op\":\"added\"").count(), 2, "{id}: {text}");
    }
    for (id, rows) in [("earliest", 2), ("latest", 0)] {
        let mut client = gauge.get(&format!("/v1/views/orders/stream?last_event_id={id}&limit=2"), "").await;
        client.until("event: connected").await;
        if rows > 0 {
            client.rest().await;
        }
        assert_eq!(client.body.matches("\"op\":\"added\"").count(), rows, "{id}: {}", client.body);
        assert!(!client.body.contains("reset"), "{id}: {}", client.body);
    }
}

#[tokio::test]
async fn several_views_share_a_connection() {
    let gauge = Gauge::start(&["a=1", "b=2000"], 10).await;
    gauge.changes("orders", 1).await;
    let mut client = gauge.get("/v1/streams?view=orders&view=alerts", "").await;
    client.until("event: snapshot_end").await;
    gauge.feed(1);
    client.until("\"query\":\"orders\",\"after\":{\"id\":\"b\"").await;
    let text = client.until("\"query\":\"alerts\",\"after\":{\"id\":\"b\"").await;
    let epochs = ["orders", "alerts"].map(|view| gauge.streams.live(view).unwrap().epoch());
    let last = ids(text).last().unwrap().to_string();
    let places = [format!("orders:{}-2", epochs[0]), format!("alerts:{}-1", epochs[1])];
    assert!(places.iter().all(|place| last.contains(place.as_str())), "{last}");
    let mut client = gauge
        .get(&format!("/v1/streams?view=alerts&view=orders&limit=1&last_event_id=alerts:{}-0,{}", epochs[1], places[0]), "")
        .await;
    let text = client.rest().await;
    assert!(text.contains("\"resumed\":true") && text.contains("\"query\":\"alerts\",\"after\":{\"id\":\"b\""), "{text}");
}

#[tokio::test]
async fn what_is_wrong_is_told_before_a_stream_begins() {
    let gauge = Gauge::start(&["a=1"], 10).await;
    for (target, status, detail) in [
        ("/v1/views/order/stream", 404, "there is no view 'order'"),
        ("/v1/streams?view=orders&view=nothing", 404, "there is no view 'nothing'"),
        ("/v1/views/orders/stream?formt=rows", 400, "unknown option 'formt'"),
        ("/v1/views/orders/stream?format=row", 400, "option 'format' does not know 'row'"),
        ("/v1/views/orders/stream?columns=idd", 422, "column 'idd' is not there"),
        ("/v1/views/orders/stream?view=alerts", 400, "the address names the view already"),
        ("/v1/streams?view=", 400, "option 'view' names 0 views"),
        ("/v1/streams?limit=x", 400, "query parameter 'limit': 'x' is no number from 0"),
        ("/v1/views/orders/changes?after=x", 400, "option 'after' is no id of a change: 'x'"),
        ("/v1/streams/none", 404, "there is no stream 'none'"),
        ("/nowhere", 404, "nothing is at /nowhere"),
    ] {
        let mut reply = gauge.get(target, "").await;
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{target}");
        let problem: Value = serde_json::from_str(&reply.rest().await).unwrap();
        assert_eq!((reply.status, problem["detail"].as_str().unwrap()), (status, detail), "{target}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten_however_often_it_comes() {
    let gauge = Gauge::start(&["a=1", "b=2"], 10).await;
    gauge.changes("orders", 1).await;
    let live = gauge.streams.live("orders").unwrap();
    // The test's runtime has the tasks of this server alone.
    let counts = || (tokio::runtime::Handle::current().metrics().num_alive_tasks(), Arc::strong_count(&live));
    let before = counts();
    for _ in 0..300 {
        let mut client = gauge.get("/v1/views/orders/stream", "").await;
        client.until("event: connected").await;
        drop(client);
        // Also one that leaves in the middle of its request.
        let mut socket = TcpStream::connect(gauge.address).await.unwrap();
        socket.write_all(b"GET /v1/views/orders/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        drop(socket);
        if gauge.streams.clients() > 5 {
            gauge.alone().await;
        }
    }
    gauge.alone().await;
    let gone = async {
        while counts() != before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{:?} is left of {before:?}", counts()));
    let counters = gauge.streams.counters();
    assert!(counters.iter().all(|(name, _)| name == "view:orders"), "{counters:?}");
}

#[tokio::test]
async fn too_many_clients_are_refused_and_told_when_to_come_back() {
    let gauge = Gauge::start(&["a=1"], 1).await;
    let mut first = gauge.get("/v1/views/orders/stream", "").await;
    first.until("event: connected").await;
    let refused = gauge.get("/v1/views/orders/stream", "").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    let mut soft = gauge.get("/v1/views/orders/stream?soft=true", "").await;
    assert_eq!((soft.status, soft.header("content-type")), (200, Some("text/event-stream")));
    assert!(soft.rest().await.starts_with("retry: 30000\n\nevent: error\ndata: {\"reason\":\"overload\""));
    drop(first);
    gauge.alone().await;
    assert_eq!(gauge.get("/v1/views/orders/stream", "").await.status, 200);
}

#[tokio::test]
async fn a_server_that_stops_ends_all_streams() {
    // Where no other test listens as soon as the port is free.
    let gauge = Gauge::with(&["a=1"], Settings { bind: "127.0.0.3:0".parse().unwrap(), ..Settings::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = gauge.get("/v1/views/orders/stream", "").await;
        client.until("event: connected").await;
        clients.push(client);
    }
    gauge.stop.stop();
    for mut client in clients {
        let text = client.rest().await;
        let wait: u64 = text.rsplit_once("\n\nretry: ").unwrap().1.trim_end().parse().unwrap();
        assert!((1000..=10_000).contains(&wait), "{wait}");
    }
    gauge.alone().await;
    gauge.serving.await.unwrap();
    refused(gauge.address).await;
}

#[tokio::test]
async fn a_client_may_ask_for_some_rows_and_some_columns() {
    let gauge = Gauge::start(&["a=1 b=2000", "c=3 d=4000"], 10).await;
    gauge.changes("orders", 2).await;
    let mut client =
        gauge.get("/v1/views/orders/stream?where=total%20%3E%201000&columns=id&format=rows&event_field=view&limit=2", "").await;
    client.until("event: snapshot_end").await;
    gauge.feed(1);
    let text = client.rest().await;
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("data: {\"id\"")).collect();
    assert_eq!(rows, ["data: {\"id\":\"b\"}", "data: {\"id\":\"d\"}"]);
    assert_eq!(text.matches("event: orders\n").count(), 2);
    let (_, polled) = gauge.json("GET", "/v1/views/orders/changes?where=id%20%3D%20'd'", Value::Null).await;
    assert_eq!((polled["events"].as_array().unwrap().len(), &polled["events"][0]["data"]["after"]["id"]), (1, &"d".into()));
    for (filter, detail) in [
        ("total", "option 'where': the condition "),
        ("totl%20%3E%201", "option 'where': column 'totl' is not there"),
        ("total%20%3E", "option 'where': "),
    ] {
        let (status, problem) = gauge.json("GET", &format!("/v1/views/orders/stream?where={filter}"), Value::Null).await;
        let told = problem["detail"].as_str().unwrap();
        assert!(status == 422 && told.to_lowercase().starts_with(&detail.to_lowercase()), "{status} {told}");
    }
}

#[tokio::test]
async fn a_view_that_is_dropped_ends_its_streams() {
    let gauge = Gauge::start(&["a=1"], 10).await;
    let mut client = gauge.get("/v1/views/alerts/stream", "").await;
    client.until("event: snapshot_end").await;
    super::execute(&gauge.app, "DROP VIEW alerts").await.unwrap();
    assert!(client.rest().await.ends_with("event: error\ndata: {\"reason\":\"dropped\",\"view\":\"alerts\"}\n\n"));
}

#[tokio::test]
async fn a_client_without_event_streams_polls_the_same_events() {
    let gauge = Gauge::start(&["a=1 b=2", "c=3"], 10).await;
    gauge.changes("orders", 2).await;
    let epoch = gauge.streams.live("orders").unwrap().epoch();
    let (status, first) = gauge.json("GET", "/v1/views/orders/changes?limit=1", Value::Null).await;
    let event = json!({"id": format!("{epoch}-1"), "event": "message", "data": {"op": "added", "query": "orders", "after": {"id": "a", "total": 1}}});
    let expected =
        json!({"events": [event], "next": format!("{epoch}-1"), "has_more": true, "gap": false, "oldest": format!("{epoch}-1")});
    assert_eq!((status, first), (200, expected));
    let (_, rest) = gauge.json("GET", &format!("/v1/views/orders/changes?after={epoch}-1&format=rows"), Value::Null).await;
    assert_eq!((&rest["events"][0]["data"], &rest["has_more"]), (&json!({"id": "b", "total": 2}), &false.into()));
    let waiting = async {
        let target = format!("/v1/views/orders/changes?after={epoch}-2&wait=20");
        gauge.json("GET", &target, Value::Null).await.1
    };
    let (waited, ()) = tokio::join!(waiting, async { gauge.feed(1) });
    assert_eq!((&waited["events"][0]["id"], &waited["next"]), (&format!("{epoch}-3").into(), &format!("{epoch}-3").into()));
    for after in [format!("{epoch}-9"), "1-1".into()] {
        let (_, gap) = gauge.json("GET", &format!("/v1/views/orders/changes?after={after}"), Value::Null).await;
        assert_eq!((&gap["gap"], &gap["next"], &gap["events"]), (&true.into(), &format!("{epoch}-3").into(), &json!([])));
    }
}

#[tokio::test]
async fn a_named_stream_has_an_address_paths_and_words_of_its_own() {
    let data = tempfile::tempdir().unwrap();
    let settings = Settings { data: Some(data.path().into()), ..Settings::default() };
    let gauge = Gauge::with(&["a=1", "b=2000"], settings.clone()).await;
    let address = free().await;
    let yaml = format!(
        "kind: sse
id: dashboard-stream
queries: [orders, alerts]
host: 127.0.0.2
port: {}
cors_origins: ['http://localhost:3000']
routes:
  orders:
    path: /orders
  alerts:
    path: /alerts
    added:
      template: '{{\"alert\":\"high_value_order\",\"order\":{{{{json after}}}}}}'
",
        address.port()
    );
    let mut made = send(gauge.address, "POST", "/v1/streams", "content-type: application/yaml\r\n", &yaml).await;
    let shown: Value = serde_json::from_str(&made.rest().await).unwrap();
    assert_eq!((made.status, made.header("location")), (201, Some("/v1/streams/dashboard-stream")), "{shown}");
    assert_eq!((&shown["state"], &shown["address"]), (&"running".into(), &address.to_string().into()));
    let mut all = send(address, "GET", "/events", "origin: http://localhost:3000\r\n", "").await;
    assert_eq!(all.header("access-control-allow-origin"), Some("http://localhost:3000"));
    let mut orders = send(address, "GET", "/orders", "origin: http://evil.example\r\n", "").await;
    assert_eq!((orders.status, orders.header("access-control-allow-origin")), (200, None));
    let mut alerts = send(address, "GET", "/alerts", "", "").await;
    for client in [&mut all, &mut orders, &mut alerts] {
        client.until("event: snapshot_end").await;
    }
    gauge.feed(1);
    let alert = "data: {\"alert\":\"high_value_order\",\"order\":{\"id\":\"b\",\"total\":2000}}\n\n";
    let order = "data: {\"op\":\"added\",\"query\":\"orders\",\"after\":{\"id\":\"b\",\"total\":2000}}\n\n";
    orders.until(order).await;
    assert!(!alerts.until(alert).await.contains("\"query\":\"orders\""));
    all.until(order).await;
    all.until(alert).await;
    let preflight =
        send(address, "OPTIONS", "/orders", "origin: http://localhost:3000\r\naccess-control-request-method: GET\r\n", "").await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some("http://localhost:3000")));
    assert_eq!(send(address, "POST", "/orders", "", "").await.status, 405);
    let mut missing = send(address, "GET", "/order", "", "").await;
    assert!(missing.status == 404 && missing.rest().await.contains("did you mean '/orders'?"));
    assert_eq!(send(address, "GET", "/v1/streams", "", "").await.status, 404, "only the streams are here");
    let (_, reaction) = gauge.json("GET", "/api/v1/reactions/dashboard-stream", Value::Null).await;
    assert_eq!((&reaction["success"], &reaction["data"]["status"]), (&true.into(), &"Running".into()));
    assert_eq!(reaction["data"]["config"]["stats"]["clients"], 3);
    let (_, stopped) = gauge.json("POST", "/api/v1/reactions/dashboard-stream/stop", Value::Null).await;
    assert_eq!(stopped["data"]["status"], "Stopped");
    for mut client in [all, orders, alerts] {
        assert!(client.rest().await.ends_with("event: error\ndata: {\"reason\":\"stopped\"}\n\n"));
    }
    gauge.alone().await;
    refused(address).await;
    gauge.json("POST", "/v1/streams/dashboard-stream/start", Value::Null).await;
    assert_eq!(send(address, "GET", "/orders", "", "").await.status, 200);
    gauge.stop.stop();
    gauge.serving.await.unwrap();
    drop((gauge.app, gauge.streams));
    refused(address).await;
    let again = open(settings).await;
    let (app, rest) = (Arc::clone(&again.app), again.addresses[0]);
    let _running = run(again).await;
    assert_eq!(send(address, "GET", "/alerts", "", "").await.status, 200, "a stream is there again after a restart");
    assert_eq!(send(rest, "DELETE", "/v1/streams/dashboard-stream", "", "").await.status, 204);
    assert!(app.streams.list().is_empty());
    refused(address).await;
}

#[tokio::test]
async fn a_stopped_stream_stays_stopped_where_another_cannot_take_its_place() {
    let gauge = Gauge::start(&["a=1"], 10).await;
    let taken = free().await;
    let _taken = TcpListener::bind(taken).await.unwrap();
    assert_eq!(gauge.json("POST", "/v1/streams", json!({"id": "one", "views": ["orders"]})).await.0, 201);
    for state in ["running", "stopped"] {
        let elsewhere = json!({"views": ["orders"], "host": "127.0.0.2", "port": taken.port()});
        assert_eq!(gauge.json("PUT", "/v1/streams/one", elsewhere).await.0, 409);
        assert_eq!(gauge.json("GET", "/v1/streams/one", Value::Null).await.1["state"], state);
        gauge.json("POST", "/v1/streams/one/stop", Value::Null).await;
    }
}

#[tokio::test]
async fn a_page_that_may_read_a_stream_may_read_no_other_at_the_same_path() {
    let gauge = Gauge::start(&["a=1"], 10).await;
    let address = free().await;
    let open = json!({"id": "open", "views": ["orders"], "visibility": "public", "host": "127.0.0.2", "port": address.port()});
    for body in [open, json!({"id": "inside", "views": ["alerts"]})] {
        assert_eq!(gauge.json("POST", "/v1/streams", body).await.0, 201);
    }
    let page = "origin: http://anywhere.example\r\n";
    for (address, allowed) in [(address, Some("http://anywhere.example")), (gauge.address, None)] {
        let client = send(address, "GET", "/events", page, "").await;
        assert_eq!((client.status, client.header("access-control-allow-origin")), (200, allowed));
    }
}

#[tokio::test]
async fn a_private_stream_asks_for_the_scope_of_each_of_its_views() {
    let mut settings = Settings::default();
    settings.auth.token = Some("0123456789abcdef".into());
    let gauge = Gauge::with(&["a=1"], settings).await;
    let headers = "authorization: Bearer 0123456789abcdef\r\ncontent-type: application/json\r\n";
    for (id, visibility) in [("inside", "private"), ("outside", "public")] {
        let body =
            json!({"id": id, "views": ["orders", "alerts"], "sse_path": format!("/{id}"), "visibility": visibility}).to_string();
        assert_eq!(send(gauge.address, "POST", "/v1/streams", headers, &body).await.status, 201);
    }
    let body = json!({"name": "one", "scopes": ["stream:orders"]}).to_string();
    let mut made = send(gauge.address, "POST", "/v1/tokens", headers, &body).await;
    let made: Value = serde_json::from_str(&made.rest().await).unwrap();
    let token = made["token"].as_str().unwrap();
    for (target, status) in [
        ("/inside".to_string(), 401),
        ("/inside?token=wrong".into(), 401),
        (format!("/inside?token={token}"), 403),
        (format!("/inside/orders?token={token}"), 200),
        (format!("/inside/alerts?token={token}"), 403),
        ("/inside?token=0123456789abcdef".into(), 200),
        ("/outside".into(), 200),
        ("/v1/views/orders/stream".into(), 401),
        (format!("/v1/views/orders/stream?token={token}"), 200),
    ] {
        assert_eq!(gauge.get(&target, "").await.status, status, "{target}");
    }
    let mut page = gauge.get("/outside", "origin: http://anywhere.example\r\n").await;
    assert_eq!(page.header("access-control-allow-origin"), Some("http://anywhere.example"));
    page.until("event: connected").await;
}

#[tokio::test]
async fn a_stream_with_a_port_of_its_own_has_every_path_there() {
    let mut settings = Settings::default();
    settings.auth.token = Some("0123456789abcdef".into());
    let gauge = Gauge::with(&["a=1"], settings).await;
    let address = free().await;
    let headers = "authorization: Bearer 0123456789abcdef\r\ncontent-type: application/json\r\n";
    let own = |id: &str, path: &str, visibility: &str| json!({"id": id, "views": ["orders"], "sse_path": path, "visibility": visibility, "host": "127.0.0.2", "port": address.port()});
    let streams = [
        ("a", "/metrics", "public"),
        ("b", "/v1/views/orders", "public"),
        ("c", "/api/v1/tokens", "public"),
        ("d", "/healthz", "private"),
        ("e", "/v1/ping", "private"),
    ];
    for (id, path, visibility) in streams {
        let body = own(id, path, visibility).to_string();
        assert_eq!(send(gauge.address, "POST", "/v1/streams", headers, &body).await.status, 201, "{path}");
        let target = |token: &str| format!("{path}?token={token}");
        let alone = if visibility == "public" { 200 } else { 401 };
        for (target, status) in [(path.to_string(), alone), (target("0123456789abcdef"), 200), (target("wrong"), 401)] {
            assert_eq!(send(address, "GET", &target, "", "").await.status, status, "{target}");
        }
    }
    assert_eq!(gauge.get("/metrics", "").await.status, 401);
}

#[tokio::test]
async fn every_client_gets_every_change_and_one_that_does_not_read_holds_nobody_up() {
    const CLIENTS: usize = 200;
    let batches: Vec<String> = (0..50).map(|batch| (0..4).map(|row| format!("{batch}x{row}=1 ")).collect()).collect();
    let gauge = Gauge::start(&batches.iter().map(String::as_str).collect::<Vec<_>>(), 1000).await;
    gauge.changes("orders", 4).await;
    let _silent = gauge.get("/v1/views/orders/stream", "").await;
    let reading = (0..CLIENTS).map(|_| async {
        let mut client = gauge.get("/v1/views/orders/stream?last_event_id=earliest&limit=200", "").await;
        client.rest().await
    });
    let feeding = async {
        for batch in 1..batches.len() {
            gauge.feed(batch);
            gauge.changes("orders", 4 * (batch as u64 + 1)).await;
        }
    };
    let (texts, ()) = tokio::join!(futures::future::join_all(reading), feeding);
    let epoch = gauge.streams.live("orders").unwrap().epoch();
    let expected: Vec<String> = (0..=200).map(|seq| format!("{epoch}-{seq}")).collect();
    assert!(texts.iter().all(|text| ids(text) == expected));
    assert_eq!(gauge.streams.clients(), 1);
}

#[tokio::test]
async fn a_stream_without_a_port_is_where_the_rest_is() {
    let gauge = Gauge::start(&["a=1"], 100).await;
    let shared = json!({"id": "one", "views": ["orders"], "format": "rows", "max_clients": 1});
    assert_eq!(gauge.json("POST", "/v1/streams", shared.clone()).await.0, 201);
    gauge.changes("orders", 1).await;
    let mut client = gauge.get("/events", "").await;
    client.until("data: {\"id\":\"a\",\"total\":1}\n\n").await;
    assert_eq!(gauge.get("/events", "").await.status, 503, "it has one client already");
    let own_port = json!({"id": "two", "views": ["alerts"], "port": gauge.address.port(), "sse_path": "/two"});
    assert_eq!(gauge.json("POST", "/v1/streams", own_port).await.1["address"], Value::Null);
    let taken = free().await;
    let _taken = TcpListener::bind(taken).await.unwrap();
    for (body, status, pointer) in [
        (shared.clone(), 409, "/id"),
        (json!({"id": "x", "views": ["orders"]}), 409, "/sse_path"),
        (json!({"id": "x", "views": ["orders"], "sse_path": "/v1/mine"}), 409, "/sse_path"),
        (json!({"id": "x", "views": ["orders"], "host": "127.0.0.2", "port": taken.port()}), 409, "/port"),
        (json!({"id": "x", "views": ["orders"], "port": 1, "host": "0.0.0.0"}), 422, "/host"),
        (json!({"id": "x", "views": ["order"]}), 422, "/views/0"),
        (json!({"id": "x", "views": ["orders"], "heartbeat_interval_ms": 0}), 422, "/heartbeat_interval_ms"),
    ] {
        let (code, problem) = gauge.json("POST", "/v1/streams", body.clone()).await;
        assert_eq!((code, &problem["errors"][0]["pointer"]), (status, &pointer.into()), "{body} {problem}");
    }
    let (_, list) = gauge.json("GET", "/v1/streams?limit=1", Value::Null).await;
    assert_eq!((&list["data"][0]["id"], &list["next"]), (&"one".into(), &"one".into()));
    assert_eq!(gauge.streams.users("alerts"), ["two"]);
    assert_eq!(gauge.json("DELETE", "/v1/views/alerts", Value::Null).await.0, 409, "a stream shows it");
    let changed = json!({"views": ["orders"], "sse_path": "/other"});
    assert_eq!(gauge.json("PUT", "/v1/streams/one?dry_run=true", changed.clone()).await.1["sse_path"], "/other");
    let (code, replaced) = gauge.json("PUT", "/v1/streams/one", changed).await;
    assert_eq!((code, &replaced["sse_path"]), (200, &"/other".into()));
    let seen = gauge.get("/v1/streams/one", "").await.header("etag").unwrap().to_string();
    let stale = send(gauge.address, "DELETE", "/v1/streams/one", "if-match: \"old\"\r\n", "").await;
    assert_eq!((stale.status, seen.len()), (412, 18));
    assert!(client.rest().await.ends_with("event: error\ndata: {\"reason\":\"stopped\"}\n\n"));
    assert_eq!((gauge.get("/events", "").await.status, gauge.get("/other", "").await.status), (404, 200));
    assert_eq!(gauge.json("DELETE", "/v1/streams/one", Value::Null).await.0, 204);
    assert_eq!(gauge.get("/other", "").await.status, 404);
}
