//! One run of a planned query: messages of its tables go in, changes come out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::execution::TaskContext;
use futures::stream::{SelectAll, select_all, unfold};
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;

use crate::error::Result;
use crate::operator::{Chain, Message, Report};
use crate::plan::{Fixed, Instance, Plan};
use crate::table::{Follow, Table};
use crate::time::Timestamp;

/// How old the progress of a run may be while it has no time to wait: what operators tell is for people to read.
const PROGRESS_AGE_MAX: Duration = Duration::from_millis(100);

/// A query that runs. It is driven by whoever asks for its next message; dropping it leaves its tables.
pub struct Run {
    chain: Chain,
    fixed: Vec<Fixed>,
    context: Arc<TaskContext>,
    inputs: SelectAll<Input>,
    /// What the chain gave and nobody has asked for yet.
    ready: VecDeque<Message>,
    out: Vec<Message>,
    ended: bool,
    watermark: Option<Timestamp>,
    progress: Arc<Progress>,
    /// When the progress was noted last.
    noted: Instant,
    /// When a table had the latest message ready that came in.
    handed_out: Option<Instant>,
}

/// Messages with the number of their source, and when the table had them ready.
type Input = std::pin::Pin<Box<dyn Stream<Item = (usize, Instant, Result<Message>)> + Send>>;

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
}

impl Run {
    /// Joins the tables as a reader. Nothing flows before their [`Table::start`], so that several runs can see a feed's first event.
    pub fn new(plan: &Plan, context: Arc<TaskContext>, follow: Follow) -> Result<(Run, Vec<Arc<Table>>)> {
        let Instance { chain, sources, fixed } = plan.instance()?;
        let mut inputs: Vec<Input> = Vec::new();
        let mut tables = Vec::new();
        for (index, (table, projection)) in sources.into_iter().enumerate() {
            let subscription = table.subscribe(projection, follow)?;
            let messages = unfold(subscription, move |mut messages| async move {
                let message = messages.next().await?;
                Some(((index, messages.handed_out(), message), messages))
            });
            inputs.push(messages.boxed());
            tables.push(table);
        }
        let run = Run {
            chain,
            fixed,
            context,
            inputs: select_all(inputs),
            ready: VecDeque::new(),
            out: Vec::new(),
            ended: false,
            watermark: None,
            progress: Arc::default(),
            noted: Instant::now(),
            handed_out: None,
        };
        Ok((run, tables))
    }

    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The next message of the result; `None` after the end. Cancel-safe.
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
            }
            let next = match self.inputs.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.note();
                    self.inputs.next().await
                }
            };
            let Some((source, handed_out, message)) = next else { return Ok(self.end()) };
            self.handed_out = Some(handed_out);
            self.chain.push(source, message?, &mut self.out)?;
            for message in self.out.drain(..) {
                if let Message::Watermark(watermark) = message {
                    self.watermark = Some(watermark.time);
                }
                self.ready.push_back(message);
            }
        }
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

    fn note(&mut self) {
        self.noted = Instant::now();
        let mut now = self.progress.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (self.watermark, self.chain.report());
    }
}
