//! The few things that an archive asks of a file system, so that a test can let each of them fail.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

pub trait Disk: Send + std::fmt::Debug {
    /// Makes a directory, for its owner alone, that outlives a power failure; it may be there.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names of the plain files in a directory; empty if that is not there.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// A new, empty file, for its owner alone, in the place of one that was there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;

    /// Takes the place of `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// On return the names in `dir` are what they are also after a power failure.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

pub trait WriteFile: Write + Send {
    /// On return the bytes are there also after a power failure.
    fn sync(&mut self) -> io::Result<()>;
}

pub trait ReadFile: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadFile for T {}

/// The file system of this machine.
#[derive(Debug)]
pub struct Local;

impl Disk for Local {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let mut maker = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut maker, 0o700);
        maker.recursive(true).create(dir)?;
        dir.parent().map_or(Ok(()), |parent| self.sync_dir(parent))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Box::new(options.open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    #[cfg(unix)]
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl WriteFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
