//! One file of an archive: a header, the frames that are new in it, the manifest of a checkpoint, a footer.
//!
//! ```text
//! header    magic, 8 bytes | format, u32 | CRC-32 of these
//! frames    Arrow IPC streams, one after the other; where each lies, and its CRC-32, stands in a manifest
//! manifest  JSON
//! footer    length of the manifest, u64 | CRC-32 of the manifest and its length | magic, 8 bytes
//! ```
//!
//! Numbers are little-endian. The header is the same in every format, so that a later one is known from damage.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, ErrorKind, Read, SeekFrom, Write};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::buffer::MutableBuffer;
use crc32fast::Hasher;
use serde::{Deserialize, Serialize};

use super::disk::{Disk, ReadFile, WriteFile};
use super::frame;
use crate::operator::Epoch;

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"SGCKPT\r\n";
const END_MAGIC: [u8; 8] = *b"\r\nSGCEND";
const HEADER_BYTES: u64 = 8 + 4 + 4;
const FOOTER_BYTES: u64 = 8 + 4 + 8;

/// Some hundred thousand frames. It is read whole, by a length that stands in the file.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Frames are copied in steps of this size.
const COPY_BYTES: usize = 256 * 1024;

/// What a checkpoint is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub epoch: Epoch,
    /// When it was written, in nanoseconds since the Unix epoch.
    pub at: i64,
    /// The full checkpoint that it builds on; itself, if it is one.
    pub chain: Epoch,
    /// How many checkpoints ago that was.
    pub links: u32,
    /// The older files in which frames of it lie, and their lengths.
    pub needs: BTreeMap<Epoch, u64>,
    pub parts: Vec<PartEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartEntry {
    pub name: String,
    pub fingerprint: String,
    pub frames: Vec<FrameEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameEntry {
    pub name: String,
    pub place: FrameLocation,
}

/// Where the bytes of a frame lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FrameLocation {
    /// The checkpoint that wrote them, and so the file.
    pub file: Epoch,
    pub offset: u64,
    pub length: u64,
    pub checksum: u32,
}

impl Manifest {
    pub fn frames(&self) -> impl Iterator<Item = &FrameEntry> {
        self.parts.iter().flat_map(|part| &part.frames)
    }

    /// The bytes of all frames, wherever they lie.
    pub fn frame_bytes(&self) -> u64 {
        self.frames().map(|frame| frame.place.length).sum()
    }

    /// No more is promised in a file than it can hold, so that what is read is bounded by what is on the disk.
    fn check(&self, epoch: Epoch, length: u64) -> Result<(), String> {
        if self.epoch != epoch {
            return Err(format!("it says that it is checkpoint {}", self.epoch));
        }
        let lengths = self.needs.iter().chain([(&epoch, &length)]);
        let mut files: BTreeMap<_, _> = lengths.map(|(file, length)| (*file, (*length, *length))).collect();
        for FrameEntry { name, place } in self.frames() {
            let Some((length, left)) = files.get_mut(&place.file) else {
                return Err(format!("it does not list the file of '{name}'"));
            };
            let within = place.offset.checked_add(place.length).is_some_and(|end| end <= *length);
            match left.checked_sub(place.length) {
                Some(less) if within => *left = less,
                _ => return Err(format!("'{name}' does not lie within its file")),
            }
        }
        Ok(())
    }
}

/// Why a file is of no use.
#[derive(Debug)]
pub enum Flaw {
    /// Its bytes are not what was written; the end of a sentence about the file.
    Damage(String),
    /// Another version wrote it, in this format.
    Format(u32),
    /// The system refuses what it would grant at another time.
    Refused(io::Error),
}

impl Flaw {
    pub fn reason(&self) -> String {
        match self {
            Flaw::Damage(reason) => reason.clone(),
            Flaw::Format(format) => format!("it has the format {format}, and this version reads {FORMAT}"),
            Flaw::Refused(error) => error.to_string(),
        }
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        /// What a disk answers for a sector that it cannot read.
        const EIO: i32 = 5;
        match error.kind() {
            ErrorKind::UnexpectedEof => Flaw::Damage("it is cut off".into()),
            ErrorKind::NotFound => Flaw::Damage("it is not there".into()),
            _ if cfg!(unix) && error.raw_os_error() == Some(EIO) => Flaw::Damage(format!("the disk cannot read it: {error}")),
            _ => Flaw::Refused(error),
        }
    }
}

impl From<String> for Flaw {
    fn from(reason: String) -> Self {
        Flaw::Damage(reason)
    }
}

/// A file that is being written.
pub struct ArchiveWriter {
    out: BufWriter<Box<dyn WriteFile>>,
    epoch: Epoch,
    length: u64,
}

impl ArchiveWriter {
    pub fn create(disk: &dyn Disk, path: &Path, epoch: Epoch) -> io::Result<Self> {
        let mut writer = ArchiveWriter { out: BufWriter::new(disk.create(path)?), epoch, length: 0 };
        let format = FORMAT.to_le_bytes();
        writer.put(&MAGIC)?;
        writer.put(&format)?;
        writer.put(&checksum(&[&MAGIC, &format]).to_le_bytes())?;
        Ok(writer)
    }

    pub fn frame(&mut self, rows: &RecordBatch) -> io::Result<FrameLocation> {
        let pieces = frame::encode(rows).map_err(io::Error::other)?;
        let (offset, mut hasher) = (self.length, Hasher::new());
        for piece in &pieces {
            hasher.update(piece);
            self.put(piece)?;
        }
        Ok(FrameLocation { file: self.epoch, offset, length: self.length - offset, checksum: hasher.finalize() })
    }

    /// Takes over a frame from the file in which it lies, byte by byte. The outer error is of this file, the inner one of that.
    pub fn copy(&mut self, from: &mut ArchiveReader, place: FrameLocation) -> io::Result<Result<FrameLocation, Flaw>> {
        let (offset, mut hasher) = (self.length, Hasher::new());
        let mut piece = vec![0; COPY_BYTES];
        let mut done = 0;
        while done < place.length {
            let step = COPY_BYTES.min(usize::try_from(place.length - done).unwrap_or(COPY_BYTES));
            if let Err(flaw) = from.bytes(place.offset + done, &mut piece[..step]) {
                return Ok(Err(flaw));
            }
            hasher.update(&piece[..step]);
            self.put(&piece[..step])?;
            done += step as u64;
        }
        if hasher.finalize() != place.checksum {
            return Ok(Err(Flaw::Damage(MISMATCH.into())));
        }
        Ok(Ok(FrameLocation { file: self.epoch, offset, ..place }))
    }

    /// The bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Ends the file; on return all of it is on the disk. Its length.
    pub fn finish(mut self, manifest: &Manifest) -> io::Result<u64> {
        let manifest = serde_json::to_vec(manifest).map_err(io::Error::other)?;
        if manifest.len() as u64 > MANIFEST_BYTES_MAX {
            let length = manifest.len();
            return Err(io::Error::other(format!(
                "its list of frames has {length} bytes; at most {MANIFEST_BYTES_MAX} are read"
            )));
        }
        let length = (manifest.len() as u64).to_le_bytes();
        self.put(&manifest)?;
        self.put(&length)?;
        self.put(&checksum(&[&manifest, &length]).to_le_bytes())?;
        self.put(&END_MAGIC)?;
        self.out.flush()?;
        self.out.get_mut().sync()?;
        Ok(self.length)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

const MISMATCH: &str = "the bytes of a frame do not match their checksum";

/// A file that was written.
pub struct ArchiveReader {
    source: Box<dyn ReadFile>,
    epoch: Epoch,
    length: u64,
}

impl ArchiveReader {
    pub fn open(disk: &dyn Disk, path: &Path, epoch: Epoch) -> Result<Self, Flaw> {
        let mut source = disk.open(path)?;
        let length = source.seek(SeekFrom::End(0))?;
        let mut reader = ArchiveReader { source, epoch, length };
        let (mut magic, mut format, mut sum) = ([0; 8], [0; 4], [0; 4]);
        reader.bytes(0, &mut magic)?;
        reader.source.read_exact(&mut format)?;
        reader.source.read_exact(&mut sum)?;
        if magic != MAGIC || u32::from_le_bytes(sum) != checksum(&[&magic, &format]) {
            return Err(Flaw::Damage("its beginning is not that of a checkpoint".into()));
        }
        match u32::from_le_bytes(format) {
            FORMAT => Ok(reader),
            other => Err(Flaw::Format(other)),
        }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn manifest(&mut self) -> Result<Manifest, Flaw> {
        let cut_off = || "it is cut off".to_string();
        let room = self.length.checked_sub(HEADER_BYTES + FOOTER_BYTES).ok_or_else(cut_off)?;
        let (mut length, mut sum, mut magic) = ([0; 8], [0; 4], [0; 8]);
        self.bytes(self.length - FOOTER_BYTES, &mut length)?;
        self.source.read_exact(&mut sum)?;
        self.source.read_exact(&mut magic)?;
        if magic != END_MAGIC {
            return Err(cut_off().into());
        }
        let bytes = u64::from_le_bytes(length);
        if bytes > room.min(MANIFEST_BYTES_MAX) {
            return Err("its list of frames is longer than it can be".to_string().into());
        }
        let mut manifest = vec![0; usize::try_from(bytes).map_err(|error| error.to_string())?];
        self.bytes(self.length - FOOTER_BYTES - bytes, &mut manifest)?;
        if u32::from_le_bytes(sum) != checksum(&[&manifest, &length]) {
            return Err("its list of frames does not match its checksum".to_string().into());
        }
        let manifest: Manifest =
            serde_json::from_slice(&manifest).map_err(|error| format!("its list of frames cannot be read: {error}"))?;
        manifest.check(self.epoch, self.length)?;
        Ok(manifest)
    }

    pub fn frame(&mut self, place: FrameLocation) -> Result<RecordBatch, Flaw> {
        if place.length > self.length {
            return Err("it is cut off".to_string().into());
        }
        let mut bytes = MutableBuffer::from_len_zeroed(usize::try_from(place.length).map_err(|error| error.to_string())?);
        self.bytes(place.offset, &mut bytes)?;
        if checksum(&[&bytes]) != place.checksum {
            return Err(MISMATCH.to_string().into());
        }
        Ok(frame::decode(bytes.into()).map_err(|reason| format!("a frame is damaged: {reason}"))?)
    }

    fn bytes(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Flaw> {
        self.source.seek(SeekFrom::Start(offset))?;
        Ok(self.source.read_exact(bytes)?)
    }
}

/// CRC-32 of the pieces, one after the other.
fn checksum(pieces: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new();
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}
