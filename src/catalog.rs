//! Names → tables and views, in the order they were made, and what depends on what.

use crate::error::{Code, Error, Result, nearest};
use crate::time::Timestamp;

/// Tables and views under one set of names. What a table or view is, others know: `T` and `V`.
#[derive(Debug)]
pub struct Catalog<T, V> {
    entries: Vec<Entry<T, V>>,
}

#[derive(Debug)]
struct Entry<T, V> {
    name: String,
    object: Object<T, V>,
    /// The tables and views it reads.
    reads: Vec<String>,
    made: Made,
}

/// When something was made first, and when last made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    pub created: Timestamp,
    pub updated: Timestamp,
}

#[derive(Debug)]
enum Object<T, V> {
    Table(T),
    View(V),
}

impl<T, V> Default for Catalog<T, V> {
    fn default() -> Self {
        Catalog { entries: Vec::new() }
    }
}

impl<T, V> Catalog<T, V> {
    pub fn table(&self, name: &str) -> Option<&T> {
        self.tables().find(|(known, _)| *known == name).map(|(_, table)| table)
    }

    pub fn view(&self, name: &str) -> Option<&V> {
        self.views().find(|(known, _)| *known == name).map(|(_, view)| view)
    }

    pub fn tables(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().filter_map(|entry| match &entry.object {
            Object::Table(table) => Some((entry.name.as_str(), table)),
            Object::View(_) => None,
        })
    }

    pub fn views(&self) -> impl Iterator<Item = (&str, &V)> {
        self.entries.iter().filter_map(|entry| match &entry.object {
            Object::View(view) => Some((entry.name.as_str(), view)),
            Object::Table(_) => None,
        })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// All names, in the order they were made.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    pub fn made(&self, name: &str) -> Option<Made> {
        self.entry(name).map(|entry| entry.made)
    }

    /// Takes over when `name` was made, as it was kept elsewhere.
    pub fn set_made(&mut self, name: &str, made: Made) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.name == name) {
            entry.made = made;
        }
    }

    /// The tables and views that `name` reads itself.
    pub fn reads(&self, name: &str) -> &[String] {
        self.entry(name).map_or(&[], |entry| &entry.reads)
    }

    /// The views that read `name` themselves.
    pub fn readers(&self, name: &str) -> Vec<&str> {
        self.entries.iter().filter(|entry| entry.reads.iter().any(|read| read == name)).map(|entry| entry.name.as_str()).collect()
    }

    /// The tables that `name` reads, itself or through views; a table is its own.
    pub fn sources(&self, name: &str) -> Vec<&str> {
        match self.entry(name) {
            Some(Entry { name, object: Object::Table(_), .. }) => vec![name],
            Some(Entry { reads, .. }) => {
                let mut found: Vec<&str> = reads.iter().flat_map(|read| self.sources(read)).collect();
                found.sort_unstable();
                found.dedup();
                found
            }
            None => Vec::new(),
        }
    }

    /// Adds a table; with `replace` in the place of one of that name that no view reads.
    pub fn create_table(&mut self, name: &str, table: T, replace: bool, now: Timestamp) -> Result<()> {
        let place = self.place(name, replace, |object| matches!(object, Object::Table(_)))?;
        self.put(place, name, Object::Table(table), Vec::new(), now);
        Ok(())
    }

    /// Adds a view that reads the tables and views `reads`; with `replace` in the place of one of that name that no other reads.
    pub fn create_view(&mut self, name: &str, view: V, reads: Vec<String>, replace: bool, now: Timestamp) -> Result<()> {
        if reads.iter().any(|read| read == name) {
            return Err(
                Error::new(Code::Query, format!("view '{name}' reads from itself")).hint("give the new view another name")
            );
        }
        let place = self.place(name, replace, |object| matches!(object, Object::View(_)))?;
        self.put(place, name, Object::View(view), reads, now);
        Ok(())
    }

    /// Drops a table, with `cascade` also what reads it. Gives the dropped names, the last reader first.
    pub fn drop_table(&mut self, name: &str, if_exists: bool, cascade: bool) -> Result<Vec<String>> {
        self.drop(name, "table", "view", if_exists, cascade, |object| matches!(object, Object::Table(_)))
    }

    /// Drops a view, with `cascade` also what reads it. Gives the dropped names, the last reader first.
    pub fn drop_view(&mut self, name: &str, if_exists: bool, cascade: bool) -> Result<Vec<String>> {
        self.drop(name, "view", "table", if_exists, cascade, |object| matches!(object, Object::View(_)))
    }

    /// That there is no such name, with the nearest one there is.
    pub fn unknown(&self, what: &str, name: &str) -> Error {
        let error = Error::new(Code::UnknownTable, format!("there is no {what} '{name}'"));
        match nearest(name, self.entries.iter().map(|entry| entry.name.as_str())) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint("SHOW TABLES and SHOW VIEWS list what there is"),
        }
    }

    fn entry(&self, name: &str) -> Option<&Entry<T, V>> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Where an entry of this name may be put: at its old place, or at the end.
    fn place(&self, name: &str, replace: bool, same: impl Fn(&Object<T, V>) -> bool) -> Result<Option<usize>> {
        let Some(index) = self.entries.iter().position(|entry| entry.name == name) else { return Ok(None) };
        let entry = &self.entries[index];
        if !replace {
            return Err(Error::new(Code::Exists, format!("'{name}' is there already"))
                .hint("choose another name, or say CREATE OR REPLACE"));
        }
        if !same(&entry.object) {
            return Err(Error::new(Code::Exists, format!("'{name}' is {}", kind(&entry.object)))
                .hint("drop it first, or choose another name"));
        }
        self.unread(name, "replace")?;
        Ok(Some(index))
    }

    fn put(&mut self, place: Option<usize>, name: &str, object: Object<T, V>, reads: Vec<String>, now: Timestamp) {
        let created = place.map_or(now, |index| self.entries[index].made.created);
        let entry = Entry { name: name.into(), object, reads, made: Made { created, updated: now } };
        match place {
            Some(index) => self.entries[index] = entry,
            None => self.entries.push(entry),
        }
    }

    fn unread(&self, name: &str, verb: &str) -> Result<()> {
        match self.readers(name)[..] {
            [] => Ok(()),
            ref readers => Err(Error::new(Code::InUse, format!("'{name}' is read by {}", readers.join(", ")))
                .hint(format!("{verb} those first, or say DROP … CASCADE"))),
        }
    }

    fn drop(
        &mut self,
        name: &str,
        what: &str,
        other: &str,
        if_exists: bool,
        cascade: bool,
        same: impl Fn(&Object<T, V>) -> bool,
    ) -> Result<Vec<String>> {
        match self.entry(name) {
            None if if_exists => return Ok(Vec::new()),
            None => return Err(self.unknown(what, name)),
            Some(entry) if !same(&entry.object) => {
                return Err(Error::new(Code::UnknownTable, format!("'{name}' is {}", kind(&entry.object)))
                    .hint(format!("write DROP {} {name}", other.to_uppercase())));
            }
            Some(_) if !cascade => self.unread(name, "drop")?,
            Some(_) => {}
        }
        let mut gone = Vec::new();
        self.remove(name, &mut gone);
        Ok(gone)
    }

    fn remove(&mut self, name: &str, gone: &mut Vec<String>) {
        let readers: Vec<String> = self.readers(name).into_iter().map(str::to_string).collect();
        for reader in readers {
            self.remove(&reader, gone);
        }
        if let Some(index) = self.entries.iter().position(|entry| entry.name == name) {
            gone.push(self.entries.remove(index).name);
        }
    }
}

fn kind<T, V>(object: &Object<T, V>) -> &'static str {
    match object {
        Object::Table(_) => "a table",
        Object::View(_) => "a view",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn catalog() -> Catalog<u32, u32> {
        let mut catalog = Catalog::default();
        catalog.create_table("trades", 1, false, NOW).unwrap();
        catalog.create_view("minutes", 2, vec!["trades".into()], false, NOW).unwrap();
        catalog.create_view("hours", 3, vec!["minutes".into()], false, NOW).unwrap();
        catalog
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut catalog = catalog();
        assert_eq!(catalog.create_table("hours", 9, false, NOW).unwrap_err().code(), Code::Exists);
        assert_eq!(
            catalog.create_table("hours", 9, true, NOW).unwrap_err().to_string(),
            "'hours' is a view; drop it first, or choose another name"
        );
        catalog.create_view("hours", 9, vec!["trades".into()], true, NOW).unwrap();
        assert_eq!(catalog.view("hours"), Some(&9));
    }

    #[test]
    fn what_is_read_stays_unless_its_readers_go_too() {
        let mut catalog = catalog();
        assert_eq!(
            catalog.drop_table("trades", false, false).unwrap_err().to_string(),
            "'trades' is read by minutes; drop those first, or say DROP … CASCADE"
        );
        assert_eq!(catalog.sources("hours"), ["trades"]);
        assert_eq!(catalog.drop_table("trades", false, true).unwrap(), ["hours", "minutes", "trades"]);
        assert!(!catalog.contains("hours"));
    }

    #[test]
    fn a_wrong_name_or_kind_is_told_apart() {
        let mut catalog = catalog();
        assert_eq!(
            catalog.drop_view("hour", false, false).unwrap_err().to_string(),
            "there is no view 'hour'; did you mean 'hours'?"
        );
        assert_eq!(
            catalog.drop_view("trades", false, false).unwrap_err().to_string(),
            "'trades' is a table; write DROP TABLE trades"
        );
        assert!(catalog.drop_view("nothing", true, false).unwrap().is_empty());
    }
}
