//! `LIMIT` and `OFFSET` over a stream: its first rows, and then the end.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::UInt64Type;

use super::{Loader, Message, Operator, Saver, state};
use crate::error::{Error, Result};
use crate::time::{Timestamp, Watermark};

/// Leaves the first `skip` rows of an append-only stream out and passes the next `rows`, then ends it as a feed ends: the watermark
/// goes to the end of time first, so that windows behind it close. What comes afterwards is ignored.
pub struct Limit {
    skip: usize,
    /// `None`: all that come.
    rows: Option<usize>,
    ended: bool,
}

impl Limit {
    pub fn new(skip: usize, rows: Option<usize>) -> Self {
        Limit { skip, rows, ended: false }
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
                let skipped = changes.len().min(self.skip);
                self.skip -= skipped;
                let length = self.rows.unwrap_or(usize::MAX).min(changes.len() - skipped);
                self.rows = self.rows.map(|rows| rows - length);
                if length > 0 {
                    out.push(Message::Changes(changes.slice(skipped, length)));
                }
            }
            Message::End => {
                self.ended = true;
                out.push(Message::End);
                return Ok(());
            }
            other => out.push(other),
        }
        if self.rows == Some(0) {
            self.ended = true;
            out.push(Message::Watermark(Watermark::at(Timestamp::MAX)));
            out.push(Message::End);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        match (self.skip, self.rows) {
            (0, Some(rows)) => format!("Limit: {rows}"),
            (skip, Some(rows)) => format!("Limit: {rows} after {skip}"),
            (skip, None) => format!("Limit: all after {skip}"),
        }
    }

    fn save(&mut self, state: &mut Saver) -> Result<()> {
        let columns: [(_, ArrayRef); 3] = [
            ("skip", Arc::new(UInt64Array::from_value(self.skip as u64, 1))),
            ("rows", Arc::new(UInt64Array::from(vec![self.rows.map(|rows| rows as u64)]))),
            ("ended", Arc::new(BooleanArray::from(vec![self.ended]))),
        ];
        state.put("limit", state::rows(columns, 1)?);
        Ok(())
    }

    fn load(&mut self, state: &mut Loader) -> Result<()> {
        let mut saved = state.take("limit")?;
        self.skip = saved.number::<UInt64Type>("skip")? as usize;
        self.rows = saved.number_or_null::<UInt64Type>("rows")?.map(|rows| rows as usize);
        self.ended = saved.flag("ended")?;
        saved.end()
    }
}
