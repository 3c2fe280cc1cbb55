//! Events become rows: all cells of a record are read first, then appended to the columns, so a bad record leaves no trace in a batch.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema, SchemaRef};

use super::builder::{self, Builder, Cells};
use super::object::{self, Fault, Names, Part};
use super::value::{Cell, Scratch, Value, Written, nanos_per};
use super::{Bad, EXCERPT_BYTES, Input, Metadata, Origin, Spec};
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
    columns: Vec<Source>,
    /// A builder for each of the first columns; the event time may follow without one.
    builders: Vec<Box<dyn Builder>>,
    names: Names,
    /// `name` and `value`, of [`Image::Named`].
    pair: Names,
    fields: Vec<Value>,
    /// The column whose time is the event's, and its nanoseconds per unit.
    time: Option<(usize, i64)>,
    time_name: String,
    /// Whether a column keeps the whole data, so that it must be checked where no field is read.
    whole: bool,
    scratch: Scratch,
    elements: Vec<Option<Part>>,
    times: Vec<i64>,
}

/// Where in an event's data the fields of a row stand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Image {
    /// An object.
    Object(Part),
    /// An object of Debezium's, where a large value that did not change may be left out.
    Debezium(Part),
    /// An array of objects `{"name": …, "value": …}`.
    Named(Part),
    /// The same for a row that was there before: what is missing in `columns` did not change, and stands in `identity` if anywhere.
    Updated { columns: Part, identity: Option<Part> },
}

/// What Debezium writes in the place of a large value that did not change.
const UNAVAILABLE: &str = "\"__debezium_unavailable_value\"";

/// Where the cells of a column come from.
#[derive(Debug, Clone, Copy)]
enum Source {
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
    pub fn new(spec: &Spec, projection: &[usize]) -> Result<Decoder> {
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
                Origin::Payload if spec.format == Format::RawString => Source::Record,
                Origin::Payload => {
                    let value = Value::of(&column.field(), Written::of(spec))
                        .map_err(|refused| Error::bug(format!("column '{}' of type {refused} cannot be read", column.name)))?;
                    fields.push(value);
                    Source::Field(fields.len() - 1)
                }
                Origin::Whole => {
                    whole |= spec.format == Format::Json;
                    Source::Record
                }
                Origin::Metadata(Metadata::Data) => {
                    whole |= column.json;
                    Source::Record
                }
                Origin::Metadata(Metadata::EventType) => Source::Kind,
                Origin::Metadata(Metadata::EventId) => Source::Id { nullable: column.nullable },
                Origin::Metadata(Metadata::Endpoint) => Source::Endpoint,
                Origin::Metadata(Metadata::ReceivedAt) => Source::Received(unit(&column.data_type)),
            });
        }
        let schema = Schema::new(projection.iter().map(|index| spec.columns[*index].field()).collect::<Vec<_>>());
        let time = spec.time.and_then(|time| wanted.iter().position(|index| *index == time));
        // Also where no column is asked for: what is no row of the table must not be counted as one.
        let objects = spec.format != Format::RawString && spec.columns.iter().any(|column| column.origin == Origin::Payload);
        Ok(Decoder {
            objects,
            framing: spec.framing,
            endpoint: spec.endpoint.clone(),
            builders: schema.fields().iter().map(|field| builder::builder(field.data_type())).collect::<Result<_>>()?,
            names: Names::new(fields.iter().map(Value::name)),
            pair: Names::new(["name", "value"]),
            time: time.map(|at| (at, unit(&spec.columns[wanted[at]].data_type))),
            time_name: spec.time.map(|time| spec.columns[time].name.clone()).unwrap_or_default(),
            schema: Arc::new(schema),
            columns,
            fields,
            whole,
            scratch: Scratch::default(),
            elements: Vec::new(),
            times: Vec::new(),
        })
    }

    /// Reads one event into as many rows as it holds records. A record that cannot be read costs only itself and is told to `bad`.
    pub fn push(&mut self, input: Input<'_>, bad: &mut dyn FnMut(Bad)) {
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
        let options = RecordBatchOptions::new().with_row_count(Some(times.len()));
        Ok((RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?, times))
    }

    /// Appends the row whose fields stand in `image`, a part of `record`; all of it or nothing.
    pub(super) fn append(&mut self, input: Input<'_>, record: Part, image: Image) -> Result<(), Fault> {
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
        let slots = &mut self.scratch.slots;
        slots.resize(self.fields.len(), None);
        match image {
            Image::Object(part) => {
                must_be((b'{', "an object"), data, part, self.framing)?;
                object::fields(data, part, &self.names, slots)
            }
            Image::Debezium(part) => {
                must_be((b'{', "an object"), data, part, self.framing)?;
                object::fields(data, part, &self.names, slots)?;
                match slots.iter().position(|slot| slot.is_some_and(|part| part.of(data) == UNAVAILABLE)) {
                    Some(field) => Err(unavailable(part, &self.fields[field])),
                    None => Ok(()),
                }
            }
            Image::Named(part) => {
                must_be((b'[', "an array"), data, part, self.framing)?;
                object::named(data, part, &self.pair, &self.names, slots)
            }
            Image::Updated { columns, identity } => {
                if let Some(identity) = identity {
                    object::named(data, identity, &self.pair, &self.names, slots)?;
                }
                object::named(data, columns, &self.pair, &self.names, slots)?;
                match slots.iter().position(Option::is_none) {
                    Some(field) => Err(unavailable(columns, &self.fields[field])),
                    None => Ok(()),
                }
            }
        }
    }

    /// Reads all cells of a record into the scratch; gives its event time.
    fn read(&mut self, input: Input<'_>, part: Part, image: Image) -> Result<i64, Fault> {
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
                Source::Field(field) => self.fields[*field].read(input.data, scratch.slots[*field], part, scratch)?,
                Source::Record => scratch.cells.push(Cell::Text(part)),
                Source::Kind => scratch.cells.push(Cell::Kind),
                Source::Id { .. } if !input.id.is_empty() => scratch.cells.push(Cell::Id),
                Source::Id { nullable: true } => scratch.cells.push(Cell::Null),
                Source::Id { nullable: false } => {
                    return Err(Fault::new(part.start, "the event has no id, and the column is NOT NULL"));
                }
                Source::Endpoint => scratch.cells.push(Cell::Endpoint),
                Source::Received(nanos) => scratch.cells.push(Cell::Int(input.received.nanos().div_euclid(*nanos))),
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
    input: Input<'_>,
    framing: Framing,
    elements: &mut Vec<Option<Part>>,
    mut each: impl FnMut(Result<Part, Fault>),
) {
    let whole = Part { start: 0, end: input.data.len() };
    match framing {
        Framing::None => each(Ok(whole)),
        Framing::Newline => {
            let mut start = 0;
            for line in input.data.split_inclusive('\n') {
                let end = start + line.trim_end_matches(['\n', '\r']).len();
                if !line.trim_ascii().is_empty() {
                    each(Ok(Part { start, end }));
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

fn unavailable(part: Part, field: &Value) -> Fault {
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
pub(super) fn must_be(wanted: (u8, &str), data: &str, part: Part, framing: Framing) -> Result<(), Fault> {
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
pub(super) fn told(fault: Fault, input: Input<'_>) -> Bad {
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
