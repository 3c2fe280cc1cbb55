//! The events of a change feed: which row each is about, and what became of it.
//!
//! Debezium's JSON (`before`, `after`, `op`; with or without `schema` and `payload` around them), wal2json's format-version 2
//! (`action`, `columns`, `identity`), and plain records, each of which says what its row is from now on.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use serde::Deserialize;

use super::decode::{Image, each_record, must_be, told};
use super::object::{self, ByteRange, Fault, NameIndex, NearFields};
use super::value::NumericTime;
use super::{Bad, Decoder, FormatSpec, RawEvent};
use crate::error::Result;
use crate::options::{Format, Framing};
use crate::time::TimestampArray;

/// What became of a row. Rows and keys are those of [`RowChanges`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// There is this row, in the place of any with the same key; `old` is the key it had until now, where the event tells.
    Upsert { row: u32, old: Option<u32> },
    /// The row with this key is gone.
    Remove { key: u32 },
    /// All rows are gone.
    Clear,
}

/// A part of the schema that Kafka Connect puts beside a payload.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConnectSchema {
    field: Option<String>,
    /// What the type means, such as `io.debezium.time.MicroTimestamp`.
    name: Option<String>,
    fields: Vec<ConnectSchema>,
}

/// What events have told, in their order.
#[derive(Debug)]
pub struct RowChanges {
    pub ops: Vec<Op>,
    /// The columns asked for, and the event time of each row.
    pub rows: RecordBatch,
    pub times: TimestampArray,
    /// The key columns of rows as they were.
    pub keys: RecordBatch,
    /// Records about something else: other tables, transactions, tombstones.
    pub skipped: u64,
}

impl RowChanges {
    /// Only the first `length` of the changes, and the rows that they are about.
    pub fn truncate(&mut self, length: usize) {
        self.ops.truncate(length);
        let rows = self.ops.iter().filter(|op| matches!(op, Op::Upsert { .. })).count();
        (self.rows, self.times) = (self.rows.slice(0, rows), self.times.slice(0, rows));
    }
}

/// Turns events into changes of rows.
pub struct ChangeDecoder {
    format: Format,
    framing: Framing,
    table: Option<TableName>,
    rows: Decoder,
    keys: Decoder,
    /// The fields around the rows, and those of Debezium's `source`.
    envelope: NameIndex,
    source: NameIndex,
    /// Where Debezium's events tell their own schema, that of the last one; `None` where nobody asks for it.
    schema: Option<String>,
    schema_name: NameIndex,
    ops: Vec<Op>,
    skipped: u64,
    elements: Vec<Option<ByteRange>>,
}

/// The table of the database whose rows are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TableName {
    schema: Option<String>,
    table: String,
}

/// The fields of Debezium's envelope, in the order of [`ChangeDecoder::debezium`].
const DEBEZIUM: [&str; 5] = ["op", "before", "after", "source", "payload"];
/// The fields of wal2json's, in the order of [`ChangeDecoder::wal2json`].
const WAL2JSON: [&str; 5] = ["action", "columns", "identity", "schema", "table"];
/// Where Debezium says which table a change is of; MySQL's has no schema.
const SOURCE: [&str; 3] = ["schema", "db", "table"];

impl ChangeDecoder {
    /// A decoder of the columns `projection` of `spec`, for rows named by the columns `key`; of all tables of the database, or only
    /// of `table` (`public.metrics`, or `metrics` of any schema).
    pub fn new(spec: &FormatSpec, projection: &[usize], key: &[usize], table: Option<&str>) -> Result<ChangeDecoder> {
        let untimed = FormatSpec { time: None, ..spec.clone() };
        let envelope = if spec.format == Format::Wal2json { WAL2JSON } else { DEBEZIUM };
        Ok(ChangeDecoder {
            format: spec.format,
            framing: spec.framing,
            table: table.map(|name| match name.split_once('.') {
                Some((schema, table)) => TableName { schema: Some(schema.into()), table: table.into() },
                None => TableName { schema: None, table: name.into() },
            }),
            rows: Decoder::new(spec, projection)?.observe(),
            keys: Decoder::new(&untimed, key)?,
            envelope: NameIndex::exact(envelope),
            source: NameIndex::exact(SOURCE),
            schema: (NumericTime::of(spec) == NumericTime::Debezium).then(String::new),
            schema_name: NameIndex::exact(["schema"]),
            ops: Vec::new(),
            skipped: 0,
            elements: Vec::new(),
        })
    }

    /// Reads one event. A record that cannot be read costs only itself and is told to `bad`.
    pub fn push(&mut self, input: RawEvent<'_>, bad: &mut dyn FnMut(Bad)) {
        let mut elements = std::mem::take(&mut self.elements);
        each_record(input, self.framing, &mut elements, |record| match record.and_then(|part| self.change(input, part)) {
            Ok(Some(op)) => self.ops.push(op),
            Ok(None) => self.skipped += 1,
            Err(fault) => bad(told(fault, input)),
        });
        self.elements = elements;
    }

    /// The number of changes so far.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.skipped == 0
    }

    /// See [`Decoder::absent`].
    pub fn absent(&mut self) -> Option<Vec<String>> {
        self.rows.absent()
    }

    /// See [`Decoder::end`].
    pub fn end(&mut self) {
        self.rows.end();
    }

    /// What came so far, and begins anew.
    pub fn take(&mut self) -> Result<RowChanges> {
        let (rows, times) = self.rows.take()?;
        let (keys, _) = self.keys.take()?;
        Ok(RowChanges { ops: std::mem::take(&mut self.ops), rows, times, keys, skipped: std::mem::take(&mut self.skipped) })
    }

    /// What a record tells; `None` for one that is about something else.
    fn change(&mut self, input: RawEvent<'_>, record: ByteRange) -> Result<Option<Op>, Fault> {
        match self.format {
            Format::Json | Format::RawString => self.upsert(input, record, Image::Object(record), None).map(Some),
            Format::Debezium => self.debezium(input, record),
            Format::Wal2json => self.wal2json(input, record),
        }
    }

    fn debezium(&mut self, input: RawEvent<'_>, record: ByteRange) -> Result<Option<Op>, Fault> {
        let data = input.data;
        let Some(mut around) = self.envelope(data, record)? else { return Ok(None) };
        if let [None, .., Some(payload)] = around {
            self.learn(data, record)?;
            around = match self.envelope(data, payload)? {
                Some(inner) => inner,
                None => return Ok(None),
            };
        }
        let [op, before, after, source, _] = around.map(|slot| slot.and_then(|part| present(data, part)));
        let Some(op) = op else {
            return Err(Fault::new(
                record.start,
                "this is no change of Debezium's: 'op' is missing (format = 'json' reads plain rows)",
            ));
        };
        if self.table.is_some() {
            let mut names = [None; 3];
            if let Some(source) = source {
                object::fields(data, source, &self.source, &mut names, &mut NearFields::default())?;
            }
            let [schema, db, table] = names;
            if !self.wants(data, schema.and_then(|part| present(data, part)).or(db), table) {
                return Ok(None);
            }
        }
        match text(data, op).as_ref() {
            "c" | "r" | "u" => {
                let after = after.ok_or_else(|| Fault::new(record.start, "the change has no 'after'"))?;
                self.upsert(input, record, Image::Debezium(after), before.map(Image::Object)).map(Some)
            }
            "d" => match before {
                Some(before) => self.remove(input, record, Image::Object(before)).map(Some),
                None => Err(unnamed(record, "before")),
            },
            "t" => Ok(Some(Op::Clear)),
            "m" => Ok(None),
            other => Err(Fault::new(op.start, format!("the op '{other}' is not known: c, r, u, d, t and m are"))),
        }
    }

    /// Takes the types of the row's times from the schema that an event carries, unless it is that of the event before.
    fn learn(&mut self, data: &str, record: ByteRange) -> Result<(), Fault> {
        let Some(known) = &mut self.schema else { return Ok(()) };
        let mut slot = [None];
        object::fields(data, record, &self.schema_name, &mut slot, &mut NearFields::default())?;
        let text = slot[0].map(|part| part.of(data)).unwrap_or_default();
        if known != text {
            text.clone_into(known);
            // What is no such schema tells nothing, and the row may be read all the same.
            let told = serde_json::from_str::<ConnectSchema>(text).unwrap_or_default();
            for row in told.fields.iter().filter(|row| matches!(row.field.as_deref(), Some("before" | "after"))) {
                for column in &row.fields {
                    if let (Some(field), Some(name)) = (&column.field, &column.name) {
                        self.rows.told(field, name);
                        self.keys.told(field, name);
                    }
                }
            }
        }
        Ok(())
    }

    fn wal2json(&mut self, input: RawEvent<'_>, record: ByteRange) -> Result<Option<Op>, Fault> {
        let data = input.data;
        let Some(around) = self.envelope(data, record)? else { return Ok(None) };
        let [action, columns, identity, schema, table] = around.map(|slot| slot.and_then(|part| present(data, part)));
        let Some(action) = action else {
            return Err(Fault::new(
                record.start,
                "this is no change of wal2json's format-version 2: 'action' is missing (set format-version to 2)",
            ));
        };
        let action_name = text(data, action);
        if matches!(action_name.as_ref(), "B" | "C" | "M") || !self.wants(data, schema, table) {
            return Ok(None);
        }
        let columns = || columns.ok_or_else(|| Fault::new(record.start, "the change has no 'columns'"));
        match action_name.as_ref() {
            "I" => self.upsert(input, record, Image::Named(columns()?), None).map(Some),
            "U" => {
                let image = Image::Updated { columns: columns()?, identity };
                self.upsert(input, record, image, identity.map(Image::Named)).map(Some)
            }
            "D" => match identity {
                Some(identity) => self.remove(input, record, Image::Named(identity)).map(Some),
                None => Err(unnamed(record, "identity")),
            },
            "T" => Ok(Some(Op::Clear)),
            other => Err(Fault::new(action.start, format!("the action '{other}' is not known: I, U, D, T, B, C and M are"))),
        }
    }

    /// The fields around a row; `None` for a record that is NULL, which follows a delete in a compacted topic.
    fn envelope(&self, data: &str, record: ByteRange) -> Result<Option<[Option<ByteRange>; 5]>, Fault> {
        if present(data, record).is_none() {
            return Ok(None);
        }
        must_be((b'{', "an object"), data, record, self.framing)?;
        let mut slots = [None; 5];
        object::fields(data, record, &self.envelope, &mut slots, &mut NearFields::default())?;
        Ok(Some(slots))
    }

    fn wants(&self, data: &str, schema: Option<ByteRange>, table: Option<ByteRange>) -> bool {
        let Some(wanted) = &self.table else { return true };
        let is = |part: Option<ByteRange>, name: &str| part.is_some_and(|part| text(data, part) == name);
        is(table, &wanted.table) && wanted.schema.as_ref().is_none_or(|wanted| is(schema, wanted))
    }

    fn upsert(&mut self, input: RawEvent<'_>, record: ByteRange, image: Image, before: Option<Image>) -> Result<Op, Fault> {
        self.rows.append(input, record, image)?;
        // Where the old row does not tell its key, the key is as it was.
        let old = before.and_then(|before| self.key(input, record, before).ok());
        Ok(Op::Upsert { row: self.rows.len() as u32 - 1, old })
    }

    fn remove(&mut self, input: RawEvent<'_>, record: ByteRange, before: Image) -> Result<Op, Fault> {
        Ok(Op::Remove { key: self.key(input, record, before)? })
    }

    fn key(&mut self, input: RawEvent<'_>, record: ByteRange, image: Image) -> Result<u32, Fault> {
        self.keys.append(input, record, image)?;
        Ok(self.keys.len() as u32 - 1)
    }
}

/// `part`, unless it is NULL.
fn present(data: &str, part: ByteRange) -> Option<ByteRange> {
    (part.of(data).trim_ascii() != "null").then_some(part)
}

/// The text of a JSON string; other values as they are written.
fn text(data: &str, part: ByteRange) -> Cow<'_, str> {
    let raw = part.of(data);
    serde_json::from_str::<&str>(raw)
        .map(Cow::Borrowed)
        .or_else(|_| serde_json::from_str(raw).map(Cow::Owned))
        .unwrap_or(raw.into())
}

fn unnamed(record: ByteRange, field: &str) -> Fault {
    Fault::new(record.start, format!("a row is deleted, and '{field}' does not say which (set REPLICA IDENTITY for the table)"))
}
