//! `to_char(time, pattern)` with PostgreSQL's patterns beside those of `strftime`.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions::datetime::to_char;
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature};

use super::values;
use crate::error::{Code, Error};

/// DataFusion's function, which reads patterns with a `%`; one without is PostgreSQL's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ToChar {
    signature: Signature,
    aliases: Vec<String>,
}

impl Default for ToChar {
    fn default() -> Self {
        ToChar { signature: to_char().signature().clone(), aliases: vec!["date_format".into()] }
    }
}

/// PostgreSQL's patterns, the longer before those they begin with, as they stand and behind `FM`, which leaves padding out.
const PATTERNS: [(&str, &str, &str); 22] = [
    ("YYYY", "%Y", "%-Y"),
    ("YY", "%y", "%-y"),
    ("IYYY", "%G", "%-G"),
    ("IW", "%V", "%-V"),
    ("MON", "", ""),
    ("Month", "", "%B"),
    ("Mon", "%b", "%b"),
    ("MM", "%m", "%-m"),
    ("MI", "%M", "%-M"),
    ("MS", "%3f", "%3f"),
    ("US", "%6f", "%6f"),
    ("DDD", "%j", "%-j"),
    ("DD", "%d", "%-d"),
    ("Day", "", "%A"),
    ("Dy", "%a", "%a"),
    ("ID", "%u", "%u"),
    ("HH24", "%H", "%-H"),
    ("HH12", "%I", "%-I"),
    ("HH", "%I", "%-I"),
    ("SS", "%S", "%-S"),
    ("AM", "%p", "%p"),
    ("PM", "%p", "%p"),
];

/// A pattern of PostgreSQL's in the words of `strftime`. The error is the part that has none.
fn translated(pattern: &str) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), pattern);
    while let Some(letter) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (text, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            out.push_str(text);
            rest = after;
            continue;
        }
        let (lean, here) = match rest.strip_prefix("FM") {
            Some(here) => (true, here),
            None => (false, rest),
        };
        let found =
            PATTERNS.iter().find_map(|(name, padded, bare)| Some((here.strip_prefix(name)?, if lean { *bare } else { *padded })));
        match found {
            Some((after, said)) if !said.is_empty() => {
                out.push_str(said);
                rest = after;
            }
            None if !letter.is_ascii_alphabetic() || letter == 'T' && !here.starts_with("TZ") => {
                out.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
            _ => return Err(rest.chars().take_while(char::is_ascii_alphanumeric).collect()),
        }
    }
    Ok(out)
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        "to_char"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        to_char().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<arrow::datatypes::FieldRef> {
        if let Some(pattern) = args.scalar_arguments.get(1).copied().flatten() {
            read(pattern)?;
        }
        to_char().return_field_from_args(args)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(ColumnarValue::Scalar(pattern)) = args.args.get(1)
            && let Some(pattern) = read(pattern)?
        {
            let data_type = args.args[1].data_type();
            args.args[1] = ColumnarValue::Scalar(ScalarValue::Utf8(Some(pattern)).cast_to(&data_type)?);
        }
        to_char().invoke_with_args(args)
    }
}

/// The pattern to use instead of this one, if it is one of PostgreSQL's.
fn read(pattern: &ScalarValue) -> Result<Option<String>> {
    match values::text(pattern) {
        Some(pattern) if !pattern.contains('%') => match translated(pattern) {
            Ok(pattern) => Ok(Some(pattern)),
            Err(part) => Err(Error::new(Code::Query, format!("to_char does not know '{part}' in '{pattern}'"))
                .hint("write patterns such as 'YYYY-MM-DD HH24:MI:SS', or those of strftime: '%Y-%m-%d %H:%M:%S'")
                .into()),
        },
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_postgresql_are_those_of_strftime() {
        for (pattern, expect) in [
            ("YYYY-MM-DD HH24:MI:SS.US", "%Y-%m-%d %H:%M:%S.%6f"),
            ("YYYY-MM-DD\"T\"HH24:MI:SS", "%Y-%m-%dT%H:%M:%S"),
            ("YYYY-MM-DDTHH12:MI AM", "%Y-%m-%dT%I:%M %p"),
            ("FMMonth FMDD, IYYY-IW", "%B %-d, %G-%V"),
        ] {
            assert_eq!(translated(pattern).unwrap(), expect);
        }
        assert_eq!(translated("YYYY Month"), Err("Month".into()));
        assert_eq!(translated("HH24:MI TZ"), Err("TZ".into()));
        assert_eq!(translated("yyyy"), Err("yyyy".into()));
    }
}
