//! Rows as the body of an answer: JSON with their number, NDJSON, CSV, or Arrow's stream format.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::array_value_to_string;
use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::problem::Result;
use crate::change::Changes;
use crate::error::{Code, Error};
use crate::format::encode::{Encoder, Encoding};
use crate::time::TimestampArray;

/// The form of rows in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    Json,
    Ndjson,
    Csv,
    Arrow,
}

/// Rows in the form `json`.
#[derive(Serialize, ToSchema)]
pub struct RowsBody<'a> {
    #[schema(value_type = Vec<Object>)]
    data: &'a RawValue,
    /// Rows in `data`.
    count: usize,
    /// Rows there are without limits and conditions.
    total: usize,
    /// The id of the last change in them.
    position: &'a str,
}

const TYPES: [(Form, &str); 4] = [
    (Form::Json, "application/json"),
    (Form::Ndjson, "application/x-ndjson"),
    (Form::Csv, "text/csv"),
    (Form::Arrow, "application/vnd.apache.arrow.stream"),
];

impl Form {
    /// The form that was named, else the first one that `Accept` names.
    pub fn negotiate(named: Option<Form>, accept: Option<&HeaderValue>) -> Result<Form> {
        if let Some(form) = named {
            return Ok(form);
        }
        let accept = accept.and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
        let wanted = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
        for kind in wanted {
            match TYPES.iter().find(|(_, known)| *known == kind) {
                Some((form, _)) => return Ok(*form),
                None if matches!(kind, "*/*" | "" | "application/*") => return Ok(Form::Json),
                None => {}
            }
        }
        let known = TYPES.map(|(_, kind)| kind).join(", ");
        Err(Error::new(Code::NotAcceptable, format!("there is no form of the rows that is '{accept}'"))
            .hint(format!("ask for one of {known}"))
            .into())
    }

    pub fn content_type(self) -> &'static str {
        TYPES.iter().find(|(form, _)| *form == self).map_or("application/json", |(_, kind)| kind)
    }
}

/// The answer with these rows.
pub fn answer(form: Form, rows: &RecordBatch, total: usize, position: &str) -> Result<Response> {
    let bytes = match form {
        Form::Json => {
            let rows = RowsBody { data: &array(rows)?, count: rows.num_rows(), total, position };
            serde_json::to_vec(&rows).map_err(|error| Error::bug(format!("rows are no JSON: {error}")))?
        }
        Form::Ndjson | Form::Csv | Form::Arrow => whole(form, rows)?,
    };
    Ok(body(form.content_type(), bytes))
}

/// The rows as a JSON array.
pub fn array(rows: &RecordBatch) -> Result<Box<RawValue>> {
    raw(&whole(Form::Json, rows)?)
}

/// What a [`RowsWriter`] of the form `json` wrote.
pub fn raw(array: &[u8]) -> Result<Box<RawValue>> {
    serde_json::from_slice(array).map_err(|error| Error::bug(format!("rows are no JSON: {error}")).into())
}

fn whole(form: Form, rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = RowsWriter::of(form, rows.schema_ref(), false)?;
    let times = TimestampArray::from_value(0, rows.num_rows());
    let mut bytes = writer.write(&Changes::inserts(rows.clone(), times))?;
    bytes.extend(writer.finish()?);
    Ok(bytes)
}

/// Writes rows in one form, batch by batch.
pub enum RowsWriter {
    Text(Encoder),
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl RowsWriter {
    /// With `changelog` each row tells what happened to it, for which Arrow has no place.
    pub fn of(form: Form, schema: &Schema, changelog: bool) -> Result<RowsWriter, Error> {
        let output = match form {
            Form::Json => Encoding::Json,
            Form::Ndjson => Encoding::Ndjson,
            Form::Csv => Encoding::Csv,
            Form::Arrow => return Ok(RowsWriter::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?))),
        };
        Ok(RowsWriter::Text(if changelog { Encoder::changelog(output, schema) } else { Encoder::append_only(output, schema) }))
    }

    /// The bytes of these rows; what begins the whole comes with the first.
    pub fn write(&mut self, changes: &Changes) -> Result<Vec<u8>, Error> {
        match self {
            RowsWriter::Text(encoder) => {
                let mut bytes = Vec::new();
                encoder.write(changes, &mut bytes)?;
                Ok(bytes)
            }
            RowsWriter::Arrow(writer) => {
                writer.write(&changes.rows)?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }

    /// The bytes that end the whole.
    pub fn finish(&mut self) -> Result<Vec<u8>, Error> {
        match self {
            RowsWriter::Text(encoder) => {
                let mut bytes = Vec::new();
                encoder.finish(&mut bytes);
                Ok(bytes)
            }
            RowsWriter::Arrow(writer) => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }
}

/// The first column, a text a row.
pub fn texts(rows: &RecordBatch) -> Vec<String> {
    match rows.columns().first() {
        Some(column) => (0..column.len()).map(|row| array_value_to_string(column, row).unwrap_or_default()).collect(),
        None => Vec::new(),
    }
}

/// Bytes as an answer, with their type.
pub fn body(content_type: &'static str, bytes: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(content_type))], Bytes::from(bytes)).into_response()
}
