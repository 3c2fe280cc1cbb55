//! What an answer masks can be sent back: the mask stands for what it hides, as long as that goes where it was given for.

use serde_json::Value;
use url::Url;

use super::post::{ConnectionTablePost, is_same};
use super::statement::Fault;
use crate::error::{Code, Error};
use crate::feed::{MASK, holds_mask, masked, written_headers};
use crate::serve::body::escape;

/// The options whose values hold secrets.
const OPTIONS: [&str; 4] = ["endpoint", "proxy", "body", "headers"];

/// Puts what a mask hides back into a body that was made from an answer; `old` is the table's own body, if there is a table. To another
/// origin, or through others, nothing is carried that the sender may not know: it must be given again.
pub fn restore(post: &mut ConnectionTablePost, old: Option<&ConnectionTablePost>) -> Result<(), Vec<Fault>> {
    let stays = old.is_some_and(|old| is_same_way(old, post));
    let known = old.filter(|_| stays);
    let mut faults = Vec::new();
    for (name, given) in &mut post.config.0 {
        let Some(option) = OPTIONS.iter().find(|option| is_same(name, option)) else { continue };
        let hidden = known.and_then(|old| old.config.0.get(*option));
        let restored = match *option {
            "headers" => headers(given, hidden),
            _ => whole(option, given, hidden),
        };
        if let Err(what) = restored {
            let reason = match (old.is_some(), stays) {
                (true, false) => "its value was given for another server, proxy or certificate authority",
                _ => "there is none that it stands for",
            };
            let error = Error::new(Code::BadOption, format!("{what} is masked, and {reason}"));
            faults.push(Fault::new(&format!("/config/{}", escape(name)), error.hint("give its value, or leave it out")));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Whether what a table sends reaches the same server in the same way: its origin, the proxy that hears it, and who vouches for it.
pub fn is_same_way(old: &ConnectionTablePost, new: &ConnectionTablePost) -> bool {
    // An option may stand in several spellings, which is refused later: none of them may lead away.
    let texts = |post: &ConnectionTablePost, option: &str| -> Vec<String> {
        let spelled = post.config.0.iter().filter(|(name, _)| is_same(name, option));
        spelled.filter_map(|(_, value)| value.as_str()).map(|text| text.trim().to_string()).collect()
    };
    // What is no URL leads nowhere.
    let urls = |post: &ConnectionTablePost, option: &str| {
        texts(post, option).iter().filter_map(|text| Url::parse(text).ok()).collect::<Vec<_>>()
    };
    let place = |url: &Url| (url.scheme().to_string(), url.host_str().map(str::to_string), url.port_or_known_default());
    let stays = |option: &str| {
        let known: Vec<_> = urls(old, option).iter().map(place).collect();
        urls(new, option).iter().all(|url| known.contains(&place(url)))
    };
    let authorities = texts(old, "tls_ca_file");
    stays("endpoint") && stays("proxy") && texts(new, "tls_ca_file").iter().all(|file| authorities.contains(file))
}

/// A text that is masked as an answer shows it becomes what it was. The error is what is masked.
fn whole(option: &str, given: &mut Value, hidden: Option<&Value>) -> Result<(), String> {
    let Value::String(given) = given else { return Ok(()) };
    if !holds_mask(option, given) {
        return Ok(());
    }
    match hidden.and_then(Value::as_str).filter(|hidden| masked(option, hidden) == *given) {
        Some(hidden) => *given = hidden.to_string(),
        None => return Err(format!("the option '{option}'")),
    }
    Ok(())
}

fn headers(given: &mut Value, hidden: Option<&Value>) -> Result<(), String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let mut headers = written_headers(&text(given));
    if !headers.iter().any(|(_, value)| value.contains(MASK)) {
        return Ok(());
    }
    let mut known = hidden.map(|value| written_headers(&text(value))).unwrap_or_default();
    for (name, value) in headers.iter_mut().filter(|(_, value)| value.contains(MASK)) {
        match known.iter().position(|(other, hidden)| other.eq_ignore_ascii_case(name) && shown(hidden) == *value) {
            Some(at) => *value = known.remove(at).1,
            None => return Err(format!("the header '{name}'")),
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
