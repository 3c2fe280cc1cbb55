//! The rooms of the program: which may import which, and which hold no I/O and no clock.

use std::path::{Path, PathBuf};

/// From left to right: a room imports only rooms to its left.
const ROOMS: &[&str] = &[
    "docs",
    "error",
    "options",
    "time",
    "memory",
    "change",
    "zone",
    "feed",
    "format",
    "window",
    "sql",
    "function",
    "operator",
    "table",
    "catalog",
    "plan",
    "view",
    "checkpoint",
    "engine",
    "serve",
    "cli",
    "fuzz",
];

/// The middle is pure: time comes in as an argument, and nothing waits.
const PURE: &[&str] = &["memory", "change", "zone", "format", "window", "sql", "function", "operator", "plan"];

/// Words of I/O, clocks and tasks.
const IMPURE: &[&str] = &[
    "tokio::",
    "reqwest::",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "async ",
    ".await",
];

/// Where DataFusion's planner and its streams, which are asynchronous, are asked: file, word, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("plan/compile.rs", "async ", "DataFusion plans asynchronously"),
    ("plan/compile.rs", ".await", "DataFusion plans asynchronously"),
    ("operator/bounded.rs", "tokio::", "a plan over rows in memory runs without a task's budget"),
];

#[test]
fn a_room_imports_only_rooms_to_its_left() {
    let place = |room: &str| ROOMS.iter().position(|known| *known == room);
    let mut wrong = Vec::new();
    for source in sources() {
        if matches!(source.room.as_str(), "lib" | "main") {
            continue;
        }
        let Some(here) = place(&source.room) else {
            wrong.push(format!("{}: the room '{}' has no place in the order", source.name, source.room));
            continue;
        };
        for (number, line) in source.lines() {
            for imported in imports(line) {
                if place(&imported).is_some_and(|there| there > here) {
                    wrong.push(format!("{}:{number}: {} imports {imported}, which is to its right", source.name, source.room));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_middle_holds_no_io_and_no_clock() {
    let mut wrong = Vec::new();
    let mut used = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.room.as_str())) {
        for (number, line) in source.lines() {
            for word in IMPURE.iter().filter(|word| line.contains(*word)) {
                match EXCEPTIONS.iter().position(|(file, known, _)| *file == source.name && known == word) {
                    Some(exception) => used.push(exception),
                    None => wrong.push(format!("{}:{number}: {}", source.name, line.trim())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for (index, exception) in EXCEPTIONS.iter().enumerate() {
        assert!(used.contains(&index), "an exception that nobody needs: {exception:?}");
    }
}

/// A source file without its tests.
struct Source {
    /// Below `src`.
    name: String,
    room: String,
    text: String,
}

impl Source {
    /// Lines of code, numbered from 1; comments are left out.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let before_tests = self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let numbered = before_tests.lines().enumerate().map(|(index, line)| (index + 1, line));
        numbered.map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                let room = name.split(['/', '.']).next().unwrap().to_string();
                found.push(Source { name, room, text: std::fs::read_to_string(&path).unwrap() });
            }
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// Whether a file is a module of tests: the one that declares it says `#[cfg(test)]`.
fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_string_lossy();
    let folder = path.parent().unwrap();
    let declared =
        |file: PathBuf| std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("#[cfg(test)]\nmod {stem};")));
    declared(folder.join("mod.rs")) || declared(folder.with_extension("rs"))
}

/// The rooms that a line names by `crate::room`.
fn imports(line: &str) -> Vec<String> {
    let rest = line.split("crate::").skip(1);
    let names = rest.flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split(',').map(|name| name.trim().to_string()).collect::<Vec<_>>(),
        None => vec![rest.to_string()],
    });
    names.map(|name| name.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()).collect()
}
