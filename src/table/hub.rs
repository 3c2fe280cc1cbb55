//! The one task behind a table: reads the feed, decodes what has arrived into a batch, and hands rows and watermarks to every reader.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::clock::Clock;
use super::decode::{Batch, Decode};
use super::readers::{Door, Reader};
use super::spec::Spec;
use super::status::Status;
use crate::error::{Error, Result};
use crate::feed::{self, Feed, Reading};
use crate::format::Input;
use crate::operator::Message;
use crate::time::{Timestamp, Watermark};

/// How often a watermark that follows the clock is sent on: well below a window anyone watches.
const CLOCK_TICK: Duration = Duration::from_millis(100);

/// What a table and the tasks that serve it share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) spec: Spec,
    pub(super) feed: Arc<feed::Status>,
    pub(super) status: Arc<Status>,
}

/// Serves all who come in by the door, over one connection at a time, until nobody is left.
pub(super) async fn serve(shared: Arc<Shared>, door: Arc<Door>) {
    while let Some(readers) = door.take_or_leave() {
        let mut hub = match Hub::new(&shared, readers) {
            Ok(hub) => hub,
            Err((readers, error)) => {
                fail(&readers, error).await;
                continue;
            }
        };
        let mut feed = Feed::new(shared.spec.feed.clone(), Arc::clone(&shared.feed));
        match hub.run(&mut feed, &door).await {
            // Nobody listens: the connection closes, and its status says so.
            Ok(()) => feed.pause(),
            Err(error) => {
                let error = feed.give_up(error);
                fail(&hub.readers, named(&shared.spec, error)).await;
            }
        }
    }
}

async fn fail(readers: &[Reader], error: Error) {
    for reader in readers {
        reader.send(Err(error.clone())).await;
    }
}

/// An error of a feed says which table it is of.
fn named(spec: &Spec, error: Error) -> Error {
    let named = Error::new(error.code(), format!("table '{}': {}", spec.name, error.message()));
    match error.way_out() {
        Some(way_out) => named.hint(way_out),
        None => named,
    }
}

struct Hub<'a> {
    shared: &'a Shared,
    readers: Vec<Reader>,
    decode: Decode,
    clock: Clock,
    /// When the feed was last listened to.
    now: Instant,
}

impl<'a> Hub<'a> {
    fn new(shared: &'a Shared, readers: Vec<Reader>) -> Result<Self, (Vec<Reader>, Error)> {
        match Decode::new(&shared.spec, &shared.status, &readers) {
            Ok(decode) => Ok(Hub { shared, readers, decode, clock: Clock::new(&shared.spec), now: Instant::now() }),
            Err(error) => Err((readers, error)),
        }
    }

    /// Until the feed has ended or all readers have left.
    async fn run(&mut self, feed: &mut Feed, door: &Door) -> Result<()> {
        self.shared.status.begin(&self.shared.feed.snapshot());
        let mut tick = interval(CLOCK_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.readers.is_empty() {
            let mut received = None;
            let (decode, clock) = (&mut self.decode, &mut self.clock);
            let mut each = |event: feed::Event<'_>| {
                let received = *received.get_or_insert_with(|| clock.arrival(Timestamp::now()));
                decode.push(Input { kind: event.kind, data: event.data, id: event.id, received });
            };
            let reading = tokio::select! {
                reading = feed.read(&mut each) => Some(reading?),
                () = door.knocked() => None,
                _ = tick.tick() => None,
            };
            self.now = Instant::now();
            self.flush().await?;
            match reading {
                Some(Reading::Ended) => return self.end().await,
                Some(Reading::Connected) => self.clock.connected(self.now),
                Some(Reading::Disconnected) => {
                    let watermark = self.clock.disconnected();
                    self.send_watermark(watermark).await;
                }
                Some(Reading::Events) => {}
                None => {
                    let watermark = self.clock.tick(self.now, Timestamp::now());
                    self.send_watermark(watermark).await;
                }
            }
            self.come_and_go(door).await?;
            self.clock.not_listening(self.now.elapsed());
        }
        Ok(())
    }

    /// Cuts a batch from what has been decoded and hands it to every reader, then the watermark that it raised.
    async fn flush(&mut self) -> Result<()> {
        if let Some(batch) = self.decode.take()? {
            self.hand_out(batch).await?;
        }
        match self.decode.failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn hand_out(&mut self, batch: Batch) -> Result<()> {
        let raised = self.clock.rows(&batch.times, self.now, Timestamp::now());
        self.shared.status.rows(batch.records, raised.ahead);
        for reader in &self.readers {
            for changes in self.decode.project(&batch, reader)? {
                reader.send(Ok(Message::Changes(changes))).await;
            }
        }
        self.send_watermark(raised.watermark).await;
        Ok(())
    }

    async fn send_watermark(&mut self, watermark: Option<Watermark>) {
        let Some(watermark) = watermark else { return };
        self.shared.status.watermark(watermark);
        for reader in &self.readers {
            reader.send(Ok(Message::Watermark(watermark))).await;
        }
    }

    async fn end(&mut self) -> Result<()> {
        self.send_watermark(Some(Watermark::at(Timestamp::MAX))).await;
        for reader in &self.readers {
            reader.send(Ok(Message::End)).await;
        }
        Ok(())
    }

    /// Lets readers go, and takes in new ones: they see the rows that are kept, what comes from now on, and how far the feed has come.
    async fn come_and_go(&mut self, door: &Door) -> Result<()> {
        let before = self.readers.len();
        self.readers.retain(|reader| !reader.has_left());
        let new = door.take();
        if new.is_empty() && self.readers.len() == before {
            return Ok(());
        }
        for reader in &new {
            if let Some(rows) = self.decode.current(reader)? {
                reader.send(Ok(Message::Changes(rows))).await;
            }
            if let Some(watermark) = self.clock.sent() {
                reader.send(Ok(Message::Watermark(watermark))).await;
            }
        }
        self.readers.extend(new);
        self.decode.serve(&self.shared.spec, &self.shared.status, &self.readers)?;
        Ok(())
    }
}
