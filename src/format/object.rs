//! Finds the parts of a JSON value without reading them: the fields that are wanted, the elements of an array, the entries of a map.
//!
//! A part is a slice of the event's data. The whole text is checked on the way; what is not wanted is skipped without recursion, so
//! no depth of nesting costs any stack. The scanner reads what is good; what it does not vouch for serde_json reads again: it alone
//! refuses, and words the reason.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::scan;

/// A slice of an event's data, or of the scratch that its cells point into: from, to, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    pub start: usize,
    pub end: usize,
}

impl ByteRange {
    pub fn of(self, text: &str) -> &str {
        &text[self.start..self.end]
    }
}

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The column, then the way into it, as in `order.lines[2]`; empty where the record as a whole is meant.
    pub path: String,
    pub message: String,
    /// Where, in bytes from the beginning of the event's data.
    pub at: usize,
}

impl Fault {
    pub fn new(at: usize, message: impl Into<String>) -> Self {
        Fault { path: String::new(), message: message.into(), at }
    }

    /// The same fault seen from the value around it.
    pub fn inside(mut self, field: &str) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{field}{joint}{}", self.path);
        self
    }
}

/// The names that are wanted, found by length and ends of a name, then by comparison.
///
/// A name takes the field that is spelled as it is. Where there is none, a name that is not exact takes the one field that differs from
/// it only in upper and lower case (of ASCII letters, as SQL folds them) and that is no other name's.
#[derive(Debug)]
pub struct NameIndex {
    /// The wanted ones, and behind them those that only keep a field from being taken for another.
    names: Vec<FieldName>,
    wanted: usize,
    /// By [`NameIndex::bucket`]: one more than the first name, 0 for none.
    heads: Vec<u32>,
    /// By name: one more than the next name in the same bucket, 0 for none.
    next: Vec<u32>,
}

/// The name that a field is found by.
#[derive(Clone, PartialEq, Eq)]
pub struct FieldName {
    pub name: String,
    /// Upper and lower case count, as of a name in double quotes.
    pub exact: bool,
}

/// A part of the text that a checkpoint knows a table by: it must never change, so it keeps the first name of this type.
impl fmt::Debug for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).field("exact", &self.exact).finish()
    }
}

impl FieldName {
    /// A name in which upper and lower case count.
    pub fn exact(name: impl Into<String>) -> Self {
        FieldName { name: name.into(), exact: true }
    }
}

/// Which wanted name a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Exact(usize),
    /// But for upper and lower case.
    Near(usize),
}

impl NameIndex {
    pub fn new(names: impl IntoIterator<Item = FieldName>) -> Self {
        NameIndex::among(names, [])
    }

    /// Names of which there are others that are not wanted now.
    pub fn among<'a>(names: impl IntoIterator<Item = FieldName>, others: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<FieldName> = names.into_iter().collect();
        let wanted = names.len();
        let is_near = |other: &&str| names[..wanted].iter().any(|key| !key.exact && key.name.eq_ignore_ascii_case(other));
        let others: Vec<FieldName> = others.into_iter().filter(is_near).map(FieldName::exact).collect();
        names.extend(others);
        let (heads, next) = (vec![0; (names.len() * 8).next_power_of_two().max(16)], vec![0; names.len()]);
        let mut lookup = NameIndex { names, wanted, heads, next };
        for index in 0..lookup.names.len() {
            let bucket = lookup.bucket(lookup.names[index].name.as_bytes());
            lookup.next[index] = std::mem::replace(&mut lookup.heads[bucket], index as u32 + 1);
        }
        lookup
    }

    /// Names in which upper and lower case count.
    pub fn exact<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        NameIndex::new(names.into_iter().map(FieldName::exact))
    }

    /// As [`NameIndex::find`], with `guess` tried first.
    fn find_near(&self, guess: usize, name: &[u8]) -> Option<Found> {
        match self.names.get(guess) {
            Some(guessed) if guess < self.wanted && guessed.name.as_bytes() == name => Some(Found::Exact(guess)),
            _ => self.find(name),
        }
    }

    pub fn find(&self, name: &[u8]) -> Option<Found> {
        let mut number = self.heads[self.bucket(name)];
        let mut near = None;
        while number != 0 {
            let index = number as usize - 1;
            let known = &self.names[index];
            if known.name.as_bytes() == name {
                return (index < self.wanted).then_some(Found::Exact(index));
            }
            if !known.exact && known.name.as_bytes().eq_ignore_ascii_case(name) {
                near = Some(Found::Near(index));
            }
            number = self.next[index];
        }
        near
    }

    /// The same for names that differ only in upper and lower case.
    fn bucket(&self, name: &[u8]) -> usize {
        let end = |byte: Option<&u8>| usize::from(byte.copied().unwrap_or(0) | 0x20);
        (name.len() * 37 + end(name.first()) * 7 + end(name.last())) & (self.heads.len() - 1)
    }
}

/// Fields of one object whose names are nearly wanted ones: they count where the names themselves are not there.
#[derive(Debug, Default)]
pub struct NearFields(Vec<NearField>);

#[derive(Debug)]
struct NearField {
    slot: usize,
    /// A hash of the name as it stands there.
    name: u64,
    /// `None` where several fields would do.
    value: Option<ByteRange>,
}

impl NearFields {
    /// Of equal names the last counts; of different ones none.
    fn push(&mut self, slot: usize, name: &[u8], value: ByteRange) {
        let hash = std::hash::BuildHasher::hash_one(&std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default(), name);
        match self.0.iter_mut().find(|known| known.slot == slot) {
            None => self.0.push(NearField { slot, name: hash, value: Some(value) }),
            Some(known) if known.name == hash => known.value = known.value.and(Some(value)),
            Some(known) => known.value = None,
        }
    }

    /// Fills the slots that no field of the exact name has filled, and is empty again.
    pub fn settle(&mut self, slots: &mut [Option<ByteRange>]) {
        for near in self.0.drain(..) {
            slots[near.slot] = slots[near.slot].or(near.value);
        }
    }
}

/// Writes where the value of each wanted field of the object `part` is; of equal names the last counts.
pub fn fields(
    data: &str,
    part: ByteRange,
    names: &NameIndex,
    slots: &mut [Option<ByteRange>],
    near: &mut NearFields,
) -> Result<(), Fault> {
    // Columns are mostly declared in the order of the fields.
    let mut guess = 0;
    near.0.clear();
    let scanned = scan::object(data, part, |name, value| {
        let quoted = &data.as_bytes()[name.part.start..name.part.end];
        match name.escaped {
            false => {
                let name = &quoted[1..quoted.len() - 1];
                match names.find_near(guess, name) {
                    Some(Found::Exact(slot)) => (slots[slot], guess) = (Some(value), slot + 1),
                    Some(Found::Near(slot)) => near.push(slot, name, value),
                    None => {}
                }
            }
            true => {
                let name: String = serde_json::from_slice(quoted).ok()?;
                match names.find(name.as_bytes()) {
                    Some(Found::Exact(slot)) => (slots[slot], guess) = (Some(value), slot + 1),
                    Some(Found::Near(slot)) => near.push(slot, name.as_bytes(), value),
                    None => {}
                }
            }
        }
        Some(())
    });
    if scanned.is_none() {
        near.0.clear();
        let text = part.of(data);
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_map(ObjectFields { data, names, slots, near }).map_err(|error| broken(text, part.start, &error))?;
        json.end().map_err(|error| {
            Fault::new(
                part.start + place(text, &error),
                "more follows after the JSON object (where an event holds one record a line, set framing = 'newline')",
            )
        })?;
    }
    near.settle(slots);
    Ok(())
}

/// As [`fields`], of a row that is written as an array of objects `{"name": …, "value": …}`; `pair` has these two names. What is in
/// `near` is still to be settled, perhaps with that of another image of the row.
pub fn named(
    data: &str,
    part: ByteRange,
    pair: &NameIndex,
    names: &NameIndex,
    slots: &mut [Option<ByteRange>],
    near: &mut NearFields,
) -> Result<(), Fault> {
    let mut columns = Vec::new();
    elements(data, part, &mut columns)?;
    for column in columns.into_iter().flatten() {
        let mut found = [None; 2];
        fields(data, column, pair, &mut found, &mut NearFields::default())?;
        let [Some(name), value] = found else { return Err(Fault::new(column.start, "a column has no 'name'")) };
        let name: Cow<'_, str> =
            serde_json::from_str(name.of(data)).map_err(|_| Fault::new(name.start, "the name of a column is no text"))?;
        match (names.find(name.as_bytes()), value) {
            (Some(Found::Exact(slot)), Some(value)) => slots[slot] = Some(value),
            (Some(Found::Near(slot)), Some(value)) => near.push(slot, name.as_bytes(), value),
            _ => {}
        }
    }
    Ok(())
}

/// Appends where each element of the array `part` is. On a fault those before it are there.
pub fn elements(data: &str, part: ByteRange, into: &mut Vec<Option<ByteRange>>) -> Result<(), Fault> {
    let first = into.len();
    if scan::array(data, part, |element| into.push(Some(element))).is_some() {
        return Ok(());
    }
    into.truncate(first);
    let text = part.of(data);
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_seq(Elements { data, into }).and_then(|()| json.end()).map_err(|error| broken(text, part.start, &error))
}

/// Appends where key and value of each entry of the object `part` are, one after the other.
pub fn entries(data: &str, part: ByteRange, into: &mut Vec<Option<ByteRange>>) -> Result<(), Fault> {
    let first = into.len();
    let scanned = scan::object(data, part, |name, value| {
        into.extend([Some(name.part), Some(value)]);
        Some(())
    });
    if scanned.is_some() {
        return Ok(());
    }
    into.truncate(first);
    let text = part.of(data);
    serde_json::Deserializer::from_str(text)
        .deserialize_map(Entries { data, into })
        .map_err(|error| broken(text, part.start, &error))
}

/// Checks that `part` is one JSON value of any kind, and no more.
pub fn check(data: &str, part: ByteRange) -> Result<(), Fault> {
    if scan::value(data, part).is_some() {
        return Ok(());
    }
    let text = part.of(data);
    let read: Result<IgnoredAny, _> = serde_json::from_str(text);
    read.map(|_| ()).map_err(|error| broken(text, part.start, &error))
}

/// Appends the text that the JSON string `part` stands for, its escapes resolved.
pub fn unescape(data: &str, part: ByteRange, into: &mut String) -> Result<ByteRange, Fault> {
    let text = part.of(data);
    let start = into.len();
    serde_json::Deserializer::from_str(text).deserialize_str(Unescape(into)).map_err(|error| {
        let what = error.to_string();
        Fault::new(part.start, format!("the text has a broken escape: {}", reason(&what)))
    })?;
    Ok(ByteRange { start, end: into.len() })
}

fn broken(text: &str, start: usize, error: &serde_json::Error) -> Fault {
    let what = error.to_string();
    let message = match text.trim_ascii().is_empty() {
        true => "the data is empty".into(),
        false if error.is_eof() => format!("the JSON is cut off: {}", reason(&what)),
        false => format!("the data is no JSON: {}", reason(&what)),
    };
    Fault::new(start + place(text, error), message)
}

/// serde_json's sentence without its place, which counts from the wrong beginning.
fn reason(what: &str) -> &str {
    what.rsplit_once(" at line ").map_or(what, |(reason, _)| reason)
}

/// The byte that an error of serde_json points to.
fn place(text: &str, error: &serde_json::Error) -> usize {
    let line: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    text.floor_char_boundary(line + error.column().saturating_sub(1))
}

/// Where `raw` lies in the event's data that it borrows from.
fn part_of(data: &str, raw: &RawValue) -> ByteRange {
    let start = raw.get().as_ptr().addr() - data.as_ptr().addr();
    ByteRange { start, end: start + raw.get().len() }
}

struct ObjectFields<'s> {
    data: &'s str,
    names: &'s NameIndex,
    slots: &'s mut [Option<ByteRange>],
    near: &'s mut NearFields,
}

impl<'de> Visitor<'de> for ObjectFields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(found) = map.next_key_seed(WantedNames(self.names))? {
            match found {
                Some((Found::Exact(slot), _)) => self.slots[slot] = Some(part_of(self.data, map.next_value()?)),
                Some((Found::Near(slot), name)) => self.near.push(slot, name.as_bytes(), part_of(self.data, map.next_value()?)),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// Which wanted name a key is, if any.
struct WantedNames<'s>(&'s NameIndex);

impl<'de> DeserializeSeed<'de> for WantedNames<'_> {
    type Value = Option<(Found, String)>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for WantedNames<'_> {
    type Value = Option<(Found, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.find(name.as_bytes()).map(|found| (found, name.to_string())))
    }
}

struct Elements<'s> {
    data: &'s str,
    into: &'s mut Vec<Option<ByteRange>>,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            self.into.push(Some(part_of(self.data, element)));
        }
        Ok(())
    }
}

struct Entries<'s> {
    data: &'s str,
    into: &'s mut Vec<Option<ByteRange>>,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            self.into.extend([key, value].map(|raw| Some(part_of(self.data, raw))));
        }
        Ok(())
    }
}

struct Unescape<'s>(&'s mut String);

impl Visitor<'_> for Unescape<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}
