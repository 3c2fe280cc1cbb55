//! Events into record batches: our decoder beside a struct typed by hand for exactly this event, and beside arrow-json.
//!
//! `cargo bench --bench decode`. Each iteration decodes the same 1,000 events into one batch; throughput is that of the JSON text.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{Float64Builder, Int64Builder, RecordBatch, StringViewBuilder};
use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use arrow::json::ReaderBuilder;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use streamgauge::format::encode::{Encoder, Encoding};
use streamgauge::format::{Column, Decoder, FormatSpec, RawEvent};
use streamgauge::options::{Format, Framing, TimestampFormat};
use streamgauge::time::Timestamp;

const EVENTS: usize = 1000;
const NANOS: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);

/// About 200 bytes, all five fields declared.
fn small() -> Vec<String> {
    let event = |index: usize| {
        format!(
            r#"{{"host":"web-{:03}.eu-central-1.example.com","metric":"http_request_duration_seconds","value":{}.{:04},"timestamp":"2026-03-01T12:{:02}:{:02}.{:03}Z","seq":{}}}"#,
            index % 200,
            index % 97,
            index * 7 % 10_000,
            index / 60 % 60,
            index % 60,
            index % 1000,
            1_000_000 + index,
        )
    };
    (0..EVENTS).map(event).collect()
}

fn small_columns() -> Vec<Column> {
    vec![
        Column::new("host", DataType::Utf8View),
        Column::new("metric", DataType::Utf8View),
        Column::new("value", DataType::Float64),
        Column::new("timestamp", NANOS),
        Column::new("seq", DataType::Int64),
    ]
}

/// About 1,500 bytes and 40 fields, of which six are declared.
fn wide() -> Vec<String> {
    let event = |index: usize| {
        let mut text = format!(
            r#"{{"$schema":"/mediawiki/recentchange/1.0.0","meta":{{"uri":"https://en.example.org/wiki/Page_{index}","dt":"2026-03-01T12:00:00Z","domain":"en.example.org","offset":{index}}},"id":{},"type":"edit","namespace":0,"title":"Page {index} of \"many\"","comment":"typo fixed, [[link]] added","user":"Editor{}","bot":{},"length":{{"old":{},"new":{}}},"wiki":"enwiki""#,
            1_000_000 + index,
            index % 500,
            index.is_multiple_of(3),
            index * 13 % 9000,
            index * 17 % 9000,
        );
        for extra in 0..29 {
            text += &match extra % 3 {
                0 => format!(r#","field_{extra}":"some text of usual length {index}""#),
                1 => format!(r#","field_{extra}":{}"#, index * extra),
                _ => format!(r#","field_{extra}":{{"a":[1,2,{index}],"b":null}}"#),
            };
        }
        text + "}"
    };
    (0..EVENTS).map(event).collect()
}

fn wide_columns() -> Vec<Column> {
    let length = Fields::from(vec![Field::new("old", DataType::Int64, true), Field::new("new", DataType::Int64, true)]);
    vec![
        Column::new("id", DataType::Int64),
        Column::new("type", DataType::Utf8View),
        Column::new("title", DataType::Utf8View),
        Column::new("user", DataType::Utf8View),
        Column::new("bot", DataType::Boolean),
        Column::new("length", DataType::Struct(length)),
    ]
}

fn ours(columns: Vec<Column>) -> Decoder {
    let all: Vec<usize> = (0..columns.len()).collect();
    let spec = FormatSpec::new(Format::Json, Framing::None, TimestampFormat::Rfc3339, "", columns, None).expect("a good table");
    Decoder::new(&spec, &all).expect("a good projection")
}

fn decode(decoder: &mut Decoder, events: &[String]) -> RecordBatch {
    for data in events {
        decoder.push(RawEvent { kind: "message", data, id: "", received: Timestamp(0) }, &mut |bad| panic!("{bad:?}"));
    }
    decoder.take().expect("good rows").0
}

/// arrow-json, one event after the other into one batch.
fn arrow_json(columns: &[Column], events: &[String]) -> RecordBatch {
    let schema = Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>());
    let mut decoder = ReaderBuilder::new(Arc::new(schema)).with_batch_size(EVENTS).build_decoder().expect("a good schema");
    for data in events {
        decoder.decode(data.as_bytes()).expect("good JSON");
    }
    decoder.flush().expect("good rows").expect("some rows")
}

#[derive(Deserialize)]
struct Small<'a> {
    host: &'a str,
    metric: &'a str,
    value: f64,
    timestamp: &'a str,
    seq: i64,
}

/// What a program for this one feed would do: a derived struct, and builders by name.
fn small_by_hand(events: &[String]) -> impl Sized {
    let mut host = StringViewBuilder::new();
    let mut metric = StringViewBuilder::new();
    let mut value = Float64Builder::new();
    let mut time = Int64Builder::new();
    let mut seq = Int64Builder::new();
    for data in events {
        let event: Small = serde_json::from_str(data).expect("good JSON");
        host.append_value(event.host);
        metric.append_value(event.metric);
        value.append_value(event.value);
        time.append_value(arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(event.timestamp).expect("a time"));
        seq.append_value(event.seq);
    }
    (host.finish(), metric.finish(), value.finish(), time.finish(), seq.finish())
}

#[derive(Deserialize)]
struct Wide<'a> {
    id: i64,
    r#type: &'a str,
    title: std::borrow::Cow<'a, str>,
    user: &'a str,
    bot: bool,
    length: Length,
}

#[derive(Deserialize)]
struct Length {
    old: i64,
    new: i64,
}

fn wide_by_hand(events: &[String]) -> impl Sized {
    let [mut kind, mut title, mut user] = [(); 3].map(|()| StringViewBuilder::new());
    let [mut id, mut old, mut new] = [(); 3].map(|()| Int64Builder::new());
    let mut bot = arrow::array::BooleanBuilder::new();
    for data in events {
        let event: Wide = serde_json::from_str(data).expect("good JSON");
        id.append_value(event.id);
        kind.append_value(event.r#type);
        title.append_value(event.title);
        user.append_value(event.user);
        bot.append_value(event.bot);
        old.append_value(event.length.old);
        new.append_value(event.length.new);
    }
    (id.finish(), kind.finish(), title.finish(), user.finish(), bot.finish(), old.finish(), new.finish())
}

fn shapes(criterion: &mut Criterion) {
    for (name, events, columns) in [("small", small(), small_columns()), ("wide", wide(), wide_columns())] {
        let mut group = criterion.benchmark_group(format!("decode/{name}"));
        group.throughput(Throughput::Bytes(events.iter().map(|data| data.len() as u64).sum()));
        let mut decoder = ours(columns.clone());
        group.bench_function("ours", |bench| bench.iter(|| decode(&mut decoder, black_box(&events))));
        match name {
            "small" => group.bench_function("by hand", |bench| bench.iter(|| small_by_hand(black_box(&events)))),
            _ => group.bench_function("by hand", |bench| bench.iter(|| wide_by_hand(black_box(&events)))),
        };
        group.bench_function("arrow-json", |bench| bench.iter(|| arrow_json(&columns, black_box(&events))));
        group.finish();

        let batch = decode(&mut decoder, &events);
        let times = vec![0; batch.num_rows()].into();
        let changes = streamgauge::change::Changes::inserts(batch, times);
        let mut group = criterion.benchmark_group(format!("encode/{name}"));
        group.throughput(Throughput::Elements(EVENTS as u64));
        for (title, output) in [("ndjson", Encoding::Ndjson), ("csv", Encoding::Csv)] {
            let mut encoder = Encoder::append_only(output, changes.rows.schema_ref());
            group.bench_function(title, |bench| {
                let write = |mut out: Vec<u8>| {
                    encoder.write(black_box(&changes), &mut out).expect("good rows");
                    out
                };
                bench.iter_batched(Vec::new, write, BatchSize::LargeInput);
            });
        }
        group.bench_function("arrow-json", |bench| {
            bench.iter(|| {
                let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
                writer.write(black_box(&changes.rows)).expect("good rows");
                writer.into_inner()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, shapes);
criterion_main!(benches);
