//! A script whose lines are found by number: from places to bytes.

use std::ops::Range;

use crate::error::{LineColumn, Span};

/// Every so many characters of a line that is not plain ASCII it is noted where they are, so that it need not be walked for each place in it.
const STEP: usize = 256;

pub struct Text<'a> {
    script: &'a str,
    lines: Lines,
}

/// Where the lines of a script are.
pub struct Lines(Vec<Line>);

struct Line {
    /// In bytes of the script, the line break in the end.
    bytes: Range<usize>,
    /// Where every [`STEP`]th character begins; empty where each character is one byte.
    steps: Vec<usize>,
}

impl<'a> Text<'a> {
    pub fn new(script: &'a str) -> Self {
        Text { script, lines: Lines::new(script) }
    }

    /// What stands at a span.
    pub fn of(&self, span: Span) -> &'a str {
        &self.script[self.range(span)]
    }

    /// The bytes of a span, at the borders of characters. Places outside of the script are held at the end of their line or at its end.
    pub fn range(&self, span: Span) -> Range<usize> {
        self.lines.range(self.script, span)
    }
}

impl Lines {
    pub fn new(script: &str) -> Self {
        let mut start = 0;
        let lines = script.split_inclusive('\n').map(|line| {
            let bytes = start..start + line.len();
            start = bytes.end;
            let steps = match line.is_ascii() {
                true => Vec::new(),
                false => line.char_indices().step_by(STEP).map(|(at, _)| bytes.start + at).collect(),
            };
            Line { bytes, steps }
        });
        Lines(lines.collect())
    }

    /// As [`Text::range`], of the same script.
    pub fn range(&self, script: &str, span: Span) -> Range<usize> {
        let start = self.offset(script, span.start);
        start..self.offset(script, span.end).max(start)
    }

    /// The whole lines around a stretch of bytes, and the number of the first of them, counted from 1.
    pub fn around(&self, range: &Range<usize>) -> (usize, Range<usize>) {
        let last = self.0.len().saturating_sub(1);
        let line = |at: usize| self.0.partition_point(|line| line.bytes.end <= at).min(last);
        let (first, end) = (line(range.start), line(range.end.saturating_sub(1).max(range.start)));
        match (self.0.get(first), self.0.get(end)) {
            (Some(one), Some(other)) => (first + 1, one.bytes.start..other.bytes.end),
            _ => (1, 0..0),
        }
    }

    fn offset(&self, script: &str, place: LineColumn) -> usize {
        let line = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(Line { bytes, steps }) = self.0.get(line) else { return script.len() };
        let characters = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX);
        if steps.is_empty() {
            return bytes.start.saturating_add(characters).min(bytes.end);
        }
        let Some(start) = steps.get(characters / STEP) else { return bytes.end };
        script[*start..bytes.end].char_indices().nth(characters % STEP).map_or(bytes.end, |(at, _)| start + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_long_lines_are_those_of_their_characters() {
        for line in ["é".repeat(1_000), "a".repeat(1_000), "aé𝄞".repeat(400)] {
            let script = format!("first\n{line}\nlast");
            let text = Text::new(&script);
            let starts: Vec<usize> = line.char_indices().map(|(at, _)| 6 + at).chain([6 + line.len(), 7 + line.len()]).collect();
            for (column, start) in starts.iter().enumerate() {
                let place = LineColumn { line: 2, column: column as u64 + 1 };
                assert_eq!(text.range(Span { start: place, end: place }), *start..*start, "{column}");
            }
            let beyond = LineColumn { line: 2, column: u64::MAX };
            assert_eq!(text.range(Span { start: beyond, end: beyond }).start, 7 + line.len());
        }
    }

    #[test]
    fn lines_around_a_stretch_are_whole() {
        let lines = Lines::new("one\ntwo\nthree");
        for (range, expect) in [
            (0..0, (1, 0..4)),
            (1..2, (1, 0..4)),
            (4..4, (2, 4..8)),
            (5..10, (2, 4..13)),
            (3..4, (1, 0..4)),
            (13..13, (3, 8..13)),
        ] {
            assert_eq!(lines.around(&range), expect, "{range:?}");
        }
        assert_eq!(Lines::new("").around(&(0..0)), (1, 0..0));
    }
}
