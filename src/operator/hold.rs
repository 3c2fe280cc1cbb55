//! Watermarks some time later: what reads from a window that takes late rows wants its last word.

use std::time::Duration;

use super::state::{Loader, Saver};
use super::{Message, Operator};
use crate::error::Result;
use crate::time::Watermark;

/// Passes everything; watermarks go on `by` earlier than they came.
pub struct Hold {
    by: Duration,
}

impl Hold {
    pub fn new(by: Duration) -> Self {
        Hold { by }
    }
}

impl Operator for Hold {
    fn push(&mut self, _input: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        out.push(match message {
            Message::Watermark(watermark) => Message::Watermark(Watermark { time: watermark.time.minus(self.by), ..watermark }),
            other => other,
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("Hold: {}", humantime::format_duration(self.by))
    }

    /// It keeps nothing between messages.
    fn save(&mut self, _: &mut Saver) -> Result<()> {
        Ok(())
    }

    fn load(&mut self, _: &mut Loader) -> Result<()> {
        Ok(())
    }
}
