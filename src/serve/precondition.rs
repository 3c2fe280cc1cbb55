//! `If-Match` and `If-None-Match` of RFC 9110 for writes: whoever changes something says what he has seen.

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::problem::{Problem, Result};

/// The strong tag of a definition: it changes with the text and with each time that it is made.
pub fn tag(text: &str, made: impl std::fmt::Display) -> HeaderValue {
    let digest = Sha256::digest(format!("{text}\0{made}"));
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether a write may go on; `current` is the tag of what is there.
pub fn check(headers: &HeaderMap, current: Option<&HeaderValue>) -> Result<()> {
    if headers.contains_key(IF_MATCH) && !names(headers, &IF_MATCH, current) {
        return Err(Problem::precondition(match current {
            Some(_) => "it has changed since the state that If-Match names",
            None => "what If-Match names is not there",
        }));
    }
    if headers.contains_key(IF_NONE_MATCH) && names(headers, &IF_NONE_MATCH, current) {
        return Err(Problem::precondition("it is there already, and If-None-Match asks that it is not"));
    }
    Ok(())
}

/// Whether a header names what is there: by its tag, or by `*` for anything. A weak tag names nothing.
fn names(headers: &HeaderMap, header: &HeaderName, current: Option<&HeaderValue>) -> bool {
    let Some(current) = current else { return false };
    let lists = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).any(|given| given == "*" || given.as_bytes() == current.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_goes_on_only_from_the_state_it_names() {
        let now = HeaderValue::from_static("\"b\"");
        for (header, value, current, goes_on) in [
            (IF_MATCH, "\"b\"", Some(&now), true),
            (IF_MATCH, "\"a\", \"b\"", Some(&now), true),
            (IF_MATCH, "*", Some(&now), true),
            (IF_MATCH, "\"a\"", Some(&now), false),
            (IF_MATCH, "W/\"b\"", Some(&now), false),
            (IF_MATCH, "*", None, false),
            (IF_MATCH, "nonsense", Some(&now), false),
            (IF_NONE_MATCH, "*", Some(&now), false),
            (IF_NONE_MATCH, "*", None, true),
            (IF_NONE_MATCH, "\"a\"", Some(&now), true),
            (IF_NONE_MATCH, "\"b\"", Some(&now), false),
        ] {
            let headers = HeaderMap::from_iter([(header.clone(), HeaderValue::from_static(value))]);
            assert_eq!(check(&headers, current).is_ok(), goes_on, "{header}: {value}");
        }
        assert!(check(&HeaderMap::new(), None).is_ok());
    }
}
