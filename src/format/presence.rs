//! Which of the wanted fields the first records of a feed have, and which it has in their place.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use serde_json::{Map, Value as Json};

use super::decode::Image;
use super::object::{FieldName, Found, NameIndex};
use super::value::ValueReader;
use crate::error::nearest;

/// Records that are looked at: enough to know a feed, few enough to cost nothing.
pub const RECORDS: usize = 100;
/// Fields without a column that are remembered of one object, and bytes of such a name.
const UNKNOWN_MAX: usize = 256;
const UNKNOWN_BYTES: usize = 64;
/// Those that are named where none is like the column.
const UNKNOWN_SHOWN: usize = 5;

/// A look at the first records of a feed.
pub struct Presence {
    records: usize,
    root: WantedObject,
    /// The column of the event's id, if it is wanted, and how many records had one.
    id: Option<(usize, String)>,
    ids: usize,
}

/// A column, or a field inside one, that was in no record.
#[derive(Debug, Clone)]
pub struct Absent {
    /// The column's number, then those of the fields into it.
    path: Vec<usize>,
    pub sentence: String,
}

/// What is wanted of an object.
struct WantedObject {
    names: NameIndex,
    fields: Vec<WantedField>,
    /// How many such objects there were.
    seen: usize,
    unknown: BTreeSet<String>,
}

struct WantedField {
    key: FieldName,
    seen: bool,
    inside: Option<WantedObject>,
}

impl WantedObject {
    fn new<'a>(values: impl Iterator<Item = &'a ValueReader>) -> Self {
        let wanted = |value: &ValueReader| WantedField {
            key: value.key().clone(),
            seen: false,
            inside: (!value.fields().is_empty()).then(|| WantedObject::new(value.fields().iter())),
        };
        let fields: Vec<WantedField> = values.map(wanted).collect();
        WantedObject {
            names: NameIndex::new(fields.iter().map(|field| field.key.clone())),
            fields,
            seen: 0,
            unknown: BTreeSet::new(),
        }
    }

    fn look(&mut self, object: &Map<String, Json>) {
        self.seen += 1;
        for (name, value) in object {
            match self.names.find(name.as_bytes()) {
                Some(Found::Exact(index) | Found::Near(index)) => {
                    let field = &mut self.fields[index];
                    field.seen = true;
                    if let Some(inside) = &mut field.inside {
                        inside.look_into(value);
                    }
                }
                None if name.len() <= UNKNOWN_BYTES && self.unknown.len() < UNKNOWN_MAX => _ = self.unknown.insert(name.clone()),
                None => {}
            }
        }
    }

    /// Objects in lists and maps, too.
    fn look_into(&mut self, value: &Json) {
        match value {
            Json::Object(object) => self.look(object),
            Json::Array(items) => items.iter().take(RECORDS).for_each(|item| self.look_into(item)),
            _ => {}
        }
    }

    fn absent(&self, around: &str, path: &[usize], records: usize, into: &mut Vec<Absent>) {
        if self.seen == 0 {
            return;
        }
        for (index, field) in self.fields.iter().enumerate() {
            let name = format!("{around}{}", field.key.name);
            let path: Vec<usize> = path.iter().copied().chain([index]).collect();
            match &field.inside {
                _ if !field.seen => {
                    let instead = self.instead(&field.key.name, around);
                    let sentence = format!("column '{name}' was in none of {records} events{instead}");
                    into.push(Absent { path, sentence });
                }
                Some(inside) => inside.absent(&format!("{name}."), &path, records, into),
                None => {}
            }
        }
    }

    /// What the feed has that could be meant.
    fn instead(&self, name: &str, around: &str) -> String {
        let unknown = || self.unknown.iter().map(String::as_str);
        let folded = name.to_lowercase();
        let same_letters = unknown().find(|other| other.to_lowercase() == folded);
        let near = same_letters.or_else(|| nearest(name, unknown()));
        match (near, self.unknown.len()) {
            (Some(near), _) => format!("; the feed has '{around}{near}'"),
            (None, 0) => String::new(),
            (None, count) => {
                let shown: Vec<String> = unknown().take(UNKNOWN_SHOWN).map(|name| format!("'{around}{name}'")).collect();
                let more = if count > UNKNOWN_SHOWN { " and more" } else { "" };
                format!("; fields without a column are {}{more}", shown.join(", "))
            }
        }
    }
}

impl Presence {
    /// A look for the fields `values`, and for an id where a column of this number and name takes it. `columns` are the numbers of the
    /// columns that the fields are for.
    pub fn new(values: &[ValueReader], id: Option<(usize, String)>) -> Self {
        Presence { records: 0, root: WantedObject::new(values.iter()), id, ids: 0 }
    }

    /// Looks at a record; whether it was the last that is looked at.
    pub fn look(&mut self, data: &str, id: &str, image: Image) -> bool {
        self.records += 1;
        self.ids += usize::from(!id.is_empty());
        match image {
            Image::Object(part) | Image::Debezium(part) => {
                if let Ok(object) = serde_json::from_str(part.of(data)) {
                    self.root.look(&object);
                }
            }
            Image::Named(part) => self.root.look(&named(part.of(data))),
            Image::Updated { columns, identity } => {
                let mut object = identity.map(|part| named(part.of(data))).unwrap_or_default();
                object.extend(named(columns.of(data)));
                self.root.look(&object);
            }
        }
        self.records >= RECORDS
    }

    /// The columns that were in no record so far; `columns` are the numbers of those that the fields are for.
    pub fn absent(&self, columns: &[usize]) -> Vec<Absent> {
        let mut absent = Vec::new();
        self.root.absent("", &[], self.records, &mut absent);
        absent.iter_mut().for_each(|absent| absent.path[0] = columns[absent.path[0]]);
        if let Some((column, name)) = self.id.as_ref().filter(|_| self.ids == 0 && self.records > 0) {
            let sentence = format!("column '{name}' was in none of {} events: they have no ids", self.records);
            absent.push(Absent { path: vec![*column], sentence });
        }
        absent
    }
}

impl Absent {
    /// Whether one of these columns has a value at last.
    pub fn is_in(&self, columns: &[arrow::array::ArrayRef]) -> bool {
        let Some((first, inner)) = self.path.split_first() else { return false };
        columns.get(*first).is_some_and(|column| has_value(column.as_ref(), inner))
    }
}

fn has_value(array: &dyn Array, path: &[usize]) -> bool {
    match array.data_type() {
        DataType::List(_) if !path.is_empty() => has_value(array.as_list::<i32>().values().as_ref(), path),
        DataType::Map(..) if !path.is_empty() => has_value(array.as_map().values().as_ref(), path),
        DataType::Struct(_) if !path.is_empty() => has_value(array.as_struct().column(path[0]).as_ref(), &path[1..]),
        _ => array.null_count() < array.len(),
    }
}

/// The row of an array of objects `{"name": …, "value": …}`.
fn named(text: &str) -> Map<String, Json> {
    let columns: Vec<Json> = serde_json::from_str(text).unwrap_or_default();
    let pair = |mut column: Json| Some((column.get("name")?.as_str()?.to_string(), column.get_mut("value")?.take()));
    columns.into_iter().filter_map(pair).collect()
}
