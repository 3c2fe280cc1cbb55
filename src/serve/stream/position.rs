//! Event ids: how far a client has come in each view of its connection.
//!
//! On a stream of one view an id is `<epoch>-<seq>`, the change it names being the last one the client has. On a stream of
//! several views it tells the same of each, `orders:7-42,stock:7-9`, so that any event's id resumes all of them exactly.

use std::fmt;

/// A place in the changes of a view: after change `seq`. Numbers of another `epoch` say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: u64,
    pub seq: u64,
}

impl Position {
    /// Reads `<epoch>-<seq>`.
    pub fn parse(text: &str) -> Option<Position> {
        let (epoch, seq) = text.split_once('-')?;
        Some(Position { epoch: number(epoch)?, seq: number(seq)? })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

/// Where a client wants to begin, by `Last-Event-ID` or `?last_event_id=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// It says nothing: it is new.
    New,
    /// With the oldest change that is still kept.
    Earliest,
    /// With the next change.
    Latest,
    /// After these places, one for each view of the stream; `None` where the id does not tell one.
    After(Vec<Option<Position>>),
    /// What it says is no id of ours.
    Garbage,
}

impl Start {
    /// Reads an id of a stream of `views`.
    pub fn parse(text: &str, views: &[&str]) -> Start {
        match text {
            "" => return Start::New,
            "earliest" => return Start::Earliest,
            "latest" => return Start::Latest,
            _ => {}
        }
        if let ([_], Some(position)) = (views, Position::parse(text)) {
            return Start::After(vec![Some(position)]);
        }
        let mut after = vec![None; views.len()];
        for part in text.split(',') {
            let Some((name, position)) = part.rsplit_once(':') else { return Start::Garbage };
            let Some(position) = Position::parse(position) else { return Start::Garbage };
            // A view that the stream no longer has is nothing to resume.
            if let Some(view) = views.iter().position(|view| escaped(view, '~') == name) {
                after[view] = Some(position);
            }
        }
        Start::After(after)
    }
}

/// Makes the ids of events of one view while the other views of the connection stay where they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ids {
    /// What stands before `<epoch>-<seq>`.
    prefix: String,
    epoch: u64,
}

impl Ids {
    /// Ids of a stream of one view.
    pub fn single(epoch: u64) -> Ids {
        Ids { prefix: String::new(), epoch }
    }

    /// Ids of the view `views[moving]` of several; each view with the client's place in it.
    pub fn among(views: &[(&str, Position)], moving: usize) -> Ids {
        if let [(_, position)] = views {
            return Ids::single(position.epoch);
        }
        let mut prefix = String::new();
        for (index, (name, position)) in views.iter().enumerate() {
            if index != moving {
                prefix.push_str(&format!("{}:{position},", escaped(name, '~')));
            }
        }
        prefix.push_str(&escaped(views[moving].0, '~'));
        prefix.push(':');
        Ids { prefix, epoch: views[moving].1.epoch }
    }

    /// Writes the id of change `seq` into `text`, in place of what is there.
    pub fn write(&self, seq: u64, text: &mut String) {
        text.clear();
        text.push_str(&self.prefix);
        text.push_str(itoa::Buffer::new().format(self.epoch));
        text.push('-');
        text.push_str(itoa::Buffer::new().format(seq));
    }

    /// The id of change `seq`.
    pub fn of(&self, seq: u64) -> String {
        let mut text = String::new();
        self.write(seq, &mut text);
        text
    }
}

/// A name in which everything that has a meaning in an id or a path, or none in a header, is written as `sign` and two hex digits.
/// Ids use `~`: a client may hand them on in an address without thinking of `%`.
pub fn escaped(name: &str, sign: char) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => text.push(byte.into()),
            _ => text.push_str(&format!("{sign}{byte:02X}")),
        }
    }
    text
}

/// A number as we write it: digits alone, without a sign and leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(epoch: u64, seq: u64) -> Option<Position> {
        Some(Position { epoch, seq })
    }

    #[test]
    fn what_is_no_id_of_ours_is_garbage() {
        for text in ["7", "7-", "-7", "7-4-2", "7-+4", "07-4", "a:7", "a", "7-99999999999999999999", "a:7-1,", "\u{1F600}"] {
            assert_eq!(Start::parse(text, &["a"]), Start::Garbage, "{text}");
        }
        assert_eq!(Start::parse("7-4", &["a", "b"]), Start::Garbage);
    }

    #[test]
    fn words_and_nothing_are_places_too() {
        for (text, start) in [("", Start::New), ("earliest", Start::Earliest), ("latest", Start::Latest)] {
            assert_eq!(Start::parse(text, &["a"]), start);
        }
    }

    #[test]
    fn an_id_of_several_views_tells_of_each_that_is_still_there() {
        let views = ["orders", "stock"];
        assert_eq!(Start::parse("stock:7-9,orders:7-42", &views), Start::After(vec![at(7, 42), at(7, 9)]));
        assert_eq!(Start::parse("gone:7-9,orders:7-42", &views), Start::After(vec![at(7, 42), None]));
        assert_eq!(Start::parse("orders:7-42,stock:7-9", &["stock"]), Start::After(vec![at(7, 9)]));
    }

    proptest! {
        #[test]
        fn an_id_that_was_written_reads_back(
            names in proptest::collection::btree_set(".{1,8}", 1..4),
            epoch in any::<u64>(),
            seqs in proptest::array::uniform4(any::<u64>()),
            moving in 0usize..4,
        ) {
            let places = names.iter().zip(seqs).map(|(name, seq)| (name.as_str(), Position { epoch, seq }));
            let mut places: Vec<(&str, Position)> = places.collect();
            let moving = moving % places.len();
            let id = Ids::among(&places, moving).of(seqs[3]);
            prop_assert!(id.bytes().all(|byte| byte.is_ascii_graphic()), "{}", id);
            places[moving].1.seq = seqs[3];
            let names: Vec<&str> = places.iter().map(|place| place.0).collect();
            prop_assert_eq!(Start::parse(&id, &names), Start::After(places.iter().map(|place| Some(place.1)).collect()));
        }
    }
}
