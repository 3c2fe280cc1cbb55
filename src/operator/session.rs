//! `SESSION`: the windows that each key's own rows make, which grow and merge while rows come.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{concat_batches, interleave};
use arrow::datatypes::{Int64Type, UInt32Type};

use super::Report;
use super::emit::{LastEmitted, time_of};
use super::pane::{Accumulators, Aggregates};
use super::state::{self, FrameVersion, Loader, Saver};
use super::window_aggregate::{Grouped, WindowContext, Windows};
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::memory::held;
use crate::time::Timestamp;
use crate::window::{Gap, Window};

/// The state of all sessions: which there are, and the aggregate states they refer to.
pub struct Sessions {
    gap: Gap,
    /// By number of the key, in order of time; their windows do not overlap.
    by_key: HashMap<u32, Vec<Session>>,
    /// End and key of every session.
    ends: BTreeSet<(i64, u32)>,
    parts: PieceStates,
}

struct Session {
    window: Window,
    /// Its rows, aggregated piece by piece as they came.
    parts: Vec<PieceIndex>,
    /// What it, or those it was merged from, said last; kept only where a session may speak again.
    said: Vec<LastEmitted>,
    /// Whether it took rows since it spoke.
    changed: bool,
}

/// What a session takes beside the states of its pieces: its place among those of its key and in the order of ends.
const SESSION_BYTES: usize = 256;

impl Sessions {
    pub fn new(gap: Gap) -> Self {
        Sessions { gap, by_key: HashMap::new(), ends: BTreeSet::new(), parts: PieceStates::default() }
    }

    /// Adds a stretch of one key's rows, aggregated at `place`, to the sessions that its window overlaps.
    fn join(&mut self, key: u32, mut window: Window, place: PieceIndex) -> Window {
        let sessions = self.by_key.entry(key).or_default();
        let from = sessions.partition_point(|session| session.window.end <= window.start);
        let to = from + sessions[from..].partition_point(|session| session.window.start < window.end);
        let mut parts = Vec::new();
        let mut said = Vec::new();
        for session in sessions.drain(from..to) {
            self.ends.remove(&(session.window.end, key));
            window = window.union(session.window);
            parts.extend(session.parts);
            said.extend(session.said);
        }
        parts.push(place);
        sessions.insert(from, Session { window, parts, said, changed: true });
        self.ends.insert((window.end, key));
        window
    }

    /// Whether the stretch has no session to join and is itself over.
    fn is_late(&self, basis: &WindowContext, key: u32, window: Window) -> bool {
        let joins = |sessions: &Vec<Session>| sessions.iter().any(|session| session.window.overlaps(window));
        basis.is_over(window.end, basis.watermark) && !self.by_key.get(&key).is_some_and(joins)
    }

    fn session(&mut self, (end, key): (i64, u32)) -> Result<&mut Session> {
        let found = self.by_key.get_mut(&key).and_then(|sessions| sessions.iter_mut().find(|session| session.window.end == end));
        found.ok_or_else(|| Error::bug("a session is listed that is not there"))
    }

    /// Says the results of sessions, or how they differ from what was said before.
    fn speak(&mut self, basis: &mut WindowContext, which: &[(i64, u32)], parts: &mut Vec<Changes>) -> Result<()> {
        if which.is_empty() {
            return Ok(());
        }
        let mut places = Vec::new();
        let mut groups = Vec::new();
        let mut windows = Vec::new();
        for (group, which) in which.iter().enumerate() {
            let session = self.session(*which)?;
            session.changed = false;
            places.extend(&session.parts);
            groups.resize(places.len(), group);
            windows.push(session.window);
        }
        let (values, lost) = self.parts.merge(&basis.aggregates, &places, &groups, which.len())?.values()?;
        let ids: Vec<u32> = which.iter().map(|(_, key)| *key).collect();
        let rows = basis.result(&ids, &windows, values)?;
        basis.bad.lose(lost, &rows, |row| time_of(windows[row].end));
        let updates = basis.emission.updates();
        if basis.emitter.finish.rowwise() && !updates {
            // Unless rows are dropped on the way, all go together, each with the time of its own window.
            if let Ok(finished) = basis.emitter.finish.run(rows.clone())
                && finished.num_rows() == which.len()
            {
                parts.push(basis.emitter.firsts(finished, windows.iter().map(|window| window.end)));
                return Ok(());
            }
        }
        let mut start = 0;
        while start < which.len() {
            // What must be remembered by itself goes alone; else one window's rows go together.
            let same = |other: &Window| !updates && *other == windows[start];
            let length = windows[start + 1..].iter().take_while(|other| same(other)).count() + 1;
            let end = windows[start].end;
            let finished = basis.emitter.finish(rows.slice(start, length), end, &mut basis.bad)?;
            if updates {
                let session = self.session(which[start])?;
                let before = std::mem::replace(&mut session.said, vec![LastEmitted { rows: finished.clone(), end }]);
                parts.push(basis.emitter.correction(&before, &finished, end)?);
            } else {
                parts.push(basis.emitter.first(finished, end));
            }
            start += length;
        }
        Ok(())
    }

    fn forget(&mut self, basis: &mut WindowContext, watermark: i64) -> Result<()> {
        while let Some((end, key)) = self.ends.first().copied()
            && basis.is_over(end, watermark)
        {
            self.ends.pop_first();
            if let Some(sessions) = self.by_key.get_mut(&key) {
                sessions.retain(|session| session.window.end != end);
                if sessions.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
        let by_key = &self.by_key;
        let renumbered = basis.dictionary.compact(|alive| by_key.keys().for_each(|key| alive[*key as usize] = true))?;
        if let Some(numbers) = renumbered {
            let number = |key: u32| numbers[key as usize];
            self.by_key = self.by_key.drain().map(|(key, sessions)| (number(key), sessions)).collect();
            self.ends = self.ends.iter().map(|(end, key)| (*end, number(*key))).collect();
        }
        Ok(())
    }

    /// Once most pieces are of sessions that are gone, or of the same few, makes them one piece a session.
    fn compact(&mut self, basis: &WindowContext) -> Result<()> {
        if !self.parts.crowded(self.ends.len()) {
            return Ok(());
        }
        let mut places = Vec::new();
        let mut groups = Vec::new();
        let mut whole = PieceStates::default();
        let mut keys: Vec<_> = self.by_key.iter_mut().collect();
        keys.sort_unstable_by_key(|(key, _)| **key);
        for (group, session) in keys.into_iter().flat_map(|(_, sessions)| sessions).enumerate() {
            places.append(&mut session.parts);
            groups.resize(places.len(), group);
            session.parts.push(PieceIndex { chunk: 0, row: group });
        }
        if !places.is_empty() {
            let count = self.ends.len();
            whole.append(self.parts.merge(&basis.aggregates, &places, &groups, count)?.states()?, count);
        }
        self.parts = whole;
        Ok(())
    }
}

impl Windows for Sessions {
    fn add(&mut self, basis: &mut WindowContext, rows: Grouped, parts: &mut Vec<Changes>) -> Result<()> {
        let times = rows.changes.times.values();
        let mut order: Vec<u32> = (0..rows.ids.len() as u32).collect();
        order.sort_by_key(|row| (rows.ids[*row as usize], times[*row as usize]));

        // Stretches of rows of one key that are less than a gap apart, and the rows that have a place.
        let mut stretches: Vec<(u32, Window)> = Vec::new();
        let mut placed: Vec<u32> = Vec::with_capacity(order.len());
        let mut groups: Vec<usize> = Vec::with_capacity(order.len());
        for row in order {
            let (key, time) = (rows.ids[row as usize] as u32, times[row as usize]);
            let Some(claim) = self.gap.claim(time) else {
                let reason = Error::new(Code::BadData, "its event time is too near to the end of time for a window around it");
                basis.bad.note(&rows.changes, row as usize, &reason);
                continue;
            };
            match stretches.last_mut() {
                Some((last, window)) if *last == key && window.overlaps(claim) => *window = window.union(claim),
                _ => stretches.push((key, claim)),
            }
            placed.push(row);
            groups.push(stretches.len() - 1);
        }
        let late: Vec<bool> = stretches.iter().map(|(key, window)| self.is_late(basis, *key, *window)).collect();
        if late.contains(&true) {
            let mut next = 0;
            let numbers: Vec<Option<usize>> = late
                .iter()
                .map(|late| {
                    next += usize::from(!late);
                    (!late).then(|| next - 1)
                })
                .collect();
            let too_late = placed.iter().zip(&groups).filter(|(_, group)| late[**group]).map(|(row, _)| *row as usize);
            let too_late: Vec<usize> = too_late.collect();
            basis.late.note(&rows.changes, too_late.into_iter(), Timestamp(basis.watermark));
            let in_time = placed.iter().zip(&groups).filter_map(|(row, group)| Some((*row, numbers[*group]?)));
            (placed, groups) = in_time.unzip();
            let mut late = late.into_iter();
            stretches.retain(|_| !late.next().unwrap_or(false));
        }
        if stretches.is_empty() {
            return Ok(());
        }

        let rows = rows.take(placed)?;
        let mut accumulators = basis.aggregates.accumulators()?;
        accumulators.update(&rows.arguments, &rows.filters, &groups, stretches.len())?;
        let chunk = self.parts.append(accumulators.states()?, stretches.len());
        let mut again = BTreeSet::new();
        for (row, (key, window)) in stretches.into_iter().enumerate() {
            // Two stretches may join one session, which then has a later end.
            let window = self.join(key, window, PieceIndex { chunk, row });
            if window.end <= basis.watermark {
                again.insert((window.end, key));
            }
        }
        let again: Vec<(i64, u32)> = again.into_iter().filter(|which| self.ends.contains(which)).collect();
        self.speak(basis, &again, parts)?;
        self.compact(basis)
    }

    fn advance(&mut self, basis: &mut WindowContext, to: i64, supposed: bool, parts: &mut Vec<Changes>) -> Result<i64> {
        let from = basis.watermark;
        let closing: Vec<(i64, u32)> = match from.checked_add(1) {
            Some(after) if after <= to => self.ends.range((after, 0)..=(to, u32::MAX)).copied().collect(),
            _ => Vec::new(),
        };
        // Behind the last session that spoke there was none: rows that silence did not know of contradict nothing.
        let closed = if supposed { closing.iter().map(|(end, _)| *end).max().unwrap_or(from) } else { to };
        self.speak(basis, &self.in_order(closing), parts)?;
        if basis.emission.early_between(from, to)
            && let Some(after) = to.checked_add(1)
        {
            let open: Vec<(i64, u32)> = self.ends.range((after, 0)..).copied().collect();
            let mut changed = Vec::new();
            for which in open {
                if self.session(which)?.changed {
                    changed.push(which);
                }
            }
            self.speak(basis, &changed, parts)?;
        }
        self.forget(basis, closed)?;
        self.compact(basis)?;
        Ok(closed)
    }

    fn report(&self, basis: &WindowContext, report: &mut Report) {
        let after = basis.watermark.saturating_add(1);
        let mut open = self.ends.range((after, 0)..);
        if let Some((end, _)) = open.next() {
            // Only sessions that wait for late rows are kept beyond their end.
            report.open_windows += if basis.emission.lateness() == 0 { self.ends.len() } else { 1 + open.count() };
            report.next_close = Some(report.next_close.map_or(Timestamp(*end), |known| known.min(Timestamp(*end))));
        }
        report.state_rows += self.parts.rows;
    }

    fn bytes(&self) -> usize {
        let said = self.by_key.values().flatten().flat_map(|session| &session.said);
        self.ends.len() * SESSION_BYTES + self.parts.bytes() + held(said.flat_map(|said| said.rows.columns()))
    }

    fn save(&mut self, basis: &mut WindowContext, state: &mut Saver) -> Result<()> {
        basis.dictionary.save(state)?;
        self.parts.save(state)?;
        let mut keys: Vec<(&u32, &Vec<Session>)> = self.by_key.iter().collect();
        keys.sort_unstable_by_key(|(key, _)| **key);
        let (mut of_key, mut starts, mut ends, mut changed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut pieces, mut spoken, mut said) = (Vec::new(), Vec::new(), Vec::new());
        let mut places: Vec<&PieceIndex> = Vec::new();
        for (key, session) in keys.into_iter().flat_map(|(key, sessions)| sessions.iter().map(|session| (*key, session))) {
            of_key.push(key);
            starts.push(session.window.start);
            ends.push(session.window.end);
            changed.push(session.changed);
            pieces.push(session.parts.len() as u32);
            spoken.push(session.said.len() as u32);
            places.extend(&session.parts);
            said.extend(&session.said);
        }
        let count = of_key.len();
        let columns = [
            ("key", numbers(of_key)),
            ("start", Arc::new(Int64Array::from(starts))),
            ("end", Arc::new(Int64Array::from(ends))),
            ("changed", Arc::new(BooleanArray::from(changed))),
            ("pieces", numbers(pieces)),
            ("said", numbers(spoken)),
        ];
        state.put("sessions", state::rows(columns, count)?);
        let columns = [
            ("chunk", numbers(places.iter().map(|place| place.chunk as u32).collect())),
            ("row", numbers(places.iter().map(|place| place.row as u32).collect())),
        ];
        state.put("places", state::rows(columns, places.len())?);
        if !said.is_empty() {
            let columns = [
                ("rows", numbers(said.iter().map(|said| said.rows.num_rows() as u32).collect())),
                ("end", Arc::new(Int64Array::from_iter_values(said.iter().map(|said| said.end)))),
            ];
            state.put("said", state::rows(columns, said.len())?);
            state.put("said/rows", concat_batches(&basis.emitter.finish.schema(), said.iter().map(|said| &said.rows))?);
        }
        Ok(())
    }

    fn load(&mut self, basis: &mut WindowContext, state: &mut Loader) -> Result<()> {
        basis.dictionary.load(state)?;
        self.parts.load(&basis.aggregates, state)?;
        let mut said = load_said(basis, state)?.into_iter();

        let mut saved = state.take("places")?;
        let (chunks, rows) = (saved.numbers::<UInt32Type>("chunk")?, saved.numbers::<UInt32Type>("row")?);
        let places = chunks.values().iter().zip(rows.values());
        let places: Vec<PieceIndex> =
            places.map(|(chunk, row)| PieceIndex { chunk: *chunk as usize, row: *row as usize }).collect();
        if !places.iter().all(|place| self.parts.has(*place)) {
            return Err(saved.misfit("names a piece that is not there"));
        }
        saved.end()?;
        let mut places = places.into_iter();

        let mut saved = state.take("sessions")?;
        let keys = saved.numbers::<UInt32Type>("key")?;
        let (starts, ends) = (saved.numbers::<Int64Type>("start")?, saved.numbers::<Int64Type>("end")?);
        let changed = saved.flags("changed")?;
        let (pieces, spoken) = (saved.numbers::<UInt32Type>("pieces")?, saved.numbers::<UInt32Type>("said")?);
        for row in 0..saved.len() {
            let (key, window) = (keys.value(row), Window { start: starts.value(row), end: ends.value(row) });
            let parts: Vec<PieceIndex> = places.by_ref().take(pieces.value(row) as usize).collect();
            let said: Vec<LastEmitted> = said.by_ref().take(spoken.value(row) as usize).collect();
            let complete = parts.len() == pieces.value(row) as usize && said.len() == spoken.value(row) as usize;
            let sessions = self.by_key.entry(key).or_default();
            let in_order = sessions.last().is_none_or(|before| before.window.end <= window.start);
            if !complete || parts.is_empty() || !in_order || window.start >= window.end || key as usize >= basis.dictionary.len()
            {
                return Err(saved.misfit(format!("has a session in row {row} that cannot be")));
            }
            sessions.push(Session { window, parts, said, changed: changed.value(row) });
            self.ends.insert((window.end, key));
        }
        saved.end()
    }
}

fn numbers(numbers: Vec<u32>) -> ArrayRef {
    Arc::new(UInt32Array::from(numbers))
}

/// What all sessions said, one after the other.
fn load_said(basis: &WindowContext, state: &mut Loader) -> Result<Vec<LastEmitted>> {
    let Some(mut saved) = state.take_if_there("said") else { return Ok(Vec::new()) };
    let (counts, ends) = (saved.numbers::<UInt32Type>("rows")?, saved.numbers::<Int64Type>("end")?);
    let rows = state.take("said/rows")?.with_schema(&basis.emitter.finish.schema())?;
    let mut said = Vec::with_capacity(saved.len());
    let mut start = 0;
    for (count, end) in counts.values().iter().zip(ends.values()) {
        let count = *count as usize;
        if start + count > rows.num_rows() || *end == i64::MIN {
            return Err(saved.misfit("has what nobody said"));
        }
        said.push(LastEmitted { rows: rows.slice(start, count), end: *end });
        start += count;
    }
    saved.end()?;
    Ok(said)
}

impl Sessions {
    /// By end, then by start, so that equal windows stand side by side.
    fn in_order(&self, mut which: Vec<(i64, u32)>) -> Vec<(i64, u32)> {
        let start = |(end, key): &(i64, u32)| {
            let sessions = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
            sessions.iter().find(|session| session.window.end == *end).map(|session| session.window.start)
        };
        which.sort_by_cached_key(|which| (which.0, start(which), which.1));
        which
    }
}

/// Where a piece of a session lies.
#[derive(Debug, Clone, Copy)]
struct PieceIndex {
    chunk: usize,
    row: usize,
}

/// Aggregate states, a row for each piece of a session, in chunks as they came.
#[derive(Default)]
struct PieceStates {
    chunks: Vec<PieceChunk>,
    rows: usize,
}

struct PieceChunk {
    /// The columns of each aggregate.
    states: Vec<Vec<ArrayRef>>,
    rows: usize,
    kept: FrameVersion,
}

/// Below this many pieces, and chunks, compacting them costs more than it frees. Tests see it happen.
const FEW_PARTS: usize = if cfg!(test) { 8 } else { 4096 };
const FEW_CHUNKS: usize = if cfg!(test) { 4 } else { 256 };

impl PieceStates {
    /// Keeps the states of `rows` pieces; returns the number of their chunk.
    fn append(&mut self, states: Vec<Vec<ArrayRef>>, rows: usize) -> usize {
        self.chunks.push(PieceChunk { states, rows, kept: FrameVersion::default() });
        self.rows += rows;
        self.chunks.len() - 1
    }

    fn crowded(&self, sessions: usize) -> bool {
        self.rows > FEW_PARTS.max(sessions * 2) || self.chunks.len() > FEW_CHUNKS || (sessions == 0 && self.rows > 0)
    }

    fn bytes(&self) -> usize {
        let columns = self.chunks.iter().flat_map(|chunk| chunk.states.iter().flatten());
        held(columns)
    }

    /// Accumulators with the pieces at `places` merged, each into its group.
    fn merge(&self, aggregates: &Aggregates, places: &[PieceIndex], groups: &[usize], total: usize) -> Result<Accumulators> {
        let mut number = HashMap::new();
        let mut used = Vec::new();
        let places: Vec<(usize, usize)> = places
            .iter()
            .map(|place| {
                let chunk = *number.entry(place.chunk).or_insert_with(|| {
                    used.push(&self.chunks[place.chunk].states);
                    used.len() - 1
                });
                (chunk, place.row)
            })
            .collect();
        let mut states = Vec::new();
        for (aggregate, columns) in used.first().map_or(&[][..], |chunk| chunk.as_slice()).iter().enumerate() {
            let columns = (0..columns.len()).map(|column| {
                let chunks: Vec<&dyn Array> = used.iter().map(|chunk| chunk[aggregate][column].as_ref()).collect();
                Ok(interleave(&chunks, &places)?)
            });
            states.push(columns.collect::<Result<Vec<_>>>()?);
        }
        let mut accumulators = aggregates.accumulators()?;
        accumulators.merge(&states, groups, total)?;
        Ok(accumulators)
    }

    fn has(&self, place: PieceIndex) -> bool {
        self.chunks.get(place.chunk).is_some_and(|chunk| place.row < chunk.rows)
    }

    /// Gives the chunks as they are, dead pieces too: a chunk never changes, and that they are many decides when they are compacted.
    fn save(&mut self, state: &mut Saver) -> Result<()> {
        for (number, PieceChunk { states, rows, kept }) in self.chunks.iter_mut().enumerate() {
            let columns = states.iter().flatten().map(|column| ("state", Arc::clone(column)));
            state.keep(format_args!("pieces/{number}"), kept, || state::rows(columns, *rows))?;
        }
        Ok(())
    }

    fn load(&mut self, aggregates: &Aggregates, state: &mut Loader) -> Result<()> {
        let mut chunks = Vec::new();
        for (name, rows) in state.take_all("pieces/") {
            chunks.push((state::number::<usize>(&name)?, rows));
        }
        chunks.sort_by_key(|(number, _)| *number);
        for (at, (number, mut rows)) in chunks.into_iter().enumerate() {
            if at != number {
                return Err(rows.misfit("follows one that is missing"));
            }
            self.append(aggregates.load_states(&mut rows)?, rows.len());
            rows.end()?;
        }
        Ok(())
    }
}
