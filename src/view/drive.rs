//! The one loop that drives a run: into a live view, or into the channel of an output.

use std::future::{Future, pending};
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::time::Instant;

use super::run::Run;
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::operator::Message;
use crate::table::Gathering;

/// Where the results of a run go.
pub trait Sink {
    /// Takes changes, which follow from what a table had ready at `handed_out`; breaks once nobody wants more.
    fn changes(&mut self, changes: Changes, handed_out: Option<Instant>) -> impl Future<Output = Result<ControlFlow<()>>> + Send;

    /// Gives the run's part of a checkpoint: its state after all changes so far. Drops the gathering when that is done.
    fn barrier(&mut self, gathering: Arc<Gathering>, run: &mut Run) -> impl Future<Output = Result<ControlFlow<()>>> + Send;
}

/// Drives a run until it ends or fails, or nobody wants its results. Nothing follows the last barrier: this waits then until it is
/// dropped.
pub async fn drive(mut run: Run, sink: &mut impl Sink) -> Result<()> {
    while let Some(message) = run.next().await? {
        let taken = match message {
            Message::Changes(changes) => sink.changes(changes, run.handed_out()).await,
            Message::Barrier(barrier) => {
                let gathering = run.take_gathering().ok_or_else(|| Error::bug("a barrier came without its checkpoint"))?;
                let taken = sink.barrier(gathering, &mut run).await;
                if barrier.last {
                    return pending().await;
                }
                taken
            }
            Message::Watermark(_) | Message::End => continue,
        };
        if taken?.is_break() {
            return Ok(());
        }
    }
    Ok(())
}
