//! Where replayed events come from: files, memory, generators; each pass over them gives the same events.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use memchr::{memchr, memchr2, memmem};

use super::moved::moved;
use crate::cli::sample::{self, Sample};
use crate::time::Timestamp;

/// Events that can be opened any number of times, each time from the first.
#[derive(Clone)]
pub struct EventSource(Arc<dyn Fn() -> io::Result<Box<dyn EventReader>> + Send + Sync>);

/// One pass over the events of a [`EventSource`].
pub trait EventReader: Send {
    /// Appends the next event to `wire` as it is sent, up to its blank line; `id` becomes the last event id. `false` at the end.
    fn next(&mut self, wire: &mut Vec<u8>, id: &mut String) -> io::Result<bool>;

    /// Starts over after the end as if `passes` passes had gone by. `false` if this source has only one pass.
    fn rewind(&mut self, passes: u64) -> io::Result<bool>;

    /// After a pass: how many ids it counted, where ids are counted up and go on in the next pass.
    fn counted(&self) -> Option<u64> {
        None
    }

    /// Many events at once without a copy, where the source has them so.
    fn chunk(&mut self) -> Option<Bytes> {
        None
    }
}

/// How events are written in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// The data of an event on each line; blank lines are skipped.
    Ndjson(EventFields),
    /// A recorded stream: types and ids are kept; comments and `retry` are the server's own affair and left out. The field, if one is
    /// named, is a time that becomes the moment of sending.
    Recorded { now: Option<String> },
}

/// The fields (or dotted paths) of NDJSON lines that hold the id and the type of an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFields {
    /// `None`: the number of the line, counted from 1, going on when the file starts over.
    pub id: Option<String>,
    /// `None`: events have no type.
    pub event: Option<String>,
    /// The time that becomes the moment of sending.
    pub now: Option<String>,
}

impl EventSource {
    pub fn new(open: impl Fn() -> io::Result<Box<dyn EventReader>> + Send + Sync + 'static) -> Self {
        EventSource(Arc::new(open))
    }

    /// The events of a file, read again for each client. Reading blocks its thread for as long as the disk takes.
    pub fn file(path: PathBuf, layout: Layout) -> Self {
        EventSource::text(layout, move || Ok(BufReader::new(File::open(&path)?)))
    }

    /// The events of a text in memory.
    pub fn bytes(text: Bytes, layout: Layout) -> Self {
        EventSource::text(layout, move || Ok(Cursor::new(text.clone())))
    }

    /// A made-up feed, the same for each client.
    pub fn sample(settings: sample::Settings) -> Self {
        EventSource::new(move || {
            Ok(Box::new(Generated {
                settings: settings.clone(),
                sample: Sample::new(settings.clone()),
                event: Default::default(),
            }))
        })
    }

    /// All events of this source, rendered once into large chunks, so that serving them costs next to nothing. It does not start over.
    pub fn rendered(&self) -> io::Result<Self> {
        const CHUNK: usize = 256 << 10;
        let mut events = self.open()?;
        let (mut chunks, mut chunk, mut id) = (Vec::new(), Vec::with_capacity(CHUNK), String::new());
        while events.next(&mut chunk, &mut id)? {
            if chunk.len() >= CHUNK - (CHUNK >> 4) {
                chunks.push(Bytes::from(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK))));
            }
        }
        chunks.push(Bytes::from(chunk));
        let chunks: Arc<[Bytes]> = chunks.into();
        Ok(EventSource::new(move || Ok(Box::new(Rendered { chunks: Arc::clone(&chunks), next: 0, rest: Bytes::new() }))))
    }

    pub fn open(&self) -> io::Result<Box<dyn EventReader>> {
        (self.0)()
    }

    fn text<R: BufRead + Send + 'static>(
        layout: Layout,
        open: impl Fn() -> io::Result<R> + Clone + Send + Sync + 'static,
    ) -> Self {
        EventSource::new(move || {
            let (reader, open) = (open()?, open.clone());
            Ok(match layout.clone() {
                Layout::Ndjson(fields) => Box::new(NdjsonLines { open, reader, fields, number: 0, base: 0, line: Vec::new() }),
                Layout::Recorded { now } => {
                    Box::new(Recorded { open, reader, piece: Vec::new(), event: Block::default(), first: true, now })
                }
            })
        })
    }
}

/// Appends one event as it is sent. A carriage return or line feed in `data` starts a new data line; an empty `kind` or `id` is left out,
/// as is one that has a line end or NUL in it.
pub fn render(kind: &str, id: &str, data: &[u8], wire: &mut Vec<u8>) {
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() && !value.contains(['\n', '\r', '\0']) {
            wire.extend_from_slice(name.as_bytes());
            wire.extend_from_slice(value.as_bytes());
            wire.push(b'\n');
        }
    };
    field("event: ", kind);
    field("id: ", id);
    let mut rest = data;
    loop {
        wire.extend_from_slice(b"data: ");
        let Some(end) = memchr2(b'\r', b'\n', rest) else { break };
        wire.extend_from_slice(&rest[..end]);
        wire.push(b'\n');
        rest = rest[end..].strip_prefix(b"\r\n").unwrap_or(&rest[end + 1..]);
    }
    wire.extend_from_slice(rest);
    wire.extend_from_slice(b"\n\n");
}

/// The lines of an NDJSON text.
struct NdjsonLines<O, R> {
    open: O,
    reader: R,
    fields: EventFields,
    /// Lines read in this pass.
    number: u64,
    /// Lines of the passes before.
    base: u64,
    line: Vec<u8>,
}

impl<R: BufRead + Send, O: Fn() -> io::Result<R> + Send> EventReader for NdjsonLines<O, R> {
    fn next(&mut self, wire: &mut Vec<u8>, id: &mut String) -> io::Result<bool> {
        let line = loop {
            self.line.clear();
            if self.reader.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(false);
            }
            self.number += 1;
            let line = self.line.trim_ascii();
            if !line.is_empty() {
                break line;
            }
        };
        let EventFields { id: id_field, event, now } = &self.fields;
        let parsed = (id_field.is_some() || event.is_some()).then(|| serde_json::from_slice(line).ok()).flatten();
        let value = |field: &Option<String>| field.as_ref().and_then(|path| text_at(parsed.as_ref()?, path)).unwrap_or_default();
        let own = match id_field {
            Some(_) => value(id_field),
            None => itoa::Buffer::new().format(self.base + self.number).into(),
        };
        let moved = now.as_ref().and_then(|field| moved(line, field, Timestamp::now()));
        render(&value(event), &own, moved.as_deref().unwrap_or(line), wire);
        if !own.is_empty() {
            *id = own;
        }
        Ok(true)
    }

    fn rewind(&mut self, passes: u64) -> io::Result<bool> {
        self.reader = (self.open)()?;
        self.base = self.base.saturating_add(self.number.saturating_mul(passes));
        self.number = 0;
        Ok(true)
    }

    fn counted(&self) -> Option<u64> {
        self.fields.id.is_none().then_some(self.number)
    }
}

/// The text or number at a field of that name, or else at a dotted path.
fn text_at(value: &serde_json::Value, path: &str) -> Option<String> {
    let found = value.get(path).or_else(|| path.split('.').try_fold(value, |value, name| value.get(name)))?;
    match found {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The events of a recorded stream.
struct Recorded<O, R> {
    open: O,
    reader: R,
    /// What was read up to a line feed.
    piece: Vec<u8>,
    event: Block,
    first: bool,
    now: Option<String>,
}

/// The lines of one event so far.
#[derive(Default)]
struct Block {
    lines: Vec<u8>,
    id: Option<Vec<u8>>,
    has_data: bool,
}

impl Block {
    /// Takes one line without its end. At a blank line, whether an event is complete.
    fn take(&mut self, line: &[u8]) -> bool {
        if line.is_empty() {
            if !self.has_data {
                // Nothing is dispatched, but an id holds for what follows.
                self.lines.clear();
            }
            return self.has_data;
        }
        let (name, value) = line.split_at(memchr(b':', line).unwrap_or(line.len()));
        match name {
            b"id" => {
                let value = value.strip_prefix(b":").unwrap_or(value);
                let value = value.strip_prefix(b" ").unwrap_or(value);
                if memchr(0, value).is_none() {
                    self.id = Some(value.to_vec());
                }
            }
            b"data" | b"event" => {
                self.has_data |= name == b"data";
                self.lines.extend_from_slice(line);
                self.lines.push(b'\n');
            }
            _ => {}
        }
        false
    }

    /// Moves the time at a field of the data, which may stand on several lines.
    fn move_time(&mut self, field: &str) {
        let (data, others): (Vec<&[u8]>, Vec<&[u8]>) =
            self.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).partition(|line| line.starts_with(b"data"));
        let value = |line: &&[u8]| {
            let value = line.strip_prefix(b"data:").unwrap_or_default();
            value.strip_prefix(b" ").unwrap_or(value).to_vec()
        };
        let Some(moved) = moved(&data.iter().map(value).collect::<Vec<_>>().join(&b'\n'), field, Timestamp::now()) else {
            return;
        };
        let mut lines: Vec<Vec<u8>> = others.into_iter().map(<[u8]>::to_vec).collect();
        lines.extend(moved.split(|byte| *byte == b'\n').map(|line| [b"data: ", line].concat()));
        self.lines = lines.into_iter().flat_map(|line| line.into_iter().chain([b'\n'])).collect();
    }

    fn finish(&mut self, wire: &mut Vec<u8>, id: &mut String) {
        if let Some(own) = self.id.take() {
            wire.extend_from_slice(b"id: ");
            wire.extend_from_slice(&own);
            wire.push(b'\n');
            *id = String::from_utf8_lossy(&own).into_owned();
        }
        wire.append(&mut self.lines);
        wire.push(b'\n');
        self.has_data = false;
    }
}

impl<R: BufRead + Send, O: Fn() -> io::Result<R> + Send> EventReader for Recorded<O, R> {
    fn next(&mut self, wire: &mut Vec<u8>, id: &mut String) -> io::Result<bool> {
        loop {
            if self.piece.is_empty() {
                if self.reader.read_until(b'\n', &mut self.piece)? == 0 {
                    return Ok(false);
                }
                if std::mem::take(&mut self.first) && self.piece.starts_with(b"\xef\xbb\xbf") {
                    self.piece.drain(..3);
                }
            }
            while let Some(end) = memchr2(b'\r', b'\n', &self.piece) {
                let complete = self.event.take(&self.piece[..end]);
                let ending = if self.piece[end..].starts_with(b"\r\n") { 2 } else { 1 };
                self.piece.drain(..end + ending);
                if complete {
                    if let Some(field) = &self.now {
                        self.event.move_time(field);
                    }
                    self.event.finish(wire, id);
                    return Ok(true);
                }
            }
            // Without a line end it is the end of the file: an unfinished line belongs to an unfinished event.
            self.piece.clear();
        }
    }

    fn rewind(&mut self, _passes: u64) -> io::Result<bool> {
        self.reader = (self.open)()?;
        self.piece.clear();
        self.event = Block::default();
        self.first = true;
        Ok(true)
    }
}

/// A made-up feed.
struct Generated {
    settings: sample::Settings,
    sample: Sample,
    event: sample::Event,
}

impl EventReader for Generated {
    fn next(&mut self, wire: &mut Vec<u8>, id: &mut String) -> io::Result<bool> {
        if !self.sample.next(&mut self.event) {
            return Ok(false);
        }
        render(self.event.kind, &self.event.id, &self.event.data, wire);
        id.clone_from(&self.event.id);
        Ok(true)
    }

    fn rewind(&mut self, _passes: u64) -> io::Result<bool> {
        self.sample = Sample::new(self.settings.clone());
        Ok(true)
    }
}

/// Events rendered beforehand.
struct Rendered {
    chunks: Arc<[Bytes]>,
    next: usize,
    /// What is left of the chunk before `next`.
    rest: Bytes,
}

impl EventReader for Rendered {
    fn next(&mut self, wire: &mut Vec<u8>, id: &mut String) -> io::Result<bool> {
        while self.rest.is_empty() {
            let Some(chunk) = self.chunk() else { return Ok(false) };
            self.rest = chunk;
        }
        let end = memmem::find(&self.rest, b"\n\n").map_or(self.rest.len(), |end| end + 2);
        let event = self.rest.split_to(end);
        if let Some(own) = event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"id: ")) {
            id.clear();
            id.push_str(&String::from_utf8_lossy(own));
        }
        wire.extend_from_slice(&event);
        Ok(true)
    }

    fn rewind(&mut self, _passes: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn chunk(&mut self) -> Option<Bytes> {
        if !self.rest.is_empty() {
            return Some(std::mem::take(&mut self.rest));
        }
        let chunk = self.chunks.get(self.next)?.clone();
        self.next += 1;
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All events of one pass as text, each followed by the last event id in brackets.
    fn pass(events: &mut dyn EventReader) -> String {
        let (mut wire, mut id, mut text) = (Vec::new(), String::new(), String::new());
        while events.next(&mut wire, &mut id).unwrap() {
            text += &format!("{}[{id}]", String::from_utf8_lossy(&wire));
            wire.clear();
        }
        text
    }

    fn open(text: &'static str, layout: Layout) -> Box<dyn EventReader> {
        EventSource::bytes(Bytes::from_static(text.as_bytes()), layout).open().unwrap()
    }

    #[test]
    fn lines_are_numbered_and_go_on_in_the_next_pass() {
        let mut events = open("{\"a\":1}\r\n\n{\"a\":2}", Layout::Ndjson(EventFields::default()));
        assert_eq!(pass(&mut *events), "id: 1\ndata: {\"a\":1}\n\n[1]id: 3\ndata: {\"a\":2}\n\n[3]");
        assert_eq!(events.counted(), Some(3));
        assert!(events.rewind(2).unwrap());
        assert_eq!(pass(&mut *events), "id: 7\ndata: {\"a\":1}\n\n[7]id: 9\ndata: {\"a\":2}\n\n[9]");
    }

    #[test]
    fn ids_and_types_come_from_fields_and_paths() {
        let fields = EventFields { id: Some("meta.id".into()), event: Some("type".into()), now: None };
        let text = "{\"type\":\"edit\",\"meta\":{\"id\":7}}\n{\"type\":\"a\\nb\",\"meta\":{}}\nno json\n";
        assert_eq!(
            pass(&mut *open(text, Layout::Ndjson(fields))),
            "event: edit\nid: 7\ndata: {\"type\":\"edit\",\"meta\":{\"id\":7}}\n\n[7]\
             data: {\"type\":\"a\\nb\",\"meta\":{}}\n\n[7]data: no json\n\n[7]"
        );
    }

    #[test]
    fn a_recorded_stream_keeps_its_events_and_loses_its_comments() {
        let text = "\u{feff}: ok\n\nretry: 5\nid: 1\n\nevent: lost\n\ndata: a\ndata: b\r\n\r\ndata: c\revent: t\rid\r\rid: 9\ndata: unfinished\n";
        assert_eq!(
            pass(&mut *open(text, Layout::Recorded { now: None })),
            "id: 1\ndata: a\ndata: b\n\n[1]id: \ndata: c\nevent: t\n\n[]"
        );
    }

    #[test]
    fn the_times_of_a_recorded_stream_are_moved_over_all_its_data_lines() {
        let text = "id: 1\nevent: t\ndata: {\ndata:  \"ts\": \"2026-03-01T12:00:00Z\",\ndata:  \"a\": 1}\n\ndata: plain\n\n";
        let sent = pass(&mut *open(text, Layout::Recorded { now: Some("ts".into()) }));
        let year = Timestamp::now().to_string()[..4].to_string();
        assert!(sent.starts_with(&format!("id: 1\nevent: t\ndata: {{\ndata:  \"ts\": \"{year}-")), "{sent}");
        assert!(sent.ends_with("Z\",\ndata:  \"a\": 1}\n\n[1]data: plain\n\n[1]"), "{sent}");
    }

    #[test]
    fn line_ends_in_data_become_data_lines() {
        let mut wire = Vec::new();
        render("", "", b"a\r\nb\rc\n", &mut wire);
        assert_eq!(String::from_utf8(wire).unwrap(), "data: a\ndata: b\ndata: c\ndata: \n\n");
    }

    #[test]
    fn rendered_events_are_the_same_events() {
        let source = EventSource::bytes(Bytes::from_static(b"{}\n[]\n"), Layout::Ndjson(EventFields::default()));
        let (mut plain, mut rendered) = (source.open().unwrap(), source.rendered().unwrap().open().unwrap());
        assert_eq!(pass(&mut *rendered), pass(&mut *plain));
    }
}
