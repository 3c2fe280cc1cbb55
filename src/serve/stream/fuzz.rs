//! What fuzzers feed with any bytes: the templates of a stream with any row, and the stream itself as JSON or YAML.

use serde_json::Value;

use super::shape::Op;
use super::spec::StreamSpec;
use super::template::{Subject, Templates};
use crate::serve::body::{self, Language};
use crate::time::Timestamp;

/// Bytes of an event, enough for any seed.
const BYTES_MAX: usize = 4096;

/// Views that a stream may name.
const VIEWS: [&str; 3] = ["rolling", "alerts", "a view"];

/// The first byte says what follows: a template and a row with NUL between, or a stream as JSON or YAML.
pub fn templates(input: &[u8]) {
    let Some((what, rest)) = input.split_first() else { return };
    match what {
        b'j' => stream(rest, Language::Json),
        b'y' => stream(rest, Language::Yaml),
        _ => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            let (template, row) = text.split_once('\0').unwrap_or((text, r#"{"a":[1,{"b":null}],"after":"x"}"#));
            render(template, row);
        }
    }
}

/// A template is refused with its place, or makes texts within their bound.
fn render(template: &str, row: &str) {
    let templates = match Templates::compile([(Op::Added, template), (Op::Updated, template)]) {
        Ok(templates) => templates,
        Err(errors) => return assert!(errors.iter().all(|(_, error)| error.message().contains("template"))),
    };
    let at = Timestamp(1_772_366_400_500_000_000);
    let row = row.as_bytes();
    for (op, before) in [(Op::Added, None), (Op::Updated, Some(row))] {
        let subject = Subject { view: "rolling", op, before, after: Some(row), at };
        let rendered = templates.render(&subject, BYTES_MAX).expect("the template is there");
        if let Ok(text) = rendered {
            assert!(text.len() <= BYTES_MAX);
            assert_eq!(templates.render(&subject, BYTES_MAX).and_then(Result::ok), Some(text), "the same again");
        }
    }
}

/// A stream is refused with the places in it, or reads the same once it is written.
fn stream(text: &[u8], language: Language) {
    let Ok(value) = body::read::<Value>(text, language) else { return };
    match StreamSpec::read(&value, &VIEWS) {
        Ok(spec) => {
            for view in VIEWS {
                let _ = spec.templates(view);
            }
            assert!(spec.endpoints().iter().all(|endpoint| endpoint.path.starts_with('/')), "{:?}", spec.endpoints());
            let written = serde_json::to_value(&spec).expect("a stream is JSON");
            assert_eq!(StreamSpec::read(&written, &VIEWS).as_ref(), Ok(&spec), "{written}");
        }
        Err(issues) => {
            assert!(!issues.is_empty());
            for issue in issues {
                let around = issue.pointer.rsplit_once('/').map_or("", |(around, _)| around);
                assert!(value.pointer(around).is_some(), "'{}' is nowhere in {value}", issue.pointer);
            }
        }
    }
}
