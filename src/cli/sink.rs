//! Where result rows go: standard output, or a file, which goes on at an exact place after a crash.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray, UInt64Array};
use arrow::datatypes::UInt64Type;

use crate::error::{Code, Error, Result};
use crate::operator::state::{Frame, FrameContent, StatePart, fingerprint, rows};

/// The last bytes before a place by which its file is known again: more than any row that two results have in common.
const TAIL_BYTES: u64 = 4 * 1024;

/// Where text is written to.
pub struct Sink {
    /// `None` is standard output.
    file: Option<OutputFile>,
}

struct OutputFile {
    path: PathBuf,
    file: File,
    length: u64,
}

/// How far the rows of a checkpoint are written.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkPosition {
    Stdout,
    File { path: String, length: u64, tail: String },
}

impl Sink {
    pub fn stdout() -> Sink {
        Sink { file: None }
    }

    /// A file with nothing in it. What was in it is gone with `force`, else a reason not to write: nothing is lost without a word.
    pub fn create(path: &Path, force: bool) -> Result<Sink> {
        let mut open = OpenOptions::new();
        let file = open.write(true).create(true).truncate(false).open(path).map_err(|error| unwritable(path, &error))?;
        let about = file.metadata().map_err(|error| unwritable(path, &error))?;
        if about.is_file() && about.len() > 0 {
            if !force {
                return Err(Error::new(Code::Exists, format!("'{}' is there already, and has something in it", path.display()))
                    .hint("give another file, or --force to write over it"));
            }
            file.set_len(0).map_err(|error| unwritable(path, &error))?;
        }
        Ok(Sink { file: Some(OutputFile { path: path.into(), file, length: 0 }) })
    }

    /// A file of a state that begins: it must have nothing in it, unless that may go by `force`.
    pub fn begin(path: &Path, force: bool) -> Result<Sink> {
        let mut output = OutputFile::open(path, true)?;
        if force {
            output.file.set_len(0).map_err(|error| unwritable(path, &error))?;
        }
        if output.file.metadata().map_err(|error| unwritable(path, &error))?.len() > 0 {
            let message = format!("'{}' has something in it that the state knows nothing of", path.display());
            return Err(Error::new(Code::Data, message)
                .hint("give another file, move that one away, or give the --state directory that it was written with"));
        }
        output.sync_name();
        output.length = 0;
        Ok(Sink { file: Some(output) })
    }

    /// The file of a state that goes on: what was written to it behind `length` is cut off.
    pub fn resume(path: &Path, length: u64, tail: &str) -> Result<Sink> {
        let mut output = OutputFile::open(path, length == 0)?;
        let unusable = |error: io::Error| unwritable(path, &error);
        let there = output.file.metadata().map_err(unusable)?.len();
        let other = |what: String| {
            Error::new(Code::Data, format!("'{}' is not the file that the state goes on with: {what}", path.display()))
                .hint("put that file back, or begin anew with another --state directory and another file")
        };
        if there < length {
            return Err(other(format!("it has {there} bytes, and {length} were written")));
        }
        output.length = length;
        if output.tail().map_err(unusable)? != tail {
            return Err(other(format!("other bytes stand before byte {length}")));
        }
        output.file.set_len(length).map_err(unusable)?;
        output.file.seek(SeekFrom::End(0)).map_err(unusable)?;
        Ok(Sink { file: Some(output) })
    }

    /// Bytes that have been written to the file; 0 on standard output.
    pub fn length(&self) -> u64 {
        self.file.as_ref().map_or(0, |output| output.length)
    }

    /// Whether the text begins with these bytes.
    pub fn begins_with(&mut self, bytes: &[u8]) -> Result<bool> {
        let Some(OutputFile { path, file, .. }) = &mut self.file else { return Ok(false) };
        let mut first = Vec::new();
        let mut read = || {
            file.seek(SeekFrom::Start(0))?;
            (&*file).take(bytes.len() as u64).read_to_end(&mut first)?;
            file.seek(SeekFrom::End(0))
        };
        read().map_err(|error| unwritable(path, &error))?;
        Ok(first == bytes)
    }

    /// Writes so that whoever reads along sees it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.file {
            Some(OutputFile { path, file, length }) => {
                file.write_all(bytes).map_err(|error| unwritable(path, &error))?;
                *length += bytes.len() as u64;
                Ok(())
            }
            None => {
                let mut out = stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
                    // A reader that has seen enough closes the pipe: an end as good as any.
                    ErrorKind::BrokenPipe => Error::new(Code::Closed, "the reader of standard output has left"),
                    _ => Error::new(Code::Output, format!("standard output cannot be written: {error}")),
                })
            }
        }
    }

    /// Brings everything written so far to the disk, and says how far that is.
    pub fn settle(&mut self) -> Result<SinkPosition> {
        let Some(output) = &mut self.file else { return Ok(SinkPosition::Stdout) };
        let settled = output.file.sync_data().and_then(|()| output.tail());
        let tail = settled.map_err(|error| unwritable(&output.path, &error))?;
        Ok(SinkPosition::File { path: output.path.display().to_string(), length: output.length, tail })
    }
}

impl OutputFile {
    fn open(path: &Path, create: bool) -> Result<OutputFile> {
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::NotFound if !create => {
                Error::new(Code::Data, format!("the file '{}', which the state goes on with, is not there", path.display()))
                    .hint("put it back, or begin anew with another --state directory")
            }
            _ => unwritable(path, &error),
        })?;
        if !file.metadata().is_ok_and(|about| about.is_file()) {
            return Err(Error::new(Code::BadOption, format!("'{}' is no plain file, and cannot be cut back", path.display()))
                .hint("give a file, or leave out --output"));
        }
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::new(Code::Data, format!("another process writes to '{}'", path.display()))
                .hint("stop that process, or give another file"));
        }
        Ok(OutputFile { path: path.into(), file, length: 0 })
    }

    /// A name that is new in its directory survives the machine only then. Where directories cannot be opened, that is left to the system.
    fn sync_name(&self) {
        let directory = self.path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Ok(directory) = File::open(directory.unwrap_or(Path::new("."))) {
            let _ = directory.sync_all();
        }
    }

    /// A fingerprint of the last bytes before `length`, behind which the file is left.
    fn tail(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        let start = self.length.saturating_sub(TAIL_BYTES);
        self.file.seek(SeekFrom::Start(start))?;
        (&self.file).take(self.length - start).read_to_end(&mut bytes)?;
        Ok(fingerprint(&String::from_utf8_lossy(&bytes)))
    }
}

impl SinkPosition {
    const FRAME: &str = "file";

    pub fn save(&self) -> Result<Vec<Frame>> {
        let SinkPosition::File { path, length, tail } = self else { return Ok(Vec::new()) };
        let columns: [(&str, ArrayRef); 3] = [
            ("path", Arc::new(StringArray::from_iter_values([path]))),
            ("length", Arc::new(UInt64Array::from_value(*length, 1))),
            ("tail", Arc::new(StringArray::from_iter_values([tail]))),
        ];
        Ok(vec![Frame { name: Self::FRAME.into(), content: FrameContent::Rows(rows(columns, 1)?) }])
    }

    /// `None` where the part says nothing that can be understood.
    pub fn load(part: &StatePart) -> Option<SinkPosition> {
        let Some(frame) = part.frames.first() else { return Some(SinkPosition::Stdout) };
        let FrameContent::Rows(rows) = &frame.content else { return None };
        let text = |name: &str| {
            let column = rows.column_by_name(name)?.as_string_opt::<i32>()?;
            column.iter().flatten().next().map(str::to_string)
        };
        let length = rows.column_by_name("length")?.as_primitive_opt::<UInt64Type>()?.iter().flatten().next()?;
        Some(SinkPosition::File { path: text("path")?, length, tail: text("tail")? })
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::new(Code::Output, format!("'{}' cannot be written: {error}", path.display()))
}
