//! The state of one window after another where each holds most of the panes of the one before: two stacks of merged panes.

use std::collections::BTreeMap;
use std::ops::Range;

use super::pane::{Aggregates, Pane, Partial};
use super::state::FrameVersion;
use crate::error::Result;

/// A stretch of the grid: rows still coming in, and those that came before it was last looked at.
#[derive(Default)]
pub struct Slot {
    pub open: Option<Pane>,
    pub frozen: Option<Partial>,
    pub open_kept: FrameVersion,
    pub frozen_kept: FrameVersion,
}

impl Slot {
    pub fn bytes(&self) -> usize {
        self.open.as_ref().map_or(0, Pane::bytes) + self.frozen.as_ref().map_or(0, Partial::bytes)
    }

    /// Puts everything into `frozen`.
    pub fn freeze(&mut self, aggregates: &Aggregates) -> Result<()> {
        if let Some(open) = self.open.take() {
            let fresh = open.freeze()?;
            self.frozen = Some(match self.frozen.take() {
                Some(before) => aggregates.merged(&[&before, &fresh])?,
                None => fresh,
            });
            self.frozen_kept.changed();
        }
        Ok(())
    }
}

/// Merges the panes of windows with growing ends at a constant number of merges each, whatever their overlap: the queue of two
/// stacks. `front` holds, for each pane of an older part, the merge of it with all later ones of that part, the oldest on top;
/// `back` is the merge of all panes since. Sliding on drops a pane from the front and merges one into the back; once the front
/// is empty, it is built anew from the panes.
#[derive(Default)]
pub struct Sliding {
    front: Vec<(i64, Partial)>,
    back: Option<Partial>,
    /// Panes before this start are merged already.
    next: i64,
    /// Where the panes of the front end and those of the back begin.
    middle: i64,
}

impl Sliding {
    /// The merge of the panes that start in `window`. They are all frozen, and have not changed since an earlier call saw them.
    pub fn merge(&mut self, panes: &BTreeMap<i64, Slot>, window: Range<i64>, aggregates: &Aggregates) -> Result<Pane> {
        while self.front.last().is_some_and(|(start, _)| *start < window.start) {
            self.front.pop();
        }
        if self.front.is_empty() {
            self.turn(panes, window.clone(), aggregates)?;
        } else {
            self.append(panes, self.next.max(window.start)..window.end, aggregates)?;
        }
        self.next = window.end;
        let mut all = aggregates.pane()?;
        for part in self.front.last().map(|(_, part)| part).into_iter().chain(&self.back) {
            all.merge(part)?;
        }
        Ok(all)
    }

    /// Builds the front from these panes; the back is empty.
    fn turn(&mut self, panes: &BTreeMap<i64, Slot>, range: Range<i64>, aggregates: &Aggregates) -> Result<()> {
        self.front.clear();
        self.back = None;
        self.middle = range.end;
        for (start, pane) in frozen(panes, range).rev() {
            let merged = match self.front.last() {
                Some((_, later)) => aggregates.merged(&[pane, later])?,
                None => pane.clone(),
            };
            self.front.push((start, merged));
        }
        Ok(())
    }

    /// Adds these panes to the back.
    fn append(&mut self, panes: &BTreeMap<i64, Slot>, range: Range<i64>, aggregates: &Aggregates) -> Result<()> {
        for (_, pane) in frozen(panes, range) {
            self.back = Some(match &self.back {
                Some(before) => aggregates.merged(&[before, pane])?,
                None => pane.clone(),
            });
        }
        Ok(())
    }

    /// What the stacks are built of: where the panes of the front begin and end, and where those of the back end.
    pub fn bounds(&self) -> [i64; 3] {
        [self.front.last().map_or(self.middle, |(start, _)| *start), self.middle, self.next]
    }

    /// Stacks with these bounds. Sums of floating-point numbers depend on their order: built of the same panes in the same way, they
    /// come out the same to the last digit.
    pub fn rebuild(&mut self, panes: &BTreeMap<i64, Slot>, bounds: [i64; 3], aggregates: &Aggregates) -> Result<()> {
        let [first, middle, next] = bounds;
        // Also where there is no front: times before 1970 lie below where new stacks begin.
        self.middle = middle;
        if first < middle {
            self.turn(panes, first..middle, aggregates)?;
        }
        if !self.front.is_empty() && middle < next {
            self.append(panes, middle..next, aggregates)?;
        }
        self.next = next;
        Ok(())
    }

    /// The numbers of all groups in the stacks.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.parts().flat_map(|part| &part.ids).copied()
    }

    /// Follows the dictionary to new numbers.
    pub fn renumber(&mut self, numbers: &[u32]) {
        self.front.iter_mut().map(|(_, part)| part).chain(&mut self.back).for_each(|part| part.renumber(numbers));
    }

    fn parts(&self) -> impl Iterator<Item = &Partial> {
        self.front.iter().map(|(_, part)| part).chain(&self.back)
    }

    /// A pane that starts at `start` has changed: if it was merged, the stacks have to be built anew.
    pub fn changed(&mut self, start: i64) {
        if start < self.next {
            *self = Sliding::default();
        }
    }

    pub fn bytes(&self) -> usize {
        self.parts().map(Partial::bytes).sum()
    }

    /// Rows in the stacks.
    pub fn rows(&self) -> usize {
        self.parts().map(|part| part.ids.len()).sum()
    }
}

fn frozen(panes: &BTreeMap<i64, Slot>, window: Range<i64>) -> impl DoubleEndedIterator<Item = (i64, &Partial)> {
    panes.range(window).filter_map(|(start, slot)| Some((*start, slot.frozen.as_ref()?)))
}
