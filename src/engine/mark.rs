//! Checkpoints from the engine's side: marks go out to all tables, and states come back at the start.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Engine, Kept};
use crate::error::Result;
use crate::operator::state::{Epoch, Frame, Part};
use crate::table::{Mark, Table};
use crate::view::Health;

impl Engine {
    /// What the tables and views of these names go on from, once [`Engine::start`] runs them; what belongs to another definition is
    /// let go. `epoch` is the number of the checkpoint.
    pub fn resume(&self, epoch: Epoch, parts: Vec<Part>) {
        *lock(&self.marked) = epoch;
        *lock(&self.states) = parts.into_iter().map(|part| (part.name.clone(), part)).collect();
    }

    /// Runs the views made so far, together: all of them see every event of the feeds they share. Later ones run at once.
    pub fn start(&self) -> Result<()> {
        self.started.store(true, Relaxed);
        let mut states = std::mem::take(&mut *lock(&self.states));
        let resumed = self.resume_tables(&mut states);
        let mut tables: Vec<Arc<Table>> = Vec::new();
        {
            let marked = lock(&self.marked);
            for view in self.views() {
                if let Some(kept) = &view.kept {
                    let ended = states.remove(&kept.live.last_part_name()).filter(|part| part.fingerprint == kept.fingerprint);
                    if ended.is_some_and(|part| kept.settle(part.frames)) {
                        continue;
                    }
                    let state = self.state_of(kept, &mut states, &resumed);
                    tables.extend(kept.run(state, *marked)?);
                }
            }
        }
        for table in self.tables() {
            if !tables.iter().any(|read| Arc::ptr_eq(read, &table)) {
                table.forget_place();
            }
        }
        tables.iter().for_each(|table| table.start());
        Ok(())
    }

    /// The names of the tables that go on where they were.
    fn resume_tables(&self, states: &mut HashMap<String, Part>) -> HashSet<String> {
        let mut resumed = HashSet::new();
        for table in self.tables() {
            let name = table.spec().name.clone();
            let Some(part) = states.remove(&table.part_name()) else { continue };
            let read = match part.fingerprint == table.fingerprint() {
                true => table.resume_at(part.frames.clone()).map_err(|error| error.to_string()),
                false => Err("it has been defined anew".into()),
            };
            match read {
                Ok(true) => drop(resumed.insert(name)),
                Ok(false) => {}
                Err(reason) => {
                    tracing::warn!(table = name, reason, "its place in the feed is lost: the table begins anew");
                    table.begin_after(part.frames);
                }
            }
        }
        resumed
    }

    /// The state of a view, if it is one of this view, and if all its tables go on where that was made.
    fn state_of(&self, kept: &Kept, states: &mut HashMap<String, Part>, resumed: &HashSet<String>) -> Option<Vec<Frame>> {
        let sources = self.sources(&kept.live.name);
        let Some(part) = states.remove(&kept.live.part_name()) else {
            if sources.iter().any(|table| resumed.contains(&table.spec().name)) {
                tracing::info!(view = kept.live.name, "it has no state in the checkpoint: the view begins anew");
            }
            return None;
        };
        let lost = match sources.iter().find(|table| !resumed.contains(&table.spec().name)) {
            Some(table) => Some(format!("table '{}' begins anew", table.spec().name)),
            None if part.fingerprint != kept.fingerprint => Some("it has been defined anew".into()),
            None => None,
        };
        match lost {
            Some(reason) => {
                tracing::warn!(view = kept.live.name, reason, "its state is lost: the view begins anew");
                None
            }
            None => Some(part.frames),
        }
    }

    /// The number of a mark that is greater than all before.
    pub fn next_mark(&self) -> Epoch {
        *lock(&self.marked) + 1
    }

    /// Sends a mark to the tables that views read: others have no place to keep, and who reads them may be slow. Gives the names
    /// of the parts that will come by it, unless their tables or views end before.
    pub fn mark(&self, mark: Mark) -> Vec<String> {
        let mut marked = lock(&self.marked);
        *marked = mark.epoch;
        let mark = Arc::new(mark);
        let mut tables: HashMap<String, bool> = HashMap::new();
        let mut parts = Vec::new();
        for view in self.views() {
            let Some(kept) = &view.kept else { continue };
            let sources = self.sources(&view.name);
            match kept.live.health() {
                Health::Running if !sources.is_empty() => {
                    let mut are_marked = true;
                    for table in sources {
                        are_marked &= *tables.entry(table.part_name()).or_insert_with(|| table.mark(&mark));
                    }
                    if are_marked {
                        parts.push(kept.live.part_name());
                    }
                }
                _ => self.give_last_part(kept, &mark),
            }
        }
        for table in self.tables() {
            // One that ends by itself begins anew with every start, and its past with it.
            let is_marked = tables.get(&table.part_name()).is_some_and(|is_marked| *is_marked);
            if !is_marked && !table.spec().finite {
                table.give_past(&mark);
            }
        }
        parts.extend(tables.into_iter().filter(|(_, is_marked)| *is_marked).map(|(name, _)| name));
        parts
    }

    /// Gives the parts of those views that came to their end before a mark that was on its way had reached them.
    pub fn give_last_parts(&self, mark: &Mark, awaited: &[String]) {
        for view in self.views() {
            if let Some(kept) = view.kept.as_ref().filter(|kept| awaited.contains(&kept.live.part_name())) {
                self.give_last_part(kept, mark);
            }
        }
    }

    /// Gives the part of a view that has ended or failed. Of one over a feed that ends by itself there is none: it begins anew with
    /// every start.
    fn give_last_part(&self, kept: &Kept, mark: &Mark) {
        let sources = self.sources(&kept.live.name);
        if !sources.is_empty() && sources.iter().all(|table| !table.spec().finite) {
            kept.live.take_last_part(mark, &kept.fingerprint);
        }
    }

    /// The part of a table or view that is gone, or has ended, is not waited for.
    pub fn is_going(&self, part: &str) -> bool {
        let tables = self.tables();
        let views = self.views();
        let mut lives = views.iter().filter_map(|view| view.live());
        tables.iter().any(|table| table.part_name() == part)
            || lives.any(|live| live.part_name() == part && live.health() == Health::Running)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};
    use crate::feed::Policy;

    #[tokio::test]
    async fn a_view_that_fails_before_a_mark_reaches_it_gives_what_it_has_said() {
        let engine = Engine::keeping(Policy::default()).unwrap();
        let script = "CREATE TABLE t (v BIGINT) WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/');
            CREATE VIEW one AS SELECT v FROM t; CREATE VIEW other AS SELECT v FROM t;";
        for statement in &crate::sql::parse(script).0 {
            engine.execute(statement).await.map(drop).unwrap();
        }
        engine.view("one").unwrap().live().unwrap().enter(Health::Failed(Error::new(Code::Runtime, "no more")));
        let (mark, mut given) = Mark::new(1, false, None);
        engine.give_last_parts(&mark, &["view/one".into(), "view/other".into(), "table/t".into()]);
        drop(mark);
        let part = given.recv().await.unwrap().part.unwrap();
        assert_eq!(part.name, "ended/one");
        assert!(given.recv().await.is_none());
        let again = Engine::keeping(Policy::default()).unwrap();
        for statement in &crate::sql::parse(script).0 {
            again.execute(statement).await.map(drop).unwrap();
        }
        again.resume(1, vec![part]);
        again.start().unwrap();
        let health = again.view("one").unwrap().live().unwrap().health();
        assert_eq!(health, Health::Failed(Error::new(Code::Runtime, "no more")));
        assert_eq!(again.view("other").unwrap().live().unwrap().health(), Health::Running);
    }
}
