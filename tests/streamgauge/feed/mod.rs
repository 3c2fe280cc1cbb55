//! The feed from outside: conformance of its parser, and its behaviour towards servers of every kind.

mod bounds;
mod conformance;
mod gaps;
mod policy;
mod request;
mod response;
mod resume;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use streamgauge::error::Error;
use streamgauge::feed::{Event, Feed, FeedSnapshot, FeedSpec, FeedStatus, ReadOutcome};
use streamgauge::options::{GivenOption, TableOptions};

/// An event that outlives its buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: String,
    pub data: String,
    pub id: String,
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        Seen { kind: event.kind.into(), data: event.data.into(), id: event.id.into() }
    }
}

/// What a feed gave until it ended or failed.
pub struct Run {
    pub events: Vec<Seen>,
    /// What it said besides `Events`.
    pub turns: Vec<ReadOutcome>,
    pub error: Option<Error>,
    pub status: FeedSnapshot,
}

impl Run {
    pub fn data(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.data.as_str()).collect()
    }
}

/// So long a hung test lives; no test waits for it to pass.
const HUNG: Duration = Duration::from_secs(120);

pub fn spec(connector: &str, options: &[(&str, &str)]) -> FeedSpec {
    let given = |(name, value): (&str, &str)| GivenOption { name: name.into(), value: value.into(), span: None };
    let given: Vec<GivenOption> = std::iter::once(("connector", connector)).chain(options.iter().copied()).map(given).collect();
    let options = TableOptions::read(&given).unwrap();
    FeedSpec::new(&options).unwrap()
}

/// A feed that reconnects without a wait, unless the options say otherwise.
pub fn feed(url: &str, options: &[(&str, &str)]) -> Feed {
    let mut all = vec![("endpoint", url)];
    if !options.iter().any(|(name, _)| *name == "reconnect_delay") {
        all.push(("reconnect_delay", "0s"));
    }
    all.extend(options);
    let spec = spec("sse", &all).with_variables(Arc::new(|name| match name {
        "TOKEN" => Some("s3cret-token".into()),
        "INJECTION" => Some("x\r\nX-Evil: 1".into()),
        _ => None,
    }));
    Feed::new(spec, Arc::new(FeedStatus::new()))
}

/// Reads until the end.
pub async fn run(mut feed: Feed) -> Run {
    let (mut events, mut turns, mut error) = (Vec::new(), Vec::new(), None);
    let read = async {
        loop {
            match feed.read(&mut |event| events.push(event.into())).await {
                Ok(ReadOutcome::Events) => {}
                Ok(ReadOutcome::Ended) => break,
                Ok(turn) => turns.push(turn),
                Err(failure) => {
                    error = Some(failure);
                    break;
                }
            }
        }
    };
    tokio::time::timeout(HUNG, read).await.expect("the feed comes to an end");
    Run { events, turns, error, status: feed.status().snapshot() }
}

/// Reads until so many events are here.
pub async fn take(feed: &mut Feed, count: usize) -> Vec<Seen> {
    let mut events = Vec::new();
    let read = async {
        while events.len() < count {
            let reading = feed.read(&mut |event| events.push(event.into())).await.unwrap();
            assert_ne!(reading, ReadOutcome::Ended, "the feed ended early, after {events:?}");
        }
    };
    tokio::time::timeout(HUNG, read).await.expect("the events come");
    events
}

/// Reads until something other than events happens.
pub async fn turn(feed: &mut Feed) -> ReadOutcome {
    let read = async {
        loop {
            match feed.read(&mut |_| {}).await.unwrap() {
                ReadOutcome::Events => {}
                turn => return turn,
            }
        }
    };
    tokio::time::timeout(HUNG, read).await.expect("the feed does something")
}
