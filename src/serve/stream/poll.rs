//! The changes of a view for clients without event streams: the same events with the same ids, a request at a time.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::encode::Encoder;
use super::position::{Ids, Position, Start};
use crate::error::{Code, Error, Result};
use crate::view::{Followed, Health, Live};

/// Events of one answer, if nobody says otherwise, and the most that anybody may ask for.
pub const LIMIT: u64 = 1000;
pub const LIMIT_MAX: u64 = 10_000;

/// The longest wait: proxies give up on a silent answer after a minute.
pub const WAIT_MAX: Duration = Duration::from_secs(50);

/// Bytes of events after which an answer is full.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Entries of the history that are looked at together.
const ENTRIES: usize = 64;

/// Changes of a view.
#[derive(Debug, Serialize, ToSchema)]
pub struct ViewChanges {
    pub events: Vec<PolledEvent>,
    /// What to give as `after` for what comes next.
    pub next: String,
    /// There is more already.
    pub has_more: bool,
    /// What was asked for is no longer kept, or was another epoch's: read the results, then go on from `next`.
    pub gap: bool,
    /// The oldest change that is kept.
    pub oldest: String,
}

/// One event, as a stream sends it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolledEvent {
    pub id: String,
    /// `message`, or another type.
    pub event: String,
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
}

/// What one poll asks for.
#[derive(Debug, Clone)]
pub struct Poll {
    /// The id after which changes are wanted; empty for the oldest that are kept.
    pub after: String,
    pub limit: u64,
    /// How long to wait for a change if there is none.
    pub wait: Duration,
}

/// Answers a poll with the events of an encoder without templates, once there is something to say or its wait is over.
pub async fn poll(live: &Arc<Live>, encoder: &Encoder, poll: &Poll) -> Result<ViewChanges> {
    let ids = Ids::single(live.epoch());
    let gap = || ViewChanges {
        events: Vec::new(),
        next: ids.of(live.head()),
        has_more: false,
        gap: true,
        oldest: ids.of(live.oldest()),
    };
    let after = match Start::parse(&poll.after, &[&live.name]) {
        Start::New | Start::Earliest => live.oldest() - 1,
        Start::Latest => live.head(),
        Start::Garbage => {
            let error = Error::new(Code::BadOption, format!("option 'after' is no id of a change: '{}'", poll.after));
            return Err(error.hint(format!("write an id such as {}, or earliest, or latest", ids.of(live.head()))));
        }
        Start::After(places) => match places[0].and_then(|Position { epoch, seq }| live.number(epoch, seq)) {
            Some(seq) => seq,
            None => return Ok(gap()),
        },
    };
    let deadline = Instant::now() + poll.wait;
    let mut follower = live.follow(after);
    let mut taken = Taken { events: Vec::new(), bytes: 0, next: after };
    loop {
        match taken.take(live, encoder, &ids, poll.limit)? {
            Found::Gap => return Ok(gap()),
            // Changes that the shape leaves out are no reason to answer.
            Found::Nothing if taken.events.is_empty() => {
                let over = matches!(live.health(), Health::Ended | Health::Failed(_) | Health::Dropped);
                if over || tokio::time::timeout_at(deadline, follower.changed()).await.is_err() {
                    return Ok(taken.answer(live, &ids, false));
                }
            }
            Found::Nothing => return Ok(taken.answer(live, &ids, false)),
            Found::More => return Ok(taken.answer(live, &ids, true)),
        }
    }
}

struct Taken {
    events: Vec<PolledEvent>,
    bytes: usize,
    /// The last change that was looked at.
    next: u64,
}

enum Found {
    Nothing,
    /// The answer is full.
    More,
    Gap,
}

impl Taken {
    /// Takes what is there until the answer is full.
    fn take(&mut self, live: &Live, encoder: &Encoder, ids: &Ids, limit: u64) -> Result<Found> {
        loop {
            let found = live.after(self.next, ENTRIES);
            if found.is_empty() {
                return Ok(Found::Nothing);
            }
            for followed in found {
                let entry = match followed {
                    Followed::Entry(entry) => entry,
                    Followed::Gap { .. } => return Ok(Found::Gap),
                    Followed::Dropped => return Ok(Found::Nothing),
                };
                let encoded = encoder.changes(&entry.changes, entry.first, self.next + 1, ids, entry.at)?;
                for block in String::from_utf8_lossy(&encoded.bytes).split_terminator("\n\n") {
                    let event = event(block)?;
                    if self.events.len() as u64 >= limit || self.bytes > ANSWER_BYTES {
                        return Ok(Found::More);
                    }
                    if let Some(Position { seq, .. }) = Position::parse(&event.id) {
                        self.next = seq;
                    }
                    self.bytes += block.len();
                    self.events.push(event);
                }
                self.next = entry.last;
            }
        }
    }

    fn answer(self, live: &Live, ids: &Ids, has_more: bool) -> ViewChanges {
        ViewChanges { events: self.events, next: ids.of(self.next), has_more, gap: false, oldest: ids.of(live.oldest()) }
    }
}

/// An event of a stream as a value; without templates its data is one line of JSON.
fn event(block: &str) -> Result<PolledEvent> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = field("data").unwrap_or("null").to_string();
    let data = RawValue::from_string(data).map_err(|error| Error::bug(format!("an event is no JSON: {error}")))?;
    Ok(PolledEvent { id: field("id").unwrap_or_default().into(), event: field("event").unwrap_or("message").into(), data })
}
