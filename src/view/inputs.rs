//! The tables that a run reads, as one stream in which each barrier comes once: behind what all of them sent before it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::error::Result;
use crate::operator::state::Epoch;
use crate::operator::{Barrier, Message};
use crate::table::{Gathering, Subscription};

/// Reads each table in its turn. One that brought a barrier is not read further until all others brought it or have ended (the alignment
/// of barriers in: Carbone et al., Lightweight Asynchronous Snapshots for Distributed Dataflows, 2015).
pub struct Inputs {
    inputs: Vec<RunInput>,
    /// The input whose turn it is.
    turn: usize,
    /// The barrier that some input brought and another has not.
    awaited: Option<Barrier>,
    /// Where the parts go for the barrier that came last.
    gathering: Option<Arc<Gathering>>,
    /// Barriers up to this one are not waited for: they were on their way before all inputs were there.
    ignored: Epoch,
}

struct RunInput {
    subscription: Subscription,
    ended: bool,
    /// It brought the barrier that is awaited.
    brought: bool,
}

/// A message that comes to a run.
pub struct Arrived {
    pub message: Message,
    /// From which input; a barrier comes from all of them.
    pub source: usize,
    /// When its table had it ready.
    pub handed_out: Instant,
}

impl Inputs {
    pub fn new(subscriptions: Vec<Subscription>) -> Self {
        let inputs = subscriptions.into_iter().map(|subscription| RunInput { subscription, ended: false, brought: false });
        Inputs { inputs: inputs.collect(), turn: 0, awaited: None, gathering: None, ignored: 0 }
    }

    pub fn ignore_barriers(&mut self, up_to: Epoch) {
        self.ignored = self.ignored.max(up_to);
    }

    /// Where the parts go for the barrier that came last; once.
    pub fn take_gathering(&mut self) -> Option<Arc<Gathering>> {
        self.gathering.take()
    }

    /// `None` once all inputs have ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Arrived>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Arrived>>> {
        let count = self.inputs.len();
        for _ in 0..count {
            let source = self.turn;
            self.turn = (source + 1) % count;
            while !self.inputs[source].ended && !self.inputs[source].brought {
                let Poll::Ready(next) = self.inputs[source].subscription.poll_next(context) else { break };
                match next.transpose()? {
                    None => self.inputs[source].ended = true,
                    Some(Message::Barrier(barrier)) => self.bring(source, barrier),
                    Some(message) => {
                        let handed_out = self.inputs[source].subscription.handed_out();
                        return Poll::Ready(Some(Ok(Arrived { message, source, handed_out })));
                    }
                }
            }
        }
        match self.inputs.iter().all(|input| input.ended || input.brought) {
            true => Poll::Ready(self.aligned().map(Ok)),
            false => Poll::Pending,
        }
    }

    /// A later barrier means that the checkpoint of the one before was given up.
    fn bring(&mut self, source: usize, barrier: Barrier) {
        let gathering = self.inputs[source].subscription.take_gathering();
        let earliest = self.awaited.map_or(self.ignored.saturating_add(1), |awaited| awaited.epoch);
        if barrier.epoch < earliest {
            return;
        }
        if self.awaited != Some(barrier) {
            self.inputs.iter_mut().for_each(|input| input.brought = false);
            (self.awaited, self.gathering) = (Some(barrier), gathering);
        }
        self.inputs[source].brought = true;
    }

    fn aligned(&mut self) -> Option<Arrived> {
        self.inputs.iter_mut().for_each(|input| input.brought = false);
        let message = Message::Barrier(self.awaited.take()?);
        Some(Arrived { message, source: 0, handed_out: Instant::now() })
    }
}
