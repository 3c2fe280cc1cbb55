//! Bytes into events: the parser beside a plain copy of the bytes and beside two other parsers that follow the standard.
//!
//! `cargo bench --bench feed`. Throughput is that of the stream's bytes, which come in chunks as from a socket.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use streamgauge::cli::replay::EventSource;
use streamgauge::cli::sample::{Kind, Settings};
use streamgauge::feed::{Event, Parser};

/// Size of a chunk: what a read of a busy socket brings.
const CHUNK_BYTES: usize = 16 << 10;

criterion_group!(benches, feed);
criterion_main!(benches);

fn feed(criterion: &mut Criterion) {
    let comments = b": heartbeat\n\n".repeat(80_000);
    for (name, bytes, chunk_bytes) in [
        ("small events", stream(Kind::SystemMetrics, 10_000), CHUNK_BYTES),
        ("small events in packets", stream(Kind::SystemMetrics, 10_000), 1448),
        ("large events", stream(Kind::Wikipedia, 1_000), CHUNK_BYTES),
        ("comments only", comments, CHUNK_BYTES),
    ] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20).throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("streamgauge", |bencher| {
            bencher.iter(|| {
                let mut parser = Parser::new(16 << 20);
                let mut seen = 0;
                let mut each = |event: Event<'_>| seen += event.kind.len() + event.data.len() + event.id.len();
                bytes.chunks(chunk_bytes).for_each(|chunk| parser.feed(chunk, &mut each));
                seen
            })
        });
        group.bench_function("copy", |bencher| {
            let mut copy = vec![0; bytes.len()];
            bencher.iter(|| {
                copy.copy_from_slice(black_box(&bytes));
                black_box(&copy);
            })
        });
        group.bench_function("sse-core", |bencher| {
            bencher.iter(|| {
                let mut decoder = sse_core::SseDecoder::new();
                let mut seen = 0;
                for chunk in bytes.chunks(chunk_bytes) {
                    let mut chunk = chunk;
                    while let Some(event) = decoder.next(&mut chunk) {
                        if let Ok(sse_core::SseEvent::Message(event)) = event {
                            seen += event.data.len();
                        }
                    }
                }
                seen
            })
        });
        group.bench_function("sse-parse", |bencher| {
            bencher.iter(|| {
                let mut parser = sse_parse::SseParser::new();
                let mut seen = 0;
                for chunk in bytes.chunks(chunk_bytes) {
                    parser.feed(chunk);
                    while let Some(event) = parser.next_event() {
                        seen += event.data.len();
                    }
                }
                seen
            })
        });
        group.finish();
    }
}

/// A sample feed as it is sent.
fn stream(kind: Kind, count: u64) -> Vec<u8> {
    let settings = Settings { count: Some(count), ..Settings::new(kind, 1) };
    let mut events = EventSource::sample(settings).open().expect("a sample needs no file");
    let (mut wire, mut id) = (Vec::new(), String::new());
    while events.next(&mut wire, &mut id).expect("a sample can be read") {}
    wire
}
