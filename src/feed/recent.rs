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
    /// A new connection resumes where the last one was lost.
    pub(super) fn reconnected(&mut self) {
        let ids: HashSet<u64> = self.seen.iter().map(|mark| mark.id).collect();
        self.expected = match ids.len() == self.seen.len() {
            true => self.seen.iter().copied().collect(),
            false => HashSet::new(),
        };
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
        if self.seen.len() == EVENTS_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(mark);
        false
    }
}

impl Mark {
    fn of(event: &Event<'_>) -> Mark {
        let data = event.data.as_bytes();
        let (head, tail) = (&data[..data.len().min(16)], &data[data.len().saturating_sub(16)..]);
        let content = mix(mix(mix(data.len() as u64, head), tail), event.kind.as_bytes());
        Mark { id: mix(event.id.len() as u64, event.id.as_bytes()), content }
    }
}

/// 2⁶⁴ divided by the golden ratio.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A quick hash: nothing but the server's own feed depends on how well it is spread.
fn mix(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(seed, |hash, word| {
        let product = u128::from(hash.rotate_left(23) ^ u64::from_le_bytes(*word) ^ SPREAD) * u128::from(SPREAD);
        (product >> 64) as u64 ^ product as u64
    })
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
        }
        assert_eq!(recent.seen.len(), EVENTS_MAX);
    }
}
