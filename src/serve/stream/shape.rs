//! What a client wants its events to look like: format, kinds of changes, columns, and the type on the `event` line.

use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result, nearest};

/// How changes are put into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StreamFormat)]
pub enum Format {
    /// A change an event: `{"op":"added","query":…,"after":{…}}`.
    #[default]
    Changes,
    /// What was published together: `{"queryId":…,"added":[{"after":…}],"updated":[…],"deleted":[…]}`.
    Batch,
    /// A row an event, of added and updated rows as they are now.
    Rows,
    /// What was published together, in Drasi's words: `{"queryId":…,"results":[{"type":"ADD","data":…}],"timestamp":…}`.
    Drasi,
    /// A change an event, in Debezium's words: `{"before":…,"after":…,"op":"c","ts_ms":…,"source":{…}}`.
    Debezium,
}

impl Format {
    pub const NAMES: [(&str, Format); 5] = [
        ("changes", Format::Changes),
        ("batch", Format::Batch),
        ("rows", Format::Rows),
        ("drasi", Format::Drasi),
        ("debezium", Format::Debezium),
    ];

    pub fn parse(text: &str) -> Result<Format> {
        word("format", text, &Format::NAMES)
    }

    /// Whether an event may hold several changes.
    pub fn groups(self) -> bool {
        matches!(self, Format::Batch | Format::Drasi)
    }
}

/// What the `event` line of a data event says. Pages that listen with `onmessage` see only events without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EventField {
    #[default]
    None,
    /// `added`, `updated` or `deleted`.
    Op,
    /// The name of the view.
    View,
}

impl EventField {
    const NAMES: [(&str, EventField); 3] = [("none", EventField::None), ("op", EventField::Op), ("view", EventField::View)];
}

/// What a change does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Added,
    Updated,
    Deleted,
}

impl Op {
    pub const NAMES: [(&str, Op); 3] = [("added", Op::Added), ("updated", Op::Updated), ("deleted", Op::Deleted)];

    pub fn name(self) -> &'static str {
        Op::NAMES[self as usize].0
    }

    /// Drasi's word for it.
    pub fn drasi(self) -> &'static str {
        ["ADD", "UPDATE", "DELETE"][self as usize]
    }
}

/// Which kinds of changes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ops {
    pub added: bool,
    pub updated: bool,
    pub deleted: bool,
}

impl Ops {
    pub const ALL: Ops = Ops { added: true, updated: true, deleted: true };
    pub const NONE: Ops = Ops { added: false, updated: false, deleted: false };

    pub fn has(self, op: Op) -> bool {
        match op {
            Op::Added => self.added,
            Op::Updated => self.updated,
            Op::Deleted => self.deleted,
        }
    }

    pub fn with(mut self, op: Op) -> Ops {
        match op {
            Op::Added => self.added = true,
            Op::Updated => self.updated = true,
            Op::Deleted => self.deleted = true,
        }
        self
    }

    pub fn without(self, op: Op) -> Ops {
        let all_but = Ops { added: op != Op::Added, updated: op != Op::Updated, deleted: op != Op::Deleted };
        self.and(all_but)
    }

    /// What one of them lets through.
    pub fn or(self, other: Ops) -> Ops {
        Ops { added: self.added || other.added, updated: self.updated || other.updated, deleted: self.deleted || other.deleted }
    }

    /// What both let through.
    pub fn and(self, other: Ops) -> Ops {
        Ops { added: self.added && other.added, updated: self.updated && other.updated, deleted: self.deleted && other.deleted }
    }

    fn parse(text: &str) -> Result<Ops> {
        let mut ops = Ops::NONE;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            ops = ops.with(word("ops", name, &Op::NAMES)?);
        }
        match ops {
            Ops::NONE => {
                Err(Error::new(Code::BadOption, "option 'ops' names no kind of change").hint("write ops=added,updated,deleted"))
            }
            ops => Ok(ops),
        }
    }
}

/// All of it; equal shapes of a view have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    pub format: Format,
    pub ops: Ops,
    /// The columns to send, in this order; `None` for all.
    pub columns: Option<Vec<String>>,
    pub event_field: EventField,
    /// A condition in SQL over the view's columns: a row that comes to meet it is added, one that no longer does is deleted.
    pub filter: Option<String>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { format: Format::default(), ops: Ops::ALL, columns: None, event_field: EventField::default(), filter: None }
    }
}

impl Shape {
    /// Takes over what a query parameter says; `false` for one that is not about shapes.
    pub fn read(&mut self, name: &str, value: &str) -> Result<bool> {
        match name {
            "format" => self.format = Format::parse(value)?,
            "ops" => self.ops = Ops::parse(value)?,
            "columns" => self.columns = Some(value.split(',').map(|column| column.trim().to_string()).collect()),
            "where" => self.filter = Some(value.to_string()),
            "event_field" => self.event_field = word("event_field", value, &EventField::NAMES)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses what does not go together.
    pub fn check(&self) -> Result<()> {
        if self.event_field == EventField::Op && self.format.groups() {
            let message = "option 'event_field' is 'op', but an event of this format holds changes of several kinds";
            return Err(Error::new(Code::BadOption, message).hint("choose format=changes, or event_field=view"));
        }
        Ok(())
    }

    /// Where the columns to send are in `schema`; `None` for all as they stand.
    pub(super) fn projection(&self, schema: &Schema) -> Result<Option<Vec<usize>>> {
        let Some(columns) = &self.columns else { return Ok(None) };
        let find = |name: &String| {
            schema.index_of(name).map_err(|_| {
                let known = || schema.fields().iter().map(|field| field.name().as_str());
                let error = Error::new(Code::UnknownColumn, format!("column '{name}' is not there"));
                match nearest(name, known()) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint(format!("the columns are {}", known().collect::<Vec<_>>().join(", "))),
                }
            })
        };
        columns.iter().map(find).collect::<Result<_>>().map(Some)
    }
}

/// The value of a word out of a closed list.
pub(super) fn word<T: Copy>(option: &str, text: &str, known: &[(&'static str, T)]) -> Result<T> {
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names = || known.iter().map(|(name, _)| *name);
    let error = Error::new(Code::BadOption, format!("option '{option}' does not know '{text}'"));
    Err(match nearest(text, names()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint(format!("it may be {}", names().collect::<Vec<_>>().join(", "))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(parameters: &[(&str, &str)]) -> Result<Shape> {
        let mut shape = Shape::default();
        for (name, value) in parameters {
            assert!(shape.read(name, value)?, "{name} is no parameter");
        }
        shape.check().map(|()| shape)
    }

    #[test]
    fn parameters_say_what_events_look_like() {
        let wanted = shape(&[
            ("format", "rows"),
            ("ops", "added, deleted"),
            ("columns", "b, a"),
            ("event_field", "view"),
            ("where", "a > 1"),
        ]);
        let expected = Shape {
            format: Format::Rows,
            ops: Ops { updated: false, ..Ops::ALL },
            columns: Some(vec!["b".into(), "a".into()]),
            event_field: EventField::View,
            filter: Some("a > 1".into()),
        };
        assert_eq!(wanted.unwrap(), expected);
    }

    #[test]
    fn a_wrong_word_is_refused_with_the_nearest() {
        for (parameters, error) in [
            (&[("format", "change")][..], "option 'format' does not know 'change'; did you mean 'changes'?"),
            (&[("ops", "inserted")], "option 'ops' does not know 'inserted'; it may be added, updated, deleted"),
            (&[("ops", ",")], "option 'ops' names no kind of change; write ops=added,updated,deleted"),
            (
                &[("event_field", "op"), ("format", "batch")],
                "option 'event_field' is 'op', but an event of this format holds changes of several kinds; choose format=changes, or event_field=view",
            ),
        ] {
            assert_eq!(shape(parameters).unwrap_err().to_string(), error);
        }
    }
}
