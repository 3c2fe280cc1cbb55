//! One run of a planned query: messages of its tables go in, changes come out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::execution::TaskContext;
use futures::FutureExt;
use tokio::time::{Instant, timeout_at};

use super::budget::{Budget, Pace};
use super::inputs::{Arrived, Inputs};
use crate::change::Changes;
use crate::error::Result;
use crate::function::LostGroup;
use crate::operator::state::{Cut, Frame};
use crate::operator::{BAD_SAMPLES, BadRow, Chain, Epoch, Message, Report};
use crate::plan::{Fixed, Instance, Plan};
use crate::table::{Follow, Gathering, Table};
use crate::time::Timestamp;

/// How old the progress of a run may be while it has no time to wait: what operators tell is for people to read.
const PROGRESS_AGE_MAX: Duration = Duration::from_millis(100);

/// A query that runs. It is driven by whoever asks for its next message; dropping it leaves its tables.
pub struct Run {
    chain: Chain,
    fixed: Vec<Fixed>,
    context: Arc<TaskContext>,
    inputs: Inputs,
    /// What the chain gave and nobody has asked for yet.
    ready: VecDeque<Message>,
    out: Vec<Message>,
    ended: bool,
    watermark: Option<Timestamp>,
    progress: Arc<Progress>,
    /// When the progress was noted last.
    noted: Instant,
    budget: Budget,
    pace: Pace,
    /// Memory of the state when it was measured last.
    state_bytes: usize,
    /// When a table had the latest message ready that came in.
    handed_out: Option<Instant>,
}

/// How far a run has come, for those who watch it: noted whenever the run waits, and now and then while it does not.
#[derive(Debug, Default)]
pub struct Progress {
    now: Mutex<(Option<Timestamp>, Report)>,
}

impl Progress {
    /// The watermark of the results so far, and what the operators tell about themselves.
    pub fn read(&self) -> (Option<Timestamp>, Report) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes groups that have no value.
    pub(super) fn lose(&self, lost: Vec<LostGroup>) {
        let Report { bad_rows, bad_samples, .. } = &mut self.now.lock().unwrap_or_else(PoisonError::into_inner).1;
        *bad_rows += lost.len() as u64;
        let sample = |lost: LostGroup| BadRow { time: Timestamp::now(), reason: lost.reason, row: String::new() };
        bad_samples.extend(lost.into_iter().map(sample));
        bad_samples.drain(..bad_samples.len().saturating_sub(BAD_SAMPLES));
    }
}

impl Run {
    /// Joins the tables as a reader. Nothing flows before their [`Table::start`], so that several runs can see a feed's first event.
    pub fn new(plan: &Plan, context: Arc<TaskContext>, follow: Follow) -> Result<(Run, Vec<Arc<Table>>)> {
        let Instance { chain, sources, fixed } = plan.instance()?;
        let mut inputs = Vec::new();
        let mut tables = Vec::new();
        for (table, projection) in sources {
            inputs.push(table.subscribe(projection, follow)?);
            tables.push(table);
        }
        let mut inputs = Inputs::new(inputs);
        // A feed that ends is read from its beginning again after a restart, so there is no place in it to go on from.
        if tables.iter().any(|table| table.spec().finite) {
            inputs.ignore_barriers(Epoch::MAX);
        }
        let run = Run {
            chain,
            fixed,
            context,
            inputs,
            ready: VecDeque::new(),
            out: Vec::new(),
            ended: false,
            watermark: None,
            progress: Arc::default(),
            noted: Instant::now(),
            budget: Budget::default(),
            pace: Pace::new(Instant::now()),
            state_bytes: 0,
            handed_out: None,
        };
        Ok((run, tables))
    }

    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The next changes of the result; `None` after the end. Cancel-safe.
    pub async fn next_changes(&mut self) -> Result<Option<Changes>> {
        loop {
            match self.next().await? {
                Some(Message::Changes(changes)) => return Ok(Some(changes)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next message of the result; `None` after the end. At a barrier everything before it has been given, and nothing behind it was
    /// read: [`Run::save`] gives the state for it, and [`Run::take_gathering`] tells where that goes. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        self.read_fixed().await?;
        loop {
            match self.ready.pop_front() {
                Some(Message::End) => return Ok(self.end()),
                Some(message) => return Ok(Some(message)),
                None if self.ended => return Ok(None),
                None => {}
            }
            if self.noted.elapsed() >= PROGRESS_AGE_MAX {
                self.note();
                if self.pace.due().is_some_and(|due| due <= self.noted) {
                    self.measure()?;
                }
            }
            let next = match self.inputs.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.note();
                    match self.pace.due() {
                        Some(due) => match timeout_at(due, self.inputs.next()).await {
                            Ok(next) => next,
                            Err(_) => {
                                self.measure()?;
                                continue;
                            }
                        },
                        None => self.inputs.next().await,
                    }
                }
            };
            let Some(Arrived { message, source, handed_out }) = next.transpose()? else { return Ok(self.end()) };
            self.handed_out = Some(handed_out);
            self.pace.changed();
            self.chain.push(source, message, &mut self.out)?;
            for message in self.out.drain(..) {
                if let Message::Watermark(watermark) = message {
                    self.watermark = self.watermark.max(Some(watermark.time));
                }
                self.ready.push_back(message);
            }
        }
    }

    /// Barriers up to this one are nothing to this run: they were sent before it joined its tables.
    pub fn ignore_barriers(&mut self, up_to: Epoch) {
        self.inputs.ignore_barriers(up_to);
    }

    /// Where the parts go for the barrier that came last; once.
    pub fn take_gathering(&mut self) -> Option<Arc<Gathering>> {
        self.inputs.take_gathering()
    }

    /// The state of all operators after everything that was given so far.
    pub fn save(&mut self, cut: Cut) -> Result<Vec<Frame>> {
        self.chain.save(cut)
    }

    /// Goes on from a state; before the first step, and on a run of the same plan. After an error the run is good for nothing.
    pub fn load(&mut self, frames: Vec<Frame>) -> Result<()> {
        self.chain.load(frames)
    }

    /// More state than this ends the run with an error.
    pub fn limit(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// When a table had that ready from which the latest message follows.
    pub fn handed_out(&self) -> Option<Instant> {
        self.handed_out
    }

    fn end(&mut self) -> Option<Message> {
        self.ended = true;
        self.note();
        None
    }

    /// The tables that are joined with are read once, before the first row.
    async fn read_fixed(&mut self) -> Result<()> {
        while let Some(fixed) = self.fixed.last() {
            let batches = datafusion::physical_plan::collect(Arc::clone(&fixed.plan), Arc::clone(&self.context)).await?;
            let rows = arrow::compute::concat_batches(&fixed.plan.schema(), &batches)?;
            // A second read of the same rows would find them there already.
            let _ = fixed.rows.set(rows);
            self.fixed.pop();
        }
        Ok(())
    }

    /// Looks how much state there is, and whether that is too much.
    fn measure(&mut self) -> Result<()> {
        let begin = Instant::now();
        self.state_bytes = self.chain.bytes();
        self.note();
        self.pace.measured(begin, self.noted);
        self.budget.check(self.chain.report().state_rows, self.state_bytes)
    }

    fn note(&mut self) {
        let report = Report { state_bytes: self.state_bytes, ..self.chain.report() };
        *self.progress.now.lock().unwrap_or_else(PoisonError::into_inner) = (self.watermark, report);
        self.noted = Instant::now();
    }
}
