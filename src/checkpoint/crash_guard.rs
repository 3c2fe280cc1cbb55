//! How the processes ended that had a data directory, and the watch over views after one that died: which of them kills the process.
//!
//! A process that dies says nothing any more, and may be killed from outside at any moment, again and again, while each view is healthy.
//! So no view is suspected because it was there, or was busy. After a death the next process keeps watch for its first minute:
//!
//! - Views compute one at a time, and before each turn the name of the view is written to a file, which outlives the process. It costs a
//!   write of some bytes each turn, and only then: a process after a clean end does nothing of it.
//! - The file says whether the turn took much memory: a thread looks at it. And it is known whether the process ended itself, as for lack
//!   of memory under a limit or for a stack that overflowed: the signal of an abort leaves a byte in another file.
//! - A view is proved to have killed the process where it had the turn, and the process ended itself or the turn had taken much memory.
//!
//! The view of which that is proved [`PROOFS`] times in a row of at least [`DEATHS`] deaths is left out, until it is made anew. A row ends
//! with a clean end or a minute of life.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Space, Store};
use crate::error::{Code, Error, Result};

/// Deaths in a row before a view is left out.
pub const DEATHS: u32 = 3;

/// How often a view must be proved to have killed the process: at the first death of a row nobody watched.
const PROOFS: u32 = DEATHS - 1;

/// A process that lives so long does not die at each start.
const CALM: Duration = Duration::from_secs(60);

/// What a turn of a healthy view does not take at once, and one that exhausts a machine or its cgroup has taken soon.
const MUCH_BYTES: u64 = 64 * 1024 * 1024;

/// How often the memory of the process is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Who has the turn, in the data directory.
const TURN: &str = "streamgauge.turn";

/// Not empty where the process ended itself.
const ABORTED: &str = "streamgauge.aborted";

const KEY: &str = "lives";

/// What is kept about the processes so far. Views stand by their names and when they were made, so that one made anew is another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct ProcessHistory {
    /// The last one ended as it should.
    ended: bool,
    /// Deaths in a row.
    deaths: u32,
    /// How often each view was proved to be the cause in that row.
    proofs: BTreeMap<String, u32>,
    left_out: BTreeSet<String>,
}

impl ProcessHistory {
    /// A process begins after one that left this. `cause` is the view that is proved to have killed it.
    fn next(mut self, cause: Option<String>) -> ProcessHistory {
        if self.ended {
            return ProcessHistory { left_out: self.left_out, ..ProcessHistory::default() };
        }
        self.deaths += 1;
        if let Some(cause) = cause {
            let proofs = self.proofs.entry(cause.clone()).or_default();
            *proofs += 1;
            if *proofs >= PROOFS && self.deaths >= DEATHS {
                self.proofs.remove(&cause);
                self.left_out.insert(cause);
            }
        }
        self
    }
}

/// The watch of one process over its views.
pub struct CrashGuard {
    lives: Mutex<ProcessHistory>,
    /// Whether views have turns.
    watches: AtomicBool,
    turn: Semaphore,
    file: Option<File>,
    now: Mutex<Option<Turn>>,
    /// Memory of the process when it was looked at last.
    memory: AtomicU64,
}

struct Turn {
    view: String,
    /// Memory of the process when it began.
    memory: u64,
    is_heavy: bool,
}

/// What the file says about a turn.
#[derive(Clone, Copy)]
enum TurnMark {
    Nobody = b'-' as isize,
    Has = b'+' as isize,
    /// And has taken much memory.
    Heavy = b'!' as isize,
}

impl CrashGuard {
    /// Looks how the process before ended, and notes that another has begun. `views` are all there are now.
    pub fn begin(store: &Store, dir: &Path, views: &BTreeSet<String>) -> Result<Arc<CrashGuard>> {
        let before: Option<ProcessHistory> = store.value(Space::Meta, KEY)?;
        let has_aborted = dir.join(ABORTED).metadata().is_ok_and(|about| about.len() > 0);
        let cause = cause(&std::fs::read(dir.join(TURN)).unwrap_or_default(), has_aborted);
        let mut lives = before.map(|before| before.next(cause.clone())).unwrap_or_default();
        lives.ended = false;
        lives.left_out.retain(|view| views.contains(view));
        let watches = lives.deaths > 0;
        if watches {
            let deaths = lives.deaths;
            tracing::warn!(
                deaths,
                cause,
                "the process before has died: views are watched for a minute, and compute one at a time"
            );
        }
        let unusable = |error| {
            Error::new(Code::Data, format!("the data directory '{}' cannot be written: {error}", dir.display()))
                .hint("see that the disk has room and works")
        };
        note_aborts(dir).map_err(unusable)?;
        store.put(Space::Meta, KEY, &lives)?;
        let file = match watches {
            true => Some(owned().truncate(true).open(dir.join(TURN)).map_err(unusable)?),
            false => {
                let _ = std::fs::remove_file(dir.join(TURN));
                None
            }
        };
        let crash_guard = Arc::new(CrashGuard {
            lives: Mutex::new(lives),
            watches: AtomicBool::new(watches),
            turn: Semaphore::new(1),
            file,
            now: Mutex::default(),
            memory: AtomicU64::new(resident()),
        });
        if watches {
            let watched = Arc::downgrade(&crash_guard);
            thread::Builder::new().name("crash_guard".into()).spawn(move || look(&watched)).map_err(unusable)?;
        }
        Ok(crash_guard)
    }

    /// Whether a view is to be left out, and why.
    pub fn reason(&self, view: &str) -> Option<Error> {
        let is_left_out = lock(&self.lives).left_out.contains(view);
        is_left_out.then(|| {
            Error::new(Code::Runtime, format!("the process died {DEATHS} times in a row while this view computed: it is left out"))
                .hint("make it anew to run it again, with CREATE OR REPLACE VIEW or PUT, so that it needs less memory, or give the process more")
        })
    }

    /// Runs a view's task, turn by turn while views are watched.
    pub async fn over(self: Arc<Self>, view: String, task: impl Future<Output = ()>) {
        let mut task = pin!(task);
        while self.watches.load(Relaxed) {
            let Some(turn) = self.turn().await else { break };
            let step = poll_fn(|context| {
                self.enter(&view);
                let step = task.as_mut().poll(context);
                self.leave();
                Poll::Ready(step)
            });
            if step.await.is_ready() {
                return;
            }
            drop(turn);
            // The task has seen to it that it is woken.
            let mut asleep = true;
            poll_fn(|_| if std::mem::take(&mut asleep) { Poll::Pending } else { Poll::Ready(()) }).await;
        }
        task.await
    }

    /// Does something for a view by whoever has the turn.
    pub fn during<T>(&self, view: &str, act: impl FnOnce() -> T) -> T {
        self.enter(view);
        let done = act();
        self.leave();
        done
    }

    /// The turn, as long as nobody has it: before the first view runs.
    pub fn first_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.try_acquire().ok()
    }

    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.acquire().await.ok()
    }

    /// Comes back after a minute of life: what kills a process at each start would have done so.
    pub async fn calm(&self, store: &Store) {
        tokio::time::sleep(CALM).await;
        self.watches.store(false, Relaxed);
        self.note(store, |lives| (lives.deaths, lives.proofs) = (0, BTreeMap::new()));
    }

    /// The process ends as it should.
    pub fn end(&self, store: &Store) {
        self.note(store, |lives| lives.ended = true);
    }

    fn note(&self, store: &Store, change: impl FnOnce(&mut ProcessHistory)) {
        let lives = {
            let mut lives = lock(&self.lives);
            let before = lives.clone();
            change(&mut lives);
            if *lives == before {
                return;
            }
            lives.clone()
        };
        if let Err(error) = store.put(Space::Meta, KEY, &lives) {
            tracing::warn!(reason = %error, "how the process fares cannot be kept: the next one may take it for dead");
        }
    }

    fn enter(&self, view: &str) {
        if self.file.is_some() {
            let turn = Turn { view: view.into(), memory: self.memory.load(Relaxed), is_heavy: false };
            self.write(TurnMark::Has, &turn.view);
            *lock(&self.now) = Some(turn);
        }
    }

    fn leave(&self) {
        if self.file.is_some() {
            let mut now = lock(&self.now);
            self.write(TurnMark::Nobody, "");
            *now = None;
        }
    }

    /// Writes who has the turn. It is no matter for the flow where that fails: then nothing is proved.
    fn write(&self, mark: TurnMark, view: &str) {
        let text = format!("{}{}\n", char::from(mark as u8), view.replace('\n', " "));
        #[cfg(unix)]
        if let Some(file) = &self.file {
            let _ = std::os::unix::fs::FileExt::write_all_at(file, text.as_bytes(), 0);
        }
        #[cfg(not(unix))]
        let _ = text;
    }

    /// Notes what the process has taken.
    fn look(&self) {
        let memory = resident();
        if let Some(turn) = lock(&self.now).as_mut().filter(|turn| !turn.is_heavy && memory >= turn.memory + MUCH_BYTES) {
            turn.is_heavy = true;
            self.write(TurnMark::Heavy, &turn.view);
        }
        self.memory.store(memory, Relaxed);
    }
}

/// Looks at the memory of the process while views are watched.
fn look(crash_guard: &Weak<CrashGuard>) {
    while let Some(crash_guard) = crash_guard.upgrade().filter(|crash_guard| crash_guard.watches.load(Relaxed)) {
        crash_guard.look();
        drop(crash_guard);
        thread::sleep(LOOK);
    }
}

/// The view that is proved to have killed the process, by what it left.
fn cause(turn: &[u8], has_aborted: bool) -> Option<String> {
    let (mark, rest) = turn.split_first()?;
    let is_proved = *mark == TurnMark::Heavy as u8 || (*mark == TurnMark::Has as u8 && has_aborted);
    let view = rest.split(|byte| *byte == b'\n').next()?;
    is_proved.then(|| String::from_utf8_lossy(view).into_owned())
}

/// From here on the signal of an abort leaves a byte in a file. One process has one data directory.
fn note_aborts(dir: &Path) -> std::io::Result<()> {
    static NOTED: OnceLock<()> = OnceLock::new();
    let file = owned().truncate(true).open(dir.join(ABORTED))?;
    let mut noted = Ok(());
    #[cfg(unix)]
    NOTED.get_or_init(|| {
        noted = signal_hook::low_level::pipe::register(signal_hook::consts::SIGABRT, file).map(drop);
    });
    #[cfg(not(unix))]
    let _ = (&NOTED, file);
    noted
}

/// A file for its owner alone.
fn owned() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Memory of the process in bytes; 0 where the system does not tell.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib * 1024)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn views() -> BTreeSet<String> {
        ["good", "bad", "worse"].map(String::from).into()
    }

    /// Lets processes begin and die one after the other, each with what it leaves; gives what the last one leaves out.
    fn died(lives: &[(&str, bool)]) -> Vec<&'static str> {
        let (dir, store) = (TempDir::new().unwrap(), Store::in_memory().unwrap());
        for (turn, has_aborted) in lives {
            CrashGuard::begin(&store, dir.path(), &views()).unwrap();
            std::fs::write(dir.path().join(TURN), turn).unwrap();
            std::fs::write(dir.path().join(ABORTED), if *has_aborted { "X" } else { "" }).unwrap();
        }
        let crash_guard = CrashGuard::begin(&store, dir.path(), &views()).unwrap();
        ["good", "bad", "worse"].into_iter().filter(|view| crash_guard.reason(view).is_some()).collect()
    }

    #[test]
    fn the_view_that_is_proved_to_kill_the_process_is_left_out() {
        // Killed from outside while a healthy view computes, however often.
        assert!(died(&[("+good\n", false); 9]).is_empty());
        assert!(died(&[("-\n", true); 9]).is_empty());
        for proof in [("+bad\n", true), ("!bad\n", false), ("!bad\nleft of a longer name\n", true)] {
            assert!(died(&[("", false), proof]).is_empty(), "two deaths are no row");
            assert_eq!(died(&[("", true), proof, proof]), ["bad"]);
            // It need not be the only one.
            assert_eq!(died(&[("", false), proof, ("+good\n", false), ("!worse\n", false), proof]), ["bad"]);
        }
        assert_eq!(
            died(&[("", false), ("!bad\n", false), ("!worse\n", false), ("!worse\n", false), ("!bad\n", false)]),
            ["bad", "worse"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_clean_end_and_a_minute_of_life_end_a_row() {
        for is_clean in [true, false] {
            let (dir, store) = (TempDir::new().unwrap(), Store::in_memory().unwrap());
            for _ in 0..9 {
                let crash_guard = CrashGuard::begin(&store, dir.path(), &views()).unwrap();
                match is_clean {
                    true => crash_guard.end(&store),
                    false => crash_guard.calm(&store).await,
                }
                std::fs::write(dir.path().join(TURN), "!bad\n").unwrap();
            }
            assert_eq!(CrashGuard::begin(&store, dir.path(), &views()).unwrap().reason("bad"), None);
        }
    }

    #[test]
    fn a_view_that_is_left_out_stays_so_until_it_is_made_anew() {
        let (dir, store) = (TempDir::new().unwrap(), Store::in_memory().unwrap());
        let left_out = ProcessHistory { left_out: ["bad".to_string()].into(), ..ProcessHistory::default() };
        store.put(Space::Meta, KEY, &left_out).unwrap();
        let begin = |views: &BTreeSet<String>| CrashGuard::begin(&store, dir.path(), views).unwrap();
        for _ in 0..3 {
            let crash_guard = begin(&views());
            assert!(crash_guard.reason("bad").is_some() && crash_guard.reason("good").is_none());
            crash_guard.end(&store);
        }
        begin(&BTreeSet::new()).end(&store);
        assert!(begin(&views()).reason("bad").is_none());
    }

    /// In a turn the file names the view, and a task that waits has no turn.
    #[tokio::test]
    async fn views_compute_one_at_a_time_and_the_file_names_the_one() {
        let (dir, store) = (TempDir::new().unwrap(), Store::in_memory().unwrap());
        CrashGuard::begin(&store, dir.path(), &views()).unwrap();
        let crash_guard = CrashGuard::begin(&store, dir.path(), &views()).unwrap();
        let file = dir.path().join(TURN);
        let read = move || std::fs::read_to_string(&file).unwrap();
        let (go, gone) = tokio::sync::oneshot::channel();
        let bad = {
            let read = read.clone();
            crash_guard.clone().over("bad".into(), async move {
                assert!(read().starts_with("+bad\n"));
                gone.await.unwrap();
                assert!(read().starts_with("+bad\n"));
            })
        };
        let good = {
            let read = read.clone();
            crash_guard.clone().over("good".into(), async move {
                assert!(read().starts_with("+good\n"));
                go.send(()).unwrap();
            })
        };
        futures::join!(bad, good);
        assert!(read().starts_with("-"));
        assert_eq!(cause(read().as_bytes(), true), None);
        crash_guard.during("bad", || assert_eq!(cause(read().as_bytes(), true).as_deref(), Some("bad")));
    }

    #[test]
    fn a_turn_that_takes_much_memory_is_marked() {
        let (dir, store) = (TempDir::new().unwrap(), Store::in_memory().unwrap());
        CrashGuard::begin(&store, dir.path(), &views()).unwrap();
        let crash_guard = CrashGuard::begin(&store, dir.path(), &views()).unwrap();
        crash_guard.during("good", || crash_guard.look());
        crash_guard.during("bad", || {
            let taken = vec![1u8; 3 * MUCH_BYTES as usize];
            crash_guard.look();
            let turn = std::fs::read(dir.path().join(TURN)).unwrap();
            assert_eq!(cause(&turn, false).as_deref(), (resident() > 0).then_some("bad"), "{}", taken.len());
        });
    }
}
