//! `UNION ALL`: several streams as one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array};
use arrow::datatypes::Int64Type;

use super::{Loader, Message, Operator, Saver, state};
use crate::error::Result;
use crate::time::{Timestamp, Watermark};

/// Passes rows of all inputs as they come.
///
/// The watermark is the least of the inputs that are not idle; an input that sent none yet holds it back. Once all are idle, so
/// is the whole, at the greatest of theirs. An input at the end of time is left out; the whole ends with the last one.
pub struct Merge {
    inputs: Vec<MergeInput>,
    /// The last watermark sent.
    sent: Option<Watermark>,
    /// The greatest of them that was no supposition of a silence.
    promised: Timestamp,
}

#[derive(Default)]
struct MergeInput {
    watermark: Option<Watermark>,
    ended: bool,
}

impl MergeInput {
    /// No row follows, although the word of it may.
    fn has_ended(&self) -> bool {
        self.ended || self.watermark.is_some_and(|watermark| watermark.time == Timestamp::MAX)
    }
}

impl Merge {
    pub fn new(inputs: usize) -> Self {
        Merge { inputs: (0..inputs).map(|_| MergeInput::default()).collect(), sent: None, promised: Timestamp::MIN }
    }

    fn take(&mut self, input: usize, message: Message, out: &mut Vec<Message>) {
        match message {
            Message::Changes(_) | Message::Barrier(_) => out.push(message),
            Message::Watermark(watermark) => {
                self.inputs[input].watermark = Some(watermark);
                self.send_watermark(out);
            }
            Message::End => {
                self.inputs[input].ended = true;
                if self.inputs.iter().all(|input| input.ended) {
                    out.push(Message::End);
                } else {
                    self.send_watermark(out);
                }
            }
        }
    }

    fn send_watermark(&mut self, out: &mut Vec<Message>) {
        let left: Vec<&MergeInput> = self.inputs.iter().filter(|input| !input.has_ended()).collect();
        let least = left.iter().filter(|input| input.watermark.is_none_or(|watermark| !watermark.idle));
        let least = least.map(|input| input.watermark.map_or(Timestamp::MIN, |watermark| watermark.time)).min();
        let (time, idle) = match least {
            Some(least) => (least, false),
            None => match left.iter().filter_map(|input| input.watermark).map(|watermark| watermark.time).max() {
                Some(greatest) => (greatest, true),
                None if left.is_empty() => (Timestamp::MAX, false),
                None => return,
            },
        };
        let watermark = Watermark { time: time.max(self.promised), idle };
        if !idle {
            self.promised = watermark.time;
        }
        if watermark != self.sent.unwrap_or(Watermark::at(Timestamp::MIN)) {
            self.sent = Some(watermark);
            out.push(Message::Watermark(watermark));
        }
    }
}

impl Operator for Merge {
    fn push(&mut self, input: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        self.take(input, message, out);
        Ok(())
    }

    fn describe(&self) -> String {
        format!("Merge: {} streams", self.inputs.len())
    }

    fn save(&mut self, state: &mut Saver) -> Result<()> {
        // The last row is what was sent.
        let watermarks = || self.inputs.iter().map(|input| input.watermark).chain([self.sent]);
        let columns: [(_, ArrayRef); 3] = [
            ("watermark", Arc::new(Int64Array::from_iter(watermarks().map(|known| known.map(|known| known.time.nanos()))))),
            ("idle", Arc::new(BooleanArray::from_iter(watermarks().map(|known| Some(known.is_some_and(|known| known.idle)))))),
            ("ended", Arc::new(BooleanArray::from_iter(self.inputs.iter().map(|input| Some(input.ended)).chain([Some(false)])))),
        ];
        state.put("inputs", state::rows(columns, self.inputs.len() + 1)?);
        Ok(())
    }

    fn load(&mut self, state: &mut Loader) -> Result<()> {
        let mut saved = state.take("inputs")?;
        if saved.len() != self.inputs.len() + 1 {
            return Err(saved.misfit(format!("is not about {} inputs", self.inputs.len())));
        }
        let (times, idle) = (saved.numbers_or_null::<Int64Type>("watermark")?, saved.flags("idle")?);
        let ended = saved.flags("ended")?;
        let watermark =
            |row: usize| times.is_valid(row).then(|| Watermark { time: Timestamp(times.value(row)), idle: idle.value(row) });
        for (row, input) in self.inputs.iter_mut().enumerate() {
            *input = MergeInput { watermark: watermark(row), ended: ended.value(row) };
        }
        self.sent = watermark(self.inputs.len());
        self.promised = self.sent.filter(|sent| !sent.idle).map_or(Timestamp::MIN, |sent| sent.time);
        saved.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: i64) -> Message {
        Message::Watermark(Watermark::at(Timestamp(time)))
    }

    fn idle(time: i64) -> Message {
        Message::Watermark(Watermark::idle(Timestamp(time)))
    }

    /// Pushes messages to inputs of a merge of two and shows what came out of each.
    fn check(steps: &[(usize, Message, &str)]) {
        let mut merge = Merge::new(2);
        for (step, (input, message, expect)) in steps.iter().enumerate() {
            let mut out = Vec::new();
            merge.push(*input, message.clone(), &mut out).unwrap();
            let shown: Vec<String> = out.iter().map(show).collect();
            assert_eq!(shown.join(" "), *expect, "step {step}: {message:?} to {input}");
        }
    }

    fn show(message: &Message) -> String {
        match message {
            Message::Changes(changes) => format!("{} rows", changes.len()),
            Message::Watermark(Watermark { time: Timestamp::MAX, .. }) => "max".into(),
            Message::Watermark(Watermark { time: Timestamp::MIN, idle: true }) => "idle none".into(),
            Message::Watermark(Watermark { time, idle: false }) => time.nanos().to_string(),
            Message::Watermark(Watermark { time, idle: true }) => format!("idle {}", time.nanos()),
            Message::Barrier(_) => "barrier".into(),
            Message::End => "end".into(),
        }
    }

    #[test]
    fn the_watermark_is_the_least_and_never_goes_back() {
        check(&[(0, at(5), ""), (1, at(3), "3"), (1, at(9), "5"), (0, at(4), ""), (0, at(7), "7"), (1, at(20), "")]);
    }

    #[test]
    fn an_idle_input_is_left_out_and_all_idle_ones_go_to_the_greatest() {
        check(&[
            (0, at(5), ""),
            (1, idle(1), "5"),
            (0, at(8), "8"),
            (0, idle(9), "idle 9"),
            // A supposition gives way, a promise does not.
            (1, at(4), "8"),
            (1, at(12), "12"),
            (1, idle(12), "idle 12"),
        ]);
    }

    #[test]
    fn an_ended_input_is_left_out_and_the_last_end_ends_all() {
        check(&[
            (0, at(5), ""),
            (0, Message::Watermark(Watermark::at(Timestamp::MAX)), ""),
            (0, Message::End, ""),
            (1, at(3), "3"),
            (1, Message::Watermark(Watermark::at(Timestamp::MAX)), "max"),
            (1, Message::End, "end"),
        ]);
    }

    #[test]
    fn an_end_beside_an_idle_input_is_not_the_end_of_time() {
        check(&[
            (1, idle(5), ""),
            (0, at(3), "3"),
            (0, Message::Watermark(Watermark::at(Timestamp::MAX)), "idle 5"),
            (0, Message::End, ""),
            (1, at(6), "6"),
        ]);
    }

    #[test]
    fn inputs_that_never_sent_anything_are_idle_together() {
        let never = || Message::Watermark(Watermark::idle(Timestamp::MIN));
        check(&[(0, never(), ""), (1, never(), "idle none"), (0, at(5), "5"), (0, never(), "idle 5")]);
    }
}
