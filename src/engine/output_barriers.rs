//! Barriers of outputs whose rows leave for good, as to a file: each output says where in its rows a checkpoint is cut.
//!
//! An output that has come to a barrier goes no further before the others have come to it and whoever prints them has noted how far the
//! print is. So each row is in the checkpoint if and only if it stands before that place.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::output::{OUTPUT_QUEUE, answer, follow, hand_on, told};
use super::running_view::{REDEFINED, StateLost, fingerprint, lock};
use super::{Engine, Output, Query};
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::operator::state::Frame;
use crate::operator::{Epoch, Message};
use crate::sql::DropTarget;
use crate::table::{Follow, Gathering, InstanceId, Table, next_instance};
use crate::view::{ContinuousExec, Once, Run, Sink};

/// Where an output has stopped for a checkpoint. It goes on when this is dropped.
struct BarrierHold {
    gathering: Arc<Gathering>,
    frames: Vec<Frame>,
    _release: oneshot::Sender<()>,
}

/// The part of whoever prints: where the print stands at the cut.
pub const PRINT: &str = "print";

/// The part of an output that goes on, and of one that has said everything: then there is nothing in it.
fn part_names(view: &str) -> (String, String) {
    (format!("printed/{view}"), format!("finished/{view}"))
}

/// Where a state goes to, from the engine's side.
pub(super) struct Printing {
    gatherings: mpsc::Sender<Arc<Gathering>>,
    tables: Vec<Arc<Table>>,
}

impl Printing {
    /// Begins a checkpoint at the tables and at [`OutputBarriers`]; `tables` gets the names of the parts of those that send a barrier.
    pub(super) fn send_barrier(&self, gathering: &Arc<Gathering>, tables: &mut HashMap<String, bool>) {
        for table in &self.tables {
            tables.entry(table.part_name()).or_insert_with(|| table.send_barrier(gathering));
        }
        // Where the one before has not even been read, the first output that comes to this one tells of it.
        let _ = self.gatherings.try_send(Arc::clone(gathering));
    }
}

/// Where all outputs stand, kept by whoever prints them.
pub struct OutputBarriers {
    gatherings: mpsc::Receiver<Arc<Gathering>>,
    /// The checkpoint whose barrier all outputs are to come to.
    gathering: Option<Arc<Gathering>>,
    /// The latest barrier there was.
    seen: Epoch,
    entries: Vec<OutputEntry>,
    instance: InstanceId,
}

struct OutputEntry {
    view: String,
    fingerprint: String,
    instance: InstanceId,
    state: OutputState,
    /// What its task leaves here before it sends a barrier.
    hold: Arc<Mutex<Option<BarrierHold>>>,
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
    pub async fn begun(&mut self) {
        match self.gatherings.recv().await {
            Some(gathering) => self.see(gathering),
            None => std::future::pending().await,
        }
    }

    /// Output `index` has come to a barrier: everything before it has been printed.
    pub fn stop(&mut self, index: usize) {
        let Some(hold) = lock(&self.entries[index].hold).take() else { return };
        let epoch = hold.gathering.barrier().epoch;
        self.see(Arc::clone(&hold.gathering));
        if self.gathering.as_ref().is_some_and(|gathering| gathering.barrier().epoch == epoch) {
            self.entries[index].state = OutputState::Stopped(hold);
        }
    }

    /// Output `index` has given all its rows.
    pub fn end(&mut self, index: usize) {
        self.entries[index].state = OutputState::Ended;
    }

    /// A checkpoint is learned of in several ways. A later one means that the one before was given up.
    fn see(&mut self, gathering: Arc<Gathering>) {
        let epoch = gathering.barrier().epoch;
        if self.seen < epoch {
            self.release();
            self.seen = epoch;
            self.gathering = Some(gathering);
        }
    }

    fn release(&mut self) {
        for entry in &mut self.entries {
            if let OutputState::Stopped(_) = entry.state {
                entry.state = OutputState::Running;
            }
        }
    }

    pub fn has_ended(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.state, OutputState::Ended))
    }

    /// The first view for whose end a checkpoint would have to wait.
    pub fn hindered_by(&self) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| matches!(entry.state, OutputState::Finite))?;
        Some(&entry.view)
    }

    /// Whether a checkpoint waits for nothing but [`OutputBarriers::give`].
    pub fn is_due(&self) -> bool {
        let is_there = |entry: &OutputEntry| matches!(entry.state, OutputState::Stopped(_) | OutputState::Ended);
        self.gathering.is_some() && self.entries.iter().all(is_there)
    }

    /// Gives the parts of all outputs and the place of the print, of which `print` is the fingerprint. The outputs go on.
    pub fn give(&mut self, print: &str, place: Vec<Frame>) {
        let Some(gathering) = self.gathering.take() else { return };
        for OutputEntry { view, fingerprint, instance, state, .. } in &mut self.entries {
            let (printed, finished) = part_names(view);
            let (name, frames) = match state {
                OutputState::Stopped(hold) => (printed, std::mem::take(&mut hold.frames)),
                _ => (finished, Vec::new()),
            };
            gathering.give(name, *instance, fingerprint.clone(), |_| Ok(frames));
        }
        gathering.give(PRINT.into(), self.instance, print.into(), |_| Ok(place));
        drop(gathering);
        self.release();
    }
}

/// Outputs that run, and their barriers.
pub struct Printed {
    pub outputs: Vec<Output>,
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
        let (sender, gatherings) = mpsc::channel(1);
        let mut barriers =
            OutputBarriers { gatherings, gathering: None, seen: 0, entries: Vec::new(), instance: next_instance() };
        let mut printing = Printing { gatherings: sender, tables: Vec::new() };
        let mut outputs = Vec::new();
        {
            let before = lock(&self.last_barrier);
            for (view, fingerprint, query) in views {
                let (printed, finished) = part_names(&view);
                let instance = next_instance();
                let (sender, messages) = mpsc::channel(OUTPUT_QUEUE);
                let hold = Arc::default();
                let is_finished = match states.remove(&finished) {
                    Some(part) if part.fingerprint != fingerprint => {
                        anew.push(StateLost { of: DropTarget::View, name: view.clone(), reason: Some(REDEFINED.into()) });
                        false
                    }
                    part => part.is_some(),
                };
                let (state, output) = match query.continuous() {
                    _ if is_finished => (OutputState::Ended, Output::new(&query, None, messages, ended(sender))),
                    None => {
                        let rows = datafusion::physical_plan::execute_stream(Arc::clone(&query.plan), query.state.task_ctx())?;
                        let rows = Once::of(rows);
                        let progress = Some(rows.progress());
                        let task = tokio::spawn(told(sender.clone(), answer(rows, sender)));
                        (OutputState::Finite, Output::new(&query, progress, messages, task.abort_handle()))
                    }
                    Some(continuous) => {
                        let state = self.state_of(&view, &printed, &fingerprint, &mut states, &resumed, &mut anew);
                        let (mut run, tables) = start(&query, continuous, &view, state, &mut anew)?;
                        run.limit(query.budget);
                        run.ignore_barriers(*before);
                        let first = first_state(&view, &tables)?;
                        printing.tables.extend(tables);
                        let progress = Some(run.progress());
                        let sink = PrintedSink { part: printed, instance, messages: sender.clone(), hold: Arc::clone(&hold) };
                        let task = tokio::spawn(told(sender.clone(), follow(run, sink, sender)));
                        (first, Output::new(&query, progress, messages, task.abort_handle()))
                    }
                };
                barriers.entries.push(OutputEntry { view, fingerprint, instance, state, hold });
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
        let run = continuous.run(query.state.task_ctx(), Follow::OUTPUT.restored()).and_then(|(mut run, tables)| {
            run.load(state)?;
            Ok((run, tables))
        });
        match run {
            Ok(run) => return Ok(run),
            Err(error) => anew.push(StateLost { of: DropTarget::View, name: view.into(), reason: Some(error.to_string()) }),
        }
    }
    continuous.run(query.state.task_ctx(), Follow::OUTPUT)
}

/// How a view over these tables begins.
fn first_state(view: &str, tables: &[Arc<Table>]) -> Result<OutputState> {
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

/// An output that has given all its rows already.
fn ended(sender: mpsc::Sender<Result<Message>>) -> AbortHandle {
    tokio::spawn(async move { drop(sender.send(Ok(Message::End)).await) }).abort_handle()
}

/// The channel of an output with a state. At a barrier it waits until whoever prints the output has come there.
struct PrintedSink {
    part: String,
    instance: InstanceId,
    messages: mpsc::Sender<Result<Message>>,
    hold: Arc<Mutex<Option<BarrierHold>>>,
}

impl Sink for PrintedSink {
    async fn changes(&mut self, changes: Changes, _: Option<Instant>) -> Result<ControlFlow<()>> {
        Ok(hand_on(&self.messages, Message::Changes(changes)).await)
    }

    async fn barrier(&mut self, gathering: Arc<Gathering>, run: &mut Run) -> Result<ControlFlow<()>> {
        let frames = run.save(gathering.cut(&self.part, self.instance))?;
        let barrier = gathering.barrier();
        let (release, released) = oneshot::channel();
        *lock(&self.hold) = Some(BarrierHold { gathering, frames, _release: release });
        let handed_on = hand_on(&self.messages, Message::Barrier(barrier)).await;
        // One that nobody will take is no reason to wait.
        if handed_on.is_break() {
            lock(&self.hold).take();
        }
        let _ = released.await;
        Ok(handed_on)
    }
}
