//! The embedded store in the data directory: bytes by name, in spaces, written in whole batches or not at all.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::InMemoryBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use super::Archive;
use super::lock::Lock;
use crate::error::{Code, Error, Result};
use crate::time::Timestamp;

/// The file in the data directory.
const FILE: &str = "streamgauge.redb";

/// The same while it is made: it gets its name when all that belongs into a new one is on the disk.
const UNFINISHED: &str = "streamgauge.redb.new";

/// Held by the process that has the data directory, from before it looks at anything else in it.
const LOCK: &str = "streamgauge.lock";

/// The head of a file of redb, and the magic number with which that begins: it is written last when a file is made.
const HEAD_BYTES: usize = 320;
const MAGIC_BYTES: usize = 9;

/// The format of what is inside. A greater number is refused; a smaller one would be brought up here.
const FORMAT: u64 = 1;

/// Definitions are small; a checkpoint is read once. What is read often, its reader keeps.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// A part of the store with its own keys. Checkpoints are no part of it: they lie in files beside it, see [`super::Archive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Tables and views, in the order of their making.
    Definitions,
    /// Named streams.
    Streams,
    /// Access tokens, by the hash of their secret.
    Tokens,
    /// About the store itself: format, epoch.
    Meta,
}

impl Space {
    fn table(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Space::Definitions => "definitions",
            Space::Streams => "streams",
            Space::Tokens => "tokens",
            Space::Meta => "meta",
        })
    }
}

/// What a user defined, as it was said: enough to say it again after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    pub name: String,
    /// The statement that makes it. Secrets stand in it as `{{ NAME }}`, or as they were given.
    pub text: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// The allowed lateness, in nanoseconds, of tables of which a view does not follow what they say now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lateness_nanos: BTreeMap<String, u64>,
}

/// The store of one data directory, held by one process. Clones share it.
///
/// Calls take turns, and each blocks for as long as the disk takes: a read of a definition some microseconds, a write one `fsync` (some
/// milliseconds). That is short enough for a handler; what writes often or much belongs on a blocking thread. One that fails leaves
/// what was there, and the next one finds a disk that works again.
#[derive(Clone)]
pub struct Store(Arc<StoreState>);

struct StoreState {
    /// `None` after the disk has failed: the next call opens the file again.
    database: Mutex<Option<Database>>,
    /// The directory; `None` of a store that ends with the process.
    dir: Option<PathBuf>,
    place: PathBuf,
    epoch: u64,
    /// Let go after the database.
    _lock: Option<Lock>,
}

impl Store {
    /// Opens the store in `dir`, which is made (for its owner alone) if it is not there, and checks all that it holds.
    /// Fails if another process has it, if it cannot be written, if it is damaged, or if a newer version wrote it.
    ///
    /// A process that ends at any moment of this leaves a directory that the next call takes: a new file is made under another name, and
    /// an empty one, or one that never came to hold anything, is taken for new, unless checkpoints say that there was more.
    pub fn open(dir: &Path) -> Result<Self> {
        let place = dir.join(FILE);
        let usable = |error: io::Error| unusable(dir, &error);
        make_dir(dir).map_err(usable)?;
        let lock = take_lock(dir)?;
        let mut file = match options().open(&place) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Store::make(dir, place, lock),
            Err(error) => return Err(unusable(dir, &error)),
        };
        if !is_unwritten(&mut file).map_err(usable)? {
            return Store::ready(database(dir, &place, file)?, Some(dir.into()), place, Some(lock));
        }
        if Archive::is_in(dir) {
            return Err(damaged(&place, "nothing is in it, and there are checkpoints beside it"));
        }
        tracing::warn!(file = %place.display(), "the store was never finished: it is made anew");
        Store::make(dir, place, lock)
    }

    /// Makes a new store, all of it or nothing.
    fn make(dir: &Path, place: PathBuf, lock: Lock) -> Result<Self> {
        let usable = |error: io::Error| unusable(dir, &error);
        let unfinished = dir.join(UNFINISHED);
        let file = options().create(true).truncate(true).open(&unfinished).map_err(usable)?;
        let made = database(dir, &unfinished, file).and_then(|database| {
            let store = Store::ready(database, Some(dir.into()), place.clone(), Some(lock))?;
            fs::rename(&unfinished, &place).and_then(|()| sync_dir(dir)).map_err(usable)?;
            Ok(store)
        });
        made.inspect_err(|_| {
            let _ = fs::remove_file(&unfinished);
        })
    }

    /// Whether there is a store in `dir`. Touches nothing.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }

    /// A store that ends with the process.
    pub fn in_memory() -> Result<Self> {
        let place = PathBuf::from("memory");
        let database = builder().create_with_backend(InMemoryBackend::new());
        Store::ready(database.map_err(|error| failed(&place, error.into()))?, None, place, None)
    }

    fn ready(database: Database, dir: Option<PathBuf>, place: PathBuf, lock: Option<Lock>) -> Result<Self> {
        let mut store = StoreState { database: Mutex::new(Some(database)), dir, place, epoch: 0, _lock: lock };
        let number = |key: &str| -> Result<Option<u64>> {
            let bytes = store.get(Space::Meta, key)?;
            bytes.map(|bytes| decode(&store.place, Space::Meta, key, &bytes)).transpose()
        };
        if let Some(format) = number("format")?.filter(|format| *format > FORMAT) {
            let message = format!("'{}' has the format {format}; this version reads {FORMAT}", store.place.display());
            return Err(
                Error::new(Code::Data, message).hint("run the version that wrote it, or a newer one, or give another --data")
            );
        }
        // Greater than every epoch that a client may remember, also when the data directory was lost in between.
        let now = u64::try_from(Timestamp::now().nanos() / 1_000_000_000).unwrap_or(0);
        let epoch = number("epoch")?.map_or(now, |last| now.max(last + 1));
        store.write(|batch| {
            batch.put(Space::Meta, "format", &FORMAT)?;
            batch.put(Space::Meta, "epoch", &epoch)
        })?;
        store.epoch = epoch;
        Ok(Store(Arc::new(store)))
    }

    /// The number of this opening: greater than that of any before. It stands in front of event ids.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// All keys and values of a space, by key.
    pub fn list(&self, space: Space) -> Result<Vec<(String, Vec<u8>)>> {
        self.0.list(space)
    }

    /// Writes all that `fill` says, or, when it or the disk fails, nothing. On return it is on the disk.
    pub fn write<T>(&self, fill: impl FnOnce(&mut Batch<'_>) -> Result<T>) -> Result<T> {
        self.0.write(fill)
    }

    /// All values of a space as a type, by key.
    pub fn values<T: DeserializeOwned>(&self, space: Space) -> Result<Vec<T>> {
        let values = self.list(space)?;
        values.iter().map(|(key, bytes)| decode(&self.0.place, space, key, bytes)).collect()
    }

    /// One value as a type.
    pub fn value<T: DeserializeOwned>(&self, space: Space, key: &str) -> Result<Option<T>> {
        let bytes = self.0.get(space, key)?;
        bytes.map(|bytes| decode(&self.0.place, space, key, &bytes)).transpose()
    }

    /// Writes one value.
    pub fn put<T: Serialize>(&self, space: Space, key: &str, value: &T) -> Result<()> {
        self.write(|batch| batch.put(space, key, value))
    }

    /// Removes one key; whether it was there.
    pub fn remove(&self, space: Space, key: &str) -> Result<bool> {
        self.write(|batch| batch.remove(space, key))
    }

    /// Tables and views in the order in which they must be made, each with its number.
    pub fn definitions(&self) -> Result<Vec<(u64, Definition)>> {
        let read = |(key, bytes): (String, Vec<u8>)| {
            let wrong = || damaged(&self.0.place, &format!("'{key}' in Definitions is no number"));
            Ok((key.parse().map_err(|_| wrong())?, decode(&self.0.place, Space::Definitions, &key, &bytes)?))
        };
        self.list(Space::Definitions)?.into_iter().map(read).collect()
    }

    /// Keeps some definitions by their numbers, and forgets those that are gone; the others stay as they are.
    pub fn change_definitions(&self, changes: &[(u64, Option<Definition>)]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write(|batch| {
            for (number, definition) in changes {
                let key = format!("{number:010}");
                match definition {
                    Some(definition) => batch.put(Space::Definitions, &key, definition)?,
                    None => drop(batch.remove(Space::Definitions, &key)?),
                }
            }
            Ok(())
        })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("place", &self.0.place).finish_non_exhaustive()
    }
}

/// Writes that become true together.
pub struct Batch<'a> {
    transaction: &'a WriteTransaction,
    place: &'a Path,
}

impl Batch<'_> {
    /// A value as JSON.
    pub fn put<T: Serialize>(&mut self, space: Space, key: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|error| Error::bug(format!("'{key}' cannot be stored: {error}")))?;
        self.put_bytes(space, key, &bytes)
    }

    fn put_bytes(&mut self, space: Space, key: &str, bytes: &[u8]) -> Result<()> {
        let put = || -> Result<(), redb::Error> {
            self.transaction.open_table(space.table())?.insert(key, bytes)?;
            Ok(())
        };
        put().map_err(|error| failed(self.place, error))
    }

    /// Whether the key was there.
    pub fn remove(&mut self, space: Space, key: &str) -> Result<bool> {
        let remove = || -> Result<bool, redb::Error> { Ok(self.transaction.open_table(space.table())?.remove(key)?.is_some()) };
        remove().map_err(|error| failed(self.place, error))
    }

    /// Empties a space.
    pub fn clear(&mut self, space: Space) -> Result<()> {
        self.transaction.delete_table(space.table()).map_err(|error| failed(self.place, error.into()))?;
        Ok(())
    }
}

impl StoreState {
    /// Does something with the database. A slow disk holds up who asked, and not the tasks that share a thread with him.
    fn with<T>(&self, act: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => block_in_place(|| self.now_with(act)),
            _ => self.now_with(act),
        }
    }

    /// Opens the file again after the disk has failed: redb itself would refuse everything from then on.
    fn now_with<T>(&self, act: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match (database.take(), &self.dir) {
            (Some(open), _) => open,
            (None, Some(dir)) => {
                let mut file = options().open(&self.place).map_err(|error| unusable(dir, &error))?;
                if is_unwritten(&mut file).map_err(|error| unusable(dir, &error))? {
                    return Err(damaged(&self.place, "nothing is in it any more"));
                }
                self::database(dir, &self.place, file)?
            }
            (None, None) => return Err(Error::bug("a store without a file was closed")),
        };
        let done = act(&open);
        let is_failing = self.dir.is_some() && matches!(&done, Err(error) if error.code() == Code::Data);
        *database = (!is_failing).then_some(open);
        done
    }

    fn get(&self, space: Space, key: &str) -> Result<Option<Vec<u8>>> {
        let get = |database: &Database| -> Result<_, redb::Error> {
            match database.begin_read()?.open_table(space.table()) {
                Ok(table) => Ok(table.get(key)?.map(|value| value.value().to_vec())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        self.with(|database| get(database).map_err(|error| failed(&self.place, error)))
    }

    fn list(&self, space: Space) -> Result<Vec<(String, Vec<u8>)>> {
        let list = |database: &Database| -> Result<_, redb::Error> {
            let table = match database.begin_read()?.open_table(space.table()) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let rows = table.iter()?.map(|row| row.map(|(key, value)| (key.value().to_string(), value.value().to_vec())));
            Ok(rows.collect::<Result<_, _>>()?)
        };
        self.with(|database| list(database).map_err(|error| failed(&self.place, error)))
    }

    fn write<T>(&self, fill: impl FnOnce(&mut Batch<'_>) -> Result<T>) -> Result<T> {
        self.with(|database| {
            let transaction = database.begin_write().map_err(|error| failed(&self.place, error.into()))?;
            let done = fill(&mut Batch { transaction: &transaction, place: &self.place });
            match done {
                Ok(value) => transaction.commit().map(|()| value).map_err(|error| failed(&self.place, error.into())),
                Err(error) => {
                    let aborted = transaction.abort();
                    Err(aborted.map_or_else(|worse| failed(&self.place, worse.into()), |()| error))
                }
            }
        })
    }
}

/// Opens the database in a file, and checks all that it holds.
fn database(dir: &Path, place: &Path, file: File) -> Result<Database> {
    // A damaged file may contradict redb's own invariants, which it holds with assertions.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut database = builder().create_file(file)?;
        let whole = database.check_integrity()?;
        Ok::<_, DatabaseError>((database, whole))
    }));
    let (database, whole) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            return Err(in_use(dir));
        }
        Ok(Err(DatabaseError::Storage(redb::StorageError::Io(error)))) if error.kind() != ErrorKind::InvalidData => {
            return Err(match error.kind() {
                ErrorKind::UnexpectedEof => damaged(place, "it is cut off"),
                _ => unusable(dir, &error),
            });
        }
        Ok(Err(error)) => return Err(damaged(place, &error.to_string().to_lowercase())),
        Err(_) => return Err(damaged(place, "its pages contradict each other")),
    };
    if !whole {
        tracing::error!(file = %place.display(), "the store was damaged; it is back at the last write that is whole");
    }
    Ok(database)
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Directory and files are for their owner alone: definitions may hold secrets.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut maker = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut maker, 0o700);
    maker.recursive(true).create(dir)?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The lock of the directory, unless another process has it. Where a file system knows no locks, redb looks for itself.
fn take_lock(dir: &Path) -> Result<Lock> {
    let file = options().create(true).truncate(false).open(dir.join(LOCK)).map_err(|error| unusable(dir, &error))?;
    Lock::take(file).ok_or_else(|| in_use(dir))
}

/// Whether nothing was ever kept in the file: it has no magic number yet, and behind the head nothing but zeros. One that was in use has
/// pages there, whatever became of its head.
fn is_unwritten(file: &mut File) -> io::Result<bool> {
    let mut piece = vec![0; 64 * 1024];
    let mut at = 0;
    file.seek(SeekFrom::Start(0))?;
    let unwritten = loop {
        let length = file.read(&mut piece)?;
        let is_zero = |(offset, byte): (usize, &u8)| *byte == 0 || (MAGIC_BYTES..HEAD_BYTES).contains(&(at + offset));
        if length == 0 || !piece[..length].iter().enumerate().all(is_zero) {
            break length == 0;
        }
        at += length;
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(unwritten)
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

fn decode<T: DeserializeOwned>(place: &Path, space: Space, key: &str, bytes: &[u8]) -> Result<T> {
    // The value is left out: it may be a secret.
    let unread =
        |error: serde_json::Error| damaged(place, &format!("'{key}' in {space:?} has no known form, {:?}", error.classify()));
    serde_json::from_slice(bytes).map_err(unread)
}

fn unusable(dir: &Path, error: &io::Error) -> Error {
    Error::new(Code::Data, format!("the data directory '{}' cannot be used: {error}", dir.display()))
        .hint("give a directory that can be written with --data DIR")
}

fn in_use(dir: &Path) -> Error {
    Error::new(Code::Data, format!("the data directory '{}' is in use by another process", dir.display()))
        .hint("stop that process, or give this one its own directory with --data DIR")
}

fn damaged(place: &Path, reason: &str) -> Error {
    Error::new(Code::Data, format!("the store '{}' is damaged: {reason}", place.display()))
        .hint("put a copy back in its place, or move it away to start empty")
}

fn failed(place: &Path, error: redb::Error) -> Error {
    Error::new(Code::Data, format!("the store '{}' fails: {error}", place.display()))
        .hint("see that the disk has room and works, then try again")
}
