//! What a feed makes of each kind of answer.

use streamgauge::error::Code;
use streamgauge::feed::{FeedState, ReadOutcome};

use super::{feed, run, turn};
use crate::support::server::{Answer, Server};

const EVENT: &str = "data: 1\n\n";

#[tokio::test]
async fn an_event_stream_is_one_by_its_essence() {
    for (content_type, warnings) in [
        ("text/event-stream", 0),
        ("text/event-stream;charset=utf-8", 0),
        ("text/event-stream; charset=\"UTF-8\"", 0),
        ("text/event-stream;x=y", 0),
        ("text/event-stream;", 0),
        ("TEXT/EVENT-STREAM", 0),
        ("text/event-stream;charset=windows-1252", 1),
    ] {
        let server =
            Server::start([Answer::status(200).content_type(content_type).text("data: é\n\n"), Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[])).await;
        assert_eq!((run.data(), run.status.warnings.len()), (vec!["é"], warnings), "{content_type}");
    }
}

#[tokio::test]
async fn what_is_no_event_stream_is_refused_at_once_with_what_it_is() {
    for (answer, code, texts) in [
        (
            Answer::status(200).content_type("application/json; charset=utf-8").text("{\"message\":\n \"events\"}"),
            Code::ContentType,
            &["200", "application/json, not text/event-stream", "{\"message\": \"events\"}"][..],
        ),
        (Answer::status(200).content_type("text/html").text("<html>"), Code::ContentType, &["text/html", "<html>"]),
        (Answer::status(200).content_type("text/event-streamX").text(EVENT), Code::ContentType, &["text/event-streamX"]),
        (Answer::status(200).content_type("x bogus").text(EVENT), Code::ContentType, &["x bogus"]),
        (Answer::status(200).text(EVENT), Code::ContentType, &["without a content type"]),
        (Answer::stream().header("Content-Encoding", "compress").text(EVENT), Code::ContentType, &["compress"]),
        (Answer::status(205), Code::Status, &["205"]),
        (Answer::status(206).text(EVENT), Code::Status, &["206"]),
        (Answer::status(299), Code::Status, &["299"]),
        (Answer::status(300), Code::Redirect, &["300"]),
        (Answer::status(304), Code::Redirect, &["304"]),
        (Answer::status(302), Code::Redirect, &["302", "without saying where"]),
        (Answer::redirect(302, ""), Code::Redirect, &["302"]),
        (Answer::redirect(302, "ftp://x/"), Code::Redirect, &["ftp"]),
        (Answer::status(400).text("bad"), Code::Status, &["400", "bad"]),
        (Answer::status(401), Code::Status, &["401", "credentials"]),
        (Answer::status(403), Code::Status, &["403", "credentials"]),
        (Answer::status(404), Code::Status, &["404", "endpoint"]),
        (Answer::status(405), Code::Status, &["405", "method"]),
        (Answer::status(407), Code::Status, &["407", "proxy"]),
        (Answer::status(410), Code::Status, &["410"]),
        (Answer::status(422), Code::Status, &["422"]),
    ] {
        let server = Server::start([answer]).await;
        let run = run(feed(&server.url(), &[])).await;
        let error = run.error.unwrap_or_else(|| panic!("{texts:?} is an error"));
        let shown = error.to_string();
        assert_eq!(error.code(), code, "{shown}");
        assert!(texts.iter().all(|text| shown.contains(text)), "{shown} has not {texts:?}");
        assert_eq!(run.status.state, FeedState::Failed, "{shown}");
        assert_eq!(run.status.last_error.as_deref(), Some(shown.as_str()));
        assert_eq!(server.requests().len(), 1, "{shown}");
    }
}

#[tokio::test]
async fn an_error_repeats_no_secret_and_no_more_than_a_sentence_bears() {
    let body = format!("bad token s3cret-token \u{1b}[31m {}", "x".repeat(100_000));
    let server = Server::start([Answer::status(403).text(&body).stall()]).await;
    let url = format!("{}/?key=s3cret-query", server.url());
    let run = run(feed(&url, &[("headers", "Authorization: Bearer {{ TOKEN }}")])).await;
    let shown = format!("{} {:?}", run.error.unwrap(), run.status);
    assert!(!shown.contains("s3cret") && !shown.contains('\u{1b}') && shown.len() < 2000, "{shown}");
    assert!(shown.contains("bad token ***"), "{shown}");

    let server = Server::start([Answer::redirect(302, "/there/s3cret-token"), Answer::status(404)]).await;
    let run = super::run(feed(&format!("{}/{{{{ TOKEN }}}}", server.url()), &[])).await;
    assert_eq!(server.requests()[0].target, "/s3cret-token");
    let shown = format!("{} {:?}", run.error.unwrap(), run.status);
    assert!(shown.contains("/there/***") && !shown.contains("s3cret"), "{shown}");

    let server = Server::start([Answer::status(404)]).await;
    let run = super::run(feed(&format!("{}/{{{{ TOKEN }}}}", server.url()), &[])).await;
    let shown = format!("{} {:?}", run.error.unwrap(), run.status);
    assert!(shown.contains("/{{ TOKEN }} answers 404") && !shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn no_content_completes_the_feed() {
    let server = Server::start([Answer::status(204)]).await;
    let mut feed = feed(&server.url(), &[]);
    assert_eq!(turn(&mut feed).await, ReadOutcome::Ended);
    assert_eq!(turn(&mut feed).await, ReadOutcome::Ended);
    assert_eq!(feed.status().snapshot().state, FeedState::Completed);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    for status in [408, 425, 429, 500, 502, 503, 504, 520, 529] {
        let server = Server::start([Answer::status(status), Answer::stream().text(EVENT), Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[])).await;
        assert_eq!(run.data(), ["1"], "{status}");
        assert_eq!(run.turns, [ReadOutcome::Disconnected, ReadOutcome::Connected, ReadOutcome::Disconnected], "{status}");
    }
    let server = Server::start([Answer::hang_up(), Answer::stream().text(EVENT), Answer::status(204)]).await;
    assert_eq!(run(feed(&server.url(), &[])).await.data(), ["1"]);
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + std::time::Duration::from_secs(100));
    for (value, least, most) in [("90", 90, 136), (date.as_str(), 95, 151)] {
        let server = Server::start([Answer::status(429).header("Retry-After", value)]).await;
        let mut feed = feed(&server.url(), &[]);
        assert_eq!(turn(&mut feed).await, ReadOutcome::Disconnected);
        let status = feed.status().snapshot();
        assert_eq!(status.state, FeedState::BackingOff);
        let wait = (status.reconnect_at.unwrap().nanos() - status.since.nanos()) / 1_000_000_000;
        assert!((least..most).contains(&wait), "{value}: {wait}");
    }
}

#[tokio::test]
async fn redirects_are_followed_by_the_rules_of_fetch() {
    for (status, method, then) in [
        (301, "GET", "GET"),
        (302, "GET", "GET"),
        (303, "GET", "GET"),
        (307, "GET", "GET"),
        (308, "GET", "GET"),
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "PUT", "GET"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
    ] {
        let server =
            Server::start([Answer::redirect(status, "../there?x=1"), Answer::stream().text(EVENT), Answer::status(204)]).await;
        let options = [("method", method), ("last_event_id", "5"), ("headers", "X-Key: k"), ("reconnect", "true")];
        let body = [("body", "b")];
        let options: Vec<(&str, &str)> = options.into_iter().chain(body.into_iter().filter(|_| method != "GET")).collect();
        let run = run(feed(&format!("{}/a/b", server.url()), &options)).await;
        assert_eq!(run.data(), ["1"], "{status} {method}");
        let requests = server.requests();
        let second = &requests[1];
        assert_eq!((second.method.as_str(), second.target.as_str()), (then, "/there?x=1"), "{status} {method}");
        assert_eq!(second.body, if then == "GET" { "" } else { "b" }, "{status} {method}");
        assert_eq!(second.header("last-event-id"), Some("5"));
        assert_eq!((second.header("x-key"), second.header("referer")), (Some("k"), None));
        assert_eq!(requests[2].target, "/a/b", "a reconnect starts from the endpoint");
    }
}

#[tokio::test]
async fn credentials_never_cross_an_origin() {
    let target = Server::start([Answer::stream().text(EVENT), Answer::status(204)]).await;
    let back = Server::start([Answer::redirect(307, &format!("{}/x", target.other_url())), Answer::status(204)]).await;
    let options = [(
        "headers",
        "Authorization: a, Cookie: c, X-API-Key: k, X-Mine: {{ TOKEN }}, X-Plain: p, Accept-Language: de, Private-Token: t, X-Acme: Bearer b, X-Other: 0123456789abcdef0123",
    )];
    let run = run(feed(&back.url(), &options)).await;
    assert_eq!(run.data(), ["1"]);
    let request = target.request(0).await;
    for name in ["authorization", "cookie", "x-api-key", "x-mine", "private-token", "x-acme", "x-other", "x-plain", "referer"] {
        assert_eq!(request.header(name), None, "{name}");
        assert_eq!(back.requests()[0].header(name).is_some(), name != "referer", "{name}");
    }
    assert_eq!(request.header("accept-language"), Some("de"));
}

#[tokio::test]
async fn a_body_stays_with_its_origin() {
    for body in ["{{ TOKEN }}", "{\"key\": \"geheim\"}"] {
        let target = Server::start([Answer::stream().text(EVENT)]).await;
        let server = Server::start([Answer::redirect(307, &target.other_url())]).await;
        let run = run(feed(&server.url(), &[("method", "POST"), ("body", body)])).await;
        assert_eq!(run.error.unwrap().code(), Code::Redirect);
        assert!(target.requests().is_empty());
    }
}

#[tokio::test]
async fn what_an_address_holds_stays_with_its_origin() {
    let target = Server::start([Answer::stream().text(EVENT), Answer::status(204)]).await;
    let back = Server::start([Answer::redirect(302, &format!("{}/x", target.other_url())), Answer::status(204)]).await;
    let endpoint = format!("{}/a?api_key=geheim&t={{{{ TOKEN }}}}", back.url().replace("http://", "http://u:geheim@"));
    let run = run(feed(&endpoint, &[("last_event_id", "7")])).await;
    assert_eq!(run.data(), ["1"]);
    let request = target.request(0).await;
    assert_eq!((request.target.as_str(), request.header("authorization")), ("/x", None));
    assert!(back.requests()[0].target.contains("api_key=geheim") && back.requests()[0].header("authorization").is_some());
}

#[tokio::test]
async fn a_redirect_loop_is_an_attempt_that_failed() {
    let server = Server::start([Answer::redirect(307, "/again")]).await;
    let run = run(feed(&server.url(), &[("max_reconnect_attempts", "1")])).await;
    assert_eq!(run.error.unwrap().code(), Code::GaveUp);
    assert_eq!(server.requests().len(), 42);
}

#[tokio::test]
async fn attempts_are_given_up_when_used_up_and_count_anew_after_an_event() {
    let server = Server::start([
        Answer::status(503),
        Answer::stream(),
        Answer::stream().text(EVENT),
        Answer::status(503),
        Answer::stream(),
        Answer::status(503).text("still down"),
        Answer::status(503).text("still down"),
    ])
    .await;
    let run = run(feed(&server.url(), &[("max_reconnect_attempts", "3")])).await;
    let error = run.error.unwrap();
    assert_eq!(error.code(), Code::GaveUp);
    assert!(error.message().contains("after 3 attempts") && error.message().contains("still down"), "{error}");
    assert_eq!((run.status.state, server.requests().len()), (FeedState::Failed, 6));
}

#[tokio::test]
async fn a_feed_without_reconnect_is_finite() {
    for (answers, events, error, state, warnings) in [
        (vec![Answer::stream().text(EVENT)], 1, None, FeedState::Completed, 0),
        (vec![Answer::stream().text(EVENT).cut()], 1, None, FeedState::Completed, 1),
        (vec![Answer::stream().cut()], 0, Some(Code::Connect), FeedState::Failed, 0),
        (vec![Answer::status(503)], 0, Some(Code::Status), FeedState::Failed, 0),
        (vec![Answer::hang_up()], 0, Some(Code::Connect), FeedState::Failed, 0),
    ] {
        let server = Server::start(answers).await;
        let run = run(feed(&server.url(), &[("reconnect", "false")])).await;
        assert_eq!((run.events.len(), run.error.map(|error| error.code())), (events, error));
        assert_eq!((run.status.state, run.status.warnings.len(), server.requests().len()), (state, warnings, 1));
    }
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_with_its_reason() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut feed = feed(&format!("http://{closed}/x?key=geheim"), &[]);
    assert_eq!(turn(&mut feed).await, ReadOutcome::Disconnected);
    let status = feed.status().snapshot();
    let reason = status.last_error.unwrap();
    assert!(reason.contains("refused") && reason.contains(&closed.to_string()) && !reason.contains("geheim"), "{reason}");
    assert_eq!(status.state, FeedState::BackingOff);
}

#[tokio::test]
async fn only_wanted_types_come_and_the_others_are_counted() {
    let sample = "event: user_login\ndata: a\n\nevent: user_logout\ndata: b\n\ndata: c\n\nevent: User_Login\nid: 9\ndata: d\n\n";
    for (events, expected, filtered) in [
        ("", vec!["a", "b", "c", "d"], 0),
        ("user_login , message,", vec!["a", "c"], 2),
        ("message", vec!["c"], 3),
        ("nothing", vec![], 4),
    ] {
        let server = Server::start([Answer::stream().text(sample), Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[("events", events)])).await;
        assert_eq!((run.data(), run.status.filtered), (expected, filtered), "{events}");
        assert_eq!(server.requests()[1].header("last-event-id"), Some("9"), "{events}");
        assert!(run.status.last_event_at.is_some());
    }
}

#[tokio::test]
async fn the_terminator_ends_the_feed_and_is_no_event() {
    let server = Server::start([Answer::stream().text("data: {}\n\ndata: [DONE]\n\ndata: late\n\n").stall()]).await;
    let run = run(feed(&server.url(), &[("terminator", "[DONE]"), ("events", "message")])).await;
    assert_eq!(run.data(), ["{}"]);
    assert_eq!(run.status.state, FeedState::Completed);
}
