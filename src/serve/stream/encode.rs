//! The changes of a view become events, byte for byte the same for every client that wants the same shape.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::Schema;
use bytes::Bytes;
use datafusion::physical_expr::PhysicalExpr;

use super::frame::FrameFields;
use super::position::Ids;
use super::shape::{EventField, Format, Op, Shape};
use super::template::{Subject, Templates};
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::format::encode::{Change, JsonRows};
use crate::operator::rows::{BadRows, evaluate_rows};
use crate::time::{Timestamp, TimestampArray};

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
    /// Events that were longer than an event may be (4 MiB).
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
        let mut events = EventWriter::new(self, at, Some(ids));
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
        let mut events = EventWriter::new(self, at, None);
        let met = self.met(rows)?;
        let rows = self.projected(rows)?;
        for row in 0..rows.num_rows() {
            if let Some(change) = within(Change::Added(row), met.as_ref()) {
                events.change(&rows, change, 0);
            }
        }
        Ok(events.finish())
    }

    /// Which rows meet the filter; `None` where there is none. One for which it cannot be computed does not.
    fn met(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(filter) = &self.filter else { return Ok(None) };
        let changes = Changes::inserts(rows.clone(), TimestampArray::from_value(0, rows.num_rows()));
        let found = evaluate_rows(std::slice::from_ref(filter), &changes, &mut BadRows::default())?;
        let met =
            found.columns.first().and_then(|met| met.as_boolean_opt()).ok_or_else(|| Error::bug("a filter is no condition"))?;
        let Some(kept) = found.kept else { return Ok(Some(met.clone())) };
        let mut all = vec![false; rows.num_rows()];
        for (at, row) in kept.values().iter().enumerate() {
            all[*row as usize] = met.is_valid(at) && met.value(at);
        }
        Ok(Some(all.into()))
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
struct EventWriter<'a> {
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

impl<'a> EventWriter<'a> {
    fn new(encoder: &'a Encoder, at: Timestamp, ids: Option<&'a Ids>) -> Self {
        let (out, data, id) = Default::default();
        EventWriter { encoder, at, ids, keys: None, out, data, id, group: Group::default(), done: Encoded::default() }
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
            FrameFields { id, name: Some("error") }.write(told.to_string().as_bytes(), &mut self.out);
        } else {
            FrameFields { id, name }.write(&self.data, &mut self.out);
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
mod tests;
