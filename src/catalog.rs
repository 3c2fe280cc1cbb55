//! Names → tables and views, in the order they were made, and what depends on what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::{Code, Error, Result, nearest};
use crate::time::Timestamp;

/// Tables and views under one set of names. What a table or view is, others know: `T` and `V`.
///
/// Names, and who reads what, are looked up, not searched for: scripts make many thousands.
#[derive(Debug)]
pub struct Catalog<T, V> {
    /// By number: in the order in which they were made, and can be made again.
    entries: BTreeMap<u64, CatalogEntry<T, V>>,
    numbers: HashMap<String, u64>,
    /// The numbers of those that read a name.
    readers: HashMap<String, BTreeSet<u64>>,
    /// The number of the next one.
    next: u64,
    /// What was made, changed or dropped since [`Catalog::take_touched`], by number.
    touched: BTreeSet<u64>,
}

#[derive(Debug)]
struct CatalogEntry<T, V> {
    name: String,
    object: CatalogItem<T, V>,
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
enum CatalogItem<T, V> {
    Table(T),
    View(V),
}

impl<T, V> Default for Catalog<T, V> {
    fn default() -> Self {
        Catalog { entries: BTreeMap::new(), numbers: HashMap::new(), readers: HashMap::new(), next: 0, touched: BTreeSet::new() }
    }
}

impl<T, V> Catalog<T, V> {
    pub fn table(&self, name: &str) -> Option<&T> {
        match &self.entry(name)?.object {
            CatalogItem::Table(table) => Some(table),
            CatalogItem::View(_) => None,
        }
    }

    pub fn view(&self, name: &str) -> Option<&V> {
        match &self.entry(name)?.object {
            CatalogItem::View(view) => Some(view),
            CatalogItem::Table(_) => None,
        }
    }

    pub fn tables(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.values().filter_map(|entry| match &entry.object {
            CatalogItem::Table(table) => Some((entry.name.as_str(), table)),
            CatalogItem::View(_) => None,
        })
    }

    pub fn views(&self) -> impl Iterator<Item = (&str, &V)> {
        self.entries.values().filter_map(|entry| match &entry.object {
            CatalogItem::View(view) => Some((entry.name.as_str(), view)),
            CatalogItem::Table(_) => None,
        })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.numbers.contains_key(name)
    }

    /// All names, in the order they were made.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.values().map(|entry| entry.name.as_str())
    }

    /// What has this number.
    pub fn name(&self, number: u64) -> Option<&str> {
        self.entries.get(&number).map(|entry| entry.name.as_str())
    }

    /// The place of `name` among all. It stays the same, and belongs to no other for as long as the catalog lives.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.numbers.get(name).copied()
    }

    pub fn made(&self, name: &str) -> Option<Made> {
        self.entry(name).map(|entry| entry.made)
    }

    /// Takes over when `name` was made, as it was kept elsewhere.
    pub fn set_made(&mut self, name: &str, made: Made) {
        if let Some(number) = self.number(name)
            && let Some(entry) = self.entries.get_mut(&number)
        {
            entry.made = made;
            self.touched.insert(number);
        }
    }

    /// The next that is made has this number, or a greater one.
    pub fn skip_to(&mut self, number: u64) {
        self.next = self.next.max(number);
    }

    /// What is kept elsewhere of `name` is not what it is now.
    pub fn touch(&mut self, name: &str) {
        self.touched.extend(self.number(name));
    }

    /// The numbers of what was made, changed or dropped since the last call; the last have no name any more.
    pub fn take_touched(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.touched)
    }

    /// What [`Catalog::take_touched`] gave is still to be done.
    pub fn touch_again(&mut self, numbers: BTreeSet<u64>) {
        self.touched.extend(numbers);
    }

    /// The tables and views that `name` reads itself.
    pub fn reads(&self, name: &str) -> &[String] {
        self.entry(name).map_or(&[], |entry| &entry.reads)
    }

    /// The views that read `name` themselves.
    pub fn readers(&self, name: &str) -> Vec<&str> {
        self.readers.get(name).into_iter().flatten().filter_map(|number| self.name(*number)).collect()
    }

    /// The tables that `name` reads, itself or through views; a table is its own.
    pub fn sources(&self, name: &str) -> Vec<&str> {
        let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut open = vec![name];
        while let Some(entry) = open.pop().and_then(|name| self.entry(name)) {
            match entry.object {
                CatalogItem::Table(_) => drop(found.insert(entry.name.as_str())),
                CatalogItem::View(_) => open.extend(entry.reads.iter().map(String::as_str).filter(|read| seen.insert(*read))),
            }
        }
        found.into_iter().collect()
    }

    /// Adds a table; with `replace` in the place of one of that name that no view reads.
    pub fn create_table(&mut self, name: &str, table: T, replace: bool, now: Timestamp) -> Result<()> {
        let place = self.place(name, replace, |object| matches!(object, CatalogItem::Table(_)))?;
        self.put(place, name, CatalogItem::Table(table), Vec::new(), now);
        Ok(())
    }

    /// Adds a view that reads the tables and views `reads`; with `replace` in the place of one of that name that no other reads.
    pub fn create_view(&mut self, name: &str, view: V, reads: Vec<String>, replace: bool, now: Timestamp) -> Result<()> {
        if reads.iter().any(|read| read == name) {
            return Err(
                Error::new(Code::Query, format!("view '{name}' reads from itself")).hint("give the new view another name")
            );
        }
        let place = self.place(name, replace, |object| matches!(object, CatalogItem::View(_)))?;
        self.put(place, name, CatalogItem::View(view), reads, now);
        Ok(())
    }

    /// Drops a table, with `cascade` also what reads it. Gives the dropped names, the last reader first.
    pub fn drop_table(&mut self, name: &str, if_exists: bool, cascade: bool) -> Result<Vec<String>> {
        self.drop(name, "table", "view", if_exists, cascade, |object| matches!(object, CatalogItem::Table(_)))
    }

    /// Drops a view, with `cascade` also what reads it. Gives the dropped names, the last reader first.
    pub fn drop_view(&mut self, name: &str, if_exists: bool, cascade: bool) -> Result<Vec<String>> {
        self.drop(name, "view", "table", if_exists, cascade, |object| matches!(object, CatalogItem::View(_)))
    }

    /// That there is no such name, with the nearest one there is.
    pub fn unknown(&self, what: &str, name: &str) -> Error {
        let error = Error::new(Code::UnknownTable, format!("there is no {what} '{name}'"));
        match nearest(name, self.names()) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint("SHOW TABLES and SHOW VIEWS list what there is"),
        }
    }

    fn entry(&self, name: &str) -> Option<&CatalogEntry<T, V>> {
        self.entries.get(self.numbers.get(name)?)
    }

    /// Whether an entry of this name may be put; the number of the one whose place it takes.
    fn place(&self, name: &str, replace: bool, same: impl Fn(&CatalogItem<T, V>) -> bool) -> Result<Option<u64>> {
        let Some((number, entry)) = self.number(name).zip(self.entry(name)) else { return Ok(None) };
        if !replace {
            return Err(Error::new(Code::Exists, format!("'{name}' is there already"))
                .hint("choose another name, or say CREATE OR REPLACE"));
        }
        if !same(&entry.object) {
            return Err(Error::new(Code::Exists, format!("'{name}' is {}", kind(&entry.object)))
                .hint("drop it first, or choose another name"));
        }
        self.unread(name, "replace")?;
        Ok(Some(number))
    }

    fn put(&mut self, place: Option<u64>, name: &str, object: CatalogItem<T, V>, reads: Vec<String>, now: Timestamp) {
        let before = place.and_then(|number| self.take(number));
        let created = before.map_or(now, |before| before.made.created);
        // What it reads must be made before it.
        let latest = reads.iter().filter_map(|read| self.number(read)).max();
        let number = place.filter(|number| latest.is_none_or(|latest| latest < *number)).unwrap_or(self.next);
        self.next = self.next.max(number + 1);
        for read in &reads {
            self.readers.entry(read.clone()).or_default().insert(number);
        }
        self.numbers.insert(name.into(), number);
        self.entries.insert(number, CatalogEntry { name: name.into(), object, reads, made: Made { created, updated: now } });
        self.touched.insert(number);
    }

    fn take(&mut self, number: u64) -> Option<CatalogEntry<T, V>> {
        let entry = self.entries.remove(&number)?;
        self.numbers.remove(&entry.name);
        for read in &entry.reads {
            if let Some(readers) = self.readers.get_mut(read) {
                readers.remove(&number);
                if readers.is_empty() {
                    self.readers.remove(read);
                }
            }
        }
        self.touched.insert(number);
        Some(entry)
    }

    fn unread(&self, name: &str, verb: &str) -> Result<()> {
        match self.readers(name)[..] {
            [] => Ok(()),
            ref readers => Err(Error::new(Code::InUse, format!("'{name}' is read by {}", listed(readers)))
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
        same: impl Fn(&CatalogItem<T, V>) -> bool,
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
        if let Some(entry) = self.number(name).and_then(|number| self.take(number)) {
            gone.push(entry.name);
        }
    }
}

/// Names in a sentence: the first of many.
pub fn listed(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn kind<T, V>(object: &CatalogItem<T, V>) -> &'static str {
    match object {
        CatalogItem::Table(_) => "a table",
        CatalogItem::View(_) => "a view",
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

    /// A view that is made anew over later ones is made after them from then on.
    #[test]
    fn names_come_in_an_order_in_which_they_can_be_made() {
        let mut catalog = catalog();
        let order = |catalog: &Catalog<u32, u32>| catalog.names().collect::<Vec<_>>().join(" ");
        catalog.create_view("days", 4, vec!["trades".into()], false, NOW).unwrap();
        catalog.create_view("hours", 5, vec!["minutes".into()], true, NOW).unwrap();
        assert_eq!(order(&catalog), "trades minutes hours days");
        catalog.create_view("hours", 6, vec!["days".into()], true, NOW).unwrap();
        assert_eq!(order(&catalog), "trades minutes days hours");
        assert_eq!((catalog.readers("minutes"), catalog.readers("days")), (vec![], vec!["hours"]));
        assert_eq!(catalog.sources("hours"), ["trades"]);
    }

    #[test]
    fn what_is_touched_is_told_once() {
        let mut catalog = catalog();
        catalog.take_touched();
        catalog.create_view("days", 4, vec!["trades".into()], false, NOW).unwrap();
        catalog.drop_view("hours", false, false).unwrap();
        catalog.set_made("trades", Made { created: NOW, updated: NOW });
        let touched = catalog.take_touched();
        let names: Vec<Option<&str>> = touched.iter().map(|number| catalog.name(*number)).collect();
        assert_eq!(names, [Some("trades"), None, Some("days")]);
        assert!(catalog.take_touched().is_empty());
        catalog.touch_again(touched.clone());
        assert_eq!(catalog.take_touched(), touched);
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
