//! What the user of a table wants of its feed, and what all tasks of the table share.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::barrier::{self, Gathering, InstanceId, NextGathering};
use super::journals::Journals;
use super::saved::Beginning;
use super::spec::TableSpec;
use super::status::TableStatus;
use crate::error::{Code, Error, Result};
use crate::feed::{self, FeedState};
use crate::operator::state::{Frame, Saver};

/// What a table and the tasks that serve it share.
#[derive(Debug)]
pub(super) struct TableControl {
    orders: watch::Sender<Orders>,
    pub(super) feed: Arc<feed::FeedStatus>,
    pub(super) status: Arc<TableStatus>,
    /// Of all tables there ever were, this one.
    pub(super) instance: InstanceId,
    /// The next checkpoint for the task that reads the feed.
    pub(super) gathering: NextGathering,
    /// How the first task begins.
    beginning: Mutex<Option<Beginning>>,
    journals: Mutex<Journals>,
    /// Where the last task was when the feed came to its end.
    end: Mutex<Vec<Frame>>,
    /// Tasks that run now.
    hubs: Mutex<usize>,
}

/// The orders of a table's user. A task that was busy obeys the last ones: what lies between has no effect.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    pub(super) spec: Arc<TableSpec>,
    pub(super) stand: Stand,
    /// Orders so far to connect anew.
    pub(super) reconnects: u64,
}

/// Whether the feed may be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    Running,
    Paused,
    Disconnected,
}

/// A spec is the same if it is the same value, not if it says the same.
impl PartialEq for Orders {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.spec, &other.spec) && self.stand == other.stand && self.reconnects == other.reconnects
    }
}

impl TableControl {
    pub(super) fn new(spec: TableSpec) -> Arc<Self> {
        let orders = Orders { spec: Arc::new(spec), stand: Stand::Running, reconnects: 0 };
        Arc::new(TableControl {
            orders: watch::Sender::new(orders),
            feed: Arc::default(),
            status: Arc::default(),
            instance: barrier::next_instance(),
            gathering: NextGathering::default(),
            beginning: Mutex::default(),
            journals: Mutex::default(),
            end: Mutex::default(),
            hubs: Mutex::new(0),
        })
    }

    pub(super) fn spec(&self) -> Arc<TableSpec> {
        Arc::clone(&self.orders.borrow().spec)
    }

    pub(super) fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// Gives an order to the tasks that run; where none does, the status tells it at once.
    pub(super) fn order(&self, order: impl FnOnce(&mut Orders)) {
        let hubs = self.hubs();
        let before = self.orders.borrow().reconnects;
        self.orders.send_modify(order);
        if *hubs == 0 {
            if self.orders.borrow().reconnects > before {
                self.feed.enter(FeedState::NotRead);
            }
            self.rest();
        }
    }

    /// Takes over another spec of the same columns over the same endpoint.
    pub(super) fn reconfigure(&self, spec: TableSpec) -> Result<()> {
        if let Some(what) = difference(&self.spec(), &spec) {
            return Err(Error::new(
                Code::Recreate,
                format!("table '{}' cannot take over another {what} while it lives", spec.name),
            )
            .hint("recreate it: CREATE OR REPLACE TABLE …"));
        }
        self.order(|orders| orders.spec = Arc::new(spec));
        Ok(())
    }

    /// The next task begins so.
    pub(super) fn begin(&self, beginning: Beginning) {
        *self.beginning.lock().unwrap_or_else(PoisonError::into_inner) = Some(beginning);
    }

    pub(super) fn take_beginning(&self) -> Option<Beginning> {
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has the task that reads the feed send a barrier; false where there is no such task.
    pub(super) fn send_barrier(&self, gathering: &Arc<Gathering>) -> bool {
        let hubs = self.hubs();
        if *hubs > 0 {
            self.gathering.put(Arc::clone(gathering));
        }
        *hubs > 0
    }

    /// Whether a task reads the feed.
    pub(super) fn is_served(&self) -> bool {
        *self.hubs() > 0
    }

    /// The feed has come to its end.
    pub(super) fn end_at(&self, place: Vec<Frame>) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// Gives what there is to look back at, without a place to go on from unless that is the feed's end.
    pub(super) fn give_past(&self, gathering: &Gathering) {
        let spec = self.spec();
        gathering.give(spec.part_name(), self.instance, spec.fingerprint(), |cut| {
            let mut frames = self.end.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.save_journals(&mut Saver::new(cut, &mut frames))?;
            Ok(frames)
        });
    }

    pub(super) fn save_journals(&self, state: &mut Saver<'_>) -> Result<()> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner).save(state, &self.status, &self.feed)
    }

    /// A task is about to begin; it has ended when the guard is gone.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        *self.hubs() += 1;
        self.end_at(Vec::new());
        Serving(Arc::clone(self))
    }

    /// No task runs: the state of a feed that nobody reads.
    fn rest(&self) {
        self.feed.rest(match self.orders.borrow().stand {
            Stand::Running => FeedState::NotRead,
            Stand::Paused => FeedState::Paused,
            Stand::Disconnected => FeedState::Disconnected,
        });
    }

    fn hubs(&self) -> MutexGuard<'_, usize> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a task from before its first step until it no longer reads the feed: a barrier that is sent meanwhile is for it.
pub(super) struct Serving(Arc<TableControl>);

impl Deref for Serving {
    type Target = TableControl;

    fn deref(&self) -> &TableControl {
        &self.0
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut hubs = self.0.hubs();
        *hubs -= 1;
        if *hubs == 0 {
            drop(self.0.gathering.take());
            self.0.rest();
        }
    }
}

/// What readers would notice if the one spec took the place of the other.
fn difference(old: &TableSpec, new: &TableSpec) -> Option<&'static str> {
    let parts = old.essence().into_iter().zip(new.essence());
    let differing = parts.into_iter().find_map(|((what, old), (_, new))| (old != new).then_some(what));
    let rest = [(old.schema != new.schema, "schema"), (old.finite != new.finite, "end")];
    differing.or_else(|| rest.into_iter().find_map(|(differs, what)| differs.then_some(what)))
}
