//! The parser against the cases of the standard, in any cut, and against two independent parsers.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::Value;
use streamgauge::feed::Parser;

use super::Seen;

/// All that a stream says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Said {
    events: Vec<Seen>,
    last_id: String,
    retry_ms: Option<u64>,
    comments: u64,
}

fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Said {
    read_within(chunks, usize::MAX / 2).0
}

fn read_within<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, bytes_max: usize) -> (Said, u64) {
    let mut parser = Parser::new(bytes_max);
    let mut said = Said::default();
    for chunk in chunks {
        parser.feed(chunk, &mut |event| said.events.push(event.into()));
        said.retry_ms = parser.take_retry().or(said.retry_ms);
    }
    said.last_id = parser.last_event_id().into();
    said.comments = parser.comments();
    (said, parser.oversized())
}

fn independent(bytes: &[u8]) -> (Said, Said) {
    let mut parser = sse_parse::SseParser::new();
    parser.feed(bytes);
    let mut first = Said { last_id: parser.last_event_id().into(), ..Said::default() };
    first.retry_ms = parser.retry().map(|retry| retry.as_millis() as u64);
    while let Some(event) = parser.next_event() {
        first.events.push(Seen { kind: event.event, data: event.data, id: event.id });
    }
    let mut decoder = sse_core::SseDecoder::new();
    let mut second = Said::default();
    let mut rest = bytes;
    while let Some(Ok(event)) = decoder.next(&mut rest) {
        match event {
            sse_core::SseEvent::Message(event) => second.events.push(Seen {
                kind: event.event.into(),
                data: event.data,
                id: event.last_event_id.as_deref().unwrap_or_default().into(),
            }),
            sse_core::SseEvent::Retry(ms) => second.retry_ms = Some(ms.into()),
        }
    }
    second.last_id = decoder.last_event_id().map(|id| id.to_string()).unwrap_or_default();
    (first, second)
}

fn decoded(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// The chunks of a case as it gives them.
fn chunks(case: &Value) -> Vec<Vec<u8>> {
    let Some(recipe) = case.get("gen").filter(|recipe| !recipe.is_null()) else {
        return case["chunks"].as_array().unwrap().iter().map(decoded).collect();
    };
    let segments = recipe["segments"].as_array().unwrap();
    let bytes: Vec<u8> = segments
        .iter()
        .flat_map(|segment| decoded(&segment["b64"]).repeat(segment["repeat"].as_u64().unwrap() as usize))
        .collect();
    match recipe["chunk_size"].as_u64().unwrap() as usize {
        0 => vec![bytes],
        size => bytes.chunks(size).map(<[u8]>::to_vec).collect(),
    }
}

fn check(case: &Value, said: &Said, cut: &str) {
    let name = format!("{} {cut}", case["name"]);
    let expected: Vec<&Value> = case["expect"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|event| std::iter::repeat_n(event, event["repeat"].as_u64().unwrap_or(1) as usize))
        .collect();
    assert_eq!(said.events.len(), expected.len(), "{name}");
    for (event, expected) in said.events.iter().zip(expected) {
        assert_eq!(event.kind, expected["event"].as_str().unwrap(), "{name}");
        assert_eq!(event.id, expected["id"].as_str().unwrap(), "{name}");
        match expected["data"].as_str() {
            Some(data) => assert_eq!(event.data, data, "{name}"),
            None => assert_eq!(event.data.len() as u64, expected["data_len"].as_u64().unwrap(), "{name}"),
        }
    }
    assert_eq!(said.last_id, case["expect_last_event_id"].as_str().unwrap(), "{name}");
    assert_eq!(said.retry_ms, case["expect_retry_ms"].as_u64(), "{name}");
    if let Some(comments) = case["expect_comments"].as_array() {
        assert_eq!(said.comments, comments.len() as u64, "{name}");
    }
}

#[test]
fn every_case_of_the_standard_holds_in_every_cut() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../../fixtures/cases/sse_parsing.json")).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for case in &cases {
        let chunks = chunks(case);
        let whole = chunks.concat();
        check(case, &read(chunks.iter().map(Vec::as_slice)), "as given");
        check(case, &read([&whole[..]]), "in one");
        for size in [1, 2, 3, 7, 63, 64, 65] {
            check(case, &read(whole.chunks(size)), &format!("in pieces of {size}"));
        }
        for _ in 0..10 {
            let cuts: Vec<usize> = (0..random.usize(0..10)).map(|_| random.usize(0..=whole.len())).collect();
            check(case, &read(cut(&whole, &cuts)), &format!("cut at {cuts:?}"));
        }
        let (first, second) = independent(&whole);
        assert_eq!(read([&whole[..]]).events, first.events, "{}", case["name"]);
        assert_eq!(first.events, second.events, "{}", case["name"]);
    }
}

/// The bytes in pieces that end at these places.
fn cut<'a>(bytes: &'a [u8], at: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = at.iter().map(|at| at % (bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Streams that are full of what parsers trip over.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        8 => prop::sample::select(vec!["data: x", "data:y", "data", "id: 1", "id:2", "id", "event: a", "event", "retry: 50", "retry"]),
        8 => prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "\r\r"]),
        3 => prop::sample::select(vec![": ping", ":", " ", "  ", "\0", "\u{feff}", "é€😀", "d", "Data: z", "dataset: q", "9", "+5"]),
        1 => Just("data: a long line that is longer than one block of sixty-four bytes, so that masks are joined: 0123456789 and more"),
    ];
    let broken =
        prop::sample::select(vec![&b"\x80"[..], b"\xC0\x80", b"\xE2\x82", b"\xF0\x9F", b"\xFF", b"\xEF\xBB", b"\xED\xA0\x80"]);
    let piece = prop_oneof![12 => token.prop_map(|text| text.as_bytes().to_vec()), 1 => broken.prop_map(<[u8]>::to_vec)];
    (any::<bool>(), prop::collection::vec(piece, 0..60)).prop_map(|(mark, pieces)| {
        let mark: &[u8] = if mark { b"\xEF\xBB\xBF" } else { b"" };
        [mark.to_vec(), pieces.concat()].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn three_independent_parsers_agree(stream in streams()) {
        let said = read([&stream[..]]);
        let (first, second) = independent(&stream);
        prop_assert_eq!(&said.events, &first.events);
        prop_assert_eq!(&said.events, &second.events);
        prop_assert_eq!(&said.last_id, &first.last_id);
        prop_assert_eq!(&said.last_id, &second.last_id);
        prop_assert_eq!(said.retry_ms, first.retry_ms);
    }

    #[test]
    fn any_cut_of_a_stream_says_the_same(stream in streams(), at in prop::collection::vec(any::<usize>(), 0..12)) {
        prop_assert_eq!(read(cut(&stream, &at)), read([&stream[..]]));
    }

    #[test]
    fn any_cut_drops_the_same_oversized_events(stream in streams(), at in prop::collection::vec(any::<usize>(), 0..12), most in 1_usize..8) {
        let (said, oversized) = read_within([&stream[..]], most);
        prop_assert_eq!(read_within(cut(&stream, &at), most), (said.clone(), oversized));
        let all = read([&stream[..]]);
        prop_assert_eq!(said.events.len() as u64 + oversized, all.events.len() as u64);
    }
}

#[test]
fn a_new_connection_keeps_the_id_and_strips_its_own_mark() {
    let mut parser = Parser::with_last_id(1 << 20, "7".into());
    let mut seen = Vec::new();
    parser.feed(b"\xEF\xBB\xBFdata: x\n\n", &mut |event| seen.push(Seen::from(event)));
    assert_eq!(seen, [Seen { kind: "message".into(), data: "x".into(), id: "7".into() }]);
}

#[test]
fn an_unfinished_event_is_known_as_such() {
    for (bytes, inside) in [
        ("", false),
        ("data: x\n\n", false),
        (": pi", false),
        ("dat", true),
        ("data: x\n", true),
        ("id: 1\n", true),
        ("retry: 1", false),
        ("event: too long\n", true),
    ] {
        for cut in 1..=bytes.len().max(1) {
            let mut parser = Parser::new(5);
            bytes.as_bytes().chunks(cut).for_each(|chunk| parser.feed(chunk, &mut |_| {}));
            assert_eq!(parser.is_inside_event(), inside, "{bytes:?} {cut}");
        }
    }
}
