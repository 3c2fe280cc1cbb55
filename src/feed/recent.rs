//! The events seen last, so that those a server sends again after a reconnect count once; see [`super::course`] for what is known of a server.

use std::collections::{HashMap, HashSet, VecDeque};

use super::digest;
use super::ids::{IdOrder, Ids, STEPS_MIN};
use super::parser::Event;

/// Events remembered one by one: more than servers go back when they resume a little too early.
const EVENTS_MAX: usize = 1024;
/// Of a read with more events than these, where ids are proved to rise, only some are digested: their ids say enough.
const DIGESTED: u32 = 64;
const DIGESTED_EVERY: u32 = 8;
/// The digest of the others.
const UNKNOWN: u128 = 0;
/// Of those before them the first ones, by which a numbering that begins anew is told from one that is sent again, …
const FIRST: usize = 16;
/// … and so many samples, evenly spread: where they fill up, every second goes.
const SAMPLES_MAX: usize = 512;

/// Recognises what is sent again at the start of a new connection.
#[derive(Debug, Default)]
pub(super) struct RecentEvents {
    seen: VecDeque<SeenEvent>,
    /// The number of the first of `seen`, counted over all that were ever remembered.
    start: u64,
    older: Older,
    renders: Rendering,
    /// The id under which the next event comes if it has none of its own, and how many have come under it.
    id: Option<u64>,
    place: u32,
    /// Events were taken for repetitions though nothing that is remembered says so.
    is_doubtful: bool,
    /// Some events gave the id that the one before gave.
    is_shared: bool,
    /// Events of the current read.
    of_read: u32,
    /// What the current connection may send again; `None` once all of it is behind.
    replay: Option<Box<ResentEvents>>,
}

/// An event that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenEvent {
    pub(crate) id: u64,
    /// Its number among the events under this id.
    pub(crate) place: u32,
    /// 0 where it was not made.
    pub(crate) digest: u128,
    /// Its id is its own, not inherited.
    pub(crate) has_id: bool,
}

/// What is kept of events before those remembered: of the first under their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Older {
    pub(crate) marks: Vec<(u64, u128)>,
    pub(crate) passed: u64,
    pub(crate) every: u64,
}

/// How a server sends an event again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rendering {
    #[default]
    Unknown,
    /// As it was.
    Same,
    /// With other contents under the same id: a time of sending, another order of fields.
    Anew,
}

/// What a table remembers of its latest events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    pub(crate) seen: Vec<SeenEvent>,
    pub(crate) older: Older,
    pub(crate) renders: Rendering,
}

/// What an event is to those seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    New,
    /// New, though behind the position: it was left out before.
    Behind,
    /// New, and with it ids begin anew.
    Anew,
    /// Seen before.
    Repeated,
    /// Seen before, and sent again behind events of which nobody knows whether they were.
    Resent,
}

/// A connection that may send again what was seen before it.
#[derive(Debug)]
struct ResentEvents {
    /// Where the events under each id begin.
    runs: HashMap<u64, u64>,
    older: HashMap<u64, u128>,
    /// The number behind the last of them.
    end: u64,
    /// The number of the last of them with an id of its own.
    last_with_id: u64,
    /// No id has come back after another one.
    is_unique: bool,
    at: ReplayPlace,
    /// It began where the numbering begins.
    from_start: bool,
    /// Some event was the same as before.
    is_confirmed: bool,
    /// Something came that is not remembered, though the rest may be.
    has_news: bool,
    /// Before the first id, an event was none of those remembered.
    has_missed: bool,
    /// The numbers of the marks that inherited their id and have come again.
    used: HashSet<u64>,
}

/// Where a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplayPlace {
    /// Before the first id of the connection; with the number of the mark behind the last one that was recognised.
    Leading(Option<u64>),
    /// At events under an id that is remembered, with the number of their first.
    Run(u64),
    /// At one that was left out before, between two that are remembered.
    Between,
    /// At events before those that are remembered.
    Before,
    /// At new ones.
    New,
}

/// An event as it is compared.
#[derive(Clone, Copy)]
struct ComparedEvent<'a> {
    text: &'a str,
    id: u64,
    digest: u128,
}

impl RecentEvents {
    /// What is remembered.
    pub(super) fn memory(&self) -> Memory {
        let latest = self.seen.len().saturating_sub(EVENTS_MAX);
        Memory { seen: self.seen.range(latest..).copied().collect(), older: self.older.clone(), renders: self.renders }
    }

    /// Remembers what [`RecentEvents::memory`] gave.
    pub(super) fn of(memory: &Memory) -> Self {
        let seen = &memory.seen[memory.seen.len().saturating_sub(EVENTS_MAX)..];
        let is_shared = seen.windows(2).any(|marks| marks[1].has_id && marks[0].has_id && marks[0].id == marks[1].id);
        let (older, renders) = (memory.older.clone(), memory.renders);
        RecentEvents { seen: seen.iter().copied().collect(), older, renders, is_shared, ..RecentEvents::default() }
    }

    pub(super) fn renders(&self) -> Rendering {
        self.renders
    }

    /// A new connection resumes after this id.
    pub(super) fn connected(&mut self, last_id: &str, ids: &Ids) {
        let own = self.seen.iter().rposition(|mark| mark.has_id);
        self.id = match last_id {
            "" => own.map(|last| self.seen[last].id),
            _ => Some(digest::of_id(last_id)),
        };
        self.place = self.seen.iter().rev().find(|mark| Some(mark.id) == self.id).map_or(0, |mark| mark.place);
        self.replay = own.map(|last| {
            let mut replay = ResentEvents::of(&self.seen, self.start, &self.older, ids.may_rise());
            replay.last_with_id = last as u64 + self.start;
            // The connection before was cut off among events of which nobody knows whether they were new.
            let is_behind = ids.rise() && ids.step(last_id) == IdOrder::Down;
            self.is_doubtful |= is_behind && self.id.is_some_and(|id| !replay.knows(id));
            Box::new(replay)
        });
    }

    /// Whether the ids of events seen so far are places to go on from: they rise, or none was given to several events.
    pub(super) fn has_cursors(&self, ids: &Ids) -> bool {
        ids.rise() || self.replay.as_ref().is_none_or(|replay| replay.is_unique)
    }

    /// Whether events were taken for repetitions without proof since this was asked last.
    pub(super) fn take_doubt(&mut self) -> bool {
        std::mem::take(&mut self.is_doubtful)
    }

    /// Forgets the last ones: they are to come again.
    pub(super) fn forget(&mut self, events: usize) {
        self.seen.truncate(self.seen.len().saturating_sub(events));
        self.replay = None;
    }

    /// Lets go what is too old. Until then [`RecentEvents::forget`] leaves as much as there was before.
    #[inline]
    pub(super) fn settle(&mut self) {
        while self.seen.len() > EVENTS_MAX {
            if let Some(mark) = self.seen.pop_front() {
                self.start += 1;
                self.older.take(mark);
            }
        }
        if self.replay.as_ref().is_some_and(|replay| replay.end <= self.start) {
            self.replay = None;
        }
    }

    /// A read begins.
    pub(super) fn begin_read(&mut self) {
        self.of_read = 0;
    }

    /// The digest of an event, unless nothing will ask for it.
    #[inline]
    fn digest(&mut self, event: &Event<'_>, has_id: bool, id: u64, ids: &Ids) -> u128 {
        self.of_read = self.of_read.saturating_add(1);
        // Of events under one id, such as a second, only their contents say which have come.
        self.is_shared |= has_id && self.id == Some(id);
        let is_sample = self.of_read <= DIGESTED || self.of_read.is_multiple_of(DIGESTED_EVERY);
        match is_sample || !has_id || self.is_shared || self.replay.is_some() || !ids.rise() {
            true => digest::of_event(event).max(UNKNOWN + 1),
            false => UNKNOWN,
        }
    }

    /// Whether the event has been seen before; remembers it if not. The second says whether it was remembered.
    #[inline]
    pub(super) fn judge(&mut self, event: &Event<'_>, ids: &Ids) -> (Verdict, bool) {
        let has_id = event.has_id && !event.id.is_empty();
        let id = match (has_id, self.id) {
            (false, None) => return (Verdict::New, false),
            (false, Some(id)) => id,
            (true, _) => digest::of_id(event.id),
        };
        let came = ComparedEvent { text: event.id, id, digest: self.digest(event, has_id, id, ids) };
        let is_first_of_connection = self.replay.as_ref().is_some_and(|replay| matches!(replay.at, ReplayPlace::Leading(_)));
        let place = if !has_id || (self.id == Some(id) && !is_first_of_connection) { self.place.saturating_add(1) } else { 1 };
        let verdict = match self.replay.take() {
            None => Verdict::New,
            Some(mut replay) => {
                let verdict = match has_id {
                    true => self.with_id(&mut replay, came, place, ids),
                    false => self.inheriting(&mut replay, came, place),
                };
                self.replay = verdict.1.then_some(replay);
                if matches!(verdict.0, Verdict::Repeated | Verdict::Resent) {
                    return (verdict.0, false);
                }
                verdict.0
            }
        };
        (self.id, self.place) = (Some(id), place);
        self.seen.push_back(SeenEvent { id, place, digest: came.digest, has_id });
        if verdict == Verdict::Anew {
            self.began_anew();
        }
        (verdict, true)
    }

    /// Ids began anew with the latest event: what they were before says nothing any more.
    pub(super) fn began_anew(&mut self) {
        let before = self.seen.len().saturating_sub(1);
        self.seen.drain(..before);
        self.start += before as u64;
        (self.older, self.replay) = (Older::default(), None);
    }

    /// An event under the id of the one before: that says nothing about ids, and it may be one of those remembered, each of which comes
    /// again once. Others may stand between them: a server's pings are of the moment. Gives also whether others may come.
    fn inheriting(&mut self, replay: &mut ResentEvents, came: ComparedEvent<'_>, place: u32) -> (Verdict, bool) {
        let found = match replay.at {
            ReplayPlace::Leading(next) => {
                let found = self.inherited(replay, next, came);
                replay.at = ReplayPlace::Leading(found.map(|found| found + 1));
                replay.has_missed |= found.is_none();
                found
            }
            ReplayPlace::Run(first) => {
                let same = self.unused(replay, first, |mark| mark.digest == came.digest);
                same.or_else(|| self.unused(replay, first, |_| self.renders == Rendering::Anew))
            }
            ReplayPlace::Before => {
                self.place = place;
                return (Verdict::Repeated, true);
            }
            ReplayPlace::Between | ReplayPlace::New => None,
        };
        match found {
            None => (Verdict::New, true),
            Some(number) => {
                replay.used.insert(number);
                (Verdict::Repeated, true)
            }
        }
    }

    /// One of the events that inherited their id: under the id that the server goes on after, or under an earlier one.
    fn inherited(&self, replay: &ResentEvents, next: Option<u64>, came: ComparedEvent<'_>) -> Option<u64> {
        let is_same = |mark: &SeenEvent| !mark.has_id && mark.digest == came.digest;
        let next = next.filter(|number| self.at(*number).is_some_and(is_same) && !replay.used.contains(number));
        if next.is_some() || !replay.is_unique {
            return next;
        }
        let asked = replay.runs.get(&came.id).copied();
        if replay.runs.len() == 1 {
            // Where an id has come once and none since, equal events are easily others: only the same from the first on are the same.
            let first = asked.and_then(|first| self.run(first).find(|(_, mark)| !mark.has_id));
            return first
                .filter(|(_, mark)| is_same(mark) && !replay.has_missed && replay.used.is_empty())
                .map(|(number, _)| number);
        }
        asked.and_then(|first| self.unused(replay, first, is_same)).or_else(|| {
            let mut earlier = (self.start..replay.last_with_id).rev();
            earlier.find(|number| self.at(*number).is_some_and(is_same) && !replay.used.contains(number))
        })
    }

    /// The first of the marks under one id that inherited it, are so and have not come again yet.
    fn unused(&self, replay: &ResentEvents, first: u64, is_so: impl Fn(&SeenEvent) -> bool) -> Option<u64> {
        let mut under = self.run(first).filter(|(_, mark)| !mark.has_id && is_so(mark));
        under.find(|(number, _)| !replay.used.contains(number) && *number < replay.end).map(|(number, _)| number)
    }

    /// An event with an id of its own. Gives also whether others of those remembered may come.
    fn with_id(&mut self, replay: &mut ResentEvents, came: ComparedEvent<'_>, place: u32, ids: &Ids) -> (Verdict, bool) {
        if !replay.is_unique && !ids.rise() {
            return (Verdict::New, false);
        }
        let is_first = matches!(replay.at, ReplayPlace::Leading(_));
        let run = replay.runs.get(&came.id).copied().filter(|first| *first >= self.start);
        self.is_doubtful &= !replay.knows(came.id);
        let differs = match run {
            Some(first) => {
                if is_first {
                    // What came before this id was none of those behind it.
                    replay.used.retain(|number| *number < first);
                }
                let same = self.run(first).any(|(_, mark)| mark.has_id && mark.digest == came.digest);
                if same {
                    return (self.recognised(replay, ReplayPlace::Run(first), came, place, ids), true);
                }
                if self.run(first).any(|(_, mark)| mark.has_id && mark.digest == UNKNOWN) {
                    replay.at = ReplayPlace::Run(first);
                    (self.id, self.place) = (Some(came.id), place);
                    return (Verdict::Repeated, true);
                }
                if place > 1 && self.renders != Rendering::Anew {
                    // One more than there were under this id.
                    return (Verdict::Behind, true);
                }
                true
            }
            None => match replay.older.get(&came.id) {
                Some(digest) if place > 1 || *digest == came.digest => {
                    return (self.recognised(replay, ReplayPlace::Before, came, place, ids), true);
                }
                older => older.is_some(),
            },
        };
        let verdict = match (ids.rise(), differs) {
            (true, true) => self.changed(replay, came, ids),
            (true, false) => self.unknown(replay, came, is_first, ids),
            (false, true) => Verdict::Anew,
            (false, false) => return (Verdict::New, replay.may_go_on(ids.step(came.text))),
        };
        match verdict {
            Verdict::Repeated => {
                replay.at = run.map_or(ReplayPlace::Before, ReplayPlace::Run);
                (self.id, self.place) = (Some(came.id), place);
            }
            _ => replay.at = ReplayPlace::Between,
        }
        (verdict, matches!(verdict, Verdict::Repeated | Verdict::Behind))
    }

    /// The event is the same as before.
    fn recognised(
        &mut self,
        replay: &mut ResentEvents,
        at: ReplayPlace,
        came: ComparedEvent<'_>,
        place: u32,
        ids: &Ids,
    ) -> Verdict {
        replay.from_start |= !replay.is_confirmed && ids.begins(came.text);
        (replay.at, replay.is_confirmed) = (at, true);
        if self.renders == Rendering::Unknown {
            self.renders = Rendering::Same;
        }
        (self.id, self.place) = (Some(came.id), place);
        if replay.has_news { Verdict::Resent } else { Verdict::Repeated }
    }

    /// The id is known and its content is another one, where ids rise: rendered anew, or another event of a new numbering.
    fn changed(&mut self, replay: &mut ResentEvents, came: ComparedEvent<'_>, ids: &Ids) -> Verdict {
        let looks_new = match replay.is_confirmed {
            true => replay.from_start,
            false => self.renders == Rendering::Same || ids.begins(came.text) || ids.is_far_behind(came.text),
        };
        match self.renders {
            Rendering::Anew => Verdict::Repeated,
            _ if looks_new => Verdict::Anew,
            _ => {
                if !replay.is_confirmed {
                    self.renders = Rendering::Anew;
                }
                Verdict::Repeated
            }
        }
    }

    /// The id is not remembered, where ids rise.
    fn unknown(&mut self, replay: &ResentEvents, came: ComparedEvent<'_>, is_first: bool, ids: &Ids) -> Verdict {
        match ids.step(came.text) {
            IdOrder::Up(_) | IdOrder::Apart => Verdict::New,
            IdOrder::Same | IdOrder::Down => {
                let is_start = is_first && self.renders != Rendering::Anew && ids.begins(came.text);
                // All that came between two of those remembered is remembered.
                let is_within = matches!(replay.at, ReplayPlace::Run(_) | ReplayPlace::Between) || self.has_all(ids);
                match (is_start, is_within) {
                    (true, _) => Verdict::Anew,
                    (false, true) => Verdict::Behind,
                    (false, false) => {
                        self.is_doubtful |= !replay.is_confirmed;
                        Verdict::Repeated
                    }
                }
            }
        }
    }

    /// Whether all events of this numbering are remembered.
    fn has_all(&self, ids: &Ids) -> bool {
        let first = self.seen.iter().find(|mark| mark.has_id);
        !ids.first.is_empty() && first.is_some_and(|mark| mark.id == digest::of_id(&ids.first))
    }

    /// The marks under one id from this number on, up to the next id. A server's pings, which came while it sent earlier events again, may
    /// stand between them under an id of before.
    fn run(&self, first: u64) -> impl Iterator<Item = (u64, &SeenEvent)> {
        let marks = (first..).map_while(|number| Some((number, self.at(number)?)));
        let id = self.at(first).map(|mark| mark.id);
        let is_of_id = move |mark: &SeenEvent| Some(mark.id) == id;
        marks.take_while(move |(_, mark)| !mark.has_id || is_of_id(mark)).filter(move |(_, mark)| is_of_id(mark))
    }

    fn at(&self, number: u64) -> Option<&SeenEvent> {
        self.seen.get(usize::try_from(number.checked_sub(self.start)?).ok()?)
    }
}

impl ResentEvents {
    /// Where ids have no order, an id that comes back says that they are no cursors; and so do several events that give the same one, as
    /// long as few ids have been seen: those of a transaction share its name, and so do all of a device.
    fn of(seen: &VecDeque<SeenEvent>, start: u64, older: &Older, may_share: bool) -> Self {
        let mut runs = HashMap::with_capacity(seen.len());
        let (mut is_unique, mut is_shared, mut before) = (true, false, None);
        for (number, mark) in (start..).zip(seen) {
            if before != Some(mark.id) {
                let known = runs.insert(mark.id, number);
                match known {
                    // Those that inherited it after a reconnect.
                    Some(first) if !mark.has_id => {
                        runs.insert(mark.id, first);
                    }
                    known => is_unique &= known.is_none(),
                }
            } else {
                is_shared |= mark.has_id;
            }
            before = Some(mark.id);
        }
        is_unique &= !is_shared || may_share || runs.len() as u64 >= STEPS_MIN;
        ResentEvents {
            runs,
            older: older.marks.iter().copied().collect(),
            end: start + seen.len() as u64,
            last_with_id: start,
            is_unique,
            at: ReplayPlace::Leading(None),
            from_start: false,
            is_confirmed: false,
            has_news: false,
            has_missed: false,
            used: HashSet::new(),
        }
    }

    /// Whether an event with this id of its own is remembered.
    fn knows(&self, id: u64) -> bool {
        self.runs.contains_key(&id) || self.older.contains_key(&id)
    }

    /// Whether those remembered may still come behind an id that is not, where ids are not proved to rise.
    fn may_go_on(&mut self, step: IdOrder) -> bool {
        self.at = ReplayPlace::New;
        let many = self.is_unique && self.runs.len() as u64 >= STEPS_MIN;
        self.has_news |= many && !matches!(step, IdOrder::Down | IdOrder::Same);
        self.is_unique && (many || matches!(step, IdOrder::Down | IdOrder::Same))
    }
}

impl Older {
    fn take(&mut self, mark: SeenEvent) {
        if !mark.has_id || mark.place > 1 || mark.digest == UNKNOWN {
            return;
        }
        self.passed += 1;
        let every = self.every.max(1);
        if self.marks.len() < FIRST || self.passed.is_multiple_of(every) {
            self.marks.push((mark.id, mark.digest));
        }
        if self.marks.len() == FIRST + SAMPLES_MAX {
            let mut number = 0;
            self.marks.retain(|_| {
                number += 1;
                number <= FIRST || number % 2 == 0
            });
            self.every = every * 2;
        }
    }
}
