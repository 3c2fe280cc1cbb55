//! The course of a feed over its connections: which events count, and where some may be missing.
//!
//! The standard promises nothing about ids: a server may go on exactly behind the id that it is asked for, with that event once more, a
//! little or far before it, or wherever it is just now; it may number from one again, and render an event anew. Only what comes shows it.
//!
//! **An event** is its id, a digest of its type and data, and its place among the events under that id: the one that gives it, the first
//! that inherits it and says this, the second, … Whatever inherits its id says nothing about ids.
//!
//! **What is known of ids** ([`super::ids`]): they *rise*, or *count* events, once eight steps within connections say so and as long as few
//! contradict.
//!
//! **Which events count.** On a new connection, until it has passed the position (the greatest id), against those remembered:
//!
//! | the event is | ids rise | else |
//! |---|---|---|
//! | known with its content | once | once, as long as ids are unique |
//! | known by its id, its content is another | once: rendered anew (warned of) | both; a gap |
//! | … as the first that is sent again, and its id begins a numbering, is far behind, or the server renders the same | both: ids begin anew; a gap | both; a gap |
//! | not remembered, at or below the position | once, however far back (a gap where nothing behind it is recognised); where all around it is remembered it was left out before, and counts | counts; a gap |
//! | not remembered, begins a numbering | ids begin anew; a gap | counts; a gap |
//! | above the position | counts | counts |
//!
//! Ids that are not unique (a device's name) are no cursors: everything counts, and each break is a gap. An event without an id of its own at the start of a
//! connection is looked for first behind the id that was asked for, then behind earlier ones.
//!
//! **Which gaps are told** ([`super::gap`]). By the first event with an id of its own that counts: none where ids count and it is the next
//! one, not even where the feed could not resume; surely some events where ids count and leave more out; perhaps where too few ids came
//! to say (`maybe_skipped`), or where ids fall (`renumbered`). A feed that could not resume has a gap, whatever its ids, unless they
//! disprove it. How much is missing counts from the position, not from the last id: a server may be cut off while it sends again.

use super::gap::{Gap, GapEvidence, GapReason, GapTracker, LostPlace};
use super::ids::Ids;
use super::parser::Event;
use super::recent::{Memory, RecentEvents, Rendering, Verdict};
use crate::time::Timestamp;

/// What is known of a feed's course.
#[derive(Debug)]
pub(super) struct Course {
    /// `None` where ids are no cursors, or not to be remembered.
    recent: Option<RecentEvents>,
    thread: GapTracker,
    /// Where the end of a read may be taken back: the last one.
    last_read: Option<LastRead>,
}

/// What a read has brought, and where the feed was before it.
#[derive(Debug, Default)]
struct LastRead {
    last_id: String,
    thread: GapTracker,
    came: Vec<CountedEvent>,
}

/// An event that counted.
#[derive(Debug)]
struct CountedEvent {
    id: String,
    has_id: bool,
    unseen: u32,
    verdict: Verdict,
    is_remembered: bool,
    is_wanted: bool,
}

/// An event as the course sees it.
pub(super) struct Seen {
    /// It came before, and does not count.
    pub(super) is_repeated: bool,
    /// The gap that it ends.
    pub(super) gap: Option<Gap>,
}

impl Course {
    /// At the beginning; events are remembered where `remembers`.
    pub(super) fn new(remembers: bool) -> Self {
        Course { recent: remembers.then(RecentEvents::default), thread: GapTracker::default(), last_read: None }
    }

    /// Goes on from what [`Course::memory`], [`Course::ids`] and [`Course::last_at`] gave.
    pub(super) fn resume_at(&mut self, memory: &Memory, ids: &Ids, last_at: Option<Timestamp>) {
        self.recent = self.recent.take().map(|_| RecentEvents::of(memory));
        self.thread = GapTracker::of(last_at, ids.clone());
    }

    /// Begins anew after a place that is lost.
    pub(super) fn begin_after(&mut self, lost: LostPlace) {
        self.thread = GapTracker::after(lost);
    }

    /// From now on events are remembered, or not.
    pub(super) fn remember(&mut self, remembers: bool) {
        self.recent = remembers.then(|| self.recent.take().unwrap_or_default());
    }

    pub(super) fn memory(&self) -> Memory {
        self.recent.as_ref().map(RecentEvents::memory).unwrap_or_default()
    }

    pub(super) fn ids(&self) -> &Ids {
        self.thread.ids()
    }

    pub(super) fn last_at(&self) -> Option<Timestamp> {
        self.thread.last_at()
    }

    /// Whether the server has sent known ids with other contents, which were taken for the same events.
    pub(super) fn is_rendered_anew(&self) -> bool {
        self.recent.as_ref().is_some_and(|recent| recent.renders() == Rendering::Anew)
    }

    /// A connection has come about that shall go on after `last_id`; `unresumed` says why it does not.
    pub(super) fn connected(&mut self, last_id: &str, unresumed: Option<GapReason>) {
        let mut unresumed = unresumed;
        if let Some(recent) = &mut self.recent {
            recent.connected(last_id, self.thread.ids());
            if !recent.has_cursors(self.thread.ids()) {
                unresumed = unresumed.or(Some(GapReason::SharedIds));
            }
        }
        self.thread.connected(last_id, unresumed, self.recent.is_none());
    }

    /// A read begins, with this last id.
    pub(super) fn begin_read(&mut self, last_id: &str) {
        self.recent.iter_mut().for_each(RecentEvents::begin_read);
        let Some(read) = &mut self.last_read else { return };
        read.last_id.clear();
        read.last_id.push_str(last_id);
        read.thread.clone_from(&self.thread);
        read.came.clear();
        self.recent.iter_mut().for_each(RecentEvents::settle);
    }

    /// An event has come.
    #[inline]
    pub(super) fn event(&mut self, event: &Event<'_>, is_wanted: impl FnOnce() -> bool, at: Timestamp) -> Seen {
        let (verdict, is_remembered) = match &mut self.recent {
            Some(recent) => recent.judge(event, self.thread.ids()),
            None => (Verdict::New, false),
        };
        let was_falling = self.thread.falls();
        let counts_anew = matches!(verdict, Verdict::New | Verdict::Anew) && event.has_id;
        let doubtful = self.recent.as_mut().filter(|_| counts_anew).is_some_and(RecentEvents::take_doubt);
        let far_behind = doubtful.then(|| self.thread.far_behind(&self.thread.ids().last, event.id, at));
        let gap = self
            .thread
            .event(GapEvidence { id: event.id, has_id: event.has_id, unseen: event.unseen, verdict }, at)
            .or(far_behind);
        if matches!(verdict, Verdict::Repeated | Verdict::Resent) {
            return Seen { is_repeated: true, gap };
        }
        if gap.is_some() && self.thread.falls() > was_falling {
            self.recent.iter_mut().for_each(RecentEvents::began_anew);
        }
        match &mut self.last_read {
            Some(read) => {
                let (id, has_id, unseen, is_wanted) = (event.id.into(), event.has_id, event.unseen, is_wanted());
                read.came.push(CountedEvent { id, has_id, unseen, verdict, is_remembered, is_wanted });
            }
            None => self.recent.iter_mut().for_each(RecentEvents::settle),
        }
        Seen { is_repeated: false, gap }
    }

    /// All events up to now have come.
    pub(super) fn read(&mut self, at: Timestamp) {
        self.thread.read(at);
    }

    /// Whether the end of a read may be taken back; from the next one on.
    pub(super) fn may_take_back(&mut self, may: bool) {
        self.last_read = may.then(LastRead::default);
    }

    /// Of the wanted events of the last read only so many count; see [`super::Feed::take_back_all_but`]. Gives the last id of those; `None`
    /// if no more came.
    pub(super) fn take_back_all_but(&mut self, wanted: usize) -> Option<String> {
        let mut read = self.last_read.as_mut().map(std::mem::take)?;
        let (counted, _) = read.came.iter().enumerate().filter(|(_, came)| came.is_wanted).nth(wanted)?;
        let at = self.thread.last_at()?;
        let (counted, taken_back) = read.came.split_at(counted);
        if let Some(recent) = &mut self.recent {
            recent.forget(taken_back.iter().filter(|came| came.is_remembered).count());
        }
        for CountedEvent { id, has_id, unseen, verdict, .. } in counted {
            // What it has found was told when it came.
            let _ = read.thread.event(GapEvidence { id, has_id: *has_id, unseen: *unseen, verdict: *verdict }, at);
        }
        if !counted.is_empty() {
            read.thread.read(at);
        }
        self.thread = read.thread;
        Some(counted.last().map_or(read.last_id, |came| came.id.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A course told by a script. `|` is a connection, `7:a` an event with an id, `+a` one that inherits it, `3..5` the events 3 to 5, and
    /// `3..5'` the same with other contents. Gives what counts, ranges drawn together, and the gaps.
    fn told(script: &str) -> (String, String) {
        let mut course = Course::new(true);
        let (mut last_id, mut counted, mut gaps) = (String::new(), Vec::<String>::new(), Vec::new());
        let mut second = 0;
        for word in script.split(' ') {
            second += 1;
            let at = Timestamp(second * 1_000_000_000);
            let events: Vec<(Option<String>, String)> = match (word.split_once(".."), word.split_once(':')) {
                _ if word == "|" => {
                    // A restart from a checkpoint makes no difference.
                    let (memory, ids, last_at) = (course.memory(), course.ids().clone(), course.last_at());
                    course = Course::new(true);
                    course.resume_at(&memory, &ids, last_at);
                    let unresumed = last_id.is_empty().then_some(GapReason::NoIds);
                    course.connected(&last_id, unresumed);
                    continue;
                }
                (Some((from, to)), _) => {
                    let (to, mark) = to.strip_suffix('\'').map_or((to, ""), |to| (to, "'"));
                    let numbers = from.parse::<u64>().unwrap()..=to.parse::<u64>().unwrap();
                    numbers.map(|number| (Some(number.to_string()), format!("{number}{mark}"))).collect()
                }
                (None, Some((id, data))) => vec![(Some(id.into()), data.into())],
                (None, None) => vec![(None, word.trim_start_matches('+').into())],
            };
            course.begin_read(&last_id);
            for (id, data) in events {
                let has_id = id.is_some();
                last_id = id.unwrap_or(last_id);
                let seen = course.event(&Event { kind: "message", data: &data, id: &last_id, has_id, unseen: 0 }, || true, at);
                gaps.extend(seen.gap);
                if !seen.is_repeated {
                    counted.push(data);
                }
            }
            course.read(at);
        }
        let shown = |gap: &Gap| {
            let missing = gap.missing.map(|missing| missing.to_string()).unwrap_or("?".into());
            format!("{}..{} {missing} {}", gap.last_id, gap.next_id, gap.reason.as_str())
        };
        (drawn_together(&counted), gaps.iter().map(shown).collect::<Vec<_>>().join(", "))
    }

    /// Events of which some inherit their id come once however far back a server begins again, and wherever it is cut off.
    #[test]
    fn events_that_inherit_their_id_come_once_whatever_a_server_sends_again() {
        for seed in 0..2_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut behind = vec![0];
            let mut texts = Vec::new();
            for number in 0..60 {
                if number > 0 && rng.u8(..6) == 0 {
                    texts.push(format!("+e{number}"));
                } else {
                    behind.push(number + 1);
                    texts.push(format!("{}:e{number}", behind.len() - 1));
                }
            }
            let (mut script, mut asked, mut pings) = (vec!["|".to_string()], 0, 0);
            while asked < texts.len() {
                let from = asked - rng.usize(..20).min(asked);
                let cut = rng.u8(..16) == 0 && from < asked;
                let to = if cut { rng.usize(from..asked) } else { (asked + rng.usize(1..30)).min(texts.len()) };
                for text in &texts[from..to] {
                    script.push(text.clone());
                    if rng.u8(..20) == 0 {
                        pings += 1;
                        script.push(format!("+ping{pings}"));
                    }
                }
                // Behind the event that gave the last id of this connection, or of the one before.
                let last = texts[from..to].iter().rposition(|text| !text.starts_with('+')).map(|at| from + at + 1);
                asked = last.unwrap_or(asked);
                if to == texts.len() {
                    break;
                }
                script.push("|".into());
            }
            let script = script.join(" ");
            let counted = told(&script).0;
            let mut events: Vec<&str> = counted.split(' ').filter(|word| !word.starts_with("ping")).collect();
            let all: Vec<String> = (0..60).map(|number| format!("e{number}")).collect();
            if events != all {
                events.retain(|event| counted.split(' ').filter(|word| word == event).count() != 1);
                panic!("seed {seed}: {events:?} of {counted}\n{script}");
            }
        }
    }

    #[test]
    fn events_that_share_a_rising_id_all_count_though_many_came_in_one_read() {
        let mut course = Course::new(true);
        let mut counts = |numbers: std::ops::Range<u64>, last_id: &str| {
            if !last_id.is_empty() {
                course.connected(last_id, None);
            }
            course.begin_read(last_id);
            let mut counted = Vec::new();
            for number in numbers {
                let (id, data) = ((1_000 + number / 6).to_string(), number.to_string());
                let event = Event { kind: "message", data: &data, id: &id, has_id: true, unseen: 0 };
                if !course.event(&event, || true, Timestamp(1)).is_repeated {
                    counted.push(number);
                }
            }
            course.read(Timestamp(1));
            counted
        };
        assert_eq!(counts(0..303, ""), (0..303).collect::<Vec<_>>());
        assert_eq!(counts(300..606, "1050"), (303..606).collect::<Vec<_>>());
        assert_eq!(counts(607..900, "1100"), (607..900).collect::<Vec<_>>());
    }

    /// `1 2 3 x` as `1..3 x`.
    fn drawn_together(words: &[String]) -> String {
        let number = |word: &str| word.trim_end_matches('\'').parse::<u64>().ok().map(|number| (number, word.ends_with('\'')));
        let follows =
            |one: &String, next: &String| number(one).zip(number(next)).is_some_and(|(one, next)| (one.0 + 1, one.1) == next);
        let runs = words.chunk_by(follows).map(|run| match run {
            [one] => one.clone(),
            [first, .., last] => format!("{}..{last}", first.trim_end_matches('\'')),
            [] => unreachable!("a run has a word"),
        });
        runs.collect::<Vec<_>>().join(" ")
    }

    fn check(cases: &[(&str, &str, &str)]) {
        for (script, counted, gaps) in cases {
            assert_eq!(told(script), ((*counted).to_string(), (*gaps).to_string()), "{script}");
        }
    }

    #[test]
    fn what_is_sent_again_counts_once() {
        check(&[
            ("1:a 2:b 3:c | 2:b 3:c 4:d", "a b c d", ""),
            ("1:a 2:b | 1:a 2:b | 2:b 3:c", "a b c", ""),
            ("a:1x b:2x | b:2x c:3x", "1x 2x 3x", ""),
            ("1..20 | 20..25", "1..25", ""),
            ("1..20 | 1..25 | 10..30", "1..30", ""),
            // However far back.
            ("1..5000 | 1..5010", "1..5010", ""),
            ("1..5000 | 2000..5010", "1..5010", ""),
            // A server that goes back to before the beginning tells what nobody has seen.
            ("5..30 | 3..31", "5..30 3..4 31", ""),
        ]);
    }

    #[test]
    fn an_event_is_its_id_and_its_place_within_that_id() {
        check(&[
            ("1:a +p 2:b +q 3:c | 1:a +p 2:b +q 3:c +r 4:d", "a p b q c r d", ""),
            ("1..9 +p 10..12 +q 13..14 | 11..12 +q 13..14 +r 15..16", "1..9 p 10..12 q 13..14 r 15..16", ""),
            // Two that say the same under one id are two.
            ("1:a +p +p 2:b | 1:a +p +p +p 2:b 3:c", "a p p b p c", ""),
            // A server that goes on behind the id sends again what inherited it, and one cut in an earlier id as well.
            ("1:a 2:b +p +q | +p +q +r 3:c", "a b p q r c", ""),
            ("1..9 +p +q 10..12 | +q 10..12 +r 13..14", "1..9 p q 10..12 r 13..14", ""),
            // Pings come when they come.
            ("1:a 2:b +ping +q +r 3:c | 2:b +q +ping +r +ping 3:c 4:d", "a b ping q r c ping d", ""),
            ("1:a 2:b +ping +q +ping | +q +ping +ping +ping +r 3:c", "a b ping q ping ping r c", ""),
            // Several that give the same id.
            ("1:a 2:b 2:c 3:d | 2:b 2:c 3:d 3:e 4:f", "a b c d e f", ""),
            ("1..9 10:a 10:b | 10:b 11:c", "1..9 a b c", ""),
            // Transactions of several events, whose names have no order.
            ("tq:1 tq:2 td:3 tx:4 tx:5 ta:6 tl:7 tk:8 tw:9 te:10 te:11 | te:10 te:11 te:12 tc:13", "1..13", ""),
        ]);
    }

    #[test]
    fn events_that_say_the_same_later_are_other_events() {
        check(&[
            ("1:a 1:a", "a a", ""),
            ("1:a 2:b | 3:c 2:b", "a b c b", ""),
            (":a :b | :a :b", "a b a b", ".. ? no_ids"),
            // A device's name is no cursor.
            ("x:a x:b | x:b x:c", "a b b c", "x..x ? shared_ids"),
            ("x:a y:b x:c | y:b", "a b c b", "x..y ? shared_ids"),
            // An id once, and none any more.
            ("1:a +b +b +c | +d +b +c", "a b b c d b c", ""),
        ]);
    }

    #[test]
    fn a_numbering_that_begins_anew_counts_and_leaves_a_gap() {
        let renumbered = |last, next| format!("{last}..{next} ? renumbered");
        check(&[
            ("1:a 2:b 3:c | 1:d 2:e 3:f 4:g", "a b c d e f g", &renumbered(3, 1)),
            ("1..20 | 1..12'", "1..20 1..12'", &renumbered(20, 1)),
            ("1..20 | 1..30'", "1..20 1..30'", &renumbered(20, 1)),
            ("1..20 | 1..12' | 10..14' | 14..15'", "1..20 1..15'", &renumbered(20, 1)),
            ("1..5000 | 1..12'", "1..5000 1..12'", &renumbered(5000, 1)),
            ("1001..1020 | 1001..1012'", "1001..1020 1001..1012'", &renumbered(1020, 1001)),
            ("500..600 | 1..12'", "500..600 1..12'", &renumbered(600, 1)),
            // Its first event may say what the first one of before did.
            ("1:boot 2..20 | 1:boot 2..9'", "boot 2..20 2..9'", &renumbered(20, 2)),
            // Whoever comes too late for its beginning.
            ("1..900 | 37..40'", "1..900 37..40'", &renumbered(900, 37)),
            // Within a connection, behind a relay.
            ("1..100 1..12' | 12..15'", "1..100 1..15'", &renumbered(100, 1)),
        ]);
    }

    #[test]
    fn an_event_that_is_rendered_anew_counts_once() {
        check(&[
            ("1..100 | 90..100' 101..110'", "1..100 101..110'", ""),
            ("1..100 | 100..100' 101..110'", "1..100 101..110'", ""),
            ("1..100 | 90..95 96..100' 101..101'", "1..100 101'", ""),
            // Known to do so, it may do so from the beginning.
            ("1..100 | 90..110' | 1..115", "1..100 101..110' 111..115", ""),
            // Too few ids to say that they rise.
            ("1:a 2:b | 2:other", "a b other", "2..2 ? renumbered"),
            ("u1x:a u2y:b u3z:c | u3z:d", "a b c d", "u3z..u3z ? renumbered"),
        ]);
    }

    #[test]
    fn a_cut_within_what_is_sent_again_is_no_gap() {
        check(&[
            ("1..30 | 20..25 | 31..33", "1..33", ""),
            ("1..30 | 20..25 | 24..27 | 31..31", "1..31", ""),
            ("1..30 | 20..25 | 33..34", "1..30 33..34", "30..33 2 skipped"),
            ("1..30 +p | 29..29 | 30..30 +p 31..32", "1..30 p 31..32", ""),
        ]);
    }

    #[test]
    fn a_server_that_cannot_resume_leaves_a_gap() {
        check(&[
            ("1..3 | 103..110", "1..3 103..110", "3..103 99 maybe_skipped"),
            ("1..20 22..40 | 141..150", "1..20 22..40 141..150", "40..141 100 skipped"),
            // Far behind, and on again: nobody can tell what those were.
            ("1..3000 | 500..502' 3001..3002", "1..3002", "3000..3001 ? far_behind"),
            ("1..3000 | 500..502' | 3001..3002", "1..3002", "3000..3001 ? far_behind"),
            // What was missing may come after all.
            ("1..20 | 24..30 | 18..32", "1..20 24..30 21..23 31..32", "20..24 3 skipped"),
        ]);
    }

    #[test]
    fn ids_without_an_order_tell_when_more_came_again_than_is_remembered() {
        let ids: Vec<String> = (0_u32..4000).map(|number| format!("{:x}:{number}", number.wrapping_mul(0x9E37_79B1))).collect();
        let all = ids.join(" ");
        let (counted, gaps) = told(&format!("{all} | {} n:5000", ids[3000..].join(" ")));
        assert_eq!((counted.as_str(), gaps.as_str()), ("0..3999 5000", ""));
        let (counted, gaps) = told(&format!("{all} | {all} | {all}"));
        assert!(counted.starts_with("0..3999 1"), "{counted}");
        assert_eq!(gaps.matches("renumbered").count(), 2, "{gaps}");
    }

    #[test]
    fn what_is_taken_back_counts_again_and_what_came_before_it_does_not() {
        let mut course = Course::new(true);
        course.may_take_back(true);
        let give = |course: &mut Course, ids: std::ops::RangeInclusive<u64>| -> Vec<u64> {
            course.begin_read("0");
            let counts = |id: &u64| {
                let id = id.to_string();
                let event = Event { kind: "message", data: "", id: &id, has_id: true, unseen: 0 };
                !course.event(&event, || true, Timestamp(1)).is_repeated
            };
            let counted = ids.filter(counts).collect();
            course.read(Timestamp(1));
            counted
        };
        give(&mut course, 1..=2000);
        give(&mut course, 2001..=4000);
        assert_eq!(course.take_back_all_but(3).as_deref(), Some("2003"));
        course.connected("2003", None);
        assert_eq!(give(&mut course, 1500..=2010), [2004, 2005, 2006, 2007, 2008, 2009, 2010]);
        assert_eq!(course.take_back_all_but(7), None);
    }
}
