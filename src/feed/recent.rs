//! The events seen last, so that those a server sends again after a reconnect count once.

use std::collections::{HashSet, VecDeque};

use super::parser::Event;

/// Events remembered: more than servers go back when they resume a little too early.
const EVENTS_MAX: usize = 1024;

/// Recognises what is sent again at the start of a new connection.
///
/// Only where ids are cursors: as long as no two of the remembered events share an id. A repetition has the same id, type and data
/// (told by length and ends), and ends with the first event that is none.
#[derive(Debug, Default)]
pub(super) struct Recent {
    seen: VecDeque<Mark>,
    /// What may be sent again; empty once something new has come.
    expected: HashSet<Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Mark {
    id: u64,
    content: u64,
}

impl Recent {
    /// What is remembered: the hashes of id and content of each event, the latest last.
    pub(super) fn marks(&self) -> Vec<(u64, u64)> {
        self.seen.range(self.seen.len().saturating_sub(EVENTS_MAX)..).map(|mark| (mark.id, mark.content)).collect()
    }

    /// Remembers what [`Recent::marks`] gave.
    pub(super) fn of(marks: &[(u64, u64)]) -> Self {
        let latest = &marks[marks.len().saturating_sub(EVENTS_MAX)..];
        let seen = latest.iter().map(|(id, content)| Mark { id: *id, content: *content }).collect();
        Recent { seen, expected: HashSet::new() }
    }

    /// A new connection resumes where the last one was lost.
    pub(super) fn reconnected(&mut self) {
        let ids: HashSet<u64> = self.seen.iter().map(|mark| mark.id).collect();
        self.expected = match ids.len() == self.seen.len() {
            true => self.seen.iter().copied().collect(),
            false => HashSet::new(),
        };
    }

    /// Forgets the last ones: they are to come again.
    pub(super) fn forget(&mut self, events: usize) {
        self.seen.truncate(self.seen.len().saturating_sub(events));
    }

    /// Lets go what is too old. Until then [`Recent::forget`] leaves as much as there was before.
    #[inline]
    pub(super) fn settle(&mut self) {
        while self.seen.len() > EVENTS_MAX {
            self.seen.pop_front();
        }
    }

    /// Whether the event has been seen before; remembers it if not.
    #[inline]
    pub(super) fn is_repeated(&mut self, event: &Event<'_>) -> bool {
        if event.id.is_empty() {
            self.expected.clear();
            return false;
        }
        let mark = Mark::of(event);
        if !self.expected.is_empty() {
            if self.expected.contains(&mark) {
                return true;
            }
            self.expected.clear();
        }
        self.seen.push_back(mark);
        false
    }
}

impl Mark {
    fn of(event: &Event<'_>) -> Mark {
        let data = event.data.as_bytes();
        let (head, tail) = (&data[..data.len().min(16)], &data[data.len().saturating_sub(16)..]);
        let lengths = data.len() as u64 ^ (event.kind.len() as u64).rotate_right(16);
        let content = mix(mix(mix(lengths, head), tail), event.kind.as_bytes());
        Mark { id: mix(event.id.len() as u64, event.id.as_bytes()), content }
    }
}

/// Odd numbers without a pattern: 2⁶⁴ divided by the golden ratio and by the square root of three.
const SPREAD: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0x93CD_3A2C_8198_E269];

/// A quick hash, a multiplication for sixteen bytes: nothing but the server's own feed depends on how well it is spread.
#[inline]
fn mix(seed: u64, bytes: &[u8]) -> u64 {
    let (mut hash, mut rest) = (seed, bytes);
    while let Some((block, behind)) = rest.split_first_chunk::<16>() {
        hash = fold(hash, u128::from_le_bytes(*block));
        rest = behind;
    }
    match rest {
        [] => hash,
        _ => fold(hash, short(rest)),
    }
}

/// Up to fifteen bytes as one word; which of them stand in it twice depends on their number only.
#[inline]
fn short(bytes: &[u8]) -> u128 {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return u128::from(u64::from_le_bytes(*first)) << 64 | u128::from(u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return u128::from(u32::from_le_bytes(*first)) << 64 | u128::from(u32::from_le_bytes(*last));
    }
    bytes.iter().fold(0, |word, byte| word << 8 | u128::from(*byte))
}

#[inline]
fn fold(hash: u64, word: u128) -> u64 {
    let (low, high) = (word as u64 ^ hash ^ SPREAD[0], (word >> 64) as u64 ^ hash.rotate_left(32) ^ SPREAD[1]);
    let product = u128::from(low) * u128::from(high);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds events written as `id:data` and gives the data of those that count; `|` is a reconnect.
    fn counted(script: &str) -> String {
        let mut recent = Recent::default();
        let mut counted = Vec::new();
        for word in script.split(' ') {
            match word.split_once(':') {
                None => recent.reconnected(),
                Some((id, data)) if !recent.is_repeated(&Event { kind: "message", data, id }) => counted.push(data),
                Some(_) => {}
            }
        }
        counted.join(" ")
    }

    #[test]
    fn only_what_is_sent_again_after_a_reconnect_is_dropped() {
        for (script, expected) in [
            ("1:a 2:b 3:c | 2:b 3:c 4:d", "a b c d"),
            ("1:a 2:b | 1:a 2:b | 2:b 3:c", "a b c"),
            ("1:a 2:b | 3:c 2:b", "a b c b"),
            ("1:a 2:b | 2:other", "a b other"),
            ("x:a x:b | x:b x:c", "a b b c"),
            ("x:a y:b x:c | y:b", "a b c b"),
            (":a :b | :a :b", "a b a b"),
            ("1:a 1:a", "a a"),
        ] {
            assert_eq!(counted(script), expected, "{script}");
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut recent = Recent::default();
        for number in 0..10 * EVENTS_MAX {
            assert!(!recent.is_repeated(&Event { kind: "message", data: "", id: &number.to_string() }));
            recent.settle();
        }
        assert_eq!(recent.seen.len(), EVENTS_MAX);
    }

    #[test]
    fn what_is_forgotten_counts_again_and_what_came_before_it_does_not() {
        let mut recent = Recent::default();
        let is_repeated = |recent: &mut Recent, number: usize| {
            recent.is_repeated(&Event { kind: "message", data: "", id: &number.to_string() })
        };
        let last = 4 * EVENTS_MAX;
        for number in 0..last {
            assert!(!is_repeated(&mut recent, number));
            if number < 2 * EVENTS_MAX {
                recent.settle();
            }
        }
        recent.forget(last - 2 * EVENTS_MAX);
        recent.settle();
        recent.reconnected();
        for number in EVENTS_MAX..last {
            assert_eq!(is_repeated(&mut recent, number), number < 2 * EVENTS_MAX, "{number}");
        }
    }
}
