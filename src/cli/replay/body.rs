//! The body of one response: a client's place in the events, and what is due to be sent next.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::source::EventReader;
use super::{Flush, Pace, Replay};

/// A chunk of the response is closed when it has reached this: large enough that a system call carries hundreds of events.
const CHUNK_BYTES: usize = 64 << 10;
/// A client that resumes far into the events gives way to others after so many skipped ones.
const SKIP_TURN: u64 = 1024;
/// How far an id is looked for: an unknown one would otherwise be looked for without end in events without end.
const SKIP_MAX: u64 = 100_000_000;

/// One client's place in the events.
pub(super) struct Cursor {
    events: Box<dyn EventReader>,
    repeat: bool,
    /// An event taken before it is due, to see whether there is one.
    ahead: Vec<u8>,
    /// What is sent next.
    wire: Vec<u8>,
    id: String,
    /// Events behind the client: sent, or skipped by a resume.
    position: u64,
    schedule: Option<Schedule>,
    heartbeat: Option<(Duration, Instant)>,
    /// Events until the connection is cut.
    until_cut: Option<u64>,
    flush: Flush,
    stopped: watch::Receiver<bool>,
    next: NextSend,
}

/// What follows what has been sent.
#[derive(Clone, Copy, PartialEq)]
enum NextSend {
    Events,
    /// The connection breaks off.
    Cut,
    /// The response ends properly.
    End,
}

/// Event `base + n` (from 0) is due `n / rate` seconds after `since`.
struct Schedule {
    rate: f64,
    since: Instant,
    base: u64,
}

impl Schedule {
    /// How many events are due in all.
    fn due(&self, now: Instant) -> u64 {
        // A float holds every count exactly that a server lives to send.
        // The small part makes good what rounding to nanoseconds takes away.
        self.base + (now.saturating_duration_since(self.since).as_secs_f64() * self.rate + 1e-6) as u64 + 1
    }

    /// When the event at `position` is due.
    fn time(&self, position: u64) -> Instant {
        /// Beyond this, tokio's timer would overflow; the wait is then simply renewed.
        const LONGEST_S: f64 = 86_400.0 * 365.0;
        let seconds = position.saturating_sub(self.base) as f64 / self.rate;
        self.since + Duration::from_secs_f64(seconds.min(LONGEST_S))
    }
}

impl Cursor {
    /// The place behind the event with the id `last`, or the first one if there is no such event. `None` if nothing follows it.
    pub async fn open(
        replay: &Replay,
        started: Instant,
        stopped: watch::Receiver<bool>,
        last: Option<&str>,
    ) -> io::Result<Option<Cursor>> {
        let now = Instant::now();
        let mut cursor = Cursor {
            events: replay.source.open()?,
            repeat: replay.repeat,
            ahead: Vec::new(),
            wire: Vec::new(),
            id: String::new(),
            position: 0,
            schedule: None,
            heartbeat: replay.heartbeat.map(|gap| (gap, now + gap)),
            until_cut: replay.drop_every.map(u64::from),
            flush: replay.flush,
            stopped,
            next: NextSend::Events,
        };
        let most = match replay.pace {
            Pace::Live(rate) => Schedule { rate, since: started, base: 0 }.due(now),
            Pace::Max | Pace::PerSecond(_) => SKIP_MAX,
        };
        if let Some(last) = last
            && !cursor.skip_to(last, most).await?
        {
            cursor.events = replay.source.open()?;
            cursor.position = 0;
        }
        cursor.wire.clear();
        cursor.schedule = match replay.pace {
            Pace::Max => None,
            Pace::PerSecond(rate) => Some(Schedule { rate, since: now, base: cursor.position }),
            Pace::Live(rate) => Some(Schedule { rate, since: started, base: 0 }),
        };
        if let Some(retry) = replay.retry {
            cursor.wire = format!("retry: {}\n\n", retry.as_millis()).into_bytes();
        }
        // The answer to a client that has everything is 204, so the first event is looked at before the status is sent.
        let mut ahead = Vec::new();
        let more = cursor.pull(&mut ahead)?;
        cursor.ahead = ahead;
        Ok(more.then_some(cursor))
    }

    /// Skips the events up to the one with the id `last`, at most `most` a pass. Without such an event `false`, and the place is anywhere.
    async fn skip_to(&mut self, last: &str, most: u64) -> io::Result<bool> {
        if self.skip_pass(last, most).await? {
            return Ok(true);
        }
        let (Some(count), Ok(number)) = (self.events.counted(), last.parse::<u64>()) else { return Ok(false) };
        if !self.repeat || number <= count || count == 0 {
            return Ok(false);
        }
        let passes = (number - 1) / count;
        self.position = self.position.saturating_mul(passes);
        Ok(self.events.rewind(passes)? && self.skip_pass(last, most).await?)
    }

    async fn skip_pass(&mut self, last: &str, most: u64) -> io::Result<bool> {
        for _ in 0..most {
            self.wire.clear();
            if !self.events.next(&mut self.wire, &mut self.id)? {
                return Ok(false);
            }
            self.position += 1;
            if self.id == last {
                return Ok(true);
            }
            if self.position.is_multiple_of(SKIP_TURN) {
                tokio::task::yield_now().await;
            }
        }
        Ok(false)
    }

    /// The chunks of the response. It fails where the connection is to be cut: the server then breaks it off.
    pub fn chunks(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::unfold(self, async |mut cursor: Cursor| cursor.chunk().await.transpose().map(|chunk| (chunk, cursor)))
    }

    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if !self.wire.is_empty() {
            return Ok(Some(self.wire_chunk()));
        }
        if self.flush == Flush::Each || self.next == NextSend::Cut {
            // A turn for the server to send what it holds; before a cut, so that what was promised arrives.
            tokio::task::yield_now().await;
        }
        while self.next == NextSend::Events {
            // The sender is gone when the server was dropped instead of stopped.
            if *self.stopped.borrow() || self.stopped.has_changed().is_err() {
                self.next = NextSend::End;
                break;
            }
            let now = Instant::now();
            if let Some((gap, due)) = &mut self.heartbeat
                && *due <= now
            {
                self.wire.extend_from_slice(b": heartbeat\n\n");
                *due = now + *gap;
            }
            let free = self.schedule.is_none() && self.until_cut.is_none() && self.flush == Flush::Coalesced;
            if free
                && self.wire.is_empty()
                && self.ahead.is_empty()
                && let Some(chunk) = self.events.chunk()
            {
                return Ok(Some(chunk));
            }
            self.take_due(now)?;
            if !self.wire.is_empty() {
                return Ok(Some(self.wire_chunk()));
            }
            if self.next == NextSend::Events {
                self.wait().await;
            }
        }
        match self.next {
            NextSend::Cut => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut as asked by drop_every")),
            NextSend::End | NextSend::Events => Ok(None),
        }
    }

    fn wire_chunk(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.wire))
    }

    /// Takes the events that are due, up to the size of a chunk, the next cut or the end.
    fn take_due(&mut self, now: Instant) -> io::Result<()> {
        let due = self.schedule.as_ref().map_or(u64::MAX, |schedule| schedule.due(now).saturating_sub(self.position));
        let most = match self.flush {
            Flush::Each => due.min(1),
            Flush::Coalesced => due,
        };
        let mut wire = std::mem::take(&mut self.wire);
        for _ in 0..most {
            if !self.ahead.is_empty() {
                wire.append(&mut self.ahead);
            } else if !self.pull(&mut wire)? {
                self.next = NextSend::End;
                break;
            }
            self.position += 1;
            if let Some(left) = &mut self.until_cut {
                *left -= 1;
                if *left == 0 {
                    self.next = NextSend::Cut;
                    break;
                }
            }
            if wire.len() >= CHUNK_BYTES {
                break;
            }
        }
        self.wire = wire;
        if self.schedule.is_some() && self.next == NextSend::Events && self.ahead.is_empty() {
            // The end comes with the last event, not when another one would be due.
            let mut ahead = Vec::new();
            if !self.pull(&mut ahead)? {
                self.next = NextSend::End;
            }
            self.ahead = ahead;
        }
        Ok(())
    }

    /// Appends the next event to `wire`, from the start again if the replay repeats. `false` at the end.
    fn pull(&mut self, wire: &mut Vec<u8>) -> io::Result<bool> {
        Ok(self.events.next(wire, &mut self.id)?
            || self.repeat && self.events.rewind(1)? && self.events.next(wire, &mut self.id)?)
    }

    /// Until something is due or the server stops.
    async fn wait(&mut self) {
        let event = self.schedule.as_ref().map(|schedule| schedule.time(self.position));
        let heartbeat = self.heartbeat.map(|(_, due)| due);
        let Some(next) = event.into_iter().chain(heartbeat).min() else { return };
        tokio::select! {
            () = sleep_until(next) => {}
            // An error means that the server is gone.
            _ = self.stopped.wait_for(|stopped| *stopped) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use futures::TryStreamExt;

    use super::super::{EventFields, EventSource, Layout};
    use super::*;

    const LINES: &[u8] = b"{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n";

    /// The ids of one response and when each came, in milliseconds since `started`. The clock of the test goes on by itself.
    async fn ids(replay: &Replay, started: Instant, last: Option<&str>) -> Vec<(String, u128)> {
        let (_stop, stopped) = watch::channel(false);
        let mut chunks = Box::pin(Cursor::open(replay, started, stopped, last).await.unwrap().unwrap().chunks());
        let mut ids = Vec::new();
        while let Ok(Some(chunk)) = chunks.try_next().await {
            for line in String::from_utf8(chunk.to_vec()).unwrap().lines() {
                ids.extend(line.strip_prefix("id: ").map(|id| (id.to_string(), started.elapsed().as_millis())));
            }
        }
        ids
    }

    fn replay(pace: Pace) -> Replay {
        let source = EventSource::bytes(Bytes::from_static(LINES), Layout::Ndjson(EventFields::default()));
        Replay { pace, ..Replay::new(source) }
    }

    #[tokio::test(start_paused = true)]
    async fn events_come_at_their_rate() {
        let started = Instant::now();
        let times: Vec<u128> = ids(&replay(Pace::PerSecond(4.0)), started, None).await.iter().map(|id| id.1).collect();
        let expect = (0..9).map(|number| number * 250);
        // A timer may be a millisecond late.
        assert!(times.iter().zip(expect).all(|(time, expect)| (expect..=expect + 1).contains(time)), "{times:?}");
        assert_eq!(times.len(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_feed_gives_at_once_what_was_missed_and_then_goes_on() {
        let started = Instant::now();
        let replay = Replay { drop_every: NonZeroU64::new(3), ..replay(Pace::Live(1.0)) };
        assert_eq!(ids(&replay, started, None).await.len(), 3);
        tokio::time::advance(Duration::from_millis(1_500)).await;
        let resumed: Vec<(String, u128)> = ids(&replay, started, Some("3")).await;
        let seconds: Vec<(&str, u128)> = resumed.iter().map(|(id, time)| (id.as_str(), time / 100)).collect();
        assert_eq!(seconds, [("4", 35), ("5", 40), ("6", 50)]);
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_keep_their_gap() {
        let replay = Replay { heartbeat: Some(Duration::from_secs(3)), ..replay(Pace::PerSecond(1.0)) };
        let (_stop, stopped) = watch::channel(false);
        let chunks = Cursor::open(&replay, Instant::now(), stopped, None).await.unwrap().unwrap().chunks();
        let text: Vec<Bytes> = chunks.try_collect().await.unwrap();
        let text = String::from_utf8(text.concat()).unwrap();
        let beats: Vec<usize> = text.match_indices(": heartbeat").map(|(at, _)| text[..at].matches("id: ").count()).collect();
        assert_eq!(beats, [3, 6]);
    }
}
