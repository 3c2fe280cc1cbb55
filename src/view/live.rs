//! A view that is kept running: its rows as they are now, and its latest changes by number.
//!
//! Changes are numbered from 1 within an epoch. A number names the same change for everyone who ever asks; when that cannot be kept
//! (the view is made anew, the program starts again) the epoch changes. A view that goes on from a checkpoint goes on with its numbers,
//! too: those up to the checkpoint mean the same in the new epoch as in the old one, see [`Live::number`].

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, SortOptions, lexsort_to_indices};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::drive::{Sink, drive};
use super::history::{Followed, Follower, HISTORY_BYTES_MAX, HISTORY_CHANGES_MAX, HistoryEntry};
use super::latency::Latency;
use super::once::Once;
use super::rows::{Rows, arranged};
use super::run::{Progress, Run};
use super::saved::{self, Chapters, Numbers, SavedEntry, SavedView};
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::format::encode::Change;
use crate::memory::held_by;
use crate::operator::state::{Frame, FrameVersion, Loader, Saver, contents};
use crate::table::{Gathering, InstanceId, next_instance};
use crate::time::{Timestamp, TimestampArray};

/// What the names of frames begin with that are the view's own; operators have numbers.
const LIVE: &str = "live";

/// One view that runs.
pub struct Live {
    pub name: String,
    pub schema: SchemaRef,
    /// Whether rows are updated and deleted later.
    pub is_changelog: bool,
    /// The columns that name a row, where the plan knows them.
    pub key: Option<Vec<usize>>,
    epoch: u64,
    order: Vec<Order>,
    state: Mutex<LiveState>,
    head: watch::Sender<u64>,
    /// Memory of the encodings in the history.
    encoded_bytes: Arc<AtomicUsize>,
    progress: OnceLock<Arc<Progress>>,
    latency: Latency,
    instance: InstanceId,
}

/// One expression of the view's own `ORDER BY`: it orders every snapshot.
pub struct Order {
    pub expr: Arc<dyn PhysicalExpr>,
    pub options: SortOptions,
}

struct LiveState {
    rows: Rows,
    history: VecDeque<Arc<HistoryEntry>>,
    history_bytes: usize,
    /// The number of the latest change; 0 before the first.
    seq: u64,
    at: Option<Timestamp>,
    health: Health,
    snapshot: Option<Snapshot>,
    /// Earlier epochs, and up to which number their changes are also this epoch's.
    origins: Vec<(u64, u64)>,
    chapters: Chapters,
    /// Since when the rows are the same.
    rows_kept: FrameVersion,
}

impl LiveState {
    fn forget_oldest(&mut self) {
        if let Some(first) = self.history.pop_front() {
            self.history_bytes -= first.bytes();
        }
    }
}

/// Memory of a view in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Of all that is below, and of the latest snapshot.
    pub all: usize,
    /// Of the rows.
    pub rows: usize,
    /// Of the latest changes with their encodings, as far as they are not also the rows'.
    pub history: usize,
}

/// How a view fares.
#[derive(Debug, Clone, PartialEq)]
pub enum Health {
    /// Made, and not yet reading.
    Waiting,
    Running,
    /// Its feeds have ended; the rows stay.
    Ended,
    Failed(Error),
    /// Dropped, or replaced: nothing follows.
    Dropped,
}

impl Health {
    pub const WORDS: [&str; 5] = ["waiting", "running", "ended", "failed", "dropped"];

    /// The word for it in metrics and answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Health::Waiting => "waiting",
            Health::Running => "running",
            Health::Ended => "ended",
            Health::Failed(_) => "failed",
            Health::Dropped => "dropped",
        }
    }
}

/// The rows of a view as they are after change `seq`, in the order of its `ORDER BY`.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub rows: RecordBatch,
    pub seq: u64,
    /// When the latest change came.
    pub at: Option<Timestamp>,
}

impl Live {
    pub fn new(name: &str, schema: SchemaRef, is_changelog: bool, rows: Rows) -> Self {
        Live {
            name: name.into(),
            schema,
            is_changelog,
            key: None,
            epoch: next_epoch(),
            order: Vec::new(),
            state: Mutex::new(LiveState {
                rows,
                history: VecDeque::new(),
                history_bytes: 0,
                seq: 0,
                at: None,
                health: Health::Waiting,
                snapshot: None,
                origins: Vec::new(),
                chapters: Chapters::default(),
                rows_kept: FrameVersion::default(),
            }),
            head: watch::Sender::new(0),
            encoded_bytes: Arc::default(),
            progress: OnceLock::new(),
            latency: Latency::default(),
            instance: next_instance(),
        }
    }

    pub fn ordered(self, order: Vec<Order>) -> Self {
        Live { order, ..self }
    }

    pub fn keyed(self, key: Option<Vec<usize>>) -> Self {
        Live { key, ..self }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number in this epoch of the change that `epoch` numbered `seq`; `None` where it may name another change, or none.
    pub fn number(&self, epoch: u64, seq: u64) -> Option<u64> {
        let is_known = epoch == self.epoch || self.state().origins.iter().any(|(origin, last)| *origin == epoch && seq <= *last);
        is_known.then_some(seq)
    }

    /// The number of the latest change.
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// The oldest change that can be followed from; one above [`Live::head`] where none is kept.
    pub fn oldest(&self) -> u64 {
        let state = self.state();
        state.history.front().map_or(state.seq + 1, |entry| entry.first)
    }

    pub fn health(&self) -> Health {
        self.state().health.clone()
    }

    /// How far the query has come, once it runs over feeds.
    pub fn progress(&self) -> Option<&Arc<Progress>> {
        self.progress.get()
    }

    /// How long results took: from the table that had rows or a watermark ready to the changes that anyone can read.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Rows that stand now, and all the memory of the view but its operators'.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state();
        (state.rows.count(), self.held_in(&state).all)
    }

    /// The memory of its rows and of its history.
    pub fn held(&self) -> Held {
        self.held_in(&self.state())
    }

    fn held_in(&self, state: &LiveState) -> Held {
        let rows = state.rows.bytes();
        let history = self.history_in(state);
        let snapshot = state.snapshot.as_ref().map_or(0, |snapshot| held_by(&snapshot.rows));
        Held { all: rows + history + snapshot, rows, history }
    }

    /// What of the history is not also in the rows.
    fn history_in(&self, state: &LiveState) -> usize {
        let shared = if state.rows.are_appended() { state.rows.bytes() } else { 0 };
        state.history_bytes.saturating_sub(shared) + self.encoded_bytes.load(Relaxed)
    }

    /// Forgets the oldest changes until the history holds no more than `most` bytes, or one entry; gives the bytes that came free. Who
    /// is further behind starts over from a snapshot.
    pub fn shorten_history(&self, most: usize) -> usize {
        let mut state = self.state();
        let before = self.held_in(&state).all;
        while state.history.len() > 1 && self.history_in(&state) > most {
            state.forget_oldest();
        }
        state.snapshot = None;
        before.saturating_sub(self.held_in(&state).all)
    }

    /// Lets the oldest results go until they hold no more than `most` bytes, where they would leave by retention anyway; gives the bytes
    /// that came free.
    pub fn shorten_rows(&self, most: usize) -> usize {
        let mut state = self.state();
        let before = self.held_in(&state).all;
        if state.rows.shorten(most) {
            state.snapshot = None;
            state.rows_kept.changed();
        }
        // What both have is free only when neither has it.
        while state.rows.are_appended() && state.history.len() > 1 && state.history_bytes > state.rows.bytes() {
            state.forget_oldest();
        }
        before.saturating_sub(self.held_in(&state).all)
    }

    /// Lets all rows and changes go, for good.
    pub fn clear(&self) -> Result<()> {
        let mut state = self.state();
        state.rows = state.rows.emptied(&self.schema)?;
        while !state.history.is_empty() {
            state.forget_oldest();
        }
        state.snapshot = None;
        state.rows_kept.changed();
        Ok(())
    }

    /// The rows as they are now. Asked again without a change between, the same.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut state = self.state();
        if let Some(snapshot) = &state.snapshot {
            return Ok(snapshot.clone());
        }
        let rows = self.arrange(state.rows.batch(&self.schema)?)?;
        let snapshot = Snapshot { rows, seq: state.seq, at: state.at };
        state.snapshot = Some(snapshot.clone());
        Ok(snapshot)
    }

    fn arrange(&self, rows: RecordBatch) -> Result<RecordBatch> {
        if self.order.is_empty() || rows.num_rows() == 0 {
            return Ok(rows);
        }
        let columns = self.order.iter().map(|order| {
            let values = order.expr.evaluate(&rows)?.into_array(rows.num_rows())?;
            Ok(SortColumn { values, options: Some(order.options) })
        });
        arranged(&rows, &lexsort_to_indices(&columns.collect::<Result<Vec<_>>>()?, None)?)
    }

    /// Follows the changes after number `after`: those kept, then those to come.
    pub fn follow(self: &Arc<Self>, after: u64) -> Follower {
        Follower::new(Arc::clone(self), after, self.head.subscribe())
    }

    /// What comes after number `after`, as far as it is there: at most `most` entries, or one [`Followed::Gap`] or
    /// [`Followed::Dropped`].
    pub fn after(&self, after: u64, most: usize) -> Vec<Followed> {
        let state = self.state();
        let oldest = state.history.front().map_or(state.seq + 1, |entry| entry.first);
        if after > state.seq || after + 1 < oldest {
            return vec![Followed::Gap { oldest }];
        }
        let start = state.history.partition_point(|entry| entry.last <= after);
        let entries: Vec<Followed> = state.history.range(start..).take(most).cloned().map(Followed::Entry).collect();
        match entries.is_empty() && state.health == Health::Dropped {
            true => vec![Followed::Dropped],
            false => entries,
        }
    }

    /// Numbers changes, applies them to the rows and tells the followers.
    pub fn publish(&self, changes: Changes, at: Timestamp) -> Result<()> {
        let count = Change::each(&changes).count() as u64;
        if count == 0 {
            return Ok(());
        }
        // Both the rows and the history keep them for long.
        let changes = changes.detached();
        let seq = {
            let mut state = self.state();
            state.rows.apply(&changes)?;
            let entry = HistoryEntry::new(state.seq + 1, state.seq + count, at, changes, &self.encoded_bytes);
            (state.seq, state.at, state.snapshot) = (entry.last, Some(at), None);
            state.rows_kept.changed();
            state.history_bytes += entry.bytes();
            state.history.push_back(Arc::new(entry));
            while state.history.len() > 1
                && let Some(first) = state.history.front()
                && (state.history_bytes + self.encoded_bytes.load(Relaxed) > HISTORY_BYTES_MAX
                    || state.seq - first.last >= HISTORY_CHANGES_MAX)
            {
                state.forget_oldest();
            }
            state.seq
        };
        self.head.send_replace(seq);
        Ok(())
    }

    /// Drives a query over feeds until it ends, fails, or the task is dropped. `fingerprint` is what its state belongs to.
    pub async fn run(self: Arc<Self>, run: Run, fingerprint: String) {
        let _ = self.progress.set(run.progress());
        let health = match drive(run, &mut LiveSink { live: &self, fingerprint }).await {
            Ok(()) => Health::Ended,
            Err(error) => Health::Failed(error),
        };
        self.enter(health);
    }

    /// Gives the part of a view that has ended or failed: what it published is all there is. Nothing of one that may publish more.
    pub fn take_last_part(&self, gathering: &Gathering, fingerprint: &str) {
        let failure = match self.health() {
            Health::Ended => None,
            Health::Failed(error) => Some(error),
            Health::Waiting | Health::Running | Health::Dropped => return,
        };
        gathering.give(self.last_part_name(), self.instance, fingerprint.into(), |cut| {
            let mut frames = Vec::new();
            let mut state = Saver::new(cut, &mut frames);
            self.save(&mut state.within(LIVE))?;
            failure.map_or(Ok(()), |error| saved::save_failure(&mut state, &error))?;
            Ok(frames)
        });
    }

    /// Shows again what [`Live::take_last_part`] gave.
    pub fn settle(&self, frames: Vec<Frame>) -> Result<()> {
        let (said, more) = frames.into_iter().partition(|frame| frame.name.starts_with(LIVE));
        let failure = saved::load_failure(&mut Loader::new(&mut contents(more)?))?;
        self.load(None, said)?;
        if failure.is_some() {
            tracing::warn!(view = self.name, "the view had failed before: its rows stay, and it runs when it is made anew");
        }
        self.enter(failure.map_or(Health::Ended, Health::Failed));
        Ok(())
    }

    /// The name of the view's part of a checkpoint while it runs.
    pub fn part_name(&self) -> String {
        format!("view/{}", self.name)
    }

    /// The same once it has ended or failed.
    pub fn last_part_name(&self) -> String {
        format!("ended/{}", self.name)
    }

    fn save(&self, state: &mut Saver<'_>) -> Result<()> {
        let mut now = self.state();
        let LiveState { rows, history, seq, at, origins, chapters, rows_kept, .. } = &mut *now;
        let origins = origins.iter().copied().chain([(self.epoch, *seq)]).collect();
        saved::save(state, &Numbers { seq: *seq, at: *at, origins })?;
        match rows.are_appended() {
            // The others are in the history.
            true => {
                let told: usize = history.iter().map(|entry| entry.changes.len()).sum();
                saved::save_rows(state, &mut FrameVersion::default(), || match rows.count().saturating_sub(told) {
                    0 => Ok(RecordBatch::new_empty(Arc::clone(&self.schema))),
                    older => Ok(rows.batch(&self.schema)?.slice(0, older)),
                })?;
            }
            false => saved::save_rows(state, rows_kept, || rows.batch(&self.schema))?,
        }
        chapters.save(state, history)
    }

    /// Goes on from a state, before anything is published: with a run of the same query, or without if that had come to its end.
    pub fn load(&self, run: Option<&mut Run>, frames: Vec<Frame>) -> Result<()> {
        let (said, operators) = frames.into_iter().partition(|frame| frame.name.starts_with(LIVE));
        let mut said = contents(said)?;
        let saved = SavedView::load(&mut Loader::new(&mut said).within(LIVE), &self.schema)?;
        let SavedView { rows, history, seq, at, origins } = saved;
        if let Some(run) = run {
            run.load(operators)?;
        }
        let mut state = self.state();
        if state.seq > 0 {
            return Err(Error::bug("a view that has said something was to go on from a state"));
        }
        state.rows.fill(rows)?;
        let are_appended = state.rows.are_appended();
        for SavedEntry { first, last, at, changes } in history {
            if are_appended {
                state.rows.apply(&changes)?;
            }
            let entry = HistoryEntry::new(first, last, at, changes, &self.encoded_bytes);
            state.history_bytes += entry.bytes();
            state.history.push_back(Arc::new(entry));
        }
        (state.seq, state.at, state.origins) = (seq, at, origins);
        drop(state);
        self.head.send_replace(seq);
        Ok(())
    }

    /// Takes the rows of a query that DataFusion answers by itself.
    pub async fn fill(self: Arc<Self>, rows: SendableRecordBatchStream) {
        let mut rows = Once::of(rows);
        let _ = self.progress.set(rows.progress());
        while let Some(batch) = rows.next().await {
            let published = batch.map_err(Error::from).and_then(|rows| {
                let times = TimestampArray::from_value(0, rows.num_rows());
                self.publish(Changes::inserts(rows, times), Timestamp::now())
            });
            if let Err(error) = published {
                return self.enter(Health::Failed(error));
            }
        }
        self.enter(Health::Ended);
    }

    /// Notes how the view fares, and tells those who wait for it.
    pub fn enter(&self, health: Health) {
        match &health {
            Health::Failed(error) => tracing::warn!(view = self.name, reason = %error, "view failed"),
            Health::Waiting => tracing::info!(view = self.name, "view waits"),
            Health::Running => tracing::info!(view = self.name, "view runs"),
            Health::Ended => tracing::info!(view = self.name, "view ended: its feeds have"),
            Health::Dropped => tracing::debug!(view = self.name, "view is gone"),
        }
        {
            let mut state = self.state();
            if state.health == Health::Dropped {
                return;
            }
            state.health = health;
        }
        self.head.send_modify(|_| {});
    }

    fn state(&self) -> MutexGuard<'_, LiveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("name", &self.name).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The latest epoch that was given; 0 before the first.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Bits of an epoch that count the views of one life of the program: the lives of a store are so far apart.
const EPOCH_BITS: u32 = 20;

/// The epochs of this life come from the number of the store's opening, which is never the same twice whatever the clock says. They begin
/// at random in the lower half of its range: a store may be put back as a whole, and opens again with the same number.
pub fn begin_epochs(opening: u64) {
    let start = (opening << EPOCH_BITS) + (random() >> (64 - (EPOCH_BITS - 1)));
    LATEST.fetch_max(start, Relaxed);
}

/// Greater than any before: two views of one name never share an epoch. Without a store they begin anywhere above those of stores, and
/// stay numbers that every client can hold.
fn next_epoch() -> u64 {
    let anywhere = 1 << 51 | random() >> 14;
    let next = |latest| if latest == 0 { anywhere } else { latest + 1 };
    match LATEST.fetch_update(Relaxed, Relaxed, |latest| Some(next(latest))) {
        Ok(latest) | Err(latest) => next(latest),
    }
}

/// From the system; should it have none, from the clock.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| Timestamp::now().nanos().unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Publishes the changes of a run as those of its view.
struct LiveSink<'a> {
    live: &'a Live,
    fingerprint: String,
}

impl Sink for LiveSink<'_> {
    async fn changes(&mut self, changes: Changes, handed_out: Option<Instant>) -> Result<ControlFlow<()>> {
        self.live.publish(changes, Timestamp::now())?;
        if let Some(handed_out) = handed_out {
            self.live.latency.add(handed_out.elapsed());
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The part is the state of the operators after everything that is published, and what that is. Fails where the operators are not
    /// to be used any more.
    async fn barrier(&mut self, gathering: Arc<Gathering>, run: &mut Run) -> Result<ControlFlow<()>> {
        let live = self.live;
        let mut saved = Ok(ControlFlow::Continue(()));
        gathering.give(live.part_name(), live.instance, self.fingerprint.clone(), |cut| {
            let mut frames = run.save(cut).inspect_err(|error| saved = Err(error.clone()))?;
            live.save(&mut Saver::new(cut, &mut frames).within(LIVE))?;
            Ok(frames)
        });
        saved
    }
}

#[cfg(test)]
mod tests;
