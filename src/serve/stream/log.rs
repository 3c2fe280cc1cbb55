//! A stream into the log of the server: each change of its views is a line, in the words of its templates.

use std::sync::{Arc, Weak};

use tokio::task::{JoinSet, spawn_blocking};

use super::counters::Counters;
use super::encode::Encoder;
use super::frame;
use super::named_stream::Named;
use super::position::Ids;
use super::shape::Shape;
use super::streams::Streams;
use super::template::Templates;
use crate::error::Result;
use crate::serve::listen::{Shutdown, Stop};
use crate::view::{Followed, Follower, HistoryEntry, Live};

/// What the lines are called in the log, so that `RUST_LOG` and collectors tell them from what the server says of itself.
const TARGET: &str = "streamgauge::output";

/// Bytes of a line: collectors of logs split what is longer.
const LINE_BYTES: usize = 16 * 1024;

/// Entries of a view's history that are taken at once.
const ENTRIES: usize = 64;

/// A log that is being written. Lines that wait for a slow reader of the log hold up a thread of their own, and no view: what has left
/// the view's history meanwhile is told as missed.
pub struct LogOutput {
    stop: Stop,
    /// One follows each view; they end with this.
    followers: JoinSet<()>,
}

impl LogOutput {
    /// Writes the changes from now on. Fails where a view is not there. Must be called within a runtime.
    pub fn open(streams: &Arc<Streams>, named: &Named) -> Result<LogOutput> {
        let (stop, shutdown) = Shutdown::new();
        let mut followers = JoinSet::new();
        for (index, view) in named.spec.views.iter().enumerate() {
            let lines = LogLines {
                stream: named.spec.id.clone(),
                view: view.clone(),
                shape: named.shape(),
                templates: named.templates(index),
                counters: Arc::clone(&named.counters),
                shutdown: shutdown.clone(),
            };
            let (live, encoder) = lines.source(streams)?;
            let follower = live.follow(live.head());
            followers.spawn(Arc::new(lines).write(Arc::downgrade(streams), follower, encoder));
        }
        Ok(LogOutput { stop, followers })
    }

    /// Ends it; returns when the last line is written.
    pub async fn close(mut self) {
        self.stop.stop();
        while self.followers.join_next().await.is_some() {}
    }
}

/// The lines of one view.
struct LogLines {
    stream: String,
    view: String,
    shape: Shape,
    templates: Arc<Templates>,
    counters: Arc<Counters>,
    shutdown: Shutdown,
}

impl LogLines {
    /// The view as it is defined now.
    fn source(&self, streams: &Streams) -> Result<(Arc<Live>, Arc<Encoder>)> {
        let (live, encoder) = streams.encoder(&self.view, self.shape.clone(), Some(Arc::clone(&self.templates)))?;
        Ok((live, Arc::new(encoder)))
    }

    /// Writes what comes until the log ends. A view that is made anew is followed from its first change.
    async fn write(self: Arc<Self>, streams: Weak<Streams>, mut follower: Follower, mut encoder: Arc<Encoder>) {
        while !self.shutdown.is_begun() {
            let found = follower.ready(ENTRIES);
            match found.first() {
                None => tokio::select! {
                    () = self.shutdown.begun() => return,
                    () = follower.changed() => {}
                },
                Some(Followed::Entry(_)) => {
                    let (lines, encoder, epoch) = (Arc::clone(&self), Arc::clone(&encoder), follower.live().epoch());
                    if let Err(error) = spawn_blocking(move || lines.entries(found, &encoder, epoch)).await {
                        tracing::error!(stream = self.stream, view = self.view, %error, "the log breaks off");
                        return;
                    }
                }
                Some(Followed::Gap { oldest }) => {
                    let missed = (oldest - 1).saturating_sub(follower.position());
                    Counters::add(&self.counters.dropped, missed);
                    tracing::warn!(target: TARGET, stream = self.stream, view = self.view, missed, "changes came too fast to be logged");
                    follower.seek(oldest - 1);
                }
                Some(Followed::Dropped) => {
                    let source = streams.upgrade().and_then(|streams| self.source(&streams).ok());
                    let Some((live, anew)) = source.filter(|(live, _)| live.epoch() != follower.live().epoch()) else {
                        tracing::warn!(
                            stream = self.stream,
                            view = self.view,
                            "the view is gone, and with it its lines in the log"
                        );
                        return;
                    };
                    (follower, encoder) = (live.follow(0), anew);
                }
            }
        }
    }

    fn entries(&self, found: Vec<Followed>, encoder: &Encoder, epoch: u64) {
        for followed in found {
            if let Followed::Entry(entry) = followed
                && !self.shutdown.is_begun()
            {
                self.entry(&entry, encoder, epoch);
            }
        }
    }

    fn entry(&self, entry: &HistoryEntry, encoder: &Encoder, epoch: u64) {
        let encoded = match encoder.changes(&entry.changes, entry.first, entry.first, &Ids::single(epoch), entry.at) {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::error!(stream = self.stream, view = self.view, %error, "changes cannot be encoded");
                return;
            }
        };
        Counters::add(&self.counters.events, encoded.events);
        Counters::add(&self.counters.render_errors, encoded.render_errors);
        Counters::add(&self.counters.oversized, encoded.oversized);
        for event in String::from_utf8_lossy(&encoded.bytes).split_terminator("\n\n") {
            let line = line(event);
            Counters::add(&self.counters.bytes, line.len() as u64);
            tracing::info!(target: TARGET, stream = self.stream, view = self.view, "{line}");
        }
    }
}

/// The data of an event as one line: whatever would end it, or speak to a terminal, is a space; what is too long ends with `…`.
fn line(event: &str) -> String {
    let data = frame::data(event).collect::<Vec<_>>().join(" ");
    let is_control = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
    let mut line = data.trim_end().replace(is_control, " ");
    if line.len() > LINE_BYTES {
        line.truncate(line.floor_char_boundary(LINE_BYTES));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;
    use crate::change::Changes;
    use crate::time::{Timestamp, TimestampArray};
    use crate::view::{HISTORY_CHANGES_MAX, Health, Rows};

    #[tokio::test]
    async fn a_log_that_fell_behind_goes_on_with_the_oldest_change_that_is_kept() {
        let numbers = |count: u64| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count as i64));
            let times = TimestampArray::from_value(0, count as usize);
            Changes::inserts(RecordBatch::try_from_iter([("n", numbers)]).unwrap(), times)
        };
        let live = Arc::new(Live::new("v", numbers(0).rows.schema(), false, Rows::appended(1)));
        let follower = live.follow(0);
        for count in [3, HISTORY_CHANGES_MAX] {
            live.publish(numbers(count), Timestamp(0)).unwrap();
        }
        live.enter(Health::Dropped);
        let counters = Arc::<Counters>::default();
        let lines = LogLines {
            stream: "log".into(),
            view: "v".into(),
            shape: Shape::default(),
            templates: Arc::new(Templates::compile([]).unwrap()),
            counters: Arc::clone(&counters),
            shutdown: Shutdown::default(),
        };
        let encoder = Encoder::new("v", &live.schema, Shape::default(), None).unwrap();
        Arc::new(lines).write(Weak::new(), follower, Arc::new(encoder)).await;
        assert_eq!((Counters::get(&counters.dropped), Counters::get(&counters.events)), (3, HISTORY_CHANGES_MAX));
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        for (data, expect) in [
            ("CRITICAL: disk_usage = 95%", "CRITICAL: disk_usage = 95%"),
            ("{\n  \"id\": 1\n}\n", "{   \"id\": 1 }"),
            ("a\r\nb\rc\u{85}d\u{2028}e\u{1b}[31m", "a b c d e [31m"),
            ("", ""),
        ] {
            let mut event = Vec::new();
            frame::FrameFields { id: Some("1-1"), name: Some("added") }.write(data.as_bytes(), &mut event);
            assert_eq!(line(std::str::from_utf8(&event).unwrap()), expect);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_between_letters() {
        let cut = line(&format!("data: x{}", "é".repeat(LINE_BYTES)));
        assert_eq!((cut.len(), cut.ends_with("é…")), (LINE_BYTES - 1 + '…'.len_utf8(), true));
    }
}
