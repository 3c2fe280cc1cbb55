//! A script whose lines are found by number: from places to bytes.

use std::ops::Range;

use crate::error::{Place, Span};

pub struct Text<'a> {
    script: &'a str,
    lines: Vec<Line>,
}

struct Line {
    /// In bytes of the script, the line break in the end.
    bytes: Range<usize>,
    /// Each character is one byte: a long line need not be walked for each place in it.
    ascii: bool,
}

impl<'a> Text<'a> {
    pub fn new(script: &'a str) -> Self {
        let mut start = 0;
        let lines = script.split_inclusive('\n').map(|line| {
            let bytes = start..start + line.len();
            start = bytes.end;
            Line { bytes, ascii: line.is_ascii() }
        });
        Text { script, lines: lines.collect() }
    }

    /// What stands at a span.
    pub fn of(&self, span: Span) -> &'a str {
        &self.script[self.range(span)]
    }

    /// The bytes of a span, at the borders of characters. Places outside of the script are held at the end of their line or at its end.
    pub fn range(&self, span: Span) -> Range<usize> {
        let start = self.offset(span.start);
        start..self.offset(span.end).max(start)
    }

    fn offset(&self, place: Place) -> usize {
        let line = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(Line { bytes, ascii }) = self.lines.get(line) else { return self.script.len() };
        let characters = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX);
        match ascii {
            true => bytes.start.saturating_add(characters).min(bytes.end),
            false => self.script[bytes.clone()].char_indices().nth(characters).map_or(bytes.end, |(at, _)| bytes.start + at),
        }
    }
}
