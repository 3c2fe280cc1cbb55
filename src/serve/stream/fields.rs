//! A JSON object read field by field: what is wrong is told with its place, and all of it at once.

use serde_json::{Map, Value};

use crate::error::{Code, Error, nearest};
use crate::serve::body::escape;

/// Something wrong in a body, and where: a JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq)]
pub struct Issue {
    pub pointer: String,
    pub error: Error,
}

/// An object of which fields are taken one after the other.
pub struct Fields<'a> {
    members: &'a Map<String, Value>,
    pointer: String,
    /// The names asked for, first spellings only.
    known: Vec<&'static str>,
    /// The members that were taken.
    taken: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    /// Looks into `value`, which must be an object.
    pub fn of(value: &'a Value, pointer: &str, issues: &mut Vec<Issue>) -> Option<Fields<'a>> {
        let members = expect(value, pointer, "an object", Value::as_object, issues)?;
        Some(Fields { members, pointer: pointer.to_string(), known: Vec::new(), taken: Vec::new() })
    }

    pub fn pointer(&self, name: &str) -> String {
        child(&self.pointer, name)
    }

    /// The member of one of these names (the first is the proper one, the others are other spellings), and where it is. A member
    /// that is `null` is not there.
    pub fn take(&mut self, names: &[&'static str], issues: &mut Vec<Issue>) -> Option<(&'a Value, String)> {
        self.known.push(names[0]);
        let mut found: Option<(&'a Value, String)> = None;
        for name in names {
            let Some((name, value)) = self.members.get_key_value(*name) else { continue };
            self.taken.push(name);
            match &found {
                _ if value.is_null() => {}
                None => found = Some((value, self.pointer(name))),
                Some(_) => {
                    let error = Error::new(Code::DoubleOption, format!("'{name}' is another spelling of '{}'", names[0]));
                    issues.push(Issue { pointer: self.pointer(name), error: error.hint("give one of them") });
                }
            }
        }
        found
    }

    pub fn text(&mut self, names: &[&'static str], issues: &mut Vec<Issue>) -> Option<(&'a str, String)> {
        let (value, pointer) = self.take(names, issues)?;
        expect(value, &pointer, "a text", Value::as_str, issues).map(|text| (text, pointer))
    }

    pub fn bool(&mut self, names: &[&'static str], issues: &mut Vec<Issue>) -> Option<bool> {
        let (value, pointer) = self.take(names, issues)?;
        expect(value, &pointer, "true or false", Value::as_bool, issues)
    }

    pub fn number(&mut self, names: &[&'static str], issues: &mut Vec<Issue>) -> Option<(u64, String)> {
        let (value, pointer) = self.take(names, issues)?;
        expect(value, &pointer, "a whole number", Value::as_u64, issues).map(|number| (number, pointer))
    }

    /// Texts, each with its place; one text may stand for a list of one.
    pub fn texts(&mut self, names: &[&'static str], issues: &mut Vec<Issue>) -> Option<Vec<(&'a str, String)>> {
        let (value, pointer) = self.take(names, issues)?;
        if let Some(text) = value.as_str() {
            return Some(vec![(text, pointer)]);
        }
        let items = expect(value, &pointer, "a list of texts", Value::as_array, issues)?;
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let pointer = child(&pointer, &index.to_string());
            if let Some(text) = expect(item, &pointer, "a text", Value::as_str, issues) {
                texts.push((text, pointer));
            }
        }
        Some(texts)
    }

    /// Refuses the members that nobody took.
    pub fn finish(self, issues: &mut Vec<Issue>) {
        for name in self.members.keys().filter(|name| !self.taken.contains(&name.as_str())) {
            let error = Error::new(Code::UnknownOption, format!("unknown field '{name}'"));
            let error = match nearest(name, self.known.iter().copied()) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint(format!("the fields are {}", self.known.join(", "))),
            };
            issues.push(Issue { pointer: self.pointer(name), error });
        }
    }
}

/// The pointer of a member or an item.
pub fn child(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", escape(name))
}

fn expect<'a, T>(
    value: &'a Value,
    pointer: &str,
    what: &str,
    read: impl Fn(&'a Value) -> Option<T>,
    issues: &mut Vec<Issue>,
) -> Option<T> {
    let found = read(value);
    if found.is_none() {
        let got = match value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "this number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        issues.push(Issue {
            pointer: pointer.to_string(),
            error: Error::new(Code::BadOption, format!("this must be {what}, not {got}")),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let body = json!({"host": 5, "port": -1, "prot": 1, "views": ["a", 2], "ssePath": "/a", "sse_path": "/b", "a/b~": 1, "none": null});
        let mut issues = Vec::new();
        let mut fields = Fields::of(&body, "/streams/0", &mut issues).unwrap();
        assert_eq!(fields.text(&["host"], &mut issues), None);
        assert_eq!(fields.number(&["port"], &mut issues), None);
        assert_eq!(fields.texts(&["views"], &mut issues).unwrap(), [("a", "/streams/0/views/0".to_string())]);
        assert_eq!(fields.text(&["sse_path", "ssePath"], &mut issues).unwrap().0, "/b");
        assert_eq!(fields.bool(&["none"], &mut issues), None);
        fields.finish(&mut issues);
        let told: Vec<String> = issues.iter().map(|issue| format!("{}: {}", issue.pointer, issue.error)).collect();
        let expected = [
            "/streams/0/host: this must be a text, not this number",
            "/streams/0/port: this must be a whole number, not this number",
            "/streams/0/views/1: this must be a text, not this number",
            "/streams/0/ssePath: 'ssePath' is another spelling of 'sse_path'; give one of them",
            "/streams/0/prot: unknown field 'prot'; did you mean 'port'?",
            "/streams/0/a~1b~0: unknown field 'a/b~'; the fields are host, port, views, sse_path, none",
        ];
        assert_eq!(told, expected);
        assert!(Fields::of(&json!([]), "", &mut issues).is_none());
    }
}
