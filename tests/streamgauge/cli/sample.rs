//! The files in `fixtures/` are what the generators write.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use clap::Parser;
use streamgauge::cli::args::{Args, Command};
use streamgauge::cli::sample::{BAD, write_as};
use streamgauge::feed::{self, Feed, FeedStatus, ReadOutcome};
use streamgauge::format::{self, Column};
use streamgauge::options::{Format, Framing, GivenOption, TableOptions, TimestampFormat};
use streamgauge::time::Timestamp;

/// Each command of `fixtures/README.md` writes the file it names.
#[test]
fn every_fixture_is_written_by_its_command() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let readme = std::fs::read_to_string(fixtures.join("README.md")).unwrap();
    let mut made = 0;
    for line in readme.lines().filter(|line| line.starts_with("streamgauge sample ")) {
        let (command, name) = line.split_once(" > fixtures/").unwrap();
        let Command::Sample(args) = Args::try_parse_from(command.split(' ')).unwrap().command else { panic!("{line}") };
        let mut text = Vec::new();
        write_as(&args, &mut text).unwrap();
        assert!(text.len() < 300_000, "{name} has {} bytes", text.len());
        let path = fixtures.join(name);
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(text == std::fs::read(&path).unwrap(), "{name} differs; UPDATE_FIXTURES=1 writes it anew");
        made += 1;
    }
    assert_eq!(made, 9);
}

/// What [`BAD`] calls fine is read and the rest is not, and no event harms its neighbours.
#[tokio::test]
async fn the_bad_events_are_those_that_are_said_to_be() {
    let timestamp = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let columns = vec![
        Column::new("host", DataType::Utf8View),
        Column::new("metric", DataType::Utf8View),
        Column::new("value", DataType::Float64),
        Column::json("tags"),
        Column::new("timestamp", timestamp),
    ];
    let spec = format::FormatSpec::new(Format::Json, Framing::None, TimestampFormat::Rfc3339, "", columns, None).unwrap();
    let mut decoder = format::Decoder::new(&spec, &[0, 1, 2, 3, 4]).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bad_events.ndjson");
    let given = [("connector", "file"), ("path", path.to_str().unwrap())];
    let given = given.map(|(name, value)| GivenOption { name: name.into(), value: value.into(), span: None });
    let options = TableOptions::read(&given).unwrap();
    let mut feed = Feed::new(feed::FeedSpec::new(&options).unwrap(), Arc::new(FeedStatus::new()));
    let (mut number, mut found) = (0, Vec::new());
    let mut each = |event: feed::Event<'_>| {
        number += 1;
        let mut reason = None;
        let input = format::RawEvent { kind: event.kind, data: event.data, id: event.id, received: Timestamp(0) };
        decoder.push(input, &mut |bad| reason = Some(bad.reason));
        match number % 2 {
            1 => assert_eq!(reason, None, "event {number} is good"),
            _ => found.push((BAD[(number / 2 - 1) % BAD.len()].0, reason)),
        }
    };
    while feed.read(&mut each).await.unwrap() != ReadOutcome::Ended {}
    assert_eq!(found.len(), 2 * BAD.len());
    found.retain(|(name, reason)| name.starts_with("fine") != reason.is_none());
    assert_eq!(found, []);
}
