//! A chain that is saved, one that is put in its place, and one that nobody disturbs: they must say the same to the last digit.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch, RecordBatchOptions, make_array,
};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, Schema, UInt32Type, UInt64Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use super::{Cut, Epoch, Frame, FrameContent};
use crate::error::Code;
use crate::operator::{Chain, Message, Report};

/// What a chain is fed with: the number of a source, and a message.
pub type Feed = Vec<(usize, Message)>;

/// How alike the values of two results are.
#[derive(Clone, Copy)]
pub enum Likeness {
    /// To the last bit, and so are the frames.
    States,
    /// To the last bit; sets stand in frames in any order.
    Results,
    /// Floating-point numbers up to this share of them.
    Within(f64),
}

/// Feeds the same to chains that `make` gives, saving after the messages whose numbers are in `cuts`.
///
/// One is not disturbed; one is saved in full; one is saved with frames that did not change left out, where every third checkpoint is
/// lost. Beside each of the last two runs one that is replaced at each cut by a new chain, which loads what was saved, and by some more,
/// each of which loads what the one before saves at once. What is left out must be found in the last checkpoint that was written, so that all frames equal those of the full one.
///
/// `likeness` is that of chains that were saved at other times, or not at all. Those that were saved together are always the same.
pub fn check(make: &dyn Fn() -> Chain, feed: &Feed, cuts: &[usize], likeness: Likeness) {
    let [mut undisturbed, mut full, mut sparing, mut reborn, mut patched] = [make(), make(), make(), make(), make()];
    let mut disk: BTreeMap<String, RecordBatch> = BTreeMap::new();
    let mut written = None;
    let mut epoch = 0;
    for (at, (source, message)) in feed.iter().enumerate() {
        let mut said = Vec::new();
        for chain in [&mut undisturbed, &mut full, &mut sparing, &mut reborn, &mut patched] {
            let mut out = Vec::new();
            chain.push(*source, message.clone(), &mut out).unwrap();
            said.push(out);
        }
        assert_alike(&said[0], &said[1], likeness, at);
        assert_alike(&said[0], &said[2], likeness, at);
        assert_alike(&said[1], &said[3], Likeness::Results, at);
        assert_alike(&said[2], &said[4], Likeness::Results, at);
        for other in [&full, &sparing, &reborn, &patched] {
            assert_eq!(story(&undisturbed), story(other), "what the chain tells of itself after message {at}");
        }
        if !cuts.contains(&at) {
            continue;
        }
        epoch += 1;
        let all = resolve(full.save(Cut { epoch, written: None }).unwrap(), &BTreeMap::new());
        let some = resolve(sparing.save(Cut { epoch, written }).unwrap(), &disk);
        assert_eq!(all.keys().collect::<Vec<_>>(), some.keys().collect::<Vec<_>>(), "the names of frames at message {at}");
        for (name, rows) in &all {
            if matches!(likeness, Likeness::States) {
                assert_eq!(rows, &some[name], "{name} at message {at}");
            }
            let known = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "/_.-".contains(letter);
            assert!(name.chars().all(known), "{name}");
        }
        // Earlier versions kept instants without their zone.
        let before = some.iter().map(|(name, rows)| (name.clone(), without_zones(rows))).collect();
        for (chain, mut frames) in [(&mut reborn, all), (&mut patched, before)] {
            // More than once: nothing need come between two restarts.
            for again in 0..3 {
                *chain = make();
                let saved = frames.into_iter().map(|(name, rows)| through_ipc(Frame { name, content: FrameContent::Rows(rows) }));
                chain.load(saved.collect()).unwrap_or_else(|error| panic!("restart {again} after message {at}: {error}"));
                frames = resolve(chain.save(Cut { epoch, written: None }).unwrap(), &BTreeMap::new());
            }
        }
        if epoch % 3 > 0 {
            (disk, written) = (some, Some(epoch));
        }
    }
}

/// The same rows as a version kept them whose instants had no zone.
fn without_zones(rows: &RecordBatch) -> RecordBatch {
    fn plain(data: ArrayData) -> ArrayData {
        let children: Vec<ArrayData> = data.child_data().iter().cloned().map(plain).collect();
        let part = |field: &FieldRef, child: &ArrayData| Arc::new(Field::clone(field).with_data_type(child.data_type().clone()));
        let data_type = match data.data_type() {
            DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, None),
            DataType::Struct(fields) => {
                DataType::Struct(fields.iter().zip(&children).map(|(field, child)| part(field, child)).collect())
            }
            DataType::List(item) => DataType::List(part(item, &children[0])),
            other => other.clone(),
        };
        data.into_builder().data_type(data_type).child_data(children).build().unwrap()
    }
    let columns: Vec<ArrayRef> = rows.columns().iter().map(|column| make_array(plain(column.to_data()))).collect();
    let fields = rows.schema_ref().fields().iter().zip(&columns);
    let fields: Vec<Field> =
        fields.map(|(field, column)| Field::clone(field).with_data_type(column.data_type().clone())).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).unwrap()
}

/// How often a chain that is saved after each message leaves a frame out.
pub fn left_out(mut chain: Chain, feed: &Feed) -> (usize, usize) {
    let (mut unchanged, mut all) = (0, 0);
    for (at, (source, message)) in feed.iter().enumerate() {
        chain.push(*source, message.clone(), &mut Vec::new()).unwrap();
        let epoch = at as Epoch + 1;
        let frames = chain.save(Cut { epoch, written: epoch.checked_sub(1).filter(|before| *before > 0) }).unwrap();
        all += frames.len();
        unchanged += frames.iter().filter(|frame| frame.content == FrameContent::Unchanged).count();
    }
    (unchanged, all)
}

fn resolve(frames: Vec<Frame>, before: &BTreeMap<String, RecordBatch>) -> BTreeMap<String, RecordBatch> {
    let count = frames.len();
    let resolved: BTreeMap<_, _> = frames
        .into_iter()
        .map(|Frame { name, content }| {
            let rows = match content {
                FrameContent::Rows(rows) => rows,
                FrameContent::Unchanged => before.get(&name).unwrap_or_else(|| panic!("{name} was never written")).clone(),
            };
            (name, rows)
        })
        .collect();
    assert_eq!(resolved.len(), count, "two frames have one name");
    resolved
}

/// The frame as a file gives it back.
pub fn through_ipc(frame: Frame) -> Frame {
    let FrameContent::Rows(rows) = frame.content else { panic!("{} is not there", frame.name) };
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema()).unwrap();
    writer.write(&rows).unwrap();
    let bytes = writer.into_inner().unwrap();
    let mut batches: Vec<RecordBatch> =
        StreamReader::try_new(bytes.as_slice(), None).unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.len(), 1);
    let back = batches.remove(0);
    assert_eq!(back.num_rows(), rows.num_rows(), "{}", frame.name);
    Frame { name: frame.name, content: FrameContent::Rows(back) }
}

/// What a chain tells, but for the size of its state: that may differ.
fn story(chain: &Chain) -> Report {
    Report { state_rows: 0, ..chain.report() }
}

fn assert_alike(left: &[Message], right: &[Message], likeness: Likeness, at: usize) {
    assert_eq!(left.len(), right.len(), "messages after message {at}: {left:?} {right:?}");
    for (left, right) in left.iter().zip(right) {
        match (left, right) {
            (Message::Changes(left), Message::Changes(right)) => {
                assert_eq!((&left.times, &left.weights), (&right.times, &right.weights), "after message {at}");
                assert_eq!(left.rows.schema(), right.rows.schema(), "after message {at}");
                for (left, right) in left.rows.columns().iter().zip(right.rows.columns()) {
                    match likeness {
                        Likeness::Within(share) if *left.data_type() == DataType::Float64 => assert_near(left, right, share, at),
                        _ => assert_eq!(left, right, "after message {at}"),
                    }
                }
            }
            (Message::Watermark(left), Message::Watermark(right)) => assert_eq!(left, right, "after message {at}"),
            (Message::End, Message::End) => {}
            _ => panic!("after message {at}: {left:?} is not {right:?}"),
        }
    }
}

fn assert_near(left: &ArrayRef, right: &ArrayRef, share: f64, at: usize) {
    assert_eq!(left.nulls(), right.nulls(), "after message {at}");
    let values = left.as_primitive::<Float64Type>().values().iter().zip(right.as_primitive::<Float64Type>().values());
    for (left, right) in values {
        // Differences of nearly equal numbers may be off by more of themselves, but not by more of what they were made of.
        let near = (left - right).abs() <= share * left.abs().max(right.abs()).max(1.0);
        assert!(near || left.to_bits() == right.to_bits(), "after message {at}: {left} {right}");
    }
}

/// Changes frames of a chain that is saved halfway through its feed, one at a time: a new chain refuses what it is given to load, or goes
/// on with it. It must refuse some.
pub fn check_damaged(make: &dyn Fn() -> Chain, feed: &Feed) {
    let (first, rest) = feed.split_at(feed.len() / 2);
    let mut saved = make();
    first.iter().for_each(|(source, message)| saved.push(*source, message.clone(), &mut Vec::new()).unwrap());
    let frames = saved.save(Cut { epoch: 1, written: None }).unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let mut refused = 0;
    for _ in 0..600 {
        let mut frames = frames.clone();
        let at = random.usize(0..frames.len());
        let FrameContent::Rows(rows) = &mut frames[at].content else { panic!("not given") };
        if damage(&mut random, rows) {
            let mut chain = make();
            match chain.load(frames) {
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.code(), Code::Data, "{error}");
                }
                Ok(()) => rest.iter().for_each(|(source, message)| drop(chain.push(*source, message.clone(), &mut Vec::new()))),
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// Changes one number of a frame, or loses a column or a row. Returns whether there was one. What stands in states is not looked at:
/// only an aggregate knows what it means.
fn damage(random: &mut fastrand::Rng, rows: &mut RecordBatch) -> bool {
    if rows.num_columns() == 0 {
        return false;
    }
    let at = random.usize(0..rows.num_columns());
    match random.u8(0..8) {
        0 => drop(rows.remove_column(at)),
        1 if rows.num_rows() > 0 => *rows = rows.slice(0, rows.num_rows() - 1),
        2 if rows.num_rows() > 0 => *rows = rows.slice(1, rows.num_rows() - 1),
        _ if rows.num_rows() > 0 && rows.schema_ref().field(at).name() != "state" => {
            let row = random.usize(0..rows.num_rows());
            let number = [0, 1, 2, 17, -1, i64::MIN, i64::MAX, random.i64(..)][random.usize(0..8)];
            let column = rows.column(at);
            let changed: ArrayRef = match column.data_type() {
                DataType::Int64 => Arc::new(swap::<Int64Type>(column, row, number)),
                DataType::UInt64 => Arc::new(swap::<UInt64Type>(column, row, number as u64)),
                DataType::UInt32 => Arc::new(swap::<UInt32Type>(column, row, number as u32)),
                _ => return false,
            };
            let mut columns = rows.columns().to_vec();
            columns[at] = changed;
            *rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
        }
        _ => return false,
    }
    true
}

fn swap<T: ArrowPrimitiveType>(column: &ArrayRef, row: usize, number: T::Native) -> PrimitiveArray<T> {
    let mut values = column.as_primitive::<T>().values().to_vec();
    values[row] = number;
    PrimitiveArray::new(values.into(), column.nulls().cloned())
}
