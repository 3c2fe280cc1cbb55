//! What an answer masks can be sent back: the mask stands for what it hides.

use serde_json::Value;

use super::post::ConnectionTablePost;
use super::statement::Fault;
use crate::error::{Code, Error};
use crate::feed::{masked, written_headers};

/// What stands for a value that is nobody's business.
const MASK: &str = "***";

/// Puts what a mask hides back into a body that was made from an answer; `old` is the table's own body, if there is a table.
pub fn restore(post: &mut ConnectionTablePost, old: Option<&ConnectionTablePost>) -> Result<(), Vec<Fault>> {
    let known = |name: &str| old.and_then(|old| old.config.0.get(name));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    for name in ["endpoint", "url", "proxy", "body"] {
        let hidden = known(if name == "url" { "endpoint" } else { name }).and_then(Value::as_str);
        if let (Some(Value::String(given)), Some(hidden)) = (post.config.0.get_mut(name), hidden)
            && masked(name, hidden) == *given
        {
            *given = hidden.to_string();
        }
    }
    let Some(given) = post.config.0.get_mut("headers") else { return Ok(()) };
    let mut headers = written_headers(&text(given));
    if !headers.iter().any(|(_, value)| value.contains(MASK)) {
        return Ok(());
    }
    let mut known = known("headers").map(|value| written_headers(&text(value))).unwrap_or_default();
    for (name, value) in headers.iter_mut().filter(|(_, value)| value.contains(MASK)) {
        let hidden = known.iter().position(|(other, hidden)| other.eq_ignore_ascii_case(name) && shown(hidden) == *value);
        match hidden {
            Some(at) => *value = known.remove(at).1,
            None => {
                let error =
                    Error::new(Code::BadOption, format!("the header '{name}' is masked, and there is none that it stands for"));
                return Err(vec![Fault::new("/config/headers", error.hint("give its value, or leave the header out"))]);
            }
        }
    }
    let list: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {}", listed(value))).collect();
    *given = list.join(", ").into();
    Ok(())
}

/// The value of a header as an answer shows it.
fn shown(value: &str) -> String {
    let shown = masked("headers", &format!("X: {}", quoted(value)));
    shown.strip_prefix("X: \"").and_then(|shown| shown.strip_suffix('"')).map_or(shown.clone(), str::to_string)
}

/// A value as it stands in a list of headers.
pub fn listed(value: &str) -> String {
    match value.contains([',', '"']) || value.trim() != value {
        true => quoted(value),
        false => value.to_string(),
    }
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
