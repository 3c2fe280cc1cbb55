//! Text with `{{ NAME }}` in it, and the option `headers`: split first, filled in when connecting, never shown.

use std::fmt;
use std::sync::Arc;

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::secrets::{looks_secret, sounds_secret};
use crate::error::{Code, Error, Result};

/// Where the values of `{{ NAME }}` come from.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The environment of the process.
pub(super) fn environment() -> Variables {
    Arc::new(|name| std::env::var(name).ok())
}

/// A request header as a user gave it.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) name: HeaderName,
    pub(super) value: Template,
}

impl Header {
    /// Whether it may be known to the origin that the user named, and to nobody else.
    pub(super) fn is_secret(&self) -> bool {
        self.value.has_variables() || sounds_secret(self.name.as_str()) || self.value.looks_secret()
    }
}

/// Text in which variables wait to be filled in. What is written out may be a secret too, so nothing of it shows.
#[derive(Clone)]
pub(super) struct Template(Vec<TemplatePart>);

#[derive(Clone)]
enum TemplatePart {
    Text(SecretString),
    Variable(String),
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Template {
    /// Reads text with `{{ NAME }}` in it, blanks optional; the error is a reason that shows nothing of the text.
    pub(super) fn read(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, behind) = after.split_once("}}").ok_or("has a '{{' without its '}}'")?;
            let name = name.trim();
            if !is_name(name) {
                return Err("has a '{{ … }}' that does not hold the name of a variable".into());
            }
            if !before.is_empty() {
                parts.push(TemplatePart::Text(before.into()));
            }
            parts.push(TemplatePart::Variable(name.into()));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(TemplatePart::Text(rest.into()));
        }
        Ok(Template(parts))
    }

    pub(super) fn has_variables(&self) -> bool {
        self.0.iter().any(|part| matches!(part, TemplatePart::Variable(_)))
    }

    /// The text with each value as `encode` gives it. `place` says in an error where the variable stands.
    pub(super) fn fill(&self, variables: &Variables, place: &str, encode: impl Fn(&str) -> String) -> Result<SecretString> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                TemplatePart::Text(text) => filled.push_str(text.expose_secret()),
                TemplatePart::Variable(name) => {
                    let value = variables(name).ok_or_else(|| {
                        Error::new(
                            Code::UnsetVariable,
                            format!("{place} needs the environment variable {name}, which is not set"),
                        )
                        .hint(format!("set {name} before starting"))
                    })?;
                    filled.push_str(&encode(&value));
                }
            }
        }
        Ok(filled.into())
    }

    /// Whether what is written out may well be a credential.
    fn looks_secret(&self) -> bool {
        self.0.iter().any(|part| matches!(part, TemplatePart::Text(text) if looks_secret(text.expose_secret())))
    }

    /// The names of the variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            TemplatePart::Variable(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The values of the variables alone.
    pub(super) fn values(&self, variables: &Variables) -> Vec<String> {
        let value = |part: &TemplatePart| match part {
            TemplatePart::Variable(name) => variables(name),
            TemplatePart::Text(_) => None,
        };
        self.0.iter().filter_map(value).collect()
    }
}

/// Whether a variable can have this name.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Reads the option `headers`.
///
/// Either a JSON object of strings, or `Name: value` separated by commas. A comma separates only where `Name:` follows it (a token of
/// RFC 9110 and a colon), so `Accept: text/html, text/event-stream, X-Key: k` is two headers. A value that starts with a double
/// quote goes to the closing one, whatever it holds; `\"` and `\\` stand for themselves in it. Names may come more than once.
/// Errors name the header, or its place in the list, and show no value.
pub(super) fn read_headers(text: &str) -> Result<Vec<Header>, Vec<Error>> {
    let text = text.trim();
    let pairs = if is_object(text) { from_object(text) } else { from_list(text) };
    let pairs = pairs.map_err(|reason| vec![bad(format!("option 'headers' {reason}"))])?;
    let (mut headers, mut errors) = (Vec::new(), Vec::new());
    for (name, value) in pairs {
        match header(&name, &value) {
            Ok(header) => headers.push(header),
            Err(reason) => errors.push(bad(format!("option 'headers': the header '{name}' {reason}"))),
        }
    }
    if errors.is_empty() { Ok(headers) } else { Err(errors) }
}

/// The names and values of the option `headers` as they are written; none where it cannot be read.
pub fn written_headers(text: &str) -> Vec<(String, String)> {
    let text = text.trim();
    if is_object(text) { from_object(text) } else { from_list(text) }.unwrap_or_default()
}

/// Whether the option is written as a JSON object and not as a list.
pub(super) fn is_object(text: &str) -> bool {
    text.starts_with('{') && !text.starts_with("{{")
}

fn bad(message: String) -> Error {
    Error::new(Code::BadOption, message)
        .hint("write `Name: value` separated by commas, with double quotes around a value that holds a comma, or a JSON object")
}

fn header(name: &str, value: &str) -> Result<Header, String> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "has a name that HTTP does not allow")?;
    if matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection" | "upgrade") {
        return Err("belongs to the connection and cannot be set".into());
    }
    HeaderValue::from_str(value).map_err(|_| "has a control character in its value")?;
    Ok(Header { name, value: Template::read(value)? })
}

pub(super) fn from_object(text: &str) -> Result<Vec<(String, String)>, String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
        .map_err(|error| format!("is no JSON object (line {}, column {})", error.line(), error.column()))?;
    let pair = |(name, value): (String, serde_json::Value)| match value {
        serde_json::Value::String(value) => Ok((name, value)),
        serde_json::Value::Number(value) => Ok((name, value.to_string())),
        serde_json::Value::Bool(value) => Ok((name, value.to_string())),
        _ => Err(format!("gives '{name}' a value that is no text")),
    };
    object.into_iter().map(pair).collect()
}

fn from_list(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_end_matches([',', ' ']);
    while !rest.is_empty() {
        let Some((name, behind)) = starts_header(rest) else {
            return Err(format!("has no 'Name:' where header {} should start", pairs.len() + 1));
        };
        let behind = behind.trim_start();
        let (value, after) = match behind.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or_else(|| format!("has no end of the quotes of '{name}'"))?,
            None => {
                let end = behind
                    .match_indices(',')
                    .map(|(comma, _)| comma)
                    .find(|comma| starts_header(&behind[comma + 1..]).is_some())
                    .unwrap_or(behind.len());
                (behind[..end].trim_end().to_string(), &behind[end..])
            }
        };
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return Err(format!("goes on behind the quotes of '{name}' without a comma")),
        };
        pairs.push((name.to_string(), value));
    }
    Ok(pairs)
}

/// The name that a header starts with, and what follows its colon.
pub(super) fn starts_header(text: &str) -> Option<(&str, &str)> {
    let (name, behind) = text.split_once(':')?;
    let name = name.trim();
    let is_token =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    is_token.then_some((name, behind))
}

/// The text up to the closing quote, and what follows.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => match characters.next()? {
                (_, escaped @ ('"' | '\\')) => value.push(escaped),
                (_, other) => value.extend(['\\', other]),
            },
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        Arc::new(|name| match name {
            "TOKEN" => Some("t,X-Evil: 1".into()),
            "BROKEN" => Some("a\r\nX-Evil: 1".into()),
            _ => None,
        })
    }

    fn read(text: &str) -> Vec<(String, String)> {
        let shown = |header: &Header| {
            let value = header.value.fill(&variables(), "it", str::to_string).unwrap();
            (header.name.to_string(), value.expose_secret().to_string())
        };
        read_headers(text).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn headers_split_where_the_next_name_starts() {
        for (text, expected) in [
            ("", vec![]),
            ("A: 1,B:2 , C: 3,", vec![("a", "1"), ("b", "2"), ("c", "3")]),
            ("Referer: https://a/b?c=1:2, X: y", vec![("referer", "https://a/b?c=1:2"), ("x", "y")]),
            ("Accept: text/html, text/event-stream", vec![("accept", "text/html, text/event-stream")]),
            ("If: Tue, 01 Jan 2030 10:00:00 GMT, X: 1", vec![("if", "Tue, 01 Jan 2030 10:00:00 GMT"), ("x", "1")]),
            (r#"A: "x, B: \"y\" \\", C: z"#, vec![("a", r#"x, B: "y" \"#), ("c", "z")]),
            (r#"{"A": "x, B: y", "C": 3}"#, vec![("a", "x, B: y"), ("c", "3")]),
            (
                "Authorization: Bearer {{TOKEN}}, X-Key: {{ TOKEN }}",
                vec![("authorization", "Bearer t,X-Evil: 1"), ("x-key", "t,X-Evil: 1")],
            ),
        ] {
            let expected: Vec<(String, String)> = expected.into_iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn bad_headers_are_named_and_their_values_are_not() {
        for (text, expected) in [
            ("geheim", "option 'headers' has no 'Name:' where header 1 should start"),
            ("A: \"geheim", "option 'headers' has no end of the quotes of 'A'"),
            ("A: \"x\" geheim", "option 'headers' goes on behind the quotes of 'A' without a comma"),
            ("A: geheim {{ X", "option 'headers': the header 'A' has a '{{' without its '}}'"),
            ("A: geheim {{ X Y }}", "option 'headers': the header 'A' has a '{{ … }}' that does not hold the name of a variable"),
            ("A: geheim\r\nB: 1", "option 'headers': the header 'A' has a control character in its value"),
            ("Content-Length: 3", "option 'headers': the header 'Content-Length' belongs to the connection and cannot be set"),
            (r#"{"A": ["geheim"]}"#, "option 'headers' gives 'A' a value that is no text"),
            (r#"{"A": "geheim""#, "option 'headers' is no JSON object (line 1, column 14)"),
        ] {
            let errors = read_headers(text).unwrap_err();
            assert_eq!(errors.iter().map(Error::message).collect::<Vec<_>>(), [expected], "{text:?}");
        }
    }

    #[test]
    fn an_unset_variable_is_named_and_no_value_shows() {
        let headers = read_headers("A: geheim{{TOKEN}}{{ NOT_SET }}").unwrap();
        let error = headers[0].value.fill(&variables(), "the header 'A'", str::to_string).unwrap_err();
        assert_eq!(error.code(), Code::UnsetVariable);
        assert_eq!(
            error.to_string(),
            "the header 'A' needs the environment variable NOT_SET, which is not set; set NOT_SET before starting"
        );
        assert!(!format!("{headers:?}").contains("geheim"));
    }
}
