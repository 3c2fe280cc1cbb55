//! The feed itself: connects, reads, reconnects; hands on events in the order of the stream.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::Client;
use tokio::time::{Instant, sleep_until};

use super::body::{Body, Decoder, End};
use super::connection::{self, Answer, Chunks, Refusal};
use super::file::{self, Lines, Shape};
use super::gap::{Lost, Reason, Thread};
use super::parser::{Event, Parser};
use super::recent::Recent;
use super::retry::{Loss, Retry};
use super::spec::{Source, Spec};
use super::status::{Cause, Counts, RECENT_A_READ, RecentEvent, State, Status, cut};
use super::watchdog::Watchdog;
use crate::error::{Code, Error, Result};
use crate::options::{ReadTimeout, Resume};
use crate::time::Timestamp;

/// What a read has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Bytes came: none, one or many events were handed out.
    Events,
    /// A connection came about.
    Connected,
    /// A connection was lost or an attempt failed; the next read waits and tries again.
    Disconnected,
    /// Nothing follows: the server said so, the feed is finite, or the file is read.
    Ended,
}

/// A place in a feed from which it can be read on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// What the next connection resumes from; empty: the server's own beginning.
    pub last_id: String,
    /// Hashes of id and content of the latest events, the last one last: what a server sends again counts once.
    pub seen: Vec<(u64, u64)>,
    /// When the last event came.
    pub last_at: Option<Timestamp>,
    /// Where ids count events: the last one, and how many stepped by one before it.
    pub count: Option<(u64, u64)>,
}

impl Position {
    /// After the event with this id; what came before it is not known.
    pub fn after(id: &str) -> Self {
        Position { last_id: id.into(), ..Position::default() }
    }
}

/// One feed, read by one task. Whoever stops reading it lets the connection close with it.
pub struct Feed {
    spec: Arc<Spec>,
    status: Arc<Status>,
    phase: Phase,
    retry: Retry,
    /// `None` where ids are no cursors, or not to be remembered.
    recent: Option<Recent>,
    thread: Thread,
    /// What the next connection resumes from.
    last_id: String,
    /// Made by the first connection and kept.
    client: Option<Client>,
    connected_once: bool,
    /// An event has been seen, wanted or not: from here on the feed has proved itself.
    proved: bool,
    /// Where the end of a read may be taken back: the last one.
    last_read: Option<LastRead>,
}

/// What a read has brought, and where the feed was before it.
#[derive(Default)]
struct LastRead {
    last_id: String,
    thread: Thread,
    came: Vec<Came>,
    is_oversized: bool,
}

/// An event that counted.
struct Came {
    id: String,
    is_wanted: bool,
}

enum Phase {
    Waiting(Instant),
    Opening(BoxFuture<'static, (Option<Client>, Result<Opened, Refusal>)>),
    Open(Box<Body>),
    Ended,
    Failed(Error),
}

enum Opened {
    /// With the reason why it does not go on where the last connection was lost.
    Stream(Shape, Chunks, Option<Reason>),
    NoContent,
}

impl Feed {
    /// A feed at its beginning; the first [`Feed::read`] connects. Needs a Tokio runtime with time and I/O.
    pub fn new(spec: Spec, status: Arc<Status>) -> Feed {
        status.position(&spec.last_event_id, None);
        Feed {
            phase: Phase::Waiting(Instant::now()),
            retry: retry(&spec),
            recent: recent(&spec),
            thread: Thread::default(),
            last_id: spec.last_event_id.clone(),
            client: None,
            connected_once: false,
            proved: false,
            last_read: None,
            spec: Arc::new(spec),
            status,
        }
    }

    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// The id that a reconnect would resume from: that of the last event handed on or filtered, as the standard counts it.
    pub fn last_event_id(&self) -> &str {
        match &self.phase {
            Phase::Open(body) => body.decoder.last_event_id().unwrap_or(&self.last_id),
            _ => &self.last_id,
        }
    }

    /// How far the feed has come: what was handed on or filtered up to now, and nothing else.
    pub fn position(&self) -> Position {
        let seen = self.recent.as_ref().map(Recent::marks).unwrap_or_default();
        Position { last_id: self.last_event_id().into(), seen, last_at: self.thread.last_at(), count: self.thread.count() }
    }

    /// Goes on from a position, as a restart from a checkpoint does. Closes the connection, if there is one.
    pub fn resume_at(&mut self, position: &Position) {
        self.last_id.clone_from(&position.last_id);
        self.recent = self.recent.take().map(|_| Recent::of(&position.seen));
        self.thread = Thread::of(position.last_at, position.count);
        self.status.position(&position.last_id, None);
        self.reopen();
    }

    /// Whether the end of a read may be taken back; from the next one on.
    pub fn may_take_back(&mut self, may: bool) {
        self.last_read = may.then(LastRead::default);
    }

    /// Of the wanted events of the last read only so many count. The others are as if they had not come, and what is not wanted
    /// between them: the connection closes, and the next one goes on before them.
    pub fn take_back_all_but(&mut self, wanted: usize) {
        let Some(mut read) = self.last_read.as_mut().map(std::mem::take) else { return };
        let nth = read.came.iter().enumerate().filter(|(_, came)| came.is_wanted).nth(wanted);
        let (Some((counted, _)), Some(at)) = (nth, self.thread.last_at()) else { return };
        let (counted, taken_back) = read.came.split_at(counted);
        if let Some(recent) = &mut self.recent {
            recent.forget(taken_back.iter().filter(|came| !came.id.is_empty()).count());
        }
        for came in counted {
            // What it has found was told when it came.
            let _ = read.thread.event(&came.id, at);
        }
        self.last_id = counted.last().map_or(read.last_id, |came| came.id.clone());
        if read.is_oversized {
            read.thread.forgive(&self.last_id);
        }
        if !counted.is_empty() {
            read.thread.read(at);
        }
        self.thread = read.thread;
        self.phase = Phase::Waiting(Instant::now());
        self.status.position(&self.last_id, None);
    }

    /// Begins anew, which leaves a gap behind a place from which the feed cannot go on.
    pub fn begin_after(&mut self, lost: Lost) {
        self.thread = Thread::after(lost);
    }

    /// Closes the connection until the next read, which goes on where this one stopped. A file stays open, as it cannot be resumed.
    pub fn pause(&mut self) {
        self.close(State::Paused);
    }

    /// The same for good, as far as its user knows.
    pub fn disconnect(&mut self) {
        self.close(State::Disconnected);
    }

    /// Closes the connection; the next read makes one at once that goes on where this one stopped, also after a failure. What has
    /// gone wrong so far does not count. A file that has not failed is read on.
    pub fn reconnect(&mut self) {
        self.retry = retry(&self.spec);
        self.status.reconnect();
        match &self.phase {
            Phase::Ended => {}
            Phase::Open(_) if self.spec.is_file() => self.status.enter(State::Connected),
            Phase::Waiting(_) | Phase::Opening(_) | Phase::Open(_) | Phase::Failed(_) => {
                self.last_id = self.last_event_id().into();
                self.phase = Phase::Waiting(Instant::now());
            }
        }
    }

    /// Takes over another spec of the same place; its request is sent by the next connection.
    pub fn adopt(&mut self, spec: Spec) {
        self.recent = recent(&spec).map(|new| self.recent.take().unwrap_or(new));
        self.retry = retry(&spec);
        (self.client, self.connected_once) = (None, false);
        self.spec = Arc::new(spec);
    }

    fn close(&mut self, state: State) {
        self.last_id = self.last_event_id().into();
        match &self.phase {
            Phase::Ended | Phase::Failed(_) => return,
            Phase::Open(_) if self.spec.is_file() => {}
            Phase::Waiting(_) | Phase::Opening(_) | Phase::Open(_) => self.phase = Phase::Waiting(Instant::now()),
        }
        tracing::info!(feed = self.spec.shown(), reason = "told so by its user", "{state}");
        self.status.enter(state);
    }

    /// Ends the feed for a reason that its reader has found; a feed that has failed already keeps its own.
    pub fn give_up(&mut self, error: Error) -> Error {
        match &self.phase {
            Phase::Failed(error) => error.clone(),
            _ => {
                let _ = self.fail(error.clone());
                error
            }
        }
    }

    /// Waits until something happens, then hands on every wanted event that has already arrived, up to a bound, and returns at once
    /// when the socket is empty. Dropping the future loses nothing. An error is final: every later read gives it again.
    pub async fn read(&mut self, each: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<Reading> {
        loop {
            match &mut self.phase {
                Phase::Waiting(until) => {
                    sleep_until(*until).await;
                    self.status.enter(State::Connecting);
                    self.phase = Phase::Opening(self.open());
                }
                Phase::Opening(opening) => {
                    let (client, opened) = opening.await;
                    self.client = client;
                    return self.opened(opened);
                }
                Phase::Open(body) => {
                    body.arrived().await;
                    return self.hand_on(each);
                }
                Phase::Ended => return Ok(Reading::Ended),
                Phase::Failed(error) => return Err(error.clone()),
            }
        }
    }

    fn reopen(&mut self) {
        if !matches!(self.phase, Phase::Ended | Phase::Failed(_)) {
            self.phase = Phase::Waiting(Instant::now());
        }
    }

    fn open(&self) -> BoxFuture<'static, (Option<Client>, Result<Opened, Refusal>)> {
        let (spec, status, id, client) = (self.spec.clone(), self.status.clone(), self.last_id.clone(), self.client.clone());
        async move {
            let request = match &spec.source {
                Source::Http(request) => request,
                Source::File(path) => {
                    return (
                        None,
                        file::open(path).await.map(|(shape, chunks)| Opened::Stream(shape, chunks, None)).map_err(Into::into),
                    );
                }
            };
            let client = match client {
                Some(client) => client,
                None => match super::client::client(request, &spec.policy).await {
                    Ok(client) => client,
                    Err(error) => return (None, Err(error.into())),
                },
            };
            let answer = connection::open(&client, request, &spec, &id, &status).await;
            let opened = answer.map(|answer| match answer {
                Answer::Stream(chunks) => Opened::Stream(Shape::Stream, chunks, unresumed(&request.resume, &id)),
                Answer::Elsewhere(chunks) => Opened::Stream(Shape::Stream, chunks, Some(Reason::Elsewhere)),
                Answer::NoContent => Opened::NoContent,
            });
            (Some(client), opened)
        }
        .boxed()
    }

    fn opened(&mut self, opened: Result<Opened, Refusal>) -> Result<Reading> {
        match opened {
            Ok(Opened::Stream(shape, chunks, unresumed)) => {
                let now = Instant::now();
                let bytes_max = self.spec.max_event_bytes;
                let rule = match &self.spec.source {
                    Source::Http(_) => self.spec.read_timeout,
                    Source::File(_) => ReadTimeout::Off,
                };
                let decoder = match shape {
                    Shape::Stream => Decoder::Stream(Parser::with_last_id(bytes_max, self.last_id.clone())),
                    Shape::Lines => Decoder::Lines(Lines::new(bytes_max)),
                };
                self.phase = Phase::Open(Box::new(Body::new(chunks, decoder, Watchdog::new(rule, now), now)));
                self.retry.connected(now);
                if let Some(recent) = &mut self.recent {
                    recent.reconnected();
                }
                self.thread.connected(&self.last_id, unresumed, self.recent.is_none());
                self.connected_once = true;
                self.status.enter(State::Connected);
                tracing::info!(feed = self.spec.shown(), last_event_id = cut(&self.last_id), "connected");
                Ok(Reading::Connected)
            }
            Ok(Opened::NoContent) => Ok(self.end("the server answered 204: it asks not to come again")),
            Err(Refusal::Final(error)) => self.fail(error),
            Err(Refusal::Untrusted(error)) if !self.connected_once => self.fail(error),
            Err(Refusal::Untrusted(error)) => self.lost(Loss::Failed(None), Cause::of(&error), error),
            Err(Refusal::Passing(error, after)) => self.lost(Loss::Failed(after), Cause::of(&error), error),
        }
    }

    /// Hands on what the open connection has gathered, or deals with its end.
    fn hand_on(&mut self, each: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<Reading> {
        let Phase::Open(body) = &mut self.phase else { return Err(Error::bug("there is no connection to read from")) };
        let oversized = body.decoder.oversized();
        let (mut events, mut filtered, mut repeated, mut terminated) = (0, 0, 0, false);
        let (wanted, terminator) = (&self.spec.wanted, self.spec.terminator.as_deref());
        let (recent, thread, last_read) = (&mut self.recent, &mut self.thread, &mut self.last_read);
        let (status, received, mut kept) = (&self.status, Timestamp::now(), 0);
        if let Some(last_read) = last_read {
            last_read.begin(body.decoder.last_event_id().unwrap_or(&self.last_id), thread);
            recent.iter_mut().for_each(Recent::settle);
        }
        let mut gap = None;
        let mut keep = |event: &Event<'_>, filtered: bool| {
            if kept < RECENT_A_READ {
                kept += 1;
                status.keep(RecentEvent::new(event, received, filtered));
            }
        };
        let mut sort = |event: Event<'_>| {
            if terminated {
                return;
            }
            if terminator == Some(event.data) {
                terminated = true;
                return;
            }
            if recent.as_mut().is_some_and(|recent| recent.is_repeated(&event)) {
                repeated += 1;
                return;
            }
            if let Some(found) = thread.event(event.id, received) {
                gap = Some(found);
            }
            let is_wanted = wanted.is_empty() || wanted.iter().any(|kind| kind == event.kind);
            match last_read {
                Some(last_read) => last_read.came.push(Came { id: event.id.into(), is_wanted }),
                None => recent.iter_mut().for_each(Recent::settle),
            }
            if is_wanted {
                events += 1;
                keep(&event, false);
                each(event);
            } else {
                filtered += 1;
                keep(&event, true);
            }
        };
        let bytes = body.decode(&mut sort);
        let decoder = &mut body.decoder;
        let oversized = decoder.oversized() - oversized;
        if oversized > 0 {
            thread.forgive(decoder.last_event_id().unwrap_or_default());
            last_read.iter_mut().for_each(|last_read| last_read.is_oversized = true);
        }
        if events + filtered > 0 {
            thread.read(received);
        }
        if let Some(gap) = gap {
            self.status.gap(&self.spec.shown(), gap);
        }
        if oversized > 0 {
            self.status.warn(format!(
                "an event was larger than max_event_bytes ({} bytes) and was dropped; raise the option to keep such events",
                self.spec.max_event_bytes
            ));
        }
        let came = events + filtered + repeated;
        if bytes > 0 || came + oversized > 0 {
            self.status.read(received, bytes as u64, Counts { events, filtered, repeated, oversized });
            self.status.position(decoder.last_event_id().unwrap_or(&self.last_id), body.watchdog.heartbeat());
        }
        if let Some(ms) = decoder.take_retry()
            && !self.retry.ask(ms)
        {
            self.status.warn(format!("the server asked for a reconnect after {ms} ms; reconnect_max_delay was taken instead"));
        }
        if came > 0 {
            self.proved = true;
            self.retry.event();
            self.status.proved();
        }
        if terminated {
            return Ok(self.end("the terminator came"));
        }
        match body.end.take_if(|_| bytes == 0 && came == 0) {
            None => Ok(Reading::Events),
            Some(end) => self.ended(end),
        }
    }

    /// The open connection has come to its end.
    fn ended(&mut self, end: End) -> Result<Reading> {
        if let Phase::Open(body) = &self.phase {
            self.last_id = body.decoder.last_event_id().unwrap_or(&self.last_id).into();
            if body.decoder.is_inside_event() {
                self.status.discarded_partial();
            }
        }
        let place = self.spec.shown();
        match (end, &self.spec.source) {
            (End::Regular, Source::File(_)) => Ok(self.end("the file is read")),
            (End::Broken(reason), Source::File(_)) => {
                self.fail(Error::new(Code::File, format!("the file '{place}' cannot be read on: {reason}")))
            }
            (End::Regular, Source::Http(_)) if !self.spec.reconnect => Ok(self.end("the server ended the stream")),
            (End::Regular, Source::Http(_)) => {
                self.lost(Loss::Ended, Cause::Ended, Error::new(Code::Connect, format!("{place} ended the stream")))
            }
            (End::Broken(reason), Source::Http(_)) => self.lost(
                Loss::Failed(None),
                Cause::Broken,
                Error::new(Code::Connect, format!("the connection to {place} broke: {reason}")),
            ),
            (End::Silent(patience), Source::Http(_) | Source::File(_)) => {
                let patience = humantime::format_duration(patience);
                let error = Error::new(Code::Silent, format!("{place} sent nothing for {patience}, not even a heartbeat"))
                    .hint("if the feed may be silent for longer, raise the option 'read_timeout'");
                self.lost(Loss::Failed(None), Cause::Silent, error)
            }
        }
    }

    /// A connection or an attempt at one is gone: wait for the next, unless this feed is finite or its attempts are used up.
    fn lost(&mut self, loss: Loss, cause: Cause, error: Error) -> Result<Reading> {
        if !self.spec.reconnect {
            return match self.proved {
                true => {
                    self.status.warn(format!("the feed ended early: {error}"));
                    Ok(self.end("the connection is lost, and the feed does not reconnect"))
                }
                false => self.fail(error),
            };
        }
        let now = Instant::now();
        match self.retry.lost(loss, now, fastrand::f64()) {
            Some(wait) => {
                tracing::info!(feed = self.spec.shown(), cause = cause.as_str(), reason = %error, wait_ms = wait.as_millis() as u64, "disconnected");
                self.status.back_off(cause, error.to_string(), wait, self.retry.attempts());
                self.phase = Phase::Waiting(now + wait);
                Ok(Reading::Disconnected)
            }
            None => {
                let attempts = self.spec.max_reconnect_attempts.unwrap_or_default();
                self.fail(
                    Error::new(Code::GaveUp, format!("gave up after {attempts} attempts to reconnect: {}", error.message()))
                        .hint("raise the option 'max_reconnect_attempts', or leave it out to try for ever"),
                )
            }
        }
    }

    fn end(&mut self, reason: &str) -> Reading {
        self.last_id = self.last_event_id().into();
        tracing::info!(feed = self.spec.shown(), reason, "completed");
        self.status.complete(reason);
        self.phase = Phase::Ended;
        Reading::Ended
    }

    fn fail(&mut self, error: Error) -> Result<Reading> {
        self.last_id = self.last_event_id().into();
        tracing::warn!(feed = self.spec.shown(), reason = %error, "failed");
        self.status.fail(error.to_string());
        self.phase = Phase::Failed(error.clone());
        Err(error)
    }
}

impl LastRead {
    fn begin(&mut self, last_id: &str, thread: &Thread) {
        self.last_id.clear();
        self.last_id.push_str(last_id);
        self.thread.clone_from(thread);
        self.is_oversized = false;
        self.came.clear();
    }
}

fn retry(spec: &Spec) -> Retry {
    Retry::new(spec.reconnect_delay, spec.reconnect_max_delay, spec.max_reconnect_attempts)
}

/// Why a request that resumes so does not go on after this id.
fn unresumed(resume: &Resume, last_id: &str) -> Option<Reason> {
    match resume {
        Resume::Off => Some(Reason::ResumeOff),
        _ if last_id.is_empty() => Some(Reason::NoIds),
        _ if !connection::is_sendable(last_id, resume) => Some(Reason::Unsendable),
        Resume::Header | Resume::Query(_) => None,
    }
}

/// `None` where ids are no cursors, or not to be remembered.
fn recent(spec: &Spec) -> Option<Recent> {
    match &spec.source {
        Source::Http(request) if spec.deduplicate && request.resume != Resume::Off => Some(Recent::default()),
        _ => None,
    }
}
