//! A table's statement for people: nothing that was written out as a credential shows.

use serde_json::Value;
use url::Url;

use super::post::ConnectionTablePost;
use super::statement::Fault;
use crate::error::{Code, Error};
use crate::feed::{shown_endpoint, shown_header, shown_headers, written_headers};
use crate::sql::{self, CreateTable, Kind, Text};

/// What stands for a value that is nobody's business.
pub const MASK: &str = "***";

/// The statement of a table with `***` in place of its secrets, as text and as it reads.
pub fn masked(text: &str) -> Option<(String, CreateTable)> {
    let create = only(text)?;
    let mut shown = text.to_string();
    let mut options: Vec<_> = create.options.iter().filter_map(|given| Some((given.span?, given))).collect();
    options.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    for (span, given) in options {
        let value = match given.name.to_ascii_lowercase().as_str() {
            "headers" => shown_headers(&given.value),
            "endpoint" | "url" | "proxy" => {
                Url::parse(given.value.trim()).map_or_else(|_| given.value.clone(), |url| shown_endpoint(&url))
            }
            _ => continue,
        };
        if value != given.value {
            shown.replace_range(Text::new(text).range(span), &format!("{} = '{}'", given.name, value.replace('\'', "''")));
        }
    }
    let create = only(&shown)?;
    Some((shown, create))
}

/// The one `CREATE TABLE` of a text.
pub fn only(text: &str) -> Option<CreateTable> {
    match sql::parse(text).0.pop()?.kind {
        Kind::CreateTable(create) => Some(*create),
        _ => None,
    }
}

/// Puts what a mask hides back into a body that was made from an answer; `old` is the table's own body.
pub fn restore(post: &mut ConnectionTablePost, old: &ConnectionTablePost) -> Result<(), Vec<Fault>> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    for name in ["endpoint", "url", "proxy"] {
        let hidden = old.config.0.get(if name == "url" { "endpoint" } else { name }).and_then(Value::as_str);
        if let (Some(Value::String(given)), Some(hidden)) = (post.config.0.get_mut(name), hidden)
            && Url::parse(hidden).is_ok_and(|url| shown_endpoint(&url) == *given)
        {
            *given = hidden.to_string();
        }
    }
    let Some(given) = post.config.0.get_mut("headers") else { return Ok(()) };
    let mut headers = written_headers(&text(given));
    if !headers.iter().any(|(_, value)| value.contains(MASK)) {
        return Ok(());
    }
    let mut known = old.config.0.get("headers").map(|value| written_headers(&text(value))).unwrap_or_default();
    for (name, value) in headers.iter_mut().filter(|(_, value)| value.contains(MASK)) {
        let hidden = known.iter().position(|(other, hidden)| other.eq_ignore_ascii_case(name) && shown_header(hidden) == *value);
        match hidden {
            Some(at) => *value = known.remove(at).1,
            None => {
                let error = Error::new(
                    Code::BadOption,
                    format!("the header '{name}' is masked, and the table has none that it stands for"),
                );
                return Err(vec![Fault::new("/config/headers", error.hint("give its value, or leave the header out"))]);
            }
        }
    }
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let list: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: \"{}\"", escaped(value))).collect();
    *given = list.join(", ").into();
    Ok(())
}
