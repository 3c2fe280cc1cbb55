//! Names to tables and views, and what depends on what. Names are compared as they are: folding them is the parser's.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Code, Error, Result, nearest};
use crate::sql::Object;

/// Tables of `T` and views of `V` under one set of names.
#[derive(Debug, Clone)]
pub struct Catalog<T, V> {
    entries: BTreeMap<String, Entry<T, V>>,
}

#[derive(Debug, Clone)]
struct Entry<T, V> {
    relation: Relation<T, V>,
    /// The tables and views that this one reads directly; all of them are in the catalog.
    reads: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Relation<T, V> {
    Table(T),
    View(V),
}

impl<T, V> Relation<T, V> {
    pub fn object(&self) -> Object {
        match self {
            Relation::Table(_) => Object::Table,
            Relation::View(_) => Object::View,
        }
    }
}

/// What `CREATE` does where the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Refuse,
    /// `IF NOT EXISTS`
    Keep,
    /// `OR REPLACE`
    Replace,
}

/// What `DROP` does with views that read what is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependants {
    Refuse,
    /// `CASCADE`
    Drop,
}

/// What `CREATE` did.
#[derive(Debug, Clone, PartialEq)]
pub enum Created<T, V> {
    New,
    /// The name was taken, and is as it was.
    Kept,
    Replaced(Relation<T, V>),
}

impl<T, V> Default for Catalog<T, V> {
    fn default() -> Self {
        Catalog { entries: BTreeMap::new() }
    }
}

impl<T, V> Catalog<T, V> {
    /// Whether `CREATE` would succeed, before anything is built: the same answer and the same errors, but nothing changes.
    /// True where the name is free or will be replaced, false where what is there is kept.
    pub fn may_create(&self, object: Object, name: &str, taken: Taken) -> Result<bool> {
        let Some(entry) = self.entries.get(name) else { return Ok(true) };
        let there = entry.relation.object();
        match taken {
            Taken::Keep => Ok(false),
            Taken::Replace if there == object => {
                match self.dependants(name).as_slice() {
                    [] => Ok(true),
                    readers => Err(in_use(name, readers)
                        .hint(format!("drop it with all of them first: DROP {there} {} CASCADE", quoted(name)))),
                }
            }
            Taken::Replace => Err(Error::new(Code::Exists, format!("'{name}' is a {}", word(there)))
                .hint(format!("drop it first: DROP {there} {}", quoted(name)))),
            Taken::Refuse => {
                Err(Error::new(Code::Exists, format!("{} '{name}' is there already", word(there))).hint(match object {
                    Object::View => "take another name, or write CREATE OR REPLACE VIEW",
                    Object::Table => "take another name, or write CREATE TABLE IF NOT EXISTS",
                }))
            }
        }
    }

    /// Adds a table, or a view with the names of all that it reads.
    pub fn create<'a>(
        &mut self,
        name: &str,
        relation: Relation<T, V>,
        reads: impl IntoIterator<Item = &'a str>,
        taken: Taken,
    ) -> Result<Created<T, V>> {
        if !self.may_create(relation.object(), name, taken)? {
            return Ok(Created::Kept);
        }
        let reads: BTreeSet<String> = reads.into_iter().map(str::to_string).collect();
        if reads.contains(name) {
            return Err(
                Error::new(Code::Query, format!("view '{name}' reads from itself")).hint("give the new view another name")
            );
        }
        for read in &reads {
            self.get(read)?;
        }
        Ok(match self.entries.insert(name.into(), Entry { relation, reads }) {
            None => Created::New,
            Some(old) => Created::Replaced(old.relation),
        })
    }

    /// Takes tables or views out, those first that read from others. All of `names` go, or none.
    pub fn drop(&mut self, object: Object, names: &[&str], dependants: Dependants) -> Result<Vec<(String, Relation<T, V>)>> {
        let mut going: Vec<String> = Vec::new();
        for name in names {
            let there = self.get(name)?.object();
            if there != object {
                return Err(Error::new(Code::UnknownTable, format!("'{name}' is a {}, not a {}", word(there), word(object)))
                    .hint(format!("write DROP {there} {}", quoted(name))));
            }
            self.add_with_dependants(name, &mut going);
        }
        for name in names {
            let readers: Vec<&str> = self.dependants(name).into_iter().filter(|reader| !names.contains(reader)).collect();
            if dependants == Dependants::Refuse && !readers.is_empty() {
                return Err(in_use(name, &readers).hint(format!("drop all of them with DROP {object} {} CASCADE", quoted(name))));
            }
        }
        let take = |name: String| self.entries.remove(&name).map(|entry| (name, entry.relation));
        Ok(going.into_iter().filter_map(take).collect())
    }

    /// The reader before what it reads; each once.
    fn add_with_dependants(&self, name: &str, going: &mut Vec<String>) {
        let mut all = BTreeSet::from([name.to_string()]);
        let mut next = vec![name];
        while let Some(name) = next.pop() {
            for reader in self.dependants(name) {
                if all.insert(reader.into()) {
                    next.push(reader);
                }
            }
        }
        all.retain(|name| !going.contains(name));
        while !all.is_empty() {
            let free: Vec<String> =
                all.iter().filter(|name| !self.dependants(name).iter().any(|reader| all.contains(*reader))).cloned().collect();
            debug_assert!(!free.is_empty(), "what is read exists before its reader, so nothing reads itself");
            all.retain(|name| !free.contains(name));
            going.extend(free);
        }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub fn get(&self, name: &str) -> Result<&Relation<T, V>> {
        self.entries.get(name).map(|entry| &entry.relation).ok_or_else(|| {
            let error = Error::new(Code::UnknownTable, format!("table or view '{name}' is not there"));
            self.suggest(error, name, self.names())
        })
    }

    pub fn table(&self, name: &str) -> Result<&T> {
        match self.get(name)? {
            Relation::Table(table) => Ok(table),
            Relation::View(_) => {
                let error = Error::new(Code::UnknownTable, format!("'{name}' is a view, not a table"));
                Err(self.suggest(error, name, self.tables().map(|(name, _)| name)))
            }
        }
    }

    pub fn view(&self, name: &str) -> Result<&V> {
        match self.get(name)? {
            Relation::View(view) => Ok(view),
            Relation::Table(_) => {
                let error = Error::new(Code::UnknownTable, format!("'{name}' is a table, not a view"));
                Err(self.suggest(error, name, self.views().map(|(name, _)| name)))
            }
        }
    }

    fn suggest<'a>(&self, error: Error, wrong: &str, names: impl Iterator<Item = &'a str> + Clone) -> Error {
        match nearest(wrong, names.clone()) {
            Some(near) => error.hint(format!("did you mean {}?", quoted(near))),
            None if self.entries.is_empty() => error.hint("make it with CREATE TABLE"),
            None => match names.take(LISTED_MAX + 1).map(quoted).collect::<Vec<_>>() {
                known if known.is_empty() => error,
                known if known.len() > LISTED_MAX => error.hint(format!("known are {}, …", known[..LISTED_MAX].join(", "))),
                known => error.hint(format!("known are {}", known.join(", "))),
            },
        }
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries.keys().map(String::as_str)
    }

    pub fn tables(&self) -> impl Iterator<Item = (&str, &T)> + Clone {
        self.entries.iter().filter_map(|(name, entry)| match &entry.relation {
            Relation::Table(table) => Some((name.as_str(), table)),
            Relation::View(_) => None,
        })
    }

    pub fn views(&self) -> impl Iterator<Item = (&str, &V)> + Clone {
        self.entries.iter().filter_map(|(name, entry)| match &entry.relation {
            Relation::View(view) => Some((name.as_str(), view)),
            Relation::Table(_) => None,
        })
    }

    /// What `name` reads directly, in order of names.
    pub fn reads(&self, name: &str) -> impl Iterator<Item = &str> {
        self.entries.get(name).into_iter().flat_map(|entry| entry.reads.iter().map(String::as_str))
    }

    /// The views that read `name` directly, in order of names.
    pub fn dependants(&self, name: &str) -> Vec<&str> {
        self.entries.iter().filter(|(_, entry)| entry.reads.contains(name)).map(|(reader, _)| reader.as_str()).collect()
    }

    /// The views that no other view reads: the results of a script without a final query.
    pub fn results(&self) -> impl Iterator<Item = (&str, &V)> {
        self.views().filter(|(name, _)| self.dependants(name).is_empty())
    }
}

/// Most names that a hint lists.
const LISTED_MAX: usize = 8;

fn in_use(name: &str, readers: &[&str]) -> Error {
    let readers: Vec<String> = readers.iter().map(|reader| quoted(reader)).collect();
    Error::new(Code::InUse, format!("'{name}' is read by {}", readers.join(", ")))
}

fn word(object: Object) -> &'static str {
    match object {
        Object::Table => "table",
        Object::View => "view",
    }
}

/// A name as it must be written in a statement: in double quotes unless it is a plain word in lower case.
pub fn quoted(name: &str) -> String {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit());
    match plain && !name.is_empty() {
        true => name.into(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables a and b; v reads a, w reads v and b.
    fn catalog() -> Catalog<u32, u32> {
        let mut catalog = Catalog::default();
        for (name, relation, reads) in [
            ("a", Relation::Table(1), &[][..]),
            ("b", Relation::Table(2), &[]),
            ("v", Relation::View(3), &["a"]),
            ("w", Relation::View(4), &["v", "b"]),
        ] {
            assert_eq!(catalog.create(name, relation, reads.iter().copied(), Taken::Refuse), Ok(Created::New));
        }
        catalog
    }

    #[track_caller]
    fn refused<X: std::fmt::Debug>(result: Result<X>, code: Code, text: &str) {
        let error = result.unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, text));
    }

    #[test]
    fn a_taken_name_is_refused_kept_or_replaced() {
        let mut catalog = catalog();
        refused(
            catalog.create("a", Relation::Table(9), [], Taken::Refuse),
            Code::Exists,
            "table 'a' is there already; take another name, or write CREATE TABLE IF NOT EXISTS",
        );
        assert_eq!(catalog.create("a", Relation::Table(9), [], Taken::Keep), Ok(Created::Kept));
        assert_eq!(catalog.table("a"), Ok(&1));
        refused(
            catalog.create("v", Relation::View(9), ["a"], Taken::Replace),
            Code::InUse,
            "'v' is read by w; drop it with all of them first: DROP VIEW v CASCADE",
        );
        assert_eq!(catalog.create("w", Relation::View(9), ["a"], Taken::Replace), Ok(Created::Replaced(Relation::View(4))));
        assert_eq!(catalog.reads("w").collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_view_reads_what_is_there_and_never_itself() {
        let mut catalog = catalog();
        refused(
            catalog.create("x", Relation::View(9), ["nowhere"], Taken::Refuse),
            Code::UnknownTable,
            "table or view 'nowhere' is not there; known are a, b, v, w",
        );
        refused(
            catalog.create("w", Relation::View(9), ["w"], Taken::Replace),
            Code::Query,
            "view 'w' reads from itself; give the new view another name",
        );
        assert!(!catalog.contains("x"));
    }

    #[test]
    fn what_is_read_is_dropped_only_with_its_readers() {
        let mut catalog = catalog();
        refused(
            catalog.drop(Object::Table, &["a"], Dependants::Refuse),
            Code::InUse,
            "'a' is read by v; drop all of them with DROP TABLE a CASCADE",
        );
        refused(
            catalog.drop(Object::Table, &["v"], Dependants::Refuse),
            Code::UnknownTable,
            "'v' is a view, not a table; write DROP VIEW v",
        );
        let gone = catalog.drop(Object::Table, &["a"], Dependants::Drop).unwrap();
        assert_eq!(gone.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["w", "v", "a"]);
        assert_eq!(catalog.names().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn several_names_are_dropped_together_or_not_at_all() {
        let mut catalog = catalog();
        refused(
            catalog.drop(Object::View, &["v", "wx"], Dependants::Drop),
            Code::UnknownTable,
            "table or view 'wx' is not there; did you mean w?",
        );
        assert!(catalog.contains("v"));
        let gone = catalog.drop(Object::View, &["v", "w", "v"], Dependants::Refuse).unwrap();
        assert_eq!(gone.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["w", "v"]);
    }

    #[test]
    fn the_results_are_the_views_that_nobody_reads() {
        assert_eq!(catalog().results().map(|(name, _)| name).collect::<Vec<_>>(), ["w"]);
    }

    #[test]
    fn names_that_are_no_plain_words_are_shown_in_quotes() {
        for (name, shown) in
            [("a_1", "a_1"), ("A", "\"A\""), ("1a", "\"1a\""), ("a-b", "\"a-b\""), ("a\"b", "\"a\"\"b\""), ("", "\"\"")]
        {
            assert_eq!(quoted(name), shown);
        }
    }
}
