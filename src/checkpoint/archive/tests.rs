//! What an archive promises, held against a model, on a disk that breaks its own promises.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use fastrand::Rng;
use proptest::prelude::*;
use tempfile::TempDir;

use super::fickle::{Fickle, Trouble};
use super::*;

const PLACE: &str = "/data/checkpoints";

fn open(disk: &Fickle) -> Opened {
    Archive::open_on(Box::new(disk.clone()), PathBuf::from(PLACE)).unwrap()
}

fn file(epoch: Epoch) -> PathBuf {
    Path::new(PLACE).join(name(epoch, WHOLE))
}

fn rows(values: impl IntoIterator<Item = i64>) -> RecordBatch {
    let values = Int64Array::from_iter_values(values);
    let texts =
        StringArray::from_iter(values.iter().map(|value| value.filter(|value| value % 3 != 0).map(|value| value.to_string())));
    let schema = Schema::new(vec![Field::new("value", DataType::Int64, false), Field::new("text", DataType::Utf8, true)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(values), Arc::new(texts)]).unwrap()
}

fn part(name: &str, frames: Vec<(&str, FrameContent)>) -> StatePart {
    let frames = frames.into_iter().map(|(name, content)| Frame { name: name.into(), content }).collect();
    StatePart { name: name.into(), fingerprint: "f".into(), frames }
}

/// A table whose one frame never changes after the first time, and one that always does.
fn half(epoch: Epoch, full: bool) -> Vec<StatePart> {
    let old = if full { FrameContent::Rows(rows(0..20)) } else { FrameContent::Unchanged };
    vec![part("table/t", vec![("old", old), ("new", FrameContent::Rows(rows([epoch as i64])))])]
}

/// Rows by name, and since when they are what they are.
type Frames = BTreeMap<String, (RecordBatch, Epoch)>;

/// State that changes at random, and what it was at each checkpoint.
struct World {
    rng: Rng,
    /// Rows in a frame, at most.
    rows_max: i64,
    parts: BTreeMap<String, (u32, Frames)>,
    /// Everything that was ever to be written.
    history: BTreeMap<Epoch, Vec<StatePart>>,
}

impl World {
    fn new(seed: u64, rows_max: i64) -> Self {
        World { rng: Rng::with_seed(seed), rows_max, parts: BTreeMap::new(), history: BTreeMap::new() }
    }

    /// The parts of checkpoint `epoch`, after some changes.
    fn cut(&mut self, epoch: Epoch, written: Option<Epoch>) -> Vec<StatePart> {
        let rng = &mut self.rng;
        let mut some = |rows_max| rows((0..rng.i64(0..=rows_max)).map(|_| rng.i64(..)).collect::<Vec<_>>());
        let mut chance = Rng::with_seed(epoch);
        for name in ["table/a", "table/b", "view/c"] {
            let (fingerprint, frames) = self.parts.entry(name.into()).or_default();
            match chance.u8(..100) {
                0..2 => frames.clear(),
                2..4 => {
                    *fingerprint += 1;
                    frames.values_mut().for_each(|frame| frame.1 = epoch);
                }
                _ => {}
            }
            for number in 0..6 {
                let name = format!("pane/{number}");
                match chance.u8(..100) {
                    0..10 => {
                        frames.insert(name, (some(self.rows_max), epoch));
                    }
                    10..13 => {
                        frames.remove(&name);
                    }
                    _ => {}
                }
            }
        }
        let cut = |reuse: bool| -> Vec<StatePart> {
            let content = |rows: &RecordBatch, since: Epoch| match written.filter(|_| reuse) {
                Some(written) if since <= written => FrameContent::Unchanged,
                _ => FrameContent::Rows(rows.clone()),
            };
            let frame = |(name, (rows, since)): (&String, &(RecordBatch, Epoch))| Frame {
                name: name.clone(),
                content: content(rows, *since),
            };
            let part = |(name, (fingerprint, frames)): (&String, &(u32, Frames))| StatePart {
                name: name.clone(),
                fingerprint: fingerprint.to_string(),
                frames: frames.iter().map(frame).collect(),
            };
            self.parts.iter().map(part).collect()
        };
        let (given, full) = (cut(true), cut(false));
        self.history.insert(epoch, full);
        given
    }

    fn write(&mut self, archive: &mut Archive) -> Result<CheckpointCost> {
        let epoch = archive.epoch() + 1;
        let parts = self.cut(epoch, archive.written());
        archive.write(epoch, parts)
    }

    /// What is loaded is what was to be written under its number, bit for bit.
    fn check(&self, loaded: &Option<Loaded>) -> Epoch {
        let Some(loaded) = loaded else { return 0 };
        assert_eq!(Some(&loaded.parts), self.history.get(&loaded.epoch), "checkpoint {}", loaded.epoch);
        loaded.epoch
    }
}

#[test]
fn nothing_is_found_where_nothing_was_written() {
    let opened = open(&Fickle::default());
    assert_eq!((opened.loaded, opened.damaged), (None, vec![]));
    assert_eq!((opened.archive.epoch(), opened.archive.written()), (0, None));
}

#[test]
fn the_last_checkpoint_comes_back_with_what_did_not_change_before_it() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    let first = archive.write(1, half(1, true)).unwrap();
    let second = archive.write(5, half(5, false)).unwrap();
    assert_eq!(first.reused_bytes, 0);
    assert!(second.reused_bytes > 0 && second.bytes < first.bytes, "{first:?} {second:?}");
    let opened = open(&disk);
    let loaded = opened.loaded.unwrap();
    assert_eq!((loaded.epoch, loaded.parts), (5, half(5, true)));
    assert_eq!((opened.archive.epoch(), opened.archive.written()), (5, Some(5)));
    let mut archive = opened.archive;
    archive.write(6, half(6, false)).unwrap();
    assert_eq!(open(&disk).loaded.unwrap().parts, half(6, true));
}

#[test]
fn numbers_only_go_up() {
    let mut archive = open(&Fickle::default()).archive;
    archive.write(7, half(7, true)).unwrap();
    for epoch in [7, 6, 0, EPOCH_MAX + 1] {
        assert_eq!(archive.write(epoch, half(epoch, true)).unwrap_err().code(), Code::Bug);
    }
    assert_eq!(archive.epoch(), 7);
    archive.write(8, half(8, false)).unwrap();
}

#[test]
fn what_cannot_be_meant_is_refused_and_the_next_checkpoint_is_full() {
    let twice = || FrameContent::Rows(rows([1]));
    let changed = StatePart { fingerprint: "other".into(), ..half(2, false).remove(0) };
    for (wrong, reason) in [
        (vec![part("table/t", vec![("unknown", FrameContent::Unchanged)])], "was not there"),
        (vec![part("view/unknown", vec![("old", FrameContent::Unchanged)])], "was not there"),
        (vec![changed], "changed"),
        (vec![part("table/t", vec![("a", twice()), ("a", twice())])], "twice"),
        (vec![part("table/t", vec![]), part("table/t", vec![])], "twice"),
    ] {
        let disk = Fickle::default();
        let mut archive = open(&disk).archive;
        archive.write(1, half(1, true)).unwrap();
        let error = archive.write(2, wrong).unwrap_err();
        assert!(error.code() == Code::Bug && error.message().contains(reason), "{error}");
        assert_eq!(archive.written(), None);
        assert_eq!(open(&disk.copy()).loaded.unwrap().epoch, 1);
        archive.write(3, half(3, true)).unwrap();
        assert_eq!(open(&disk).loaded.unwrap().parts, half(3, true));
    }
}

#[test]
fn two_hundred_checkpoints_equal_their_model_in_a_directory_that_does_not_grow() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    let mut world = World::new(1, 20);
    let (mut reused, mut full, mut longest) = (0, 0, 0);
    for epoch in 1..=200 {
        let written = world.write(&mut archive).unwrap();
        let links = archive.base.as_ref().unwrap().manifest.links;
        (reused, full, longest) =
            (reused + u64::from(written.reused_bytes > 0), full + u64::from(links == 0), longest.max(links));
        assert!(disk.files().len() <= 2 * LINKS_MAX as usize + 3, "{:?}", disk.files());
        assert_eq!(world.check(&open(&disk.copy()).loaded), epoch);
    }
    assert!(reused > 150 && full >= 200 / u64::from(LINKS_MAX) && longest == LINKS_MAX, "{reused} {full} {longest}");
}

#[test]
fn bytes_that_nobody_needs_are_bounded_by_those_that_are_needed() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    let small = |epoch: Epoch| rows([epoch as i64]);
    let large = |epoch: Epoch| rows((0..20_000).map(|value| value + epoch as i64));
    let mut longest = 0;
    for epoch in 1..=40 {
        // Each file is needed for ever for its small frame, and for its large one no longer.
        let names: Vec<String> = (1..=epoch).map(|number| format!("closed/{number}")).collect();
        let parts = |full: bool| {
            let content =
                |number: Epoch| if full || number == epoch { FrameContent::Rows(small(number)) } else { FrameContent::Unchanged };
            let mut frames: Vec<_> = (1..=epoch).zip(&names).map(|(number, name)| (name.as_str(), content(number))).collect();
            frames.push(("open", FrameContent::Rows(large(epoch))));
            vec![part("view/v", frames)]
        };
        archive.write(epoch, parts(false)).unwrap();
        let Base { manifest, length } = archive.base.as_ref().unwrap();
        longest = longest.max(manifest.links);
        let allowed = WASTE_MAX * manifest.frame_bytes() + WASTE_BYTES_FREE + 20_000;
        assert!(manifest.needs.values().sum::<u64>() + length <= allowed);
        let bytes: usize = disk.files().iter().map(|(_, bytes)| bytes).sum();
        assert!(bytes as u64 <= 2 * allowed, "{bytes} {allowed}");
        if epoch % 8 == 0 {
            assert_eq!(open(&disk.copy()).loaded.unwrap().parts, parts(true));
        }
    }
    assert!((2..10).contains(&longest), "{longest}");
}

#[test]
fn any_byte_changed_or_cut_off_leaves_another_whole_checkpoint() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    let mut world = World::new(3, 1);
    for epoch in 1..=4 {
        // The last two share the frame that the second one wrote.
        archive.write(epoch, half(epoch, epoch < 3)).unwrap();
        world.history.insert(epoch, half(epoch, true));
    }
    let mut outcomes = BTreeMap::new();
    let mut check = |disk: &Fickle, what: String| {
        let opened = open(disk);
        let epoch = world.check(&opened.loaded);
        assert_eq!(opened.damaged.is_empty(), epoch == 4, "{what}: {:?}", opened.damaged);
        assert_eq!(opened.archive.epoch(), 4, "{what}");
        *outcomes.entry(epoch).or_insert(0) += 1;
    };
    for (path, length) in disk.files() {
        for at in 0..length {
            let damaged = disk.copy();
            damaged.edit(&path, |bytes| bytes.truncate(at));
            check(&damaged, format!("{} cut to {at}", path.display()));
            let damaged = disk.copy();
            damaged.edit(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            check(&damaged, format!("{} changed at {at}", path.display()));
        }
    }
    assert_eq!(outcomes.keys().copied().collect::<Vec<_>>(), [1, 3, 4], "{outcomes:?}");
    assert!(outcomes.values().all(|times| *times > 500), "{outcomes:?}");
}

#[test]
fn damage_in_a_file_that_the_last_ones_share_leaves_the_one_before_it() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    for epoch in 1..=9 {
        // Full at 1 and 6.
        archive.write(epoch, half(epoch, [1, 6].contains(&epoch))).unwrap();
    }
    disk.edit(&file(6), |bytes| bytes[100] ^= 4);
    let opened = open(&disk);
    assert_eq!(opened.loaded.as_ref().map(|loaded| (loaded.epoch, &loaded.parts)), Some((5, &half(5, true))));
    let named: Vec<_> = opened.damaged.iter().map(|damaged| damaged.file.clone()).collect();
    assert_eq!(named, [file(9), file(8), file(6)]);
    let reason = "it needs '0000000006.ckpt', and the bytes of a frame do not match their checksum";
    assert_eq!(opened.damaged[0].reason, reason);

    let aside: Vec<_> = disk.files().into_iter().filter(|(path, _)| path.parent().unwrap().ends_with(DAMAGED)).collect();
    assert_eq!(aside.len(), 3, "{aside:?}");
    assert_eq!((opened.archive.epoch(), opened.archive.written()), (9, Some(5)));
    let again = open(&disk);
    assert_eq!((again.loaded.unwrap().epoch, again.damaged.len(), again.archive.epoch()), (5, 0, 9));
    let mut archive = opened.archive;
    archive.write(10, half(10, false)).unwrap();
    assert_eq!(open(&disk).loaded.unwrap().parts, half(10, true));
}

#[test]
fn a_file_that_is_missing_is_damage() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    for epoch in 1..=4 {
        archive.write(epoch, half(epoch, epoch != 4)).unwrap();
    }
    disk.lose(&file(3));
    let opened = open(&disk);
    assert_eq!(opened.loaded.unwrap().parts, half(2, true));
    assert_eq!(opened.damaged.len(), 1);
    assert_eq!(opened.damaged[0].reason, "it needs '0000000003.ckpt', and it is not there");
}

#[test]
fn damage_that_is_met_when_frames_are_taken_over_makes_the_next_checkpoint_full() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    archive.write(1, half(1, true)).unwrap();
    disk.edit(&file(1), |bytes| bytes[100] ^= 4);
    let mut epoch = 1;
    let error = loop {
        epoch += 1;
        match archive.write(epoch, half(epoch, false)) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(epoch, u64::from(LINKS_MAX) + 2);
    assert_eq!(
        error.to_string(),
        "checkpoint 34 cannot be built on '/data/checkpoints/0000000001.ckpt': the bytes of a frame do not match their checksum; \
         checkpoint 33 stays the last one; the next one is written in full; see that the disk works"
    );
    assert_eq!(archive.written(), None);
    archive.write(epoch + 1, half(epoch + 1, true)).unwrap();
    assert_eq!(open(&disk).loaded.unwrap().parts, half(epoch + 1, true));
}

#[test]
fn a_later_format_is_said_and_not_taken_for_damage() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    archive.write(1, half(1, true)).unwrap();
    archive.write(2, half(2, true)).unwrap();
    disk.edit(&file(1), |bytes| {
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes.truncate(20);
    });
    let error = Archive::open_on(Box::new(disk.clone()), PathBuf::from(PLACE)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the checkpoint '/data/checkpoints/0000000001.ckpt' cannot be read: it has the format 2, and this version reads 1; \
         run the version that wrote it, or a newer one, or give another data directory"
    );
    assert_eq!(disk.files().len(), 2);
}

#[test]
fn a_manifest_that_promises_more_than_there_is_is_damage() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    archive.write(1, half(1, true)).unwrap();
    archive.write(2, half(2, false)).unwrap();
    let Base { manifest, .. } = archive.base.as_ref().unwrap();
    let place = |frame: usize, edit: fn(&mut FrameLocation)| {
        let mut manifest = manifest.clone();
        edit(&mut manifest.parts[0].frames[frame].place);
        manifest
    };
    let mut twice = manifest.clone();
    twice.parts[0].frames = vec![twice.parts[0].frames[0].clone(); 3];
    let needs = |length: u64| Manifest { needs: BTreeMap::from([(1, length)]), ..manifest.clone() };
    for (manifest, reason) in [
        (Manifest { epoch: 3, ..manifest.clone() }, "it says that it is checkpoint 3"),
        (Manifest { needs: BTreeMap::new(), ..manifest.clone() }, "it does not list the file of 'old'"),
        (needs(99), "'old' does not lie within its file"),
        (needs(u64::MAX), "it needs '0000000001.ckpt', and it has "),
        (place(0, |place| place.length = u64::MAX), "'old' does not lie within its file"),
        (place(1, |place| place.length = u64::MAX - place.offset), "'new' does not lie within its file"),
        (place(1, |place| place.offset = u64::MAX), "'new' does not lie within its file"),
        (place(1, |place| place.length -= 1), "the bytes of a frame do not match their checksum"),
        (place(1, |place| place.offset = 0), "the bytes of a frame do not match their checksum"),
        (twice, "'old' does not lie within its file"),
    ] {
        let disk = disk.copy();
        let mut writer = ArchiveWriter::create(&disk, &file(2), 2).unwrap();
        writer.frame(&rows([2])).unwrap();
        writer.finish(&manifest).unwrap();
        let opened = open(&disk);
        assert_eq!(opened.loaded.unwrap().parts, half(1, true));
        assert!(opened.damaged[0].reason.starts_with(reason), "{}", opened.damaged[0]);
    }
}

#[test]
fn a_disk_that_refuses_to_be_read_is_not_taken_for_damage() {
    let disk = Fickle::default();
    let mut archive = open(&disk).archive;
    for epoch in 1..=3 {
        archive.write(epoch, half(epoch, epoch != 3)).unwrap();
    }
    let mut refused = 0;
    for step in 0.. {
        let disk = disk.copy();
        disk.upset(step, Trouble::Once);
        match Archive::open_on(Box::new(disk.clone()), PathBuf::from(PLACE)) {
            Ok(opened) => assert_eq!((opened.loaded.unwrap().epoch, opened.damaged.len()), (3, 0)),
            Err(error) => {
                assert!(error.code() == Code::Data && error.message().ends_with("once"), "{error}");
                refused += 1;
            }
        }
        if disk.steps() <= step {
            break;
        }
        assert_eq!(open(&disk).loaded.unwrap().parts, half(3, true));
    }
    assert!(refused > 3, "{refused}");
}

#[test]
fn a_power_failure_at_any_step_leaves_the_last_checkpoint_or_the_one_being_written() {
    let build = |disk: &Fickle, world: &mut World| {
        let mut acknowledged = 0;
        let opened = Archive::open_on(Box::new(disk.clone()), PathBuf::from(PLACE));
        let Ok(Opened { mut archive, .. }) = opened else { return acknowledged };
        for _ in 0..5 {
            match world.write(&mut archive) {
                Ok(_) => acknowledged = archive.epoch(),
                Err(_) => return acknowledged,
            }
        }
        acknowledged
    };
    let steps = {
        let disk = Fickle::default();
        assert_eq!(build(&disk, &mut World::new(4, 200)), 5);
        disk.steps()
    };
    assert!(steps > 40, "{steps}");
    let mut rng = Rng::with_seed(4);
    let mut unacknowledged = 0;
    for step in 0..steps {
        let (disk, mut world) = (Fickle::default(), World::new(4, 200));
        disk.upset(step, Trouble::PowerFailure);
        let acknowledged = build(&disk, &mut world);
        for _ in 0..8 {
            let after = disk.after_power_failure(&mut rng);
            let opened = open(&after);
            let epoch = world.check(&opened.loaded);
            assert!(epoch == acknowledged || epoch == acknowledged + 1, "step {step}: {epoch} after {acknowledged}");
            assert_eq!(opened.damaged, [], "step {step}");
            unacknowledged += u64::from(epoch > acknowledged);
            let mut world = World { history: world.history.clone(), ..World::new(5, 200) };
            let mut archive = opened.archive;
            world.write(&mut archive).unwrap();
            assert_eq!(world.check(&open(&after).loaded), archive.epoch());
        }
    }
    assert!(unacknowledged > 0);
}

#[test]
fn a_full_or_failing_disk_costs_the_checkpoint_and_nothing_else() {
    for trouble in [Trouble::Full, Trouble::ReadOnly, Trouble::Once] {
        for step in 0.. {
            let disk = Fickle::default();
            let mut archive = open(&disk).archive;
            let mut world = World::new(6, 30);
            for _ in 0..3 {
                world.write(&mut archive).unwrap();
            }
            let before = archive.epoch();
            disk.upset(step, trouble);
            let failed = world.write(&mut archive);
            let last = if failed.is_ok() { before + 1 } else { before };
            assert_eq!(archive.written(), Some(last), "{trouble:?} at {step}");
            disk.calm();
            let loaded = world.check(&open(&disk.copy()).loaded);
            // What has its name cannot be taken back from a disk that allows no change.
            let stuck = failed.is_err() && trouble == Trouble::ReadOnly && loaded == before + 1;
            assert!(loaded == last || stuck, "{trouble:?} at {step}: {loaded}");
            world.write(&mut archive).unwrap();
            assert_eq!(world.check(&open(&disk).loaded), before + 2);
            assert!(disk.files().iter().all(|(path, _)| path.extension().unwrap() == WHOLE));
            match failed {
                // Removing what is old may fail, too.
                Ok(_) if step > 10 => break,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.code(), Code::Data, "{error}");
                    assert!(error.message().contains("checkpoint 3 stays the last one"), "{error}");
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Write,
    Trouble(usize, Trouble),
    Restart,
    PowerFailure,
    Flip(usize, usize),
    Cut(usize, usize),
}

fn event() -> impl Strategy<Value = Event> {
    let trouble = prop_oneof![Just(Trouble::PowerFailure), Just(Trouble::Full), Just(Trouble::ReadOnly), Just(Trouble::Once),];
    prop_oneof![
        10 => Just(Event::Write),
        2 => (0..40_usize, trouble).prop_map(|(step, trouble)| Event::Trouble(step, trouble)),
        2 => Just(Event::Restart),
        2 => Just(Event::PowerFailure),
        1 => any::<(usize, usize)>().prop_map(|(file, byte)| Event::Flip(file, byte)),
        1 => any::<(usize, usize)>().prop_map(|(file, byte)| Event::Cut(file, byte)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happens_what_is_loaded_is_what_was_written(seed: u64, events in prop::collection::vec(event(), 1..60)) {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(seed, 20);
        let mut disk = Fickle::default();
        let mut archive = open(&disk).archive;
        // The last one that must be there: none where one that was damaged may be part of it.
        let (mut promised, mut damaged) = (0, false);
        // Numbers of checkpoints that are written are not used again, whatever became of those.
        let mut used = 0;
        let restart = |disk: &Fickle, world: &mut World, promised: &mut Epoch, used: Epoch| {
            let opened = open(disk);
            let epoch = world.check(&opened.loaded);
            assert!(epoch >= *promised, "{epoch} {promised}");
            assert!(opened.archive.epoch() >= used, "{used}");
            *promised = epoch;
            world.parts.clear();
            opened.archive
        };
        for event in events {
            match event {
                Event::Write => {
                    if world.write(&mut archive).is_ok() {
                        used = archive.epoch();
                        promised = if damaged { 0 } else { used };
                    }
                }
                Event::Trouble(step, trouble) => {
                    disk.upset(step, trouble);
                }
                Event::Restart => {
                    disk = disk.copy();
                    archive = restart(&disk, &mut world, &mut promised, used);
                    damaged = false;
                }
                Event::PowerFailure => {
                    disk = disk.after_power_failure(&mut rng);
                    archive = restart(&disk, &mut world, &mut promised, used);
                    damaged = false;
                }
                Event::Flip(number, byte) | Event::Cut(number, byte) => {
                    let files = disk.files();
                    let files: Vec<_> = files.into_iter().filter(|(path, length)| path.parent() == Some(Path::new(PLACE)) && *length > 0).collect();
                    if let Some((path, length)) = files.get(number % files.len().max(1)) {
                        let flip = matches!(event, Event::Flip(..));
                        disk.edit(path, |bytes| if flip { bytes[byte % length] ^= 1 } else { bytes.truncate(byte % length) });
                        (promised, damaged) = (0, true);
                    }
                }
            }
        }
        disk = disk.copy();
        restart(&disk, &mut world, &mut promised, used);
    }
}

#[test]
fn a_directory_of_this_machine_is_for_its_owner_alone_and_for_one_process() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("not/there");
    let mut opened = Archive::open(&data).unwrap();
    opened.archive.write(1, half(1, true)).unwrap();
    opened.archive.write(2, half(2, false)).unwrap();
    let error = Archive::open(&data).unwrap_err();
    assert!(error.message().ends_with("are in use by another process"), "{error}");
    drop(opened);

    let place = data.join(DIRECTORY);
    std::fs::write(place.join("0000000003.tmp"), "unfinished").unwrap();
    std::fs::write(place.join("notes.txt"), "of somebody").unwrap();
    let opened = Archive::open(&data).unwrap();
    assert_eq!(opened.loaded.unwrap().parts, half(2, true));
    assert_eq!(opened.archive.epoch(), 3);
    let mut names = Local.list(&place).unwrap();
    names.sort();
    assert_eq!(names, ["0000000001.ckpt", "0000000002.ckpt", "lock", "notes.txt"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(place.clone()), mode(place.join("0000000001.ckpt"))), (0o700, 0o600));
    }
}

#[test]
fn a_place_that_is_no_directory_is_said() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(DIRECTORY), "").unwrap();
    let error = Archive::open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::Data);
    assert!(error.message().starts_with("the checkpoints in '") && error.way_out().is_some(), "{error}");
}

#[test]
fn nothing_is_built_on_files_that_somebody_has_removed() {
    let dir = TempDir::new().unwrap();
    let mut archive = Archive::open(dir.path()).unwrap().archive;
    archive.write(1, half(1, true)).unwrap();
    std::fs::remove_dir_all(dir.path().join(DIRECTORY)).unwrap();
    let error = archive.write(2, half(2, false)).unwrap_err();
    assert!(error.message().contains("checkpoint 2 cannot be built on '"), "{error}");
    assert_eq!(archive.written(), None);
    archive.write(3, half(3, true)).unwrap();
    drop(archive);
    assert_eq!(Archive::open(dir.path()).unwrap().loaded.unwrap().parts, half(3, true));
}

#[test]
fn a_directory_that_vanishes_costs_the_checkpoint_alone() {
    let dir = TempDir::new().unwrap();
    let mut archive = Archive::open(dir.path()).unwrap().archive;
    archive.write(1, half(1, true)).unwrap();
    let place = dir.path().join(DIRECTORY);
    std::fs::rename(&place, dir.path().join("elsewhere")).unwrap();
    std::fs::write(&place, "").unwrap();
    let error = archive.write(2, half(2, false)).unwrap_err();
    assert!(error.message().contains("checkpoint 2 cannot be written to '"), "{error}");
    std::fs::remove_file(&place).unwrap();
    std::fs::rename(dir.path().join("elsewhere"), &place).unwrap();
    archive.write(3, half(3, false)).unwrap();
    drop(archive);
    assert_eq!(Archive::open(dir.path()).unwrap().loaded.unwrap().parts, half(3, true));
}
