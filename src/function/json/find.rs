//! Where a path leads in JSON text. Of several members of one name the last counts, as where columns are decoded.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::format::ByteRange;
use crate::format::scan::{self, StringToken};

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
pub enum PathStep<'p> {
    Key(Cow<'p, str>),
    /// Counted from the end where it is negative, the last being -1.
    Index(isize),
}

/// The text of the value at the end of `path`; `None` where nothing is there or the text is no JSON.
pub fn find<'j>(json: &'j str, path: &[PathStep]) -> Option<&'j str> {
    path.iter().try_fold(json, |json, step| match (step, json.trim_ascii_start().as_bytes().first()?) {
        (PathStep::Key(key), b'{') => member(json, key),
        (PathStep::Index(index), b'[') => element(json, *index),
        _ => None,
    })
}

fn whole(json: &str) -> ByteRange {
    ByteRange { start: 0, end: json.len() }
}

fn member<'j>(json: &'j str, key: &str) -> Option<&'j str> {
    let is_key = |StringToken { part, escaped }: StringToken| {
        let name = part.of(json);
        match escaped {
            false => &name[1..name.len() - 1] == key,
            true => serde_json::from_str::<Cow<str>>(name).is_ok_and(|name| name == key),
        }
    };
    let mut found = None;
    let scanned = scan::object(json, whole(json), |name, value| {
        if is_key(name) {
            found = Some(value);
        }
        Some(())
    });
    match scanned {
        Some(()) => found.map(|part| part.of(json)),
        None => {
            let mut members: HashMap<Cow<str>, &RawValue> = serde_json::from_str(json).ok()?;
            Some(members.remove(key)?.get())
        }
    }
}

fn element(json: &str, index: isize) -> Option<&str> {
    let mut elements = Vec::new();
    let scanned = scan::array(json, whole(json), |part| elements.push(part));
    let place = |count: usize| match index {
        0.. => usize::try_from(index).ok(),
        _ => count.checked_sub(index.unsigned_abs()),
    };
    match scanned {
        Some(()) => elements.get(place(elements.len())?).map(|part| part.of(json)),
        None => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            Some(elements.get(place(elements.len())?)?.get())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_member_of_a_name_counts_at_every_depth() {
        let key = |key: &'static str| PathStep::Key(key.into());
        for (json, path, text) in [
            (r#"{"d":1,"d":2}"#, vec![key("d")], Some("2")),
            (r#"{"a":{"d":1},"a":{"d":3,"d":4}}"#, vec![key("a"), key("d")], Some("4")),
            (r#"{"a":{"d":1},"a":5}"#, vec![key("a"), key("d")], None),
            (r#"{"d":1,"\u0064":2}"#, vec![key("d")], Some("2")),
            (r#"[1,[2,3]]"#, vec![PathStep::Index(1), PathStep::Index(-2)], Some("2")),
            (r#"[1]"#, vec![PathStep::Index(1)], None),
            (r#"{"n":null}"#, vec![key("n")], Some("null")),
            (r#"{"n":null}"#, vec![key("m")], None),
            ("5", vec![key("m")], None),
            ("", vec![key("m")], None),
        ] {
            assert_eq!(find(json, &path), text, "{json} {path:?}");
        }
        let deep = format!(r#"{{"d":{}1{},"d":7}}"#, "[".repeat(100), "]".repeat(100));
        assert_eq!(find(&deep, &[key("d")]), Some("7"));
    }
}
