//! A body in the codings that its response names → as it was before, without holding an event back.
//!
//! RFC 9110 8.4: names in any case, `x-gzip` for `gzip`, several in the order in which they were applied. Every decoder gives all that its
//! input allows, in pieces of a bounded size. gzip may have any number of members (RFC 1952 2.2) and zstd any number of frames; `deflate`
//! is zlib as it should be, or raw as some send it; what follows an end and begins nothing is passed over.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, enc::StandardAlloc};
use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};
use futures::{Stream, StreamExt};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

use super::connection::{Chunks, Cut};

/// What is asked for where the user says nothing.
pub(super) const ACCEPTED: &str = "gzip, br, zstd, deflate";

/// Codings of one body: more are a way to make work.
const CODINGS_MAX: usize = 4;
/// Bytes of one decoded piece.
const PIECE_BYTES: usize = 64 * 1024;
/// Largest window of zstd: 8 MiB, as RFC 9659 bounds it.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
const WINDOW_BITS: u8 = 15;
const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// The codings of a body in the order in which they were applied; or the name of one that is not known.
pub(super) fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, String> {
    let mut codings = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let names = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        for name in names.split(',').map(str::trim) {
            match name {
                "" | "identity" => {}
                "gzip" | "x-gzip" => codings.push(Coding::Gzip),
                "deflate" | "x-deflate" => codings.push(Coding::Deflate),
                "br" => codings.push(Coding::Brotli),
                "zstd" | "x-zstd" => codings.push(Coding::Zstd),
                _ => return Err(name.into()),
            }
        }
        if codings.len() > CODINGS_MAX {
            return Err(names);
        }
    }
    Ok(codings)
}

/// The body without its codings.
pub(super) fn decoded(chunks: Chunks, codings: &[Coding]) -> Chunks {
    codings.iter().rev().fold(chunks, |chunks, coding| Layer::new(chunks, *coding).boxed())
}

/// One coding taken off.
struct Layer {
    chunks: Chunks,
    coding: Coding,
    decoder: Box<dyn Decode + Send>,
    input: Bytes,
    output: Vec<u8>,
    /// The last piece was full: there may be more without more input.
    has_more: bool,
    has_ended: bool,
}

/// A decoder that is fed.
trait Decode {
    /// Takes some of the input and gives some output: how many bytes of each. Input that is left while there is room for output
    /// comes again.
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), String>;

    /// Whether the body may end here.
    fn is_whole(&self) -> bool;
}

impl Layer {
    fn new(chunks: Chunks, coding: Coding) -> Self {
        let decoder: Box<dyn Decode + Send> = match coding {
            Coding::Gzip => Box::new(Flate::new(true)),
            Coding::Deflate => Box::new(Flate::new(false)),
            Coding::Brotli => Box::new(Brotli::new()),
            Coding::Zstd => Box::new(Zstd::default()),
        };
        let output = vec![0; PIECE_BYTES];
        Layer { chunks, coding, decoder, input: Bytes::new(), output, has_more: false, has_ended: false }
    }

    fn broken(&mut self, reason: &str) -> Cut {
        self.has_ended = true;
        Cut(format!("its {} is damaged: {reason}", self.coding.name()))
    }
}

impl Stream for Layer {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let layer = &mut *self;
        loop {
            if layer.has_ended {
                return Poll::Ready(None);
            }
            if !layer.input.is_empty() || layer.has_more {
                let (read, written) = match layer.decoder.decode(&layer.input, &mut layer.output) {
                    Ok(step) => step,
                    Err(reason) => return Poll::Ready(Some(Err(layer.broken(&reason)))),
                };
                layer.input.advance(read);
                layer.has_more = written == layer.output.len();
                if written > 0 {
                    return Poll::Ready(Some(Ok(Bytes::copy_from_slice(&layer.output[..written]))));
                }
                if read == 0 && !layer.input.is_empty() {
                    return Poll::Ready(Some(Err(layer.broken("it does not go on"))));
                }
                continue;
            }
            match ready!(layer.chunks.poll_next_unpin(cx)) {
                Some(Ok(chunk)) => layer.input = chunk,
                Some(Err(cut)) => {
                    layer.has_ended = true;
                    return Poll::Ready(Some(Err(cut)));
                }
                None if layer.decoder.is_whole() => layer.has_ended = true,
                None => return Poll::Ready(Some(Err(layer.broken("it is cut off")))),
            }
        }
    }
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
            Coding::Brotli => "brotli",
            Coding::Zstd => "zstd",
        }
    }
}

/// gzip and deflate: one member after another.
struct Flate {
    is_gzip: bool,
    /// The member that is open.
    member: Option<Decompress>,
    /// The first bytes behind an end, of which two tell what begins there.
    head: Vec<u8>,
    /// Of those, the ones that the member has not taken yet.
    head_left: usize,
    had_member: bool,
    /// What follows is no member.
    is_over: bool,
}

impl Flate {
    fn new(is_gzip: bool) -> Self {
        Flate { is_gzip, member: None, head: Vec::with_capacity(2), head_left: 0, had_member: false, is_over: false }
    }

    /// Looks at the next byte between members.
    fn look(&mut self, byte: u8) -> Result<(), String> {
        // Zeros fill up a block of a tape or a disk.
        if self.head.is_empty() && byte == 0 && self.had_member {
            return Ok(());
        }
        self.head.push(byte);
        let &[one, two] = &self.head[..] else { return Ok(()) };
        let is_zlib = one & 0x0F == 8 && one >> 4 <= 7 && (u16::from(one) << 8 | u16::from(two)) % 31 == 0;
        let begins = if self.is_gzip { [one, two] == GZIP_MAGIC } else { is_zlib };
        self.member = match (begins, self.is_gzip, self.had_member) {
            (true, true, _) => Some(Decompress::new_gzip(WINDOW_BITS)),
            (true, false, _) => Some(Decompress::new(true)),
            (false, false, false) => Some(Decompress::new(false)),
            (false, true, false) => return Err("it does not begin like one".into()),
            (false, _, true) => None,
        };
        (self.is_over, self.had_member) = (self.member.is_none(), true);
        self.head_left = self.head.len();
        Ok(())
    }
}

impl Decode for Flate {
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), String> {
        if self.is_over {
            return Ok((input.len(), 0));
        }
        let Some(member) = &mut self.member else {
            let Some(byte) = input.first() else { return Ok((0, 0)) };
            self.look(*byte)?;
            return Ok((1, 0));
        };
        let (before_in, before_out) = (member.total_in(), member.total_out());
        let is_head = self.head_left > 0;
        let source = if is_head { &self.head[self.head.len() - self.head_left..] } else { input };
        let status = member.decompress(source, output, FlushDecompress::Sync).map_err(|error| error.to_string())?;
        let read = (member.total_in() - before_in) as usize;
        let written = (member.total_out() - before_out) as usize;
        if is_head {
            self.head_left -= read;
        }
        if status == Status::StreamEnd {
            self.member = None;
            self.head.clear();
            self.head_left = 0;
        }
        let read = if is_head { 0 } else { read };
        match is_head && written == 0 && !input.is_empty() && self.head_left == 0 && self.member.is_some() {
            // The head is in: the input is next.
            true => self.decode(input, output),
            false => Ok((read, written)),
        }
    }

    fn is_whole(&self) -> bool {
        self.is_over || (self.member.is_none() && (self.had_member || self.head.is_empty()))
    }
}

type State = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

struct Brotli {
    state: Box<State>,
    has_begun: bool,
    is_over: bool,
}

impl Brotli {
    fn new() -> Self {
        let state = State::new(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
        Brotli { state: Box::new(state), has_begun: false, is_over: false }
    }
}

impl Decode for Brotli {
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), String> {
        if self.is_over {
            return Ok((input.len(), 0));
        }
        self.has_begun |= !input.is_empty();
        let (mut left, mut read, mut room, mut written, mut total) = (input.len(), 0, output.len(), 0, 0);
        match BrotliDecompressStream(&mut left, &mut read, input, &mut room, &mut written, output, &mut total, &mut self.state) {
            BrotliResult::ResultFailure => return Err("it cannot be read".into()),
            BrotliResult::ResultSuccess => self.is_over = true,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
        }
        Ok((read, written))
    }

    fn is_whole(&self) -> bool {
        self.is_over || !self.has_begun
    }
}

/// One frame after another.
#[derive(Default)]
struct Zstd {
    decoder: Option<ZstdDecoder<'static>>,
    had_frame: bool,
    /// A frame has begun and is not at its end.
    is_inside: bool,
    is_over: bool,
}

impl Decode for Zstd {
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), String> {
        if self.is_over || (input.is_empty() && !self.is_inside) {
            return Ok((input.len(), 0));
        }
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => {
                let mut decoder = ZstdDecoder::new().map_err(|error| error.to_string())?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(|error| error.to_string())?;
                none.insert(decoder)
            }
        };
        match decoder.run_on_buffers(input, output) {
            Ok(step) => {
                self.is_inside = step.remaining > 0;
                self.had_frame |= !self.is_inside;
                Ok((step.bytes_read, step.bytes_written))
            }
            Err(_) if self.had_frame && !self.is_inside => {
                self.is_over = true;
                Ok((input.len(), 0))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn is_whole(&self) -> bool {
        !self.is_inside
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use futures::stream;
    use reqwest::header::HeaderValue;

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &str) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(text: &str) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
        encoder.write_all(text.as_bytes()).unwrap();
        drop(encoder);
        out
    }

    fn zstd(text: &str) -> Vec<u8> {
        ::zstd::stream::encode_all(text.as_bytes(), 3).unwrap()
    }

    /// The body in chunks of so many bytes, decoded; with the reason where it breaks.
    fn read(codings: &[Coding], body: &[u8], chunk_bytes: usize) -> (String, Option<String>) {
        let chunks: Vec<Result<Bytes, Cut>> = body.chunks(chunk_bytes).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let mut decoded = decoded(stream::iter(chunks).boxed(), codings);
        let (mut out, mut broken) = (Vec::new(), None);
        futures::executor::block_on(async {
            while let Some(chunk) = decoded.next().await {
                match chunk {
                    Ok(chunk) => out.extend_from_slice(&chunk),
                    Err(Cut(reason)) => broken = Some(reason),
                }
            }
        });
        (String::from_utf8(out).unwrap(), broken)
    }

    #[test]
    fn names_of_codings_are_read_as_the_standard_says() {
        use Coding::*;
        for (values, expected) in [
            (&["GZIP"][..], Ok(vec![Gzip])),
            (&["x-gzip"], Ok(vec![Gzip])),
            (&["X-GZip , identity"], Ok(vec![Gzip])),
            (&["identity"], Ok(vec![])),
            (&[""], Ok(vec![])),
            (&["Deflate, BR"], Ok(vec![Deflate, Brotli])),
            (&["br", "zstd"], Ok(vec![Brotli, Zstd])),
            (&["gzip, compress"], Err("compress".to_string())),
            (&["dcb"], Err("dcb".to_string())),
            (&["gzip,gzip,gzip,gzip,gzip"], Err("gzip,gzip,gzip,gzip,gzip".to_string())),
        ] {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
            });
            assert_eq!(codings(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn bodies_of_every_coding_come_whole_in_any_cut() {
        use Coding::*;
        let long = "the same again, ".repeat(20_000);
        let members = ["one ", "two ", "", "three ", &long].map(gzip).concat();
        let frames = ["one ", "two ", "", "three ", &long].map(zstd).concat();
        let all = format!("one two three {long}");
        let garbage = b"\0\0\0 and more";
        for (name, codings, body, expected) in [
            ("gzip", &[Gzip][..], gzip(&long), &long),
            ("members", &[Gzip], members.clone(), &all),
            ("members and garbage", &[Gzip], [&members[..], garbage].concat(), &all),
            ("members with zeros between", &[Gzip], [&gzip("one ")[..], &[0; 600], &gzip("two")].concat(), &"one two".into()),
            ("one byte behind", &[Gzip], [&gzip("one ")[..], &[0x1F]].concat(), &"one ".into()),
            ("zlib", &[Deflate], zlib(&long), &long),
            ("zlib twice", &[Deflate], [zlib("one "), zlib("two")].concat(), &"one two".into()),
            ("raw", &[Deflate], raw(&long), &long),
            ("raw and garbage", &[Deflate], [&raw("one")[..], garbage].concat(), &"one".into()),
            ("brotli", &[Brotli], brotli(&long), &long),
            ("brotli and garbage", &[Brotli], [&brotli("one")[..], garbage].concat(), &"one".into()),
            ("zstd", &[Zstd], zstd(&long), &long),
            ("frames", &[Zstd], frames.clone(), &all),
            ("frames and garbage", &[Zstd], [&frames[..], garbage].concat(), &all),
            ("none", &[Gzip], Vec::new(), &String::new()),
            ("none", &[Brotli], Vec::new(), &String::new()),
            ("none", &[Zstd], Vec::new(), &String::new()),
            ("none", &[Deflate], Vec::new(), &String::new()),
        ] {
            for chunk_bytes in [1, 2, 3, 1000, usize::MAX] {
                let (out, broken) = read(codings, &body, chunk_bytes);
                assert_eq!((out == *expected, broken), (true, None), "{name} in chunks of {chunk_bytes}");
            }
        }
        let twice = {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&gzip(&long)).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(read(&[Gzip, Deflate], &twice, 7), (long, None));
    }

    #[test]
    fn what_is_damaged_or_cut_off_says_so_behind_what_came_before() {
        use Coding::*;
        let text: String = (0..5000).map(|number| format!("{number} ")).collect();
        for (coding, body) in [(Gzip, gzip(&text)), (Deflate, zlib(&text)), (Brotli, brotli(&text)), (Zstd, zstd(&text))] {
            let (out, broken) = read(&[coding], &body[..body.len() / 2], 100);
            assert!(text.starts_with(&out), "{coding:?}");
            assert_eq!(broken.unwrap(), format!("its {} is damaged: it is cut off", coding.name()));
            let (_, broken) = read(&[coding], b"data: not compressed at all\n\n", 100);
            assert!(broken.as_ref().is_some_and(|reason| reason.contains("is damaged")), "{coding:?}: {broken:?}");
        }
        let mut flipped = gzip(&text);
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        assert!(read(&[Gzip], &flipped, 100).1.is_some());
    }

    #[test]
    fn a_bomb_comes_in_pieces() {
        let zeros = "\0".repeat(50 << 20);
        for (coding, body) in [(Coding::Gzip, gzip(&zeros)), (Coding::Zstd, zstd(&zeros))] {
            let mut decoded = decoded(stream::iter([Ok(Bytes::from(body))]).boxed(), &[coding]);
            let mut bytes = 0;
            futures::executor::block_on(async {
                while let Some(Ok(piece)) = decoded.next().await {
                    assert!(piece.len() <= PIECE_BYTES);
                    bytes += piece.len();
                }
            });
            assert_eq!(bytes, zeros.len());
        }
    }
}
