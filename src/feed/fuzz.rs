//! What fuzzers feed with any bytes: events in any cut against a plain reading of the standard, and what people write in options.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::Decoder;
use super::file::LineReader;
use super::header::{Template, Variables, read_headers};
use super::spec::FeedSource;
use super::{Event, FeedSpec, Parser, Policy, masked, written_headers};
use crate::options::{GivenOption, TableOptions, Value, ViewOptions};

/// Event types, data and ids.
type Told = Vec<[String; 3]>;

/// What a stream tells beside its events.
#[derive(Debug, Default, PartialEq)]
struct Rest {
    last_id: String,
    retry_ms: Option<u64>,
    comments: u64,
    oversized: u64,
}

/// The first byte says how large an event may be, the low bits of the second how many bytes behind it are the lengths of chunks; all
/// else is the stream. Whole and in these chunks it must tell the same as [`by_the_standard`], and what waits for its end is bounded.
pub fn sse(input: &[u8]) {
    let Some((&[size, count], rest)) = input.split_first_chunk() else { return };
    let bytes_max = [5, 64, 1000, 1 << 20][usize::from(size % 4)];
    let (lengths, stream) = rest.split_at(rest.len().min(usize::from(count % 16)));
    let (told, last) = by_the_standard(stream, bytes_max);
    let mut inside = None;
    for lengths in [&[], lengths] {
        let mut parser = Parser::new(bytes_max);
        let mut events = Told::new();
        for chunk in chunks(stream, lengths) {
            parser.feed(chunk, &mut |event| events.push(owned(event)));
            assert!(parser.held() <= 16 * bytes_max + 256, "{} bytes are held for {bytes_max}", parser.held());
        }
        assert_eq!(events, told, "in chunks of {lengths:?}");
        let rest = Rest {
            last_id: parser.last_event_id().into(),
            retry_ms: parser.take_retry(),
            comments: parser.comments() - u64::from(ends_in_comment(stream)),
            oversized: parser.oversized(),
        };
        assert_eq!(rest, last, "in chunks of {lengths:?}");
        let is_inside = parser.is_inside_event();
        assert_eq!(*inside.get_or_insert(is_inside), is_inside, "in chunks of {lengths:?}");
    }
    let read = |lengths: &[u8]| {
        let mut decoder = Decoder::Lines(LineReader::new(bytes_max));
        let mut events = Told::new();
        chunks(stream, lengths).for_each(|chunk| decoder.feed(chunk, &mut |event: Event<'_>| events.push(owned(event))));
        decoder.finish(&mut |event: Event<'_>| events.push(owned(event)));
        (events, decoder.oversized())
    };
    assert_eq!(read(&[]), read(lengths), "lines in chunks of {lengths:?}");
}

/// The stream in pieces of these lengths, again and again; whole without any. Empty pieces are among them.
fn chunks<'a>(stream: &'a [u8], lengths: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let lengths = if lengths.iter().all(|length| *length == 0) { &[] } else { lengths };
    let mut lengths = lengths.iter().cycle();
    let mut left = Some(stream);
    std::iter::from_fn(move || {
        let (chunk, rest) = match lengths.next() {
            Some(length) => left?.split_at(left?.len().min(usize::from(*length))),
            None => (left?, &[][..]),
        };
        left = Some(rest).filter(|rest| !rest.is_empty());
        Some(chunk)
    })
}

fn owned(event: Event<'_>) -> [String; 3] {
    [event.kind, event.data, event.id].map(String::from)
}

/// Section 9.2.6 of the HTML standard, a line at a time, with the bound on what an event may have.
fn by_the_standard(stream: &[u8], bytes_max: usize) -> (Told, Rest) {
    let (mut events, mut last) = (Told::new(), Rest::default());
    let (mut kind, mut id, mut data) = (Vec::new(), None, None::<Vec<u8>>);
    let mut is_oversized = false;
    let mut rest = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        let line = &rest[..end];
        rest = rest[end..].strip_prefix(b"\r\n").unwrap_or(&rest[end + 1..]);
        if line.is_empty() {
            if let Some(id) = id.take() {
                last.last_id = text(id);
            }
            let (kind, data) = (text(&std::mem::take(&mut kind)), data.take());
            match (std::mem::take(&mut is_oversized), data) {
                (_, None) => {}
                (true, Some(_)) => last.oversized += 1,
                (false, Some(data)) => {
                    let kind = if kind.is_empty() { "message".into() } else { kind };
                    events.push([kind, text(&data), last.last_id.clone()]);
                }
            }
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"" => last.comments += 1,
            b"event" | b"id" if value.len() > bytes_max => is_oversized = true,
            b"event" => kind = value.to_vec(),
            b"id" if value.contains(&0) => {}
            b"id" => id = Some(value),
            b"data" => {
                let lines: Vec<&[u8]> = data.as_deref().into_iter().chain([value]).collect();
                let lines = lines.join(&b'\n');
                is_oversized |= lines.len() > bytes_max;
                data = Some(lines);
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                last.retry_ms = Some(text(value).parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }
    (events, last)
}

/// Whether the last line, which has no end, is a comment as far as it goes: the parser counts what is surely one.
fn ends_in_comment(stream: &[u8]) -> bool {
    let stream = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let open = stream.rsplit(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or(stream);
    open.starts_with(b":") && open.len() >= super::parser::HEAD_BYTES
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What no error, no debug text and no mask may show.
const SECRET: &str = "geheim4711";

/// Options as people write them, `name=value` with NUL between: read or refused, and what is secret in them stays so.
pub fn headers(input: &[u8]) {
    let Ok(written) = std::str::from_utf8(input) else { return };
    if written.contains(SECRET) {
        return;
    }
    let pair = |(name, value): (&str, &str)| GivenOption { name: name.into(), value: value.into(), span: None };
    let given: Vec<GivenOption> = written.split('\0').filter_map(|pair| pair.split_once('=')).map(pair).collect();
    for GivenOption { name, value, .. } in &given {
        if let Ok(duration) = Duration::read(value) {
            assert!(Instant::now().checked_add(2 * duration).is_some());
            let shown = humantime::format_duration(duration).to_string();
            if !shown.contains("year") && !shown.contains("month") {
                assert_eq!(Duration::read(&shown), Ok(duration), "{shown}");
            }
        }
        if let Ok(template) = Template::read(value) {
            let _ = template.fill(&variables(), "it", str::to_string);
            assert_eq!(template.has_variables(), template.names().count() > 0);
        }
        let shown = masked(name, value);
        assert!(shown.len() <= 3 * value.len() + 3);
        list(value);
    }
    if let Err(errors) = ViewOptions::read(&given) {
        assert!(!errors.is_empty());
    }
    let options = match TableOptions::read(&given) {
        Ok(options) => options,
        Err(errors) => return assert!(!errors.is_empty()),
    };
    let spec = match FeedSpec::new(&options) {
        Ok(spec) => spec.with_variables(variables()),
        Err(errors) => return assert!(!errors.is_empty()),
    };
    let _ = (spec.unset_variables(), spec.is_finite(), spec.place());
    assert!(!spec.shown().contains(SECRET) && !format!("{spec:?}").contains(SECRET), "{}", spec.shown());
    let _ = spec.clone().with_policy(Arc::new(Policy::default()));
    if let FeedSource::Http(request) = &spec.source
        && let Ok(filled) = request.fill(&variables())
    {
        let is_plain = |byte: u8| !matches!(byte, b'\r' | b'\n' | 0);
        use secrecy::ExposeSecret;
        assert!(filled.headers.iter().all(|(_, value, _)| value.expose_secret().bytes().all(is_plain)));
        assert_eq!(filled.url.origin(), request.endpoint.0.origin());
    }
}

/// The option `headers` with one more that is secret.
fn list(value: &str) {
    if let Some(rest) = value.trim_start().strip_prefix('{') {
        for secret in [format!("\"{SECRET}\""), format!("[1, \"{SECRET}\"]"), format!("{{\"a\": \"{SECRET}\"}}")] {
            let shown = masked("headers", &format!("{{\"X-Key\": {secret}, {rest}"));
            assert!(!shown.contains(SECRET), "{shown}");
        }
    }
    let value = format!("{value}, X-Key: {SECRET}");
    match read_headers(&value) {
        Ok(headers) => {
            assert!(!format!("{headers:?}").contains(SECRET));
            let names: Vec<String> = headers.iter().map(|header| header.name.to_string()).collect();
            let written: Vec<String> = written_headers(&value).into_iter().map(|(name, _)| name.to_lowercase()).collect();
            assert_eq!(names, written);
        }
        Err(errors) => assert!(errors.iter().all(|error| !error.to_string().contains(SECRET)), "{errors:?}"),
    }
    assert!(!masked("headers", &value).contains(SECRET), "{}", masked("headers", &value));
}

fn variables() -> Variables {
    Arc::new(|name| match name {
        "TOKEN" => Some(SECRET.into()),
        "BROKEN" => Some("a\r\nX-Evil: 1/../?#@".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    })
}
