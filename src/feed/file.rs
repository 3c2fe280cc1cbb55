//! A feed from a file: lines of JSON, each an event, or a recorded event stream.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use memchr::memchr;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::connection::{Chunks, Cut};
use super::parser::Event;
use crate::error::{Code, Error, Result};

/// Bytes per read: large enough that a read's fixed cost vanishes.
const READ_BYTES: usize = 256 * 1024;
/// Bytes looked at to tell what a file without a telling name holds.
const LOOK_BYTES: usize = 4096;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFormat {
    Stream,
    Lines,
}

/// Opens a file and says what it holds.
pub(super) async fn open(path: &Path) -> Result<(FileFormat, Chunks)> {
    let unreadable = |error: std::io::Error| {
        Error::new(Code::File, format!("the file '{}' cannot be read: {error}", path.display()))
            .hint("correct the option 'path'; a relative one counts from the working directory")
    };
    let file = File::open(path).await.map_err(unreadable)?;
    if file.metadata().await.map_err(unreadable)?.is_dir() {
        return Err(unreadable(std::io::ErrorKind::IsADirectory.into()));
    }
    let mut chunks = chunks(file).fuse().boxed();
    let first = match chunks.next().await {
        Some(Ok(first)) => first,
        Some(Err(Cut(reason))) => return Err(unreadable(std::io::Error::other(reason))),
        None => Bytes::new(),
    };
    let shape = shape(path, &first);
    Ok((shape, futures::stream::iter([Ok(first)]).chain(chunks).boxed()))
}

fn chunks(file: File) -> impl futures::Stream<Item = Result<Bytes, Cut>> + Send {
    futures::stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        match file.read_buf(&mut buffer).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(buffer.freeze()), Some(file))),
            Err(error) => Some((Err(Cut(error.to_string())), None)),
        }
    })
}

/// By the extension, else by the first line that is neither empty nor white.
fn shape(path: &Path, first: &[u8]) -> FileFormat {
    match path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("sse") => return FileFormat::Stream,
        Some("ndjson" | "jsonl" | "json") => return FileFormat::Lines,
        _ => {}
    }
    let look = &first[..first.len().min(LOOK_BYTES)];
    let look = look.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(look).trim_ascii_start();
    let is_field = [&b"data:"[..], b"event:", b"id:", b"retry:", b":"].iter().any(|field| look.starts_with(field));
    if is_field { FileFormat::Stream } else { FileFormat::Lines }
}

/// Lines in any cut → events: each line that is not white is the data of one `message`.
#[derive(Debug)]
pub(super) struct LineReader {
    bytes_max: usize,
    /// The line left open by the last chunk.
    open: Vec<u8>,
    /// The open line has grown too large already.
    too_large: bool,
    at_start: bool,
    oversized: u64,
}

impl LineReader {
    pub(super) fn new(bytes_max: usize) -> Self {
        LineReader { bytes_max, open: Vec::new(), too_large: false, at_start: true, oversized: 0 }
    }

    pub(super) fn feed(&mut self, chunk: &[u8], each: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let mut rest = chunk;
        while let Some(end) = memchr(b'\n', rest) {
            if self.open.is_empty() && !self.too_large {
                self.line(&rest[..end], each);
            } else {
                self.keep(&rest[..end]);
                self.finish(each);
            }
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    /// The file has ended: its last line needs no end.
    pub(super) fn finish(&mut self, each: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let mut open = std::mem::take(&mut self.open);
        if std::mem::take(&mut self.too_large) {
            (self.at_start, self.oversized) = (false, self.oversized + 1);
        } else {
            self.line(&open, each);
        }
        open.clear();
        self.open = open;
    }

    pub(super) fn oversized(&self) -> u64 {
        self.oversized
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.too_large || self.open.len() + bytes.len() > self.bytes_max {
            self.too_large = true;
            self.open = Vec::new();
        } else {
            self.open.extend_from_slice(bytes);
        }
    }

    fn line(&mut self, line: &[u8], each: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let is_first = std::mem::take(&mut self.at_start);
        // With its blanks, as a line that comes in pieces is measured before its end is known.
        if line.len() > self.bytes_max {
            self.oversized += 1;
            return;
        }
        let line = if is_first { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
        let line = line.trim_ascii();
        if !line.is_empty() {
            let data = simdutf8::basic::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Into::into);
            each(Event { kind: "message", data: &data, id: "", has_id: false, unseen: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], cut: usize, bytes_max: usize) -> (Vec<String>, u64) {
        let mut seen = Vec::new();
        let mut lines = LineReader::new(bytes_max);
        let mut each = |event: Event<'_>| seen.push(event.data.to_string());
        for chunk in bytes.chunks(cut) {
            lines.feed(chunk, &mut each);
        }
        lines.finish(&mut each);
        (seen, lines.oversized())
    }

    #[test]
    fn lines_are_events_in_any_cut() {
        let bytes = "\u{feff}{\"a\":1}\r\n\n  \n{\"b\":\"é\"}\n{\"c\":\"too long for the limit\"}\n[3]".as_bytes();
        for cut in 1..=bytes.len() {
            assert_eq!(lines(bytes, cut, 20), (vec!["{\"a\":1}".into(), "{\"b\":\"é\"}".into(), "[3]".into()], 1), "{cut}");
        }
    }

    #[test]
    fn a_line_is_too_long_or_not_in_any_cut() {
        for (text, seen, oversized) in [
            ("  [1234]\n    [5]  \n", vec!["[1234]"], 1),
            ("\u{feff}[12]\n\u{feff}[3]\n", vec!["[12]", "\u{feff}[3]"], 0),
            ("a line too long\n\u{feff}[3]", vec!["\u{feff}[3]"], 1),
        ] {
            for cut in 1..=text.len() {
                let seen: Vec<String> = seen.iter().map(|line| line.to_string()).collect();
                assert_eq!(lines(text.as_bytes(), cut, 8), (seen, oversized), "{text:?} {cut}");
            }
        }
    }

    #[test]
    fn a_file_is_told_by_its_name_or_its_beginning() {
        for (path, first, expected) in [
            ("x.sse", "{}", FileFormat::Stream),
            ("x.ndjson", "data: x", FileFormat::Lines),
            ("x", "\n: hi", FileFormat::Stream),
            ("x.txt", "event: a\n", FileFormat::Stream),
            ("x.txt", "{\"data\": 1}", FileFormat::Lines),
            ("x", "", FileFormat::Lines),
        ] {
            assert_eq!(shape(Path::new(path), first.as_bytes()), expected, "{path} {first}");
        }
    }
}
