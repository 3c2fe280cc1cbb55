//! Whether a connection is alive: what it is asked, what it answers, and how long it has been waiting for its client.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

use super::connections::ConnectionLimits;

/// What is known of one connection.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    state: Mutex<ActivityState>,
    ended: AtomicBool,
    end: Notify,
}

#[derive(Debug)]
struct ActivityState {
    /// Requests whose answer is not finished.
    in_flight: usize,
    /// Those of them that wait for their body.
    reading: usize,
    /// Since when the connection waits for its client, if it does.
    since: Instant,
    /// Requests so far.
    requests: u64,
    /// Of each answer: when its client was last given something, in milliseconds from the start and one; 0 while it waits for nothing.
    given: Vec<Arc<AtomicU64>>,
}

impl Activity {
    pub fn new(now: Instant) -> Self {
        let state = ActivityState { in_flight: 0, reading: 0, since: now, requests: 0, given: Vec::new() };
        Activity { start: now, state: Mutex::new(state), ended: AtomicBool::new(false), end: Notify::new() }
    }

    /// A request begins; it ends with what this gives.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        let mut state = self.state();
        state.in_flight += 1;
        state.requests += 1;
        InFlight { activity: Arc::clone(self) }
    }

    /// Since when nothing but the client keeps the connection.
    pub fn waits_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.in_flight <= state.reading).then_some(state.since)
    }

    /// Why the connection is to end, if its client was silent for too long.
    pub fn verdict(&self, now: Instant, limits: &ConnectionLimits) -> Option<&'static str> {
        let state = self.state();
        let waited = now.saturating_duration_since(state.since);
        let (idle, reason) = match state.requests {
            0 => (limits.head, "no request came"),
            _ => (limits.idle, "no further request came"),
        };
        if state.in_flight == 0 && waited >= idle {
            return Some(reason);
        }
        let now = self.millis(now);
        let unread = limits.unread.as_millis() as u64;
        let is_stuck = |given: &Arc<AtomicU64>| {
            let given = given.load(Relaxed);
            given != 0 && now.saturating_sub(given) >= unread
        };
        state.given.iter().any(is_stuck).then_some("the client does not read its answer")
    }

    /// Ends the connection.
    pub fn end(&self) {
        self.ended.store(true, Relaxed);
        self.end.notify_one();
    }

    pub fn is_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Until [`Activity::end`].
    pub async fn until_end(&self) {
        self.end.notified().await;
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64 + 1
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request until its answer is finished.
#[derive(Debug)]
pub struct InFlight {
    activity: Arc<Activity>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.in_flight -= 1;
        state.since = Instant::now();
    }
}

/// The body of a request, of which all must come in time.
pub struct TimedBody<B> {
    body: B,
    activity: Arc<Activity>,
    timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

/// That a body did not come in time.
#[derive(Debug)]
pub struct TooSlow;

impl std::fmt::Display for TooSlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body did not come in time")
    }
}

impl std::error::Error for TooSlow {}

impl<B> TimedBody<B> {
    pub fn new(body: B, activity: Arc<Activity>, timeout: Duration) -> Self {
        TimedBody { body, activity, timeout, deadline: None, is_waiting: false }
    }

    fn wait(&mut self, is_waiting: bool) {
        if is_waiting != self.is_waiting {
            self.is_waiting = is_waiting;
            let mut state = self.activity.state();
            match is_waiting {
                true => {
                    state.reading += 1;
                    state.since = Instant::now();
                }
                false => state.reading -= 1,
            }
        }
    }
}

impl<B> Drop for TimedBody<B> {
    fn drop(&mut self) {
        self.wait(false);
    }
}

impl<B> HttpBody for TimedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.wait(false);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let timeout = self.timeout;
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
                let is_over = deadline.as_mut().poll(context).is_ready();
                self.wait(!is_over);
                if is_over { Poll::Ready(Some(Err(TooSlow.into()))) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, with the request that it ends; notes whether its client takes what it is given.
pub struct TrackedBody {
    body: Body,
    flight: InFlight,
    given: Arc<AtomicU64>,
}

impl TrackedBody {
    pub fn new(body: Body, flight: InFlight) -> Self {
        let given = Arc::<AtomicU64>::default();
        flight.activity.state().given.push(Arc::clone(&given));
        TrackedBody { body, flight, given }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.flight.activity.state().given.retain(|given| !Arc::ptr_eq(given, &self.given));
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Who asks for more has taken what was there before.
        self.given.store(0, Relaxed);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.given.store(self.flight.activity.millis(Instant::now()), Relaxed);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::serve::connections::Connections;
    use crate::serve::settings::Http;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> ConnectionLimits {
        let http = Http { head_timeout: SECOND, idle_timeout: 3 * SECOND, unread_timeout: 2 * SECOND, ..Http::default() };
        Connections::new(&http, None).limits()
    }

    #[test]
    fn silence_has_an_end_before_and_between_requests() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new(start));
        let after = |seconds: u32| activity.verdict(Instant::now() + seconds * SECOND, &limits());
        assert_eq!((activity.verdict(start, &limits()), after(1)), (None, Some("no request came")));
        let flight = activity.begin();
        assert_eq!((after(3600), activity.waits_since()), (None, None));
        drop(flight);
        assert_eq!((after(2), after(3)), (None, Some("no further request came")));
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_ends_the_connection_and_a_quiet_one_does_not() {
        let activity = Arc::new(Activity::new(Instant::now()));
        let after = |seconds: u32| activity.verdict(Instant::now() + seconds * SECOND, &limits());
        let events = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from("x"))]).chain(futures::stream::pending());
        let mut body = TrackedBody::new(Body::from_stream(events), activity.begin());
        assert_eq!(after(3600), None);
        let mut poll =
            async || futures::future::poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context).is_ready())).await;
        assert!(poll().await);
        assert_eq!((after(1), after(3)), (None, Some("the client does not read its answer")));
        assert!(!poll().await);
        assert_eq!(after(3600), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_an_error() {
        let activity = Arc::new(Activity::new(Instant::now()));
        let _flight = activity.begin();
        let half = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from("{"))]).chain(futures::stream::pending());
        let asked = TimedBody::new(Body::from_stream(half), Arc::clone(&activity), SECOND);
        let read = tokio::spawn(axum::body::to_bytes(Body::new(asked), 100));
        while activity.waits_since().is_none() {
            tokio::task::yield_now().await;
        }
        let error = read.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
        assert_eq!(activity.waits_since(), None);
    }
}
