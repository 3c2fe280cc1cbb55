//! The files that checkpoints are in: one for each, with what is new in it; the rest lies in the files of those before.
//!
//! - A checkpoint is there as a whole or not at all: it is written beside, brought to the disk, and only then gets its name. The files that
//!   it makes superfluous go after that.
//! - Everything that is read is checked first. What is damaged is passed over for the newest checkpoint that is whole.
//! - A frame that did not change is not written again. [`LINKS_MAX`] and [`WASTE_MAX`] bound the chain of files that grows this way: past
//!   them a checkpoint takes over all bytes and stands by itself.
//! - Kept are the last two checkpoints, and the last one that shares no file with them, in case such a file is damaged.

mod disk;
#[cfg(test)]
mod fickle;
mod file;
mod frame;
#[cfg(test)]
mod tests;

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk::{Disk, Local};
use file::{ArchiveReader, ArchiveWriter, Flaw, FrameEntry, FrameLocation, Manifest, PartEntry};

use super::lock::Lock;
use crate::error::{Code, Error, Result};
use crate::operator::{Epoch, Frame, FrameContent, StatePart};
use crate::time::Timestamp;

/// The directory in the data directory.
const DIRECTORY: &str = "checkpoints";

/// Where in it the files go that could not be used, for whoever wants to know why. Only those of the last time are kept.
const DAMAGED: &str = "damaged";

/// Held by the process that has the archive.
const LOCK: &str = "lock";

/// A checkpoint.
const WHOLE: &str = "ckpt";

/// A checkpoint that is being written.
const PARTIAL: &str = "tmp";

/// Names have ten digits, so that they sort by age: one checkpoint a second for three hundred years.
const EPOCH_MAX: Epoch = 9_999_999_999;

/// Checkpoints that may build on a full one: the files that one flipped bit can take with it, and that are opened to read the last.
const LINKS_MAX: u32 = 32;

/// Bytes that a checkpoint's files may have for each that it needs of them. Past that they are written anew, so that the work of
/// copying is at most that of writing what made them superfluous.
const WASTE_MAX: u64 = 2;

/// What is wasted without a thought.
const WASTE_BYTES_FREE: u64 = 1024 * 1024;

/// The checkpoints of one data directory, held by one process.
#[derive(Debug)]
pub struct Archive {
    disk: Box<dyn Disk>,
    dir: PathBuf,
    latest: Epoch,
    base: Option<Base>,
    /// Those that are kept, oldest first.
    kept: Vec<CheckpointFiles>,
    _lock: Option<Lock>,
}

/// The last checkpoint that was read or written: what the next one builds on.
#[derive(Debug)]
struct Base {
    manifest: Manifest,
    length: u64,
}

#[derive(Debug)]
struct CheckpointFiles {
    chain: Epoch,
    /// Those that it needs, and its own, which is the last.
    files: BTreeSet<Epoch>,
}

/// What is found in a data directory.
#[derive(Debug)]
pub struct Opened {
    pub archive: Archive,
    /// The newest checkpoint that is whole.
    pub loaded: Option<Loaded>,
    /// Those after it, newest first, which are not. Their files are in `checkpoints/damaged` now.
    pub damaged: Vec<Damaged>,
}

/// A checkpoint as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub epoch: Epoch,
    /// When it was written.
    pub at: Timestamp,
    /// All with their rows.
    pub parts: Vec<StatePart>,
    /// The bytes of its frames.
    pub bytes: u64,
}

/// A checkpoint that could not be used, and why: a sentence for the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Damaged {
    pub file: PathBuf,
    /// The end of a sentence about the file: `it is cut off`.
    pub reason: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the checkpoint '{}' cannot be used: {}", self.file.display(), self.reason)
    }
}

/// What a checkpoint cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckpointCost {
    /// The length of its file.
    pub bytes: u64,
    /// Bytes of frames that lie in older files.
    pub reused_bytes: u64,
    pub took: Duration,
}

impl Archive {
    /// Opens the archive in the data directory `dir`, which is made if it is not there, and reads the newest checkpoint that is whole.
    /// Blocks for as long as the disk takes. Fails if another process has it, if it cannot be read or written, or if another version
    /// wrote it; damage is no error.
    pub fn open(dir: &Path) -> Result<Opened> {
        let dir = dir.join(DIRECTORY);
        Local.make_dir(&dir).map_err(|error| unusable(&dir, &error))?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(dir.join(LOCK));
        let lock = Lock::take(lock.map_err(|error| unusable(&dir, &error))?).ok_or_else(|| {
            let message = format!("the checkpoints in '{}' are in use by another process", dir.display());
            Error::new(Code::Data, message).hint("stop that process, or give this one its own directory")
        })?;
        let mut opened = Archive::open_on(Box::new(Local), dir)?;
        opened.archive._lock = Some(lock);
        Ok(opened)
    }

    /// Whether there is a checkpoint in the data directory `dir`, whole or not. Touches nothing.
    pub fn is_in(dir: &Path) -> bool {
        !epochs(&dir.join(DIRECTORY)).is_empty()
    }

    /// The names of the parts of the newest checkpoint in the data directory `dir` whose list of them can be read; empty where there is
    /// none. Touches nothing.
    pub fn parts_in(dir: &Path) -> Vec<String> {
        let dir = dir.join(DIRECTORY);
        let manifest =
            |epoch: Epoch| ArchiveReader::open(&Local, &dir.join(name(epoch, WHOLE)), epoch).and_then(|mut file| file.manifest());
        let newest = epochs(&dir).into_iter().rev().find_map(|epoch| manifest(epoch).ok());
        newest.map(|manifest| manifest.parts.into_iter().map(|part| part.name).collect()).unwrap_or_default()
    }

    /// The greatest number that was ever used. The next checkpoint needs a greater one.
    pub fn epoch(&self) -> Epoch {
        self.latest
    }

    /// The checkpoint that the next one may build on: what [`FrameContent::Unchanged`] speaks of. `None` asks for everything in full.
    pub fn written(&self) -> Option<Epoch> {
        self.base.as_ref().map(|base| base.manifest.epoch)
    }

    /// Writes one checkpoint; on return it is on the disk. When that fails, the last ones stay as they are, and the number is used up;
    /// where the disk then refuses even to take back the name, it may be there after all. Blocks for as long as the disk takes.
    pub fn write(&mut self, epoch: Epoch, parts: Vec<StatePart>) -> Result<CheckpointCost> {
        let start = Instant::now();
        if epoch <= self.latest || epoch > EPOCH_MAX {
            return Err(Error::bug(format!("checkpoint {epoch} comes after checkpoint {}", self.latest)));
        }
        self.latest = epoch;
        match self.save(epoch, parts) {
            Ok(base) => {
                let older = base.manifest.frames().map(|frame| frame.place).filter(|place| place.file != epoch);
                let (bytes, reused_bytes) = (base.length, older.map(|place| place.length).sum());
                self.kept.push(CheckpointFiles::of(&base.manifest));
                self.base = Some(base);
                self.sweep();
                Ok(CheckpointCost { bytes, reused_bytes, took: start.elapsed() })
            }
            Err(failure) => {
                // If that fails, too, the next sweep comes by.
                for file in [self.path(epoch, PARTIAL), self.path(epoch, WHOLE)] {
                    let _ = self.disk.remove(&file);
                }
                Err(self.failed(epoch, failure))
            }
        }
    }

    fn save(&self, epoch: Epoch, parts: Vec<StatePart>) -> Result<Base, WriteFailure> {
        self.disk.make_dir(&self.dir)?;
        let partial = self.path(epoch, PARTIAL);
        let mut writer = ArchiveWriter::create(&*self.disk, &partial, epoch)?;
        let mut manifest =
            Manifest { epoch, at: Timestamp::now().nanos(), chain: epoch, links: 0, needs: BTreeMap::new(), parts: Vec::new() };
        let before = Places::of(self.base.as_ref());
        for part in parts {
            let mut frames = Vec::with_capacity(part.frames.len());
            for Frame { name, content } in part.frames {
                let place = match content {
                    FrameContent::Rows(rows) => writer.frame(&rows)?,
                    FrameContent::Unchanged => before.find(&part.name, &part.fingerprint, &name)?,
                };
                frames.push(FrameEntry { name, place });
            }
            manifest.parts.push(PartEntry { name: part.name, fingerprint: part.fingerprint, frames });
        }
        unambiguous(&manifest)?;
        if let Some(base) = &self.base {
            self.build_on(base, &mut manifest, &mut writer)?;
        }
        let length = writer.finish(&manifest)?;
        self.disk.rename(&partial, &self.path(epoch, WHOLE))?;
        self.disk.sync_dir(&self.dir)?;
        Ok(Base { manifest, length })
    }

    /// Notes the older files that the manifest needs, or, when they are too many, takes their frames over.
    fn build_on(&self, base: &Base, manifest: &mut Manifest, writer: &mut ArchiveWriter) -> Result<(), WriteFailure> {
        let before = &base.manifest;
        let length = |file| if file == before.epoch { base.length } else { before.needs.get(&file).copied().unwrap_or(0) };
        let own = manifest.epoch;
        let (mut needs, mut needed_bytes) = (BTreeMap::new(), 0);
        for place in manifest.frames().map(|frame| frame.place).filter(|place| place.file != own) {
            needs.insert(place.file, length(place.file));
            needed_bytes += place.length;
        }
        if needs.is_empty() {
            return Ok(());
        }
        let needed_bytes = needed_bytes + writer.length();
        let bytes = needs.values().sum::<u64>() + writer.length();
        if before.links < LINKS_MAX && bytes <= WASTE_MAX * needed_bytes + WASTE_BYTES_FREE {
            // Somebody may have cleared the directory.
            for (file, length) in &needs {
                self.reader(&mut HashMap::new(), *file, *length).map_err(|flaw| match flaw {
                    Flaw::Refused(error) => WriteFailure::Disk(error),
                    flaw => WriteFailure::Base(*file, flaw),
                })?;
            }
            (manifest.chain, manifest.links, manifest.needs) = (before.chain, before.links + 1, needs);
            return Ok(());
        }
        let mut readers = HashMap::new();
        for place in manifest.parts.iter_mut().flat_map(|part| &mut part.frames).map(|frame| &mut frame.place) {
            if place.file != own {
                let from = *place;
                let flawed = |flaw| WriteFailure::Base(from.file, flaw);
                let reader = self.reader(&mut readers, from.file, length(from.file)).map_err(flawed)?;
                *place = writer.copy(reader, from)?.map_err(flawed)?;
            }
        }
        Ok(())
    }

    /// The reader of a file that must have this length.
    fn reader<'a>(
        &self,
        readers: &'a mut HashMap<Epoch, ArchiveReader>,
        file: Epoch,
        length: u64,
    ) -> Result<&'a mut ArchiveReader, Flaw> {
        match readers.entry(file) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let reader = ArchiveReader::open(&*self.disk, &self.path(file, WHOLE), file)?;
                if reader.length() != length {
                    return Err(format!("it has {} bytes and should have {length}", reader.length()).into());
                }
                Ok(entry.insert(reader))
            }
        }
    }

    fn failed(&mut self, epoch: Epoch, failure: WriteFailure) -> Error {
        let path = self.path(epoch, PARTIAL);
        let stays = match self.kept.last().and_then(|kept| kept.files.last()) {
            Some(last) => format!("checkpoint {last} stays the last one"),
            None => "there is none from before".into(),
        };
        match failure {
            WriteFailure::Disk(error) => {
                let message = format!("checkpoint {epoch} cannot be written to '{}': {error}; {stays}", path.display());
                Error::new(Code::Data, message).hint("see that the disk has room, works, and can be written")
            }
            WriteFailure::Base(file, flaw) => {
                self.base = None;
                let (file, reason) = (self.path(file, WHOLE), flaw.reason());
                let message = format!("checkpoint {epoch} cannot be built on '{}': {reason}; {stays}", file.display());
                Error::new(Code::Data, message).hint("the next one is written in full; see that the disk works")
            }
            WriteFailure::Contradiction(reason) => {
                self.base = None;
                Error::bug(format!("checkpoint {epoch} contradicts itself: {reason}; the next one is written in full"))
            }
        }
    }

    /// Forgets, then removes what is not kept.
    fn sweep(&mut self) {
        let Some(last) = self.kept.last() else { return };
        let apart = self.kept.iter().rposition(|kept| kept.chain != last.chain);
        let recent = self.kept.len().saturating_sub(2);
        let mut index = 0..;
        self.kept.retain(|_| index.next().is_some_and(|index| index >= recent || Some(index) == apart));
        let files: BTreeSet<Epoch> = self.kept.iter().flat_map(|kept| &kept.files).copied().collect();
        let superfluous = |name: &String| match number(name) {
            Some((epoch, WHOLE)) => !files.contains(&epoch),
            Some(_) => true,
            None => false,
        };
        let names = self.disk.list(&self.dir).unwrap_or_default();
        for name in names.iter().filter(|name| superfluous(name)) {
            if let Err(error) = self.disk.remove(&self.dir.join(name)) {
                tracing::warn!(file = %self.dir.join(name).display(), %error, "a checkpoint that is no longer needed cannot be removed");
            }
        }
    }

    fn open_on(disk: Box<dyn Disk>, dir: PathBuf) -> Result<Opened> {
        let mut archive = Archive { disk, dir, latest: 0, base: None, kept: Vec::new(), _lock: None };
        let epochs = archive.take_stock().map_err(|error| unusable(&archive.dir, &error))?;
        let (mut loaded, mut damaged) = (None, Vec::new());
        let mut newest_first = epochs.iter().rev();
        for &epoch in newest_first.by_ref() {
            match archive.load(epoch) {
                Ok((whole, base)) => {
                    archive.kept.push(CheckpointFiles::of(&base.manifest));
                    (archive.base, loaded) = (Some(base), Some(whole));
                    break;
                }
                Err((_, Flaw::Damage(reason))) => damaged.push(Damaged { file: archive.path(epoch, WHOLE), reason }),
                Err((file, flaw)) => return Err(archive.unreadable(file, &flaw)),
            }
        }
        for &epoch in newest_first {
            match archive.manifest(epoch) {
                Ok((manifest, _)) if manifest.needs.keys().all(|file| epochs.contains(file)) => {
                    archive.kept.push(CheckpointFiles::of(&manifest))
                }
                Err(flaw @ Flaw::Format(_)) => return Err(archive.unreadable(epoch, &flaw)),
                // Its file was kept for others, or it is damaged and will not be asked for.
                Ok(_) | Err(_) => {}
            }
        }
        archive.kept.reverse();
        let newest = loaded.as_ref().map_or(0, |loaded| loaded.epoch);
        if !damaged.is_empty()
            && let Err(error) = archive.set_aside(epochs.range(newest + 1..))
        {
            tracing::warn!(dir = %archive.dir.display(), %error, "damaged checkpoints cannot be set aside");
        }
        Ok(Opened { archive, loaded, damaged })
    }

    /// The checkpoints in the directory. What was being written when the process ended is removed.
    fn take_stock(&mut self) -> io::Result<BTreeSet<Epoch>> {
        let aside = self.disk.list(&self.dir.join(DAMAGED))?;
        self.latest = aside.iter().filter_map(|name| number(name)).map(|(epoch, _)| epoch).max().unwrap_or(0);
        let mut epochs = BTreeSet::new();
        for name in self.disk.list(&self.dir)? {
            let Some((epoch, kind)) = number(&name) else { continue };
            self.latest = self.latest.max(epoch);
            if kind == WHOLE {
                epochs.insert(epoch);
            } else if let Err(error) = self.disk.remove(&self.dir.join(&name)) {
                tracing::warn!(file = %self.dir.join(name).display(), %error, "an unfinished checkpoint cannot be removed");
            }
        }
        Ok(epochs)
    }

    /// Reads a checkpoint with all its frames. A flaw is that of the file which is named with it.
    fn load(&self, epoch: Epoch) -> Result<(Loaded, Base), (Epoch, Flaw)> {
        let (manifest, own) = self.manifest(epoch).map_err(|flaw| (epoch, flaw))?;
        let length = own.length();
        let mut readers = HashMap::from([(epoch, own)]);
        let mut load = |frame: &FrameEntry| {
            let place = frame.place;
            let length = manifest.needs.get(&place.file).copied().unwrap_or(0);
            let rows = self.reader(&mut readers, place.file, length).and_then(|reader| reader.frame(place));
            let rows = rows.map_err(|flaw| match flaw {
                Flaw::Damage(reason) if place.file != epoch => {
                    (place.file, Flaw::Damage(format!("it needs '{}', and {reason}", name(place.file, WHOLE))))
                }
                flaw => (place.file, flaw),
            })?;
            Ok(Frame { name: frame.name.clone(), content: FrameContent::Rows(rows) })
        };
        let mut parts = Vec::with_capacity(manifest.parts.len());
        for PartEntry { name, fingerprint, frames } in &manifest.parts {
            let frames = frames.iter().map(&mut load).collect::<Result<_, _>>()?;
            parts.push(StatePart { name: name.clone(), fingerprint: fingerprint.clone(), frames });
        }
        let loaded = Loaded { epoch, at: Timestamp(manifest.at), parts, bytes: manifest.frame_bytes() };
        Ok((loaded, Base { manifest, length }))
    }

    fn manifest(&self, epoch: Epoch) -> Result<(Manifest, ArchiveReader), Flaw> {
        let mut reader = ArchiveReader::open(&*self.disk, &self.path(epoch, WHOLE), epoch)?;
        Ok((reader.manifest()?, reader))
    }

    /// Moves files where they do not disturb, in the place of what was there, but for its last: its number is not used again.
    fn set_aside<'a>(&self, epochs: impl Iterator<Item = &'a Epoch>) -> io::Result<()> {
        let aside = self.dir.join(DAMAGED);
        self.disk.make_dir(&aside)?;
        let mut before = self.disk.list(&aside)?;
        before.sort_unstable();
        before.pop();
        for name in before {
            self.disk.remove(&aside.join(name))?;
        }
        for &epoch in epochs {
            self.disk.rename(&self.path(epoch, WHOLE), &aside.join(name(epoch, WHOLE)))?;
        }
        Ok(())
    }

    fn path(&self, epoch: Epoch, kind: &str) -> PathBuf {
        self.dir.join(name(epoch, kind))
    }

    fn unreadable(&self, file: Epoch, flaw: &Flaw) -> Error {
        let message = format!("the checkpoint '{}' cannot be read: {}", self.path(file, WHOLE).display(), flaw.reason());
        Error::new(Code::Data, message).hint(match flaw {
            Flaw::Format(_) => "run the version that wrote it, or a newer one, or give another data directory",
            _ => "let this program read it, or move it away to go on without it",
        })
    }
}

impl CheckpointFiles {
    fn of(manifest: &Manifest) -> Self {
        CheckpointFiles { chain: manifest.chain, files: manifest.needs.keys().copied().chain([manifest.epoch]).collect() }
    }
}

/// Why a checkpoint was not written.
enum WriteFailure {
    Disk(io::Error),
    /// An older file, which it takes frames from.
    Base(Epoch, Flaw),
    /// What was to be written cannot be meant.
    Contradiction(String),
}

impl From<io::Error> for WriteFailure {
    fn from(error: io::Error) -> Self {
        WriteFailure::Disk(error)
    }
}

/// Where the frames of a checkpoint lie, by part and name.
struct Places<'a>(HashMap<(&'a str, &'a str), (&'a str, FrameLocation)>);

impl<'a> Places<'a> {
    fn of(base: Option<&'a Base>) -> Self {
        let parts = base.into_iter().flat_map(|base| &base.manifest.parts);
        let frames = parts.flat_map(|part| {
            let named = |frame: &'a FrameEntry| ((&*part.name, &*frame.name), (&*part.fingerprint, frame.place));
            part.frames.iter().map(named)
        });
        Places(frames.collect())
    }

    fn find(&self, part: &str, fingerprint: &str, frame: &str) -> Result<FrameLocation, WriteFailure> {
        match self.0.get(&(part, frame)) {
            Some((before, place)) if *before == fingerprint => Ok(*place),
            Some(_) => Err(WriteFailure::Contradiction(format!("'{frame}' is unchanged in '{part}', which changed"))),
            None => Err(WriteFailure::Contradiction(format!("'{frame}' in '{part}' is unchanged, and was not there"))),
        }
    }
}

/// Frames are asked for by name.
fn unambiguous(manifest: &Manifest) -> Result<(), WriteFailure> {
    let mut parts = HashSet::new();
    for part in &manifest.parts {
        let mut frames = HashSet::new();
        if !parts.insert(&part.name) {
            return Err(WriteFailure::Contradiction(format!("'{}' is in it twice", part.name)));
        }
        if let Some(twice) = part.frames.iter().find(|frame| !frames.insert(&frame.name)) {
            return Err(WriteFailure::Contradiction(format!("'{}' is in '{}' twice", twice.name, part.name)));
        }
    }
    Ok(())
}

fn name(epoch: Epoch, kind: &str) -> String {
    format!("{epoch:010}.{kind}")
}

/// The checkpoints in a directory of them, whole or not.
fn epochs(dir: &Path) -> BTreeSet<Epoch> {
    let names = Local.list(dir).unwrap_or_default();
    names.iter().filter_map(|name| number(name)).filter(|(_, kind)| *kind == WHOLE).map(|(epoch, _)| epoch).collect()
}

/// Number and kind of a checkpoint's file. What has another name is none of ours.
fn number(file: &str) -> Option<(Epoch, &'static str)> {
    let (digits, kind) = file.split_once('.')?;
    let kind = [WHOLE, PARTIAL].into_iter().find(|known| *known == kind)?;
    let digits = Some(digits).filter(|digits| digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((digits.parse().ok()?, kind))
}

fn unusable(dir: &Path, error: &io::Error) -> Error {
    Error::new(Code::Data, format!("the checkpoints in '{}' cannot be used: {error}", dir.display()))
        .hint("give a data directory that can be read and written")
}
