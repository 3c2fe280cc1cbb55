//! Threads of their own for what is asked once: whatever a question does, views, streams and the end of the program go on beside it.
//!
//! A question is planned and answered on a thread that it has to itself, since neither always gives way: constants are computed while
//! a query is planned, and a function over two long texts can take minutes in one call. There are few such threads. Who asked gets an
//! answer in time; a question that does not stop keeps its thread until it does. Queries without an end, and answers that go out as
//! they come, are tasks on a few threads together.
//!
//! Futures are driven by the runtime of the caller also there: what they start, as the task of a table, outlives them.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::error::{Code, Error, Result};

/// Questions of readers that are answered at once.
const READERS_MAX: usize = 3;

/// Definitions that are planned at once: they are made one after the other, so that one that does not stop leaves room for the next.
const WRITERS_MAX: usize = 2;

/// Questions that may wait for a thread: more would have waited in vain.
const WAITING_MAX: usize = 64;

/// Threads for queries without an end and for answers that go out as they come.
const WORKERS: usize = 2;

/// Threads for what questions do that blocks by itself, as reading a file.
const SPARE_THREADS: usize = 4;

/// As much as the main thread has: queries are planned by recursion.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Of the memory of the process, one question may have one part in so many.
const SHARES: usize = 16;

/// A question may have so much in any case: less is no use.
const SHARE_BYTES_MIN: usize = 16 << 20;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody who wants rows, or to know whether a statement is right.
    Reader,
    /// Somebody who makes or drops something.
    Writer,
}

/// The threads and the memory of questions.
#[derive(Debug)]
pub struct QueryPool {
    /// Taken when this is dropped.
    runtime: Option<Runtime>,
    readers: Slots,
    writers: Slots,
    /// Memory that one question may have.
    share: usize,
    /// What all those have together that are not answered at once.
    going_on: Arc<RuntimeEnv>,
}

/// Places, and who waits for one.
#[derive(Debug)]
struct Slots {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl QueryPool {
    /// `memory_max` is what the whole process may have.
    pub fn new(memory_max: usize) -> Result<QueryPool> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(READERS_MAX + WRITERS_MAX + SPARE_THREADS)
            .thread_stack_size(STACK_BYTES)
            .thread_name("question")
            .enable_all()
            .build()
            .map_err(|error| Error::new(Code::Runtime, format!("no threads for questions: {error}")))?;
        let share = (memory_max / SHARES).max(SHARE_BYTES_MIN);
        let slots = |places| Slots { places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0) };
        Ok(QueryPool {
            runtime: Some(runtime),
            readers: slots(READERS_MAX),
            writers: slots(WRITERS_MAX),
            share,
            going_on: bounded(share)?,
        })
    }

    /// Memory for one question, and no room on the disk.
    pub fn memory(&self) -> Result<Arc<RuntimeEnv>> {
        bounded(self.share)
    }

    /// Memory that one question may have.
    pub fn share(&self) -> usize {
        self.share
    }

    /// The memory of all those together that are not answered at once.
    pub fn memory_of_those_going_on(&self) -> Arc<RuntimeEnv> {
        Arc::clone(&self.going_on)
    }

    /// Runs a task beside the views.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle().spawn(task).abort_handle()
    }

    /// What comes of `work`, done on a thread of its own. Fails at `deadline`, where there is no thread or `work` has not ended; then it
    /// ends as soon as it gives way.
    pub async fn ask<T: Send + 'static>(
        &self,
        asking: Purpose,
        deadline: Instant,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let slots = match asking {
            Purpose::Reader => &self.readers,
            Purpose::Writer => &self.writers,
        };
        let place = slots.enter(deadline).await?;
        let begun = Instant::now();
        let (asker, mut left) = oneshot::channel::<()>();
        let own = Handle::current();
        let answer = self.handle().spawn_blocking(move || {
            let _place = place;
            own.block_on(async {
                tokio::select! {
                    biased;
                    _ = &mut left => None,
                    answer = work => Some(answer),
                }
            })
        });
        // Dropped with this future, too: nobody waits for the answer any more.
        let _asker = asker;
        match timeout_at(deadline, answer).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(Error::bug("a question was given up that somebody waits for")),
            Ok(Err(error)) => Err(super::output::broken(error)),
            Err(_) => {
                let passed = Duration::from_secs(begun.elapsed().as_secs().max(1));
                let problem = format!("there was no answer after {}", humantime::format_duration(passed));
                Err(Error::new(Code::Runtime, problem).hint("ask for less, or give a longer timeout"))
            }
        }
    }

    fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("it is there until this is dropped").handle()
    }
}

impl Drop for QueryPool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A question that does not stop must not hold up the end.
            runtime.shutdown_background();
        }
    }
}

impl Slots {
    async fn enter(&self, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let busy = || {
            Error::new(Code::Unavailable, "other questions are being answered, and no thread became free in time")
                .hint("ask again in some seconds")
        };
        let _waiting = Waiting::one_of(&self.waiting).ok_or_else(busy)?;
        match timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// `None` where there are too many already.
    fn one_of(count: &'a AtomicUsize) -> Option<Self> {
        let before = count.fetch_add(1, Relaxed);
        let waiting = Waiting(count);
        (before < WAITING_MAX).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// An environment of so much memory, and no room on the disk.
fn bounded(bytes: usize) -> Result<Arc<RuntimeEnv>> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    Ok(RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(MemoryShare::new(bytes)))
        .with_disk_manager_builder(disk)
        .build_arc()?)
}

/// A bound on what the operators of a query hold together. One that needs more fails, and says what was needed.
#[derive(Debug)]
struct MemoryShare {
    most: NonZeroUsize,
    held: AtomicUsize,
}

impl MemoryShare {
    fn new(bytes: usize) -> Self {
        MemoryShare { most: NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN), held: AtomicUsize::new(0) }
    }
}

impl std::fmt::Display for MemoryShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "share of {} bytes", self.most)
    }
}

impl MemoryPool for MemoryShare {
    fn name(&self) -> &str {
        "share"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.held.fetch_add(additional, Relaxed);
    }

    fn shrink(&self, _: &MemoryReservation, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    fn try_grow(&self, _: &MemoryReservation, additional: usize) -> DataFusionResult<()> {
        let most = self.most.get();
        let grown = self.held.fetch_update(Relaxed, Relaxed, |held| held.checked_add(additional).filter(|held| *held <= most));
        grown.map(drop).map_err(|held| {
            let need = held.saturating_add(additional);
            let problem = format!("the query needs {need} bytes of memory at once, and may have {most}");
            let way_out = "filter the rows, group by fewer keys or ask for fewer columns; memory_max of the settings allows more";
            DataFusionError::from(Error::new(Code::Runtime, problem).hint(way_out))
        })
    }

    fn reserved(&self) -> usize {
        self.held.load(Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.most.get())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(100)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_question_that_never_gives_way_is_answered_in_time_and_holds_only_its_own_thread() {
        let aside = QueryPool::new(0).unwrap();
        let mut ends = Vec::new();
        for _ in 0..READERS_MAX {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let error = aside.ask(Purpose::Reader, soon(), async move { ended.recv().is_ok() }).await.unwrap_err();
            assert_eq!((error.code(), error.message()), (Code::Runtime, "there was no answer after 1s"));
        }
        let error = aside.ask(Purpose::Reader, soon(), async {}).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        // Who makes something is not held up by who reads.
        assert_eq!(aside.ask(Purpose::Writer, late(), async { 7 }).await, Ok(7));
        ends.pop();
        assert_eq!(aside.ask(Purpose::Reader, late(), async { 8 }).await, Ok(8));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_ends_when_it_gives_way() {
        let aside = QueryPool::new(0).unwrap();
        let (held, mut gone) = oneshot::channel::<()>();
        let forever = async move {
            let _held = held;
            std::future::pending::<()>().await
        };
        assert!(aside.ask(Purpose::Reader, soon(), forever).await.is_err());
        assert!((&mut gone).await.is_err());
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let aside = Arc::new(QueryPool::new(0).unwrap());
        let mut ends = Vec::new();
        for _ in 0..READERS_MAX {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            assert!(aside.ask(Purpose::Reader, soon(), async move { ended.recv().is_ok() }).await.is_err());
        }
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|number| {
                let aside = Arc::clone(&aside);
                tokio::spawn(async move { aside.ask(Purpose::Reader, late(), async move { number }).await })
            })
            .collect();
        while aside.readers.waiting.load(Relaxed) < WAITING_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(aside.ask(Purpose::Reader, late(), async {}).await.unwrap_err().code(), Code::Unavailable);
        drop(ends);
        for (number, answer) in waiting.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), Ok(number));
        }
    }

    #[tokio::test]
    async fn a_question_that_panics_says_so() {
        let aside = QueryPool::new(0).unwrap();
        let error = aside.ask(Purpose::Reader, late(), async { panic!("no such thing") }).await.map(|(): ()| ()).unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Bug, "a running query broke off: no such thing"));
    }

    #[test]
    fn a_share_gives_what_it_has_and_says_what_was_asked() {
        let pool: Arc<dyn MemoryPool> = Arc::new(MemoryShare::new(100));
        let reservation = datafusion::execution::memory_pool::MemoryConsumer::new("test").register(&pool);
        reservation.try_grow(60).unwrap();
        let error = Error::from(reservation.try_grow(50).unwrap_err());
        assert_eq!(error.message(), "the query needs 110 bytes of memory at once, and may have 100");
        reservation.shrink(20);
        reservation.try_grow(50).unwrap();
        drop(reservation);
        assert_eq!(pool.reserved(), 0);
    }
}
