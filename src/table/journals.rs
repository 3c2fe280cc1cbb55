//! What people look back at, as rows that outlive the program: bad events, turns of the feed, gaps; their secrets masked.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};

use super::status::{BadSample, TableStatus};
use crate::error::Result;
use crate::feed::{self, FeedState, Gap, GapReason, Happening, Journal};
use crate::format::Bad;
use crate::operator::state::{FrameReader, FrameVersion, Loader, Saver, rows};
use crate::time::Timestamp;

/// Since when the journals of a table are what they are.
#[derive(Debug, Default)]
pub(super) struct Journals([Unchanged; 3]);

#[derive(Debug, Default)]
struct Unchanged {
    /// The number of the last entry when it was saved.
    last: u64,
    kept: FrameVersion,
}

/// An entry as columns. What a server sent goes through `shown`, which masks it.
trait JournalEntry: Clone {
    const FRAME: &str;
    fn journal<'a>(status: &'a TableStatus, feed: &'a feed::FeedStatus) -> &'a Journal<Self>;
    fn save(entries: &[Self], feed: &feed::FeedStatus) -> Vec<(&'static str, ArrayRef)>;
    fn load(rows: &mut FrameReader, feed: &feed::FeedStatus) -> Result<Vec<Self>>;
}

impl Journals {
    pub(super) fn save(&mut self, state: &mut Saver<'_>, status: &TableStatus, feed: &feed::FeedStatus) -> Result<()> {
        let [bad, log, gaps] = &mut self.0;
        save::<BadSample>(state, bad, status, feed)?;
        save::<Happening>(state, log, status, feed)?;
        save::<Gap>(state, gaps, status, feed)
    }
}

/// Puts the entries of an earlier life before those of this one.
pub(super) fn load(state: &mut Loader<'_>, status: &TableStatus, feed: &feed::FeedStatus) -> Result<()> {
    load_one::<BadSample>(state, status, feed)?;
    load_one::<Happening>(state, status, feed)?;
    load_one::<Gap>(state, status, feed)
}

const NUMBER: &str = "number";

fn save<E: JournalEntry>(
    state: &mut Saver<'_>,
    unchanged: &mut Unchanged,
    status: &TableStatus,
    feed: &feed::FeedStatus,
) -> Result<()> {
    let journal = E::journal(status, feed);
    let last = journal.last();
    if last != unchanged.last {
        (unchanged.last, unchanged.kept) = (last, FrameVersion::default());
    }
    state.keep(E::FRAME, &mut unchanged.kept, || written(&journal.after(0), feed))
}

fn written<E: JournalEntry>(entries: &[(u64, E)], feed: &feed::FeedStatus) -> Result<RecordBatch> {
    let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(entries.iter().map(|(number, _)| *number)));
    let content: Vec<E> = entries.iter().map(|(_, entry)| entry.clone()).collect();
    rows(std::iter::once((NUMBER, numbers)).chain(E::save(&content, feed)), entries.len())
}

fn load_one<E: JournalEntry>(state: &mut Loader<'_>, status: &TableStatus, feed: &feed::FeedStatus) -> Result<()> {
    let Some(mut rows) = state.take_if_there(E::FRAME) else { return Ok(()) };
    let numbers = rows.counts(NUMBER)?;
    let entries = E::load(&mut rows, feed)?;
    let last = numbers.values().last().copied().unwrap_or_default();
    if last < entries.len() as u64 {
        return Err(rows.misfit("has more entries than it counts"));
    }
    rows.end()?;
    E::journal(status, feed).restore(last, entries);
    Ok(())
}

impl JournalEntry for BadSample {
    const FRAME: &str = "bad";

    fn journal<'a>(status: &'a TableStatus, _: &'a feed::FeedStatus) -> &'a Journal<Self> {
        status.samples()
    }

    fn save(entries: &[Self], feed: &feed::FeedStatus) -> Vec<(&'static str, ArrayRef)> {
        let texts = |of: fn(&Bad) -> &String| texts(entries.iter().map(|sample| feed.shown(of(&sample.bad))));
        vec![
            ("received", times(entries.iter().map(|sample| sample.received))),
            ("reason", texts(|bad| &bad.reason)),
            ("id", texts(|bad| &bad.id)),
            ("kind", texts(|bad| &bad.kind)),
            ("data", texts(|bad| &bad.data)),
            ("offset", Arc::new(UInt64Array::from_iter_values(entries.iter().map(|sample| sample.bad.offset)))),
        ]
    }

    fn load(rows: &mut FrameReader, _: &feed::FeedStatus) -> Result<Vec<Self>> {
        let received = rows.numbers::<Int64Type>("received")?;
        let (reason, id) = (rows.texts("reason")?, rows.texts("id")?);
        let (kind, data) = (rows.texts("kind")?, rows.texts("data")?);
        let offset = rows.numbers::<UInt64Type>("offset")?;
        let sample = |at: usize| {
            let [reason, id, kind, data] = [&reason, &id, &kind, &data].map(|texts| texts.value(at).to_string());
            BadSample { received: Timestamp(received.value(at)), bad: Bad { reason, id, kind, data, offset: offset.value(at) } }
        };
        Ok((0..rows.len()).map(sample).collect())
    }
}

impl JournalEntry for Happening {
    const FRAME: &str = "log";

    fn journal<'a>(_: &'a TableStatus, feed: &'a feed::FeedStatus) -> &'a Journal<Self> {
        feed.log()
    }

    fn save(entries: &[Self], feed: &feed::FeedStatus) -> Vec<(&'static str, ArrayRef)> {
        let reasons = entries.iter().map(|entry| entry.reason.as_deref().map(|reason| feed.shown(reason)));
        vec![
            ("at", times(entries.iter().map(|entry| entry.at))),
            ("state", texts(entries.iter().map(|entry| entry.state.to_string()))),
            ("reason", Arc::new(StringArray::from_iter(reasons))),
        ]
    }

    fn load(rows: &mut FrameReader, _: &feed::FeedStatus) -> Result<Vec<Self>> {
        let (at, states) = (rows.numbers::<Int64Type>("at")?, rows.texts("state")?);
        let reasons = rows.column("reason", &DataType::Utf8)?;
        let reasons = arrow::array::AsArray::as_string::<i32>(&reasons);
        let happening = |row: usize| {
            let state = FeedState::ALL.into_iter().find(|state| state.as_str() == states.value(row));
            let state = state.ok_or_else(|| rows.misfit("has a state that there is not"))?;
            let reason = reasons.is_valid(row).then(|| reasons.value(row).to_string());
            Ok(Happening { at: Timestamp(at.value(row)), state, reason })
        };
        (0..rows.len()).map(happening).collect()
    }
}

impl JournalEntry for Gap {
    const FRAME: &str = "gaps";

    fn journal<'a>(_: &'a TableStatus, feed: &'a feed::FeedStatus) -> &'a Journal<Self> {
        feed.gaps()
    }

    fn save(entries: &[Self], feed: &feed::FeedStatus) -> Vec<(&'static str, ArrayRef)> {
        // Of all gaps, not only of those that are kept.
        let all = u64::try_from(feed.gap_time().as_nanos()).unwrap_or(u64::MAX);
        vec![
            ("from", times(entries.iter().map(|gap| gap.from))),
            ("to", times(entries.iter().map(|gap| gap.to))),
            ("last_id", texts(entries.iter().map(|gap| feed.shown(&gap.last_id)))),
            ("next_id", texts(entries.iter().map(|gap| feed.shown(&gap.next_id)))),
            ("missing", Arc::new(UInt64Array::from_iter(entries.iter().map(|gap| gap.missing)))),
            ("reason", texts(entries.iter().map(|gap| gap.reason.as_str().to_string()))),
            ("all_nanos", Arc::new(UInt64Array::from_value(all, entries.len()))),
        ]
    }

    fn load(rows: &mut FrameReader, feed: &feed::FeedStatus) -> Result<Vec<Self>> {
        let (from, to) = (rows.numbers::<Int64Type>("from")?, rows.numbers::<Int64Type>("to")?);
        let (last_id, next_id) = (rows.texts("last_id")?, rows.texts("next_id")?);
        let missing = rows.numbers_or_null::<UInt64Type>("missing")?;
        let reasons = rows.texts("reason")?;
        let all = rows.numbers::<UInt64Type>("all_nanos")?;
        let gap = |row: usize| {
            let reason = GapReason::ALL.into_iter().find(|reason| reason.as_str() == reasons.value(row));
            Ok(Gap {
                from: Timestamp(from.value(row)),
                to: Timestamp(to.value(row)),
                last_id: last_id.value(row).into(),
                next_id: next_id.value(row).into(),
                missing: missing.is_valid(row).then(|| missing.value(row)),
                reason: reason.ok_or_else(|| rows.misfit("has a reason that there is not"))?,
            })
        };
        let gaps = (0..rows.len()).map(gap).collect::<Result<Vec<_>>>()?;
        feed.add_gap_time(Duration::from_nanos(all.values().last().copied().unwrap_or_default()));
        Ok(gaps)
    }
}

fn texts(texts: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(texts))
}

fn times(times: impl Iterator<Item = Timestamp>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(times.map(Timestamp::nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::state::{Cut, Frame, FrameContent, contents};

    fn saved(journals: &mut Journals, status: &TableStatus, feed: &feed::FeedStatus, cut: Cut) -> Vec<Frame> {
        let mut frames = Vec::new();
        journals.save(&mut Saver::new(cut, &mut frames), status, feed).unwrap();
        frames
    }

    #[test]
    fn journals_come_back_with_their_numbers_and_are_given_again_only_when_they_grew() {
        let (status, feed) = (TableStatus::default(), feed::FeedStatus::new());
        let bad = |data: &str| Bad { reason: "no".into(), id: "7".into(), kind: "k".into(), data: data.into(), offset: 3 };
        (0..100).for_each(|at| status.keep_bad(bad(&at.to_string()), Timestamp(at)));
        feed.enter(FeedState::Connecting);
        feed.rest(FeedState::Paused);
        let gap = Gap {
            from: Timestamp(5),
            to: Timestamp(9),
            last_id: "1".into(),
            next_id: "4".into(),
            missing: Some(2),
            reason: GapReason::Skipped,
        };
        feed.gaps().restore(41, vec![gap.clone(), Gap { missing: None, ..gap }]);
        feed.add_gap_time(Duration::from_nanos(1_000));
        let mut journals = Journals::default();
        let frames = saved(&mut journals, &status, &feed, Cut { epoch: 4, written: None });

        let (status_2, feed_2) = (TableStatus::default(), feed::FeedStatus::new());
        load(&mut Loader::new(&mut contents(frames).unwrap()), &status_2, &feed_2).unwrap();
        assert_eq!(status_2.samples().after(0), status.samples().after(0));
        assert_eq!(feed_2.log().after(0), feed.log().after(0));
        assert_eq!(feed_2.gaps().after(0), feed.gaps().after(0));
        assert_eq!((feed_2.snapshot().gaps, feed_2.gap_time()), (41, Duration::from_nanos(1_000)));

        status.keep_bad(bad("more"), Timestamp(200));
        let frames = saved(&mut journals, &status, &feed, Cut { epoch: 5, written: Some(4) });
        let given = frames.iter().filter(|frame| frame.content != FrameContent::Unchanged).map(|frame| frame.name.as_str());
        assert_eq!(given.collect::<Vec<_>>(), ["bad"]);
    }
}
