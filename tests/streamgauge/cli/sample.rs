//! The files in `fixtures/` are what the generators write.

use std::path::Path;

use clap::Parser;
use streamgauge::cli::args::{Args, Command};
use streamgauge::cli::sample::write_as;

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
