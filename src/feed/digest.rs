//! Events and ids as numbers: equal where all of them is equal.

use super::parser::Event;

/// Odd numbers without a pattern: 2⁶⁴ divided by the golden ratio, and by the square roots of two, three and five.
const SPREAD: [u64; 4] = [0x9E37_79B9_7F4A_7C15, 0xB504_F333_F9DE_6485, 0x93CD_3A2C_8198_E269, 0x727C_9716_FFB7_64D5];

/// All that an event says beside its id: its type and its data, every byte of them.
///
/// Each 16 bytes go into two independent chains, so that a difference anywhere reaches all 128 bits; and of each 32 bytes the second half has
/// two of its own, so that the processor works on four at once. Not for secrets: whoever writes the feed could make two events alike.
#[inline]
pub(super) fn of_event(event: &Event<'_>) -> u128 {
    let data = event.data.as_bytes();
    let seed = of_id(event.kind) ^ (data.len() as u64).rotate_left(32);
    let (mut one, mut two) = (seed, !seed);
    let (mut three, mut four) = (seed.rotate_left(16), !seed.rotate_left(16));
    let mut rest = data;
    while let Some((block, behind)) = rest.split_first_chunk::<32>() {
        let [word, next] = [0, 16].map(|at| u128::from_le_bytes(std::array::from_fn(|byte| block[at + byte])));
        (one, two) = (fold(one, word, 0), fold(two, word, 1));
        (three, four) = (fold(three, next, 0), fold(four, next, 1));
        rest = behind;
    }
    let (three, four) = (u128::from(three) << 64 | u128::from(four), u128::from(four) << 64 | u128::from(three));
    (one, two) = (fold(one, three, 0), fold(two, four, 1));
    if let Some((block, behind)) = rest.split_first_chunk::<16>() {
        let word = u128::from_le_bytes(*block);
        (one, two) = (fold(one, word, 0), fold(two, word, 1));
        rest = behind;
    }
    if !rest.is_empty() {
        let word = short(rest);
        (one, two) = (fold(one, word, 0), fold(two, word, 1));
    }
    u128::from(fold(one, u128::from(two), 1)) << 64 | u128::from(fold(two, u128::from(one), 0))
}

/// An id, or a type.
#[inline]
pub(super) fn of_id(id: &str) -> u64 {
    let (mut hash, mut rest) = (id.len() as u64, id.as_bytes());
    while let Some((block, behind)) = rest.split_first_chunk::<16>() {
        hash = fold(hash, u128::from_le_bytes(*block), 0);
        rest = behind;
    }
    match rest {
        [] => hash,
        _ => fold(hash, short(rest), 0),
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
fn fold(hash: u64, word: u128, spread: usize) -> u64 {
    let (low, high) = (word as u64 ^ hash ^ SPREAD[spread], (word >> 64) as u64 ^ hash.rotate_left(32) ^ SPREAD[spread + 2]);
    let product = u128::from(low) * u128::from(high);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn digest(kind: &str, data: &str) -> u128 {
        of_event(&Event { kind, data, id: "", has_id: false, unseen: 0 })
    }

    #[test]
    fn every_byte_and_the_length_of_data_and_type_count() {
        for length in (0..100).chain([1000]) {
            let plain = "x".repeat(length);
            let mut seen = HashSet::from([digest("message", &plain)]);
            for at in 0..length {
                let mut other = plain.clone();
                other.replace_range(at..=at, "y");
                assert!(seen.insert(digest("message", &other)), "{at} of {length}");
            }
            assert!(seen.insert(digest("message", &format!("{plain}x"))), "{length}");
            assert!(seen.insert(digest("massage", &plain)), "{length}");
        }
    }

    #[test]
    fn what_is_exchanged_is_another_event() {
        let blocks = ["a".repeat(16), "b".repeat(16), "c".repeat(32)];
        let [a, b, c] = &blocks;
        let orders = [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]];
        let digests: HashSet<u128> = orders.iter().map(|order| digest("message", &order.map(String::as_str).concat())).collect();
        assert_eq!(digests.len(), orders.len());
        assert_ne!(digest("a", "b"), digest("b", "a"));
        assert_ne!(digest("ab", ""), digest("", "ab"));
    }

    #[test]
    fn neither_half_is_the_same_for_two_of_many() {
        let digests: Vec<u128> = (0..100_000).map(|number| digest("message", &format!("{{\"n\":{number}}}"))).collect();
        for half in [|digest: &u128| (digest >> 64) as u64, |digest: &u128| *digest as u64] {
            assert_eq!(digests.iter().map(half).collect::<HashSet<_>>().len(), digests.len());
        }
    }
}
