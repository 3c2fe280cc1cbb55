//! One event's data becomes columns, and result rows become JSON, CSV or a text table.
//!
//! [`FormatSpec`] says which columns a table has and how they are written; a [`Decoder`] made of it turns events into record batches and
//! tells what it could not read, event by event. [`encode`] is the way back. [`infer`] finds a [`FormatSpec`] for data nobody declared.

mod builder;
#[cfg(test)]
mod cases;
mod changes;
mod decode;
pub mod encode;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod infer;
mod number;
mod object;
mod presence;
#[cfg(test)]
mod round_trip;
pub mod scan;
mod temporal;
mod value;
mod writer;

use std::fmt;

use arrow::datatypes::{DataType, Field, FieldRef};

use crate::error::{Code, Error, Result, nearest};
use crate::options;
use crate::time::Timestamp;

pub use changes::{ChangeDecoder, Op, RowChanges};
pub use decode::Decoder;
pub use object::{ByteRange, FieldName};
pub use value::unix_format;

/// The field metadata that marks a text column as JSON (Arrow's canonical extension).
pub const EXTENSION: (&str, &str) = ("ARROW:extension:name", "arrow.json");

/// Bytes of an event's data kept in a [`Bad`]: enough to recognise it, little enough to keep many.
pub const EXCERPT_BYTES: usize = 1024;

/// One event as the feed hands it over. `id` is empty where the event has none.
#[derive(Debug, Clone, Copy)]
pub struct RawEvent<'a> {
    pub kind: &'a str,
    pub data: &'a str,
    pub id: &'a str,
    pub received: Timestamp,
}

/// A record that could not be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Bad {
    /// What and where: `column 'price': 'abc' is no number at line 1 column 17`.
    pub reason: String,
    pub id: String,
    pub kind: String,
    /// The beginning of the event's data, at most [`EXCERPT_BYTES`] and a `…`.
    pub data: String,
    /// Where the trouble is, in bytes from the beginning of the event's data.
    pub offset: u64,
}

/// A column of a feed table.
#[derive(Clone, PartialEq)]
pub struct Column {
    /// The field of the payload that it takes: the one of this name; unless the name is `exact`, else the one that differs from it only
    /// in upper and lower case.
    pub name: String,
    pub exact: bool,
    /// The same for each field of the structs inside its type, each before those within it; empty where the type says all.
    pub keys: Vec<FieldName>,
    pub data_type: DataType,
    pub nullable: bool,
    pub origin: Origin,
    /// A text column that holds JSON: it keeps the value's own text, and its field carries [`EXTENSION`].
    pub json: bool,
}

/// The text that a checkpoint knows the column by: keys are a part of it where the type does not tell them.
impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Column { name, exact: _, keys, data_type, nullable, origin, json } = self;
        let mut text = f.debug_struct("Column");
        text.field("name", name)
            .field("data_type", data_type)
            .field("nullable", nullable)
            .field("origin", origin)
            .field("json", json);
        let mut own = Vec::new();
        names_inside(data_type, &mut own);
        if !keys.is_empty() && keys.iter().map(|key| &key.name).ne(own) {
            text.field("keys", keys);
        }
        text.finish()
    }
}

/// The names of the fields of structs inside a type, each before those within it.
fn names_inside<'a>(data_type: &'a DataType, into: &mut Vec<&'a String>) {
    match data_type {
        DataType::Struct(fields) => fields.iter().for_each(|field| {
            into.push(field.name());
            names_inside(field.data_type(), into);
        }),
        DataType::List(item) => names_inside(item.data_type(), into),
        _ => {}
    }
}

impl Column {
    /// A column of the payload that may be NULL.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Self {
        Column {
            name: name.into(),
            exact: false,
            keys: Vec::new(),
            data_type,
            nullable: true,
            origin: Origin::Payload,
            json: false,
        }
    }

    /// A column of the payload that keeps the JSON text of its value.
    pub fn json(name: impl Into<String>) -> Self {
        Column { json: true, ..Column::new(name, DataType::Utf8View) }
    }

    /// The column that an Arrow field describes; the field's metadata says whether it is JSON.
    pub fn from_field(field: &Field, origin: Origin) -> Self {
        Column {
            name: field.name().clone(),
            exact: false,
            keys: Vec::new(),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            origin,
            json: is_json(field),
        }
    }

    pub fn with_origin(self, origin: Origin) -> Self {
        Column { origin, ..self }
    }

    pub fn not_null(self) -> Self {
        Column { nullable: false, ..self }
    }

    /// The Arrow field of this column.
    pub fn field(&self) -> Field {
        let field = Field::new(&self.name, self.data_type.clone(), self.nullable);
        match self.json {
            true => field.with_metadata([(EXTENSION.0.into(), EXTENSION.1.into())].into()),
            false => field,
        }
    }
}

/// Whether a field's text is JSON.
pub fn is_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION.0).is_some_and(|name| name == EXTENSION.1)
}

/// Where a column's values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The field of the column's name in the event's data, or all of it with `raw_string`. A name with a dot is a plain name.
    Payload,
    /// The whole data as JSON text, checked to be JSON of any kind (`json.unstructured`).
    Whole,
    Metadata(Metadata),
}

/// What an event tells beside its data: `METADATA FROM '…'`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// The event's type, `message` where the feed names none.
    EventType,
    /// The event's id, NULL where it has none.
    EventId,
    /// When the event arrived.
    ReceivedAt,
    /// Where the feed comes from.
    Endpoint,
    /// The data as it came; with a framing, that of the record alone.
    Data,
}

impl Metadata {
    pub const NAMES: [(&str, Metadata); 5] = [
        ("event_type", Metadata::EventType),
        ("event_id", Metadata::EventId),
        ("received_at", Metadata::ReceivedAt),
        ("endpoint", Metadata::Endpoint),
        ("data", Metadata::Data),
    ];

    /// The metadata of this name, or an error that names the nearest.
    pub fn from_name(name: &str) -> Result<Metadata> {
        let names = || Self::NAMES.iter().map(|(name, _)| *name);
        if let Some((_, found)) = Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            return Ok(*found);
        }
        let error = Error::new(Code::UnknownColumn, format!("unknown metadata '{name}'"));
        Err(match nearest(name, names()) {
            Some(name) => error.hint(format!("did you mean '{name}'?")),
            None => error.hint(format!("known: {}", names().collect::<Vec<_>>().join(", "))),
        })
    }
}

/// How the events of one table are written, and the columns they become. Valid by construction.
#[derive(Clone, PartialEq)]
pub struct FormatSpec {
    pub format: options::Format,
    pub framing: options::Framing,
    pub timestamps: options::TimestampFormat,
    /// What the metadata column `endpoint` shows; without secrets.
    pub endpoint: String,
    pub columns: Vec<Column>,
    /// The column (an index) that is the event time; `None` is the arrival.
    pub time: Option<usize>,
}

/// A part of the text that a checkpoint knows a table by: it must never change, so it keeps the first name of this type.
impl fmt::Debug for FormatSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FormatSpec { format, framing, timestamps, endpoint, columns, time } = self;
        f.debug_struct("Spec")
            .field("format", format)
            .field("framing", framing)
            .field("timestamps", timestamps)
            .field("endpoint", endpoint)
            .field("columns", columns)
            .field("time", time)
            .finish()
    }
}

impl FormatSpec {
    /// Checks that every column can be read from such events. Gives all reasons against, not only the first.
    pub fn new(
        format: options::Format,
        framing: options::Framing,
        timestamps: options::TimestampFormat,
        endpoint: impl Into<String>,
        columns: Vec<Column>,
        time: Option<usize>,
    ) -> Result<FormatSpec, Vec<Error>> {
        let mut errors = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].iter().any(|before| before.name == column.name) {
                let message = format!("column '{}' is declared twice", column.name);
                errors.push(Error::new(Code::Exists, message).hint("give one of the two another name"));
            }
            errors.extend(column.refusal());
        }
        match time.map(|index| columns.get(index)) {
            Some(None) => errors.push(Error::bug("the event time is a column that is not there")),
            Some(Some(column)) if !matches!(column.data_type, DataType::Timestamp(..)) => {
                let message =
                    format!("the event time '{}' is a {}, not a TIMESTAMP", column.name, infer::sql_type(&column.data_type));
                errors.push(Error::new(Code::EventTime, message).hint(format!("declare it as {} TIMESTAMP", column.name)));
            }
            _ => {}
        }
        if format == options::Format::RawString {
            let payload: Vec<&Column> = columns.iter().filter(|column| !matches!(column.origin, Origin::Metadata(_))).collect();
            let hint = "declare one column such as value TEXT, or give format = 'json'";
            match payload[..] {
                [column] if is_text(&column.data_type) => {}
                [column] => {
                    let shown = infer::sql_type(&column.data_type);
                    let message = format!("format 'raw_string' cannot fill column '{}' of type {shown}", column.name);
                    errors.push(Error::new(Code::Type, message).hint(hint));
                }
                // Without a payload column only metadata is read, which works with any data.
                [] => {}
                _ => {
                    let message = format!("format 'raw_string' fills one TEXT column, and {} are declared", payload.len());
                    errors.push(Error::new(Code::Type, message).hint(hint));
                }
            }
            if framing == options::Framing::JsonArray {
                let message = "framing 'json_array' does not go with format 'raw_string'";
                errors.push(Error::new(Code::BadOption, message).hint("give format = 'json'"));
            }
        }
        match errors.is_empty() {
            true => Ok(FormatSpec { format, framing, timestamps, endpoint: endpoint.into(), columns, time }),
            false => Err(errors),
        }
    }

    /// The schema of all columns.
    pub fn fields(&self) -> Vec<FieldRef> {
        self.columns.iter().map(|column| column.field().into()).collect()
    }
}

impl Column {
    /// Why this column cannot be filled, if so.
    fn refusal(&self) -> Option<Error> {
        let shown = infer::sql_type(&self.data_type);
        let wrong = |what: &str, hint: &str| {
            Some(Error::new(Code::Type, format!("column '{}' {what}, not {shown}", self.name)).hint(hint))
        };
        if self.json && !is_text(&self.data_type) {
            return wrong("holds JSON text", "declare it as JSON");
        }
        match self.origin {
            Origin::Whole if !is_text(&self.data_type) => wrong("takes the whole data as JSON", "declare it as JSON"),
            Origin::Metadata(Metadata::ReceivedAt) if !matches!(self.data_type, DataType::Timestamp(..)) => {
                wrong("takes the time of arrival", "declare it as TIMESTAMP")
            }
            Origin::Metadata(metadata) if metadata != Metadata::ReceivedAt && !is_text(&self.data_type) => {
                wrong("takes text", "declare it as TEXT")
            }
            Origin::Payload => {
                match value::ValueReader::of_column(self, value::NumericTime::As(options::TimestampFormat::Rfc3339)) {
                    Ok(_) => None,
                    Err(inner) => {
                        let message = match inner == self.data_type {
                            true => format!("column '{}' has the type {shown}, which cannot be read from events", self.name),
                            false => {
                                let inner = infer::sql_type(&inner);
                                format!("column '{}' has the type {inner} inside, which cannot be read from events", self.name)
                            }
                        };
                        Some(Error::new(Code::Type, message).hint("declare it as TEXT or JSON and convert it in a query"))
                    }
                }
            }
            _ => None,
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::IntervalUnit;

    use super::*;
    use crate::options::{Format, Framing, TimestampFormat};
    use crate::time::instant_ns;

    fn errors(format: Format, framing: Framing, columns: Vec<Column>, time: Option<usize>) -> Vec<String> {
        let spec = FormatSpec::new(format, framing, TimestampFormat::Rfc3339, "http://x", columns, time);
        spec.map_or_else(|errors| errors.iter().map(ToString::to_string).collect(), |_| vec![])
    }

    #[test]
    fn a_spec_refuses_what_cannot_be_read_and_says_it_all_at_once() {
        let columns = vec![
            Column::new("a", DataType::Interval(IntervalUnit::MonthDayNano)),
            Column::new("b", DataType::List(Field::new("item", DataType::Null, true).into())),
            Column::new("c", DataType::Utf8View),
            Column::new("c", DataType::Int64),
            Column::new("kind", DataType::Int32).with_origin(Origin::Metadata(Metadata::EventType)),
            Column::new("at", DataType::Utf8View).with_origin(Origin::Metadata(Metadata::ReceivedAt)),
            Column::new("doc", DataType::Int64).with_origin(Origin::Whole),
        ];
        assert_eq!(
            errors(Format::Json, Framing::None, columns, Some(2)),
            [
                "column 'a' has the type INTERVAL, which cannot be read from events; declare it as TEXT or JSON and convert it in a query",
                "column 'b' has the type NULL inside, which cannot be read from events; declare it as TEXT or JSON and convert it in a query",
                "column 'c' is declared twice; give one of the two another name",
                "column 'kind' takes text, not INT; declare it as TEXT",
                "column 'at' takes the time of arrival, not TEXT; declare it as TIMESTAMP",
                "column 'doc' takes the whole data as JSON, not BIGINT; declare it as JSON",
                "the event time 'c' is a TEXT, not a TIMESTAMP; declare it as c TIMESTAMP",
            ]
        );
    }

    #[test]
    fn raw_string_fills_one_text_column() {
        let text = |name: &str| Column::new(name, DataType::Utf8View);
        let arrival = Column::new("at", instant_ns()).with_origin(Origin::Metadata(Metadata::ReceivedAt));
        assert!(errors(Format::RawString, Framing::Newline, vec![text("value"), arrival], Some(1)).is_empty());
        assert_eq!(
            errors(Format::RawString, Framing::JsonArray, vec![text("a"), text("b")], None),
            [
                "format 'raw_string' fills one TEXT column, and 2 are declared; declare one column such as value TEXT, or give format = 'json'",
                "framing 'json_array' does not go with format 'raw_string'; give format = 'json'",
            ]
        );
        assert_eq!(
            errors(Format::RawString, Framing::None, vec![Column::new("n", DataType::Int64)], None),
            [
                "format 'raw_string' cannot fill column 'n' of type BIGINT; declare one column such as value TEXT, or give format = 'json'"
            ]
        );
    }

    #[test]
    fn metadata_has_names() {
        assert_eq!(Metadata::from_name("event_id").unwrap(), Metadata::EventId);
        assert_eq!(
            Metadata::from_name("event_typ").unwrap_err().to_string(),
            "unknown metadata 'event_typ'; did you mean 'event_type'?"
        );
    }
}
