//! What strangers, proxies and those who were let in can do, tried from outside with sockets of their own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use streamgauge::serve::settings::{Settings, Words};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::program::Process;
use super::{Answer, HUNG, Service, json as with_json, send};
use crate::support::server::{Answer as Feed, Server, Signal};

const ADMIN: &str = "0123456789abcdef";
const TABLES: &str = "/v1/connection_tables";

fn guarded() -> Settings {
    let mut settings = Settings::default();
    settings.auth.token = Some(ADMIN.to_string().into());
    settings
}

impl Service {
    fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path).bearer_auth(ADMIN);
        send(match body {
            Some(body) => with_json(request, &body),
            None => request,
        })
        .await
    }

    /// A token with a scope: its secret.
    async fn token(&self, name: &str, scope: &str) -> String {
        let made = self.admin(Method::POST, "/v1/tokens", Some(json!({"name": name, "scopes": [scope]}))).await.with(201);
        made["token"].as_str().unwrap().to_string()
    }
}

/// Everything that a server says to these bytes until it closes.
async fn said_to(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    rest(&mut socket).await
}

async fn rest(socket: &mut TcpStream) -> String {
    let mut read = Vec::new();
    // A reset is an end as well.
    let _ = timeout(HUNG, socket.read_to_end(&mut read)).await.expect("the server closes");
    String::from_utf8_lossy(&read).into_owned()
}

/// Reads until the text is there.
async fn read_until(socket: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        let more = timeout(HUNG, socket.read_buf(&mut read)).await.expect("the server goes on").unwrap();
        assert_ne!(more, 0, "{}", String::from_utf8_lossy(&read));
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn what_is_masked_goes_to_no_other_origin_in_no_way() {
    let service = Service::start().await;
    let (own, other) = (Server::start([Feed::stream().stall()]).await, Server::start([Feed::stream().stall()]).await);
    let config = json!({"endpoint": own.url(), "headers": "Authorization: Bearer geheim, X-Key: {{ PATH }}, X-Plain: geheim"});
    let table =
        json!({"name": "a", "connector": "sse", "config": config, "schema": {"fields": [{"name": "n", "type": "BIGINT"}]}});
    service.post(TABLES, table).await.with(201);
    let path = format!("{TABLES}/a");
    let shown = service.get(&path).await.with(200);
    let moved = |more: Value| {
        let mut body = shown.clone();
        body["config"]["endpoint"] = other.url().into();
        more.as_object().into_iter().flatten().for_each(|(name, value)| body["config"][name] = value.clone());
        body
    };
    let elsewhere = json!({"config": {"endpoint": other.url()}});
    let same_host = own.url().replace("127.0.0.1", "localhost");
    for (method, path, body) in [
        (Method::PATCH, format!("{path}?recreate=true"), elsewhere.clone()),
        (Method::PATCH, format!("{path}?dry_run=true"), elsewhere.clone()),
        (Method::PATCH, path.clone(), elsewhere),
        (
            Method::PATCH,
            format!("{path}?recreate=true"),
            json!({"config": {"url": other.url(), "headers": shown["config"]["headers"]}}),
        ),
        (Method::PATCH, format!("{path}?recreate=true"), json!({"config": {"endpoint": same_host}})),
        (Method::PATCH, format!("{path}?recreate=true"), json!({"config": {"proxy": other.url()}})),
        (Method::PUT, path.clone(), moved(json!({}))),
        (Method::PUT, format!("{path}?dry_run=true"), moved(json!({}))),
        (Method::POST, format!("{TABLES}/test"), moved(json!({}))),
    ] {
        let refused = service.change(method.clone(), &path, body, &[]).await.with(422);
        assert_eq!(pointers(&refused), ["/config/headers"], "{method} {path}");
        assert!(!refused.to_string().contains("geheim"), "{refused}");
    }
    let tested = service.post(&format!("{TABLES}/schemas/test"), moved(json!({}))).await.with(200);
    assert_eq!((&tested["valid"], &tested["problems"][0]["pointer"]), (&json!(false), &json!("/config/headers")), "{tested}");
    for statement in ["CREATE OR REPLACE TABLE", "CREATE TABLE"] {
        let sql = shown["sql"].as_str().unwrap().replace("CREATE TABLE", statement).replace(&own.url(), &other.url());
        let refused = service.post("/v1/sql", json!({"sql": sql})).await.with(422);
        assert!(refused["detail"].as_str().unwrap().contains("masked"), "{refused}");
    }
    assert!(other.requests().is_empty());
    // Given again, it goes; and what is read by the same server may stay masked.
    let given = moved(json!({"headers": "Authorization: Bearer neu"}));
    service.change(Method::PUT, &path, given, &[]).await.with(200);
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
    let request = other.request(0).await;
    assert_eq!((request.header("authorization"), request.header("x-plain")), (Some("Bearer neu"), None));
    assert!(own.requests().is_empty());
}

#[tokio::test]
async fn a_masked_address_or_body_is_given_again_as_well() {
    let service = Service::start().await;
    let (own, other) = (Server::start([Feed::stream().stall()]).await, Server::start([Feed::stream().stall()]).await);
    let endpoint = format!("{}/x?api_key=geheim&y=1", own.url().replace("http://", "http://u:geheim@"));
    let config = json!({"endpoint": endpoint, "method": "POST", "body": "{\"key\": \"geheim\"}"});
    let table =
        json!({"name": "a", "connector": "sse", "config": config, "schema": {"fields": [{"name": "n", "type": "BIGINT"}]}});
    service.post(TABLES, table).await.with(201);
    let path = format!("{TABLES}/a");
    let shown = service.get(&path).await.with(200);
    assert!(!shown.to_string().contains("geheim"), "{shown}");
    service.change(Method::PUT, &path, shown.clone(), &[]).await.with(200);
    let mut body = shown.clone();
    body["config"]["endpoint"] = body["config"]["endpoint"].as_str().unwrap().replace("y=1", "y=2").into();
    assert_eq!(pointers(&service.change(Method::PUT, &path, body, &[]).await.with(422)), ["/config/endpoint"]);
    let patch = json!({"config": {"endpoint": other.url()}});
    assert_eq!(
        pointers(&service.change(Method::PATCH, &format!("{path}?recreate=true"), patch, &[]).await.with(422)),
        ["/config/body"]
    );
    assert!(own.requests().is_empty() && other.requests().is_empty());
}

#[tokio::test]
async fn a_variable_is_sent_to_its_hosts_only() {
    let settings = |hosts: &[&str]| {
        let mut settings = Settings::default();
        settings.secrets.values.insert("SSE_TOKEN".into(), "geheim".into());
        settings.secrets.bind.insert("SSE_TOKEN".into(), Words(hosts.iter().map(|host| host.to_string()).collect()));
        settings
    };
    let service = Service::start_with(settings(&["api.example.com", "127.0.0.1"])).await;
    let feed = Server::start([Feed::stream().stall()]).await;
    let table = |endpoint: &str, more: Value| {
        let mut config = json!({"endpoint": endpoint, "headers": "Authorization: Bearer {{ SSE_TOKEN }}"});
        more.as_object().into_iter().flatten().for_each(|(name, value)| config[name] = value.clone());
        json!({"name": "a", "connector": "sse", "config": config, "schema": {"fields": [{"name": "n", "type": "BIGINT"}]}})
    };
    for (endpoint, more) in [
        ("https://evil.example/", json!({})),
        ("https://api.example.com.evil.example/", json!({})),
        ("https://api.example.com@evil.example/", json!({})),
        ("http://localhost:1/", json!({"headers": {}, "method": "POST", "body": "{{ SSE_TOKEN }}"})),
        ("http://localhost:1/?t={{ SSE_TOKEN }}", json!({"headers": {}})),
        // A proxy reads what goes to a server without TLS.
        ("http://127.0.0.1:1/", json!({"proxy": "http://localhost:2"})),
    ] {
        for path in ["", "/test"] {
            let refused = service.post(&format!("{TABLES}{path}"), table(endpoint, more.clone())).await.with(422);
            assert!(refused["detail"].as_str().unwrap().contains("SSE_TOKEN may not be sent to"), "{refused}");
        }
    }
    service.post(TABLES, table(&feed.url(), json!({}))).await.with(201);
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
    assert_eq!(feed.request(0).await.header("authorization"), Some("Bearer geheim"));
    let moved = json!({"config": {"endpoint": "http://localhost:1/"}});
    service.change(Method::PATCH, &format!("{TABLES}/a?recreate=true"), moved, &[]).await.with(422);
    // A redirect takes nothing along.
    let target = Server::start([Feed::stream().stall()]).await;
    let back = Server::start([Feed::redirect(307, &target.other_url())]).await;
    service
        .change(Method::POST, &format!("{TABLES}/test"), table(&back.url(), json!({})), &[("accept", "application/json")])
        .await
        .with(200);
    assert_eq!(
        (back.request(0).await.header("authorization"), target.request(0).await.header("authorization")),
        (Some("Bearer geheim"), None)
    );
}

fn impatient() -> Settings {
    let mut settings = Settings::default();
    settings.http.head_timeout = Duration::from_millis(200);
    settings.http.body_timeout = Duration::from_millis(300);
    settings.http.idle_timeout = Duration::from_millis(400);
    settings
}

#[tokio::test]
async fn silence_ends_a_connection_whatever_it_is_in_the_middle_of() {
    let service = Service::start_with(impatient()).await;
    let address = service.address();
    let half = |length: usize| {
        format!(
            "POST /v1/views HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{{\"na"
        )
    };
    for (bytes, expect) in [
        (String::new(), ""),
        ("GET /healthz HTTP/1.1\r\nhost: local".into(), ""),
        ("PRI * HTTP/2.0\r\n\r\n".into(), ""),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), ""),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0".into(), ""),
        (half(100), "HTTP/1.1 408 "),
        ("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".into(), "HTTP/1.1 200 "),
        ("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /healthz HTT".into(), "HTTP/1.1 200 "),
    ] {
        let said = said_to(address, bytes.as_bytes()).await;
        assert!(said.contains(expect) && (!expect.is_empty() || !said.starts_with("HTTP/1.1 2")), "{bytes:?}: {said}");
        if expect.contains("408") {
            assert!(said.contains("application/problem+json") && said.contains("http.body_timeout"), "{said}");
        }
    }
    // A head that drips is no less silent.
    let mut socket = TcpStream::connect(address).await.unwrap();
    let dripped = async {
        for byte in b"GET /healthz HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
            if socket.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HUNG, dripped).await.expect("the server closes");
    while !service.app.connections.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_followed_stays_though_its_client_says_nothing() {
    let service = Service::start_with(impatient()).await;
    let go = Signal::default();
    let _feed = service.with_feed(&[(&go, &[("a", 1)]), (&Signal::default(), &[("b", 2)])]).await;
    service.sql("CREATE VIEW orders AS SELECT id FROM feed").await;
    service.changes("orders", 1).await;
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    stream.write_all(b"GET /v1/views/orders/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut stream, "snapshot_end").await;
    let poll = tokio::spawn(send(service.request(Method::GET, "/v1/views/orders/changes?after=latest&wait=50")));
    // Longer than silence may last: another connection has come to its end meanwhile.
    said_to(service.address(), b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    go.notify_one();
    read_until(&mut stream, "\"id\":\"b\"").await;
    assert_eq!(poll.await.unwrap().with(200)["events"][0]["data"]["after"]["id"], "b");
}

#[tokio::test]
async fn who_reads_nothing_of_a_long_answer_is_let_go() {
    let mut settings = impatient();
    settings.http.unread_timeout = Duration::from_millis(300);
    let service = Service::start_with(settings).await;
    let (done, text) = (Signal::default(), "x".repeat(1_000_000));
    let events =
        (0..20).fold(Feed::stream(), |feed, id| feed.event("message", &json!({"id": id.to_string(), "text": text}).to_string()));
    let feed = Server::start([events.wait(&done).stall()]).await;
    service.sql(&format!("CREATE TABLE feed (id TEXT, text TEXT) WITH (connector = 'sse', endpoint = '{}')", feed.url())).await;
    service.sql("CREATE VIEW orders AS SELECT id, text FROM feed").await;
    service.changes("orders", 20).await;
    let mut socket = TcpStream::connect(service.address()).await.unwrap();
    socket.write_all(b"GET /v1/views/orders/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut socket, "200 OK").await;
    let ended = async {
        while service.app.streams.clients() > 0 || !service.app.connections.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(HUNG, ended).await.expect("the client is let go");
}

/// A server whose process may have so many files open.
async fn within_files(files: u32, args: &[&str]) -> Process {
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" serve --bind 127.0.0.1:0 \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_streamgauge")).args(args).stdin(std::process::Stdio::null());
    Process::launch(command).await
}

#[tokio::test]
async fn three_hundred_silent_sockets_keep_nobody_out_where_only_256_files_may_be_open() {
    let process = within_files(256, &["--demo"]).await;
    let half = "POST /v1/views HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    for bytes in ["", "GET /healthz HTTP/1.1\r\nhost:", half, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        let mut silent = Vec::new();
        for _ in 0..300 {
            let mut socket = TcpStream::connect(process.address()).await.unwrap();
            // It may have had to go already.
            let _ = socket.write_all(bytes.as_bytes()).await;
            silent.push(socket);
            if silent.len() % 50 == 0 {
                assert_eq!(timeout(HUNG, process.get("/healthz")).await.expect("an answer")["status"], "ok");
            }
        }
        for path in ["/healthz", "/readyz", "/v1/views"] {
            assert!(timeout(HUNG, process.get(path)).await.expect("an answer").is_object(), "{path}");
        }
    }
    let said = process.stop().await;
    assert!(said.matches("silent connections are closed to make room").count() <= 1, "{said}");
    assert!(said.matches("no connection can be taken").count() <= 1, "{said}");
}

#[tokio::test]
async fn the_addresses_of_streams_have_the_same_limits() {
    let mut settings = impatient();
    settings.http.connections_max = Some(3);
    let service = Service::start_with(settings).await;
    let _feed = service.with_feed(&[]).await;
    service.sql("CREATE VIEW orders AS SELECT id FROM feed").await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    service.post("/v1/streams", json!({"id": "own", "views": ["orders"], "port": port, "path": "/own"})).await.with(201);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(said_to(address, b"").await, "");
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /own HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut stream, "event: connected").await;
    assert!(service.app.connections.len() <= 3);
    assert_eq!(service.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn what_a_token_has_opened_ends_with_it() {
    let service = Service::start_with(guarded()).await;
    let _feed = service.with_feed(&[(&Signal::default(), &[("a", 1)])]).await;
    service.sql("CREATE VIEW orders AS SELECT id FROM feed").await;
    service.changes("orders", 1).await;
    service.admin(Method::POST, "/v1/streams", Some(json!({"id": "own", "views": ["orders"], "path": "/own"}))).await.with(201);
    let (gone, stays) = (service.token("gone", "read").await, service.token("stays", "read").await);
    let ticket = async || {
        let request = service.request(Method::POST, "/v1/tickets").bearer_auth(&gone);
        send(with_json(request, &json!({"views": ["orders"]}))).await.with(201)["ticket"].as_str().unwrap().to_string()
    };
    let (used, unused) = (ticket().await, ticket().await);
    let open = async |path: &str, token: &str| service.request(Method::GET, path).bearer_auth(token).send().await.unwrap();
    let stream = "/v1/views/orders/stream?snapshot=false";
    let sql = with_json(service.request(Method::POST, "/v1/sql").bearer_auth(&gone), &json!({"sql": "SUBSCRIBE orders"}));
    let opened = [
        open(stream, &gone).await,
        open("/own?snapshot=false", &gone).await,
        open("/v1/connection_tables/feed/events/stream", &gone).await,
        service.request(Method::GET, &format!("{stream}&ticket={used}")).send().await.unwrap(),
        service.request(Method::GET, &format!("{stream}&token={gone}")).send().await.unwrap(),
        sql.header("accept", "application/x-ndjson").send().await.unwrap(),
    ];
    let waiting = service.request(Method::GET, "/v1/views/orders/changes?after=latest&wait=50").bearer_auth(&gone);
    let waiting = tokio::spawn(send(waiting));
    let sql = with_json(
        service.request(Method::POST, "/v1/sql").bearer_auth(&gone),
        &json!({"sql": "SELECT id FROM feed", "timeout": "50s"}),
    );
    let asking = tokio::spawn(send(sql));
    let mut other = open(stream, &stays).await;
    while service.app.streams.clients() < 5 {
        tokio::task::yield_now().await;
    }
    let removed = std::time::Instant::now();
    assert_eq!(service.admin(Method::DELETE, "/v1/tokens/gone", None).await.status, 204);
    for response in opened {
        assert_eq!(response.status(), 200);
        let is_stream = response.headers()["content-type"] == "text/event-stream";
        let said = timeout(HUNG, response.text()).await.expect("it ends").unwrap();
        assert_eq!(said.contains("event: error\ndata: {\"reason\":\"unauthorized\"}\n\n"), is_stream, "{said}");
    }
    let waited = waiting.await.unwrap();
    assert!(waited.status == 401 || waited.with(200)["events"] == json!([]), "{waited:?}");
    asking.await.unwrap().with(401);
    assert!(removed.elapsed() < Duration::from_secs(5), "{:?}", removed.elapsed());
    assert_eq!(send(service.request(Method::GET, &format!("{stream}&ticket={unused}"))).await.status, 401);
    assert_eq!(open(stream, &gone).await.status(), 401);
    // Others go on.
    assert!(other.chunk().await.unwrap().is_some());
    assert_eq!(service.app.streams.clients(), 1);
}

#[tokio::test]
async fn a_token_that_expires_ends_what_it_has_opened() {
    let service = Service::start_with(guarded()).await;
    let _feed = service.with_feed(&[]).await;
    service.sql("CREATE VIEW orders AS SELECT id FROM feed").await;
    let body = |at: &str| Some(json!({"name": "short", "scopes": ["read"], "expires_at": at}));
    let refused = service.admin(Method::POST, "/v1/tokens", body("2020-01-01T00:00:00Z")).await.with(422);
    assert_eq!(pointers(&refused), ["/expires_at"]);
    let soon = humantime::format_rfc3339_millis(std::time::SystemTime::now() + Duration::from_millis(1500)).to_string();
    let made = service.admin(Method::POST, "/v1/tokens", body(&soon)).await.with(201);
    assert_eq!(made["expires_at"], soon);
    let token = made["token"].as_str().unwrap();
    let stream = service.request(Method::GET, "/v1/views/orders/stream").bearer_auth(token).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert!(stream.text().await.unwrap().contains("unauthorized"));
    assert_eq!(send(service.request(Method::GET, "/v1/views").bearer_auth(token)).await.status, 401);
    let list = service.admin(Method::GET, "/v1/tokens", None).await.with(200);
    assert!(!list.to_string().contains("short"), "{list}");
}

#[tokio::test]
async fn a_limit_is_told_with_its_setting() {
    let mut settings = guarded();
    settings.http.trusted_proxies =
        toml::from_str::<Settings>("http.trusted_proxies = ['127.0.0.1']").unwrap().http.trusted_proxies;
    settings.http.streams_per_address_max = Some(3);
    let service = Service::start_with(settings).await;
    let _feed = service.with_feed(&[]).await;
    service.sql("CREATE VIEW orders AS SELECT id FROM feed").await;
    let token = service.token("one", "stream:orders").await;
    let stream = |from: &str| {
        let request = service.request(Method::GET, "/v1/views/orders/stream").bearer_auth(&token);
        request.header("x-forwarded-for", format!("203.0.113.99, {from}"))
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(stream("192.0.2.1").send().await.unwrap());
    }
    let refused = send(stream("192.0.2.1")).await.with(429);
    let text = refused.to_string();
    assert!(
        text.contains("192.0.2.1 has 3")
            && text.contains("http.streams_per_address_max")
            && text.contains("http.trusted_proxies"),
        "{text}"
    );
    // A network of IPv6 counts as one.
    for host in 1..=3 {
        open.push(stream(&format!("2001:db8::{host}")).send().await.unwrap());
    }
    assert_eq!(send(stream("2001:db8::4")).await.status, 429);
    for number in 0..44 {
        open.push(stream(&format!("198.51.100.{number}")).send().await.unwrap());
    }
    assert!(open.iter().all(|stream| stream.status() == 200));
    let refused = send(stream("198.51.100.200")).await.with(429);
    assert!(refused["errors"][0]["hint"].as_str().unwrap().contains("http.streams_per_token_max"), "{refused}");
}

#[tokio::test]
async fn who_is_not_trusted_says_in_vain_for_whom_it_speaks() {
    let mut settings = Settings::default();
    settings.http.streams_per_address_max = Some(1);
    let service = Service::start_with(settings).await;
    let _feed = service.with_feed(&[]).await;
    service.sql("CREATE VIEW orders AS SELECT id FROM feed").await;
    let stream = |from: &str| service.request(Method::GET, "/v1/views/orders/stream").header("x-forwarded-for", from.to_string());
    let _open = stream("192.0.2.1").send().await.unwrap();
    let refused = send(stream("192.0.2.2")).await.with(429);
    assert!(refused["detail"].as_str().unwrap().contains("127.0.0.1"), "{refused}");
}

/// A proxy on a free port that shows a server below `/gauge`, and takes that away or leaves it.
async fn proxy(target: SocketAddr, strips: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut head, mut server) = (Vec::new(), TcpStream::connect(target).await.unwrap());
                while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                    if client.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let text = String::from_utf8(head).unwrap();
                let (method, path) = text.split_once(' ').unwrap();
                let Some(inner) = path.strip_prefix("/gauge/") else {
                    let _ = client.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                    return;
                };
                let path = if strips { format!("/{inner}") } else { path.to_string() };
                // One request a connection: what follows is passed on as it is.
                let request = format!("{method} {}", path.replacen("\r\n", "\r\nconnection: close\r\n", 1));
                server.write_all(request.as_bytes()).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_behind_a_prefix_leads_nobody_out_of_it() {
    for (base_path, strips) in [("", true), ("/gauge", true), ("/gauge", false)] {
        let mut settings = Settings::default();
        settings.http.base_path = base_path.into();
        let service = Service::start_with(settings).await;
        let _feed = service.with_feed(&[]).await;
        let address = proxy(service.address(), strips).await;
        let base = format!("http://{address}/gauge");
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::limited(5)).build().unwrap();
        let get = async |path: &str| client.get(format!("{base}{path}")).header("host", "localhost").send().await.unwrap();
        for path in ["/", "/docs", "/docs/"] {
            let page = get(path).await;
            assert_eq!((page.status().as_u16(), page.url().path()), (200, "/gauge/docs/"), "{base_path} {strips} {path}");
        }
        let page = get("/docs/").await.text().await.unwrap();
        let pages = page.split(['"', '\'']).filter(|text| ["style.css", "settings", "api/"].contains(text));
        assert!(pages.clone().count() >= 3, "{page}");
        for link in pages {
            assert_eq!(get(&format!("/docs/{link}")).await.status(), 200, "{link}");
        }
        let page = get("/docs/api/").await.text().await.unwrap();
        let links = page.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
        for link in links {
            assert_eq!(get(&format!("/docs/api/{link}")).await.status(), 200, "{link}");
        }
        let start = get("/docs/api/swagger-initializer.js").await.text().await.unwrap();
        let document = start.split('"').find(|text| text.ends_with("openapi.json")).unwrap();
        let document = reqwest::Url::parse(&format!("{base}/docs/api/")).unwrap().join(document).unwrap();
        let described: Value =
            serde_json::from_str(&client.get(document.clone()).send().await.unwrap().text().await.unwrap()).unwrap();
        let served = document.join(described["servers"][0]["url"].as_str().unwrap()).unwrap();
        let ping = format!("{}/v1/ping", served.as_str().trim_end_matches('/'));
        assert_eq!(client.get(&ping).send().await.unwrap().text().await.unwrap(), "\"Pong\"", "{ping}");
        let view = json!({"name": "v", "query": "SELECT id FROM feed"});
        let made = with_json(client.post(format!("{base}/v1/views")), &view).send().await.unwrap();
        assert_eq!(
            (made.status().as_u16(), made.headers()["location"].to_str().unwrap()),
            (201, &*format!("{base_path}/v1/views/v"))
        );
        assert_eq!(get("/v1/views/v").await.status(), 200);
        service.post("/v1/streams", json!({"id": "s", "views": ["v"], "path": "/live"})).await.with(201);
        let mut stream = get("/live").await;
        assert!(stream.chunk().await.unwrap().unwrap().starts_with(b"retry: "));
        // Without the prefix the server is there, too.
        assert_eq!(service.get("/healthz").await.status, 200);
        let lost = service.get("/gaugex/healthz").await;
        assert_eq!((lost.status, lost.header("content-type")), (404, "application/problem+json"));
    }
}

fn write(path: &Path, text: &str) {
    // As tools replace a file: never half of it.
    let fresh = path.with_extension("new");
    std::fs::File::create(&fresh).unwrap().write_all(text.as_bytes()).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn settings_tokens_and_secrets_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let [config, token, secret] = ["server.toml", "token", "secret"].map(|name| dir.path().join(name));
    write(&token, "0123456789abcdef-one");
    write(&secret, "geheim-1\n");
    let settings = |more: &str| {
        let values = format!("[secrets.values]\nFEED_TOKEN = '${{file:{}}}'\n", secret.display());
        write(&config, &format!("{more}\n[auth]\ntoken_file = '{}'\n{values}", token.display()));
    };
    settings("[http]\nstreams_per_token_max = 50");
    let feed = Server::start([Feed::stream().cut(), Feed::stream().stall()]).await;
    let mut process = Process::start(&["--config", config.to_str().unwrap()], &[]).await;
    let ask = async |process: &Process, method: Method, path: &str, token: &str, body: Option<Value>| {
        let request = process.client.request(method, format!("{}{path}", process.url)).bearer_auth(token);
        send(match body {
            Some(body) => with_json(request, &body),
            None => request,
        })
        .await
    };
    let one = "0123456789abcdef-one";
    let config_of = json!({"endpoint": feed.url(), "headers": "Authorization: Bearer {{ FEED_TOKEN }}", "reconnect_delay_ms": 0});
    let table =
        json!({"name": "feed", "connector": "sse", "config": config_of, "schema": {"fields": [{"name": "id", "type": "TEXT"}]}});
    ask(&process, Method::POST, TABLES, one, Some(table)).await.with(201);
    ask(&process, Method::POST, "/v1/views", one, Some(json!({"name": "v", "query": "SELECT id FROM feed"}))).await.with(201);
    assert_eq!(feed.request(0).await.header("authorization"), Some("Bearer geheim-1"));
    feed.request(1).await;

    // A hang-up with nothing changed, with a change, with one that needs a restart, and with a mistake.
    process.hang_up();
    process.until("the settings were read again; nothing changed").await;
    write(&secret, "geheim-2\n");
    settings("bind = '127.0.0.1:1'\n[http]\nstreams_per_token_max = 1");
    process.hang_up();
    process.until("changed: secrets.values, http.streams_per_token_max").await;
    settings("[http]\nstreams_per_token_max = 'many'");
    process.hang_up();
    let said = process.until("the settings cannot be used, those before hold").await;
    assert!(said.contains("line 2, column 1") && !said.contains("geheim"), "{said}");
    // A file that is just being written must not open the server.
    write(&config, "");
    process.hang_up();
    process.until("the settings have no token any more").await;
    ask(&process, Method::GET, "/v1/views", "nobody", None).await.with(401);
    let reconnect = "/v1/connection_tables/feed/reconnect";
    ask(&process, Method::POST, reconnect, one, Some(json!({}))).await;
    assert_eq!(feed.request(2).await.header("authorization"), Some("Bearer geheim-2"));

    // The token file is another one: the token before ends with all that it has opened, without a signal.
    let stream = process.client.get(format!("{}/v1/views/v/stream", process.url)).bearer_auth(one).send().await.unwrap();
    let second = ask(&process, Method::GET, "/v1/views/v/stream", one, None).await;
    assert_eq!(second.status, 429, "the new limit holds");
    write(&token, "0123456789abcdef-two");
    let said = timeout(HUNG, stream.text()).await.expect("it ends").unwrap();
    assert!(said.contains("unauthorized"), "{said}");
    ask(&process, Method::GET, "/v1/views", one, None).await.with(401);
    ask(&process, Method::GET, "/v1/views", "0123456789abcdef-two", None).await.with(200);
    let log = process.stop().await;
    assert!(log.contains("the token file has changed"), "{log}");
    assert!(!log.contains("geheim-2") && !log.contains(one), "{log}");
}

#[tokio::test]
async fn a_feed_that_may_not_be_read_makes_a_server_no_less_ready() {
    let settings = |tables: &[&str]| {
        let mut settings = Settings::default();
        settings.ready.tables = Words(tables.iter().map(|name| name.to_string()).collect());
        settings
    };
    for (needed, expect) in [(&[][..], 200), (&["good"], 200), (&["feed"], 503), (&["*"], 503), (&["nothing"], 503)] {
        let service = Service::start_with(settings(needed)).await;
        let good = Server::start([Feed::stream().stall()]).await;
        let bad = Server::start([Feed::status(401)]).await;
        for (name, server) in [("good", &good), ("feed", &bad)] {
            service.sql(&format!("CREATE TABLE {name} (id TEXT) WITH (connector = 'sse', endpoint = '{}')", server.url())).await;
            service.sql(&format!("CREATE VIEW {name}_view AS SELECT id FROM {name}")).await;
        }
        let settled = async {
            loop {
                let answer = service.get("/readyz").await;
                if answer.text.contains("401") && (expect == 503 || answer.status == 200) && !answer.text.contains("good") {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        let answer = timeout(HUNG, settled).await.expect("the feed fails");
        assert_eq!(answer.status, expect, "{needed:?}: {}", answer.text);
        assert!(answer.json()["problems"][0].as_str().unwrap().contains("table feed"), "{}", answer.text);
    }
}

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let service = Service::start().await;
    let _feed = service.with_feed(&[]).await;
    service.sql("CREATE VIEW orders AS SELECT id, total FROM feed").await;
    let long = "x".repeat(2_000_000);
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let body = |text: &str| format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    for (head, more, status) in [
        ("GET /v1/views/%ff", String::new(), 400),
        ("GET /v1/connection_tables/%C0%AF", String::new(), 400),
        ("GET /v1/views/%zz", String::new(), 404),
        ("GET /v1/streams/%ff", String::new(), 400),
        ("DELETE /v1/tokens/%ff", String::new(), 400),
        ("GET /v1/connectors/%ff", String::new(), 400),
        ("GET /v1/views/orders/results?where=total>20", String::new(), 400),
        ("GET /v1/views/orders/results?where=total<20", String::new(), 400),
        ("GET /v1/views/orders/results?where=\"id\"", String::new(), 400),
        ("GET /v1/views/or<ers", String::new(), 400),
        ("GET /v1/views/or{ers", String::new(), 404),
        ("GET /nowhere", String::new(), 404),
        ("GET /v1/nowhere", String::new(), 404),
        ("PUT /v1/views", String::new(), 405),
        ("BREW /v1/views", String::new(), 405),
        ("GET /v1/views?limit=x", String::new(), 400),
        ("GET /v1/views?limit=1&limit=2", String::new(), 400),
        ("GET /v1/views/orders/stream?format=x", String::new(), 400),
        ("POST /v1/views", body("{"), 400),
        ("POST /v1/views", body("[]"), 422),
        ("POST /v1/views", "content-length: 2\r\n\r\n{}".into(), 415),
        ("POST /v1/views", format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", 10_000_000), 413),
        ("POST /v1/sql", "content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n\r\n".into(), 400),
        ("GET /v1/views/orders/results", "accept: image/png\r\n\r\n".into(), 406),
        ("GET /healthz", format!("x: {long}\r\n\r\n"), 431),
        ("GET /healthz", format!("{many}\r\n"), 431),
        ("GET /healthz", "no header\r\n\r\n".into(), 400),
        ("GET /healthz", "x: \u{1}\r\n\r\n".into(), 400),
    ] {
        let more = if more.is_empty() { "\r\n".to_string() } else { more };
        let mut socket = TcpStream::connect(service.address()).await.unwrap();
        let request = format!("{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}");
        // Who is refused early cannot send all of it.
        let _ = socket.write_all(request.as_bytes()).await;
        let said = rest(&mut socket).await;
        let shown = &said[..said.floor_char_boundary(400)];
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {shown}");
        let (head_said, body_said) = said.split_once("\r\n\r\n").unwrap();
        assert!(
            head_said.contains("content-type: application/problem+json") && head_said.contains("x-request-id: "),
            "{head}: {shown}"
        );
        let problem: Value = serde_json::from_str(body_said).unwrap_or_else(|error| panic!("{head}: {error}: {shown}"));
        assert_eq!(problem["status"], status, "{head}");
        assert!(
            problem["code"].as_str().unwrap().starts_with("SG-") && !problem["detail"].as_str().unwrap().is_empty(),
            "{head}: {problem}"
        );
    }
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(70_000));
    let said = said_to(service.address(), long_path.as_bytes()).await;
    assert!(said.contains("application/problem+json"), "{}", &said[..said.len().min(300)]);
    let head = send(service.request(Method::HEAD, "/v1/views/none")).await;
    assert_eq!((head.status, head.header("content-type"), head.text.as_str()), (404, "application/problem+json", ""));
}

#[tokio::test]
async fn a_template_names_what_its_view_has() {
    let service = Service::start().await;
    let _feed = service.with_feed(&[]).await;
    service.sql("CREATE VIEW orders AS SELECT id, total FROM feed").await;
    service.sql("CREATE VIEW ids AS SELECT id FROM feed").await;
    let routes = |template: &str| json!({"routes": {"orders": {"added": {"template": template}}}});
    let all = |template: &str| json!({"default_template": {"updated": {"template": template}}});
    for (more, expect) in [
        (routes("{{after.totl}}"), Some(("/routes/orders/added/template", "did you mean 'total'?"))),
        (routes("{{#with after}}{{totl}}{{/with}}"), Some(("/routes/orders/added/template", "did you mean 'total'?"))),
        (routes("{{json afer}}"), Some(("/routes/orders/added/template", "did you mean 'after'?"))),
        (all("{{before.totl}}"), Some(("/default_template/updated/template", "did you mean 'total'?"))),
        (all("{{before.total}} {{operation}}"), None),
        (routes("{{#if after.total}}{{json after}}{{/if}} {{ts}}"), None),
    ] {
        let mut stream = json!({"id": "s", "views": ["orders", "ids"]});
        stream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = service.post("/v1/streams?dry_run=true", stream).await;
        match expect {
            None => drop(answer.with(200)),
            Some((pointer, hint)) => {
                let problem = answer.with(422);
                assert_eq!((pointers(&problem), &problem["errors"][0]["hint"]), (vec![pointer], &json!(hint)), "{problem}");
            }
        }
    }
}

#[tokio::test]
async fn the_log_tells_who_asked_and_who_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.toml");
    write(&config, "[http]\ntrusted_proxies = ['127.0.0.1']\nhosts = []\n[log]\nformat = 'json'\n");
    let process = Process::start(&["--config", config.to_str().unwrap()], &[("STREAMGAUGE_TOKEN", ADMIN)]).await;
    let ask = async |token: &str, from: &str, host: &str| {
        let request =
            process.client.get(format!("{}/v1/views", process.url)).header("x-forwarded-for", from).header("host", host);
        send(request.bearer_auth(token)).await.status
    };
    assert_eq!(ask(ADMIN, "192.0.2.1", "localhost").await, 200);
    assert_eq!(ask("wrong-0123456789", "192.0.2.2", "localhost").await, 401);
    assert_eq!(ask(ADMIN, "192.0.2.3", "evil.example").await, 421);
    let log = process.stop().await;
    let line = |text: &str| -> Value {
        let line = log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text} in {log}"));
        serde_json::from_str(line).unwrap()
    };
    let asked = line("192.0.2.1");
    assert_eq!((&asked["level"], &asked["message"], &asked["token"]), (&json!("INFO"), &json!("request"), &json!("auth.token")));
    for (from, status) in [("192.0.2.2", 401), ("192.0.2.3", 421)] {
        let refused = line(from);
        assert_eq!(
            (&refused["level"], &refused["message"], &refused["status"]),
            (&json!("WARN"), &json!("request refused"), &json!(status))
        );
        assert!(!refused["reason"].as_str().unwrap().is_empty(), "{refused}");
    }
    assert!(!log.contains(ADMIN) && !log.contains("wrong-0123456789"));
}

#[tokio::test]
async fn the_demo_starts_where_others_reach_it_and_opens_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    write(&token, ADMIN);
    let mut command = crate::cli::program::program();
    command.args(["serve", "--demo", "--bind", "0.0.0.0:0", "--token-file", token.to_str().unwrap()]);
    let mut process = Process::launch(command).await;
    let said = process.until("Ctrl-C stops").await;
    process.url = process.url.replace("0.0.0.0", "127.0.0.1");
    assert!(said.contains("curl -H \"Authorization: Bearer $TOKEN\" http"), "{said}");
    assert!(said.contains(&format!("TOKEN=$(cat {})", token.display())) && !said.contains(ADMIN), "{said}");
    let ask = async |path: &str, body: Option<Value>| {
        let request =
            process.client.request(if body.is_some() { Method::POST } else { Method::GET }, format!("{}{path}", process.url));
        let request = request.bearer_auth(ADMIN);
        send(match body {
            Some(body) => with_json(request, &body),
            None => request,
        })
        .await
    };
    while ask("/v1/views/cpu_rolling/results", None).await.with(200)["count"] == 0 {
        tokio::task::yield_now().await;
    }
    let port = process.address().port();
    for endpoint in [format!("http://127.0.0.1:{port}/"), "http://127.0.0.1/".into(), "http://localhost:1/".into()] {
        let table = json!({"name": "a", "connector": "sse", "config": {"endpoint": endpoint}});
        ask(&format!("{TABLES}/test"), Some(table)).await.with(422);
    }
    process.stop().await;
}

#[tokio::test]
async fn special_addresses_are_refused_also_where_a_connection_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    write(&token, ADMIN);
    let mut command = crate::cli::program::program();
    command.args(["serve", "--bind", "0.0.0.0:0", "--token-file", token.to_str().unwrap()]);
    let mut process = Process::launch(command).await;
    process.url = process.url.replace("0.0.0.0", "127.0.0.1");
    let test = async |config: Value| {
        let table = json!({"name": "a", "connector": "sse", "config": config});
        let request = process.client.post(format!("{}{TABLES}/test", process.url)).bearer_auth(ADMIN);
        send(with_json(request, &table).header("accept", "application/json")).await
    };
    for host in [
        "192.0.0.192",
        "[2002:7f00:1::]",
        "[::127.0.0.1]",
        "[64:ff9b:1::1]",
        "[64:ff9b::7f00:1]",
        "[fec0::1]",
        "198.18.0.1",
        "198.19.255.255",
        "240.0.0.1",
        "100.100.100.200",
        "0177.0.0.1",
        "2130706433",
        "127.1",
        "127.0.0.1.",
        "localhost.",
        "LOCALHOST",
        "[::ffff:127.0.0.1]",
    ] {
        let refused = test(json!({"endpoint": format!("http://{host}:9/")})).await.with(422);
        assert!(refused["detail"].as_str().unwrap().contains("may not be reached from here"), "{host}: {refused}");
    }
    for proxy in ["socks5://127.1:1080", "socks5h://[::1]:1080", "http://localhost:3128", "http://0x7f000001:3128"] {
        let refused = test(json!({"endpoint": "http://feed.example/", "proxy": proxy})).await;
        assert_eq!(refused.status, 422, "{proxy}: {}", refused.text);
    }
    process.stop().await;
}
