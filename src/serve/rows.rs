//! Rows as the body of an answer: JSON with their number, NDJSON, CSV, or Arrow's stream format.

use arrow::array::{Array, RecordBatch};
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::array_value_to_string;
use axum::http::HeaderValue;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::problem::{Problem, Result};
use super::views::body;
use crate::change::Changes;
use crate::error::{Code, Error};
use crate::format::encode::{Encoder, Output};
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
pub struct Rows<'a> {
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
            let data = text(Output::Json, rows)?;
            let data = if data.is_empty() { b"[]".to_vec() } else { data };
            let data: &RawValue =
                serde_json::from_slice(&data).map_err(|error| Error::bug(format!("rows are no JSON: {error}")))?;
            let rows = Rows { data, count: rows.num_rows(), total, position };
            serde_json::to_vec(&rows).map_err(|error| Error::bug(format!("rows are no JSON: {error}")))?
        }
        Form::Ndjson => text(Output::Ndjson, rows)?,
        Form::Csv => text(Output::Csv, rows)?,
        Form::Arrow => arrow(rows)?,
    };
    Ok(body(form.content_type(), bytes))
}

/// The rows as text.
pub fn text(output: Output, rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut encoder = Encoder::append_only(output, rows.schema_ref());
    let mut bytes = Vec::new();
    let times = TimestampArray::from_value(0, rows.num_rows());
    encoder.write(&Changes::inserts(rows.clone(), times), &mut bytes)?;
    encoder.finish(&mut bytes);
    Ok(bytes)
}

fn arrow(rows: &RecordBatch) -> Result<Vec<u8>> {
    let written = || {
        let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref())?;
        writer.write(rows)?;
        writer.into_inner()
    };
    written().map_err(|error: arrow::error::ArrowError| Problem::from(Error::from(error)))
}

/// The first column, a text a row.
pub fn texts(rows: &RecordBatch) -> Vec<String> {
    match rows.columns().first() {
        Some(column) => (0..column.len()).map(|row| array_value_to_string(column, row).unwrap_or_default()).collect(),
        None => Vec::new(),
    }
}
