//! Ways for bytes to travel.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use streamgauge::error::Code;

use super::{feed, run, take};
use crate::support::server::{Answer, Server, Signal};

const TWO: &str = "id: 1\ndata: é\n\nid: 2\ndata: b\n\n";

#[tokio::test]
async fn bytes_may_come_in_any_framing_and_pace() {
    for (name, answer) in [
        ("chunked", Answer::stream().text(TWO)),
        ("with a length", Answer::stream().text(TWO).with_length()),
        ("until the end of the connection", Answer::stream().text(TWO).close_delimited()),
        ("byte by byte", Answer::stream().drip(TWO)),
        ("compressed", Answer::stream().gzip().text(TWO)),
        ("compressed byte by byte", Answer::stream().gzip().drip(TWO)),
        ("cut behind the last event", Answer::stream().text(TWO).cut()),
        ("compressed and cut", Answer::stream().gzip().text(TWO).cut()),
    ] {
        let server = Server::start([answer, Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[])).await;
        assert_eq!(run.data(), ["é", "b"], "{name}");
        assert_eq!(server.requests()[1].header("last-event-id"), Some("2"), "{name}");
    }
}

#[tokio::test]
async fn compression_holds_no_event_back() {
    let signal = Signal::default();
    let server = Server::start([Answer::stream().gzip().event("e", "a").wait(&signal).event("e", "b").stall()]).await;
    let mut feed = feed(&server.url(), &[]);
    assert_eq!(take(&mut feed, 1).await[0].data, "a");
    signal.notify_one();
    assert_eq!(take(&mut feed, 1).await[0].data, "b");
}

/// A body compressed as these codings say, one after the other.
fn compressed(text: &str, codings: &[&str]) -> Vec<u8> {
    codings.iter().fold(text.as_bytes().to_vec(), |body, coding| {
        let mut out = Vec::new();
        match *coding {
            "gzip" => GzEncoder::new(&mut out, Compression::fast()).write_all(&body).unwrap(),
            "zlib" => ZlibEncoder::new(&mut out, Compression::fast()).write_all(&body).unwrap(),
            "raw" => DeflateEncoder::new(&mut out, Compression::fast()).write_all(&body).unwrap(),
            "br" => brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(&body).unwrap(),
            "zstd" => out = zstd::stream::encode_all(&body[..], 3).unwrap(),
            _ => unreachable!(),
        }
        out
    })
}

#[tokio::test]
async fn codings_have_many_names_and_members() {
    let five: Vec<String> = (1..=5).map(|id| format!("id: {id}\ndata: {id}\n\n")).collect();
    let all = five.concat();
    let each = |coding: &str| five.iter().map(|event| compressed(event, &[coding])).collect::<Vec<_>>().concat();
    for (name, body) in [
        ("gzip", each("gzip")),
        ("gzip", [each("gzip"), b"\0\0 garbage".to_vec()].concat()),
        ("GZIP", compressed(&all, &["gzip"])),
        ("x-gzip", compressed(&all, &["gzip"])),
        ("identity", all.clone().into_bytes()),
        ("deflate", compressed(&all, &["zlib"])),
        ("Deflate", compressed(&all, &["raw"])),
        ("br", compressed(&all, &["br"])),
        ("zstd", each("zstd")),
        ("deflate, identity, GZip", compressed(&all, &["zlib", "gzip"])),
    ] {
        let answer = Answer::stream().header("Content-Encoding", name).bytes(body);
        let server = Server::start([answer, Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[])).await;
        assert_eq!((run.data(), &run.error), (vec!["1", "2", "3", "4", "5"], &None), "{name}");
    }
}

#[tokio::test]
async fn a_coding_that_is_not_known_or_not_meant_is_told() {
    let server = Server::start([Answer::stream().header("Content-Encoding", "gzip, compress").text(TWO)]).await;
    let error = run(feed(&server.url(), &[])).await.error.unwrap();
    assert_eq!(error.code(), Code::ContentType);
    assert!(error.message().contains("'compress'"), "{error}");

    let server = Server::start([Answer::stream().header("Content-Encoding", "gzip").text(TWO), Answer::status(204)]).await;
    let run = run(feed(&server.url(), &[])).await;
    let reason = run.status.last_error.unwrap();
    assert!(run.events.is_empty() && reason.contains("gzip is damaged"), "{reason}");
}

#[tokio::test]
async fn tls_works_with_a_private_authority_and_a_client_certificate() {
    for with_client in [false, true] {
        let server = Server::start_tls([Answer::stream().text(TWO), Answer::status(204)]).await;
        let (authority, client) = (server.authority_file(), server.client_file());
        let mut options = vec![("tls_ca_file", authority.to_str().unwrap())];
        if with_client {
            options.push(("tls_client_file", client.to_str().unwrap()));
        }
        let run = run(feed(&server.url(), &options)).await;
        assert_eq!((run.data(), &run.error), (vec!["é", "b"], &None));
        assert_eq!(server.requests()[0].has_certificate, with_client);
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_no_matter_of_patience() {
    let server = Server::start_tls([Answer::stream().text(TWO)]).await;
    let run = run(feed(&server.url(), &[])).await;
    let error = run.error.unwrap();
    assert_eq!(error.code(), Code::Connect);
    assert!(error.to_string().contains("tls_ca_file"), "{error}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_redirect_never_leads_from_https_to_http() {
    let plain = Server::start([Answer::stream().text(TWO)]).await;
    let server = Server::start_tls([Answer::redirect(302, &plain.url())]).await;
    let authority = server.authority_file();
    let run = run(feed(&server.url(), &[("tls_ca_file", authority.to_str().unwrap())])).await;
    let error = run.error.unwrap();
    assert_eq!(error.code(), Code::Redirect);
    assert!(error.message().contains("plain http"), "{error}");
    assert!(plain.requests().is_empty());
}

#[tokio::test]
async fn files_for_tls_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let empty = crate::support::server::file(directory.path(), "empty.pem", b"");
    for option in ["tls_ca_file", "tls_client_file"] {
        for path in [empty.clone(), directory.path().join("nothing.pem")] {
            let path = path.to_str().unwrap();
            let error = run(feed("https://localhost:1", &[(option, path)])).await.error.unwrap();
            assert_eq!(error.code(), Code::File);
            assert!(error.message().contains(path), "{error}");
        }
    }
}

#[tokio::test]
async fn a_proxy_is_used_when_given() {
    let proxy = Server::start([Answer::stream().text(TWO), Answer::status(204)]).await;
    let run = run(feed("http://feed.example/x", &[("proxy", &proxy.url()), ("headers", "X-Key: k")])).await;
    assert_eq!(run.data(), ["é", "b"]);
    assert!(run.status.warnings[0].contains("'x-key' goes over plain http"), "{:?}", run.status.warnings);
    assert_eq!(proxy.requests()[0].target, "http://feed.example/x");
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_the_task_of_a_feed_closes_its_connection() {
    let server = Server::start([Answer::stream().stall()]).await;
    let task = tokio::spawn(run(feed(&server.url(), &[])));
    server.request(0).await;
    task.abort();
    server.closed().await;
}
