//! The feed itself: connects, reads, reconnects; hands on events in the order of the stream.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::Client;
use tokio::time::{Instant, sleep_until};

use super::body::{Body, Decoder, End};
use super::connection::{self, Chunks, Refusal, ServerAnswer};
use super::course::Course;
use super::file::{self, FileFormat, LineReader};
use super::gap::{GapReason, LostPlace};
use super::ids::Ids;
use super::parser::{Event, Parser};
use super::recent::Memory;
use super::retry::{Loss, Retry};
use super::spec::{FeedSource, FeedSpec};
use super::status::{Cause, Counts, FeedState, FeedStatus, RECENT_A_READ, RecentEvent, cut};
use super::watchdog::Watchdog;
use crate::error::{Code, Error, Result};
use crate::options::{ReadTimeout, Resume};
use crate::time::Timestamp;

const RENDERED_ANEW: &str = "the server sends events again with other contents under the same ids: they were taken for the same events; with \
                             deduplicate = 'false' they count";

/// What a read has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
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
pub struct FeedPosition {
    /// What the next connection resumes from; empty: the server's own beginning.
    pub last_id: String,
    /// What is remembered of the latest events: what a server sends again counts once.
    pub memory: Memory,
    /// What is known of ids.
    pub ids: Ids,
    /// When the last event came.
    pub last_at: Option<Timestamp>,
}

impl FeedPosition {
    /// After the event with this id; what came before it is not known.
    pub fn after(id: &str) -> Self {
        FeedPosition { last_id: id.into(), ..FeedPosition::default() }
    }
}

/// One feed, read by one task. Whoever stops reading it lets the connection close with it.
pub struct Feed {
    spec: Arc<FeedSpec>,
    status: Arc<FeedStatus>,
    phase: Phase,
    retry: Retry,
    course: Course,
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
    Open(Box<Body>),
    Ended,
    Failed(Error),
}

enum Opened {
    /// With the reason why it does not go on where the last connection was lost.
    Stream(FileFormat, Chunks, Option<GapReason>),
    NoContent,
}

impl Feed {
    /// A feed at its beginning; the first [`Feed::read`] connects. Needs a Tokio runtime with time and I/O.
    pub fn new(spec: FeedSpec, status: Arc<FeedStatus>) -> Feed {
        status.position(&spec.last_event_id, None);
        Feed {
            phase: Phase::Waiting(Instant::now()),
            retry: retry(&spec),
            course: Course::new(remembers(&spec)),
            last_id: spec.last_event_id.clone(),
            client: None,
            connected_once: false,
            proved: false,
            spec: Arc::new(spec),
            status,
        }
    }

    pub fn status(&self) -> &Arc<FeedStatus> {
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
    pub fn position(&self) -> FeedPosition {
        let Feed { course, .. } = self;
        let last_id = self.last_event_id().into();
        FeedPosition { last_id, memory: course.memory(), ids: course.ids().clone(), last_at: course.last_at() }
    }

    /// Goes on from a position, as a restart from a checkpoint does. Closes the connection, if there is one.
    pub fn resume_at(&mut self, position: &FeedPosition) {
        self.last_id.clone_from(&position.last_id);
        self.course.resume_at(&position.memory, &position.ids, position.last_at);
        self.status.position(&position.last_id, None);
        self.reopen();
    }

    /// Whether the end of a read may be taken back; from the next one on.
    pub fn may_take_back(&mut self, may: bool) {
        self.course.may_take_back(may);
    }

    /// Of the wanted events of the last read only so many count. The others are as if they had not come, and what is not wanted
    /// between them: the connection closes, and the next one goes on before them.
    pub fn take_back_all_but(&mut self, wanted: usize) {
        let Some(last_id) = self.course.take_back_all_but(wanted) else { return };
        self.last_id = last_id;
        self.phase = Phase::Waiting(Instant::now());
        self.status.position(&self.last_id, None);
    }

    /// Begins anew, which leaves a gap behind a place from which the feed cannot go on.
    pub fn begin_after(&mut self, lost: LostPlace) {
        self.course.begin_after(lost);
    }

    /// Closes the connection until the next read, which goes on where this one stopped. A file stays open, as it cannot be resumed.
    pub fn pause(&mut self) {
        self.close(FeedState::Paused);
    }

    /// The same for good, as far as its user knows.
    pub fn disconnect(&mut self) {
        self.close(FeedState::Disconnected);
    }

    /// Closes the connection; the next read makes one at once that goes on where this one stopped, also after a failure. What has
    /// gone wrong so far does not count. A file that has not failed is read on.
    pub fn reconnect(&mut self) {
        self.retry = retry(&self.spec);
        self.status.reconnect();
        match &self.phase {
            Phase::Ended => {}
            Phase::Open(_) if self.spec.is_file() => self.status.enter(FeedState::Connected),
            Phase::Waiting(_) | Phase::Opening(_) | Phase::Open(_) | Phase::Failed(_) => {
                self.last_id = self.last_event_id().into();
                self.phase = Phase::Waiting(Instant::now());
            }
        }
    }

    /// Takes over another spec of the same place; its request is sent by the next connection.
    pub fn adopt(&mut self, spec: FeedSpec) {
        self.course.remember(remembers(&spec));
        self.retry = retry(&spec);
        (self.client, self.connected_once) = (None, false);
        self.spec = Arc::new(spec);
    }

    fn close(&mut self, state: FeedState) {
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
    pub async fn read(&mut self, each: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<ReadOutcome> {
        loop {
            match &mut self.phase {
                Phase::Waiting(until) => {
                    sleep_until(*until).await;
                    self.status.enter(FeedState::Connecting);
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
                Phase::Ended => return Ok(ReadOutcome::Ended),
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
                FeedSource::Http(request) => request,
                FeedSource::File(path) => {
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
                ServerAnswer::Stream(chunks) => Opened::Stream(FileFormat::Stream, chunks, unresumed(&request.resume, &id)),
                ServerAnswer::Elsewhere(chunks) => Opened::Stream(FileFormat::Stream, chunks, Some(GapReason::Elsewhere)),
                ServerAnswer::NoContent => Opened::NoContent,
            });
            (Some(client), opened)
        }
        .boxed()
    }

    fn opened(&mut self, opened: Result<Opened, Refusal>) -> Result<ReadOutcome> {
        match opened {
            Ok(Opened::Stream(shape, chunks, unresumed)) => {
                let now = Instant::now();
                let bytes_max = self.spec.max_event_bytes;
                let rule = match &self.spec.source {
                    FeedSource::Http(_) => self.spec.read_timeout,
                    FeedSource::File(_) => ReadTimeout::Off,
                };
                let decoder = match shape {
                    FileFormat::Stream => Decoder::Stream(Parser::with_last_id(bytes_max, self.last_id.clone())),
                    FileFormat::Lines => Decoder::Lines(LineReader::new(bytes_max)),
                };
                self.phase = Phase::Open(Box::new(Body::new(chunks, decoder, Watchdog::new(rule, now), now)));
                self.retry.connected(now);
                self.course.connected(&self.last_id, unresumed);
                self.connected_once = true;
                self.status.enter(FeedState::Connected);
                tracing::info!(feed = self.spec.shown(), last_event_id = cut(&self.last_id), "connected");
                Ok(ReadOutcome::Connected)
            }
            Ok(Opened::NoContent) => Ok(self.end("the server answered 204: it asks not to come again")),
            Err(Refusal::Final(error)) => self.fail(error),
            Err(Refusal::Untrusted(error)) if !self.connected_once => self.fail(error),
            Err(Refusal::Untrusted(error)) => self.lost(Loss::Failed(None), Cause::of(&error), error),
            Err(Refusal::Passing(error, after)) => self.lost(Loss::Failed(after), Cause::of(&error), error),
        }
    }

    /// Hands on what the open connection has gathered, or deals with its end.
    fn hand_on(&mut self, each: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<ReadOutcome> {
        let Phase::Open(body) = &mut self.phase else { return Err(Error::bug("there is no connection to read from")) };
        let oversized = body.decoder.oversized();
        let (mut events, mut filtered, mut repeated, mut terminated) = (0, 0, 0, false);
        let (wanted, terminator) = (&self.spec.wanted, self.spec.terminator.as_deref());
        let (course, mut has_news) = (&mut self.course, false);
        let (status, received, mut kept) = (&self.status, Timestamp::now(), 0);
        course.begin_read(body.decoder.last_event_id().unwrap_or(&self.last_id));
        let mut gaps = Vec::new();
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
            let is_wanted = || wanted.is_empty() || wanted.iter().any(|kind| kind == event.kind);
            let seen = course.event(&event, is_wanted, received);
            gaps.extend(seen.gap);
            if seen.is_repeated {
                repeated += 1;
                return;
            }
            let is_wanted = is_wanted();
            has_news |= is_wanted || event.has_id;
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
        if events + filtered > 0 {
            course.read(received);
        }
        if repeated > 0 && course.is_rendered_anew() {
            self.status.warn(RENDERED_ANEW.into());
        }
        for gap in gaps {
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
        if has_news {
            self.retry.news();
        }
        if terminated {
            return Ok(self.end("the terminator came"));
        }
        match body.end.take_if(|_| bytes == 0 && came == 0) {
            None => Ok(ReadOutcome::Events),
            Some(end) => self.ended(end),
        }
    }

    /// The open connection has come to its end.
    fn ended(&mut self, end: End) -> Result<ReadOutcome> {
        if let Phase::Open(body) = &self.phase {
            self.last_id = body.decoder.last_event_id().unwrap_or(&self.last_id).into();
            if body.decoder.is_inside_event() {
                self.status.discarded_partial();
            }
        }
        let place = self.spec.shown();
        match (end, &self.spec.source) {
            (End::Regular, FeedSource::File(_)) => Ok(self.end("the file is read")),
            (End::Broken(reason), FeedSource::File(_)) => {
                self.fail(Error::new(Code::File, format!("the file '{place}' cannot be read on: {reason}")))
            }
            (End::Regular, FeedSource::Http(_)) if !self.spec.reconnect => Ok(self.end("the server ended the stream")),
            (End::Regular, FeedSource::Http(_)) => {
                self.lost(Loss::Ended, Cause::Ended, Error::new(Code::Connect, format!("{place} ended the stream")))
            }
            (End::Broken(reason), FeedSource::Http(_)) => self.lost(
                Loss::Failed(None),
                Cause::Broken,
                Error::new(Code::Connect, format!("the connection to {place} broke: {reason}")),
            ),
            (End::Silent(patience), FeedSource::Http(_) | FeedSource::File(_)) => {
                let patience = humantime::format_duration(patience);
                let error = Error::new(Code::Silent, format!("{place} sent nothing for {patience}, not even a heartbeat"))
                    .hint("if the feed may be silent for longer, raise the option 'read_timeout'");
                self.lost(Loss::Failed(None), Cause::Silent, error)
            }
        }
    }

    /// A connection or an attempt at one is gone: wait for the next, unless this feed is finite or its attempts are used up.
    fn lost(&mut self, loss: Loss, cause: Cause, error: Error) -> Result<ReadOutcome> {
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
                Ok(ReadOutcome::Disconnected)
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

    fn end(&mut self, reason: &str) -> ReadOutcome {
        self.last_id = self.last_event_id().into();
        tracing::info!(feed = self.spec.shown(), reason, "completed");
        self.status.complete(reason);
        self.phase = Phase::Ended;
        ReadOutcome::Ended
    }

    fn fail(&mut self, error: Error) -> Result<ReadOutcome> {
        self.last_id = self.last_event_id().into();
        tracing::warn!(feed = self.spec.shown(), reason = %error, "failed");
        self.status.fail(error.to_string());
        self.phase = Phase::Failed(error.clone());
        Err(error)
    }
}

fn retry(spec: &FeedSpec) -> Retry {
    Retry::new(spec.reconnect_delay, spec.reconnect_max_delay, spec.max_reconnect_attempts)
}

/// Why a request that resumes so does not go on after this id.
fn unresumed(resume: &Resume, last_id: &str) -> Option<GapReason> {
    match resume {
        Resume::Off => Some(GapReason::ResumeOff),
        _ if last_id.is_empty() => Some(GapReason::NoIds),
        _ if !connection::is_sendable(last_id, resume) => Some(GapReason::Unsendable),
        Resume::Header | Resume::Query(_) => None,
    }
}

/// Whether events are remembered: not where ids are no cursors.
fn remembers(spec: &FeedSpec) -> bool {
    matches!(&spec.source, FeedSource::Http(request) if spec.deduplicate && request.resume != Resume::Off)
}
