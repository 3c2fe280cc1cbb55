//! Which parts of an option's text are nobody's business: literal header values, bodies, passwords. `{{ NAME }}` tells nothing.

use std::ops::Range;

use super::header::{from_object, is_name, is_object, starts_header};
use super::secrets::{SCHEMES, sounds_secret};

/// What stands for a secret part.
pub const MASK: &str = "***";

/// The secret parts of an option's value as written, in bytes, in order. A value that cannot be read is secret as a whole.
pub fn secret_parts(option: &str, value: &str) -> Vec<Range<usize>> {
    let mut parts = match option.to_ascii_lowercase().as_str() {
        "headers" if is_object(value.trim_start()) => object_values(value),
        "headers" => header_values(value),
        "body" => whole(value),
        "endpoint" | "url" | "proxy" => url_parts(value),
        _ => Vec::new(),
    };
    // Of a URL within the query of another one, the password is a part of both.
    parts.sort_by_key(|part| part.start);
    let mut apart: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    for part in parts {
        match apart.last_mut().filter(|last| part.start < last.end) {
            Some(last) => last.end = last.end.max(part.end),
            None => apart.push(part),
        }
    }
    apart.into_iter().flat_map(|part| literals(value, part)).collect()
}

/// An option's value with `***` in place of its secret parts.
pub fn masked(option: &str, value: &str) -> String {
    let mut shown = value.to_string();
    for part in secret_parts(option, value).into_iter().rev() {
        shown.replace_range(part, MASK);
    }
    shown
}

/// Whether a secret part of an option's value is a mask and nothing else: the value was copied from an answer.
pub fn holds_mask(option: &str, value: &str) -> bool {
    secret_parts(option, value).into_iter().any(|part| &value[part] == MASK)
}

fn whole(text: &str) -> Vec<Range<usize>> {
    std::iter::once(0..text.len()).collect()
}

/// The values in `Name: value, Name: value`, as [`super::header::read_headers`] finds them.
fn header_values(text: &str) -> Vec<Range<usize>> {
    let at = |rest: &str| rest.as_ptr() as usize - text.as_ptr() as usize;
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((_, behind)) = starts_header(rest) {
        let start = at(behind);
        let quoted = behind.trim_start().strip_prefix('"').map(|inside| at(inside) + end_of_quotes(inside));
        let from = quoted.unwrap_or(start);
        let end = text[from..]
            .match_indices(',')
            .map(|(comma, _)| from + comma)
            .find(|comma| starts_header(&text[comma + 1..]).is_some())
            .unwrap_or(text.len());
        parts.push(start..end);
        rest = text.get(end + 1..).unwrap_or_default();
    }
    match parts.is_empty() {
        true => whole(text),
        false => parts,
    }
}

/// The bytes up to behind the closing quote.
fn end_of_quotes(inside: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    inside.len()
}

/// What stands behind the colons of a JSON object; all of one that [`super::header::read_headers`] does not read.
fn object_values(text: &str) -> Vec<Range<usize>> {
    if from_object(text).is_err() {
        return whole(text);
    }
    let mut parts = Vec::new();
    let (mut at, mut value_from) = (0, None);
    while let Some(byte) = text.as_bytes().get(at) {
        match (byte, value_from) {
            (b'"', _) => at += end_of_quotes(&text[at + 1..]),
            (b':', None) => value_from = Some(at + 1),
            (b',' | b'}', Some(from)) => {
                parts.push(from..at);
                value_from = None;
            }
            _ => {}
        }
        at += 1;
    }
    parts.extend(value_from.map(|from| from..text.len()));
    parts
}

/// User and password of a URL, and the values of query parameters that sound secret.
fn url_parts(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let start = text.find("://").map_or(0, |scheme| scheme + 3);
    let authority = text[start..].find(['/', '?', '#']).map_or(text.len(), |end| start + end);
    parts.extend(text[start..authority].rfind('@').map(|at| start..start + at));
    let query = text.find('?').map_or(text.len(), |at| at + 1);
    let mut from = query;
    for pair in text[query..].split(['&', '#']) {
        if let Some((name, value)) = pair.split_once('=')
            && sounds_secret(name)
        {
            parts.push(from + pair.len() - value.len()..from + pair.len());
        }
        from += pair.len() + 1;
    }
    parts
}

/// A part without its variables, the blanks and quotes around it, and a scheme before a credential.
fn literals(text: &str, part: Range<usize>) -> Vec<Range<usize>> {
    let mut literals = Vec::new();
    let (mut from, mut at) = (part.start, part.start);
    while let Some(open) = text[at..part.end].find("{{").map(|found| at + found) {
        let inside = &text[open + 2..part.end];
        match inside.find("}}").filter(|end| is_name(inside[..*end].trim())) {
            Some(end) => {
                literals.extend(bare(text, from..open));
                at = open + 2 + end + 2;
                from = at;
            }
            // No variable, so it may be anything.
            None => at = open + 1,
        }
    }
    literals.extend(bare(text, from..part.end));
    literals
}

fn bare(text: &str, part: Range<usize>) -> Option<Range<usize>> {
    let mut literal = &text[part.clone()];
    literal = literal.trim_matches(|c: char| c.is_whitespace() || c == '"');
    for scheme in SCHEMES {
        if let Some(rest) =
            literal.get(..scheme.len()).filter(|word| word.eq_ignore_ascii_case(scheme)).map(|_| &literal[scheme.len()..])
            && (rest.is_empty() || rest.starts_with(char::is_whitespace))
        {
            literal = rest.trim_start();
        }
    }
    let start = literal.as_ptr() as usize - text.as_ptr() as usize;
    (!literal.is_empty()).then(|| start..start + literal.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_masked_and_variables_are_not() {
        for (option, value, expect) in [
            ("headers", "", ""),
            ("headers", "Authorization: Bearer {{ TOKEN }}", "Authorization: Bearer {{ TOKEN }}"),
            ("headers", "Authorization: Bearer geheim", "Authorization: Bearer ***"),
            ("headers", "A: geheim, geheim, B:{{X}}geheim", "A: ***, B:{{X}}***"),
            ("headers", r#"A: "geheim, B: ge\"heim", C: {{X}}, D: geheim"#, r#"A: "***", C: {{X}}, D: ***"#),
            (
                "headers",
                r#"{"A": "geheim, \"B\": geheim", "C": "Basic {{ X }}", "D": 77}"#,
                r#"{"A": "***", "C": "Basic {{ X }}", "D": ***}"#,
            ),
            ("headers", "geheim", "***"),
            ("headers", "A: {{X}}, B: {{ geheim, C: {{geheim 1}}", "A: {{X}}, B: ***, C: ***"),
            ("headers", "A: \"geheim", "A: \"***"),
            ("Headers", r#"{"A": "geheim"#, "***"),
            ("headers", r#"{"Authorization: Bearer geheim"#, "***"),
            ("headers", r#"{"A": ["x", "geheim"]}"#, "***"),
            ("headers", r#"{"A" "geheim"}"#, "***"),
            ("body", "{\"token\": \"geheim\", \"user\": \"{{ USER }}\"}", "*** \"{{ USER }}\"***"),
            ("endpoint", "https://example.com:8080/sse?x=1", "https://example.com:8080/sse?x=1"),
            (
                "url",
                "https://u:geh@eim@example.com/a?x=1&api_key=geheim&y=2#z",
                "https://***@example.com/a?x=1&api_key=***&y=2#z",
            ),
            ("endpoint", "https://{{U}}:geheim@example.com/?token={{T}}", "https://{{U}}***@example.com/?token={{T}}"),
            ("proxy", "socks5://u:geheim@proxy:1080", "socks5://***@proxy:1080"),
            ("url", "x?token=a&b=https://u:geheim@h&key=c://geheim@d", "x?token=***&b=https://***@h&key=***"),
            (
                "url",
                "https://h/?sig=a&Pwd=b&x-pass=c&design=d&ticket=e",
                "https://h/?sig=***&Pwd=***&x-pass=***&design=d&ticket=***",
            ),
            ("proxy", "off", "off"),
            ("events", "a, b", "a, b"),
        ] {
            assert_eq!(masked(option, value), expect, "{option}: {value}");
        }
    }

    #[test]
    fn no_text_breaks_it() {
        for value in
            ["{", "{\"", "{\"\\", ":", "://", "@", "?=&=", "{{", "}}", "{{}}{{", "A: {{ x", "é: ü, ü: {{é", "Bearer", "A: Bearer"]
        {
            for option in ["headers", "body", "endpoint", "proxy"] {
                masked(option, value);
            }
        }
    }
}
