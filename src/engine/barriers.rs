//! Checkpoints from the engine's side: barriers go out to all tables, and states come back at the start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::running_view::{REDEFINED, StateLost, lock};
use super::{Engine, PRINT, RunningView};
use crate::error::Result;
use crate::operator::state::{Epoch, Frame, StatePart};
use crate::sql::DropTarget;
use crate::table::{Gathering, Table};
use crate::view::Health;

impl Engine {
    /// What the tables and views of these names go on from, once [`Engine::start`] runs them; what belongs to another definition is
    /// let go. `epoch` is the number of the checkpoint.
    pub fn resume(&self, epoch: Epoch, parts: Vec<StatePart>) {
        *lock(&self.last_barrier) = epoch;
        *lock(&self.states) = parts.into_iter().map(|part| (part.name.clone(), part)).collect();
    }

    /// Runs the views made so far, together: all of them see every event of the feeds they share. Later ones run at once.
    pub fn start(&self) -> Result<()> {
        self.started.store(true, Relaxed);
        let mut states = std::mem::take(&mut *lock(&self.states));
        let mut anew = Vec::new();
        let resumed = self.resume_tables(&mut states, &mut anew);
        let mut tables: Vec<Arc<Table>> = Vec::new();
        {
            let last_barrier = lock(&self.last_barrier);
            let crash_guard = self.crash_guard.get();
            let _turn = crash_guard.and_then(|crash_guard| crash_guard.first_turn());
            for view in self.views() {
                if let Some(kept) = &view.kept {
                    let ended = states.remove(&kept.live.last_part_name()).filter(|part| part.fingerprint == kept.fingerprint);
                    if ended.is_some_and(|part| kept.settle(part.frames)) {
                        continue;
                    }
                    let RunningView { live, fingerprint, .. } = kept;
                    let state = self.state_of(&live.name, &live.part_name(), fingerprint, &mut states, &resumed, &mut anew);
                    let Some(crash_guard) = crash_guard else {
                        tables.extend(kept.run(state, *last_barrier, None)?);
                        continue;
                    };
                    let watched = self.watched_as(&view.name);
                    match crash_guard.reason(&watched) {
                        Some(error) => kept.leave_out(state, error),
                        None => {
                            let over = Some((Arc::clone(crash_guard), watched.clone()));
                            tables.extend(crash_guard.during(&watched, || kept.run(state, *last_barrier, over))?);
                        }
                    }
                }
            }
        }
        anew.iter().for_each(StateLost::log);
        self.forget_places(&tables);
        tables.iter().for_each(|table| table.start());
        Ok(())
    }

    /// Tables that nobody reads do not go on where they were.
    pub(super) fn forget_places(&self, read: &[Arc<Table>]) {
        for table in self.tables() {
            if !read.iter().any(|read| Arc::ptr_eq(read, &table)) {
                table.forget_place();
            }
        }
    }

    /// The names of the tables that go on where they were.
    pub(super) fn resume_tables(&self, states: &mut HashMap<String, StatePart>, anew: &mut Vec<StateLost>) -> HashSet<String> {
        let mut resumed = HashSet::new();
        for table in self.tables() {
            let name = table.spec().name.clone();
            let Some(part) = states.remove(&table.part_name()) else { continue };
            let read = match part.fingerprint == table.fingerprint() {
                true => table.resume_at(part.frames.clone()).map_err(|error| error.to_string()),
                false => Err(REDEFINED.into()),
            };
            match read {
                Ok(true) => drop(resumed.insert(name)),
                Ok(false) => {}
                Err(reason) => {
                    anew.push(StateLost { of: DropTarget::Table, name, reason: Some(reason) });
                    table.begin_after(part.frames);
                }
            }
        }
        resumed
    }

    /// The state of a view, if it is one of this view, and if all its feeds go on where that was made.
    pub(super) fn state_of(
        &self,
        view: &str,
        part: &str,
        fingerprint: &str,
        states: &mut HashMap<String, StatePart>,
        resumed: &HashSet<String>,
        anew: &mut Vec<StateLost>,
    ) -> Option<Vec<Frame>> {
        let mut lost = |reason: Option<String>| {
            anew.push(StateLost { of: DropTarget::View, name: view.into(), reason });
            None
        };
        // One that ends is read from its beginning at every start; so is one that is joined with.
        let mut feeds: Vec<String> = self
            .sources(view)
            .iter()
            .map(|table| table.spec())
            .filter(|spec| !spec.finite)
            .map(|spec| spec.name.clone())
            .collect();
        let Some(part) = states.remove(part) else {
            if feeds.iter().any(|feed| resumed.contains(feed)) {
                return lost(None);
            }
            return None;
        };
        feeds.retain(|feed| !resumed.contains(feed));
        match feeds.first() {
            Some(feed) => lost(Some(format!("table '{feed}' begins anew"))),
            None if part.fingerprint != fingerprint => lost(Some(REDEFINED.into())),
            None => Some(part.frames),
        }
    }

    /// The number of the next checkpoint, greater than all before.
    pub fn next_epoch(&self) -> Epoch {
        *lock(&self.last_barrier) + 1
    }

    /// Has the tables that views read send a barrier: others have no place to keep, and who reads them may be slow. Gives the names
    /// of the parts that will come by it, unless their tables or views end before.
    pub fn send_barrier(&self, gathering: Gathering) -> Vec<String> {
        let mut last_barrier = lock(&self.last_barrier);
        *last_barrier = gathering.barrier().epoch;
        let gathering = Arc::new(gathering);
        let mut tables: HashMap<String, bool> = HashMap::new();
        let mut parts = Vec::new();
        if let Some(printing) = &*lock(&self.printing) {
            printing.send_barrier(&gathering, &mut tables);
            parts.push(PRINT.to_string());
        }
        for view in self.views() {
            let Some(kept) = &view.kept else { continue };
            let sources = self.sources(&view.name);
            match kept.live.health() {
                Health::Running if !sources.is_empty() => {
                    let mut do_send = true;
                    for table in sources {
                        do_send &= *tables.entry(table.part_name()).or_insert_with(|| table.send_barrier(&gathering));
                    }
                    if do_send {
                        parts.push(kept.live.part_name());
                    }
                }
                _ => self.give_last_part(kept, &gathering),
            }
        }
        for table in self.tables() {
            // One that ends by itself begins anew with every start, and its past with it.
            let does_send = tables.get(&table.part_name()).is_some_and(|does_send| *does_send);
            if !does_send && !table.spec().finite {
                table.give_past(&gathering);
            }
        }
        parts.extend(tables.into_iter().filter(|(_, does_send)| *does_send).map(|(name, _)| name));
        parts
    }

    /// Gives the parts of those views that came to their end before a barrier that was on its way had reached them.
    pub fn give_last_parts(&self, gathering: &Gathering, awaited: &[String]) {
        for view in self.views() {
            if let Some(kept) = view.kept.as_ref().filter(|kept| awaited.contains(&kept.live.part_name())) {
                self.give_last_part(kept, gathering);
            }
        }
    }

    /// Gives the part of a view that has ended or failed. Of one over nothing but feeds that end by themselves there is none: it begins
    /// anew with every start.
    fn give_last_part(&self, kept: &RunningView, gathering: &Gathering) {
        if self.sources(&kept.live.name).iter().any(|table| !table.spec().finite) {
            kept.live.take_last_part(gathering, &kept.fingerprint);
        }
    }

    /// The part of a table or view that is gone, or has ended, is not waited for.
    pub fn is_going(&self, part: &str) -> bool {
        let tables = self.tables();
        let views = self.views();
        let mut lives = views.iter().filter_map(|view| view.live());
        part == PRINT
            || tables.iter().any(|table| table.part_name() == part && table.is_served())
            || lives.any(|live| live.part_name() == part && live.health() == Health::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};
    use crate::feed::Policy;
    use crate::operator::Barrier;

    #[tokio::test]
    async fn a_view_that_fails_before_a_barrier_reaches_it_gives_what_it_has_said() {
        let engine = Engine::keeping(Policy::default()).unwrap();
        let script = "CREATE TABLE t (v BIGINT) WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/');
            CREATE VIEW one AS SELECT v FROM t; CREATE VIEW other AS SELECT v FROM t;";
        for statement in &crate::sql::parse(script).0 {
            engine.execute(statement).await.map(drop).unwrap();
        }
        engine.view("one").unwrap().live().unwrap().enter(Health::Failed(Error::new(Code::Runtime, "no more")));
        let (gathering, mut given) = Gathering::new(Barrier { epoch: 1, last: false }, None);
        engine.give_last_parts(&gathering, &["view/one".into(), "view/other".into(), "table/t".into()]);
        drop(gathering);
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
