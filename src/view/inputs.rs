//! The tables that a run reads, as one stream in which a mark comes once: behind what all of them sent before it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::error::Result;
use crate::operator::Message;
use crate::operator::state::Epoch;
use crate::table::{Barrier, Delivery, Subscription};

/// Reads each table in its turn. One that brought a mark is not read further until all others brought it or have ended (the alignment of
/// barriers in: Carbone et al., Lightweight Asynchronous Snapshots for Distributed Dataflows, 2015).
pub struct Inputs {
    inputs: Vec<RunInput>,
    /// The input whose turn it is.
    turn: usize,
    /// The mark that some input brought and another has not.
    awaited: Option<Arc<Barrier>>,
    /// Marks up to this one are not waited for: they were on their way before all inputs were there.
    ignored: Epoch,
}

struct RunInput {
    subscription: Subscription,
    ended: bool,
    /// It brought the mark that is awaited.
    brought: bool,
}

/// What comes to a run.
#[expect(clippy::large_enum_variant, reason = "nearly all that arrives are messages, and each stands for many rows")]
pub enum Arrival {
    /// From which input, and when its table had it ready.
    Message(usize, Instant, Message),
    Mark(Arc<Barrier>),
}

impl Inputs {
    pub fn new(subscriptions: Vec<Subscription>) -> Self {
        let inputs = subscriptions.into_iter().map(|subscription| RunInput { subscription, ended: false, brought: false });
        Inputs { inputs: inputs.collect(), turn: 0, awaited: None, ignored: 0 }
    }

    pub fn ignore_marks(&mut self, up_to: Epoch) {
        self.ignored = self.ignored.max(up_to);
    }

    /// `None` once all inputs have ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Arrival>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Arrival>>> {
        let count = self.inputs.len();
        for _ in 0..count {
            let at = self.turn;
            self.turn = (at + 1) % count;
            while !self.inputs[at].ended && !self.inputs[at].brought {
                let Poll::Ready(delivery) = self.inputs[at].subscription.poll_next(context) else { break };
                match delivery {
                    None => self.inputs[at].ended = true,
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    Some(Ok(Delivery::Message(message))) => {
                        let handed_out = self.inputs[at].subscription.handed_out();
                        return Poll::Ready(Some(Ok(Arrival::Message(at, handed_out, message))));
                    }
                    Some(Ok(Delivery::Mark(mark))) if mark.epoch > self.ignored => self.bring(at, mark),
                    Some(Ok(Delivery::Mark(_))) => {}
                }
            }
        }
        match self.inputs.iter().all(|input| input.ended || input.brought) {
            true => Poll::Ready(self.aligned().map(|mark| Ok(Arrival::Mark(mark)))),
            false => Poll::Pending,
        }
    }

    /// A later mark means that the one before was given up.
    fn bring(&mut self, at: usize, mark: Arc<Barrier>) {
        let awaited = self.awaited.as_ref().map_or(0, |awaited| awaited.epoch);
        if mark.epoch > awaited {
            self.inputs.iter_mut().for_each(|input| input.brought = false);
            self.awaited = Some(mark);
        } else if mark.epoch < awaited {
            return;
        }
        self.inputs[at].brought = true;
    }

    fn aligned(&mut self) -> Option<Arc<Barrier>> {
        self.inputs.iter_mut().for_each(|input| input.brought = false);
        self.awaited.take()
    }
}
