//! `TUMBLE` and `HOP`: rows are aggregated once, in the pane they fall into; windows are merged from panes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;

use super::Report;
use super::emit::{LastEmitted, time_of};
use super::pane::{Pane, Partial};
use super::sliding::{Sliding, Slot};
use super::state::{self, FrameVersion, Loader, Saver};
use super::window_aggregate::{Grouped, WindowContext, Windows};
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::memory::held;
use crate::time::Timestamp;
use crate::window::{Grid, Window};

/// The state of a grid of windows.
pub struct GridWindows {
    grid: Grid,
    /// By start; as long as a window of it takes rows.
    panes: BTreeMap<i64, Slot>,
    /// The merges behind the windows that close one after the other.
    sliding: Sliding,
    /// Panes that changed since the last early results; used only where those are asked for.
    touched: BTreeSet<i64>,
    /// What each window said last, by its end; kept only where a window may speak again.
    said: BTreeMap<i64, (RecordBatch, FrameVersion)>,
}

impl GridWindows {
    pub fn new(grid: Grid) -> Self {
        let (panes, sliding) = (BTreeMap::new(), Sliding::default());
        GridWindows { grid, panes, sliding, touched: BTreeSet::new(), said: BTreeMap::new() }
    }

    /// Adds rows that are all in the pane starting at `start`. Returns whether it took them.
    fn place(&mut self, basis: &mut WindowContext, start: i64, rows: &Grouped) -> Result<bool> {
        if basis.is_over(start + self.grid.width(), basis.watermark) {
            basis.late.note(&rows.changes, 0..rows.changes.len(), Timestamp(basis.watermark));
            return Ok(false);
        }
        let slot = self.panes.entry(start).or_default();
        let pane = match &mut slot.open {
            Some(pane) => pane,
            none => none.insert(basis.aggregates.pane()?),
        };
        pane.update(&rows.ids, &rows.arguments, &rows.filters)?;
        slot.open_kept.changed();
        self.sliding.changed(start);
        if basis.emission.early.is_some() {
            self.touched.insert(start);
        }
        Ok(true)
    }

    /// The start of a pane, from the name of its frame.
    fn pane_start(&self, name: &str) -> Result<i64> {
        let start = state::number(name)?;
        if self.grid.pane_of(start) == Some(start) { Ok(start) } else { Err(state::misfit(name, "is no start of a pane")) }
    }

    /// The earliest end after `time` of a window that holds rows.
    fn next_end(&self, time: i64) -> Option<i64> {
        let after = time.checked_sub(self.grid.width()).map_or(Bound::Unbounded, Bound::Excluded);
        let (start, _) = self.panes.range((after, Bound::Unbounded)).next()?;
        self.grid.next_end(*start, time)
    }

    /// The aggregates of the window with this end.
    fn window(&mut self, basis: &WindowContext, end: i64) -> Result<Pane> {
        let start = end - self.grid.width();
        if self.grid.panes() == 1 && basis.emission.lateness() == 0 {
            return self.last_look(basis, start);
        }
        for (_, slot) in self.panes.range_mut(start..end) {
            slot.freeze(&basis.aggregates)?;
        }
        self.sliding.merge(&self.panes, start..end, &basis.aggregates)
    }

    /// The aggregates of a pane that is not needed afterwards: where nothing was frozen, they need no merge.
    fn last_look(&mut self, basis: &WindowContext, start: i64) -> Result<Pane> {
        let mut slot = self.panes.remove(&start).unwrap_or_default();
        match (slot.open.take(), slot.frozen.take()) {
            (Some(open), None) => Ok(open),
            (open, frozen) => {
                let mut all = basis.aggregates.pane()?;
                for part in frozen.into_iter().chain(open.map(Pane::freeze).transpose()?) {
                    all.merge(&part)?;
                }
                Ok(all)
            }
        }
    }

    /// Looks at windows again, or before their end. Their panes stay.
    fn look(&mut self, basis: &mut WindowContext, ends: BTreeSet<i64>, parts: &mut Vec<Changes>) -> Result<()> {
        let mut sliding = Sliding::default();
        for end in ends {
            let start = end - self.grid.width();
            for (_, slot) in self.panes.range_mut(start..end) {
                slot.freeze(&basis.aggregates)?;
            }
            let pane = sliding.merge(&self.panes, start..end, &basis.aggregates)?;
            self.speak(basis, end, pane, parts)?;
        }
        Ok(())
    }

    /// Says the result of the window with this end, or how it differs from what it said before.
    fn speak(&mut self, basis: &mut WindowContext, end: i64, pane: Pane, parts: &mut Vec<Changes>) -> Result<()> {
        if pane.len() == 0 {
            return Ok(());
        }
        let (ids, values, lost) = pane.evaluate()?;
        let window = Window { start: end - self.grid.width(), end };
        let rows = basis.result(&ids, &vec![window; ids.len()], values)?;
        basis.bad.lose(lost, &rows, |_| time_of(end));
        let rows = basis.emitter.finish(rows, end, &mut basis.bad)?;
        if !basis.emission.updates() {
            parts.push(basis.emitter.first(rows, end));
            return Ok(());
        }
        let before = self.said.insert(end, (rows.clone(), FrameVersion::default()));
        let before: Vec<LastEmitted> = before.map(|(rows, _)| LastEmitted { rows, end }).into_iter().collect();
        parts.push(basis.emitter.correction(&before, &rows, end)?);
        Ok(())
    }

    /// Lets go of what no window needs any more.
    fn forget(&mut self, basis: &mut WindowContext, watermark: i64) -> Result<()> {
        while let Some((start, _)) = self.panes.first_key_value()
            && basis.is_over(*start + self.grid.width(), watermark)
        {
            let start = *start;
            self.panes.remove(&start);
            self.touched.remove(&start);
        }
        if self.panes.is_empty() {
            self.sliding = Sliding::default();
        }
        while let Some((end, _)) = self.said.first_key_value()
            && basis.is_over(*end, watermark)
        {
            self.said.pop_first();
        }
        let (panes, sliding) = (&self.panes, &self.sliding);
        let renumbered = basis.dictionary.compact(|alive| {
            for slot in panes.values() {
                let open = slot.open.iter().flat_map(|pane| pane.ids());
                let frozen = slot.frozen.iter().flat_map(|part| &part.ids);
                open.chain(frozen).for_each(|id| alive[*id as usize] = true);
            }
            sliding.ids().for_each(|id| alive[id as usize] = true);
        })?;
        if let Some(numbers) = renumbered {
            for slot in self.panes.values_mut() {
                slot.open.iter_mut().for_each(|pane| pane.renumber(&numbers));
                slot.frozen.iter_mut().for_each(|part| part.renumber(&numbers));
            }
            self.sliding.renumber(&numbers);
        }
        Ok(())
    }
}

impl Windows for GridWindows {
    fn add(&mut self, basis: &mut WindowContext, rows: Grouped, parts: &mut Vec<Changes>) -> Result<()> {
        let times = rows.changes.times.values();
        let Some((first, last)) = times.iter().copied().zip(times.iter().copied()).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
        else {
            return Ok(());
        };
        let mut placed = Vec::new();
        match (self.grid.pane_of(first), self.grid.pane_of(last)) {
            (Some(start), Some(end)) if start == end => {
                if self.place(basis, start, &rows)? {
                    placed.push(start);
                }
            }
            _ => {
                for (start, indices) in split(self.grid, basis, &rows) {
                    if self.place(basis, start, &rows.take(indices)?)? {
                        placed.push(start);
                    }
                }
            }
        }
        if basis.emission.lateness() == 0 {
            return Ok(());
        }
        let watermark = basis.watermark;
        let again = placed.into_iter().flat_map(|start| self.grid.ends_of(start));
        let again: BTreeSet<i64> = again.filter(|end| *end <= watermark && !basis.is_over(*end, watermark)).collect();
        self.look(basis, again, parts)
    }

    fn advance(&mut self, basis: &mut WindowContext, to: i64, supposed: bool, parts: &mut Vec<Changes>) -> Result<i64> {
        let from = basis.watermark;
        while let Some(end) = self.next_end(basis.watermark)
            && end <= to
        {
            let pane = self.window(basis, end)?;
            self.speak(basis, end, pane, parts)?;
            basis.watermark = end;
        }
        // The windows behind the last one that spoke were empty: rows that silence did not know of contradict nothing.
        let closed = if supposed { basis.watermark } else { to };
        basis.watermark = closed;
        if basis.emission.early_between(from, to) {
            let touched = std::mem::take(&mut self.touched);
            let open = touched.into_iter().flat_map(|start| self.grid.ends_of(start)).filter(|end| *end > to).collect();
            self.look(basis, open, parts)?;
        }
        self.forget(basis, closed)?;
        Ok(closed)
    }

    fn report(&self, basis: &WindowContext, report: &mut Report) {
        // Panes come in order, so the ends of each go on where those of the one before stop.
        let mut counted = basis.watermark;
        for start in self.panes.keys() {
            let Some(end) = self.grid.next_end(*start, counted) else { continue };
            if counted == basis.watermark {
                report.next_close = Some(report.next_close.map_or(Timestamp(end), |known| known.min(Timestamp(end))));
            }
            counted = start + self.grid.width();
            report.open_windows += ((counted - end) / self.grid.slide() + 1) as usize;
        }
        let groups =
            |slot: &Slot| slot.open.as_ref().map_or(0, Pane::len) + slot.frozen.as_ref().map_or(0, |part| part.ids.len());
        report.state_rows += self.panes.values().map(groups).sum::<usize>() + self.sliding.rows();
    }

    fn bytes(&self) -> usize {
        let said = self.said.values().flat_map(|(rows, _)| rows.columns());
        self.panes.values().map(Slot::bytes).sum::<usize>() + self.sliding.bytes() + held(said)
    }

    fn save(&mut self, basis: &mut WindowContext, state: &mut Saver) -> Result<()> {
        for (start, slot) in &mut self.panes {
            if let Some(open) = &mut slot.open {
                let look = || open.look(&basis.aggregates)?.rows(&basis.dictionary);
                state.keep(format_args!("open/{start}"), &mut slot.open_kept, look)?;
            }
            if let Some(frozen) = &slot.frozen {
                state.keep(format_args!("frozen/{start}"), &mut slot.frozen_kept, || frozen.rows(&basis.dictionary))?;
            }
        }
        for (end, (rows, kept)) in &mut self.said {
            state.keep(format_args!("said/{end}"), kept, || Ok(rows.clone()))?;
        }
        let touched: ArrayRef = Arc::new(Int64Array::from_iter_values(self.touched.iter().copied()));
        state.put("touched", state::rows([("start", touched)], self.touched.len())?);
        let bounds: ArrayRef = Arc::new(Int64Array::from(self.sliding.bounds().to_vec()));
        state.put("sliding", state::rows([("bound", bounds)], 3)?);
        Ok(())
    }

    fn load(&mut self, basis: &mut WindowContext, state: &mut Loader) -> Result<()> {
        for (name, rows) in state.take_all("open/") {
            let start = self.pane_start(&name)?;
            let open = Partial::load(rows, &mut basis.dictionary, &basis.aggregates)?;
            self.panes.entry(start).or_default().open.insert(basis.aggregates.pane()?).merge(&open)?;
        }
        for (name, rows) in state.take_all("frozen/") {
            let start = self.pane_start(&name)?;
            let frozen = Partial::load(rows, &mut basis.dictionary, &basis.aggregates)?;
            self.panes.entry(start).or_default().frozen = Some(frozen);
        }
        for (name, rows) in state.take_all("said/") {
            let end: i64 = state::number(&name)?;
            if end.checked_sub(self.grid.width()).is_none_or(|start| start.rem_euclid(self.grid.slide()) != 0) {
                return Err(rows.misfit("is of no window"));
            }
            self.said.insert(end, (rows.with_schema(&basis.emitter.finish.schema())?, FrameVersion::default()));
        }
        let mut saved = state.take("touched")?;
        self.touched = saved.numbers::<Int64Type>("start")?.values().iter().copied().collect();
        if self.touched.iter().any(|start| self.grid.pane_of(*start) != Some(*start)) {
            return Err(saved.misfit("names what is no pane"));
        }
        saved.end()?;
        let mut saved = state.take("sliding")?;
        let bounds = saved.numbers::<Int64Type>("bound")?;
        let bounds: [i64; 3] = bounds.values().as_ref().try_into().map_err(|_| saved.misfit("has not three bounds"))?;
        if !bounds.is_sorted() || (bounds[0] < bounds[2] && bounds[2] > basis.watermark) {
            return Err(saved.misfit("has bounds that cannot be"));
        }
        saved.end()?;
        self.sliding.rebuild(&self.panes, bounds, &basis.aggregates)
    }
}

/// The rows of each pane, in order of first appearance. Rows that have no place are noted as bad.
fn split(grid: Grid, basis: &mut WindowContext, rows: &Grouped) -> Vec<(i64, Vec<u32>)> {
    let mut panes: Vec<(i64, Vec<u32>)> = Vec::new();
    let mut known: HashMap<i64, usize> = HashMap::new();
    let mut last: Option<usize> = None;
    for (row, time) in rows.changes.times.values().iter().enumerate() {
        if let Some(last) = last
            && (0..grid.slide()).contains(&time.wrapping_sub(panes[last].0))
        {
            panes[last].1.push(row as u32);
            continue;
        }
        let Some(start) = grid.pane_of(*time) else {
            let reason = Error::new(Code::BadData, "its event time is too near to the end of time for a window around it");
            basis.bad.note(&rows.changes, row, &reason);
            continue;
        };
        let at = *known.entry(start).or_insert_with(|| {
            panes.push((start, Vec::new()));
            panes.len() - 1
        });
        panes[at].1.push(row as u32);
        last = Some(at);
    }
    panes
}
