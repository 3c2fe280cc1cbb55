//! Walks JSON text once and says where its parts are; the words are those of RFC 8259.
//!
//! The scanner only accepts: `None` means that it does not vouch for the text, and a slower reader must decide. It gives up on
//! everything that is no JSON, and on nesting deeper than `DEPTH`, so it needs neither recursion nor allocation.

use wide::u8x16;

use super::object::ByteRange;

/// Levels of nesting below the walked value: one bit of a machine word each.
const DEPTH: u32 = u64::BITS;

/// A string in the text, its quotes included.
#[derive(Debug, Clone, Copy)]
pub struct StringToken {
    pub part: ByteRange,
    /// Whether it has escapes, so that its content is not what stands between the quotes.
    pub escaped: bool,
}

/// Hands over name and value of each member of the object that `part` is, and no more.
pub fn object(data: &str, part: ByteRange, mut each: impl FnMut(StringToken, ByteRange) -> Option<()>) -> Option<()> {
    let mut scan = Scan::new(data, part);
    scan.ws();
    scan.expect(b'{')?;
    scan.ws();
    if scan.peek()? == b'}' {
        scan.at += 1;
        return scan.end();
    }
    loop {
        let name = scan.name()?;
        let value = scan.value()?;
        each(name, value)?;
        scan.ws();
        match scan.next()? {
            b',' => scan.ws(),
            b'}' => return scan.end(),
            _ => return None,
        }
    }
}

/// Hands over each value of the array that `part` is, and no more.
pub fn array(data: &str, part: ByteRange, mut each: impl FnMut(ByteRange)) -> Option<()> {
    let mut scan = Scan::new(data, part);
    scan.ws();
    scan.expect(b'[')?;
    scan.ws();
    if scan.peek()? == b']' {
        scan.at += 1;
        return scan.end();
    }
    loop {
        each(scan.value()?);
        scan.ws();
        match scan.next()? {
            b',' => scan.ws(),
            b']' => return scan.end(),
            _ => return None,
        }
    }
}

/// Whether `part` is one value of any kind, and no more.
pub fn value(data: &str, part: ByteRange) -> Option<()> {
    let mut scan = Scan::new(data, part);
    scan.ws();
    scan.value()?;
    scan.end()
}

/// Whether the content of a string is other than it stands there.
pub fn has_escapes(content: &str) -> bool {
    let bytes = content.as_bytes();
    match bytes.last_chunk::<16>() {
        None => bytes.contains(&b'\\'),
        // The last sixteen bytes may be looked at twice.
        Some(last) => bytes.as_chunks::<16>().0.iter().chain([last]).any(|chunk| {
            let escapes = u8x16::new(*chunk).simd_eq(u8x16::splat(b'\\'));
            escapes.to_bitmask() != 0
        }),
    }
}

struct Scan<'d> {
    /// The event's data up to the end of the text.
    bytes: &'d [u8],
    at: usize,
}

impl<'d> Scan<'d> {
    fn new(data: &'d str, part: ByteRange) -> Self {
        Scan { bytes: &data.as_bytes()[..part.end], at: part.start }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// `ws = *( %x20 / %x09 / %x0A / %x0D )`
    fn ws(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// `JSON-text = ws value ws`: nothing follows.
    fn end(&mut self) -> Option<()> {
        self.ws();
        (self.at == self.bytes.len()).then_some(())
    }

    /// `member = string name-separator value`, up to the value.
    fn name(&mut self) -> Option<StringToken> {
        let name = self.string()?;
        self.ws();
        self.expect(b':')?;
        self.ws();
        Some(name)
    }

    /// `value = false / null / true / object / array / number / string`
    fn value(&mut self) -> Option<ByteRange> {
        let start = self.at;
        match self.peek()? {
            b'"' => _ = self.string()?,
            b'{' | b'[' => self.nested()?,
            _ => self.scalar()?,
        }
        Some(ByteRange { start, end: self.at })
    }

    /// An object or array with all that is in it.
    fn nested(&mut self) -> Option<()> {
        // The lowest bit says whether the innermost level is an object, the next what is around it, and so on.
        let (mut objects, mut depth) = (0u64, 0);
        loop {
            let ended = match self.peek()? {
                b'"' => self.string().map(|_| true)?,
                opening @ (b'{' | b'[') => {
                    self.at += 1;
                    self.ws();
                    if depth == DEPTH {
                        return None;
                    }
                    depth += 1;
                    objects = objects << 1 | u64::from(opening == b'{');
                    match self.peek()? {
                        b'}' | b']' => false,
                        b'"' if opening == b'{' => {
                            self.name()?;
                            continue;
                        }
                        _ if opening == b'[' => continue,
                        _ => return None,
                    }
                }
                _ => self.scalar().map(|()| true)?,
            };
            if ended {
                self.ws();
            }
            // After a value, or right at the end of an empty level.
            loop {
                match (self.next()?, objects & 1) {
                    (b'}', 1) | (b']', 0) => {
                        depth -= 1;
                        objects >>= 1;
                    }
                    (b',', 1) => {
                        self.ws();
                        self.name()?;
                        break;
                    }
                    (b',', _) => {
                        self.ws();
                        break;
                    }
                    _ => return None,
                }
                if depth == 0 {
                    return Some(());
                }
                self.ws();
            }
        }
    }

    #[inline]
    fn scalar(&mut self) -> Option<()> {
        match self.peek()? {
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let there = self.bytes[self.at..].starts_with(word);
        self.at += word.len();
        there.then_some(())
    }

    /// `number = [ minus ] int [ frac ] [ exp ]`
    fn number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// `1*DIGIT`
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// `string = quotation-mark *char quotation-mark`
    #[inline(always)]
    fn string(&mut self) -> Option<StringToken> {
        let start = self.at;
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            self.unescaped();
            match self.next()? {
                b'"' => return Some(StringToken { part: ByteRange { start, end: self.at }, escaped }),
                b'\\' => {
                    self.escape()?;
                    escaped = true;
                }
                _ => return None,
            }
        }
    }

    /// `unescaped = %x20-21 / %x23-5B / %x5D-10FFFF`, as many as there are.
    #[inline(always)]
    fn unescaped(&mut self) {
        while let Some(chunk) = self.bytes[self.at..].first_chunk::<16>() {
            let bytes = u8x16::new(*chunk);
            let control = bytes.min(u8x16::splat(0x1f)).simd_eq(bytes);
            let special = bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\')) | control;
            let mask = special.to_bitmask();
            if mask != 0 {
                self.at += mask.trailing_zeros() as usize;
                return;
            }
            self.at += 16;
        }
        while let Some(0x20..=0x21 | 0x23..=0x5b | 0x5d..) = self.peek() {
            self.at += 1;
        }
    }

    /// What follows an `escape`. A surrogate without its other half is good here: only a reader of the content minds.
    #[cold]
    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let good = self.bytes.get(self.at..self.at + 4)?.iter().all(u8::is_ascii_hexdigit);
                self.at += 4;
                good.then_some(())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn whole(data: &str) -> ByteRange {
        ByteRange { start: 0, end: data.len() }
    }

    fn accepts(data: &str) -> bool {
        value(data, whole(data)).is_some()
    }

    /// The scanner vouches for exactly what serde_json takes.
    #[track_caller]
    fn same_verdict(data: &str) {
        assert_eq!(accepts(data), serde_json::from_str::<IgnoredAny>(data).is_ok(), "{data:?}");
    }

    #[test]
    fn the_grammar_is_that_of_serde_json() {
        for data in [
            "",
            " ",
            "null",
            "true",
            "false",
            "nul",
            "nulll",
            "True",
            "0",
            "-0",
            "-",
            "01",
            "-01",
            "1.",
            ".1",
            "1.5",
            "1e",
            "1e+",
            "1e+5",
            "1E-05",
            "1.e5",
            "+1",
            "1e999",
            "0x1",
            "1 2",
            "\"\"",
            "\"",
            "\"a",
            "\"\\",
            "\"\\\"",
            "\"\\n\\/\\b\\f\\r\\t\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u123g\"",
            "\"\\ud800\"",
            "\"\\udc00\\ud800\"",
            "\"\\u00E9\"",
            "\"\u{7f}é😀\"",
            "\"\n\"",
            "\"0123456789abcdef\t\"",
            "\"0123456789abcdef\\t\"",
            "\"0123456789abcde\"",
            "[]",
            "[ ]",
            "[1]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[",
            "]",
            "[1",
            "[1}",
            "{]",
            "{}",
            "{ }",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1}",
            "{\"a\" : 1 , \"b\" : [ { } ] }",
            "{\"a\":1,}",
            "{,}",
            "{1:1}",
            "{\"a\":1 \"b\":2}",
            "[[],{}]",
            "[{\"a\":[]}]",
            "[{\"a\":[}]",
            "[{\"a\":{]}",
            "[{},]",
            "[[1],[2],{\"a\":{\"b\":null},\"c\":[true,false]}]",
            "[[1]]]",
            "\u{feff}1",
            "1\u{a0}",
            "[1]\0",
            "\u{b}1",
            "nu",
            "t",
        ] {
            same_verdict(data);
            same_verdict(&format!(" \t\r\n{data}\n"));
            same_verdict(&format!("[{data}]"));
            same_verdict(&format!("{{\"a\":{data},\"b\":[{data}]}}"));
        }
    }

    #[test]
    fn a_control_character_in_a_string_is_refused_wherever_it_stands() {
        for length in 0..40 {
            for at in 0..length {
                for byte in ['\0', '\u{1f}', ' ', '!', '"', '#', '[', '\\', ']', '\u{7f}', '\u{80}', 'ÿ'] {
                    let text = format!("\"{}{byte}{}\"", "x".repeat(at), "y".repeat(length - at - 1));
                    same_verdict(&text);
                    same_verdict(&format!("{text}                "));
                }
            }
        }
    }

    #[test]
    fn an_escape_is_found_wherever_it_stands() {
        for length in 0..50 {
            assert!(!has_escapes(&"x".repeat(length)));
            assert!((0..length).all(|at| has_escapes(&format!("{}\\{}", "x".repeat(at), "y".repeat(length - at - 1)))));
        }
    }

    #[test]
    fn nesting_beyond_the_bits_is_left_to_others() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(accepts(&nested(DEPTH as usize)));
        assert!(!accepts(&nested(DEPTH as usize + 1)));
        assert!(!accepts(&"[".repeat(100_000)));
        assert!(accepts(&format!("[{}]", vec![nested(DEPTH as usize - 1); 100].join(","))));
    }

    #[test]
    fn parts_are_handed_over_without_the_space_around_them() {
        let data = r#"x { "a" : 1 , "b\n":[ 2, {"c":"}"} ],"":"é" } x"#;
        let part = ByteRange { start: 1, end: data.len() - 1 };
        let mut found = Vec::new();
        let mut members = |name: StringToken, value: ByteRange| {
            found.push((name.part.of(data), name.escaped, value.of(data)));
            Some(())
        };
        assert_eq!(object(data, part, &mut members), Some(()));
        assert_eq!(found, [("\"a\"", false, "1"), ("\"b\\n\"", true, "[ 2, {\"c\":\"}\"} ]"), ("\"\"", false, "\"é\"")]);
        let mut found = Vec::new();
        assert_eq!(array("[ 1 ,[2,3] ]", whole("[ 1 ,[2,3] ]"), |part| found.push(part)), Some(()));
        assert_eq!(found, [ByteRange { start: 2, end: 3 }, ByteRange { start: 5, end: 10 }]);
    }

    fn json() -> impl Strategy<Value = String> {
        let string = any::<String>().prop_map(|text| serde_json::to_string(&text).expect("text is JSON"));
        let leaf = prop_oneof![
            Just("null".to_string()),
            Just("true".to_string()),
            Just("false".to_string()),
            any::<i64>().prop_map(|number| number.to_string()),
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
            "\"([ -!#-\\[\\]-~é😀]|\\\\[\"/bfnrt\\\\]|\\\\u[0-9a-fA-F]{4}){0,40}\"",
            string.clone(),
        ];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            let ws = "[ \t\r\n]{0,2}";
            let members = proptest::collection::vec((string.clone(), ws, inner.clone(), ws), 0..6);
            prop_oneof![
                proptest::collection::vec((ws, inner, ws), 0..6).prop_map(|values| {
                    let values: Vec<String> = values.into_iter().map(|(before, value, after)| before + &value + &after).collect();
                    format!("[{}]", values.join(","))
                }),
                members.prop_map(|members| {
                    let members: Vec<String> = members
                        .into_iter()
                        .map(|(name, one, value, two)| format!("{one}{name}{two}:{one}{value}{two}"))
                        .collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_json_is_accepted_and_any_change_to_it_is_judged_as_by_serde_json(
            data in json(), at in any::<prop::sample::Index>(), cut in any::<bool>(), with in "[\\[\\]{}:,\"\\\\nut0-9.eE+\x00\x1f é-]"
        ) {
            prop_assert!(accepts(&data));
            let at = data.floor_char_boundary(at.index(data.len()));
            let rest = if cut { data.ceil_char_boundary(at + 1) } else { at };
            same_verdict(&format!("{}{with}{}", &data[..at], &data[rest..]));
            same_verdict(&data[..at]);
            same_verdict(&format!("{}{}", &data[..at], &data[rest..]));
        }

        #[test]
        fn text_of_the_letters_of_json_is_judged_as_by_serde_json(data in "[\\[\\]{}:,\"\\\\nulabtrefsx0-9.eE+é\n -]{0,40}") {
            same_verdict(&data);
        }
    }
}
