//! `LIMIT` over a stream: its first rows, and then the end.

use super::{Message, Operator};
use crate::error::{Error, Result};
use crate::time::{Timestamp, Watermark};

/// Passes the first rows of an append-only stream, then ends it as a feed ends: the watermark goes to the end of time first, so
/// that windows behind it close. What comes afterwards is ignored.
pub struct Limit {
    rows: usize,
    left: usize,
    ended: bool,
}

impl Limit {
    pub fn new(rows: usize) -> Self {
        Limit { rows, left: rows, ended: false }
    }
}

impl Operator for Limit {
    fn push(&mut self, _input: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        match message {
            Message::Changes(changes) if changes.weights.is_some() => {
                return Err(Error::bug("the first rows of a stream were asked for whose rows are taken back"));
            }
            Message::Changes(changes) => {
                let length = changes.len().min(self.left);
                self.left -= length;
                if length > 0 {
                    out.push(Message::Changes(changes.slice(0, length)));
                }
            }
            Message::End => {
                self.ended = true;
                out.push(Message::End);
                return Ok(());
            }
            other => out.push(other),
        }
        if self.left == 0 {
            self.ended = true;
            out.push(Message::Watermark(Watermark::at(Timestamp::MAX)));
            out.push(Message::End);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("Limit: {}", self.rows)
    }
}
