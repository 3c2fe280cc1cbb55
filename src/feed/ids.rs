//! What ids are, as far as events show: whether they rise, and whether they count events.
//!
//! Ids are opaque to the standard. Most of them have an order all the same, and it is taken for proved by what is seen within
//! connections, where nothing is missing: eight ids in a row that rose. Two ids are compared
//! - number by number, where the text between the numbers is the same: `17`, `0017`, `1526919030474-0`, `ts:3`, `evt-00017`, a time;
//! - else letter by letter, where both are letters and digits of one length, whatever parts them: ULID, UUIDv7, an ObjectId, PostgreSQL's
//!   place in its log (`0/16B3748`).
//!
//! They count events where most of them are by one more than the one before, the rest of the id being the same.

use std::cmp::Ordering;

/// Steps in a row after which an order is taken for proved: fewer are easily chance.
pub(super) const STEPS_MIN: u64 = 8;
/// One fall of ids on so many rises does not disprove their order: a server that began anew.
const RISES_A_FALL: u64 = 64;
/// Ids count events as long as at most one step in so many leaves some out, or one so far.
const ONES_A_LEAP: u64 = 4;
/// Numbers from here on are times, not counts, as long as no step says otherwise: seconds since 1970 are as large.
const TIMES_FROM: u64 = 1_000_000_000;
/// Shortest ids that are compared letter by letter, and longest ids that are compared at all.
const LETTERS_MIN: usize = 8;
const BYTES_MAX: usize = 512;
/// An id may be so far behind the position and still be part of what a server sends again; only if it is farther and in the lower half,
/// it looks like one of a new numbering.
const BEHIND_MAX: u64 = 64;

/// The ids of a feed: how they went so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// The first one of this numbering, and the position: the greatest one where they rise, else the last one.
    pub(crate) first: String,
    pub(crate) last: String,
    /// Steps by one, other rises and the greatest of those, and falls, each within a connection.
    pub(crate) ones: u64,
    pub(crate) leaps: u64,
    pub(crate) leap_max: u64,
    pub(crate) falls: u64,
    /// The last one, where it is a number.
    number: Option<u64>,
}

/// How an id follows another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdOrder {
    /// Greater; by so much, where only a number in it differs.
    Up(Option<u64>),
    Same,
    Down,
    /// They have no order.
    Apart,
}

impl IdOrder {
    /// The step where so many ids in between came without an event.
    #[inline]
    pub(super) fn without(self, unseen: u32) -> IdOrder {
        match self {
            IdOrder::Up(Some(up)) => IdOrder::Up(Some(up.saturating_sub(u64::from(unseen)).max(1))),
            step => step,
        }
    }
}

impl Ids {
    /// Ids of which this is known: the first and the last one, steps by one, leaps, the greatest of those, and falls.
    pub(crate) fn of(first: String, last: String, [ones, leaps, leap_max, falls]: [u64; 4]) -> Self {
        let number = plain(&last);
        Ids { first, last, ones, leaps, leap_max, falls, number }
    }

    /// Whether they are proved to rise.
    pub(super) fn rise(&self) -> bool {
        let rises = self.ones.saturating_add(self.leaps);
        rises >= STEPS_MIN && self.falls.saturating_mul(RISES_A_FALL) <= rises
    }

    /// Whether they are proved to count events.
    pub(super) fn count(&self) -> bool {
        self.ones >= STEPS_MIN && self.rise() && self.may_count()
    }

    fn may_count(&self) -> bool {
        self.leaps == 0 || (self.ones > 0 && self.leaps <= (self.ones / ONES_A_LEAP).max(1))
    }

    /// Whether they have risen so far, proved or not.
    pub(super) fn may_rise(&self) -> bool {
        self.ones + self.leaps > 0 && self.falls == 0
    }

    /// How an id follows the position.
    #[inline]
    pub(super) fn step(&self, id: &str) -> IdOrder {
        step(&self.last, id)
    }

    /// Whether events may be missing between the position and an id behind a break that is greater by this.
    pub(super) fn is_hole(&self, up: u64) -> bool {
        match self.ones + self.leaps {
            0 => up > 1 && value(&self.last).is_some_and(|last| last < TIMES_FROM),
            _ if self.may_count() => up > 1,
            _ => up > self.leap_max,
        }
    }

    /// Whether a numbering begins with this id, as far as it is known.
    pub(super) fn begins(&self, id: &str) -> bool {
        let starts = |(last, first): (IdParts<'_>, IdParts<'_>)| first.value <= 1 && last.around() == first.around();
        id == self.first || IdParts::of(&self.last).zip(IdParts::of(id)).is_some_and(starts)
    }

    /// Whether an id lies so far behind the position that it may well be one of a new numbering.
    pub(super) fn is_far_behind(&self, id: &str) -> bool {
        let far = |(last, id): (IdParts<'_>, IdParts<'_>)| {
            last.around() == id.around() && id.value < last.value / 2 && last.value - id.value > BEHIND_MAX
        };
        IdParts::of(&self.last).zip(IdParts::of(id)).is_some_and(far)
    }

    /// The next id of a connection, behind so many that came without an event. Gives the one before if ids, which counted so far, begin anew
    /// with it.
    #[inline]
    pub(super) fn follow(&mut self, id: &str, unseen: u32) -> Option<String> {
        let number = plain(id);
        if let (Some(last), Some(next)) = (self.number, number)
            && last.checked_add(1) == Some(next)
        {
            self.ones = self.ones.saturating_add(1);
            self.put(id, number);
            return None;
        }
        self.follow_otherwise(id, unseen)
    }

    fn follow_otherwise(&mut self, id: &str, unseen: u32) -> Option<String> {
        if self.last.is_empty() {
            if self.first.is_empty() {
                self.first.push_str(id);
            }
            self.set(id);
            return None;
        }
        match self.step(id).without(unseen) {
            IdOrder::Up(Some(1)) => self.ones = self.ones.saturating_add(1),
            IdOrder::Up(up) => {
                self.leaps = self.leaps.saturating_add(1);
                self.leap_max = self.leap_max.max(up.unwrap_or(0));
            }
            IdOrder::Same => return None,
            IdOrder::Down => {
                self.falls = self.falls.saturating_add(1);
                if self.count() {
                    let last = self.last.clone();
                    self.begin(id);
                    return Some(last);
                }
            }
            IdOrder::Apart => self.falls = self.falls.saturating_add(1),
        }
        self.set(id);
        None
    }

    /// The first id behind a break: nothing is known of the step to it.
    pub(super) fn go_on(&mut self, id: &str) {
        self.set(id);
    }

    /// A numbering begins with this id. What ids are is the server's habit, and stays.
    pub(super) fn begin(&mut self, id: &str) {
        self.first.clear();
        self.first.push_str(id);
        self.set(id);
    }

    /// The next id follows nothing.
    pub(super) fn reset(&mut self) {
        self.set("");
    }

    fn set(&mut self, id: &str) {
        self.put(id, plain(id));
    }

    #[inline]
    fn put(&mut self, id: &str, number: Option<u64>) {
        self.last.clear();
        self.last.push_str(id);
        self.number = number;
    }
}

/// How `id` follows `before`.
#[inline]
pub(super) fn step(before: &str, id: &str) -> IdOrder {
    if let (Some(before), Some(id)) = (plain(before), plain(id)) {
        return match id.cmp(&before) {
            Ordering::Greater => IdOrder::Up(Some(id - before)),
            Ordering::Equal => IdOrder::Same,
            Ordering::Less => IdOrder::Down,
        };
    }
    match order(before, id) {
        None => IdOrder::Apart,
        Some(Ordering::Equal) => IdOrder::Same,
        Some(Ordering::Greater) => IdOrder::Down,
        Some(Ordering::Less) => {
            let parts = IdParts::of(before).zip(IdParts::of(id)).filter(|(before, id)| before.around() == id.around());
            IdOrder::Up(parts.and_then(|(before, id)| id.value.checked_sub(before.value)))
        }
    }
}

/// The number that an id is.
#[inline]
fn plain(id: &str) -> Option<u64> {
    if id.is_empty() || id.len() > 19 {
        return None;
    }
    id.bytes().try_fold(0, |number: u64, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

fn value(id: &str) -> Option<u64> {
    IdParts::of(id).map(|parts| parts.value)
}

/// The last number in an id, and what is around it.
struct IdParts<'a> {
    head: &'a str,
    value: u64,
    tail: &'a str,
}

impl<'a> IdParts<'a> {
    fn of(id: &'a str) -> Option<IdParts<'a>> {
        let end = id.rfind(|c: char| c.is_ascii_digit())? + 1;
        let start =
            id[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + id[at..].chars().next().map_or(1, char::len_utf8));
        Some(IdParts { head: &id[..start], value: id[start..end].parse().ok()?, tail: &id[end..] })
    }

    fn around(&self) -> (&'a str, &'a str) {
        (self.head, self.tail)
    }
}

fn order(one: &str, two: &str) -> Option<Ordering> {
    if one.len() > BYTES_MAX || two.len() > BYTES_MAX {
        return None;
    }
    by_numbers(one.as_bytes(), two.as_bytes()).or_else(|| {
        let is_plain =
            |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/' | b':' | b'.'));
        let are_alike = one.len() == two.len() && one.len() >= LETTERS_MIN && is_plain(one) && is_plain(two);
        are_alike.then(|| one.cmp(two))
    })
}

/// The order by the numbers in two texts that are the same otherwise.
fn by_numbers(mut one: &[u8], mut two: &[u8]) -> Option<Ordering> {
    let mut order = Ordering::Equal;
    loop {
        // Ids that are whole JSON documents differ in a few digits: what is the same is passed over in one go.
        let same = alike(one, two);
        (one, two) = (&one[same..], &two[same..]);
        match (one, two) {
            ([], []) => return Some(order),
            ([a, ..], [b, ..]) if a.is_ascii_digit() && b.is_ascii_digit() => {
                let (number, rest) = digits(one);
                let (other, behind) = digits(two);
                order = order.then(number.len().cmp(&other.len()).then(number.cmp(other)));
                (one, two) = (rest, behind);
            }
            _ => return None,
        }
    }
}

/// How much of two texts is the same from their beginning on, up to the number in which they differ or the text between numbers.
fn alike(one: &[u8], two: &[u8]) -> usize {
    const BLOCK: usize = 16;
    let blocks = one.chunks_exact(BLOCK).zip(two.chunks_exact(BLOCK)).take_while(|(one, two)| one == two).count() * BLOCK;
    let same = blocks + one[blocks..].iter().zip(&two[blocks..]).take_while(|(one, two)| one == two).count();
    same - one[..same].iter().rev().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The digits that a text begins with, without zeros in front of them, and the rest.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    (&digits[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_many_kinds_have_an_order() {
        let up = |by| IdOrder::Up(Some(by));
        for (before, id, expected) in [
            ("9", "10", up(1)),
            ("0009", "0010", up(1)),
            ("9", "9", IdOrder::Same),
            ("10", "9", IdOrder::Down),
            ("99999999999999999999", "100000000000000000000", IdOrder::Up(None)),
            ("1526919030474-0", "1526919030474-1", up(1)),
            ("1526919030474-7", "1526919030475-0", IdOrder::Up(None)),
            ("1526919030475-0", "1526919030474-7", IdOrder::Down),
            ("ts:1:9", "ts:1:12", up(3)),
            ("évé-9", "évé-11", up(2)),
            ("evt-9-a", "evt-10-a", up(1)),
            ("2026-03-01T00:00:09Z", "2026-03-01T00:01:00Z", IdOrder::Up(None)),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FBA", IdOrder::Up(None)),
            ("018f2a3b-0000-7000-8000-aaaaaaaaaaaa", "018f2a3c-0000-7000-8000-0aaaaaaaaaaa", IdOrder::Up(None)),
            ("0/0160FFF8", "0/01610008", IdOrder::Up(None)),
            ("0/0160578A", "0/01605780", IdOrder::Down),
            ("a", "b", IdOrder::Apart),
            ("1", "x", IdOrder::Apart),
            ("", "1", IdOrder::Apart),
            ("lamp-a", "lamp-b", IdOrder::Apart),
        ] {
            assert_eq!(step(before, id), expected, "{before} {id}");
        }
        assert_eq!(step(&"1".repeat(BYTES_MAX + 1), &"2".repeat(BYTES_MAX + 1)), IdOrder::Apart);
    }

    fn ids(text: &str) -> Ids {
        let mut ids = Ids::default();
        text.split(' ').for_each(|id| {
            ids.follow(id, 0);
        });
        ids
    }

    fn numbers(range: std::ops::RangeInclusive<u32>) -> String {
        range.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_order_is_proved_by_what_is_seen_and_disproved() {
        for (text, rise, count) in [
            (numbers(1..=8), false, false),
            (numbers(1..=9), true, true),
            // One left out disproves nothing.
            (numbers(1..=9) + " 11 12", true, true),
            ("1 5 9 14 20 28 35 41 50".into(), true, false),
            ("1 2 3 1 2 3 1 2 3 1 2 3 1 2 3".into(), false, false),
            ("01ARZA 01ARZB 01ARZC".into(), false, false),
            (numbers(1..=100) + " 1 2", true, true),
            (numbers(1..=20) + " 1 2", false, false),
            ("lamp door lamp heat door lamp heat lamp door lamp heat".into(), false, false),
        ] {
            assert_eq!((ids(&text).rise(), ids(&text).count()), (rise, count), "{text}");
        }
        let mut long = ids(&numbers(1..=100));
        assert!(long.follow("1", 0).as_deref() == Some("100") && long.follow("2", 0).is_none());
        assert_eq!((long.first.as_str(), long.last.as_str()), ("1", "2"));
    }

    #[test]
    fn a_hole_is_what_ids_do_not_leave_out_by_themselves() {
        for (text, up, expected) in [
            ("5", 1, false),
            ("5", 2, true),
            ("1772323200", 5, false),
            ("1 2", 2, true),
            ("1 2 3 4 6", 2, true),
            ("10 20 30 40", 10, false),
            ("10 20 30 40", 20, true),
        ] {
            assert_eq!(ids(text).is_hole(up), expected, "{text} + {up}");
        }
    }

    #[test]
    fn numberings_begin_with_zero_or_one_or_where_they_began_before() {
        let ids = ids("7-1001 7-1002 7-1003 7-1500");
        for (id, begins, far) in [
            ("7-1001", true, false),
            ("7-1", true, true),
            ("7-0", true, true),
            ("7-2", false, true),
            ("7-900", false, false),
            ("8-1", false, false),
            ("1", false, false),
        ] {
            assert_eq!((ids.begins(id), ids.is_far_behind(id)), (begins, far), "{id}");
        }
    }
}
