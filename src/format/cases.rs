//! What is read from which data, and what a bad record costs: tables of input and outcome.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{Bad, Column, Decoder, FormatSpec, Metadata, Origin, RawEvent};
use crate::options::{Format, Framing, TimestampFormat};
use crate::time::{Timestamp, instant, instant_ns};

pub(super) fn spec(columns: Vec<Column>) -> FormatSpec {
    FormatSpec::new(Format::Json, Framing::None, TimestampFormat::Rfc3339, "http://x/sse", columns, None).unwrap()
}

pub(super) fn decoder(spec: &FormatSpec) -> Decoder {
    Decoder::new(spec, &(0..spec.columns.len()).collect::<Vec<_>>()).unwrap()
}

pub(super) fn event(data: &str) -> RawEvent<'_> {
    RawEvent { kind: "message", data, id: "7", received: Timestamp(42) }
}

fn run(spec: &FormatSpec, events: &[&str]) -> (RecordBatch, Vec<i64>, Vec<Bad>) {
    let mut decoder = decoder(spec);
    let mut bad = Vec::new();
    for data in events {
        decoder.push(event(data), &mut |it| bad.push(it));
    }
    let (batch, times) = decoder.take().unwrap();
    (batch, times.values().to_vec(), bad)
}

/// A column's values as Arrow prints them, NULL as `NULL`.
fn shown(array: &dyn Array) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let formatter = ArrayFormatter::try_new(array, &options).unwrap();
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

/// What becomes of `{"x": value}` in a column `x`: the value as Arrow prints it, or the reason against.
fn outcome(spec: &FormatSpec, value: &str) -> Result<String, String> {
    let (batch, _, bad) = run(spec, &[&format!("{{\"x\":{value}}}")]);
    match &bad[..] {
        [] => Ok(shown(batch.column(0)).remove(0)),
        [one] => {
            assert_eq!(batch.num_rows(), 0);
            Err(one.reason.clone())
        }
        more => panic!("{more:?}"),
    }
}

#[track_caller]
fn check(column: Column, cases: &[(&str, Result<&str, &str>)]) {
    check_written(column, TimestampFormat::Rfc3339, cases);
}

/// The reasons are given without `column 'x': ` and the place, which is always that of the value.
#[track_caller]
fn check_written(column: Column, written: TimestampFormat, cases: &[(&str, Result<&str, &str>)]) {
    let spec = FormatSpec { timestamps: written, ..spec(vec![column]) };
    for (value, expect) in cases {
        let expect = match expect {
            Ok(value) => Ok(value.to_string()),
            Err(reason) => Err(format!("column 'x': {reason} at line 1 column 6")),
        };
        assert_eq!(outcome(&spec, value), expect, "{value}");
    }
}

fn column(data_type: DataType) -> Column {
    Column::new("x", data_type)
}

#[test]
fn integers() {
    check(
        column(DataType::Int64),
        &[
            ("1", Ok("1")),
            ("\"-12\"", Ok("-12")),
            ("\" 12 \"", Ok("12")),
            ("1.0", Ok("1")),
            ("1e3", Ok("1000")),
            ("9007199254740993", Ok("9007199254740993")),
            ("-9223372036854775808", Ok("-9223372036854775808")),
            ("null", Ok("NULL")),
            ("9223372036854775808", Err("'9223372036854775808' is beyond the range of BIGINT")),
            ("1e400", Err("'1e400' is beyond the range of BIGINT")),
            ("1.5", Err("'1.5' is no whole number")),
            ("\"\"", Err("'' is no number")),
            ("\"abc\"", Err("'abc' is no number")),
            ("true", Err("'true' is no number")),
            ("{\"a\":1}", Err("an object is no number")),
            ("[1]", Err("an array is no number")),
        ],
    );
    check(column(DataType::Int8), &[("-128", Ok("-128")), ("128", Err("'128' is beyond the range of TINYINT"))]);
    check(
        column(DataType::UInt64),
        &[("18446744073709551615", Ok("18446744073709551615")), ("-1", Err("'-1' is beyond the range of BIGINT UNSIGNED"))],
    );
    check(
        column(DataType::UInt16),
        &[("65535", Ok("65535")), ("65536", Err("'65536' is beyond the range of SMALLINT UNSIGNED"))],
    );
}

#[test]
fn floats_and_decimals() {
    check(
        column(DataType::Float64),
        &[
            ("0.1", Ok("0.1")),
            ("1.7976931348623157e308", Ok("1.7976931348623157e308")),
            ("123456789.123456789", Ok("123456789.12345679")),
            ("\"2.5\"", Ok("2.5")),
            ("\"NaN\"", Ok("NaN")),
            ("\"Infinity\"", Ok("inf")),
            ("1e309", Err("'1e309' is beyond the range of DOUBLE")),
            ("\"1,5\"", Err("'1,5' is no number")),
        ],
    );
    check(column(DataType::Float32), &[("0.1", Ok("0.1")), ("1e39", Err("'1e39' is beyond the range of FLOAT"))]);
    check(
        column(DataType::Decimal128(38, 18)),
        &[
            ("12345678901234567890.123456789012345678", Ok("12345678901234567890.123456789012345678")),
            ("\"-0.000000000000000001\"", Ok("-0.000000000000000001")),
            ("1e2", Ok("100.000000000000000000")),
        ],
    );
    check(
        column(DataType::Decimal128(5, 2)),
        &[
            ("1.005", Ok("1.01")),
            ("-1.005", Ok("-1.01")),
            ("999.99", Ok("999.99")),
            ("999.995", Err("'999.995' is beyond the range of DECIMAL(5, 2)")),
            ("\"x\"", Err("'x' is no number")),
        ],
    );
}

#[test]
fn text_takes_every_value_and_json_keeps_its_own_text() {
    check(
        column(DataType::Utf8View),
        &[
            ("\"abc\"", Ok("abc")),
            (r#""a\n\"\u00e9\ud83d\ude00""#, Ok("a\n\"é😀")),
            ("\"null\"", Ok("null")),
            ("1.50", Ok("1.50")),
            ("true", Ok("true")),
            (r#"{"b": 1, "a": [2]}"#, Ok(r#"{"b": 1, "a": [2]}"#)),
            ("null", Ok("NULL")),
            (r#""\ud83d""#, Err("the text has a broken escape: unexpected end of hex escape")),
        ],
    );
    check(
        Column { name: "x".into(), ..Column::json("x") },
        &[
            (r#"{"b": 1.0, "a": [2], "b":3}"#, Ok(r#"{"b": 1.0, "a": [2], "b":3}"#)),
            ("\"abc\"", Ok("\"abc\"")),
            ("1e2", Ok("1e2")),
            ("null", Ok("NULL")),
        ],
    );
    let field = Column::json("x").field();
    assert_eq!(field.metadata().get("ARROW:extension:name").unwrap(), "arrow.json");
    for data_type in [DataType::Utf8, DataType::LargeUtf8] {
        check(column(data_type), &[("\"abc\"", Ok("abc"))]);
    }
}

#[test]
fn booleans_and_bytes() {
    check(
        column(DataType::Boolean),
        &[
            ("true", Ok("true")),
            ("\"False\"", Ok("false")),
            ("1", Err("'1' is neither true nor false")),
            ("\"yes\"", Err("'yes' is neither true nor false")),
        ],
    );
    for data_type in [DataType::Binary, DataType::BinaryView] {
        check(
            column(data_type),
            &[
                ("\"AP/+\"", Ok("00fffe")),
                ("\"AP_-\"", Ok("00fffe")),
                ("\"AA==\"", Ok("00")),
                ("\"AA\"", Ok("00")),
                (r#""AP\/+""#, Ok("00fffe")),
                ("\"A\"", Err("'A' is no base64 text")),
                ("7", Err("'7' is no base64 text")),
            ],
        );
    }
}

#[test]
fn times() {
    check(
        column(instant_ns()),
        &[
            ("\"2026-03-01T12:00:00.5Z\"", Ok("2026-03-01T12:00:00.500Z")),
            ("\"2026-03-01 13:00:00+01:00\"", Ok("2026-03-01T12:00:00Z")),
            ("\"1969-12-31T23:59:59Z\"", Ok("1969-12-31T23:59:59Z")),
            ("\"1677-09-22\"", Ok("1677-09-22T00:00:00Z")),
            (
                "\"2262-04-12\"",
                Err(
                    "'2262-04-12' lies outside the years 1677 to 2262 that a TIMESTAMP holds (declare the column as TIMESTAMP(6), which holds all years)",
                ),
            ),
            (
                "\"0001-01-01T00:00:00Z\"",
                Err(
                    "'0001-01-01T00:00:00Z' lies outside the years 1677 to 2262 that a TIMESTAMP holds (declare the column as TIMESTAMP(6), which holds all years)",
                ),
            ),
            ("\"soon\"", Err("'soon' is no RFC 3339 time such as '2026-03-01T12:00:00Z'")),
            (
                "1772366400",
                Err(
                    "the number '1772366400' is no RFC 3339 time (set json.timestamp_format = 'unix_seconds' if it counts from 1970)",
                ),
            ),
            (
                "\"1772366400000\"",
                Err(
                    "the number '1772366400000' is no RFC 3339 time (set json.timestamp_format = 'unix_millis' if it counts from 1970)",
                ),
            ),
        ],
    );
    check_written(
        column(instant_ns()),
        TimestampFormat::Seconds,
        &[
            ("1772366400", Ok("2026-03-01T12:00:00Z")),
            ("1772366400.25", Ok("2026-03-01T12:00:00.250Z")),
            ("\"-1\"", Ok("1969-12-31T23:59:59Z")),
            ("\"2026-03-01T12:00:00Z\"", Ok("2026-03-01T12:00:00Z")),
            (
                "1772366400000",
                Err(
                    "'1772366400000' lies outside the years 1677 to 2262 that a TIMESTAMP holds (perhaps json.timestamp_format = 'unix_millis' is meant)",
                ),
            ),
            (
                "1e99",
                Err(
                    "'1e99' lies outside the years 1677 to 2262 that a TIMESTAMP holds (declare the column as TIMESTAMP(6), which holds all years)",
                ),
            ),
            ("true", Err("'true' is neither a number nor an RFC 3339 time")),
        ],
    );
    for (written, value) in [
        (TimestampFormat::Millis, "1772366400500"),
        (TimestampFormat::Micros, "1772366400500000"),
        (TimestampFormat::Nanos, "1772366400500000000"),
    ] {
        check_written(column(instant_ns()), written, &[(value, Ok("2026-03-01T12:00:00.500Z"))]);
    }
    check(
        column(instant(TimeUnit::Millisecond)),
        &[("\"1969-12-31T23:59:59.9999Z\"", Ok("1969-12-31T23:59:59.999Z")), ("\"9999-12-31\"", Ok("9999-12-31T00:00:00Z"))],
    );
    check(
        column(DataType::Date32),
        &[
            ("\"2026-03-01\"", Ok("2026-03-01")),
            ("\"2026-03-01T23:00:00-02:00\"", Ok("2026-03-02")),
            ("\"March\"", Err("'March' is no date such as '2026-03-01'")),
        ],
    );
    check(
        column(DataType::Time64(TimeUnit::Microsecond)),
        &[("\"12:00:01.5\"", Ok("12:00:01.500")), ("\"25:00\"", Err("'25:00' is no time of day such as '12:00:00'"))],
    );
}

#[test]
fn nested_values() {
    let point = DataType::Struct(Fields::from(vec![
        Field::new("a", DataType::Int64, false),
        Field::new("b", DataType::List(Arc::new(Field::new("item", DataType::Float64, true))), true),
    ]));
    let spec = spec(vec![column(DataType::List(Arc::new(Field::new("item", point, true))))]);
    for (value, expect) in [
        (r#"[{"a":1,"b":[1.5,null]},null,{"b":null,"a":2,"c":3}]"#, Ok("[{a: 1, b: [1.5, NULL]}, NULL, {a: 2, b: NULL}]")),
        ("[]", Ok("[]")),
        ("null", Ok("NULL")),
        ("{}", Err("column 'x': an object is no array at line 1 column 6")),
        ("[[], [ ]]", Ok("[NULL, NULL]")),
        ("[[1]]", Err("column 'x[0]': an array is no object at line 1 column 7")),
        ("[7]", Err("column 'x[0]': '7' is no object at line 1 column 7")),
        (r#"[{"a":1},{"b":[1]}]"#, Err("column 'x[1].a': the value is missing, and the column is NOT NULL at line 1 column 15")),
        (r#"[{"a":1,"b":[1,"z"]}]"#, Err("column 'x[0].b[1]': 'z' is no number at line 1 column 21")),
    ] {
        assert_eq!(outcome(&spec, value), expect.map(String::from).map_err(String::from), "{value}");
    }
}

#[test]
fn maps() {
    let entries = DataType::Struct(Fields::from(vec![
        Field::new("key", DataType::Utf8View, false),
        Field::new("value", DataType::Int64, true),
    ]));
    let spec = spec(vec![column(DataType::Map(Arc::new(Field::new("entries", entries, false)), false))]);
    for (value, expect) in [
        (r#"{"a":1,"b\n":null,"a":3}"#, Ok("{b\n: NULL, a: 3}")),
        ("{}", Ok("{}")),
        ("[ ]", Ok("{}")),
        ("[7]", Err("column 'x': an array is no object at line 1 column 6")),
        (r#"{"k":"v"}"#, Err("column 'x.k': 'v' is no number at line 1 column 11")),
    ] {
        assert_eq!(outcome(&spec, value), expect.map(String::from).map_err(String::from), "{value}");
    }
}

#[test]
fn fields_are_found_by_their_exact_names_and_the_last_of_equal_ones_counts() {
    let names = ["a", "A", "a.b", "ab", "ba", "über", "", "quote\""];
    let spec = spec(names.map(|name| Column::new(name, DataType::Int64)).to_vec());
    let (batch, _, bad) =
        run(&spec, &[r#" {"a":1,"A":2,"a.b":3,"a":{"b":9},"ab":4,"\u00fcber":5,"":6,"quote\"":7,"a":8,"AB":0,"other":[{}]} "#]);
    assert_eq!(bad, []);
    let row: Vec<String> = batch.columns().iter().flat_map(|column| shown(column)).collect();
    assert_eq!(row, ["8", "2", "3", "4", "NULL", "5", "6", "7"]);
}

/// Every kind of data that is no record of a table `n BIGINT NOT NULL, tags TEXT[]`, and the reason.
fn broken() -> Vec<(String, &'static str)> {
    let deep = "[".repeat(10_000);
    vec![
        ("".into(), "the data is empty at line 1 column 1"),
        ("Connected".into(), "the data is no JSON: expected value at line 1 column 1"),
        ("[DONE]".into(), "the data is no JSON: expected value at line 1 column 2"),
        (
            "[1]".into(),
            "the data is an array, not an object (set framing = 'json_array' to read each element as a row) at line 1 column 1",
        ),
        (" 7".into(), "the data is a number, not an object at line 1 column 2"),
        ("\"a\"".into(), "the data is a string, not an object at line 1 column 1"),
        ("true".into(), "the data is a boolean, not an object at line 1 column 1"),
        ("null".into(), "the data is null, not an object at line 1 column 1"),
        ("{\"n\":1".into(), "the JSON is cut off: EOF while parsing an object at line 1 column 6"),
        ("{\"n\":1,\"tags\":[\"a".into(), "the JSON is cut off: EOF while parsing a string at line 1 column 17"),
        ("{\"n\":1,}".into(), "the data is no JSON: trailing comma at line 1 column 8"),
        ("{\"n\":01}".into(), "the data is no JSON: invalid number at line 1 column 7"),
        ("{'n':1}".into(), "the data is no JSON: key must be a string at line 1 column 2"),
        ("{\"n\":NaN}".into(), "the data is no JSON: expected value at line 1 column 6"),
        ("{\"n\":1,\n \"é\":x}".into(), "the data is no JSON: expected value at line 2 column 6"),
        (
            "{\"n\":1}{\"n\":2}".into(),
            "more follows after the JSON object (where an event holds one record a line, set framing = 'newline') at line 1 column 8",
        ),
        ("{\"n\":\"x\"}".into(), "column 'n': 'x' is no number at line 1 column 6"),
        ("{\"n\":null}".into(), "column 'n': the value is null, and the column is NOT NULL at line 1 column 6"),
        ("{\"tags\":[]}".into(), "column 'n': the value is missing, and the column is NOT NULL at line 1 column 1"),
        (
            "{\"n\":1,\"tags\":[\"a\",\"b\\ud800\"]}".into(),
            "column 'tags[1]': the text has a broken escape: unexpected end of hex escape at line 1 column 20",
        ),
        (deep.clone(), "the JSON is cut off: EOF while parsing a list at line 1 column 10000"),
        (format!("{{\"n\":{deep}"), "the JSON is cut off: EOF while parsing a list at line 1 column 10005"),
        (format!("{{\"n\":{deep}{}}}", "]".repeat(10_000)), "column 'n': an array is no number at line 1 column 6"),
    ]
}

#[test]
fn a_bad_record_costs_only_itself_and_says_why() {
    let tags = DataType::List(Arc::new(Field::new("item", DataType::Utf8View, true)));
    let spec = spec(vec![Column::new("n", DataType::Int64).not_null(), Column::new("tags", tags)]);
    for (data, reason) in broken() {
        let (batch, _, bad) = run(&spec, &["{\"n\":1,\"tags\":[\"a\"]}", &data, &data, "{\"n\":2,\"tags\":[\"b\"]}"]);
        assert_eq!(bad.len(), 2, "{data}");
        assert_eq!(bad[0].reason, reason, "{data}");
        assert_eq!((bad[0].id.as_str(), bad[0].kind.as_str()), ("7", "message"));
        assert!(bad[0].data.len() <= super::EXCERPT_BYTES + 3 && data.starts_with(bad[0].data.trim_end_matches('…')));
        assert_eq!(shown(batch.column(0)), ["1", "2"], "{data}");
        assert_eq!(shown(batch.column(1)), ["[a]", "[b]"], "{data}");
    }
}

#[test]
fn a_batch_after_many_bad_ones_is_right() {
    let spec = spec(vec![Column::new("n", DataType::Int64).not_null(), Column::new("tags", DataType::Utf8View)]);
    let mut decoder = decoder(&spec);
    let mut count = 0;
    for (data, _) in broken().iter().cycle().take(1000).filter(|(data, _)| !data.contains("\"n\":1,\"tags\"")) {
        decoder.push(event(data), &mut |_| count += 1);
    }
    assert!(decoder.is_empty() && count > 800);
    for round in 0..2 {
        decoder.push(event(&format!("{{\"n\":{round},\"tags\":\"t\"}}")), &mut |bad| panic!("{bad:?}"));
        assert_eq!(decoder.len(), 1);
        let (batch, times) = decoder.take().unwrap();
        assert_eq!(
            (shown(batch.column(0)), shown(batch.column(1)), times.values().to_vec()),
            (vec![round.to_string()], vec!["t".into()], vec![42])
        );
    }
}

#[test]
fn unknown_fields_of_any_depth_are_skipped() {
    let spec = spec(vec![column(DataType::Int64)]);
    let data = format!("{{\"deep\":{}{},\"odd\":\"\\ud800\",\"big\":1e999,\"x\":1}}", "[".repeat(100_000), "]".repeat(100_000));
    let (batch, _, bad) = run(&spec, &[&data]);
    assert_eq!((shown(batch.column(0)), bad), (vec!["1".to_string()], vec![]));
}

#[test]
fn the_event_time_is_read_even_when_nobody_selects_it() {
    let columns = vec![column(DataType::Int64), Column::new("ts", instant(TimeUnit::Millisecond))];
    let spec = FormatSpec { time: Some(1), ..spec(columns) };
    let mut decoder = Decoder::new(&spec, &[0]).unwrap();
    let mut reasons = Vec::new();
    for data in [
        r#"{"x":1,"ts":"1970-01-01T00:00:01Z"}"#,
        r#"{"x":2}"#,
        r#"{"x":3,"ts":null}"#,
        r#"{"x":4,"ts":"2500-01-01"}"#,
        r#"{"x":5,"ts":"1969-12-31T23:59:59Z"}"#,
    ] {
        decoder.push(event(data), &mut |bad| reasons.push(bad.reason));
    }
    let (batch, times) = decoder.take().unwrap();
    assert_eq!(batch.schema().fields().len(), 1);
    assert_eq!(
        (shown(batch.column(0)), times.values().to_vec()),
        (vec!["1".into(), "5".into()], vec![1_000_000_000, -1_000_000_000])
    );
    assert_eq!(
        reasons,
        [
            "event time 'ts' is missing at line 1 column 1",
            "event time 'ts' is missing at line 1 column 1",
            "event time 'ts' lies outside the years 1677 to 2262 at line 1 column 1",
        ]
    );
}

fn metadata() -> Vec<Column> {
    Metadata::NAMES
        .iter()
        .map(|(name, metadata)| {
            let data_type = if *metadata == Metadata::ReceivedAt { instant_ns() } else { DataType::Utf8View };
            Column::new(*name, data_type).with_origin(Origin::Metadata(*metadata))
        })
        .collect()
}

#[test]
fn metadata_is_read_without_looking_at_the_data() {
    let mut decoder = decoder(&spec(metadata()));
    decoder
        .push(RawEvent { kind: "k", data: "no JSON", id: "", received: Timestamp(1_000_000_000) }, &mut |bad| panic!("{bad:?}"));
    let (batch, times) = decoder.take().unwrap();
    let row: Vec<String> = batch.columns().iter().flat_map(|column| shown(column)).collect();
    assert_eq!(row, ["k", "NULL", "1970-01-01T00:00:01Z", "http://x/sse", "no JSON"]);
    assert_eq!(times.values().to_vec(), [1_000_000_000]);
    // No columns at all: rows are counted all the same.
    let mut decoder = Decoder::new(&spec(metadata()), &[]).unwrap();
    decoder.push(event("{}"), &mut |bad| panic!("{bad:?}"));
    assert_eq!(decoder.take().unwrap().0.num_rows(), 1);
}

#[test]
fn an_id_that_must_be_there_is_asked_for() {
    let id = Column::new("id", DataType::Utf8View).with_origin(Origin::Metadata(Metadata::EventId)).not_null();
    let mut decoder = decoder(&spec(vec![id]));
    let mut reasons = Vec::new();
    decoder.push(RawEvent { id: "", ..event("{}") }, &mut |bad| reasons.push(bad.reason));
    assert_eq!(reasons, ["the event has no id, and the column is NOT NULL at line 1 column 1"]);
}

#[test]
fn unstructured_data_is_any_json_kept_as_it_is() {
    let spec = spec(vec![Column::json("value").with_origin(Origin::Whole)]);
    let (batch, _, bad) = run(&spec, &["{\"b\": 1,\n\"a\":2}", "[1, 2]", "7", "{\"a\":", "x"]);
    assert_eq!(shown(batch.column(0)), ["{\"b\": 1,\n\"a\":2}", "[1, 2]", "7"]);
    let reasons: Vec<&str> = bad.iter().map(|bad| bad.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "the JSON is cut off: EOF while parsing a value at line 1 column 5",
            "the data is no JSON: expected value at line 1 column 1"
        ]
    );
}

#[test]
fn raw_text_is_kept_as_it_is() {
    let columns = vec![Column::new("value", DataType::Utf8View)];
    let spec =
        |framing| FormatSpec::new(Format::RawString, framing, TimestampFormat::Rfc3339, "", columns.clone(), None).unwrap();
    let (batch, _, bad) = run(&spec(Framing::None), &["{\"a\": \\ud800", " two\nlines ", ""]);
    assert_eq!((shown(batch.column(0)), bad), (vec!["{\"a\": \\ud800".into(), " two\nlines ".into(), "".into()], vec![]));
    let (batch, ..) = run(&spec(Framing::Newline), &["one\r\n\n two"]);
    assert_eq!(shown(batch.column(0)), ["one", " two"]);
}

#[test]
fn a_framing_splits_an_event_and_a_bad_part_costs_only_itself() {
    let framed = |framing| FormatSpec { framing, ..spec(vec![column(DataType::Int64)]) };
    let (batch, _, bad) = run(&framed(Framing::Newline), &["{\"x\":1}\n\n{\"x\":\"é\"}\r\n  \n{\"x\":2}\n{\"x\":", "{\"x\":3}"]);
    assert_eq!(shown(batch.column(0)), ["1", "2", "3"]);
    let reasons: Vec<(&str, u64)> = bad.iter().map(|bad| (bad.reason.as_str(), bad.offset)).collect();
    assert_eq!(
        reasons,
        [
            ("column 'x': 'é' is no number at line 3 column 6", 14),
            ("the JSON is cut off: EOF while parsing a value at line 6 column 5", 36),
        ]
    );

    let (batch, _, bad) = run(
        &framed(Framing::JsonArray),
        &["[{\"x\":1}, 7,\n{\"x\":2},{\"x\":1.5}]", "{\"x\":3}", "[{\"x\":4},{\"x\"", "[]", "no", "7", "[[1]]"],
    );
    assert_eq!(shown(batch.column(0)), ["1", "2", "3", "4"]);
    let reasons: Vec<&str> = bad.iter().map(|bad| bad.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "the data is a number, not an object at line 1 column 11",
            "column 'x': '1.5' is no whole number at line 2 column 14",
            "the JSON is cut off: EOF while parsing an object at line 1 column 13",
            "the data is no JSON: expected ident at line 1 column 2",
            "the data is a number, not an array at line 1 column 1",
            "the data is an array, not an object at line 1 column 2",
        ]
    );
}
