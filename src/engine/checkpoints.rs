//! Checkpoints, one after the other: a barrier goes out, the parts come in, and a blocking task writes them while the flow goes on.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};

use super::Engine;
use crate::checkpoint::{Archive, CheckpointCost};
use crate::error::{Code, Error, Result};
use crate::operator::{Barrier, Epoch, StatePart};
use crate::table::{self, Gathering, InstanceId, SavedPart};
use crate::time::Timestamp;

/// How long all parts may take to come. Whoever is later is stuck, as by a query that nobody reads; the others do not wait for it.
const PARTS_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the last checkpoint may take, so that all is over within five seconds of the signal.
pub const LAST_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(4);

/// More often than that they would be all that the program does.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The checkpoints of a running engine.
pub struct Checkpoints {
    engine: Arc<Engine>,
    /// Held while a checkpoint is taken, by the thread that writes it to the end: whoever asked for it may leave.
    turn: Arc<tokio::sync::Mutex<ArchiveTurn>>,
    report: Mutex<CheckpointStats>,
}

struct ArchiveTurn {
    archive: Archive,
    written: Option<table::LastCheckpoint>,
}

impl ArchiveTurn {
    /// What the next checkpoint may build on: what the archive has, if it is known who gave it.
    fn written(&self) -> Option<table::LastCheckpoint> {
        self.written.clone().filter(|known| self.archive.written() == Some(known.epoch))
    }
}

/// How checkpoints fare.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckpointStats {
    /// The last one that is safe.
    pub last: Option<Taken>,
    pub taken: u64,
    pub failed: u64,
    /// Why the latest one failed; `None` where it did not.
    pub failure: Option<FailedCheckpoint>,
    /// Time that was spent on all of them: by tables and views, and for writing.
    pub busy: Duration,
    /// Views and tables whose part could not be given in the last one, and why.
    pub left_out: Vec<(String, String)>,
}

/// A checkpoint that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    pub epoch: Epoch,
    pub at: Timestamp,
    /// Bytes written for it, and bytes of earlier ones that it builds on.
    pub bytes: u64,
    pub reused_bytes: u64,
    /// From the barrier to the last part.
    pub gathering: Duration,
    /// Time that tables and views spent on their parts, together.
    pub saving: Duration,
    /// Until it was safe.
    pub writing: Duration,
    pub parts: usize,
}

/// A checkpoint that came to nothing; the one before stays.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedCheckpoint {
    pub at: Timestamp,
    pub reason: String,
}

impl Checkpoints {
    pub fn new(engine: Arc<Engine>, archive: Archive) -> Self {
        Checkpoints {
            engine,
            turn: Arc::new(tokio::sync::Mutex::new(ArchiveTurn { archive, written: None })),
            report: Mutex::default(),
        }
    }

    pub fn report(&self) -> CheckpointStats {
        self.lock().clone()
    }

    /// Takes one every `interval` until `end`, and then the last one: no table and no view goes on after it.
    pub async fn run(&self, interval: Duration, end: impl Future<Output = ()>) -> Result<Taken> {
        let interval = interval.max(INTERVAL_MIN);
        let mut end = pin!(end);
        let mut next = Instant::now() + interval;
        while timeout_at(next, &mut end).await.is_err() {
            // What went wrong has been told.
            let _ = self.take_one(false).await;
            next = (next + interval).max(Instant::now());
        }
        self.take_last().await
    }

    /// Takes the last one now: no table and no view goes on after it.
    pub async fn take_last(&self) -> Result<Taken> {
        self.take_one(true).await
    }

    /// Takes one now.
    pub async fn take(&self) -> Result<Taken> {
        self.take_one(false).await
    }

    async fn take_one(&self, last: bool) -> Result<Taken> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let taken = self.take_in(turn, last).await;
        let mut report = self.lock();
        match &taken {
            Ok(taken) => {
                tracing::debug!(epoch = taken.epoch, bytes = taken.bytes, parts = taken.parts, "checkpoint taken");
                if report.failure.take().is_some() {
                    tracing::info!(epoch = taken.epoch, "checkpoints work again");
                }
                report.taken += 1;
                report.busy += taken.saving + taken.writing;
                report.last = Some(taken.clone());
            }
            Err(error) => {
                tracing::warn!(reason = %error, "a checkpoint failed: the last good one stays, and the flow goes on");
                report.failed += 1;
                report.failure = Some(FailedCheckpoint { at: Timestamp::now(), reason: error.to_string() });
            }
        }
        taken
    }

    async fn take_in(&self, turn: OwnedMutexGuard<ArchiveTurn>, last: bool) -> Result<Taken> {
        let start = Instant::now();
        let epoch = self.engine.next_epoch().max(turn.archive.epoch() + 1);
        let barrier = Barrier { epoch, last };
        let (gathering, mut given) = Gathering::new(barrier, turn.written());
        let mut awaited = self.engine.send_barrier(gathering);
        let (mut parts, mut instances) = (Vec::new(), HashMap::new());
        let (mut left_out, mut saving) = (Vec::new(), Duration::ZERO);
        let deadline = start + PARTS_TIMEOUT;
        let mut take = |SavedPart { name, instance, spent, part }, awaited: &mut Vec<String>| {
            awaited.retain(|awaited| *awaited != name);
            saving += spent;
            match part {
                Ok(part) => {
                    instances.insert(name, instance);
                    parts.push(part);
                }
                // What is printed must not begin anew.
                Err(error) if self.engine.is_printing() => return Err(error),
                Err(error) => {
                    tracing::warn!(part = name, reason = %error, "its state cannot be kept: after a restart it begins anew");
                    left_out.push((name, error.to_string()));
                }
            }
            Ok(())
        };
        while let Ok(Some(part)) = timeout_at(deadline, given.recv()).await {
            take(part, &mut awaited)?;
        }
        drop(given);
        let (gathering, mut late) = Gathering::new(barrier, turn.written());
        self.engine.give_last_parts(&gathering, &awaited);
        while let Ok(part) = late.try_recv() {
            take(part, &mut awaited)?;
        }
        if let Some(missing) = awaited.iter().find(|name| self.engine.is_going(name)) {
            let message = format!("checkpoint {epoch} is not whole: {missing} did not come to it");
            return Err(
                Error::new(Code::Slow, message).hint("the next one is tried in time; if this goes on, see what holds it up")
            );
        }
        let gathering = start.elapsed();
        let count = parts.len();
        let written = write(turn, epoch, parts, instances).await?;
        self.lock().left_out = left_out;
        Ok(Taken {
            epoch,
            at: Timestamp::now(),
            bytes: written.bytes,
            reused_bytes: written.reused_bytes,
            gathering,
            saving,
            writing: written.took,
            parts: count,
        })
    }

    fn lock(&self) -> MutexGuard<'_, CheckpointStats> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes on a thread that may block, to the end.
async fn write(
    mut turn: OwnedMutexGuard<ArchiveTurn>,
    epoch: Epoch,
    parts: Vec<StatePart>,
    instances: HashMap<String, InstanceId>,
) -> Result<CheckpointCost> {
    let writing = tokio::task::spawn_blocking(move || {
        let written = turn.archive.write(epoch, parts)?;
        turn.written = Some(table::LastCheckpoint { epoch, instances });
        Ok(written)
    });
    writing.await.map_err(|error| Error::bug(format!("writing a checkpoint broke off: {error}")))?
}
