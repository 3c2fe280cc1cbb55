//! Bytes of an event stream in any cut → events, as the WHATWG HTML standard (§9.2.6) interprets them.
//!
//! Each byte is looked at once and copied at most once: whole lines are found by a bit mask of 64 bytes and read in place, and only
//! what a chunk leaves unfinished is kept. A line that is still open goes straight to the field that it fills.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memrchr2};
use wide::u8x16;

/// One event as dispatched by the standard; borrowed from the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The type: `message` where the stream names none.
    pub kind: &'a str,
    pub data: &'a str,
    /// The last event id at dispatch; empty where there is none.
    pub id: &'a str,
    /// The id has been given since the event before, by this one or by a block without an event: it is not inherited.
    pub has_id: bool,
    /// So many blocks since the event before gave an id and no event: they had no data, or were too large.
    pub unseen: u32,
}

/// An incremental parser of one response body.
///
/// Memory stays within a small multiple of the largest event allowed. A larger one (its data, or any single type or id) is dropped and
/// counted, its id still advances where that id itself is not too large, and the next event is read as if nothing had happened.
#[derive(Debug)]
pub struct Parser {
    bytes_max: usize,
    /// How much of a byte order mark has been seen; `None` once the beginning is behind us.
    mark_seen: Option<usize>,
    /// The last chunk ended with CR: a LF at the start of the next one belongs to it.
    after_cr: bool,
    line: Line,
    block: Block,
    last_id: String,
    /// Blocks since the last event that gave an id and no event.
    unseen: u32,
    retry_ms: Option<u64>,
    comments: u64,
    oversized: u64,
}

/// The line that the last chunk left open.
#[derive(Debug)]
enum Line {
    None,
    /// Too short to tell which field it is.
    Head {
        bytes: [u8; HEAD_BYTES],
        len: usize,
    },
    Data,
    Kind,
    /// The value so far; `None` once it is unusable.
    Id(Option<Vec<u8>>),
    /// The value so far; `None` once it is no number. The first member says whether there was a digit.
    Retry(bool, Option<u64>),
    Skipped,
}

/// The longest beginning needed to know a line's field and where its value starts: `event: `.
pub(super) const HEAD_BYTES: usize = 7;

/// What a block (the lines up to an empty one) holds that does not lie in the chunk at hand.
#[derive(Debug, Default)]
struct Block {
    data: Option<Vec<u8>>,
    kind: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    oversized: bool,
    /// The buffers of the block before, to be used again.
    spare: Vec<u8>,
}

/// What a block holds in the chunk at hand.
#[derive(Default)]
struct Here {
    data: Option<(usize, usize)>,
    kind: Option<(usize, usize)>,
    id: Option<(usize, usize)>,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl Parser {
    /// A parser at the start of a stream nobody has read before.
    pub fn new(max_event_bytes: usize) -> Self {
        Parser::with_last_id(max_event_bytes, String::new())
    }

    /// A parser for the next connection: the last event id lives on, everything else starts anew.
    pub fn with_last_id(max_event_bytes: usize, last_id: String) -> Self {
        Parser {
            bytes_max: max_event_bytes,
            mark_seen: Some(0),
            after_cr: false,
            line: Line::None,
            block: Block::default(),
            last_id,
            unseen: 0,
            retry_ms: None,
            comments: 0,
            oversized: 0,
        }
    }

    /// Takes the next bytes and hands on every event that they complete.
    pub fn feed(&mut self, chunk: &[u8], each: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let mut rest = self.after_mark(chunk);
        if rest.is_empty() {
            return;
        }
        if std::mem::take(&mut self.after_cr) {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        if !matches!(self.line, Line::None) {
            let Some(end) = memchr2(b'\r', b'\n', rest) else { return self.extend(rest) };
            self.extend(&rest[..end]);
            self.close_line();
            let (ending, behind) = rest[end..].split_at(1);
            rest = match ending {
                b"\r" if behind.is_empty() => {
                    self.after_cr = true;
                    return;
                }
                b"\r" => behind.strip_prefix(b"\n").unwrap_or(behind),
                _ => behind,
            };
        }
        if let Some(last) = memrchr2(b'\r', b'\n', rest) {
            let (whole, open) = rest.split_at(last + 1);
            self.after_cr = open.is_empty() && whole.ends_with(b"\r");
            self.lines(whole, each);
            rest = open;
        }
        self.extend(rest);
    }

    /// What a reconnect sends; empty where there is none.
    pub fn last_event_id(&self) -> &str {
        &self.last_id
    }

    /// The last reconnection time in milliseconds that the stream asked for, once.
    pub fn take_retry(&mut self) -> Option<u64> {
        self.retry_ms.take()
    }

    /// Comment lines seen: the usual heartbeat.
    pub fn comments(&self) -> u64 {
        self.comments
    }

    /// Events dropped for their size.
    pub fn oversized(&self) -> u64 {
        self.oversized
    }

    /// Whether an event has begun that only more bytes could complete: lost if the stream ends here.
    pub fn is_inside_event(&self) -> bool {
        let block = &self.block;
        let begun = match &self.line {
            Line::None | Line::Retry(..) | Line::Skipped => false,
            Line::Head { bytes, .. } => bytes[0] != b':',
            Line::Data | Line::Kind | Line::Id(_) => true,
        };
        begun || block.data.is_some() || block.kind.is_some() || block.id.is_some() || block.oversized
    }

    /// Memory that is held until the end of a line or an event.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        let Block { data, kind, id, spare, .. } = &self.block;
        let open = if let Line::Id(open) = &self.line { open.as_ref() } else { None };
        let buffers = [data.as_ref(), kind.as_ref(), id.as_ref(), Some(spare), open];
        self.last_id.capacity() + buffers.into_iter().flatten().map(Vec::capacity).sum::<usize>()
    }

    /// The chunk behind a byte order mark, which may come in pieces and counts only at the very start.
    fn after_mark<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let Some(seen) = self.mark_seen else { return chunk };
        let missing = &BYTE_ORDER_MARK[seen..];
        let same = missing.iter().zip(chunk).take_while(|(mark, byte)| mark == byte).count();
        if same == missing.len() {
            self.mark_seen = None;
            &chunk[same..]
        } else if same == chunk.len() {
            self.mark_seen = Some(seen + same);
            &[]
        } else {
            self.mark_seen = None;
            self.extend(&BYTE_ORDER_MARK[..seen]);
            chunk
        }
    }

    /// Reads complete lines in place.
    fn lines(&mut self, whole: &[u8], each: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let text = simdutf8::basic::from_utf8(whole).ok();
        let mut here = Here::default();
        let mut start = 0;
        let mut after_cr = false;
        for end in LineEnds::new(whole) {
            let is_rest_of_crlf = after_cr && end == start && whole[end] == b'\n';
            after_cr = whole[end] == b'\r';
            if !is_rest_of_crlf {
                if start == end {
                    self.dispatch(whole, text, std::mem::take(&mut here), each);
                } else {
                    self.line(whole, start, end, &mut here);
                }
            }
            start = end + 1;
        }
        if let Some((from, to)) = here.data {
            self.block.add_line(&whole[from..to], self.bytes_max);
        }
        if let Some((from, to)) = here.kind {
            self.block.kind = Some(whole[from..to].to_vec());
        }
        if let Some((from, to)) = here.id {
            self.block.id = Some(whole[from..to].to_vec());
        }
    }

    /// Reads one complete line that is not empty.
    #[inline]
    fn line(&mut self, whole: &[u8], start: usize, end: usize, here: &mut Here) {
        let (field, offset) = Field::of(&whole[start..end]);
        let range = (start + offset, end);
        let value = &whole[range.0..];
        let value = &value[..end - range.0];
        match field {
            Field::Data => match here.data {
                None if self.block.data.is_none() && value.len() <= self.bytes_max => here.data = Some(range),
                first => {
                    if let Some((from, to)) = first {
                        self.block.add_line(&whole[from..to], self.bytes_max);
                        here.data = None;
                    }
                    self.block.add_line(value, self.bytes_max);
                }
            },
            Field::Kind if value.len() <= self.bytes_max => here.kind = Some(range),
            Field::Id if value.len() <= self.bytes_max => {
                if memchr(0, value).is_none() {
                    here.id = Some(range);
                }
            }
            Field::Kind | Field::Id => self.block.oversized = true,
            Field::Retry => {
                let number = value.iter().try_fold(0, digit);
                self.retry_ms = number.filter(|_| !value.is_empty()).or(self.retry_ms);
            }
            Field::Comment => self.comments += 1,
            Field::Unknown => {}
        }
    }

    /// An empty line: the id counts, and the event goes out if it has data.
    #[inline]
    fn dispatch(&mut self, whole: &[u8], text: Option<&str>, here: Here, each: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let in_place = |(from, to): (usize, usize)| match text {
            Some(text) => Cow::Borrowed(&text[from..to]),
            None => String::from_utf8_lossy(&whole[from..to]),
        };
        let kept = here.id.map(in_place).or_else(|| self.block.id.as_deref().map(lossy));
        let has_id = kept.is_some();
        if let Some(id) = kept {
            self.last_id.clear();
            self.last_id.push_str(&id);
        }
        let data = here.data.map(in_place).or_else(|| self.block.data.as_deref().map(lossy));
        if let Some(data) = data {
            if self.block.oversized {
                self.oversized += 1;
                self.unseen = self.unseen.saturating_add(u32::from(has_id));
            } else {
                let unseen = std::mem::take(&mut self.unseen);
                let has_id = has_id || unseen > 0;
                let kind = here.kind.map(in_place).or_else(|| self.block.kind.as_deref().map(lossy));
                let kind = kind.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("message");
                each(Event { kind, data: &data, id: &self.last_id, has_id, unseen });
            }
        } else if has_id {
            self.unseen = self.unseen.saturating_add(1);
        }
        self.block.clear();
    }

    /// More bytes of the line that is open; none of them ends it.
    fn extend(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.line {
            Line::None => {
                self.line = Line::Head { bytes: [0; HEAD_BYTES], len: 0 };
                self.extend(bytes);
            }
            Line::Head { bytes: head, len } => {
                let (taken, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - *len));
                head[*len..*len + taken.len()].copy_from_slice(taken);
                *len += taken.len();
                if *len == HEAD_BYTES {
                    let head = *head;
                    self.open_line(&head);
                    self.extend(rest);
                }
            }
            Line::Data => self.block.add(bytes, self.bytes_max),
            Line::Kind => {
                let kind = self.block.kind.get_or_insert_default();
                if kind.len() + bytes.len() > self.bytes_max {
                    (self.block.kind, self.block.oversized, self.line) = (None, true, Line::Skipped);
                } else {
                    kind.extend_from_slice(bytes);
                }
            }
            Line::Id(value) => {
                if let Some(id) = value {
                    if id.len() + bytes.len() > self.bytes_max {
                        (*value, self.block.oversized) = (None, true);
                    } else {
                        id.extend_from_slice(bytes);
                    }
                }
            }
            Line::Retry(any, number) => {
                *any = true;
                *number = number.and_then(|number| bytes.iter().try_fold(number, digit));
            }
            Line::Skipped => {}
        }
    }

    /// The field of the open line is known: its bytes go where they belong.
    fn open_line(&mut self, head: &[u8]) {
        let (field, offset) = Field::of(head);
        self.line = match field {
            Field::Data => {
                self.block.add_line(b"", self.bytes_max);
                Line::Data
            }
            Field::Kind => {
                self.block.kind = Some(Vec::new());
                Line::Kind
            }
            Field::Id => Line::Id(Some(Vec::new())),
            Field::Retry => Line::Retry(false, Some(0)),
            Field::Comment => {
                self.comments += 1;
                Line::Skipped
            }
            Field::Unknown => Line::Skipped,
        };
        self.extend(&head[offset..]);
    }

    /// The open line has come to its end.
    fn close_line(&mut self) {
        if let Line::Head { bytes, len } = self.line {
            self.open_line(&bytes[..len]);
        }
        match std::mem::replace(&mut self.line, Line::None) {
            Line::Id(Some(id)) if memchr(0, &id).is_none() => self.block.id = Some(id),
            Line::Retry(true, Some(number)) => self.retry_ms = Some(number),
            _ => {}
        }
    }
}

impl Block {
    /// A data line begins with these bytes.
    fn add_line(&mut self, value: &[u8], bytes_max: usize) {
        match self.data {
            None => {
                let mut data = std::mem::take(&mut self.spare);
                data.clear();
                self.data = Some(data);
            }
            Some(_) => self.add(b"\n", bytes_max),
        }
        self.add(value, bytes_max);
    }

    fn add(&mut self, bytes: &[u8], bytes_max: usize) {
        let data = self.data.get_or_insert_default();
        if self.oversized || data.len() + bytes.len() > bytes_max {
            self.oversized = true;
            *data = Vec::new();
        } else {
            data.extend_from_slice(bytes);
        }
    }

    fn clear(&mut self) {
        if let Some(data) = self.data.take() {
            self.spare = data;
        }
        (self.kind, self.id, self.oversized) = (None, None, false);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Data,
    Kind,
    Id,
    Retry,
    Comment,
    Unknown,
}

impl Field {
    /// The field of a line, and where its value begins: behind the colon and one space.
    #[inline]
    fn of(line: &[u8]) -> (Field, usize) {
        let (field, name) = match line {
            [b'd', b'a', b't', b'a', ..] => (Field::Data, 4),
            [b'i', b'd', ..] => (Field::Id, 2),
            [b'e', b'v', b'e', b'n', b't', ..] => (Field::Kind, 5),
            [b'r', b'e', b't', b'r', b'y', ..] => (Field::Retry, 5),
            [b':', ..] => return (Field::Comment, 1),
            _ => return (Field::Unknown, 0),
        };
        match &line[name..] {
            [] => (field, name),
            [b':', b' ', ..] => (field, name + 2),
            [b':', ..] => (field, name + 1),
            _ => (Field::Unknown, 0),
        }
    }
}

/// One more ASCII digit of a number that saturates; `None` for any other byte.
fn digit(number: u64, byte: &u8) -> Option<u64> {
    byte.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
}

/// UTF-8 decoding with replacement, which bytes that waited for the end of their event still need.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    simdutf8::basic::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// The positions of every CR and LF.
struct LineEnds<'a> {
    bytes: &'a [u8],
    at: usize,
    mask: u64,
}

impl<'a> LineEnds<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        LineEnds { bytes, at: 0, mask: mask(bytes) }
    }
}

impl Iterator for LineEnds<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.mask == 0 {
            self.at += 64;
            self.mask = mask(self.bytes.get(self.at..)?);
        }
        let end = self.at + self.mask.trailing_zeros() as usize;
        self.mask &= self.mask - 1;
        Some(end)
    }
}

/// A bit for each of the first 64 bytes that ends a line.
#[inline]
fn mask(bytes: &[u8]) -> u64 {
    let of_16 = |bytes: &[u8; 16]| {
        let bytes = u8x16::new(*bytes);
        let ends = bytes.simd_eq(u8x16::splat(b'\n')) | bytes.simd_eq(u8x16::splat(b'\r'));
        u64::from(ends.to_bitmask() & 0xFFFF)
    };
    match bytes.first_chunk::<64>() {
        Some(block) => {
            let (parts, _) = block.as_chunks::<16>();
            of_16(&parts[0]) | of_16(&parts[1]) << 16 | of_16(&parts[2]) << 32 | of_16(&parts[3]) << 48
        }
        None => bytes.iter().rev().fold(0, |mask, byte| mask << 1 | u64::from(matches!(byte, b'\n' | b'\r'))),
    }
}
