//! A disk in memory, for tests: it fails where it is told to, and after a power failure it holds no more than it promised.

use std::collections::BTreeMap;
use std::io::{self, Cursor, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;

use super::disk::{Disk, ReadFile, WriteFile};

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Fickle(Arc<Mutex<State>>);

/// What happens at a step; every call is one, and so is every part of a long write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing works from here on.
    PowerFailure,
    /// Nothing more is written from here on.
    Full,
    /// Nothing is changed from here on.
    ReadOnly,
    /// This one step fails.
    Once,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    /// The names that a power failure cannot change.
    synced_names: BTreeMap<PathBuf, usize>,
    /// What was done to names since.
    pending: Vec<Change>,
    steps: usize,
    trouble: Option<(usize, Trouble)>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Change {
    Put(PathBuf, usize),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(PartialEq)]
enum Step {
    Read,
    Write,
    Change,
}

/// Longer writes are cut, as a system may do.
const WRITE_BYTES: usize = 700;

/// What a disk writes at once, or not.
const SECTOR_BYTES: usize = 64;

impl Fickle {
    /// Lets `trouble` begin after so many more steps.
    pub fn upset(&self, after: usize, trouble: Trouble) {
        let mut state = self.state();
        state.trouble = Some((state.steps + after, trouble));
    }

    pub fn calm(&self) {
        self.state().trouble = None;
    }

    pub fn steps(&self) -> usize {
        self.state().steps
    }

    /// The disk as the next process may find it after a power failure: of what was not synced, any part.
    pub fn after_power_failure(&self, rng: &mut Rng) -> Fickle {
        let state = self.state();
        let mut names = state.synced_names.clone();
        for change in &state.pending {
            if rng.bool() {
                change.apply(&mut names);
            }
        }
        let torn = |content: &Content, rng: &mut Rng| {
            let mut bytes = if rng.bool() { content.bytes.clone() } else { content.synced.clone() };
            if bytes != content.synced {
                bytes.truncate(rng.usize(content.synced.len().min(bytes.len())..=bytes.len()));
                for sector in bytes.chunks_mut(SECTOR_BYTES).skip(content.synced.len().div_ceil(SECTOR_BYTES)) {
                    if rng.u8(..4) == 0 {
                        sector.fill(0);
                    }
                }
            }
            Content { synced: bytes.clone(), bytes }
        };
        let files = state.files.iter().map(|content| torn(content, rng)).collect();
        Fickle(Arc::new(Mutex::new(State { files, synced_names: names.clone(), names, ..State::default() })))
    }

    /// A disk of its own with the same on it.
    pub fn copy(&self) -> Fickle {
        let state = self.state();
        let (files, names) = (state.files.clone(), state.names.clone());
        Fickle(Arc::new(Mutex::new(State { files, synced_names: names.clone(), names, ..State::default() })))
    }

    /// All files and their lengths.
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let state = self.state();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].bytes.len())).collect()
    }

    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.names[path];
        edit(&mut state.files[file].bytes);
        state.files[file].synced = state.files[file].bytes.clone();
    }

    pub fn lose(&self, path: &Path) {
        self.state().change(Change::Remove(path.into()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn step(&mut self, step: Step) -> io::Result<()> {
        self.steps += 1;
        let Some((at, trouble)) = self.trouble else { return Ok(()) };
        let error = match trouble {
            _ if self.steps <= at => return Ok(()),
            Trouble::PowerFailure => io::Error::other("no power"),
            Trouble::Full if step == Step::Write => ErrorKind::StorageFull.into(),
            Trouble::ReadOnly if step != Step::Read => ErrorKind::ReadOnlyFilesystem.into(),
            Trouble::Once if self.steps == at + 1 => io::Error::other("once"),
            Trouble::Full | Trouble::ReadOnly | Trouble::Once => return Ok(()),
        };
        Err(error)
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Change::Put(path, file) => {
                names.insert(path.clone(), *file);
            }
            Change::Move(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Change::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Disk for Fickle {
    fn make_dir(&self, _dir: &Path) -> io::Result<()> {
        self.state().step(Step::Change)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.step(Step::Read)?;
        let here = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here.map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut state = self.state();
        state.step(Step::Write)?;
        let file = state.files.len();
        state.files.push(Content::default());
        state.change(Change::Put(path.into(), file));
        Ok(Box::new(Open { disk: self.clone(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let mut state = self.state();
        state.step(Step::Read)?;
        let file = state.find(path)?;
        Ok(Box::new(Cursor::new(state.files[file].bytes.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(Step::Change)?;
        state.find(from)?;
        state.change(Change::Move(from.into(), to.into()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(Step::Change)?;
        state.find(path)?;
        state.change(Change::Remove(path.into()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(Step::Change)?;
        state.synced_names = state.names.clone();
        state.pending.clear();
        Ok(())
    }
}

struct Open {
    disk: Fickle,
    file: usize,
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        let allowed = state.step(Step::Write);
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES)];
        let some = if allowed.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let file = self.file;
        state.files[file].bytes.extend_from_slice(some);
        allowed.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteFile for Open {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step(Step::Change)?;
        let file = self.file;
        state.files[file].synced = state.files[file].bytes.clone();
        Ok(())
    }
}
