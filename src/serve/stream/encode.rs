//! The changes of a view become events, byte for byte the same for every client that wants the same shape.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::Schema;
use bytes::Bytes;
use datafusion::physical_expr::PhysicalExpr;

use super::frame::Event;
use super::position::Ids;
use super::shape::{EventField, Format, Op, Shape};
use super::template::{Subject, Templates};
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::format::encode::{Change, JsonRows};
use crate::time::Timestamp;

/// Bytes of one event's data. What is longer is told as an event `error` with the id of the change: a browser would keep it all in memory.
pub const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of an event with several changes after which the next change begins another.
const GROUP_BYTES: usize = 256 * 1024;

/// Events, and what happened while they were written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// Complete events, each ended by its blank line.
    pub bytes: Bytes,
    pub events: u64,
    /// Events that were longer than [`MAX_EVENT_BYTES`].
    pub oversized: u64,
    /// Changes whose template failed, so that they are in the default format.
    pub render_errors: u64,
}

/// Writes the changes of one view in one shape.
pub struct Encoder {
    view: String,
    /// The view's name as JSON.
    query: String,
    shape: Shape,
    projection: Option<Vec<usize>>,
    rows: JsonRows,
    templates: Option<Arc<Templates>>,
    /// The columns that name a row, where they are known.
    key: Option<(Vec<usize>, JsonRows)>,
    /// The shape's filter, over the columns of the view.
    filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Encoder {
    /// Fails where the shape names columns that `schema` has not.
    pub fn new(view: &str, schema: &Schema, shape: Shape, templates: Option<Arc<Templates>>) -> Result<Encoder> {
        let projection = shape.projection(schema)?;
        let rows = match &projection {
            Some(columns) => JsonRows::new(&schema.project(columns)?),
            None => JsonRows::new(schema),
        };
        let query = serde_json::Value::from(view).to_string();
        Ok(Encoder { view: view.to_string(), query, shape, projection, rows, templates, key: None, filter: None })
    }

    /// Says which columns of `schema` name a row: changes of different rows may change places within an event.
    pub fn keyed(mut self, schema: &Schema, key: Option<&[usize]>) -> Result<Encoder> {
        self.key = match key {
            Some(key) => Some((key.to_vec(), JsonRows::new(&schema.project(key)?))),
            None => None,
        };
        Ok(self)
    }

    /// Sends only rows that meet a condition, an expression of type BOOLEAN.
    pub fn filtered(self, filter: Option<Arc<dyn PhysicalExpr>>) -> Encoder {
        Encoder { filter, ..self }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The changes after `seq - 1`; the first of `changes` has the number `first`, and those before `seq` are left out.
    pub fn changes(&self, changes: &Changes, first: u64, seq: u64, ids: &Ids, at: Timestamp) -> Result<Encoded> {
        let mut events = Events::new(self, at, Some(ids));
        let rows = self.projected(&changes.rows)?;
        if let (Format::Batch, Some((key, _))) = (self.shape.format, &self.key) {
            events.keys = Some(changes.rows.project(key)?);
        }
        let met = self.met(&changes.rows)?;
        for (number, change) in (first..).zip(Change::each(changes)) {
            if let Some(change) = within(change, met.as_ref()).filter(|_| number >= seq) {
                events.change(&rows, change, number);
            }
        }
        Ok(events.finish())
    }

    /// Rows that are there, as if they were added. The events have no ids: a client that loses its connection among them has nothing
    /// to resume from.
    pub fn snapshot(&self, rows: &RecordBatch, at: Timestamp) -> Result<Encoded> {
        let mut events = Events::new(self, at, None);
        let met = self.met(rows)?;
        let rows = self.projected(rows)?;
        for row in 0..rows.num_rows() {
            if let Some(change) = within(Change::Added(row), met.as_ref()) {
                events.change(&rows, change, 0);
            }
        }
        Ok(events.finish())
    }

    /// Which rows meet the filter; `None` where there is none.
    fn met(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(filter) = &self.filter else { return Ok(None) };
        let met = filter.evaluate(rows)?.into_array(rows.num_rows())?;
        Ok(Some(met.as_boolean_opt().ok_or_else(|| Error::bug("a filter is no condition"))?.clone()))
    }

    fn projected(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        Ok(match &self.projection {
            Some(columns) => rows.project(columns)?,
            None => rows.clone(),
        })
    }
}

/// What a change of a row is to somebody who sees only the rows that `met` says.
fn within(change: Change, met: Option<&BooleanArray>) -> Option<Change> {
    let Some(met) = met else { return Some(change) };
    let sees = |row: usize| met.is_valid(row) && met.value(row);
    match change {
        Change::Added(row) | Change::Deleted(row) => sees(row).then_some(change),
        Change::Updated { before, after } => match (sees(before), sees(after)) {
            (true, true) => Some(change),
            (true, false) => Some(Change::Deleted(before)),
            (false, true) => Some(Change::Added(after)),
            (false, false) => None,
        },
    }
}

/// Events being written.
struct Events<'a> {
    encoder: &'a Encoder,
    at: Timestamp,
    /// `None` for a snapshot.
    ids: Option<&'a Ids>,
    /// The key columns of the rows, where their order is watched.
    keys: Option<RecordBatch>,
    out: Vec<u8>,
    /// The data of one event.
    data: Vec<u8>,
    id: String,
    group: Group,
    done: Encoded,
}

/// Changes that wait to be sent as one event.
#[derive(Default)]
struct Group {
    /// Lists of JSON objects, by kind of change; Drasi's format has only the first.
    lists: [Vec<u8>; 3],
    changes: u64,
    /// The last list that has something.
    rank: usize,
    /// The keys of the rows that change.
    touched: HashSet<Vec<u8>>,
    /// The number of the last change.
    seq: u64,
}

impl<'a> Events<'a> {
    fn new(encoder: &'a Encoder, at: Timestamp, ids: Option<&'a Ids>) -> Self {
        let (out, data, id) = Default::default();
        Events { encoder, at, ids, keys: None, out, data, id, group: Group::default(), done: Encoded::default() }
    }

    fn change(&mut self, rows: &RecordBatch, change: Change, seq: u64) {
        let (op, before, after) = match change {
            Change::Added(row) => (Op::Added, None, Some(row)),
            Change::Updated { before, after } => (Op::Updated, Some(before), Some(after)),
            Change::Deleted(row) => (Op::Deleted, Some(row), None),
        };
        if !self.encoder.shape.ops.has(op) {
            return;
        }
        if self.templated(rows, op, before, after, seq) {
            return;
        }
        match (self.encoder.shape.format, after) {
            (Format::Rows, None) => {}
            (Format::Rows, Some(after)) => {
                self.row(rows, after);
                self.event(op, seq);
            }
            (Format::Changes, _) => {
                self.text(r#"{"op":""#);
                self.text(op.name());
                self.text(r#"","query":"#);
                self.text(&self.encoder.query);
                self.sides(rows, ",", before, after);
                self.text("}");
                self.event(op, seq);
            }
            (Format::Debezium, _) => {
                self.debezium(rows, op, before, after, seq);
                self.event(op, seq);
            }
            (Format::Batch | Format::Drasi, _) => self.grouped(rows, op, before, after, seq),
        }
    }

    /// Writes the change as its template says; `false` where it has none or it fails.
    fn templated(&mut self, rows: &RecordBatch, op: Op, before: Option<usize>, after: Option<usize>, seq: u64) -> bool {
        let Some(templates) = self.encoder.templates.as_ref().filter(|templates| templates.has(op)) else { return false };
        let json = |row: usize| {
            let mut text = Vec::new();
            self.encoder.rows.write_row(rows, row, &mut text);
            text
        };
        let (before, after) = (before.map(json), after.map(json));
        let subject = Subject { view: &self.encoder.view, op, before: before.as_deref(), after: after.as_deref(), at: self.at };
        match templates.render(&subject, MAX_EVENT_BYTES) {
            Some(Ok(text)) => {
                self.flush();
                self.data = text;
                self.event(op, seq);
                true
            }
            Some(Err(error)) => {
                tracing::debug!(view = self.encoder.view, %error, "a template failed; the event is in the default format");
                self.done.render_errors += 1;
                false
            }
            None => false,
        }
    }

    fn grouped(&mut self, rows: &RecordBatch, op: Op, before: Option<usize>, after: Option<usize>, seq: u64) {
        let drasi = self.encoder.shape.format == Format::Drasi;
        // A reader takes the lists one after the other: a row that comes after its own deletion needs another event.
        let rank = if drasi { 0 } else { op as usize };
        let keys: Vec<Vec<u8>> = before.into_iter().chain(after).filter_map(|row| self.key(row)).collect();
        let collides = keys.is_empty() || keys.iter().any(|key| self.group.touched.contains(key));
        if (rank < self.group.rank && collides) || self.group.bytes() > GROUP_BYTES {
            self.flush();
        }
        self.group.touched.extend(keys);
        std::mem::swap(&mut self.data, &mut self.group.lists[rank]);
        self.text(if self.data.is_empty() { "{" } else { ",{" });
        if drasi {
            self.text(r#""type":""#);
            self.text(op.drasi());
            self.text(r#"","data":"#);
            self.row(rows, after.or(before).expect("a change has one side"));
            if op == Op::Updated {
                self.sides(rows, ",", before, after);
            }
        } else {
            self.sides(rows, "", before, after);
        }
        self.text("}");
        std::mem::swap(&mut self.data, &mut self.group.lists[rank]);
        self.group.rank = self.group.rank.max(rank);
        self.group.changes += 1;
        self.group.seq = seq;
    }

    /// Sends the changes that wait.
    fn flush(&mut self) {
        if self.group.changes == 0 {
            return;
        }
        let group = std::mem::take(&mut self.group);
        self.text(r#"{"queryId":"#);
        self.text(&self.encoder.query);
        if self.encoder.shape.format == Format::Drasi {
            self.text(r#","results":["#);
            self.data.extend_from_slice(&group.lists[0]);
            self.text(r#"],"timestamp":"#);
            self.millis();
            self.text("}");
        } else {
            for ((name, _), list) in Op::NAMES.iter().zip(&group.lists) {
                self.text(",\"");
                self.text(name);
                self.text("\":[");
                self.data.extend_from_slice(list);
                self.text("]");
            }
            self.text("}");
        }
        self.event(Op::Updated, group.seq);
    }

    fn debezium(&mut self, rows: &RecordBatch, op: Op, before: Option<usize>, after: Option<usize>, seq: u64) {
        for (name, row) in [("{\"before\":", before), (",\"after\":", after)] {
            self.text(name);
            match row {
                Some(row) => self.row(rows, row),
                None => self.text("null"),
            }
        }
        self.text(",\"op\":\"");
        self.text(match (self.ids, op) {
            (None, _) => "r",
            (_, Op::Added) => "c",
            (_, Op::Updated) => "u",
            (_, Op::Deleted) => "d",
        });
        self.text("\",\"ts_ms\":");
        self.millis();
        self.text(concat!(
            r#","source":{"version":""#,
            env!("CARGO_PKG_VERSION"),
            r#"","connector":"streamgauge","name":"streamgauge","#
        ));
        self.text("\"ts_ms\":");
        self.millis();
        self.text(if self.ids.is_none() { r#","snapshot":"true""# } else { r#","snapshot":"false""# });
        self.text(r#","db":"streamgauge","table":"#);
        self.text(&self.encoder.query);
        if self.ids.is_some() {
            self.text(",\"sequence\":");
            self.data.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
        }
        self.text("}}");
    }

    /// `"before":{…},"after":{…}`, as far as they are there; `lead` stands before each, and a comma between them.
    fn sides(&mut self, rows: &RecordBatch, lead: &str, before: Option<usize>, after: Option<usize>) {
        let mut lead = lead;
        for (name, row) in [("\"before\":", before), ("\"after\":", after)] {
            if let Some(row) = row {
                self.text(lead);
                self.text(name);
                self.row(rows, row);
                lead = ",";
            }
        }
    }

    fn row(&mut self, rows: &RecordBatch, row: usize) {
        self.encoder.rows.write_row(rows, row, &mut self.data);
    }

    /// The key of a row, as bytes.
    fn key(&self, row: usize) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let (_, writer) = self.encoder.key.as_ref()?;
        writer.write_row(self.keys.as_ref()?, row, &mut text);
        Some(text)
    }

    fn millis(&mut self) {
        let millis = self.at.nanos().div_euclid(1_000_000);
        self.data.extend_from_slice(itoa::Buffer::new().format(millis).as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.data.extend_from_slice(text.as_bytes());
    }

    /// Ends the event whose data is written.
    fn event(&mut self, op: Op, seq: u64) {
        let id = self.ids.map(|ids| {
            ids.write(seq, &mut self.id);
            self.id.as_str()
        });
        let name = match self.encoder.shape.event_field {
            EventField::None => None,
            EventField::Op => Some(op.name()),
            EventField::View => Some(self.encoder.view.as_str()),
        };
        if self.data.len() > MAX_EVENT_BYTES {
            let told = serde_json::json!({
                "reason": "too_large", "query": self.encoder.view, "op": op.name(), "bytes": self.data.len(), "limit": MAX_EVENT_BYTES,
                "hint": "ask for fewer columns with columns=a,b",
            });
            tracing::warn!(
                view = self.encoder.view,
                bytes = self.data.len(),
                limit = MAX_EVENT_BYTES,
                "an event is too large to send"
            );
            self.done.oversized += 1;
            Event { id, name: Some("error") }.write(told.to_string().as_bytes(), &mut self.out);
        } else {
            Event { id, name }.write(&self.data, &mut self.out);
        }
        self.done.events += 1;
        self.data.clear();
    }

    fn finish(mut self) -> Encoded {
        self.flush();
        Encoded { bytes: self.out.into(), ..self.done }
    }
}

impl Group {
    fn bytes(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};

    use super::super::shape::Ops;
    use super::*;
    use crate::time::TimestampArray;

    const AT: Timestamp = Timestamp(1_772_366_400_500_000_000);

    /// Rows of an id and a name, each with its weight.
    fn changes(rows: &[(i64, &str, i64)]) -> Changes {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0.to_string())));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
        Changes {
            rows: RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap(),
            times: TimestampArray::from(vec![0; rows.len()]),
            weights: Some(rows.iter().map(|row| row.2).collect::<Vec<i64>>().into()),
        }
    }

    /// The changes of the documentation: added, updated, deleted.
    fn story() -> Changes {
        changes(&[(1, "Test", 1), (1, "Test", -1), (1, "Updated", 1), (1, "Updated", -1)])
    }

    fn encoder(shape: Shape, templates: &[(Op, &str)]) -> Encoder {
        let templates = Arc::new(Templates::compile(templates.iter().copied()).unwrap());
        Encoder::new("my-query", &story().rows.schema(), shape, Some(templates)).unwrap()
    }

    fn encoded(shape: Shape, changes: &Changes) -> String {
        text(encoder(shape, &[]).changes(changes, 41, 0, &Ids::single(7), AT).unwrap())
    }

    fn text(encoded: Encoded) -> String {
        let text = String::from_utf8(encoded.bytes.to_vec()).unwrap();
        assert_eq!(text.matches("\n\n").count() as u64, encoded.events);
        text
    }

    fn of(format: Format) -> Shape {
        Shape { format, ..Shape::default() }
    }

    #[test]
    fn changes_are_written_as_documented() {
        let expected = concat!(
            "id: 7-41\ndata: {\"op\":\"added\",\"query\":\"my-query\",\"after\":{\"id\":\"1\",\"name\":\"Test\"}}\n\n",
            "id: 7-42\ndata: {\"op\":\"updated\",\"query\":\"my-query\",\"before\":{\"id\":\"1\",\"name\":\"Test\"},",
            "\"after\":{\"id\":\"1\",\"name\":\"Updated\"}}\n\n",
            "id: 7-43\ndata: {\"op\":\"deleted\",\"query\":\"my-query\",\"before\":{\"id\":\"1\",\"name\":\"Updated\"}}\n\n",
        );
        assert_eq!(encoded(of(Format::Changes), &story()), expected);
    }

    #[test]
    fn a_batch_is_one_event_with_the_id_of_its_last_change() {
        let expected = concat!(
            "id: 7-43\ndata: {\"queryId\":\"my-query\",\"added\":[{\"after\":{\"id\":\"1\",\"name\":\"Test\"}}],",
            "\"updated\":[{\"before\":{\"id\":\"1\",\"name\":\"Test\"},\"after\":{\"id\":\"1\",\"name\":\"Updated\"}}],",
            "\"deleted\":[{\"before\":{\"id\":\"1\",\"name\":\"Updated\"}}]}\n\n",
        );
        assert_eq!(encoded(of(Format::Batch), &story()), expected);
    }

    #[test]
    fn a_batch_is_cut_where_its_lists_would_change_the_order() {
        let back = changes(&[(1, "a", 1), (1, "a", -1), (1, "c", 1), (1, "c", -1), (1, "d", 1)]);
        // Added, updated, then deleted stay together; an update after it would be taken too early.
        let written = encoded(of(Format::Batch), &changes(&[(1, "a", 1), (1, "a", -1), (2, "b", 1)]));
        assert_eq!(written.matches("\n\n").count(), 1, "{written}");
        let deleted_first = Int64Array::from(vec![1, -2, 1, -2, 1]);
        let expected = ["id: 7-43", "id: 7-46", "id: 7-47"];
        let written = encoded(of(Format::Batch), &Changes { weights: Some(deleted_first), ..back });
        let ids: Vec<&str> = written.lines().filter(|line| line.starts_with("id")).collect();
        assert_eq!(ids, expected, "{written}");
    }

    #[test]
    fn changes_of_different_rows_stay_in_one_batch_where_rows_have_a_key() {
        let keyed = encoder(of(Format::Batch), &[]).keyed(&story().rows.schema(), Some(&[0])).unwrap();
        let written =
            text(keyed.changes(&changes(&[(1, "a", -2), (3, "c", 1), (2, "b", -1)]), 41, 0, &Ids::single(7), AT).unwrap());
        assert!(
            written.starts_with("id: 7-44\ndata: {\"queryId\":\"my-query\",\"added\":[{\"after\":{\"id\":\"3\""),
            "{written}"
        );
        assert_eq!(written.matches("\n\n").count(), 1, "{written}");
        let again = text(keyed.changes(&changes(&[(1, "a", -2), (3, "c", 1), (1, "b", 1)]), 41, 0, &Ids::single(7), AT).unwrap());
        assert_eq!(again.matches("\n\n").count(), 2, "{again}");
    }

    #[test]
    fn rows_are_those_that_are_there_now() {
        let expected = concat!(
            "id: 7-41\ndata: {\"id\":\"1\",\"name\":\"Test\"}\n\n",
            "id: 7-42\ndata: {\"id\":\"1\",\"name\":\"Updated\"}\n\n",
        );
        assert_eq!(encoded(of(Format::Rows), &story()), expected);
    }

    #[test]
    fn drasi_has_its_own_words() {
        let expected = concat!(
            "id: 7-43\ndata: {\"queryId\":\"my-query\",\"results\":[{\"type\":\"ADD\",\"data\":{\"id\":\"1\",\"name\":\"Test\"}},",
            "{\"type\":\"UPDATE\",\"data\":{\"id\":\"1\",\"name\":\"Updated\"},\"before\":{\"id\":\"1\",\"name\":\"Test\"},",
            "\"after\":{\"id\":\"1\",\"name\":\"Updated\"}},",
            "{\"type\":\"DELETE\",\"data\":{\"id\":\"1\",\"name\":\"Updated\"}}],\"timestamp\":1772366400500}\n\n",
        );
        assert_eq!(encoded(of(Format::Drasi), &story()), expected);
    }

    #[test]
    fn debezium_has_its_own_words() {
        let written = encoded(of(Format::Debezium), &story());
        let events: Vec<serde_json::Value> =
            written.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
        let ops: Vec<&str> = events.iter().map(|event| event["op"].as_str().unwrap()).collect();
        assert_eq!(ops, ["c", "u", "d"]);
        let expected = concat!(
            r#"{"before":null,"after":{"id":"1","name":"Test"},"op":"c","ts_ms":1772366400500,"source":{"version":""#,
            env!("CARGO_PKG_VERSION"),
            r#"","connector":"streamgauge","name":"streamgauge","ts_ms":1772366400500,"snapshot":"false","db":"streamgauge","#,
            r#""table":"my-query","sequence":41}}"#,
        );
        assert_eq!(events[0].to_string(), expected);
        assert_eq!((&events[1]["before"]["name"], &events[1]["after"]["name"]), (&"Test".into(), &"Updated".into()));
        assert_eq!((&events[2]["before"]["name"], &events[2]["after"]), (&"Updated".into(), &serde_json::Value::Null));
        let snapshot = text(encoder(of(Format::Debezium), &[]).snapshot(&story().rows.slice(0, 1), AT).unwrap());
        assert!(snapshot.contains(r#""op":"r""#) && snapshot.contains(r#""snapshot":"true""#), "{snapshot}");
    }

    #[test]
    fn kinds_columns_and_types_are_chosen() {
        let shape = Shape {
            ops: Ops { added: false, ..Ops::ALL },
            columns: Some(vec!["name".into()]),
            event_field: EventField::Op,
            ..Shape::default()
        };
        let expected = concat!(
            "id: 7-42\nevent: updated\ndata: {\"op\":\"updated\",\"query\":\"my-query\",\"before\":{\"name\":\"Test\"},",
            "\"after\":{\"name\":\"Updated\"}}\n\n",
            "id: 7-43\nevent: deleted\ndata: {\"op\":\"deleted\",\"query\":\"my-query\",\"before\":{\"name\":\"Updated\"}}\n\n",
        );
        assert_eq!(encoded(shape, &story()), expected);
        let shape = Shape { columns: Some(vec!["nam".into()]), ..Shape::default() };
        let error = Encoder::new("v", &story().rows.schema(), shape, None).err().unwrap();
        assert_eq!(error.to_string(), "column 'nam' is not there; did you mean 'name'?");
    }

    #[test]
    fn what_a_client_has_is_left_out() {
        let encoder = encoder(Shape::default(), &[]);
        let rest = text(encoder.changes(&story(), 41, 43, &Ids::single(7), AT).unwrap());
        assert!(rest.starts_with("id: 7-43\n"), "{rest}");
    }

    #[test]
    fn rows_that_come_to_meet_a_filter_are_added_and_those_that_leave_it_deleted() {
        let named = |name: &str| -> Arc<dyn PhysicalExpr> {
            let column = Arc::new(Column::new("name", 1));
            Arc::new(BinaryExpr::new(column, Operator::Eq, Arc::new(Literal::new(ScalarValue::from(name)))))
        };
        let kinds = |name: &str| -> Vec<String> {
            let encoder = encoder(Shape::default(), &[]).filtered(Some(named(name)));
            let text = text(encoder.changes(&story(), 41, 0, &Ids::single(7), AT).unwrap());
            text.split("\n\n").filter_map(|event| Some(format!("{} {}", event.get(4..8)?, event.split('"').nth(3)?))).collect()
        };
        assert_eq!(kinds("Test"), ["7-41 added", "7-42 deleted"]);
        assert_eq!(kinds("Updated"), ["7-42 added", "7-43 deleted"]);
        assert_eq!(kinds("other"), [""; 0]);
        let snapshot = encoder(Shape::default(), &[]).filtered(Some(named("Test"))).snapshot(&story().rows, AT).unwrap();
        assert_eq!(snapshot.events, 2);
    }

    #[test]
    fn a_snapshot_is_added_rows_without_ids() {
        let shown = text(encoder(Shape::default(), &[]).snapshot(&story().rows.slice(0, 1), AT).unwrap());
        assert_eq!(shown, "data: {\"op\":\"added\",\"query\":\"my-query\",\"after\":{\"id\":\"1\",\"name\":\"Test\"}}\n\n");
    }

    #[test]
    fn an_operation_without_a_template_is_in_the_default_format() {
        let templates = [(Op::Added, "new\n{{after.name}}")];
        let encoded = encoder(of(Format::Batch), &templates).changes(&story(), 41, 0, &Ids::single(7), AT).unwrap();
        let expected = concat!(
            "id: 7-41\ndata: new\ndata: Test\n\n",
            "id: 7-43\ndata: {\"queryId\":\"my-query\",\"added\":[],\"updated\":[{\"before\":{\"id\":\"1\",\"name\":\"Test\"},",
            "\"after\":{\"id\":\"1\",\"name\":\"Updated\"}}],\"deleted\":[{\"before\":{\"id\":\"1\",\"name\":\"Updated\"}}]}\n\n",
        );
        assert_eq!(text(encoded), expected);
    }

    #[test]
    fn a_template_that_fails_gives_the_default_format_and_is_counted() {
        let long = "x".repeat(2 * 1024 * 1024);
        let encoder = encoder(Shape::default(), &[(Op::Added, "{{after.name}}{{after.name}}{{after.name}}")]);
        let encoded = encoder.changes(&changes(&[(1, &long, 1)]), 1, 0, &Ids::single(7), AT).unwrap();
        assert_eq!((encoded.render_errors, encoded.events, encoded.oversized), (1, 1, 0));
        assert!(encoded.bytes.starts_with(b"id: 7-1\ndata: {\"op\":\"added\""));
    }

    #[test]
    fn an_event_that_is_too_large_is_told() {
        let long = "x".repeat(MAX_EVENT_BYTES);
        let encoded =
            encoder(Shape::default(), &[]).changes(&changes(&[(1, &long, 1), (2, "b", 1)]), 1, 0, &Ids::single(7), AT).unwrap();
        assert_eq!((encoded.events, encoded.oversized), (2, 1));
        let text = text(encoded);
        assert!(text.starts_with(
            "id: 7-1\nevent: error\ndata: {\"reason\":\"too_large\",\"query\":\"my-query\",\"op\":\"added\",\"bytes\":"
        ));
        assert!(text.contains("id: 7-2\ndata: {\"op\":\"added\""));
    }

    #[test]
    fn weights_count_as_often_as_they_say() {
        let twice = encoded(Shape::default(), &changes(&[(1, "a", 2), (2, "b", 1)]));
        let ids: Vec<&str> = twice.lines().filter(|line| line.starts_with("id")).collect();
        assert_eq!(ids, ["id: 7-41", "id: 7-42", "id: 7-43"]);
    }
}
