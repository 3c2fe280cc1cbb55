//! Clients of channels over views that tests publish to. The clock stands still, so a heartbeat means that nothing else comes.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::change::Changes;
use crate::error::{Code, Error};
use crate::serve::limits::StreamLimiter;
use crate::serve::settings::Http;
use crate::serve::stream::{Encoder, Shape};
use crate::time::TimestampArray;
use crate::view::{Live, Rows};

/// Rows of an id and a value, each with its weight.
fn changes(rows: &[(&str, i64, i64)]) -> Changes {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
    Changes {
        rows: RecordBatch::try_from_iter([("id", ids), ("value", values)]).unwrap(),
        times: TimestampArray::from(vec![0; rows.len()]),
        weights: Some(rows.iter().map(|row| row.2).collect::<Vec<i64>>().into()),
    }
}

fn live(name: &str) -> Arc<Live> {
    let schema: SchemaRef = changes(&[]).rows.schema();
    let rows = Rows::standing(&schema, None).unwrap();
    Arc::new(Live::new(name, schema, true, rows))
}

fn publish(live: &Live, rows: &[(&str, i64, i64)]) {
    live.publish(changes(rows), Timestamp::now()).unwrap();
}

/// A server of channels, of which clients come and go.
struct Server {
    counters: Arc<Counters>,
    clients: Arc<AtomicU64>,
    limiter: StreamLimiter,
}

impl Server {
    fn new() -> Self {
        Server { counters: Arc::default(), clients: Arc::default(), limiter: StreamLimiter::new(&Http::default()) }
    }

    fn channel(&self, lives: &[&Arc<Live>], query: &str) -> Arc<Channel> {
        let shape = Ask::read(query, None, Shape::default()).unwrap().shape;
        let part = |live: &&Arc<Live>| {
            let encoder = Encoder::new(&live.name, &live.schema, shape.clone(), None).unwrap();
            (Arc::clone(live), encoder)
        };
        Channel::open(lives.iter().map(part).collect(), Arc::clone(&self.counters), Arc::clone(&self.clients))
    }

    fn connect(&self, channel: &Arc<Channel>, query: &str) -> Client {
        let ask = Ask::read(query, None, Shape::default()).unwrap();
        let greeting = Greeting { stream: None, ask: &ask, heartbeat: Some(ask.heartbeat.unwrap_or(Duration::from_secs(30))) };
        let permit = self.limiter.enter([127, 0, 0, 1].into(), None, std::time::Instant::now()).unwrap();
        let open = OpenClient::enter(&self.counters, 1000, &self.clients, permit).unwrap();
        Client::connect(Arc::clone(channel), &greeting, open).unwrap().0
    }
}

/// What the client gets until nothing more comes, or its stream ends.
async fn all(client: &mut Client) -> String {
    let mut text = String::new();
    while let Some(bytes) = client.next().await {
        if bytes == ": heartbeat\n\n" {
            break;
        }
        text.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    text
}

/// One event: its id, its type (`message` if it has none) and its data.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    id: String,
    name: String,
    data: Value,
}

fn seen(text: &str) -> Vec<Seen> {
    let field = |block: &str, name: &str| {
        let start = format!("{name}: ");
        block.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_string)
    };
    let event = |block: &str| {
        let data = serde_json::from_str(&field(block, "data")?).unwrap();
        let name = field(block, "event").unwrap_or_else(|| "message".into());
        Some(Seen { id: field(block, "id").unwrap_or_default(), name, data })
    };
    text.split("\n\n").filter_map(event).collect()
}

fn names(events: &[Seen]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

/// What a page holds that applies events as they come.
#[derive(Debug, Default, Clone, PartialEq)]
struct Page {
    /// By view and id.
    rows: BTreeMap<(String, String), i64>,
    last_id: String,
    /// Changes that do not fit what it holds.
    odd: usize,
}

impl Page {
    fn apply(&mut self, event: &Seen) {
        if !event.id.is_empty() {
            self.last_id.clone_from(&event.id);
        }
        match event.name.as_str() {
            "reset" => self.rows.retain(|(view, _), _| *view != event.data["view"]),
            "message" => {
                let key = |side: &str| {
                    let text = |value: &Value| value.as_str().unwrap().to_string();
                    (text(&event.data["query"]), text(&event.data[side]["id"]))
                };
                let value = event.data["after"]["value"].as_i64();
                self.odd += usize::from(match event.data["op"].as_str().unwrap() {
                    "added" => self.rows.insert(key("after"), value.unwrap()).is_some(),
                    "updated" => self.rows.insert(key("after"), value.unwrap()).is_none(),
                    _ => self.rows.remove(&key("before")).is_none(),
                });
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_client_gets_the_rows_and_then_what_changes() {
    let (server, live) = (Server::new(), live("v"));
    publish(&live, &[("a", 1, 1), ("b", 2, 1)]);
    let channel = server.channel(&[&live], "");
    let mut client = server.connect(&channel, "");
    let epoch = live.epoch();
    let text = all(&mut client).await;
    let (greeting, rest) = text.split_once("\n\nevent: connected\n").unwrap();
    assert_eq!(greeting, "retry: 3000");
    let (_, rest) = rest.split_once("\n\n").unwrap();
    let expected = [
        "data: {\"op\":\"added\",\"query\":\"v\",\"after\":{\"id\":\"a\",\"value\":1}}\n\n",
        "data: {\"op\":\"added\",\"query\":\"v\",\"after\":{\"id\":\"b\",\"value\":2}}\n\n",
        &format!("id: {epoch}-2\nevent: snapshot_end\ndata: {{\"rows\":2,\"id\":\"{epoch}-2\"}}\n\n"),
    ];
    assert_eq!(rest, expected.concat());
    publish(&live, &[("a", 1, -1), ("a", 5, 1)]);
    publish(&live, &[("b", 2, -1)]);
    let text = all(&mut client).await;
    let expected = [
        &format!("id: {epoch}-3\n"),
        "data: {\"op\":\"updated\",\"query\":\"v\",\"before\":{\"id\":\"a\",\"value\":1},\"after\":{\"id\":\"a\",\"value\":5}}\n\n",
        &format!("id: {epoch}-4\n"),
        "data: {\"op\":\"deleted\",\"query\":\"v\",\"before\":{\"id\":\"b\",\"value\":2}}\n\n",
    ];
    assert_eq!(text, expected.concat());
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_snapshot_knows_its_place() {
    let (server, live) = (Server::new(), live("v"));
    publish(&live, &[("a", 1, 1), ("b", 2, 1)]);
    let channel = server.channel(&[&live], "");
    let first = |id: &str| format!("{}-{id}", live.epoch());
    for (query, ids) in [
        ("snapshot=false".to_string(), vec![first("2")]),
        ("last_event_id=latest".into(), vec![first("2")]),
        ("last_event_id=earliest".into(), vec![first("0"), first("1"), first("2")]),
        (format!("last_event_id={}", first("1")), vec![first("1"), first("2")]),
    ] {
        let events = seen(&all(&mut server.connect(&channel, &query)).await);
        assert_eq!(events[0].name, "connected");
        assert_eq!(events[0].data["resumed"], query.ends_with("-1"), "{query}");
        assert_eq!(events.iter().map(|event| event.id.clone()).collect::<Vec<_>>(), ids, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_that_cannot_be_resumed_is_told_and_answered_with_the_rows() {
    let (server, live) = (Server::new(), live("v"));
    publish(&live, &[("a", 1, 1)]);
    let channel = server.channel(&[&live], "");
    let ids = [("rubbish", "garbage"), ("1-1", "epoch"), (&format!("{}-9", live.epoch()), "garbage")];
    for (id, reason) in ids {
        let events = seen(&all(&mut server.connect(&channel, &format!("last_event_id={id}"))).await);
        assert_eq!(names(&events), ["connected", "reset", "message", "snapshot_end"]);
        assert_eq!((&events[0].data["resumed"], &events[1].data["reason"]), (&false.into(), &reason.into()));
        assert_eq!(events[1].data["oldest"], format!("{}-1", live.epoch()));
        assert!(events[..3].iter().all(|event| event.id.is_empty()), "an id before the rows are complete would lose the rest");
        let events = seen(&all(&mut server.connect(&channel, &format!("snapshot=false&last_event_id={id}"))).await);
        assert_eq!((names(&events), &events[1].data["action"]), (vec!["connected", "reset"], &"continue".into()));
    }
    assert_eq!(Counters::get(&server.counters.resets), 6);
}

#[tokio::test(start_paused = true)]
async fn what_the_history_has_forgotten_is_a_reset() {
    let (server, live) = (Server::new(), live("v"));
    let rows: Vec<(String, i64)> = (0..80_000).map(|row| (row.to_string(), row)).collect();
    for half in rows.chunks(40_000) {
        publish(&live, &half.iter().map(|(id, value)| (id.as_str(), *value, 1)).collect::<Vec<_>>());
        publish(&live, &half.iter().map(|(id, value)| (id.as_str(), *value, -1)).collect::<Vec<_>>());
    }
    assert!(live.oldest() > 1);
    let channel = server.channel(&[&live], "");
    let mut client = server.connect(&channel, &format!("last_event_id={}-0", live.epoch()));
    let events = seen(&all(&mut client).await);
    assert_eq!((names(&events), &events[1].data["reason"]), (vec!["connected", "reset", "snapshot_end"], &"retention".into()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_told_what_it_lost() {
    let (server, live, quiet) = (Server::new(), live("v"), live("quiet"));
    let channel = server.channel(&[&live, &quiet], "");
    let (mut slow, mut quick) = (server.connect(&channel, ""), server.connect(&channel, ""));
    assert_eq!(names(&seen(&all(&mut slow).await)), ["connected", "snapshot_end"]);
    all(&mut quick).await;
    let rows: Vec<String> = (0..40_000).map(|row| row.to_string()).collect();
    let mut read = 0;
    for _ in 0..2 {
        for weight in [1, -1] {
            publish(&live, &rows.iter().map(|id| (id.as_str(), 1, weight)).collect::<Vec<_>>());
            read += seen(&all(&mut quick).await).len();
        }
    }
    assert_eq!(read, 160_000);
    let text = all(&mut slow).await;
    let events = seen(&text);
    assert_eq!(names(&events), ["lagged"], "{}", &text[..text.len().min(300)]);
    assert_eq!(events[0].data["dropped"], live.oldest() - 1);
    assert_eq!(events[0].data["oldest"], format!("quiet:{}-0,v:{}-{}", quiet.epoch(), live.epoch(), live.oldest()));
    assert!(slow.next().await.is_none());
    assert_eq!(Counters::get(&server.counters.lagged), 1);
}

#[tokio::test(start_paused = true)]
async fn a_limit_ends_the_stream_after_so_many_events() {
    let (server, live) = (Server::new(), live("v"));
    publish(&live, &[("a", 1, 1), ("b", 2, 1)]);
    let channel = server.channel(&[&live], "");
    let mut client = server.connect(&channel, "limit=4");
    assert_eq!(names(&seen(&all(&mut client).await)), ["connected", "message", "message", "snapshot_end"]);
    publish(&live, &[("c", 1, 1), ("d", 1, 1), ("e", 1, 1)]);
    let ids: Vec<String> = seen(&all(&mut client).await).into_iter().map(|event| event.id).collect();
    assert_eq!(ids, [format!("{}-3", live.epoch()), format!("{}-4", live.epoch())]);
    assert!(client.next().await.is_none());
    assert_eq!(Counters::get(&server.counters.events), 4);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_so_long_after_the_last_write() {
    let (server, live) = (Server::new(), live("v"));
    let channel = server.channel(&[&live], "");
    let mut client = server.connect(&channel, "heartbeat=10s&snapshot=false");
    client.next().await.unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    publish(&live, &[("a", 1, 1)]);
    assert!(client.next().await.unwrap().starts_with(b"id: "));
    let written = Instant::now();
    assert_eq!(client.next().await.unwrap(), ": heartbeat\n\n");
    assert!(written.elapsed() >= Duration::from_secs(10) && written.elapsed() < Duration::from_secs(11));
    let mut client = server.connect(&channel, "heartbeat=event&snapshot=false");
    client.next().await.unwrap();
    assert!(client.next().await.unwrap().starts_with(b"event: heartbeat\ndata: {\"timestamp\":"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_why_it_ends() {
    let (server, live) = (Server::new(), live("v"));
    for (end, told) in [
        (End::Stopped, "event: error\ndata: {\"reason\":\"stopped\"}\n\n"),
        (End::Dropped("v".into()), "event: error\ndata: {\"reason\":\"dropped\",\"view\":\"v\"}\n\n"),
    ] {
        let channel = server.channel(&[&live], "");
        let mut client = server.connect(&channel, "snapshot=false");
        all(&mut client).await;
        match &end {
            End::Dropped(_) => live.enter(Health::Dropped),
            _ => channel.close(end),
        }
        assert_eq!(all(&mut client).await, told);
        assert!(client.next().await.is_none());
    }
    let channel = server.channel(&[&live], "");
    let mut client = server.connect(&channel, "");
    channel.close(End::Shutdown);
    let text = all(&mut client).await;
    let wait = text.rsplit_once("retry: ").unwrap().1.trim_end().parse().unwrap();
    assert!(RETURN_MS.contains(&wait), "{text}");
    drop(client);
    assert_eq!(Counters::get(&server.clients), 0);
}

#[tokio::test(start_paused = true)]
async fn a_view_that_fails_is_told_to_those_who_are_there_and_to_those_who_come() {
    let (server, live) = (Server::new(), live("v"));
    let channel = server.channel(&[&live], "");
    let mut client = server.connect(&channel, "snapshot=false");
    all(&mut client).await;
    live.enter(Health::Failed(Error::new(Code::Runtime, "division by zero")));
    let failed = "event: error\ndata: {\"reason\":\"failed\",\"view\":\"v\",\"code\":\"SG-1501\",\"detail\":\"division by zero\",\"hint\":null}\n\n";
    assert_eq!(all(&mut client).await, failed);
    let text = all(&mut server.connect(&channel, "snapshot=false")).await;
    assert_eq!(text.matches(failed).count(), 1, "{text}");
    assert_eq!(all(&mut client).await, "");
}

#[tokio::test(start_paused = true)]
async fn clients_of_one_channel_share_their_bytes() {
    let (server, live) = (Server::new(), live("v"));
    let channel = server.channel(&[&live], "");
    let mut clients = [server.connect(&channel, ""), server.connect(&channel, "")];
    for client in &mut clients {
        // The greeting and the end of the snapshot.
        assert!(client.next().await.is_some() && client.next().await.is_some());
        assert!(client.next().now_or_never().is_none());
    }
    publish(&live, &[("a", 1, 1)]);
    publish(&live, &[("b", 1, 1)]);
    let [first, second] = &mut clients;
    let (first, second) = (first.next().await.unwrap(), second.next().await.unwrap());
    assert_eq!(events(&first), 2, "what came together is sent together");
    assert_eq!(first.as_ptr(), second.as_ptr());
}

#[tokio::test(start_paused = true)]
async fn each_view_of_a_stream_resumes_by_itself() {
    let (server, one, two) = (Server::new(), live("one"), live("t,w:o"));
    publish(&one, &[("a", 1, 1)]);
    publish(&two, &[("b", 2, 1)]);
    let channel = server.channel(&[&one, &two], "");
    let events = seen(&all(&mut server.connect(&channel, "")).await);
    assert_eq!(names(&events), ["connected", "message", "message", "snapshot_end"]);
    let id = format!("t~2Cw~3Ao:{}-1,one:{}-1", two.epoch(), one.epoch());
    assert_eq!(events[3].id, id);
    publish(&one, &[("c", 3, 1)]);
    let gone = format!("one:{}-1,t~2Cw~3Ao:1-1", one.epoch());
    let events = seen(&all(&mut server.connect(&channel, &format!("last_event_id={gone}"))).await);
    assert_eq!(names(&events), ["connected", "reset", "message", "snapshot_end", "message"]);
    assert_eq!((&events[1].data["view"], &events[2].data["query"]), (&"t,w:o".into(), &"t,w:o".into()));
    assert_eq!((events[4].data["query"].as_str(), events[4].data["after"]["id"].as_str()), (Some("one"), Some("c")));
}

/// What is done to two views: changes of rows by id, some published together.
#[derive(Debug, Clone)]
struct Step {
    view: usize,
    /// An id, and what becomes of its row: a new value, or gone.
    rows: Vec<(u8, Option<i64>)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rows = proptest::collection::vec((0u8..4, proptest::option::of(0i64..100)), 1..5);
    proptest::collection::vec((0usize..2, rows).prop_map(|(view, rows)| Step { view, rows }), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whoever leaves after any event and comes back with its id ends with the rows of the views, and is told no change twice.
    #[test]
    fn any_place_to_resume_gives_the_same_rows(steps in steps(), leave in proptest::collection::vec(1u64..6, 0..12), views in 1usize..3) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (server, lives) = (Server::new(), [live("one"), live("two")]);
            let lives: Vec<&Arc<Live>> = lives.iter().take(views).collect();
            let channel = server.channel(&lives, "");
            let mut held = vec![BTreeMap::<u8, i64>::new(); views];
            let mut page = Page::default();
            let mut leave = leave.into_iter();
            for step in steps {
                let held = &mut held[step.view % views];
                let mut rows: Vec<(String, i64, i64)> = Vec::new();
                for (id, value) in step.rows {
                    rows.extend(held.get(&id).map(|old| (id.to_string(), *old, -1)));
                    match value {
                        Some(value) => {
                            held.insert(id, value);
                            rows.push((id.to_string(), value, 1));
                        }
                        None => drop(held.remove(&id)),
                    }
                }
                // Two changes side by side that are no update must not look like one.
                let rows: Vec<(&str, i64, i64)> = rows.iter().map(|row| (row.0.as_str(), row.1, row.2)).collect();
                for run in split(&rows) {
                    publish(lives[step.view % views], run);
                }
                if let Some(limit) = leave.next() {
                    let mut client = server.connect(&channel, &format!("limit={limit}&last_event_id={}", page.last_id));
                    let text = all(&mut client).await;
                    if !page.last_id.is_empty() {
                        seen(&text).iter().for_each(|event| page.apply(event));
                    } else if text.contains("snapshot_end") {
                        page = Page::default();
                        seen(&text).iter().for_each(|event| page.apply(event));
                    }
                }
            }
            let mut client = server.connect(&channel, &format!("last_event_id={}", page.last_id));
            seen(&all(&mut client).await).iter().for_each(|event| page.apply(event));
            let expected: BTreeMap<(String, String), i64> = lives
                .iter()
                .zip(&held)
                .flat_map(|(live, held)| held.iter().map(|(id, value)| ((live.name.clone(), id.to_string()), *value)))
                .collect();
            assert_eq!((page.rows, page.odd), (expected, 0));
        });
    }
}

/// Cuts rows where a deletion of one row is followed by the insertion of another.
fn split<'a>(rows: &'a [(&'a str, i64, i64)]) -> Vec<&'a [(&'a str, i64, i64)]> {
    rows.chunk_by(|one, next| !(one.2 == -1 && next.2 == 1 && one.0 != next.0)).collect()
}
