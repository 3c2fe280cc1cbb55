//! A script whose lines are found by number: from places to bytes.

use std::ops::Range;

use crate::error::{Place, Span};

pub struct Text<'a> {
    script: &'a str,
    /// Where each line starts, in bytes.
    lines: Vec<usize>,
}

impl<'a> Text<'a> {
    pub fn new(script: &'a str) -> Self {
        let lines = std::iter::once(0).chain(script.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Text { script, lines }
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
        let Some(&start) = self.lines.get(line) else { return self.script.len() };
        let end = self.lines.get(line.saturating_add(1)).copied().unwrap_or(self.script.len());
        let characters = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX);
        self.script[start..end].char_indices().nth(characters).map_or(end, |(at, _)| start + at)
    }
}
