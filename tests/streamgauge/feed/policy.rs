//! What a feed may use and reach: told when it is made, when it connects, and when it is redirected.

use std::sync::Arc;

use streamgauge::error::{Code, Error};
use streamgauge::feed::{AllowedVariables, Feed, FeedStatus, Policy, Reach};

use super::{run, spec};
use crate::support::server::{Answer, Server};

fn check(policy: Policy, connector: &str, options: &[(&str, &str)]) -> Vec<String> {
    let checked = spec(connector, options).with_policy(Arc::new(policy));
    checked.map_or_else(|errors| errors.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

#[test]
fn what_is_not_allowed_is_told_when_the_feed_is_made_all_of_it() {
    let strict = || Policy {
        variables: AllowedVariables::Only(vec!["SSE_TOKEN".into(), "OPEN_*".into()]),
        reach: Reach::Public,
        allow_hosts: vec!["localhost".into()],
        files: false,
        ..Policy::default()
    };
    let errors = check(
        strict(),
        "sse",
        &[
            ("endpoint", "http://10.0.0.1/{{ AWS_KEY }}"),
            ("headers", "A: {{ SSE_TOKEN }}, B: {{ OPEN_A }}, C: {{ HOME }}"),
            ("body", "{{ HOME }}"),
            ("tls_ca_file", "/etc/passwd"),
            ("proxy", "socks5://169.254.169.254:1080"),
        ],
    );
    let expect = ["AWS_KEY", "HOME", "tls_ca_file", "'10.0.0.1'", "'169.254.169.254'"];
    assert_eq!(errors.len(), expect.len(), "{errors:#?}");
    for (error, part) in errors.iter().zip(expect) {
        assert!(error.contains(part) && error.contains("the setting '"), "{error}");
    }
    assert_eq!(check(strict(), "sse", &[("endpoint", "http://localhost:1/"), ("headers", "A: {{ OPEN_A }}")]), [""; 0]);
    assert_eq!(check(strict(), "file", &[("path", "x.ndjson")]).len(), 1);
    assert_eq!(check(Policy::default(), "file", &[("path", "x.ndjson")]), [""; 0]);
}

async fn failure(url: &str, policy: Policy) -> (Error, usize) {
    let spec = spec("sse", &[("endpoint", url), ("reconnect_delay", "0s")]).with_policy(Arc::new(policy)).unwrap();
    let run = run(Feed::new(spec, Arc::new(FeedStatus::new()))).await;
    (run.error.expect("the feed fails"), run.turns.len())
}

#[tokio::test]
async fn a_redirect_is_no_way_around() {
    let metadata = "http://169.254.169.254/latest/meta-data/";
    let server = Server::start([Answer::redirect(307, metadata)]).await;
    let (error, attempts) = failure(&server.url(), Policy { reach: Reach::NoMetadata, ..Policy::default() }).await;
    assert_eq!((error.code(), attempts), (Code::NotAllowed, 0));
    assert!(error.to_string().contains("feeds.allow_hosts"), "{error}");

    let other = Server::start([Answer::status(204)]).await;
    let server = Server::start([Answer::redirect(302, &other.other_url())]).await;
    let policy = Policy { reach: Reach::Public, allow_hosts: vec!["127.0.0.1".into()], ..Policy::default() };
    // The name stands for an address that is allowed, but it is known for what it is before.
    assert_eq!(failure(&server.url(), policy).await.0.code(), Code::NotAllowed);
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn a_host_that_is_allowed_can_be_reached() {
    let server = Server::start([Answer::status(204)]).await;
    for (url, host) in [(server.url(), "127.0.0.1"), (server.other_url(), "localhost")] {
        let policy = Policy { reach: Reach::Public, allow_hosts: vec![host.into()], ..Policy::default() };
        let spec = spec("sse", &[("endpoint", &url)]).with_policy(Arc::new(policy)).unwrap();
        assert_eq!(run(Feed::new(spec, Arc::new(FeedStatus::new()))).await.error, None);
    }
}
