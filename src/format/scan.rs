//! The quick way through an object of JSON: where the values of its wanted fields are, sixteen bytes of text at a time.
//!
//! It accepts nothing that serde_json refuses. What it does not accept (bad JSON, keys with escapes, deep nesting) serde_json reads
//! again, so every reason comes from there.

use wide::u8x16;

use super::object::{Names, Part};

/// The deepest nesting that is followed here: one bit of a word for each level.
const DEPTH_MAX: u32 = 64;

/// Writes where the value of each wanted field is, of equal names the last, if `part` is one object and no more.
/// Else `None`, and `slots` may hold anything.
pub fn fields(data: &str, part: Part, names: &Names, slots: &mut [Option<Part>]) -> Option<()> {
    let bytes = &data.as_bytes()[..part.end];
    let mut at = space(bytes, part.start);
    if *bytes.get(at)? != b'{' {
        return None;
    }
    at = space(bytes, at + 1);
    if *bytes.get(at)? == b'}' {
        return (space(bytes, at + 1) == bytes.len()).then_some(());
    }
    loop {
        if *bytes.get(at)? != b'"' {
            return None;
        }
        let name = at + 1;
        let end = special(bytes, name)?;
        if bytes[end] != b'"' {
            return None;
        }
        let slot = names.find(&data[name..end]);
        let start = colon(bytes, end + 1)?;
        at = value(bytes, start)?;
        if let Some(slot) = slot {
            slots[slot] = Some(Part { start, end: at });
        }
        at = space(bytes, at);
        match bytes.get(at)? {
            b',' => at = space(bytes, at + 1),
            b'}' => return (space(bytes, at + 1) == bytes.len()).then_some(()),
            _ => return None,
        }
    }
}

/// The end of the value that starts at `at`.
fn value(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'{' | b'[' => nested(bytes, at),
        _ => scalar(bytes, at),
    }
}

/// The end of the array or object that starts at `at`.
fn nested(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0;
    // For each level, the innermost in the lowest bit: whether it is an object.
    let mut objects = 0u64;
    loop {
        // A value starts here.
        match bytes.get(at)? {
            open @ (b'{' | b'[') => {
                if depth == DEPTH_MAX {
                    return None;
                }
                depth += 1;
                let is_object = *open == b'{';
                objects = objects << 1 | u64::from(is_object);
                at = space(bytes, at + 1);
                if *bytes.get(at)? != if is_object { b'}' } else { b']' } {
                    if is_object {
                        at = key(bytes, at)?;
                    }
                    continue;
                }
            }
            _ => at = space(bytes, scalar(bytes, at)?),
        }
        // A value has ended: levels end with it, or another value follows.
        loop {
            let is_object = objects & 1 == 1;
            match bytes.get(at)? {
                b',' => {
                    at = space(bytes, at + 1);
                    if is_object {
                        at = key(bytes, at)?;
                    }
                    break;
                }
                b'}' if is_object => {}
                b']' if !is_object => {}
                _ => return None,
            }
            depth -= 1;
            objects >>= 1;
            if depth == 0 {
                return Some(at + 1);
            }
            at = space(bytes, at + 1);
        }
    }
}

/// From a key to the start of its value.
fn key(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => colon(bytes, string(bytes, at + 1)?),
        _ => None,
    }
}

/// From behind a key to the start of its value.
fn colon(bytes: &[u8], at: usize) -> Option<usize> {
    let at = space(bytes, at);
    (*bytes.get(at)? == b':').then(|| space(bytes, at + 1))
}

fn scalar(bytes: &[u8], at: usize) -> Option<usize> {
    let word = |word: &[u8]| bytes[at..].starts_with(word).then_some(at + word.len());
    match bytes.get(at)? {
        b'"' => string(bytes, at + 1),
        b'-' | b'0'..=b'9' => number(bytes, at),
        b't' => word(b"true"),
        b'f' => word(b"false"),
        b'n' => word(b"null"),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let at = at + usize::from(bytes[at] == b'-');
    let mut end = digits(bytes, at)?;
    if bytes[at] == b'0' && end > at + 1 {
        return None;
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits(bytes, end + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
        end = digits(bytes, end + 1 + usize::from(sign))?;
    }
    Some(end)
}

/// The end of one or more digits.
fn digits(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    while bytes.get(end).is_some_and(u8::is_ascii_digit) {
        end += 1;
    }
    (end > at).then_some(end)
}

/// Behind the quote that ends the string whose text starts at `at`.
fn string(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = special(bytes, at)?;
        match bytes[at] {
            b'"' => return Some(at + 1),
            b'\\' => match bytes.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                b'u' => {
                    let digits = bytes.get(at + 2..at + 6)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return None;
                    }
                    at += 6;
                }
                _ => return None,
            },
            _ => return None,
        }
    }
}

/// The first byte from `at` on that is not plain text of a string: a quote, a backslash or a control character.
#[inline]
fn special(bytes: &[u8], mut at: usize) -> Option<usize> {
    const LAST_CONTROL: u8 = 0x1F;
    while let Some(block) = bytes[at..].first_chunk::<16>() {
        let block = u8x16::new(*block);
        let last_control = u8x16::splat(LAST_CONTROL);
        let found = block.simd_eq(u8x16::splat(b'"'))
            | block.simd_eq(u8x16::splat(b'\\'))
            | block.max(last_control).simd_eq(last_control);
        match found.to_bitmask() & 0xFFFF {
            0 => at += 16,
            mask => return Some(at + mask.trailing_zeros() as usize),
        }
    }
    let rest = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\' | ..=LAST_CONTROL))?;
    Some(at + rest)
}

#[inline]
fn space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::object::checked_fields;
    use super::*;

    /// Both ways through the same text; the quick one must not accept more, and must find the same.
    fn both(data: &str) -> (bool, bool) {
        let names = Names::new(["a", "b", "ü"]);
        let part = Part { start: 0, end: data.len() };
        let (mut quick, mut checked) = (vec![None; 3], vec![None; 3]);
        let accepted = fields(data, part, &names, &mut quick).is_some();
        let right = checked_fields(data, part, &names, &mut checked).is_ok();
        if accepted {
            assert!(right, "{data} is no JSON");
            assert_eq!(quick, checked, "{data}");
        }
        (accepted, right)
    }

    #[test]
    fn objects_are_walked_as_serde_json_does() {
        for data in [
            r#"{}"#,
            " { } ",
            r#"{"a":1}"#,
            r#"{ "a" : -0.5e+10 , "b" : [ ] , "c" : { } }"#,
            r#"{"a":1,"a":2}"#,
            r#"{"x":{"a":[1,{"b":[[],{},""]},null]},"a":true,"b":false,"ü":"é \" \\ \/ \u00e9 \ud800"}"#,
            r#"{"a":"a text that is longer than sixteen bytes with a \" in it","b":"0123456789abcde","ü":"0123456789abcdef"}"#,
            r#"{"x":{"":0,"a\n":{}},"a":[[[[[[]]]]]]}"#,
            r#"{"a":0,"b":0.0,"ü":-0}"#,
        ] {
            assert_eq!(both(data), (true, true), "{data}");
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_serde_json() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(65), "]".repeat(65));
        for data in [r#"{"\u0061":1}"#, deep.as_str()] {
            assert_eq!(both(data), (false, true), "{data}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for data in [
            "",
            "{",
            "[]",
            "{]",
            "{}x",
            "{} {}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{,}"#,
            r#"{"a" 1}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":+1}"#,
            r#"{"a":-}"#,
            r#"{"a":1e}"#,
            r#"{"a":1e+}"#,
            r#"{"a":0x1}"#,
            r#"{"a":tru}"#,
            r#"{"a":nul"#,
            r#"{"a":"x}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12g4"}"#,
            r#"{"a":"\u12"#,
            r#"{"a":"\"#,
            "{\"a\":\"\n\"}",
            "{\"a\":\"0123456789abcdef\u{1}\"}",
            r#"{"a":[1,]}"#,
            r#"{"a":[1}"#,
            r#"{"a":{"b":1]}"#,
            r#"{"a":[1 2]}"#,
            r#"{"a":{1:2}}"#,
            r#"{"a":{"b"}}"#,
            r#"{"a":{,}}"#,
            r#"{'a':1}"#,
            r#"{a:1}"#,
            r#"{"a":NaN}"#,
            "{\"a\":\u{a0}1}",
        ] {
            assert_eq!(both(data), (false, false), "{data}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_accepted_that_serde_json_refuses(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "\"", "\\", "\\n", "\\u00e9", "\\u12", "1", "-", "0", ".5", "e", "E+2", "true", "null",
                    " ", "\n", "ü", "\u{1}", "{\"a\":", "\"b\":1,", "}}", "]]", "long enough to fill a block", "\"x\":[1,2],", "\"ü\":{\"a\":null}",
                ]),
                0..14,
            ),
        ) {
            both(&format!("{{{}}}", pieces.concat()));
            both(&pieces.concat());
        }

        #[test]
        fn a_byte_that_goes_or_comes_is_seen_by_both(at in 0usize..120, byte in prop::option::of(0x01u8..0x7F)) {
            let good = r#"{"x":{"a":[1.5e3,{"b":[[],{},"t"]},null]},"a":true,"b":"é \" \u00e9 plain text of some length","ü":-0.25 , "c" : false}"#;
            let at = good.floor_char_boundary(at.min(good.len()));
            let mut text = good.to_string();
            match byte {
                Some(byte) => text.insert(at, byte.into()),
                None if at < text.len() => drop(text.remove(at)),
                None => {}
            }
            both(&text);
        }
    }
}
