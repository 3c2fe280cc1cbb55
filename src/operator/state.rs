//! The state of operators as named tables of rows, for a checkpoint and back: what is given at a cut, and how it is read again.
//!
//! A frame stands for itself: it names no number that only another frame explains, unless both belong to one operator and are always
//! given together. So a frame that did not change need not be given again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use sha2::{Digest, Sha256};

use crate::change::adopted;
use crate::error::{Code, Error, Result};
use crate::memory::detached;

/// The number of a checkpoint; it grows by one with each and is never used twice.
pub type Epoch = u64;

/// One table of rows. The name is unique within its [`StatePart`] and made of `[a-z0-9/_.-]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub name: String,
    pub content: FrameContent,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FrameContent {
    Rows(RecordBatch),
    /// The same rows as in the frame of this name in the checkpoint [`Cut::written`].
    Unchanged,
}

/// The frames of one table or view: `table/metrics`, `view/rolling`.
#[derive(Debug, Clone, PartialEq)]
pub struct StatePart {
    pub name: String,
    /// Of the definition and the plan that the frames belong to: under another one they mean nothing.
    pub fingerprint: String,
    pub frames: Vec<Frame>,
}

/// [`StatePart::fingerprint`] of a text that says all that the frames depend on, and is the same in every process.
pub fn fingerprint(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a fingerprint says of a plan or a format: the types of instants stand in it without their zone, as earlier versions had them, so
/// that a state of theirs is known again ([`adopted`]). A local time differs from an instant by the name of its type in SQL.
pub fn zoneless(text: &str) -> String {
    text.replace(", \"UTC\")", ")").replace("Some(\"UTC\")", "None")
}

/// Which checkpoint is being taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub epoch: Epoch,
    /// The last checkpoint that is safely on disk; `None` asks for everything in full.
    pub written: Option<Epoch>,
}

/// Takes the frames of one owner, whose names it prefixes.
pub struct Saver<'a> {
    frames: &'a mut Vec<Frame>,
    cut: Cut,
    path: String,
}

impl<'a> Saver<'a> {
    pub fn new(cut: Cut, frames: &'a mut Vec<Frame>) -> Self {
        Saver { frames, cut, path: String::new() }
    }

    /// Takes the frames of a part of the owner, whose names go on with `name`.
    pub fn within(&mut self, name: impl std::fmt::Display) -> Saver<'_> {
        Saver { path: format!("{}{name}/", self.path), cut: self.cut, frames: self.frames }
    }

    pub fn put(&mut self, name: impl std::fmt::Display, rows: RecordBatch) {
        self.frames.push(Frame { name: format!("{}{name}", self.path), content: FrameContent::Rows(lean(rows)) });
    }

    /// A frame whose owner tells in `kept` when it changes. The rows are asked for only if they must be given.
    pub fn keep(
        &mut self,
        name: impl std::fmt::Display,
        kept: &mut FrameVersion,
        rows: impl FnOnce() -> Result<RecordBatch>,
    ) -> Result<()> {
        if kept.since.is_some_and(|since| self.cut.written.is_some_and(|written| since <= written)) {
            self.frames.push(Frame { name: format!("{}{name}", self.path), content: FrameContent::Unchanged });
        } else {
            self.put(name, rows()?);
            kept.since.get_or_insert(self.cut.epoch);
        }
        Ok(())
    }
}

/// Since when the rows of a frame are what they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameVersion {
    /// The first checkpoint that has them.
    since: Option<Epoch>,
}

impl FrameVersion {
    /// The rows are others now.
    pub fn changed(&mut self) {
        self.since = None;
    }
}

/// Columns by name, for a frame. `rows` counts also where there are no columns.
pub fn rows<N: Into<String>>(columns: impl IntoIterator<Item = (N, ArrayRef)>, rows: usize) -> Result<RecordBatch> {
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) =
        columns.into_iter().map(|(name, column)| (Field::new(name, column.data_type().clone(), true), column)).unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
}

/// The same rows, without the texts of others that they came with: those would all be written.
fn lean(rows: RecordBatch) -> RecordBatch {
    let columns = rows.columns().iter().cloned().map(detached).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(rows.schema(), columns, &options).expect("the same rows in less memory")
}

/// The frames of a checkpoint that was read, by their names.
pub fn contents(frames: Vec<Frame>) -> Result<BTreeMap<String, RecordBatch>> {
    let rows = frames.into_iter().map(|Frame { name, content }| match content {
        FrameContent::Rows(rows) => Ok((name, rows)),
        FrameContent::Unchanged => Err(misfit(&name, "stands in an older checkpoint")),
    });
    rows.collect()
}

/// Gives the frames of one owner back, whose names it prefixes. Whatever does not fit is an error, for the bytes come from a disk.
pub struct Loader<'a> {
    frames: &'a mut BTreeMap<String, RecordBatch>,
    path: String,
}

impl<'a> Loader<'a> {
    pub fn new(frames: &'a mut BTreeMap<String, RecordBatch>) -> Self {
        Loader { frames, path: String::new() }
    }

    pub fn within(&mut self, name: impl std::fmt::Display) -> Loader<'_> {
        Loader { path: format!("{}{name}/", self.path), frames: self.frames }
    }

    pub fn take(&mut self, name: impl std::fmt::Display) -> Result<FrameReader> {
        let name = format!("{}{name}", self.path);
        self.find(&name).ok_or_else(|| misfit(&name, "is missing"))
    }

    /// The frame of this name, if its owner had a reason to give one.
    pub fn take_if_there(&mut self, name: impl std::fmt::Display) -> Option<FrameReader> {
        self.find(&format!("{}{name}", self.path))
    }

    /// All frames of the owner whose names go on with `prefix`, and the rest of each name.
    pub fn take_all(&mut self, prefix: &str) -> Vec<(String, FrameReader)> {
        let prefix = format!("{}{prefix}", self.path);
        let names: Vec<String> = self
            .frames
            .range(prefix.clone()..)
            .map(|(name, _)| name.clone())
            .take_while(|name| name.starts_with(&prefix))
            .collect();
        names.into_iter().filter_map(|name| Some((name[prefix.len()..].to_string(), self.find(&name)?))).collect()
    }

    fn find(&mut self, name: &str) -> Option<FrameReader> {
        let rows = self.frames.remove(name)?;
        Some(FrameReader { frame: name.to_string(), rows, next: 0 })
    }
}

/// No count of rows gets near to this, and none that starts below overflows.
const MOST: u64 = 1 << 62;

/// A frame that is read column by column, in the order in which they were given.
pub struct FrameReader {
    frame: String,
    rows: RecordBatch,
    next: usize,
}

impl FrameReader {
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All columns as they are.
    pub fn into_batch(self) -> RecordBatch {
        self.rows
    }

    /// The next column, which has this name and type.
    pub fn column(&mut self, name: &str, data_type: &DataType) -> Result<ArrayRef> {
        let at = self.next;
        match self.rows.schema_ref().fields().get(at) {
            Some(field) => {
                if field.name() == name
                    && let Some(column) = adopted(self.rows.column(at), data_type)
                {
                    self.next += 1;
                    return Ok(column);
                }
                Err(self.misfit(format!("has {} of type {} for {name} of type {data_type}", field.name(), field.data_type())))
            }
            None => Err(self.misfit(format!("has no column {name}"))),
        }
    }

    /// The next column, of numbers without NULL.
    pub fn numbers<T: ArrowPrimitiveType>(&mut self, name: &str) -> Result<PrimitiveArray<T>> {
        let column = self.numbers_or_null::<T>(name)?;
        if column.null_count() > 0 { Err(self.misfit(format!("has no value in {name}"))) } else { Ok(column) }
    }

    /// The next column, of counts that can go on for longer than any feed.
    pub fn counts(&mut self, name: &str) -> Result<UInt64Array> {
        let counts = self.numbers::<UInt64Type>(name)?;
        if counts.values().iter().any(|count| *count > MOST) {
            Err(self.misfit(format!("counts too much in {name}")))
        } else {
            Ok(counts)
        }
    }

    pub fn numbers_or_null<T: ArrowPrimitiveType>(&mut self, name: &str) -> Result<PrimitiveArray<T>> {
        Ok(self.column(name, &T::DATA_TYPE)?.as_primitive::<T>().clone())
    }

    /// The number in the next column of a frame of one row.
    pub fn number<T: ArrowPrimitiveType>(&mut self, name: &str) -> Result<T::Native> {
        self.one()?;
        Ok(self.numbers::<T>(name)?.value(0))
    }

    /// The number or NULL in the next column of a frame of one row.
    pub fn number_or_null<T: ArrowPrimitiveType>(&mut self, name: &str) -> Result<Option<T::Native>> {
        self.one()?;
        let column = self.numbers_or_null::<T>(name)?;
        Ok(column.is_valid(0).then(|| column.value(0)))
    }

    /// The next column, of truths without NULL.
    pub fn flags(&mut self, name: &str) -> Result<BooleanArray> {
        let column = self.column(name, &DataType::Boolean)?;
        if column.null_count() > 0 {
            Err(self.misfit(format!("has no value in {name}")))
        } else {
            Ok(column.as_boolean().clone())
        }
    }

    /// The truth in the next column of a frame of one row.
    pub fn flag(&mut self, name: &str) -> Result<bool> {
        self.one()?;
        Ok(self.flags(name)?.value(0))
    }

    /// The next column, of texts without NULL.
    pub fn texts(&mut self, name: &str) -> Result<StringArray> {
        let column = self.column(name, &DataType::Utf8)?;
        if column.null_count() > 0 { Err(self.misfit(format!("has no value in {name}"))) } else { Ok(column.as_string().clone()) }
    }

    /// All columns must have been read.
    pub fn end(self) -> Result<()> {
        match self.rows.schema_ref().fields().get(self.next) {
            Some(field) => Err(self.misfit(format!("has a column {} too many", field.name()))),
            None => Ok(()),
        }
    }

    /// The whole frame, whose columns have the names and types of `schema`.
    pub fn with_schema(self, schema: &SchemaRef) -> Result<RecordBatch> {
        let fields = self.rows.schema_ref().fields();
        let same_names = fields.iter().map(|field| field.name()).eq(schema.fields().iter().map(|field| field.name()));
        let columns = self.rows.columns().iter().zip(schema.fields());
        let columns: Option<Vec<ArrayRef>> = columns.map(|(column, field)| adopted(column, field.data_type())).collect();
        let Some(columns) = columns.filter(|_| same_names) else { return Err(self.misfit("has other columns")) };
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|error| self.misfit(error))
    }

    /// An error about what this frame says.
    pub fn misfit(&self, problem: impl std::fmt::Display) -> Error {
        misfit(&self.frame, problem)
    }

    fn one(&self) -> Result<()> {
        if self.len() == 1 { Ok(()) } else { Err(self.misfit(format!("has {} rows instead of one", self.len()))) }
    }
}

/// The number that the name of a frame ends in.
pub fn number<N: std::str::FromStr>(name: &str) -> Result<N> {
    name.parse().map_err(|_| misfit(name, "does not end in a number"))
}

/// An error about the saved frame `frame`.
pub fn misfit(frame: &str, problem: impl std::fmt::Display) -> Error {
    Error::new(Code::Data, format!("the saved state does not fit the query: {frame} {problem}"))
}

#[cfg(test)]
pub mod survival;

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, StringViewBuilder, UInt32Array};
    use arrow::compute::take;

    use super::*;

    #[test]
    fn a_frame_of_few_rows_does_not_carry_the_texts_of_all() {
        let mut builder = ListBuilder::new(StringViewBuilder::new());
        for row in 0..10_000 {
            builder.append_value([Some(format!("a text too long for a view, number {row}"))]);
        }
        let few = take(&builder.finish(), &UInt32Array::from(vec![17, 4]), None).unwrap();
        let mut frames = Vec::new();
        Saver::new(Cut { epoch: 1, written: None }, &mut frames).put("few", rows([("text", few.clone())], 2).unwrap());
        let FrameContent::Rows(lean) = &frames[0].content else { panic!("not given") };
        assert_eq!(lean.column(0), &few);
        assert!(lean.get_array_memory_size() < 2000, "{} bytes", lean.get_array_memory_size());
    }

    #[test]
    fn a_frame_is_left_out_once_a_checkpoint_that_has_it_is_written() {
        let mut kept = FrameVersion::default();
        let given = |epoch, written, kept: &mut FrameVersion| {
            let mut frames = Vec::new();
            Saver::new(Cut { epoch, written }, &mut frames).keep("rows", kept, || rows::<&str>([], 1)).unwrap();
            matches!(frames[0].content, FrameContent::Rows(_))
        };
        assert!(given(4, None, &mut kept));
        assert!(given(5, Some(3), &mut kept), "4 was not written");
        assert!(!given(6, Some(5), &mut kept));
        assert!(!given(7, Some(4), &mut kept));
        assert!(given(8, None, &mut kept), "all is asked for");
        kept.changed();
        assert!(given(9, Some(8), &mut kept));
        assert!(!given(10, Some(9), &mut kept));
    }

    #[test]
    fn a_frame_is_read_as_it_was_given_or_not_at_all() {
        let column: ArrayRef = Arc::new(UInt64Array::from(vec![Some(1), None]));
        let mut frames = BTreeMap::from([("3/a".to_string(), rows([("n", column)], 2).unwrap())]);
        let mut state = Loader::new(&mut frames);
        assert_eq!(state.take("a").err().map(|error| error.code()), Some(Code::Data));
        let mut saved = state.within(3).take("a").unwrap();
        assert!(saved.column("m", &DataType::UInt64).is_err());
        assert!(saved.column("n", &DataType::Int64).is_err());
        assert!(saved.numbers::<UInt64Type>("n").is_err(), "there is a NULL");
        assert!(saved.end().is_ok());
    }
}
