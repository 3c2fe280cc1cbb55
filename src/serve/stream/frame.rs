//! One event as the bytes of an event stream: `id`, `event`, `data` lines and the blank line that ends it.

use memchr::memchr2_iter;

/// The fields of an event beside its data.
///
/// Neither can end its line: CR, LF and NUL, which the standard gives a meaning there, are written as spaces.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameFields<'a> {
    /// The id that a client sends back as `Last-Event-ID`.
    pub id: Option<&'a str>,
    /// The type; without one a browser calls it `message`.
    pub name: Option<&'a str>,
}

impl<'a> FrameFields<'a> {
    /// An event of a type of its own, without an id.
    pub fn named(name: &'a str) -> Self {
        FrameFields { id: None, name: Some(name) }
    }

    /// Appends the event; `data` may have several lines.
    pub fn write(&self, data: &[u8], out: &mut Vec<u8>) {
        if let Some(id) = self.id {
            field("id", id, out);
        }
        if let Some(name) = self.name {
            field("event", name, out);
        }
        lines(data, out);
        out.push(b'\n');
    }
}

/// The lines of the data of an event as it was written.
pub fn data(event: &str) -> impl Iterator<Item = &str> {
    event.lines().filter_map(|line| line.strip_prefix("data: "))
}

/// Appends a comment, which clients pass over: `: heartbeat`.
pub fn comment(text: &str, out: &mut Vec<u8>) {
    field("", text, out);
    out.push(b'\n');
}

/// Appends how long a client is to wait before it comes back: `retry: 3000`.
pub fn retry(millis: u64, out: &mut Vec<u8>) {
    field("retry", itoa::Buffer::new().format(millis), out);
    out.push(b'\n');
}

fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|byte| if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { byte }));
    out.push(b'\n');
}

/// Appends a `data` line for each line of the text; CR, LF and CRLF end one.
fn lines(data: &[u8], out: &mut Vec<u8>) {
    let mut start = 0;
    for end in memchr2_iter(b'\r', b'\n', data) {
        // The LF of a CRLF, whose CR has ended the line.
        if end < start {
            continue;
        }
        line(&data[start..end], out);
        start = end + if data[end..].starts_with(b"\r\n") { 2 } else { 1 };
    }
    line(&data[start..], out);
}

fn line(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::feed::Parser;

    fn written(event: FrameFields, data: &str) -> String {
        let mut out = Vec::new();
        event.write(data.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_is_its_fields_and_a_blank_line() {
        let event = FrameFields { id: Some("7-42"), name: Some("added") };
        assert_eq!(written(event, "{}"), "id: 7-42\nevent: added\ndata: {}\n\n");
        assert_eq!(written(FrameFields::default(), ""), "data: \n\n");
    }

    #[test]
    fn data_is_split_at_every_kind_of_line_end() {
        assert_eq!(written(FrameFields::default(), "a\nb\r\nc\rd"), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        assert_eq!(written(FrameFields::default(), "a\n\nb\n"), "data: a\ndata: \ndata: b\ndata: \n\n");
        assert_eq!(written(FrameFields::default(), "\r\n\r\n"), "data: \ndata: \ndata: \n\n");
    }

    #[test]
    fn an_id_and_a_type_cannot_end_their_line() {
        let event = FrameFields { id: Some("1\n\ndata: stolen"), name: Some("a\r\nid: 9\0") };
        assert_eq!(written(event, "x"), "id: 1  data: stolen\nevent: a  id: 9 \ndata: x\n\n");
    }

    #[test]
    fn comments_and_waits_are_blocks_of_their_own() {
        let mut out = Vec::new();
        comment("heartbeat", &mut out);
        retry(3000, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), ": heartbeat\n\nretry: 3000\n\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_a_reader_gets(data in "([^\\x00]|[\r\n]){0,40}", id in ".{1,10}", name in "([^\\x00]|[\r\n\\x00]){1,10}") {
            let event = FrameFields { id: Some(&id), name: Some(&name) };
            let mut seen = Vec::new();
            let mut parser = Parser::new(1 << 20);
            parser.feed(written(event, &data).as_bytes(), &mut |event: crate::feed::Event<'_>| {
                seen.push([event.id, event.kind, event.data].map(str::to_string));
            });
            let plain = |text: &str| text.replace(['\r', '\n', '\0'], " ");
            let lines = data.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(seen, [[plain(&id), plain(&name), lines]]);
        }
    }
}
