//! Result rows become text: JSON objects, CSV, or a table for people.
//!
//! An append-only result is written as plain rows. A changelog says with each row what happened to it: in JSON as an object with
//! `op`, `before` and `after`, in CSV and tables as a first column `op`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::util::pretty::pretty_format_batches;

use super::writer::{Member, ValueWriter, members, quote};
use crate::change::Changes;
use crate::error::Result;

/// What results are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A table with a frame and a header, one for each batch.
    Table,
    /// RFC 4180 with a header, but with `\n` between the lines; NULL is nothing, empty text is `""`.
    Csv,
    /// One JSON array.
    Json,
    /// A JSON object a line.
    Ndjson,
}

/// What happened to a row: indices into the rows of [`Changes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added(usize),
    Updated { before: usize, after: usize },
    Deleted(usize),
}

impl Change {
    /// The changes in order: a `-1` directly followed by a `+1` is an update, and a weight of `n` counts `n` times.
    pub fn each(changes: &Changes) -> impl Iterator<Item = Change> + '_ {
        let mut row = 0;
        std::iter::from_fn(move || {
            let first = row;
            row += 1;
            match first < changes.len() {
                false => None,
                true if changes.is_pair(first) => {
                    row += 1;
                    Some((Change::Updated { before: first, after: first + 1 }, 1))
                }
                true if changes.weight(first) < 0 => Some((Change::Deleted(first), changes.weight(first).unsigned_abs())),
                true => Some((Change::Added(first), changes.weight(first).unsigned_abs())),
            }
        })
        .flat_map(|(change, times)| (0..times).map(move |_| change))
    }

    /// The rows as CSV and tables write them: an update as two.
    fn rows(self) -> impl Iterator<Item = (&'static str, usize)> {
        let (first, second) = match self {
            Change::Added(row) => (("added", row), None),
            Change::Deleted(row) => (("deleted", row), None),
            Change::Updated { before, after } => (("updated_from", before), Some(("updated_to", after))),
        };
        std::iter::once(first).chain(second)
    }
}

/// Writes the changes of one view.
pub struct Encoder {
    output: Encoding,
    /// Whether rows are written with what happened to them.
    changelog: bool,
    json: JsonRows,
    flat: Vec<Flat>,
    begun: bool,
}

impl Encoder {
    /// Writes plain rows, of a result to which rows are only added.
    pub fn append_only(output: Encoding, schema: &Schema) -> Self {
        Encoder { output, changelog: false, json: JsonRows::new(schema), flat: Flat::of(schema), begun: false }
    }

    /// Writes rows with what happened to them.
    pub fn changelog(output: Encoding, schema: &Schema) -> Self {
        Encoder { changelog: true, ..Encoder::append_only(output, schema) }
    }

    /// Begins each JSON object with `"_view": name`, so that several views can share a stream.
    pub fn view(self, name: &str) -> Self {
        Encoder { json: self.json.view(name), ..self }
    }

    /// Goes on with a text that the encoder of another view began.
    pub fn resume(&mut self) {
        self.begun = true;
    }

    /// Appends the changes as text; a header comes with the first.
    pub fn write(&mut self, changes: &Changes, out: &mut Vec<u8>) -> Result<()> {
        match self.output {
            Encoding::Ndjson => self.objects(changes, b"", b"\n", out),
            Encoding::Json => self.objects(changes, b",\n", b"", out),
            Encoding::Csv => self.csv(changes, out),
            Encoding::Table if !changes.is_empty() => return self.table(changes, out),
            Encoding::Table => {}
        }
        Ok(())
    }

    /// Appends what ends the text. A result without rows is an empty JSON array, or a CSV header.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        match self.output {
            Encoding::Json if !self.begun => out.extend_from_slice(b"[]\n"),
            Encoding::Json => out.extend_from_slice(b"\n]\n"),
            Encoding::Csv => self.header(out),
            Encoding::Table | Encoding::Ndjson => {}
        }
        self.begun = true;
    }

    fn objects(&mut self, changes: &Changes, between: &[u8], after: &[u8], out: &mut Vec<u8>) {
        for change in Change::each(changes) {
            match (self.output, self.begun) {
                (Encoding::Json, false) => out.extend_from_slice(b"[\n"),
                _ => out.extend_from_slice(between),
            }
            self.begun = true;
            match (self.changelog, change) {
                (false, Change::Added(row)) => self.json.write_row(&changes.rows, row, out),
                _ => self.json.write_change(&changes.rows, change, out),
            }
            out.extend_from_slice(after);
        }
    }

    fn header(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let names = self.flat.iter().map(|flat| flat.name.as_str());
        let op = self.changelog.then_some("op");
        for (index, name) in op.into_iter().chain(names).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            csv_field(name.as_bytes(), out);
        }
        out.push(b'\n');
    }

    fn csv(&mut self, changes: &Changes, out: &mut Vec<u8>) {
        self.header(out);
        let mut text = Vec::new();
        for (op, row) in Change::each(changes).flat_map(Change::rows) {
            if self.changelog {
                out.extend_from_slice(op.as_bytes());
            }
            for (index, flat) in self.flat.iter().enumerate() {
                if index > 0 || self.changelog {
                    out.push(b',');
                }
                text.clear();
                if flat.text(&changes.rows, row, &mut text) {
                    csv_field(&text, out);
                }
            }
            out.push(b'\n');
        }
    }

    fn table(&mut self, changes: &Changes, out: &mut Vec<u8>) -> Result<()> {
        let rows: Vec<(&str, usize)> = Change::each(changes).flat_map(Change::rows).collect();
        let mut columns: Vec<(&str, ArrayRef)> = Vec::with_capacity(self.flat.len() + 1);
        if self.changelog {
            let mut ops = StringBuilder::new();
            rows.iter().for_each(|(op, _)| ops.append_value(op));
            columns.push(("op", Arc::new(ops.finish())));
        }
        let mut text = Vec::new();
        for flat in &self.flat {
            let mut cells = StringBuilder::new();
            for (_, row) in &rows {
                text.clear();
                match flat.text(&changes.rows, *row, &mut text) {
                    true => cells.append_value(printable(&String::from_utf8_lossy(&text))),
                    false => cells.append_value("NULL"),
                }
            }
            columns.push((&flat.name, Arc::new(cells.finish())));
        }
        let fields: Vec<Field> = columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, false)).collect();
        if fields.is_empty() {
            return Ok(());
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, column)| column).collect())?;
        out.extend_from_slice(pretty_format_batches(&[batch])?.to_string().as_bytes());
        out.push(b'\n');
        Ok(())
    }
}

/// Writes rows as JSON objects: times as RFC 3339 in UTC, decimals as numbers, NULL, NaN and infinities as `null`, JSON columns as
/// what they are, bytes as base64, structs as objects. All keys are always there.
pub struct JsonRows {
    /// `{`, or `{"_view":"name",`.
    head: Vec<u8>,
    members: Vec<Member>,
}

impl JsonRows {
    pub fn new(schema: &Schema) -> Self {
        JsonRows { head: b"{".into(), members: schema.fields().iter().map(|field| Member::of(field)).collect() }
    }

    /// Begins each object with `"_view": name`.
    pub fn view(self, name: &str) -> Self {
        let mut head = br#"{"_view":"#.to_vec();
        quote(name, &mut head);
        // A schema without columns leaves nothing for a comma to separate.
        if !self.members.is_empty() {
            head.push(b',');
        }
        JsonRows { head, ..self }
    }

    /// Appends row `row` as an object, without a line end.
    pub fn write_row(&self, batch: &RecordBatch, row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        members(&self.members, batch.columns(), row, out);
        out.push(b'}');
    }

    /// Appends a change as an object: `{"op":"added","after":{…}}`, `{"op":"updated","before":{…},"after":{…}}` or
    /// `{"op":"deleted","before":{…}}`, without a line end.
    pub fn write_change(&self, batch: &RecordBatch, change: Change, out: &mut Vec<u8>) {
        let (op, before, after) = match change {
            Change::Added(row) => ("added", None, Some(row)),
            Change::Updated { before, after } => ("updated", Some(before), Some(after)),
            Change::Deleted(row) => ("deleted", Some(row), None),
        };
        out.extend_from_slice(&self.head);
        if self.members.is_empty() && self.head.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(br#""op":""#);
        out.extend_from_slice(op.as_bytes());
        out.push(b'"');
        for (name, row) in [(&br#","before":{"#[..], before), (br#","after":{"#, after)] {
            if let Some(row) = row {
                out.extend_from_slice(name);
                members(&self.members, batch.columns(), row, out);
                out.push(b'}');
            }
        }
        out.push(b'}');
    }
}

/// A column of a flat result: structs are taken apart, as in `window.start`.
struct Flat {
    name: String,
    /// The column, then the field in each struct.
    path: Vec<usize>,
    writer: ValueWriter,
}

impl Flat {
    fn of(schema: &Schema) -> Vec<Flat> {
        let mut flat = Vec::new();
        Flat::collect(schema.fields(), "", &[], &mut flat);
        flat
    }

    fn collect(fields: &Fields, prefix: &str, path: &[usize], flat: &mut Vec<Flat>) {
        for (index, field) in fields.iter().enumerate() {
            let name = format!("{prefix}{}", field.name());
            let path = [path, &[index]].concat();
            match field.data_type() {
                DataType::Struct(parts) if !parts.is_empty() => Flat::collect(parts, &format!("{name}."), &path, flat),
                _ => flat.push(Flat { name, path, writer: ValueWriter::of(field) }),
            }
        }
    }

    /// Appends the text of the value in row `row`; says `false` for NULL.
    fn text(&self, batch: &RecordBatch, row: usize, out: &mut Vec<u8>) -> bool {
        let mut array: &ArrayRef = batch.column(self.path[0]);
        for field in &self.path[1..] {
            if array.is_null(row) {
                return false;
            }
            array = array.as_struct().column(*field);
        }
        if self.writer.is_null(array, row) {
            return false;
        }
        self.writer.text(array, row, out);
        true
    }
}

/// Writes a CSV field, in quotes where it must be.
fn csv_field(text: &[u8], out: &mut Vec<u8>) {
    if !text.is_empty() && !text.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// The text with control characters as escapes: a feed must not steer the terminal.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char.is_control() {
            true => shown.extend(char.escape_default()),
            false => shown.push(char),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use arrow::array::*;
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{TimeUnit, UnionFields};

    use super::super::Column;
    use super::*;
    use crate::time::{TimestampArray, UTC, instant_ns};

    fn changes(batch: RecordBatch, weights: Option<&[i64]>) -> Changes {
        let times = TimestampArray::from(vec![0; batch.num_rows()]);
        Changes { rows: batch, times, weights: weights.map(|weights| weights.to_vec().into()) }
    }

    fn windows() -> RecordBatch {
        let second = |seconds: &[i64]| {
            let nanos = TimestampArray::from_iter_values(seconds.iter().map(|s| s * 1_000_000_000));
            Arc::new(nanos.with_timezone(UTC)) as ArrayRef
        };
        let nanos = |name: &str| Arc::new(Field::new(name, instant_ns(), false));
        let fields = Fields::from(vec![nanos("start"), nanos("end")]);
        let nulls = NullBuffer::from(vec![true, true, false]);
        let window = StructArray::new(fields, vec![second(&[0, 10, 20]), second(&[10, 20, 30])], Some(nulls));
        let text = StringViewArray::from(vec![Some("a,\"b\"\n\u{1b}[1m"), None, Some("")]);
        RecordBatch::try_from_iter([("window", Arc::new(window) as ArrayRef), ("text", Arc::new(text))]).unwrap()
    }

    fn written(mut encoder: Encoder, batches: &[Changes]) -> String {
        let mut out = Vec::new();
        batches.iter().for_each(|batch| encoder.write(batch, &mut out).unwrap());
        encoder.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_type_has_its_json() {
        let json = Column::json("json").field();
        let nested = Int64Array::from(vec![Some(1), None]);
        let list = ListArray::new(
            Arc::new(Field::new("item", DataType::Int64, true)),
            arrow::buffer::OffsetBuffer::from_lengths([2]),
            Arc::new(nested),
            None,
        );
        let columns: Vec<(Field, ArrayRef, &str)> = vec![
            (Field::new("bool", DataType::Boolean, true), Arc::new(BooleanArray::from(vec![true])), "true"),
            (Field::new("int", DataType::Int8, true), Arc::new(Int8Array::from(vec![-128])), "-128"),
            (Field::new("big", DataType::UInt64, true), Arc::new(UInt64Array::from(vec![u64::MAX])), "18446744073709551615"),
            (Field::new("float", DataType::Float32, true), Arc::new(Float32Array::from(vec![0.1])), "0.1"),
            (Field::new("nan", DataType::Float64, true), Arc::new(Float64Array::from(vec![f64::NAN])), "null"),
            (Field::new("inf", DataType::Float64, true), Arc::new(Float64Array::from(vec![f64::INFINITY])), "null"),
            (
                Field::new("decimal", DataType::Decimal128(10, 2), true),
                Arc::new(Decimal128Array::from(vec![-5]).with_precision_and_scale(10, 2).unwrap()),
                "-0.05",
            ),
            (Field::new("text", DataType::Utf8, true), Arc::new(StringArray::from(vec!["a\"\n\u{1}é"])), r#""a\"\n\u0001é""#),
            (json.clone(), Arc::new(StringViewArray::from(vec!["{\"b\":\n 1,\r\n\"a\":[]}"])), "{\"b\":  1,  \"a\":[]}"),
            (json.clone().with_name("odd"), Arc::new(StringViewArray::from(vec!["{\"b\":"])), r#""{\"b\":""#),
            (
                Field::new("bytes", DataType::Binary, true),
                Arc::new(BinaryArray::from(vec![&[0, 255, 254, 1][..]])),
                "\"AP/+AQ==\"",
            ),
            (Field::new("date", DataType::Date32, true), Arc::new(Date32Array::from(vec![-1])), "\"1969-12-31\""),
            (
                Field::new("time", DataType::Time64(TimeUnit::Microsecond), true),
                Arc::new(Time64MicrosecondArray::from(vec![1_500_000])),
                "\"00:00:01.5\"",
            ),
            (
                Field::new("ms", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
                Arc::new(TimestampMillisecondArray::from(vec![-1]).with_timezone("UTC")),
                "\"1969-12-31T23:59:59.999Z\"",
            ),
            (Field::new("list", list.data_type().clone(), true), Arc::new(list), "[1,null]"),
            (Field::new("null", DataType::Null, true), Arc::new(NullArray::new(1)), "null"),
            (
                Field::new("gap", DataType::Duration(TimeUnit::Second), true),
                Arc::new(DurationSecondArray::from(vec![5])),
                "\"PT5S\"",
            ),
        ];
        let expect: Vec<String> = columns.iter().map(|(field, _, json)| format!("\"{}\":{json}", field.name())).collect();
        let schema = Schema::new(columns.iter().map(|(field, ..)| field.clone()).collect::<Vec<_>>());
        let arrays = columns.into_iter().map(|(_, array, _)| array).collect();
        let batch = RecordBatch::try_new(Arc::new(schema), arrays).unwrap();
        let mut out = Vec::new();
        JsonRows::new(batch.schema_ref()).write_row(&batch, 0, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{{{}}}", expect.join(",")));
    }

    #[test]
    fn what_the_json_functions_return_is_written_as_the_value_it_is() {
        let fields: UnionFields = [
            (0, Arc::new(Field::new("null", DataType::Null, true))),
            (2, Arc::new(Field::new("int", DataType::Int64, false))),
            (4, Arc::new(Field::new("str", DataType::Utf8, false))),
            (6, Arc::new(Column { data_type: DataType::Utf8, ..Column::json("object") }.field())),
        ]
        .into_iter()
        .collect();
        let children: Vec<ArrayRef> = vec![
            Arc::new(NullArray::new(4)),
            Arc::new(Int64Array::from(vec![None, Some(7), None, None])),
            Arc::new(StringArray::from(vec![None, None, Some("a"), None])),
            Arc::new(StringArray::from(vec![None, None, None, Some("{\"a\":1}")])),
        ];
        let union = UnionArray::try_new(fields, vec![0i8, 2, 4, 6].into(), None, children).unwrap();
        let batch = RecordBatch::try_from_iter([("x", Arc::new(union) as ArrayRef)]).unwrap();
        let ndjson = written(Encoder::append_only(Encoding::Ndjson, batch.schema_ref()), &[changes(batch.clone(), None)]);
        assert_eq!(ndjson, "{\"x\":null}\n{\"x\":7}\n{\"x\":\"a\"}\n{\"x\":{\"a\":1}}\n");
        let csv = written(Encoder::append_only(Encoding::Csv, batch.schema_ref()), &[changes(batch.clone(), None)]);
        assert_eq!(csv, "x\n\n7\na\n\"{\"\"a\"\":1}\"\n");
    }

    #[test]
    fn rows_are_written_in_every_output() {
        let batch = windows();
        let all = changes(batch.clone(), None);
        let encoder = |output| Encoder::append_only(output, batch.schema_ref());
        assert_eq!(
            written(encoder(Encoding::Ndjson).view("v"), std::slice::from_ref(&all)),
            concat!(
                r#"{"_view":"v","window":{"start":"1970-01-01T00:00:00Z","end":"1970-01-01T00:00:10Z"},"text":"a,\"b\"\n\u001b[1m"}"#,
                "\n",
                r#"{"_view":"v","window":{"start":"1970-01-01T00:00:10Z","end":"1970-01-01T00:00:20Z"},"text":null}"#,
                "\n",
                r#"{"_view":"v","window":null,"text":""}"#,
                "\n",
            )
        );
        let json = written(encoder(Encoding::Json), &[all.slice(0, 2), all.slice(2, 0), all.slice(2, 1)]);
        assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&json).unwrap().len(), 3);
        assert_eq!(written(encoder(Encoding::Json), &[]), "[]\n");
        assert_eq!(
            written(encoder(Encoding::Csv), &[all.slice(0, 1), all.slice(1, 2)]),
            "window.start,window.end,text\n\
             1970-01-01T00:00:00Z,1970-01-01T00:00:10Z,\"a,\"\"b\"\"\n\u{1b}[1m\"\n\
             1970-01-01T00:00:10Z,1970-01-01T00:00:20Z,\n\
             ,,\"\"\n"
        );
        assert_eq!(written(encoder(Encoding::Csv), &[]), "window.start,window.end,text\n");
        assert_eq!(
            written(encoder(Encoding::Table), &[all]),
            r#"+----------------------+----------------------+------------------+
| window.start         | window.end           | text             |
+----------------------+----------------------+------------------+
| 1970-01-01T00:00:00Z | 1970-01-01T00:00:10Z | a,"b"\n\u{1b}[1m |
| 1970-01-01T00:00:10Z | 1970-01-01T00:00:20Z | NULL             |
| NULL                 | NULL                 |                  |
+----------------------+----------------------+------------------+
"#
        );
    }

    #[test]
    fn what_is_no_number_has_a_word_in_csv() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5]));
        for data_type in [DataType::Float16, DataType::Float32, DataType::Float64] {
            let column = arrow::compute::cast(&floats, &data_type).unwrap();
            let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
            let csv = written(Encoder::append_only(Encoding::Csv, batch.schema_ref()), &[changes(batch.clone(), None)]);
            assert_eq!(csv, "x\nNaN\nInfinity\n-Infinity\n0.5\n", "{data_type}");
        }
    }

    #[test]
    fn a_changelog_says_what_happened() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 2, 3, 4, 5]));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let all = changes(batch.clone(), Some(&[1, -1, 1, -1, 2, 0]));
        assert_eq!(
            written(Encoder::changelog(Encoding::Ndjson, batch.schema_ref()).view("v"), std::slice::from_ref(&all)),
            concat!(
                "{\"_view\":\"v\",\"op\":\"added\",\"after\":{\"n\":1}}\n",
                "{\"_view\":\"v\",\"op\":\"updated\",\"before\":{\"n\":1},\"after\":{\"n\":2}}\n",
                "{\"_view\":\"v\",\"op\":\"deleted\",\"before\":{\"n\":3}}\n",
                "{\"_view\":\"v\",\"op\":\"added\",\"after\":{\"n\":4}}\n",
                "{\"_view\":\"v\",\"op\":\"added\",\"after\":{\"n\":4}}\n",
            )
        );
        assert_eq!(
            written(Encoder::changelog(Encoding::Csv, batch.schema_ref()), &[all]),
            "op,n\nadded,1\nupdated_from,1\nupdated_to,2\ndeleted,3\nadded,4\nadded,4\n"
        );
    }
}
