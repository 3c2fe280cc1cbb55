//! The one task behind a table: reads the feed, decodes what has arrived into a batch, and hands rows and watermarks to every reader.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::barrier::Gathering;
use super::clock::Clock;
use super::control::{Orders, Serving, Stand, TableControl};
use super::decode::{Batch, Decode, FatalEvent};
use super::readers::{JoinQueue, Peers, Reader};
use super::saved::{self, Beginning};
use super::spec::TableSpec;
use crate::error::{Code, Error, Result};
use crate::feed::{self, Feed, ReadOutcome};
use crate::format::RawEvent;
use crate::operator::Message;
use crate::operator::state::{Cut, Frame, FrameVersion, Saver};
use crate::options::BadData;
use crate::time::{Timestamp, Watermark};

/// How often a watermark that follows the clock is sent on: well below a window anyone watches.
const CLOCK_TICK: Duration = Duration::from_millis(100);

/// Serves all readers of the join queue over one connection at a time, until no reader is left.
pub(super) async fn serve(shared: Serving, queue: Arc<JoinQueue>) {
    while let Some(readers) = queue.take_or_leave() {
        let orders = shared.orders();
        match Hub::new(&shared, &queue, readers, orders) {
            Ok(hub) => hub.run().await,
            Err((readers, error)) => readers.iter().for_each(|reader| reader.fail(error.clone())),
        }
    }
}

/// An error of a feed says which table it is of.
fn named(spec: &TableSpec, error: Error) -> Error {
    let named = Error::new(error.code(), format!("table '{}': {}", spec.name, error.message()));
    match error.way_out() {
        Some(way_out) => named.hint(way_out),
        None => named,
    }
}

struct Hub<'a> {
    shared: &'a TableControl,
    queue: &'a JoinQueue,
    /// As they are obeyed now.
    obeyed: Orders,
    orders: watch::Receiver<Orders>,
    feed: Feed,
    /// Why the feed has failed, while kept readers wait for it to be connected again.
    failure: Option<Error>,
    readers: Vec<Reader>,
    decode: Decode,
    clock: Clock,
    /// When the feed was last listened to.
    now: Instant,
    /// Since when the rows of a keyed table are the same.
    rows_kept: FrameVersion,
    /// The last barrier has gone out: nothing may follow.
    halted: bool,
    /// When the connection that is up was made, or the last event came on it.
    heard: Option<Instant>,
    /// Records read since the feed began.
    records: usize,
}

impl<'a> Hub<'a> {
    fn new(
        shared: &'a TableControl,
        queue: &'a JoinQueue,
        readers: Vec<Reader>,
        mut orders: watch::Receiver<Orders>,
    ) -> Result<Self, (Vec<Reader>, Error)> {
        let obeyed = orders.borrow_and_update().clone();
        let decode = match Decode::new(&obeyed.spec, &shared.status, &readers) {
            Ok(decode) => decode,
            Err(error) => return Err((readers, error)),
        };
        let mut feed = Feed::new(obeyed.spec.feed.clone(), Arc::clone(&shared.feed));
        feed.may_take_back(decode.may_fail());
        stand(&mut feed, obeyed.stand);
        let clock = Clock::new(&obeyed.spec);
        let now = Instant::now();
        let mut hub = Hub {
            shared,
            queue,
            obeyed,
            orders,
            feed,
            failure: None,
            readers,
            decode,
            clock,
            now,
            rows_kept: FrameVersion::default(),
            halted: false,
            heard: None,
            records: 0,
        };
        match shared.take_beginning().map(|beginning| hub.begin(beginning)) {
            Some(Err(error)) => Err((hub.readers, error)),
            None | Some(Ok(())) => Ok(hub),
        }
    }

    /// Goes on where a checkpoint was made, if it can.
    fn begin(&mut self, beginning: Beginning) -> Result<()> {
        let saved = match beginning {
            Beginning::At(saved) => saved,
            Beginning::After(lost) => {
                self.feed.begin_after(lost);
                return Ok(());
            }
        };
        self.feed.resume_at(&saved.position);
        self.clock.load(saved.clock);
        saved.current.map_or(Ok(()), |rows| self.decode.fill(rows))
    }

    /// The table's part of a checkpoint: everything that was handed out, and nothing else.
    fn save(&mut self, cut: Cut) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        let mut state = Saver::new(cut, &mut frames);
        self.save_place(&mut state)?;
        self.shared.save_journals(&mut state)?;
        Ok(frames)
    }

    fn save_place(&mut self, state: &mut Saver<'_>) -> Result<()> {
        saved::save(state, &self.feed.position(), self.clock.save())?;
        let spec = &self.obeyed.spec;
        if spec.key.is_some() {
            saved::save_rows(state, &mut self.rows_kept, &spec.schema, || self.decode.rows())?;
        }
        Ok(())
    }

    /// Gives the table's part of a checkpoint, and sends the barrier on behind it.
    async fn take_part(&mut self, gathering: &Arc<Gathering>) {
        let spec = Arc::clone(&self.obeyed.spec);
        self.halted |= gathering.barrier().last;
        gathering.give(spec.part_name(), self.shared.instance, spec.fingerprint(), |cut| self.save(cut));
        for reader in &self.readers {
            reader.send_barrier(gathering).await;
        }
    }

    /// Until the feed has ended, or all readers have left.
    async fn run(mut self) {
        self.shared.status.begin(&self.shared.feed.snapshot(), self.clock.sent());
        let readers = std::mem::take(&mut self.readers);
        if let Err(error) = self.greet(&readers).await {
            readers.iter().for_each(|reader| reader.fail(error.clone()));
        }
        self.readers = readers;
        let mut tick = interval(CLOCK_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.readers.is_empty() {
            let listens = self.obeyed.stand == Stand::Running && self.failure.is_none() && !self.halted;
            let mut received = None;
            let (decode, clock) = (&mut self.decode, &mut self.clock);
            let mut each = |event: feed::Event<'_>| {
                let received = *received.get_or_insert_with(|| clock.arrival(Timestamp::now()));
                decode.push(RawEvent { kind: event.kind, data: event.data, id: event.id, received });
            };
            let reading = tokio::select! {
                reading = self.feed.read(&mut each), if listens => Some(reading),
                () = self.queue.notified() => None,
                _ = self.orders.changed() => None,
                () = self.shared.gathering.notified() => None,
                _ = tick.tick(), if !self.halted => None,
            };
            self.now = Instant::now();
            if received.is_some() {
                self.hear();
            }
            match self.hand_on(reading).await {
                Ok(HubStep::Go) => {}
                Ok(HubStep::End) => return,
                Err(error) => self.fail(error).await,
            }
            // Readers that are in the queue before the barrier get it, from every table.
            let gathering = self.shared.gathering.take();
            if let Err(error) = self.come_and_go().await {
                self.fail(error).await;
            }
            if let Some(gathering) = gathering {
                self.take_part(&gathering).await;
            }
            self.obey().await;
            let away = self.now.elapsed();
            self.clock.not_listening(away);
            self.heard = self.heard.map(|heard| heard + away);
        }
    }

    /// An event has come.
    fn hear(&mut self) {
        self.heard = Some(self.now);
        self.shared.feed.heard_again();
    }

    /// Nothing has come for a moment: perhaps for longer than is expected.
    fn listen(&self) {
        let (Some(expected), Some(heard)) = (self.obeyed.spec.expect_every, self.heard) else { return };
        if self.now.duration_since(heard) >= expected {
            let expected = humantime::format_duration(expected);
            self.shared.feed.fall_silent(format!("connected, and no event for {expected} (expect_every)"));
        }
    }

    /// Deals with what the feed has brought, or with a moment in which it brought nothing.
    async fn hand_on(&mut self, reading: Option<Result<ReadOutcome>>) -> Result<HubStep> {
        self.flush().await?;
        match reading.transpose()? {
            Some(ReadOutcome::Ended) => {
                if let Some(error) = self.fruitless() {
                    return Err(error);
                }
                self.end().await;
                return Ok(HubStep::End);
            }
            Some(ReadOutcome::Connected) => {
                self.clock.connected(self.now);
                self.heard = Some(self.now);
            }
            Some(ReadOutcome::Disconnected) => self.stand_still().await,
            Some(ReadOutcome::Events) => {}
            None if self.halted => {}
            None => {
                self.listen();
                let watermark = self.clock.tick(self.now, Timestamp::now());
                self.send_watermark(watermark).await;
            }
        }
        Ok(HubStep::Go)
    }

    /// A feed that has ended and of which nothing could be read has failed: its rows were meant.
    fn fruitless(&self) -> Option<Error> {
        let (bad, last) = self.decode.rejected()?;
        let (spec, status) = (&self.obeyed.spec, &self.shared.status);
        let nothing = self.records == 0 && status.snapshot().skipped == status.before().skipped;
        (nothing && spec.bad_data != BadData::Drop).then(|| {
            let what = match spec.feed.is_file() {
                true => "the file has ended, and none of its",
                false => "the feed has ended, and none of its",
            };
            Error::new(Code::BadData, format!("{what} {bad} events could be read; the last: {last}"))
                .hint("correct the table's columns or its format; bad_data = 'drop' goes on without a row")
        })
    }

    /// The feed has failed: readers that do not wait for it are told why.
    async fn fail(&mut self, error: Error) {
        let error = named(&self.obeyed.spec, self.feed.give_up(error));
        self.failure = Some(error.clone());
        self.readers.iter().filter(|reader| !reader.outlives_failure()).for_each(|reader| reader.fail(error.clone()));
        self.readers.retain(Reader::outlives_failure);
        self.stand_still().await;
    }

    /// Does what the table's user has ordered meanwhile.
    async fn obey(&mut self) {
        let orders = self.orders.borrow_and_update().clone();
        if orders == self.obeyed {
            return;
        }
        let before = std::mem::replace(&mut self.obeyed, orders);
        let spec = Arc::clone(&self.obeyed.spec);
        let is_new = !Arc::ptr_eq(&spec, &before.spec);
        if is_new {
            self.feed.adopt(spec.feed.clone());
            self.clock.adopt(&spec);
        }
        let resumed = before.stand != Stand::Running && self.obeyed.stand == Stand::Running;
        if is_new || self.obeyed.reconnects > before.reconnects || (resumed && self.failure.is_none()) {
            self.feed.reconnect();
            self.failure = None;
        }
        stand(&mut self.feed, self.obeyed.stand);
        self.stand_still().await;
        if is_new && let Err(error) = self.renew() {
            self.fail(error).await;
        }
    }

    /// Nothing is known of the feed before it is connected again.
    async fn stand_still(&mut self) {
        self.heard = None;
        let watermark = self.clock.disconnected();
        self.send_watermark(watermark).await;
    }

    /// Cuts a batch from what has been decoded and hands it to every reader, then the watermark that it raised. Behind an event that is
    /// the end of the table nothing counts as read.
    async fn flush(&mut self) -> Result<()> {
        if let Some(batch) = self.decode.take()? {
            self.hand_out(batch).await?;
        }
        match self.decode.failure() {
            Some(FatalEvent { events_before, error }) => {
                self.feed.take_back_all_but(events_before);
                Err(error)
            }
            None => Ok(()),
        }
    }

    async fn hand_out(&mut self, batch: Batch) -> Result<()> {
        let now = Timestamp::now();
        let raised = self.clock.rows(&batch.times, self.now, now);
        let lag_ms = batch.times.values().last().map(|last| now.nanos().saturating_sub(*last) / 1_000_000);
        let peers = self.peers();
        self.records += batch.records;
        self.rows_kept.changed();
        self.shared.status.rows(batch.records, raised.ahead, lag_ms);
        if let Some(far) = raised.far {
            self.shared.status.far(far, now);
        }
        self.shared.status.bursts(self.clock.period());
        for reader in &self.readers {
            for changes in self.decode.project(&batch, reader)? {
                reader.send(Message::Changes(changes), &peers).await;
            }
        }
        self.send_watermark(raised.watermark).await;
        Ok(())
    }

    async fn send_watermark(&mut self, watermark: Option<Watermark>) {
        let Some(watermark) = watermark else { return };
        let peers = self.peers();
        self.shared.status.watermark(watermark);
        for reader in &self.readers {
            reader.send(Message::Watermark(watermark), &peers).await;
        }
    }

    /// Who goes on from a checkpoint after this asks the feed again, and is told that it has ended.
    async fn end(&mut self) {
        self.decode.end();
        let mut place = Vec::new();
        if self.save_place(&mut Saver::new(Cut { epoch: 0, written: None }, &mut place)).is_ok() {
            self.shared.end_at(place);
        }
        let peers = self.peers();
        self.send_watermark(Some(Watermark::at(Timestamp::MAX))).await;
        for reader in &self.readers {
            reader.send(Message::End, &peers).await;
        }
    }

    /// Lets readers go, and takes in new ones: they see the rows that are kept, what comes from now on, and how far the feed has come.
    async fn come_and_go(&mut self) -> Result<()> {
        let before = self.readers.len();
        self.readers.retain(|reader| !reader.has_left());
        let new = self.queue.take();
        if new.is_empty() && self.readers.len() == before {
            return Ok(());
        }
        self.greet(&new).await?;
        self.readers.extend(new);
        if let Some(error) = self.failure.clone() {
            self.readers.iter().filter(|reader| !reader.outlives_failure()).for_each(|reader| reader.fail(error.clone()));
            self.readers.retain(Reader::outlives_failure);
        }
        self.renew()
    }

    /// Tells new readers the rows that are kept, unless they have them, and how far the feed has come.
    async fn greet(&mut self, new: &[Reader]) -> Result<()> {
        let peers = self.peers();
        for reader in new {
            if !reader.is_restored()
                && let Some(rows) = self.decode.current(reader)?
            {
                reader.send(Message::Changes(rows), &peers).await;
            }
            if let Some(watermark) = self.clock.sent() {
                reader.send(Message::Watermark(watermark), &peers).await;
            }
        }
        Ok(())
    }

    /// Decodes the columns that the readers need, as the spec says.
    fn renew(&mut self) -> Result<()> {
        self.decode.serve(&self.obeyed.spec, &self.shared.status, &self.readers)?;
        self.feed.may_take_back(self.decode.may_fail());
        Ok(())
    }

    fn peers(&self) -> Peers<'a> {
        Peers { readers: self.readers.len(), queue: self.queue }
    }
}

/// Whether a hub goes on.
enum HubStep {
    Go,
    End,
}

/// Holds a feed as its user wants it.
fn stand(feed: &mut Feed, stand: Stand) {
    match stand {
        Stand::Running => {}
        Stand::Paused => feed.pause(),
        Stand::Disconnected => feed.disconnect(),
    }
}
