//! What a feed sends.

use streamgauge::error::Code;

use super::{feed, run};
use crate::support::server::{Answer, Server};

async fn first_request(path: &str, options: &[(&str, &str)]) -> crate::support::server::Request {
    let server = Server::start([Answer::status(204)]).await;
    run(feed(&format!("{}{path}", server.url()), options)).await;
    server.request(0).await
}

#[tokio::test]
async fn a_request_asks_for_an_event_stream() {
    let request = first_request("/a?b=c#d", &[]).await;
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/a?b=c"));
    assert_eq!(request.header("accept"), Some("text/event-stream"));
    assert_eq!(request.header("cache-control"), Some("no-cache"));
    assert_eq!(request.header("user-agent"), Some(concat!("streamgauge/", env!("CARGO_PKG_VERSION"))));
    let encodings = request.header("accept-encoding").unwrap();
    assert!(["gzip", "br", "zstd", "deflate"].iter().all(|coding| encodings.contains(coding)), "{encodings}");
    for absent in ["last-event-id", "content-length", "transfer-encoding", "content-type", "referer", "cookie"] {
        assert_eq!(request.header(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn the_users_headers_win_and_come_once() {
    let request = first_request(
        "/",
        &[(
            "headers",
            "Accept: application/json, text/event-stream, User-Agent: me, X-Key: {{ TOKEN }}, Authorization: Bearer {{TOKEN}}",
        )],
    )
    .await;
    for (name, value) in [
        ("accept", "application/json, text/event-stream"),
        ("user-agent", "me"),
        ("x-key", "s3cret-token"),
        ("authorization", "Bearer s3cret-token"),
    ] {
        let values: Vec<&str> =
            request.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, [value], "{name}");
    }
}

#[tokio::test]
async fn user_and_password_become_basic_authorization() {
    let server = Server::start([Answer::status(403).text("no entry for u:p%40ss or p@ss")]).await;
    let url = server.url().replace("http://", "http://u:p%40ss@");
    let run = run(feed(&url, &[])).await;
    assert_eq!(server.requests()[0].header("authorization"), Some("Basic dTpwQHNz"));
    let error = run.error.unwrap().to_string();
    assert!(error.contains("403") && !error.contains("p@ss") && !error.contains("://u"), "{error}");
}

#[tokio::test]
async fn a_post_sends_its_body_and_again_on_every_reconnect() {
    let server = Server::start([Answer::status(503), Answer::stream().event("a", "1"), Answer::status(204)]).await;
    let options = [("method", "post"), ("body", r#"{"key": "{{ TOKEN }}"}"#), ("reconnect", "true")];
    run(feed(&server.url(), &options)).await;
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!((request.method.as_str(), request.body.as_str()), ("POST", r#"{"key": "s3cret-token"}"#));
        assert_eq!(request.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn variables_are_filled_in_when_connecting_or_named() {
    for (options, code, name) in [
        (("headers", "X-A: 1, X-B: {{ NOT_SET }}"), Code::UnsetVariable, "NOT_SET"),
        (("body", "{{ NOT_SET }}"), Code::UnsetVariable, "NOT_SET"),
        (("headers", "X-A: {{ INJECTION }}"), Code::BadOption, "x-a"),
    ] {
        let server = Server::start([Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[options])).await;
        let error = run.error.unwrap();
        assert_eq!(error.code(), code);
        assert!(error.message().contains(name) && !error.to_string().contains("Evil"), "{error}");
        assert!(server.requests().is_empty(), "nothing was sent");
    }
    let request = first_request("/{{ TOKEN }}/x?key={{TOKEN}}", &[]).await;
    assert_eq!(request.target, "/s3cret-token/x?key=s3cret-token");
}

#[tokio::test]
async fn a_feed_behind_a_header_is_reached_with_it_only() {
    let guard = || {
        Answer::by(|request| match request.header("x-api-key") {
            Some("s3cret-token") => Answer::stream().event("a", "1"),
            _ => Answer::status(401).text("who are you?"),
        })
    };
    let server = Server::start([guard(), Answer::status(204)]).await;
    assert_eq!(run(feed(&server.url(), &[("headers", "X-API-Key: {{ TOKEN }}")])).await.data(), ["1"]);
    let server = Server::start([guard()]).await;
    let run = run(feed(&server.url(), &[])).await;
    let error = run.error.unwrap();
    assert_eq!(error.code(), Code::Status);
    assert!(error.message().contains("401") && error.message().contains("who are you?"), "{error}");
}
