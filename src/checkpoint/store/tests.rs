//! What is kept, what a broken start leaves, and what damage is refused.

use tempfile::TempDir;

use super::*;

fn definition(name: &str) -> Definition {
    Definition {
        name: name.into(),
        text: format!("CREATE TABLE {name} …"),
        created_at: "2026-03-01T12:00:00Z".into(),
        updated_at: "2026-03-01T12:00:00Z".into(),
        lateness_nanos: BTreeMap::new(),
    }
}

fn keep(store: &Store, names: &[&str]) {
    let changes = names.iter().enumerate().map(|(number, name)| (number as u64, Some(definition(name))));
    store.change_definitions(&changes.collect::<Vec<_>>()).unwrap();
}

fn names(store: &Store) -> Vec<String> {
    store.definitions().unwrap().into_iter().map(|(_, definition)| definition.name).collect()
}

/// A data directory that was written and closed.
fn written(dir: &Path) -> PathBuf {
    let store = Store::open(dir).unwrap();
    keep(&store, &["zebra", "ant"]);
    store.put(Space::Tokens, "a", &"hash").unwrap();
    dir.join(FILE)
}

#[test]
fn what_is_written_is_there_after_a_restart_in_its_order() {
    let dir = TempDir::new().unwrap();
    let deep = dir.path().join("not/there/yet");
    written(&deep);
    let store = Store::open(&deep).unwrap();
    assert_eq!(names(&store), ["zebra", "ant"]);
    assert_eq!(store.values::<String>(Space::Tokens).unwrap(), ["hash"]);
    assert!(store.remove(Space::Tokens, "a").unwrap() && !store.remove(Space::Tokens, "a").unwrap());
    store.change_definitions(&[(0, None), (7, Some(definition("bee"))), (9, None)]).unwrap();
    assert_eq!(store.definitions().unwrap(), [(1, definition("ant")), (7, definition("bee"))]);
}

#[test]
fn a_definition_with_the_fields_of_earlier_programs_can_be_read() {
    let store = Store::in_memory().unwrap();
    let mut kept = serde_json::to_value(definition("ant")).unwrap();
    (kept["of"], kept["id"]) = ("table".into(), "ct_1".into());
    store.put(Space::Definitions, "0", &kept).unwrap();
    assert_eq!(store.definitions().unwrap(), [(0, definition("ant"))]);
}

#[test]
fn a_batch_that_fails_leaves_nothing() {
    let store = Store::in_memory().unwrap();
    let result = store.write(|batch| {
        batch.put_bytes(Space::Streams, "a", &[1])?;
        batch.clear(Space::Definitions)?;
        Err::<(), _>(Error::new(Code::Exists, "no"))
    });
    assert_eq!(result.unwrap_err().code(), Code::Exists);
    assert!(store.list(Space::Streams).unwrap().is_empty());
    store.write(|batch| batch.put_bytes(Space::Streams, "a", &[1])).unwrap();
}

#[test]
fn every_opening_has_a_greater_epoch() {
    let dir = TempDir::new().unwrap();
    let epochs: Vec<u64> = (0..3).map(|_| Store::open(dir.path()).unwrap().epoch()).collect();
    assert!(epochs[0] < epochs[1] && epochs[1] < epochs[2], "{epochs:?}");
}

#[cfg(unix)]
#[test]
fn directory_and_file_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let file = written(&data);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&file)), (0o700, 0o600));
}

/// What a process that ends on the way may leave of a store that it makes: the next start takes it for new.
#[test]
fn a_directory_in_which_a_first_start_broke_off_is_taken() {
    let left = |fill: &dyn Fn(&Path)| {
        let dir = TempDir::new().unwrap();
        fill(dir.path());
        let store = Store::open(dir.path()).unwrap_or_else(|error| panic!("{error}"));
        assert!(store.definitions().unwrap().is_empty());
        keep(&store, &["bee"]);
        drop(store);
        assert_eq!(names(&Store::open(dir.path()).unwrap()), ["bee"]);
        assert!(!dir.path().join(UNFINISHED).exists());
    };
    let whole = {
        let dir = TempDir::new().unwrap();
        std::fs::read(written(dir.path())).unwrap()
    };
    left(&|_| {});
    left(&|dir| std::fs::write(dir.join(LOCK), "").unwrap());
    for length in [0, 1, 320, 4_096, whole.len() / 2, whole.len()] {
        left(&|dir| std::fs::write(dir.join(UNFINISHED), &whole[..length]).unwrap());
    }
    left(&|dir| std::fs::create_dir_all(dir.join("checkpoints")).unwrap());
    left(&|dir| {
        std::fs::create_dir_all(dir.join("checkpoints")).unwrap();
        std::fs::write(dir.join("checkpoints/lock"), "").unwrap();
        std::fs::write(dir.join("checkpoints/0000000001.tmp"), "SGCKPT").unwrap();
    });
    // A file under its own name that redb has not come to the end of making: as long as it will be, and its head without the magic number.
    for length in [0, 1, 9, 100, 320, 4_096, 1 << 20] {
        left(&|dir| {
            let head: Vec<u8> = (0..HEAD_BYTES.max(length)).map(|at| u8::from((MAGIC_BYTES..HEAD_BYTES).contains(&at))).collect();
            std::fs::write(dir.join(FILE), &head[..length]).unwrap();
        });
    }
}

#[test]
fn a_store_that_lost_what_was_in_it_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = written(dir.path());
    let whole = std::fs::read(&file).unwrap();
    // Its head is gone, and its pages are there.
    let mut headless = whole.clone();
    headless[..4_096].fill(0);
    std::fs::write(&file, headless).unwrap();
    assert!(refused(dir.path()).contains("is damaged"));
    // Nothing of it is there, and checkpoints say that there was something.
    std::fs::create_dir_all(dir.path().join("checkpoints")).unwrap();
    std::fs::write(dir.path().join("checkpoints/0000000007.ckpt"), "").unwrap();
    for empty in [0, whole.len()] {
        std::fs::write(&file, vec![0; empty]).unwrap();
        assert!(refused(dir.path()).contains("is damaged: nothing is in it, and there are checkpoints beside it"));
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().definitions().unwrap().len(), 2);
}

fn refused(dir: &Path) -> String {
    let error = Store::open(dir).expect_err("the store was opened");
    assert_eq!(error.code(), Code::Data);
    assert!(error.way_out().is_some() && error.message().contains(dir.to_str().unwrap()), "{error}");
    error.to_string()
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = TempDir::new().unwrap();
    let _first = Store::open(dir.path()).unwrap();
    assert!(refused(dir.path()).contains("is in use by another process; stop that process"));
}

#[test]
fn a_place_that_cannot_be_written_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(refused(&file).contains("cannot be used"));
    assert!(refused(&file.join("below")).contains("cannot be used"));
    let taken = dir.path().join("taken");
    std::fs::create_dir_all(taken.join(FILE)).unwrap();
    assert!(refused(&taken).contains("cannot be used"));
}

#[test]
fn a_file_that_is_cut_off_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = written(dir.path());
    let whole = std::fs::read(&file).unwrap();
    for length in [10, 100, 320, 4_096, whole.len() / 2, whole.len() - 4_096] {
        std::fs::write(&file, &whole[..length]).unwrap();
        assert!(refused(dir.path()).contains("is damaged"), "{length}");
    }
    std::fs::write(&file, &whole).unwrap();
    Store::open(dir.path()).unwrap();
}

/// Whatever byte is wrong: the store is refused, or what it says is what was written once.
#[test]
fn flipped_bytes_are_never_taken_for_data() {
    let dir = TempDir::new().unwrap();
    let file = written(dir.path());
    let whole = std::fs::read(&file).unwrap();
    let used: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
    let mut refusals = 0;
    for at in used.iter().copied().step_by(used.len() / 50) {
        let mut wrong = whole.clone();
        wrong[at] ^= 0x20;
        std::fs::write(&file, &wrong).unwrap();
        match Store::open(dir.path()) {
            Err(error) => {
                assert_eq!(error.code(), Code::Data);
                refusals += 1;
            }
            Ok(store) => {
                let definitions = store.definitions().unwrap();
                let known = [vec![], vec![(0, definition("zebra")), (1, definition("ant"))]];
                assert!(known.contains(&definitions), "byte {at}: {definitions:?}");
            }
        }
    }
    assert!(refusals > 0);
}

#[test]
fn a_newer_format_is_refused() {
    let dir = TempDir::new().unwrap();
    Store::open(dir.path()).unwrap().put(Space::Meta, "format", &(FORMAT + 1)).unwrap();
    assert!(refused(dir.path()).contains("has the format 2; this version reads 1"));
}
