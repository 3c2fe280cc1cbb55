//! What may have been missed: told of events and connections, finds the stretches of a feed that did not come.

use crate::time::Timestamp;

/// Steps by one in a row after which ids are taken for a count: fewer are easily chance.
const STEPS_MIN: u64 = 8;

/// A stretch of a feed that may have been missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// When the last event before it came.
    pub from: Timestamp,
    /// When the first event behind it came.
    pub to: Timestamp,
    /// The id that the feed was to go on after; empty where there was none.
    pub last_id: String,
    /// The id of the first event behind it.
    pub next_id: String,
    /// How many events are missing, where ids tell.
    pub missing: Option<u64>,
    pub reason: Reason,
}

/// Why events may be missing: the first four and the last, because the feed could not go on where it stopped; `Skipped` and
/// `Renumbered`, because ids that count events say that it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NoIds,
    ResumeOff,
    Unsendable,
    Elsewhere,
    Skipped,
    Renumbered,
    PlaceLost,
}

impl Reason {
    pub const ALL: [Reason; 7] = [
        Reason::NoIds,
        Reason::ResumeOff,
        Reason::Unsendable,
        Reason::Elsewhere,
        Reason::Skipped,
        Reason::Renumbered,
        Reason::PlaceLost,
    ];

    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NoIds => "no_ids",
            Reason::ResumeOff => "resume_off",
            Reason::Unsendable => "unsendable",
            Reason::Elsewhere => "elsewhere",
            Reason::Skipped => "skipped",
            Reason::Renumbered => "renumbered",
            Reason::PlaceLost => "place_lost",
        }
    }
}

/// As people are told.
impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Reason::NoIds => "the feed has no id to go on after",
            Reason::ResumeOff => "the option 'resume' is off",
            Reason::Unsendable => "the last id does not fit into a request",
            Reason::Elsewhere => "the server said that it went on elsewhere",
            Reason::Skipped => "the server did not go on where it was asked to: ids are left out",
            Reason::Renumbered => "the server did not go on where it was asked to: ids begin anew",
            Reason::PlaceLost => "the place in the feed was lost with the state of the table",
        })
    }
}

impl Gap {
    /// How long it lasted; nothing where the clock was set back meanwhile.
    pub fn nanos(&self) -> u64 {
        self.to.nanos().saturating_sub(self.from.nanos()).max(0) as u64
    }
}

/// A place in a feed from which it cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// When the last event came.
    pub at: Timestamp,
    pub last_id: String,
}

/// Follows a feed from event to event, and over its breaks.
#[derive(Debug, Clone, Default)]
pub(super) struct Thread {
    /// When the last event came.
    last_at: Option<Timestamp>,
    ids: Ids,
    /// What `ids` were until one of the events since the last [`Thread::read`] was no step.
    counted: Option<Ids>,
    /// A connection has come about and no event yet.
    broken: Option<Break>,
    /// Until the next event: there is no place to go on from.
    lost: Option<String>,
}

/// What ids are, as far as events show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Ids {
    #[default]
    Unseen,
    /// Numbers, each one more than the one before within a connection.
    Counted {
        last: u64,
        steps: u64,
    },
    Other,
}

#[derive(Debug, Clone)]
struct Break {
    /// What the connection was to go on after.
    last_id: String,
    /// Why it does not.
    unresumed: Option<Reason>,
    /// Events that counted before may be told again.
    may_repeat: bool,
}

impl Thread {
    /// Goes on where [`Thread::last_at`] and [`Thread::count`] were.
    pub(super) fn of(last_at: Option<Timestamp>, count: Option<(u64, u64)>) -> Self {
        let ids = match (last_at, count) {
            (_, Some((last, steps))) => Ids::Counted { last, steps },
            (Some(_), None) => Ids::Other,
            (None, None) => Ids::Unseen,
        };
        Thread { last_at, ids, ..Thread::default() }
    }

    /// Begins anew after a place that is lost.
    pub(super) fn after(Lost { at, last_id }: Lost) -> Self {
        Thread { last_at: Some(at), ids: Ids::Other, lost: Some(last_id), ..Thread::default() }
    }

    pub(super) fn last_at(&self) -> Option<Timestamp> {
        self.last_at
    }

    /// The last id and the steps by one before it, where ids count events.
    pub(super) fn count(&self) -> Option<(u64, u64)> {
        match self.ids {
            Ids::Counted { last, steps } => Some((last, steps)),
            Ids::Unseen | Ids::Other => None,
        }
    }

    /// A connection has come about that shall go on after `last_id`. `unresumed` says why it does not; where `may_repeat`, events that
    /// counted before are told again.
    pub(super) fn connected(&mut self, last_id: &str, unresumed: Option<Reason>, may_repeat: bool) {
        if self.last_at.is_some() {
            let unresumed = if self.lost.is_some() { Some(Reason::PlaceLost) } else { unresumed };
            let last_id = self.lost.as_deref().unwrap_or(last_id).into();
            self.broken = Some(Break { last_id, unresumed, may_repeat });
        }
    }

    /// An event has come that is none of those before. Gives the gap that it ends.
    #[inline]
    pub(super) fn event(&mut self, id: &str, at: Timestamp) -> Option<Gap> {
        if let Some(broken) = self.broken.take() {
            return self.mend(broken, id, at);
        }
        if self.ids != Ids::Other {
            self.ids = match (self.ids, number(id)) {
                (Ids::Unseen, Some(last)) => Ids::Counted { last, steps: 0 },
                (Ids::Counted { last, steps }, Some(next)) if last.checked_add(1) == Some(next) => {
                    Ids::Counted { last: next, steps: steps.saturating_add(1) }
                }
                _ => {
                    self.counted = Some(self.ids);
                    Ids::Other
                }
            };
        }
        None
    }

    /// All events up to now have been told.
    pub(super) fn read(&mut self, at: Timestamp) {
        (self.last_at, self.counted) = (Some(at), None);
    }

    /// Among the events before the next [`Thread::read`] were some that nobody saw, up to `last_id`: a hole in the ids is no one's fault.
    pub(super) fn forgive(&mut self, last_id: &str) {
        if let (Ids::Counted { steps, .. }, Some(last)) = (self.counted.unwrap_or(self.ids), number(last_id)) {
            self.ids = Ids::Counted { last, steps };
        }
    }

    fn mend(&mut self, broken: Break, id: &str, at: Timestamp) -> Option<Gap> {
        let Break { last_id, unresumed, may_repeat } = broken;
        self.lost = None;
        let next = number(id);
        let last = match self.ids {
            Ids::Counted { steps, .. } if steps >= STEPS_MIN => number(&last_id),
            _ => None,
        };
        let missing = last.zip(next).and_then(|(last, next)| next.checked_sub(last)?.checked_sub(1));
        let reason = match (last, missing) {
            (Some(_), Some(0)) => None,
            (Some(_), Some(_)) => unresumed.or(Some(Reason::Skipped)),
            (Some(_), None) if !may_repeat => unresumed.or(Some(Reason::Renumbered)),
            _ => unresumed,
        };
        self.ids = match (self.ids, next) {
            (Ids::Counted { steps, .. }, Some(last)) => Ids::Counted { last, steps },
            _ => Ids::Other,
        };
        Some(Gap { from: self.last_at?, to: at, last_id, next_id: id.into(), missing, reason: reason? })
    }
}

fn number(id: &str) -> Option<u64> {
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells events by their ids, `-` for none, one a second. `|` is a connection that resumes, `|reason` one that does not, `|?` one
    /// that resumes and may repeat; `4!` is an event that nobody saw for its size. Gives the gaps as `last..next missing reason`.
    fn gaps(script: &str) -> String {
        let mut thread = Thread::default();
        let (mut last_id, mut gaps) = (String::new(), Vec::new());
        for (second, word) in (1..).zip(script.split(' ')) {
            let at = Timestamp(second * 1_000_000_000);
            if let Some(how) = word.strip_prefix('|') {
                let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == how);
                // What is saved and read again makes no difference.
                thread = Thread::of(thread.last_at(), thread.count());
                thread.connected(&last_id, reason, how == "?");
            } else if let Some(id) = word.strip_suffix('!') {
                last_id = id.into();
                thread.forgive(&last_id);
            } else {
                let id = if word == "-" { "" } else { word };
                gaps.extend(thread.event(id, at));
                thread.read(at);
                last_id = id.into();
            }
        }
        let shown = |gap: Gap| {
            assert!(gap.from < gap.to && gap.nanos() > 0);
            let missing = gap.missing.map(|missing| missing.to_string()).unwrap_or("?".into());
            format!("{}..{} {missing} {}", gap.last_id, gap.next_id, gap.reason.as_str())
        };
        gaps.into_iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    const COUNTED: &str = "| 1 2 3 4 5 6 7 8 9";

    #[test]
    fn a_feed_that_resumes_has_no_gap_unless_its_ids_say_so() {
        for (script, expected) in [
            ("| a | b", ""),
            ("| 1 2 | 9", ""),
            ("{} | 10 11", ""),
            ("{} | 12", "9..12 2 skipped"),
            ("{} | 12 13 | 14 | 20", "9..12 2 skipped, 14..20 5 skipped"),
            ("{} | 1 2 | 3 | 9", "9..1 ? renumbered, 3..9 5 skipped"),
            ("{} | x | y", "9..x ? renumbered"),
            ("{} |? 8 9 10 |? 13", "10..13 2 skipped"),
            // Numbers that leave some out by themselves tell nothing.
            ("{} 11 | 20", ""),
            ("{} 9 | 20", ""),
            // The event was there, if too large.
            ("{} 10! | 11", ""),
            ("{} 10! 11 | 13", "11..13 1 skipped"),
            // Two breaks with nothing between them are one.
            ("{} | | 12", "9..12 2 skipped"),
        ] {
            assert_eq!(gaps(&script.replace("{}", COUNTED)), expected, "{script}");
        }
    }

    #[test]
    fn a_feed_that_cannot_resume_has_a_gap_unless_its_ids_disprove_it() {
        for (script, expected) in [
            ("|no_ids - - |no_ids - - |no_ids -", ".. ? no_ids, .. ? no_ids"),
            ("|resume_off a |resume_off b", "a..b ? resume_off"),
            ("|resume_off 1 2 |resume_off 3", "2..3 ? resume_off"),
            ("{} |resume_off 10 |resume_off 13", "10..13 2 resume_off"),
            ("{} |resume_off 4", "9..4 ? resume_off"),
            ("{} |elsewhere 10", ""),
            ("a |elsewhere b", "a..b ? elsewhere"),
            // The last of two connections without an event between them counts.
            ("a |elsewhere | b", ""),
        ] {
            assert_eq!(gaps(&script.replace("{}", COUNTED)), expected, "{script}");
        }
    }

    #[test]
    fn nothing_is_missed_before_the_first_event() {
        assert_eq!(gaps("|no_ids |resume_off | 5 6"), "");
    }

    #[test]
    fn a_lost_place_is_a_gap_until_the_first_event() {
        let at = Timestamp(1);
        let mut thread = Thread::after(Lost { at, last_id: "7".into() });
        thread.connected("", None, false);
        thread.connected("", Some(Reason::NoIds), false);
        let gap = thread.event("8", Timestamp(5)).unwrap();
        assert_eq!((gap.from, gap.last_id.as_str(), gap.missing, gap.reason), (at, "7", None, Reason::PlaceLost));
        thread.read(Timestamp(5));
        thread.connected("8", None, false);
        assert_eq!(thread.event("9", Timestamp(6)), None);
    }
}
