//! Who has a directory: one process at a time.

use std::fs::{File, TryLockError};

/// The lock of a file, until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock of `file`; none if somebody has it. Where the file system knows no locks, everybody gets it.
    pub fn take(file: File) -> Option<Lock> {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            Ok(()) | Err(TryLockError::Error(_)) => Some(Lock(file)),
        }
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process that is being started holds a copy of it until its own program runs, and the lock
    /// goes with the last copy (flock(2)).
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}
