//! The feed itself: connects, reads, reconnects; hands on events in the order of the stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use reqwest::Client;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::{self, Answer, Chunks, Cut, Refusal};
use super::file::{self, Lines, Shape};
use super::parser::{Event, Parser};
use super::recent::Recent;
use super::retry::{Loss, Retry};
use super::spec::{Source, Spec};
use super::status::{Counts, State, Status};
use super::watchdog::Watchdog;
use crate::error::{Code, Error, Result};
use crate::options::Resume;
use crate::time::Timestamp;

/// Events after which one read returns, so that a batch stays of a size that downstream likes.
const EVENTS_MAX: u64 = 8192;
/// Bytes after which one read stops taking from the socket: some milliseconds of work.
const BYTES_MAX: usize = 1 << 20;
/// Bytes between two looks at the number of events; the smallest event has 7.
const STEP_BYTES: usize = 64 * 1024;

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

/// One feed, read by one task. Whoever stops reading it lets the connection close with it.
pub struct Feed {
    spec: Arc<Spec>,
    status: Arc<Status>,
    phase: Phase,
    retry: Retry,
    /// `None` where ids are no cursors.
    recent: Option<Recent>,
    /// What the next connection resumes from.
    last_id: String,
    /// Made by the first connection and kept.
    client: Option<Client>,
    connected_once: bool,
    /// An event has been seen, wanted or not: from here on the feed has proved itself.
    proved: bool,
}

enum Phase {
    Waiting(Instant),
    Opening(BoxFuture<'static, (Option<Client>, Result<Opened, Refusal>)>),
    Open(Box<Connection>),
    Ended,
    Failed(Error),
}

enum Opened {
    Stream(Shape, Chunks),
    NoContent,
}

impl Feed {
    /// A feed at its beginning; the first [`Feed::read`] connects. Needs a Tokio runtime with time and I/O.
    pub fn new(spec: Spec, status: Arc<Status>) -> Feed {
        status.enter(State::Connecting);
        status.position(&spec.last_event_id, None);
        Feed {
            phase: Phase::Waiting(Instant::now()),
            retry: Retry::new(spec.reconnect_delay, spec.reconnect_max_delay, spec.max_reconnect_attempts),
            recent: match &spec.source {
                Source::Http(request) if request.resume != Resume::Off => Some(Recent::default()),
                _ => None,
            },
            last_id: spec.last_event_id.clone(),
            client: None,
            connected_once: false,
            proved: false,
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
            Phase::Open(connection) => connection.decoder.last_event_id().unwrap_or(&self.last_id),
            _ => &self.last_id,
        }
    }

    /// Goes on after the event with this id, as a restart from a checkpoint does. Closes the connection, if there is one.
    pub fn resume_after(&mut self, id: &str) {
        self.last_id = id.into();
        self.recent = self.recent.take().map(|_| Recent::default());
        self.status.position(id, None);
        self.reopen();
    }

    /// Closes the connection until the next read, which goes on where this one stopped.
    pub fn pause(&mut self) {
        self.last_id = self.last_event_id().into();
        self.reopen();
        if matches!(self.phase, Phase::Waiting(_)) {
            self.status.enter(State::Paused);
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
                Phase::Open(connection) => {
                    connection.arrived().await;
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
                        file::open(path).await.map(|(shape, chunks)| Opened::Stream(shape, chunks)).map_err(Into::into),
                    );
                }
            };
            let client = match client {
                Some(client) => client,
                None => match super::client::client(request).await {
                    Ok(client) => client,
                    Err(error) => return (None, Err(error.into())),
                },
            };
            let answer = connection::open(&client, request, &spec.variables, &id, |warning| status.warn(warning)).await;
            let opened = answer.map(|answer| match answer {
                Answer::Stream(chunks) => Opened::Stream(Shape::Stream, chunks),
                Answer::NoContent => Opened::NoContent,
            });
            (Some(client), opened)
        }
        .boxed()
    }

    fn opened(&mut self, opened: Result<Opened, Refusal>) -> Result<Reading> {
        match opened {
            Ok(Opened::Stream(shape, chunks)) => {
                let now = Instant::now();
                let bytes_max = self.spec.max_event_bytes;
                let decoder = match shape {
                    Shape::Stream => Decoder::Stream(Parser::with_last_id(bytes_max, self.last_id.clone())),
                    Shape::Lines => Decoder::Lines(Lines::new(bytes_max)),
                };
                self.phase =
                    Phase::Open(Box::new(Connection::new(chunks, decoder, Watchdog::new(self.spec.read_timeout, now), now)));
                self.retry.connected(now);
                if let Some(recent) = &mut self.recent {
                    recent.reconnected();
                }
                self.connected_once = true;
                self.status.enter(State::Connected);
                tracing::info!(feed = self.spec.shown(), last_event_id = self.last_id, "connected");
                Ok(Reading::Connected)
            }
            Ok(Opened::NoContent) => Ok(self.end("the server answered 204: it asks not to come again")),
            Err(Refusal::Final(error)) => self.fail(error),
            Err(Refusal::Untrusted(error)) if !self.connected_once => self.fail(error),
            Err(Refusal::Untrusted(error)) => self.lost(Loss::Failed(None), error),
            Err(Refusal::Passing(error, after)) => self.lost(Loss::Failed(after), error),
        }
    }

    /// Hands on what the open connection has gathered, or deals with its end.
    fn hand_on(&mut self, each: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<Reading> {
        let Phase::Open(connection) = &mut self.phase else { return Err(Error::bug("there is no connection to read from")) };
        let now = Instant::now();
        let before = (connection.decoder.comments(), connection.decoder.oversized());
        let (mut events, mut filtered, mut repeated, mut bytes, mut terminated) = (0, 0, 0, 0, false);
        let (wanted, terminator) = (&self.spec.wanted, self.spec.terminator.as_deref());
        let recent = &mut self.recent;
        let mut sort = |event: Event<'_>| {
            if terminated {
                return;
            }
            if terminator == Some(event.data) {
                terminated = true;
            } else if recent.as_mut().is_some_and(|recent| recent.is_repeated(&event)) {
                repeated += 1;
            } else if wanted.is_empty() || wanted.iter().any(|kind| kind == event.kind) {
                events += 1;
                each(event);
            } else {
                filtered += 1;
            }
        };
        let mut end = None;
        if connection.gathered.is_empty() {
            end = connection.end.take();
            if matches!((&end, &self.spec.source), (Some(End::Regular), Source::File(_))) {
                connection.decoder.finish(&mut sort);
            }
        }
        // The number of events is looked at between steps, for no step holds more than a few thousand.
        let mut seen = 0;
        while let Some(chunk) = connection.gathered.front_mut().filter(|_| seen < EVENTS_MAX) {
            let step = chunk.len().min(STEP_BYTES);
            let mut counted = |event: Event<'_>| {
                seen += 1;
                sort(event);
            };
            connection.decoder.feed(&chunk[..step], &mut counted);
            chunk.advance(step);
            bytes += step;
            if chunk.is_empty() {
                connection.gathered.pop_front();
            }
        }
        connection.gathered_bytes -= bytes;
        let decoder = &mut connection.decoder;
        let oversized = decoder.oversized() - before.1;
        if oversized > 0 {
            self.status.warn(format!(
                "an event was larger than max_event_bytes ({} bytes) and was dropped; raise the option to keep such events",
                self.spec.max_event_bytes
            ));
        }
        if bytes > 0 {
            connection.watchdog.bytes(now, decoder.comments() > before.0);
        }
        let came = events + filtered + repeated;
        if bytes > 0 || came + oversized > 0 {
            self.status.read(Timestamp::now(), bytes as u64, Counts { events, filtered, repeated, oversized });
            self.status.position(decoder.last_event_id().unwrap_or(&self.last_id), connection.watchdog.heartbeat());
        }
        if let Some(ms) = decoder.take_retry()
            && !self.retry.ask(ms)
        {
            self.status.warn(format!("the server asked for a reconnect after {ms} ms; reconnect_max_delay was taken instead"));
        }
        if came > 0 {
            self.proved = true;
            self.retry.event(now);
        }
        if terminated {
            return Ok(self.end("the terminator came"));
        }
        match end {
            None => Ok(Reading::Events),
            Some(end) => {
                // A file's last line has been handed on just now: its end is told by the next read.
                if came > 0 {
                    connection.end = Some(end);
                    return Ok(Reading::Events);
                }
                self.ended(end)
            }
        }
    }

    /// The open connection has come to its end.
    fn ended(&mut self, end: End) -> Result<Reading> {
        if let Phase::Open(connection) = &self.phase {
            self.last_id = connection.decoder.last_event_id().unwrap_or(&self.last_id).into();
            if connection.decoder.is_inside_event() {
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
                self.lost(Loss::Ended, Error::new(Code::Connect, format!("{place} ended the stream")))
            }
            (End::Broken(reason), Source::Http(_)) => {
                self.lost(Loss::Failed(None), Error::new(Code::Connect, format!("the connection to {place} broke: {reason}")))
            }
            (End::Silent(patience), Source::Http(_) | Source::File(_)) => {
                let patience = humantime::format_duration(patience);
                let error = Error::new(Code::Silent, format!("{place} sent nothing for {patience}, not even a heartbeat"))
                    .hint("if the feed may be silent for longer, raise the option 'read_timeout'");
                self.lost(Loss::Failed(None), error)
            }
        }
    }

    /// A connection or an attempt at one is gone: wait for the next, unless this feed is finite or its attempts are used up.
    fn lost(&mut self, loss: Loss, error: Error) -> Result<Reading> {
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
                tracing::info!(feed = self.spec.shown(), reason = %error, wait_ms = wait.as_millis() as u64, "disconnected");
                self.status.back_off(error.to_string(), wait);
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
        self.status.enter(State::Completed);
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

/// An open body and what is known of it.
struct Connection {
    chunks: Chunks,
    decoder: Decoder,
    watchdog: Watchdog,
    /// One coarse timer: it is set anew when it goes off, not with each chunk.
    alarm: Pin<Box<Sleep>>,
    /// When the last wait for bytes ended, so that time spent elsewhere does not count as silence.
    waited_until: Instant,
    gathered: VecDeque<Bytes>,
    gathered_bytes: usize,
    end: Option<End>,
}

/// How a body came to its end.
enum End {
    Regular,
    Broken(String),
    Silent(Duration),
}

enum Decoder {
    Stream(Parser),
    Lines(Lines),
}

impl Connection {
    fn new(chunks: Chunks, decoder: Decoder, watchdog: Watchdog, now: Instant) -> Self {
        let alarm = Box::pin(sleep_until(watchdog.deadline().unwrap_or(now)));
        Connection {
            chunks,
            decoder,
            watchdog,
            alarm,
            waited_until: now,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            end: None,
        }
    }

    /// Waits until bytes or the end are here, and takes all that is. Nothing is lost if the wait is given up.
    async fn arrived(&mut self) {
        if !self.gathered.is_empty() || self.end.is_some() {
            return;
        }
        let now = Instant::now();
        self.watchdog.not_reading(now - self.waited_until);
        self.waited_until = now;
        let wait = Wait(self);
        std::future::poll_fn(|cx| wait.0.poll_arrived(cx)).await;
        // The task that reads the socket for us runs next and may have more: one frame a turn is all it hands over.
        while wait.0.end.is_none() && wait.0.gathered_bytes < BYTES_MAX {
            tokio::task::yield_now().await;
            let before = wait.0.gathered_bytes;
            std::future::poll_fn(|cx| wait.0.gather(cx)).await;
            if wait.0.gathered_bytes == before {
                break;
            }
        }
    }

    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.gather(cx));
        if !self.gathered.is_empty() || self.end.is_some() {
            return Poll::Ready(());
        }
        let Some(deadline) = self.watchdog.deadline() else { return Poll::Pending };
        if self.alarm.deadline() > deadline {
            self.alarm.as_mut().reset(deadline);
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            if self.alarm.deadline() >= deadline {
                self.end = self.watchdog.patience().map(End::Silent);
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(deadline);
        }
    }

    /// Takes the chunks that are here, up to the bound; never pending.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.gathered_bytes < BYTES_MAX && self.end.is_none() {
            match self.chunks.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => {}
                Poll::Ready(Some(Ok(chunk))) => {
                    self.gathered_bytes += chunk.len();
                    self.gathered.push_back(chunk);
                }
                Poll::Ready(Some(Err(Cut(reason)))) => self.end = Some(End::Broken(reason)),
                Poll::Ready(None) => self.end = Some(End::Regular),
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }
}

/// A wait for bytes, which notes when it is over, given up or not.
struct Wait<'a>(&'a mut Connection);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waited_until = Instant::now();
    }
}

impl Decoder {
    fn feed(&mut self, chunk: &[u8], each: &mut impl FnMut(Event<'_>)) {
        match self {
            Decoder::Stream(parser) => parser.feed(chunk, each),
            Decoder::Lines(lines) => lines.feed(chunk, each),
        }
    }

    /// A file has been read to its end. An event stream's unfinished event is none; an unfinished line is one.
    fn finish(&mut self, each: &mut impl FnMut(Event<'_>)) {
        if let Decoder::Lines(lines) = self {
            lines.finish(each);
        }
    }

    /// `None` where events carry no ids.
    fn last_event_id(&self) -> Option<&str> {
        match self {
            Decoder::Stream(parser) => Some(parser.last_event_id()),
            Decoder::Lines(_) => None,
        }
    }

    fn comments(&self) -> u64 {
        match self {
            Decoder::Stream(parser) => parser.comments(),
            Decoder::Lines(_) => 0,
        }
    }

    fn oversized(&self) -> u64 {
        match self {
            Decoder::Stream(parser) => parser.oversized(),
            Decoder::Lines(lines) => lines.oversized(),
        }
    }

    fn take_retry(&mut self) -> Option<u64> {
        match self {
            Decoder::Stream(parser) => parser.take_retry(),
            Decoder::Lines(_) => None,
        }
    }

    fn is_inside_event(&self) -> bool {
        matches!(self, Decoder::Stream(parser) if parser.is_inside_event())
    }
}
