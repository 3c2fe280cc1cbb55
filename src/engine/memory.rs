//! The memory of the whole process: how much there may be, and what gives way when more is held.
//!
//! What tables and views hold is added up some times a second. Histories give way first, the largest first: who is further behind than
//! what is left of one starts over from a snapshot. Then the oldest results of those views that keep the latest only. Then the view that
//! holds the most fails, which is better than the end of the process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::running_view::lock;
use super::{Engine, View};
use crate::error::{Code, Error};
use crate::memory;
use crate::view::{Live, Progress};

/// How often it is looked at. What comes in meanwhile is little beside the quarter of the machine that is left free.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is held is brought down to so many percent of what may be, so that not every look finds too much.
const LEFT_PERCENT: usize = 90;

/// All histories together may have this part of the memory: with many views each has little.
const HISTORIES_PART: usize = 4;

/// How often the log says that histories are shortened.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Large results of functions may take this part of what is left, from one look to the next: they may be copied before they are done with.
const RESULTS_PART: usize = 4;

/// Where the machine does not say what it has.
const BYTES_DEFAULT: usize = 4 << 30;

/// What the process may hold, and what it does.
#[derive(Debug)]
pub struct Memory {
    most: AtomicUsize,
    held: AtomicUsize,
    shortened: AtomicU64,
    told: Mutex<Option<Instant>>,
}

/// What is held at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Bytes that there may be.
    pub most: usize,
    /// Bytes that tables and views held when that was last looked at.
    pub bytes: usize,
    /// How often histories or results were shortened to stay below.
    pub shortened: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            most: AtomicUsize::new(usize::MAX),
            held: AtomicUsize::new(0),
            shortened: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }
}

/// What a look found.
struct Look {
    lives: Vec<Arc<Live>>,
    histories: Vec<usize>,
    rows: Vec<usize>,
    bytes: usize,
}

impl Engine {
    /// What tables and views may hold together.
    pub fn allow(&self, most: usize) {
        self.memory.most.store(most, Relaxed);
    }

    /// What they hold, and what they may.
    pub fn memory(&self) -> Held {
        let Memory { most, held, shortened, .. } = &self.memory;
        Held { most: most.load(Relaxed), bytes: held.load(Relaxed), shortened: shortened.load(Relaxed) }
    }

    /// Keeps what is held below what may be, until it is dropped.
    pub async fn keep_memory(&self) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.relieve();
            let most = self.memory.most.load(Relaxed);
            memory::leave(resident().map_or(u64::MAX, |taken| (most.saturating_sub(taken) / RESULTS_PART) as u64));
        }
    }

    /// Looks once, and lets go what is too much.
    fn relieve(&self) {
        let most = self.memory.most.load(Relaxed);
        let look = self.look();
        self.memory.held.store(look.bytes, Relaxed);
        let left = most / 100 * LEFT_PERCENT;
        let all: usize = look.histories.iter().sum();
        let beyond = |bytes: usize, most: usize| if bytes > most { bytes - most / 100 * LEFT_PERCENT } else { 0 };
        let surplus = beyond(look.bytes, most).max(beyond(all, most / HISTORIES_PART));
        if surplus == 0 {
            return;
        }
        let freed = shorten(&look.lives, &look.histories, surplus, |live, most| live.shorten_history(most));
        let mut held = look.bytes.saturating_sub(freed);
        if held > most {
            held -= shorten(&look.lives, &look.rows, held - left, |live, most| live.shorten_rows(most)).min(held);
        }
        self.memory.held.store(held, Relaxed);
        if held < look.bytes {
            self.memory.shortened.fetch_add(1, Relaxed);
            self.tell(look.bytes, most);
        }
        if held > most {
            self.give_up_largest(held, most);
        }
    }

    fn look(&self) -> Look {
        let lives: Vec<Arc<Live>> = self.views().iter().filter_map(|view| view.live().cloned()).collect();
        let sizes: Vec<_> = lives.iter().map(|live| live.held()).collect();
        let states: usize = lives.iter().map(|live| state_bytes(live)).sum();
        let tables: usize = self.tables().iter().map(|table| table.status().held()).sum();
        let views: usize = sizes.iter().map(|held| held.all).sum();
        Look {
            histories: sizes.iter().map(|held| held.history).collect(),
            rows: sizes.iter().map(|held| held.rows).collect(),
            lives,
            bytes: views + states + tables,
        }
    }

    fn tell(&self, bytes: usize, most: usize) {
        let mut told = lock(&self.memory.told);
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(
                bytes,
                memory_max = most,
                "tables and views hold much: the latest changes of views are kept less long"
            );
        }
    }

    /// Ends the view that holds the most, and lets its rows and its state go.
    fn give_up_largest(&self, held: usize, most: usize) {
        let size = |view: &Arc<View>| view.live().map_or(0, |live| live.held().all + state_bytes(live));
        let Some(view) = self.views().into_iter().max_by_key(size).filter(|view| size(view) > 0) else { return };
        let problem = format!(
            "the process holds {held} bytes, and memory_max allows {most}: this view held the most, {} bytes",
            size(&view)
        );
        let way_out =
            "group by fewer keys, keep fewer rows (retention), or give the process more with memory_max; then make the view anew";
        if let Some(kept) = &view.kept {
            kept.give_up(Error::new(Code::Runtime, problem).hint(way_out));
        }
    }
}

fn state_bytes(live: &Live) -> usize {
    live.progress().map_or(0, |progress: &Arc<Progress>| progress.read().1.state_bytes)
}

/// Cuts the largest down to one size, so that `surplus` bytes are free; gives what came free.
fn shorten(lives: &[Arc<Live>], sizes: &[usize], surplus: usize, cut: impl Fn(&Live, usize) -> usize) -> usize {
    let level = level(sizes, surplus);
    let larger = lives.iter().zip(sizes).filter(|(_, size)| **size > level);
    larger.map(|(live, _)| cut(live, level)).sum()
}

/// The size to which all that are larger must be cut, so that `surplus` is gone.
fn level(sizes: &[usize], surplus: usize) -> usize {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    let mut freed = 0;
    for (index, size) in sizes.iter().enumerate() {
        let next = sizes.get(index + 1).copied().unwrap_or(0);
        let step = (index + 1) * (size - next);
        if freed + step >= surplus {
            return size - (surplus - freed).div_ceil(index + 1);
        }
        freed += step;
    }
    0
}

/// Memory that the process takes now, by what the system says of it.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// Three quarters of what the machine has, or of what the process may have of it.
pub fn memory_max_default() -> usize {
    of_machine(Path::new("/")).unwrap_or(BYTES_DEFAULT) / 4 * 3
}

/// The least of the memory of the machine and the limits of the process's control groups, of both versions.
fn of_machine(root: &Path) -> Option<usize> {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let machine = read(root.join("proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
    });
    let groups = read(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (base, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        // The limit of a group above holds as well; in a container the groups above may not be there.
        let group = PathBuf::from(group.trim_start_matches('/'));
        group.ancestors().map(|group| root.join(base).join(group).join(file)).collect()
    });
    limits.filter_map(|path| read(path)?.trim().parse().ok()).chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_give_way_first_and_no_more_than_must() {
        for (sizes, surplus, expect) in [
            (&[100, 10, 50][..], 20, 80),
            (&[100, 10, 50], 50, 50),
            (&[100, 10, 50], 70, 40),
            (&[100, 10, 50], 160, 0),
            (&[100, 10, 50], 1000, 0),
            (&[7, 7, 7], 4, 5),
            (&[], 5, 0),
        ] {
            let level = level(sizes, surplus);
            let freed: usize = sizes.iter().map(|size| size.saturating_sub(level)).sum();
            assert_eq!(level, expect, "{sizes:?} {surplus}");
            assert!(freed >= surplus.min(sizes.iter().sum()), "{sizes:?} {surplus}");
        }
    }

    #[test]
    fn the_machine_and_its_groups_say_what_there_is() {
        let machine = |files: &[(&str, &str)]| {
            let root = tempfile::TempDir::new().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            of_machine(root.path())
        };
        let memory = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");
        let two = ("proc/self/cgroup", "0::/a/b\n");
        let one = ("proc/self/cgroup", "5:cpu:/\n4:memory:/docker/x\n0::/\n");
        for (files, expect) in [
            (vec![], None),
            (vec![memory], Some(16 << 20)),
            (vec![memory, two, ("sys/fs/cgroup/a/b/memory.max", "max\n")], Some(16 << 20)),
            (vec![memory, two, ("sys/fs/cgroup/a/b/memory.max", "1048576\n")], Some(1 << 20)),
            (vec![memory, two, ("sys/fs/cgroup/a/memory.max", "2097152\n")], Some(2 << 20)),
            // In a container its own group is the root.
            (vec![memory, two, ("sys/fs/cgroup/memory.max", "3145728\n")], Some(3 << 20)),
            (vec![memory, one, ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "1048576\n")], Some(1 << 20)),
            (vec![memory, one, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")], Some(16 << 20)),
        ] {
            assert_eq!(machine(&files), expect, "{files:?}");
        }
    }
}
