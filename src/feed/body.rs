//! The body of a response, or a file, while it is open: what has arrived, how it is decoded, and how long it is silent.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::{Chunks, Cut};
use super::file::LineReader;
use super::parser::{Event, Parser};
use super::watchdog::Watchdog;

/// Events after which one read returns, so that a batch stays of a size that downstream likes.
const EVENTS_MAX: u64 = 8192;
/// Bytes after which one read stops taking from the socket: some milliseconds of work.
const BYTES_MAX: usize = 1 << 20;
/// Bytes between two looks at the number of events; the smallest event has 7.
const STEP_BYTES: usize = 64 * 1024;

/// An open body and what is known of it.
pub(super) struct Body {
    chunks: Chunks,
    pub(super) decoder: Decoder,
    pub(super) watchdog: Watchdog,
    /// One coarse timer: it is set anew when it goes off, not with each chunk.
    alarm: Pin<Box<Sleep>>,
    /// When the last wait for bytes ended, so that time spent elsewhere does not count as silence.
    waited_until: Instant,
    gathered: VecDeque<Bytes>,
    gathered_bytes: usize,
    /// How the body ended; it is dealt with once everything gathered is decoded.
    pub(super) end: Option<End>,
}

/// How a body came to its end.
pub(super) enum End {
    Regular,
    Broken(String),
    Silent(Duration),
}

pub(super) enum Decoder {
    Stream(Parser),
    Lines(LineReader),
}

impl Body {
    pub(super) fn new(chunks: Chunks, decoder: Decoder, watchdog: Watchdog, now: Instant) -> Self {
        let alarm = Box::pin(sleep_until(watchdog.deadline().unwrap_or(now)));
        Body { chunks, decoder, watchdog, alarm, waited_until: now, gathered: VecDeque::new(), gathered_bytes: 0, end: None }
    }

    /// Waits until bytes or the end are here, and takes all that is. Nothing is lost if the wait is given up.
    pub(super) async fn arrived(&mut self) {
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

    /// Decodes what is gathered, up to the bound on events, and gives the number of bytes read.
    pub(super) fn decode(&mut self, each: &mut impl FnMut(Event<'_>)) -> usize {
        let comments = self.decoder.comments();
        if self.gathered.is_empty() && matches!(self.end, Some(End::Regular)) {
            self.decoder.finish(each);
        }
        let (mut bytes, mut events) = (0, 0);
        while let Some(chunk) = self.gathered.front_mut().filter(|_| events < EVENTS_MAX) {
            let step = chunk.len().min(STEP_BYTES);
            self.decoder.feed(&chunk[..step], &mut |event: Event<'_>| {
                events += 1;
                each(event);
            });
            chunk.advance(step);
            bytes += step;
            if chunk.is_empty() {
                self.gathered.pop_front();
            }
        }
        self.gathered_bytes -= bytes;
        if bytes > 0 {
            self.watchdog.bytes(self.waited_until, self.decoder.comments() > comments);
        }
        bytes
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
struct Wait<'a>(&'a mut Body);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waited_until = Instant::now();
    }
}

impl Decoder {
    pub(super) fn feed(&mut self, chunk: &[u8], each: &mut impl FnMut(Event<'_>)) {
        match self {
            Decoder::Stream(parser) => parser.feed(chunk, each),
            Decoder::Lines(lines) => lines.feed(chunk, each),
        }
    }

    /// A file has been read to its end. An event stream's unfinished event is none; an unfinished line is one.
    pub(super) fn finish(&mut self, each: &mut impl FnMut(Event<'_>)) {
        if let Decoder::Lines(lines) = self {
            lines.finish(each);
        }
    }

    /// `None` where events carry no ids.
    pub(super) fn last_event_id(&self) -> Option<&str> {
        match self {
            Decoder::Stream(parser) => Some(parser.last_event_id()),
            Decoder::Lines(_) => None,
        }
    }

    pub(super) fn comments(&self) -> u64 {
        match self {
            Decoder::Stream(parser) => parser.comments(),
            Decoder::Lines(_) => 0,
        }
    }

    pub(super) fn oversized(&self) -> u64 {
        match self {
            Decoder::Stream(parser) => parser.oversized(),
            Decoder::Lines(lines) => lines.oversized(),
        }
    }

    pub(super) fn take_retry(&mut self) -> Option<u64> {
        match self {
            Decoder::Stream(parser) => parser.take_retry(),
            Decoder::Lines(_) => None,
        }
    }

    pub(super) fn is_inside_event(&self) -> bool {
        matches!(self, Decoder::Stream(parser) if parser.is_inside_event())
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use tokio::time::{advance, sleep, timeout};

    use super::*;
    use crate::options::ReadTimeout;

    const SECOND: Duration = Duration::from_secs(1);

    /// A body that is given up after 30 s of silence, and the other end of it.
    fn body() -> (UnboundedSender<Result<Bytes, Cut>>, Body) {
        let (sender, chunks) = unbounded();
        let now = Instant::now();
        let watchdog = Watchdog::new(ReadTimeout::After(30 * SECOND), now);
        (sender, Body::new(chunks.boxed(), Decoder::Stream(Parser::new(1 << 20)), watchdog, now))
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_body_even_if_each_wait_is_given_up_before() {
        let (_sender, mut body) = body();
        let mut waits = 0;
        while timeout(SECOND, body.arrived()).await.is_err() {
            waits += 1;
        }
        assert!(matches!(body.end, Some(End::Silent(patience)) if patience == 30 * SECOND));
        assert!((29..=30).contains(&waits), "{waits}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_reads_is_no_silence() {
        let (sender, mut body) = body();
        advance(300 * SECOND).await;
        let send = async {
            sleep(29 * SECOND).await;
            sender.unbounded_send(Ok(Bytes::from_static(b"data: a\n\n"))).unwrap();
        };
        tokio::join!(body.arrived(), send);
        assert!(body.end.is_none());
        assert_eq!(body.decode(&mut |event| assert_eq!(event.data, "a")), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_keep_a_silent_body_open() {
        let (sender, mut body) = body();
        let start = Instant::now();
        let beats = async {
            for _ in 0..5 {
                sleep(20 * SECOND).await;
                sender.unbounded_send(Ok(Bytes::from_static(b": ping\n"))).unwrap();
            }
        };
        let read = async {
            while body.end.is_none() {
                body.arrived().await;
                body.decode(&mut |event| panic!("{event:?}"));
            }
        };
        tokio::join!(beats, read);
        assert!(matches!(body.end, Some(End::Silent(_))));
        assert_eq!(start.elapsed(), 130 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_comes_after_all_bytes() {
        let (sender, mut body) = body();
        sender.unbounded_send(Ok(Bytes::from_static(b"data: a\n"))).unwrap();
        sender.unbounded_send(Ok(Bytes::from_static(b"\n"))).unwrap();
        sender.unbounded_send(Err(Cut("reset".into()))).unwrap();
        body.arrived().await;
        let mut events = 0;
        assert_eq!((body.decode(&mut |_| events += 1), events), (9, 1));
        assert!(matches!(&body.end, Some(End::Broken(reason)) if reason == "reset"));
    }
}
