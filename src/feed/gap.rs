//! What may have been missed: told of events and connections, finds the stretches of a feed that did not come.

use super::ids::{IdOrder, Ids, step};
use super::recent::Verdict;
use crate::time::Timestamp;

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
    pub reason: GapReason,
}

/// Why events may be missing: the first five and the last, because the feed could not go on where it stopped; the others, because ids
/// say that it did not: surely (`Skipped`), or perhaps (`MaybeSkipped`, `Renumbered`, `FarBehind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    NoIds,
    SharedIds,
    ResumeOff,
    Unsendable,
    Elsewhere,
    Skipped,
    MaybeSkipped,
    Renumbered,
    FarBehind,
    PlaceLost,
}

impl GapReason {
    pub const ALL: [GapReason; 10] = [
        GapReason::NoIds,
        GapReason::SharedIds,
        GapReason::ResumeOff,
        GapReason::Unsendable,
        GapReason::Elsewhere,
        GapReason::Skipped,
        GapReason::MaybeSkipped,
        GapReason::Renumbered,
        GapReason::FarBehind,
        GapReason::PlaceLost,
    ];

    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::NoIds => "no_ids",
            GapReason::SharedIds => "shared_ids",
            GapReason::ResumeOff => "resume_off",
            GapReason::Unsendable => "unsendable",
            GapReason::Elsewhere => "elsewhere",
            GapReason::Skipped => "skipped",
            GapReason::MaybeSkipped => "maybe_skipped",
            GapReason::Renumbered => "renumbered",
            GapReason::FarBehind => "far_behind",
            GapReason::PlaceLost => "place_lost",
        }
    }
}

/// As people are told.
impl std::fmt::Display for GapReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            GapReason::NoIds => "the feed has no id to go on after",
            GapReason::SharedIds => "several events have the same id: the server cannot tell where to go on, and what it sends again counts again",
            GapReason::ResumeOff => "the option 'resume' is off",
            GapReason::Unsendable => "the last id does not fit into a request",
            GapReason::Elsewhere => "the server said that it went on elsewhere",
            GapReason::Skipped => "the server did not go on where it was asked to: ids are left out",
            GapReason::MaybeSkipped => "ids are left out; so far too few of them stepped by one to say that each is an event",
            GapReason::Renumbered => {
                "the server did not go on where it was asked to: ids begin anew, or events come again in another form"
            }
            GapReason::FarBehind => {
                "the server sent events from far behind the last id, and then went on: whether those were new cannot be told, and they do \
                 not count"
            }
            GapReason::PlaceLost => "the place in the feed was lost with the state of the table",
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
pub struct LostPlace {
    /// When the last event came.
    pub at: Timestamp,
    pub last_id: String,
}

/// Follows a feed from event to event, and over its breaks.
#[derive(Debug, Clone, Default)]
pub(super) struct GapTracker {
    /// When the last event came.
    last_at: Option<Timestamp>,
    ids: Ids,
    /// A connection has come about and nothing yet that tells where it goes on.
    broken: Option<Break>,
    /// Until the next event: there is no place to go on from.
    lost: Option<String>,
    /// That events came again unasked for has been told of this connection.
    is_resent: bool,
}

#[derive(Debug, Clone)]
struct Break {
    /// When the last event before it came.
    from: Timestamp,
    /// What the connection was to go on after.
    last_id: String,
    /// Why it does not.
    unresumed: Option<GapReason>,
    /// Events that counted before may be told again.
    may_repeat: bool,
}

/// What an event tells of the feed's course.
#[derive(Debug, Clone, Copy)]
pub(super) struct GapEvidence<'a> {
    pub(super) id: &'a str,
    /// The id is its own.
    pub(super) has_id: bool,
    /// Ids before it that came without an event.
    pub(super) unseen: u32,
    pub(super) verdict: Verdict,
}

impl GapTracker {
    /// Goes on where [`GapTracker::last_at`] and [`GapTracker::ids`] were.
    pub(super) fn of(last_at: Option<Timestamp>, ids: Ids) -> Self {
        GapTracker { last_at, ids, ..GapTracker::default() }
    }

    /// Begins anew after a place that is lost.
    pub(super) fn after(LostPlace { at, last_id }: LostPlace) -> Self {
        GapTracker { last_at: Some(at), lost: Some(last_id), ..GapTracker::default() }
    }

    pub(super) fn last_at(&self) -> Option<Timestamp> {
        self.last_at
    }

    pub(super) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// How often ids fell within a connection.
    #[inline]
    pub(super) fn falls(&self) -> u64 {
        self.ids.falls
    }

    /// A connection has come about that shall go on after `last_id`. `unresumed` says why it does not; where `may_repeat`, events that
    /// counted before are told again.
    pub(super) fn connected(&mut self, last_id: &str, unresumed: Option<GapReason>, may_repeat: bool) {
        self.is_resent = false;
        let Some(last_at) = self.last_at else { return };
        let unresumed = if self.lost.is_some() { Some(GapReason::PlaceLost) } else { unresumed };
        let last_id = self.lost.as_deref().unwrap_or(last_id).into();
        // Of two breaks with nothing that tells between them, the first.
        let from = self.broken.as_ref().map_or(last_at, |broken| broken.from);
        self.broken = Some(Break { from, last_id, unresumed, may_repeat });
    }

    /// An event has come. Gives the gap that it ends.
    #[inline]
    pub(super) fn event(&mut self, told: GapEvidence<'_>, at: Timestamp) -> Option<Gap> {
        match told.verdict {
            Verdict::Repeated | Verdict::Behind => return None,
            Verdict::Resent if std::mem::replace(&mut self.is_resent, true) => return None,
            Verdict::Resent => return self.unbroken(self.ids.last.clone(), told.id, at),
            Verdict::New | Verdict::Anew => {}
        }
        if let Some(broken) = &self.broken {
            return match self.is_due(broken, told) {
                true => self.mend(told, at),
                false => None,
            };
        }
        if told.id.is_empty() {
            if told.has_id {
                self.ids.reset();
            }
        } else if told.has_id {
            let last_id = self.ids.follow(told.id, told.unseen)?;
            return self.unbroken(last_id, told.id, at);
        }
        None
    }

    /// All events up to now have been told.
    pub(super) fn read(&mut self, at: Timestamp) {
        self.last_at = Some(at);
    }

    /// Whether this event shows where the connection goes on. One without an id of its own shows nothing, and one that may be a repetition
    /// neither.
    fn is_due(&self, broken: &Break, told: GapEvidence<'_>) -> bool {
        match told.has_id && !told.id.is_empty() {
            true => {
                let shows = match self.ids.step(told.id) {
                    IdOrder::Up(_) | IdOrder::Apart => true,
                    // Another event under the id of the position.
                    IdOrder::Same => told.verdict == Verdict::Anew,
                    IdOrder::Down => !broken.may_repeat,
                };
                shows || broken.unresumed.is_some()
            }
            false => broken.unresumed.is_some() && !self.ids.count(),
        }
    }

    /// The gap between the last connection and this one, if there is one.
    fn mend(&mut self, told: GapEvidence<'_>, at: Timestamp) -> Option<Gap> {
        let Break { from, last_id, unresumed, may_repeat } = self.broken.take()?;
        self.lost = None;
        let (to, next_id) = (at, told.id.to_string());
        if !told.has_id || told.id.is_empty() {
            return Some(Gap { from, to, last_id, next_id, missing: None, reason: unresumed? });
        }
        // Where a server was cut off while it sent again what was there, the last id lies behind the position.
        let is_ahead = self.ids.last.is_empty() || matches!(self.ids.step(&last_id), IdOrder::Up(_));
        let last_id = if is_ahead || unresumed == Some(GapReason::PlaceLost) { last_id } else { self.ids.last.clone() };
        let step = step(&last_id, told.id).without(told.unseen);
        let counts = self.ids.count();
        let hole = if let IdOrder::Up(Some(up)) = step { Some(up).filter(|up| self.ids.is_hole(*up)) } else { None };
        let begins_anew = match step {
            _ if told.verdict == Verdict::Anew => true,
            IdOrder::Up(Some(_)) => false,
            IdOrder::Up(None) => counts,
            IdOrder::Same => false,
            IdOrder::Down => !may_repeat,
            IdOrder::Apart => counts && !may_repeat && !last_id.is_empty(),
        };
        let reason = match hole {
            _ if counts && step == IdOrder::Up(Some(1)) => None,
            _ if begins_anew => unresumed.or(Some(GapReason::Renumbered)),
            Some(_) if counts => unresumed.or(Some(GapReason::Skipped)),
            Some(_) => unresumed.or(Some(GapReason::MaybeSkipped)),
            None => unresumed,
        };
        match step {
            IdOrder::Apart => self.ids = Ids::default(),
            _ if begins_anew => self.ids.begin(told.id),
            _ => {}
        }
        self.ids.go_on(told.id);
        let missing = hole.filter(|_| !begins_anew).map(|up| up - 1);
        Some(Gap { from, to, last_id, next_id, missing, reason: reason? })
    }

    /// A gap within a connection.
    fn unbroken(&self, last_id: String, next_id: &str, at: Timestamp) -> Option<Gap> {
        let from = self.last_at.unwrap_or(at);
        Some(Gap { from, to: at, last_id, next_id: next_id.into(), missing: None, reason: GapReason::Renumbered })
    }

    /// The gap of events that did not count though they may have been new, told by the first event behind them that counts.
    pub(super) fn far_behind(&self, before: &str, next_id: &str, at: Timestamp) -> Gap {
        let from = self.last_at.unwrap_or(at);
        Gap { from, to: at, last_id: before.into(), next_id: next_id.into(), missing: None, reason: GapReason::FarBehind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells events by their ids, `-` for none, `+` for one that inherits it, one a second. `|` is a connection that resumes, `|reason` one
    /// that does not, `|?` one that resumes and may repeat; `4!` is an id without an event. Gives the gaps as `last..next missing reason`.
    fn gaps(script: &str) -> String {
        let mut thread = GapTracker::default();
        let (mut last_id, mut gaps, mut unseen) = (String::new(), Vec::new(), 0);
        for (second, word) in (1..).zip(script.split(' ')) {
            let at = Timestamp(second * 1_000_000_000);
            if let Some(how) = word.strip_prefix('|') {
                let reason = GapReason::ALL.into_iter().find(|reason| reason.as_str() == how);
                // What is saved and read again makes no difference.
                if thread.broken.is_none() {
                    thread = GapTracker::of(thread.last_at(), thread.ids().clone());
                }
                thread.connected(&last_id, reason, how == "?");
                unseen = 0;
            } else if let Some(id) = word.strip_suffix('!') {
                last_id = id.into();
                unseen += 1;
            } else {
                let has_id = word != "+" && (word != "-" || !last_id.is_empty());
                if word != "+" {
                    last_id = word.trim_start_matches('-').into();
                }
                let told = GapEvidence { id: &last_id, has_id, unseen: std::mem::take(&mut unseen), verdict: Verdict::New };
                gaps.extend(thread.event(told, at));
                thread.read(at);
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
            ("{} | 10 11", ""),
            ("{} | 12", "9..12 2 skipped"),
            ("{} | 12 13 | 14 | 20", "9..12 2 skipped, 14..20 5 skipped"),
            ("{} | 1 2 | 3 | 9", "9..1 ? renumbered, 3..9 5 skipped"),
            ("{} | x | y", "9..x ? renumbered"),
            ("{} |? 8 9 10 |? 13", "10..13 2 skipped"),
            // Before ids have proved what they are, a gap is perhaps one.
            ("| 5 | 9", "5..9 3 maybe_skipped"),
            ("| 1 2 | 9", "2..9 6 maybe_skipped"),
            ("| 1 2 | 3", ""),
            ("| 5 6 | 1", "6..1 ? renumbered"),
            // One that is left out, or comes twice, does not end it.
            ("{} 11 | 20", "11..20 8 skipped"),
            ("{} 9 | 20", "9..20 10 skipped"),
            // Numbers that leave many out by themselves do not count: only more than ever is remarkable.
            ("| 10 20 31 | 41", ""),
            ("| 10 20 31 | 60", "31..60 28 maybe_skipped"),
            ("| 1772323200000 | 1772323205000", ""),
            ("| 5-1 5-2 5-3 5-4 5-5 5-6 5-7 5-8 5-9 | 6-1", "5-9..6-1 ? renumbered"),
            ("| 5-1 5-2 5-3 5-4 5-5 5-6 5-7 5-8 5-9 | 5-12", "5-9..5-12 2 skipped"),
            ("| 0001 0002 0003 0004 0005 0006 0007 0008 0009 | 0010 | 0012", "0010..0012 1 skipped"),
            // Whatever inherits its id tells nothing.
            ("{} + + | + + 10 + 11 | + 14", "11..14 2 skipped"),
            ("{} + | + | + 12", "9..12 2 skipped"),
            // There was no event, or one too large.
            ("{} 10! | 11", ""),
            ("{} | 10! 11", ""),
            ("{} | 12! 13", "9..13 2 skipped"),
            ("{} 10! 11 | 13", "11..13 1 skipped"),
            ("{} 11! | 10! + 12", ""),
            // The next one follows nothing.
            ("{} - | 3", ""),
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
            ("a + + |resume_off + + b", "a..a ? resume_off"),
            ("{} |resume_off + + 10", ""),
            ("{} |resume_off + + 12", "9..12 2 resume_off"),
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
        let mut thread = GapTracker::after(LostPlace { at, last_id: "7".into() });
        thread.connected("", None, false);
        thread.connected("", Some(GapReason::NoIds), false);
        let told = |id| GapEvidence { id, has_id: true, unseen: 0, verdict: Verdict::New };
        let gap = thread.event(told("8"), Timestamp(5)).unwrap();
        assert_eq!((gap.from, gap.last_id.as_str(), gap.missing, gap.reason), (at, "7", None, GapReason::PlaceLost));
        thread.read(Timestamp(5));
        thread.connected("8", None, false);
        assert_eq!(thread.event(told("9"), Timestamp(6)), None);
    }
}
