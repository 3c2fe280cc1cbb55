//! Events become rows: all cells of a record are read first, then appended to the columns, so a bad record leaves no trace in a batch.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema, SchemaRef};

use super::builder::{self, Builder, Cells};
use super::object::{self, ByteRange, Fault, NameIndex};
use super::presence::{Absent, Presence};
use super::value::{Cell, NumericTime, Scratch, ValueReader, nanos_per};
use super::{Bad, EXCERPT_BYTES, FormatSpec, Metadata, Origin, RawEvent};
use crate::error::{Error, Result};
use crate::options::{Format, Framing};
use crate::time::{Timestamp, TimestampArray};

/// Turns events into record batches. What it is not asked for it does not read: a wrong value in a column that nobody wants makes no
/// record bad. Of a table with columns of the payload each record is an object all the same, whatever is wanted; where a table has none,
/// and no framing asks for it, the data is not even looked at, and bad data passes unnoticed.
pub struct Decoder {
    /// Whether a record is a JSON object with columns in it.
    objects: bool,
    schema: SchemaRef,
    framing: Framing,
    endpoint: String,
    columns: Vec<CellSource>,
    /// A builder for each of the first columns; the event time may follow without one.
    builders: Vec<Box<dyn Builder>>,
    names: NameIndex,
    /// `name` and `value`, of [`Image::Named`].
    pair: NameIndex,
    fields: Vec<ValueReader>,
    /// The column whose time is the event's, and its nanoseconds per unit.
    time: Option<(usize, i64)>,
    time_name: String,
    /// Whether a column keeps the whole data, so that it must be checked where no field is read.
    whole: bool,
    scratch: Scratch,
    elements: Vec<Option<ByteRange>>,
    times: Vec<i64>,
    /// While the first records are looked at.
    presence: Option<Presence>,
    /// What was in none of them, and has not come since.
    absent: Vec<Absent>,
    /// Whether that has been told.
    told: bool,
}

/// Where in an event's data the fields of a row stand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Image {
    /// An object.
    Object(ByteRange),
    /// An object of Debezium's, where a large value that did not change may be left out.
    Debezium(ByteRange),
    /// An array of objects `{"name": …, "value": …}`.
    Named(ByteRange),
    /// The same for a row that was there before: what is missing in `columns` did not change, and stands in `identity` if anywhere.
    Updated { columns: ByteRange, identity: Option<ByteRange> },
}

/// What Debezium writes in the place of a large value that did not change.
const UNAVAILABLE: &str = "\"__debezium_unavailable_value\"";

/// Where the cells of a column come from.
#[derive(Debug, Clone, Copy)]
enum CellSource {
    /// A field of the object: its place among [`Decoder::fields`].
    Field(usize),
    /// The text of the record.
    Record,
    Kind,
    /// NULL for an event without id; where that is not allowed, the record is bad.
    Id {
        nullable: bool,
    },
    Endpoint,
    /// The arrival, in units of so many nanoseconds.
    Received(i64),
}

impl Decoder {
    /// A decoder of the columns in `projection` (indices into the columns of `spec`), in that order. The column of the event
    /// time is read also when it is not among them.
    pub fn new(spec: &FormatSpec, projection: &[usize]) -> Result<Decoder> {
        let mut wanted = projection.to_vec();
        if let Some(time) = spec.time
            && !wanted.contains(&time)
        {
            wanted.push(time);
        }
        let mut fields = Vec::new();
        let mut columns = Vec::with_capacity(wanted.len());
        let mut whole = false;
        for (at, index) in wanted.iter().enumerate() {
            if wanted[..at].contains(index) {
                return Err(Error::bug("a column is asked for twice"));
            }
            let column = spec.columns.get(*index).ok_or_else(|| Error::bug("a column is asked for that is not there"))?;
            columns.push(match column.origin {
                Origin::Payload if spec.format == Format::RawString => CellSource::Record,
                Origin::Payload => {
                    let value = ValueReader::of_column(column, NumericTime::of(spec))
                        .map_err(|refused| Error::bug(format!("column '{}' of type {refused} cannot be read", column.name)))?;
                    fields.push(value);
                    CellSource::Field(fields.len() - 1)
                }
                Origin::Whole => {
                    whole |= spec.format == Format::Json;
                    CellSource::Record
                }
                Origin::Metadata(Metadata::Data) => {
                    whole |= column.json;
                    CellSource::Record
                }
                Origin::Metadata(Metadata::EventType) => CellSource::Kind,
                Origin::Metadata(Metadata::EventId) => CellSource::Id { nullable: column.nullable },
                Origin::Metadata(Metadata::Endpoint) => CellSource::Endpoint,
                Origin::Metadata(Metadata::ReceivedAt) => CellSource::Received(unit(&column.data_type)),
            });
        }
        let schema = Schema::new(projection.iter().map(|index| spec.columns[*index].field()).collect::<Vec<_>>());
        let time = spec.time.and_then(|time| wanted.iter().position(|index| *index == time));
        // Also where no column is asked for: what is no row of the table must not be counted as one.
        let payload = || spec.columns.iter().filter(|column| column.origin == Origin::Payload).map(|column| column.name.as_str());
        let others = payload().filter(|name| !fields.iter().any(|field: &ValueReader| field.name() == *name));
        let objects = spec.format != Format::RawString && payload().next().is_some();
        Ok(Decoder {
            objects,
            framing: spec.framing,
            endpoint: spec.endpoint.clone(),
            builders: schema.fields().iter().map(|field| builder::builder(field.data_type())).collect::<Result<_>>()?,
            names: NameIndex::among(fields.iter().map(|field| field.key().clone()), others),
            pair: NameIndex::exact(["name", "value"]),
            time: time.map(|at| (at, unit(&spec.columns[wanted[at]].data_type))),
            time_name: spec.time.map(|time| spec.columns[time].name.clone()).unwrap_or_default(),
            schema: Arc::new(schema),
            columns,
            fields,
            whole,
            scratch: Scratch::default(),
            elements: Vec::new(),
            times: Vec::new(),
            presence: None,
            absent: Vec::new(),
            told: true,
        })
    }

    /// Looks in the first records for the fields that the columns take: see [`Decoder::absent`].
    pub fn observe(mut self) -> Self {
        let id =
            self.columns.iter().position(|column| matches!(column, CellSource::Id { .. })).filter(|at| *at < self.builders.len());
        let id = id.map(|at| (at, self.schema.field(at).name().clone()));
        if (self.objects && !self.fields.is_empty()) || id.is_some() {
            self.presence = Some(Presence::new(&self.fields, id));
        }
        self
    }

    /// The columns that were in none of the first records and have not come since, as sentences; `None` where nothing is new.
    pub fn absent(&mut self) -> Option<Vec<String>> {
        (!std::mem::replace(&mut self.told, true)).then(|| self.absent.iter().map(|absent| absent.sentence.clone()).collect())
    }

    /// No record follows: what was in none of those that came is known.
    pub fn end(&mut self) {
        if let Some(presence) = self.presence.take() {
            let is_field = |(at, source): (usize, &CellSource)| matches!(source, CellSource::Field(_)).then_some(at);
            let columns: Vec<usize> = self.columns.iter().enumerate().filter_map(is_field).collect();
            self.absent = presence.absent(&columns);
            self.told = self.absent.is_empty();
        }
    }

    /// Reads one event into as many rows as it holds records. A record that cannot be read costs only itself and is told to `bad`.
    pub fn push(&mut self, input: RawEvent<'_>, bad: &mut dyn FnMut(Bad)) {
        let mut elements = std::mem::take(&mut self.elements);
        each_record(input, self.framing, &mut elements, |record| {
            if let Err(fault) = record.and_then(|part| self.append(input, part, Image::Object(part))) {
                bad(told(fault, input));
            }
        });
        self.elements = elements;
    }

    /// Takes over what the feed's own schema calls the type of a field.
    pub(super) fn told(&mut self, field: &str, type_name: &str) {
        self.fields.iter_mut().filter(|value| value.name() == field).for_each(|value| value.told(type_name));
    }

    /// The number of rows so far.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows so far, with the event time of each (nanoseconds), and begins anew.
    pub fn take(&mut self) -> Result<(RecordBatch, TimestampArray)> {
        let times = TimestampArray::from(std::mem::take(&mut self.times));
        let columns = self.builders.iter_mut().map(|column| column.finish()).collect::<Result<Vec<_>>>()?;
        if !self.absent.is_empty() {
            let before = self.absent.len();
            self.absent.retain(|absent| !absent.is_in(&columns));
            self.told &= self.absent.len() == before;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(times.len()));
        Ok((RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?, times))
    }

    /// Appends the row whose fields stand in `image`, a part of `record`; all of it or nothing.
    pub(super) fn append(&mut self, input: RawEvent<'_>, record: ByteRange, image: Image) -> Result<(), Fault> {
        if self.presence.as_mut().is_some_and(|presence| presence.look(input.data, input.id, image)) {
            self.end();
        }
        let time = self.read(input, record, image)?;
        let mut cells = Cells {
            cells: self.scratch.cells.iter(),
            data: input.data,
            kind: input.kind,
            id: input.id,
            endpoint: &self.endpoint,
            scratch: &self.scratch,
        };
        self.builders.iter_mut().for_each(|column| column.append(&mut cells));
        self.times.push(time);
        Ok(())
    }

    /// Writes into the scratch where each field stands.
    fn find(&mut self, data: &str, image: Image) -> Result<(), Fault> {
        let (slots, near) = (&mut self.scratch.slots, &mut self.scratch.near);
        slots.resize(self.fields.len(), None);
        match image {
            Image::Object(part) => {
                must_be((b'{', "an object"), data, part, self.framing)?;
                object::fields(data, part, &self.names, slots, near)
            }
            Image::Debezium(part) => {
                must_be((b'{', "an object"), data, part, self.framing)?;
                object::fields(data, part, &self.names, slots, near)?;
                match slots.iter().position(|slot| slot.is_some_and(|part| part.of(data) == UNAVAILABLE)) {
                    Some(field) => Err(unavailable(part, &self.fields[field])),
                    None => Ok(()),
                }
            }
            Image::Named(part) => {
                must_be((b'[', "an array"), data, part, self.framing)?;
                object::named(data, part, &self.pair, &self.names, slots, near)?;
                near.settle(slots);
                Ok(())
            }
            Image::Updated { columns, identity } => {
                if let Some(identity) = identity {
                    object::named(data, identity, &self.pair, &self.names, slots, near)?;
                }
                object::named(data, columns, &self.pair, &self.names, slots, near)?;
                near.settle(slots);
                match slots.iter().position(Option::is_none) {
                    Some(field) => Err(unavailable(columns, &self.fields[field])),
                    None => Ok(()),
                }
            }
        }
    }

    /// Reads all cells of a record into the scratch; gives its event time.
    fn read(&mut self, input: RawEvent<'_>, part: ByteRange, image: Image) -> Result<i64, Fault> {
        self.scratch.clear();
        if self.objects {
            self.find(input.data, image)?;
        } else if self.whole {
            object::check(input.data, part)?;
        }
        let scratch = &mut self.scratch;
        let mut time = input.received.nanos();
        for (at, column) in self.columns.iter().enumerate() {
            let first = scratch.cells.len();
            match column {
                CellSource::Field(field) => self.fields[*field].read(input.data, scratch.slots[*field], part, scratch)?,
                CellSource::Record => scratch.cells.push(Cell::Text(part)),
                CellSource::Kind => scratch.cells.push(Cell::Kind),
                CellSource::Id { .. } if !input.id.is_empty() => scratch.cells.push(Cell::Id),
                CellSource::Id { nullable: true } => scratch.cells.push(Cell::Null),
                CellSource::Id { nullable: false } => {
                    return Err(Fault::new(part.start, "the event has no id, and the column is NOT NULL"));
                }
                CellSource::Endpoint => scratch.cells.push(Cell::Endpoint),
                CellSource::Received(nanos) => scratch.cells.push(Cell::Int(input.received.nanos().div_euclid(*nanos))),
            }
            if let Some((column, nanos)) = self.time
                && column == at
            {
                time = match scratch.cells[first] {
                    Cell::Int(value) => in_nanos(value, nanos).ok_or_else(|| {
                        Fault::new(part.start, format!("event time '{}' lies outside the years 1677 to 2262", self.time_name))
                    })?,
                    _ => return Err(Fault::new(part.start, format!("event time '{}' is missing", self.time_name))),
                };
            }
        }
        Ok(time)
    }
}

/// Calls `each` with the parts of an event's data that are its records; `elements` is used again and again.
pub(super) fn each_record(
    input: RawEvent<'_>,
    framing: Framing,
    elements: &mut Vec<Option<ByteRange>>,
    mut each: impl FnMut(Result<ByteRange, Fault>),
) {
    let whole = ByteRange { start: 0, end: input.data.len() };
    match framing {
        Framing::None => each(Ok(whole)),
        Framing::Newline => {
            let mut start = 0;
            for line in input.data.split_inclusive('\n') {
                let end = start + line.trim_end_matches(['\n', '\r']).len();
                if !line.trim_ascii().is_empty() {
                    each(Ok(ByteRange { start, end }));
                }
                start += line.len();
            }
        }
        // An object that is no array is one record.
        Framing::JsonArray if input.data.trim_ascii_start().starts_with('{') => each(Ok(whole)),
        Framing::JsonArray => {
            elements.clear();
            let end = must_be((b'[', "an array"), input.data, whole, framing)
                .and_then(|()| object::elements(input.data, whole, elements));
            elements.iter().flatten().for_each(|element| each(Ok(*element)));
            if let Err(fault) = end {
                each(Err(fault));
            }
        }
    }
}

fn unavailable(part: ByteRange, field: &ValueReader) -> Fault {
    let fault =
        Fault::new(part.start, "the change leaves the value out, since it is large and stays (set REPLICA IDENTITY FULL)");
    fault.inside(field.name())
}

/// The ends of the range are not times of events: there the watermark begins and ends.
fn in_nanos(value: i64, nanos: i64) -> Option<i64> {
    value.checked_mul(nanos).filter(|time| (Timestamp::MIN.nanos() + 1..Timestamp::MAX.nanos()).contains(time))
}

/// Nanoseconds per unit of a timestamp type; anything else counts in nanoseconds.
fn unit(data_type: &DataType) -> i64 {
    match data_type {
        DataType::Timestamp(unit, _) => nanos_per(*unit),
        _ => 1,
    }
}

/// Refuses JSON of another kind than `wanted` (its first byte and name) by saying what it is.
pub(super) fn must_be(wanted: (u8, &str), data: &str, part: ByteRange, framing: Framing) -> Result<(), Fault> {
    let text = part.of(data).trim_ascii_start();
    let first = text.as_bytes().first();
    if first == Some(&wanted.0) {
        return Ok(());
    }
    let kind = match first {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    object::check(data, part)?;
    let hint = match (first, framing) {
        (Some(b'['), Framing::None) => " (set framing = 'json_array' to read each element as a row)",
        _ => "",
    };
    Err(Fault::new(part.end - text.len(), format!("the data is {kind}, not {}{hint}", wanted.1)))
}

/// The fault as people read it, with line and column counted in characters from 1.
pub(super) fn told(fault: Fault, input: RawEvent<'_>) -> Bad {
    let before = &input.data[..input.data.floor_char_boundary(fault.at)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    let subject = match fault.path.is_empty() {
        true => String::new(),
        false => format!("column '{}': ", fault.path),
    };
    let data = match input.data.len() > EXCERPT_BYTES {
        true => format!("{}…", &input.data[..input.data.floor_char_boundary(EXCERPT_BYTES)]),
        false => input.data.to_string(),
    };
    Bad {
        reason: format!("{subject}{} at line {line} column {column}", fault.message),
        id: input.id.to_string(),
        kind: input.kind.to_string(),
        data,
        offset: fault.at as u64,
    }
}
