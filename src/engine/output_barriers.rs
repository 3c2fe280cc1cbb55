//! Barriers of outputs whose rows leave for good, as to a file: each output says where in its rows a checkpoint is cut.
//!
//! An output that has come to a cut goes no further before the others have come to theirs and whoever prints them has noted how far the
//! print is. So each row is in the checkpoint if and only if it stands before that place.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::output::{OUTPUT_QUEUE, answer, told};
use super::running_view::{REDEFINED, StateLost, fingerprint, lock};
use super::{Engine, Output, Query};
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::operator::state::Frame;
use crate::operator::{Epoch, Message};
use crate::sql::DropTarget;
use crate::table::{Barrier, Follow, InstanceId, Table, next_instance};
use crate::view::{ContinuousExec, Once, Run, Step};

/// What an output says, in order.
pub enum OutputMessage {
    Changes(Changes),
    /// What was said before is in the checkpoint, and nothing else.
    Cut(BarrierHold),
    /// All has been said.
    End,
}

impl From<Changes> for OutputMessage {
    fn from(changes: Changes) -> Self {
        OutputMessage::Changes(changes)
    }
}

/// Where an output has stopped for a checkpoint. It goes on when this is dropped.
pub struct BarrierHold {
    mark: Arc<Barrier>,
    frames: Vec<Frame>,
    _go: oneshot::Sender<()>,
}

/// The part of whoever prints: where the print stands at the cut.
pub const PRINT: &str = "print";

/// The part of an output that goes on, and of one that has said everything: then there is nothing in it.
fn part_names(view: &str) -> (String, String) {
    (format!("printed/{view}"), format!("finished/{view}"))
}

/// Where a state goes to, from the engine's side.
pub(super) struct Printing {
    marks: mpsc::Sender<Arc<Barrier>>,
    tables: Vec<Arc<Table>>,
}

impl Printing {
    /// Sends a mark to the tables and to [`OutputBarriers`]; `tables` gets the names of the parts of those that have it.
    pub(super) fn mark(&self, mark: &Arc<Barrier>, tables: &mut HashMap<String, bool>) {
        for table in &self.tables {
            tables.entry(table.part_name()).or_insert_with(|| table.mark(mark));
        }
        // Where the one before has not even been read, the first output that brings this one tells of it.
        let _ = self.marks.try_send(Arc::clone(mark));
    }
}

/// Where all outputs stand, kept by whoever prints them.
pub struct OutputBarriers {
    marks: mpsc::Receiver<Arc<Barrier>>,
    /// The mark that all outputs are to come to.
    mark: Option<Arc<Barrier>>,
    /// The greatest mark there was.
    seen: Epoch,
    entries: Vec<OutputEntry>,
    instance: InstanceId,
}

struct OutputEntry {
    view: String,
    fingerprint: String,
    instance: InstanceId,
    standing: OutputState,
}

enum OutputState {
    Running,
    /// It reads a feed that ends by itself, in which there is no place to go on from: it can only be kept once it has ended.
    Finite,
    Stopped(BarrierHold),
    Ended,
}

impl OutputBarriers {
    /// Waits until a checkpoint is begun. Cancel-safe.
    pub async fn marked(&mut self) {
        match self.marks.recv().await {
            Some(mark) => self.see(mark),
            None => std::future::pending().await,
        }
    }

    /// Output `index` has come to a cut.
    pub fn stop(&mut self, index: usize, stop: BarrierHold) {
        self.see(Arc::clone(&stop.mark));
        if self.mark.as_ref().is_some_and(|mark| mark.epoch == stop.mark.epoch) {
            self.entries[index].standing = OutputState::Stopped(stop);
        }
    }

    /// Output `index` has said everything.
    pub fn end(&mut self, index: usize) {
        self.entries[index].standing = OutputState::Ended;
    }

    /// A mark comes by several ways. A later one means that the one before was given up.
    fn see(&mut self, mark: Arc<Barrier>) {
        if self.seen < mark.epoch {
            self.go();
            self.seen = mark.epoch;
            self.mark = Some(mark);
        }
    }

    fn go(&mut self) {
        for entry in &mut self.entries {
            if let OutputState::Stopped(_) = entry.standing {
                entry.standing = OutputState::Running;
            }
        }
    }

    pub fn has_ended(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.standing, OutputState::Ended))
    }

    /// The first view for whose end a checkpoint would have to wait.
    pub fn hindered_by(&self) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| matches!(entry.standing, OutputState::Finite))?;
        Some(&entry.view)
    }

    /// Whether a checkpoint waits for nothing but [`OutputBarriers::give`].
    pub fn is_due(&self) -> bool {
        let is_there = |entry: &OutputEntry| matches!(entry.standing, OutputState::Stopped(_) | OutputState::Ended);
        self.mark.is_some() && self.entries.iter().all(is_there)
    }

    /// Gives the parts of all outputs and the place of the print, of which `print` is the fingerprint. The outputs go on.
    pub fn give(&mut self, print: &str, place: Vec<Frame>) {
        let Some(mark) = self.mark.take() else { return };
        for OutputEntry { view, fingerprint, instance, standing } in &mut self.entries {
            let (printed, finished) = part_names(view);
            let (name, frames) = match standing {
                OutputState::Stopped(stop) => (printed, std::mem::take(&mut stop.frames)),
                _ => (finished, Vec::new()),
            };
            mark.give(name, *instance, fingerprint.clone(), |_| Ok(frames));
        }
        mark.give(PRINT.into(), self.instance, print.into(), |_| Ok(place));
        drop(mark);
        self.go();
    }
}

/// Outputs that run, and their barriers.
pub struct Printed {
    pub outputs: Vec<Output<OutputMessage>>,
    pub barriers: OutputBarriers,
    /// Sentences about what does not go on where it was.
    pub notices: Vec<String>,
}

impl Engine {
    /// Whether rows leave for good.
    pub(super) fn is_printing(&self) -> bool {
        lock(&self.printing).is_some()
    }

    /// Runs the views that no other view reads, from the state that [`Engine::resume`] has left for them.
    pub async fn print(&self) -> Result<Printed> {
        let mut views = Vec::new();
        for view in self.tops() {
            let query = self.view_query(&view).await?;
            let fingerprint = fingerprint(&query, &view.plan, view.emit, &view.lateness, 0);
            views.push((view.name.clone(), fingerprint, query));
        }
        let mut states = std::mem::take(&mut *lock(&self.states));
        let mut anew = Vec::new();
        let resumed = self.resume_tables(&mut states, &mut anew);
        let (marks, marked) = mpsc::channel(1);
        let mut barriers = OutputBarriers { marks: marked, mark: None, seen: 0, entries: Vec::new(), instance: next_instance() };
        let mut printing = Printing { marks, tables: Vec::new() };
        let mut outputs = Vec::new();
        {
            let before = lock(&self.marked);
            for (view, fingerprint, query) in views {
                let (printed, finished) = part_names(&view);
                let instance = next_instance();
                let (sender, changes) = mpsc::channel(OUTPUT_QUEUE);
                let is_finished = match states.remove(&finished) {
                    Some(part) if part.fingerprint != fingerprint => {
                        anew.push(StateLost { of: DropTarget::View, name: view.clone(), reason: Some(REDEFINED.into()) });
                        false
                    }
                    part => part.is_some(),
                };
                let (standing, output) = match query.continuous() {
                    _ if is_finished => (OutputState::Ended, Output::new(&query, None, changes, ended(sender))),
                    None => {
                        let rows = datafusion::physical_plan::execute_stream(Arc::clone(&query.plan), query.state.task_ctx())?;
                        let rows = Once::of(rows);
                        let progress = Some(rows.progress());
                        let task = tokio::spawn(told(sender.clone(), async move {
                            answer(rows, sender.clone()).await;
                            let _ = sender.send(Ok(OutputMessage::End)).await;
                        }));
                        (OutputState::Finite, Output::new(&query, progress, changes, task.abort_handle()))
                    }
                    Some(continuous) => {
                        let state = self.state_of(&view, &printed, &fingerprint, &mut states, &resumed, &mut anew);
                        let (mut run, tables) = start(&query, continuous, &view, state, &mut anew)?;
                        run.limit(query.budget);
                        run.ignore_marks(*before);
                        let standing = standing(&view, &tables)?;
                        printing.tables.extend(tables);
                        let progress = Some(run.progress());
                        let task = tokio::spawn(told(sender.clone(), follow(run, printed, instance, sender)));
                        (standing, Output::new(&query, progress, changes, task.abort_handle()))
                    }
                };
                barriers.entries.push(OutputEntry { view, fingerprint, instance, standing });
                outputs.push(output);
            }
        }
        let mut notices: Vec<String> = anew.iter().map(StateLost::to_string).collect();
        let forgotten = states.keys().filter_map(|name| name.strip_prefix(part_names("").0.as_str()));
        notices.extend(forgotten.map(|view| format!("view {view} is not printed any more: its state is let go")));
        self.forget_places(&printing.tables);
        printing.tables.iter().for_each(|table| table.start());
        *lock(&self.printing) = Some(printing);
        Ok(Printed { outputs, barriers, notices })
    }
}

/// Begins the run of a view, from a state if there is one that can be read.
fn start(
    query: &Query,
    continuous: &ContinuousExec,
    view: &str,
    state: Option<Vec<Frame>>,
    anew: &mut Vec<StateLost>,
) -> Result<(Run, Vec<Arc<Table>>)> {
    if let Some(state) = state {
        let run = continuous.run(query.state.task_ctx(), Follow::Resumed).and_then(|(mut run, tables)| {
            run.load(state)?;
            Ok((run, tables))
        });
        match run {
            Ok(run) => return Ok(run),
            Err(error) => anew.push(StateLost { of: DropTarget::View, name: view.into(), reason: Some(error.to_string()) }),
        }
    }
    continuous.run(query.state.task_ctx(), Follow::Marked)
}

/// How a view over these tables begins.
fn standing(view: &str, tables: &[Arc<Table>]) -> Result<OutputState> {
    let name = |is_finite: bool| {
        let table = tables.iter().find(|table| table.spec().finite == is_finite);
        table.map(|table| table.spec().name.clone())
    };
    match (name(true), name(false)) {
        (Some(finite), Some(endless)) => {
            let message =
                format!("view '{view}' reads '{finite}', which ends, and '{endless}', which does not: its state cannot be kept");
            Err(Error::new(Code::Endless, message).hint("make a view of each, or run it without --state"))
        }
        (Some(_), None) => Ok(OutputState::Finite),
        _ => Ok(OutputState::Running),
    }
}

/// An output that has said everything already.
fn ended(sender: mpsc::Sender<Result<OutputMessage>>) -> AbortHandle {
    tokio::spawn(async move { drop(sender.send(Ok(OutputMessage::End)).await) }).abort_handle()
}

/// Hands on the changes of a continuous query and where its checkpoints are cut, until it ends or nobody reads it.
async fn follow(mut run: Run, part: String, instance: InstanceId, said: mpsc::Sender<Result<OutputMessage>>) {
    loop {
        let sent = match run.step().await {
            Ok(Some(Step::Message(Message::Changes(rows)))) => said.send(Ok(OutputMessage::Changes(rows))).await,
            Ok(Some(Step::Message(_))) => continue,
            Ok(Some(Step::Mark(mark))) => match run.save(mark.cut(&part, instance)) {
                Ok(frames) => {
                    let (_go, going) = oneshot::channel();
                    let is_last = mark.last;
                    let sent = said.send(Ok(OutputMessage::Cut(BarrierHold { mark, frames, _go }))).await;
                    let _ = going.await;
                    if is_last {
                        return std::future::pending().await;
                    }
                    sent
                }
                Err(error) => return drop(said.send(Err(error)).await),
            },
            Ok(None) => return drop(said.send(Ok(OutputMessage::End)).await),
            Err(error) => return drop(said.send(Err(error)).await),
        };
        if sent.is_err() {
            return;
        }
    }
}
