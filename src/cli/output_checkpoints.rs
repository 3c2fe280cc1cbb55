//! Checkpoints of a run whose rows are printed: every some seconds, and a last one at its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::args::Format;
use super::present::until;
use super::print::Printer;
use super::sink::{Sink, SinkPosition};
use crate::checkpoint::{Archive, Loaded, Opened, Store};
use crate::engine::{Checkpoints, Engine, INTERVAL_MIN, LAST_CHECKPOINT_TIMEOUT, OutputBarriers, PRINT, Taken};
use crate::error::{Code, Error, Result};
use crate::operator::Message;
use crate::operator::state::StatePart;

/// A state directory that this process has, and where the rows that belong to it go on.
pub struct StateDirectory {
    pub archive: Archive,
    pub sink: Sink,
    /// What the engine goes on from.
    pub loaded: Option<Loaded>,
    /// Sentences about what was found.
    pub notes: Vec<String>,
}

impl StateDirectory {
    /// Opens a directory and the file that goes with it; both begin here if they are new.
    pub fn open(dir: &Path, output: Option<&Path>, force: bool, format: Format) -> Result<StateDirectory> {
        if Store::is_in(dir) {
            let message = format!("'{}' is the data directory of a server, and no state of a run", dir.display());
            return Err(Error::new(Code::Data, message)
                .hint("give another --state directory; streamgauge serve --data goes on with this one"));
        }
        let Opened { mut archive, loaded, damaged } = Archive::open(dir)?;
        let mut notes: Vec<String> =
            damaged.iter().map(|damaged| format!("{damaged}; the one before is used, if it is whole")).collect();
        let name = named(format);
        let Some(loaded) = loaded else {
            if !damaged.is_empty() {
                notes.push("no checkpoint is whole: all tables and views begin anew".into());
            }
            let mut sink = output.map_or_else(|| Ok(Sink::stdout()), |path| Sink::begin(path, force))?;
            // From here on a crash leaves a state that knows how far the file was written.
            archive.write(archive.epoch() + 1, vec![part(&sink.settle()?, name)?])?;
            return Ok(StateDirectory { archive, sink, loaded: None, notes });
        };
        let wrong = |what: String| {
            let message = format!("the state in '{}' {what}", dir.display());
            Err(Error::new(Code::Data, message).hint("run it as before, or give another --state directory"))
        };
        let Some(print) = loaded.parts.iter().find(|part| part.name == PRINT) else {
            return wrong("is not one of this verb".into());
        };
        let at = loaded.at;
        let sink = match (SinkPosition::load(print), output) {
            (None, _) => return wrong("does not say where its rows went".into()),
            (Some(SinkPosition::Stdout), Some(_)) => return wrong("belongs to rows on standard output, not to a file".into()),
            (Some(SinkPosition::File { path, .. }), None) => {
                return wrong(format!("goes on with the file '{path}': give it as --output"));
            }
            (Some(SinkPosition::File { .. }), Some(_)) if print.fingerprint != name => {
                return wrong(format!("goes on with a file of the format {}", print.fingerprint));
            }
            (Some(SinkPosition::Stdout), None) => {
                notes.push(format!("going on from the checkpoint of {at}: rows that were printed after it are printed again"));
                Sink::stdout()
            }
            (Some(SinkPosition::File { length, tail, .. }), Some(path)) => {
                let sink = Sink::resume(path, length, &tail)?;
                notes.push(format!("going on from the checkpoint of {at}, behind byte {length} of '{}'", path.display()));
                sink
            }
        };
        Ok(StateDirectory { archive, sink, loaded: Some(loaded), notes })
    }
}

/// The part of a checkpoint that says where the rows are.
fn part(place: &SinkPosition, format: &str) -> Result<StatePart> {
    Ok(StatePart { name: PRINT.into(), fingerprint: format.into(), frames: place.save()? })
}

/// Takes the checkpoints of outputs while they are printed.
pub struct OutputCheckpoints {
    checkpoints: Arc<Checkpoints>,
    barriers: OutputBarriers,
    format: &'static str,
    tick: Interval,
    taking: Option<BoxFuture<'static, Result<Taken>>>,
    stage: CheckpointStage,
    /// A checkpoint has failed, and none was taken since.
    is_failing: bool,
}

enum CheckpointStage {
    Going,
    /// The last one is to be taken until then.
    Ending(Instant),
    /// It is being taken.
    Last(Instant),
    Over,
}

/// What has become of the checkpoints.
pub enum CheckpointOutcome {
    Nothing,
    /// To be told.
    Note(String),
    /// The last one is safe, or came to nothing.
    Over(Result<()>),
}

impl OutputCheckpoints {
    pub fn new(engine: Arc<Engine>, archive: Archive, barriers: OutputBarriers, format: Format, interval: Duration) -> Self {
        let interval = interval.max(INTERVAL_MIN);
        let mut tick = interval_at(Instant::now() + interval, interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let checkpoints = Arc::new(Checkpoints::new(engine, archive));
        OutputCheckpoints {
            checkpoints,
            barriers,
            format: named(format),
            tick,
            taking: None,
            stage: CheckpointStage::Going,
            is_failing: false,
        }
    }

    /// Notes how far output `index` has come.
    pub fn note(&mut self, index: usize, message: &Message) {
        match message {
            Message::Changes(_) | Message::Watermark(_) => {}
            Message::Barrier(_) => self.barriers.stop(index),
            Message::End => self.barriers.end(index),
        }
    }

    /// Gives the parts that only whoever prints can give, once all that belongs to them is printed.
    pub fn give(&mut self, printer: &mut Printer<'_>) -> Result<()> {
        if self.barriers.is_due() {
            let place = printer.settle()?;
            self.barriers.give(self.format, place.save()?);
        }
        Ok(())
    }

    /// Nothing is to come but the last checkpoint.
    pub fn finish(&mut self) {
        if let CheckpointStage::Going = self.stage {
            self.stage = CheckpointStage::Ending(Instant::now() + LAST_CHECKPOINT_TIMEOUT);
        }
    }

    /// Waits until something has become of the checkpoints; printing must go on meanwhile. Cancel-safe.
    pub async fn turn(&mut self) -> CheckpointOutcome {
        let is_free =
            self.taking.is_none() && self.barriers.hindered_by().is_none() && matches!(self.stage, CheckpointStage::Going);
        let deadline = match self.stage {
            CheckpointStage::Over => return std::future::pending().await,
            // It was told at the beginning that there is none before a view has ended.
            CheckpointStage::Ending(_) if self.barriers.hindered_by().is_some() => return self.over(Ok(())),
            CheckpointStage::Ending(deadline) if self.taking.is_none() => {
                self.begin(true);
                self.stage = CheckpointStage::Last(deadline);
                Some(deadline)
            }
            CheckpointStage::Going => None,
            CheckpointStage::Ending(deadline) | CheckpointStage::Last(deadline) => Some(deadline),
        };
        let taking = async {
            match &mut self.taking {
                Some(taking) => taking.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.barriers.begun() => CheckpointOutcome::Nothing,
            taken = taking => {
                self.taking = None;
                match self.stage {
                    CheckpointStage::Last(_) => self.over(taken.map(drop)),
                    _ => self.taken(taken),
                }
            }
            _ = self.tick.tick(), if is_free => {
                self.begin(false);
                CheckpointOutcome::Nothing
            }
            () = until(deadline) => {
                let late = Error::new(Code::Slow, "the last checkpoint took too long");
                self.over(Err(late.hint("the next run goes on from the one before")))
            }
        }
    }

    fn begin(&mut self, last: bool) {
        let checkpoints = Arc::clone(&self.checkpoints);
        let take = async move { if last { checkpoints.take_last().await } else { checkpoints.take().await } };
        self.taking = Some(take.boxed());
    }

    fn over(&mut self, taken: Result<()>) -> CheckpointOutcome {
        (self.stage, self.taking) = (CheckpointStage::Over, None);
        CheckpointOutcome::Over(taken)
    }

    /// Says when checkpoints begin to fail, and when they work again.
    fn taken(&mut self, taken: Result<Taken>) -> CheckpointOutcome {
        match taken {
            Ok(_) if std::mem::take(&mut self.is_failing) => CheckpointOutcome::Note("checkpoints work again".into()),
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                CheckpointOutcome::Note(format!("a checkpoint failed, the one before stays: {error}"))
            }
            Ok(_) | Err(_) => CheckpointOutcome::Nothing,
        }
    }
}

/// The word for a format in a checkpoint.
fn named(format: Format) -> &'static str {
    match format {
        Format::Csv => "csv",
        _ => "ndjson",
    }
}
