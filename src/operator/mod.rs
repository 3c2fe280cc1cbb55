//! Messages in, messages out: the parts a running query is made of. Nothing here waits, reads a clock or reaches a socket.
//!
//! What runs between operators is a [`Message`]: changes, a watermark, a barrier, the end. They keep their order; nothing overtakes a
//! batch. A watermark says that no row with an earlier event time is expected, so it comes after the rows that raised it. A barrier says
//! where a checkpoint cuts the stream: the state is taken between two messages, of all operators at once ([`Chain::save`]).

pub mod bounded;
pub mod chain;
pub mod emit;
pub mod filter;
pub mod finish;
mod grid;
pub mod hold;
mod keys;
pub mod limit;
pub mod lookup;
pub mod merge;
mod ordered;
pub mod over;
mod pane;
pub mod project;
pub mod reorder;
pub mod rows;
mod session;
mod sliding;
pub mod state;
pub mod window_aggregate;

pub use bounded::{SlotExec, SlotNode};
pub use chain::{Chain, Tree};
pub use emit::Emission;
pub use filter::Filter;
pub use finish::{Finish, Finished, RowStep};
pub use hold::Hold;
pub use limit::Limit;
pub use lookup::Lookup;
pub use merge::Merge;
pub use over::{Order, Over, OverSpec};
pub use project::Project;
pub use state::{Cut, Epoch, Frame, FrameContent, Loader, Saver, StatePart};
pub use window_aggregate::{WindowAggregate, WindowAggregateSpec};

use crate::change::Changes;
use crate::error::Result;
use crate::time::{Timestamp, Watermark};

/// What travels in a stream, in order.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "nearly all messages are changes, and each stands for many rows")]
pub enum Message {
    Changes(Changes),
    Watermark(Watermark),
    /// It goes around the operators: [`Chain::push`] hands it on, and whoever runs the chain saves its state then.
    Barrier(Barrier),
    /// Nothing follows. A feed that ends sends the watermark [`Timestamp::MAX`] just before.
    End,
}

/// Cuts a stream for a checkpoint: what stands before it is in the checkpoint, what comes behind it is not (Carbone et al., Lightweight
/// Asynchronous Snapshots for Distributed Dataflows, 2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// The number of the checkpoint.
    pub epoch: Epoch,
    /// Nothing may follow: the program ends.
    pub last: bool,
}

/// One step of a running query: state, and a function from messages to messages.
///
/// An operator passes every watermark and the end on (a watermark perhaps held back by rows it keeps), after the rows they release.
pub trait Operator: Send {
    /// Takes one message of input `input` (0 where there is only one) and appends what follows from it to `out`.
    fn push(&mut self, input: usize, message: Message, out: &mut Vec<Message>) -> Result<()>;

    /// One line for `EXPLAIN`: name and parameters, as in `WindowAggregate: TUMBLE(10s) by [k], [count(*)]`.
    fn describe(&self) -> String;

    /// Adds what a user may want to know about the state: late rows, open windows, the next close.
    fn report(&self, _report: &mut Report) {}

    /// Memory of the state, as an order of magnitude. Costs a look at each piece of it, so it is not asked for with every message.
    fn bytes(&self) -> usize {
        0
    }

    /// Gives everything that later results depend on, and changes none of them, to the last bit. Where a state of DataFusion does not
    /// hold all that its accumulator does, they move by rounding: the last digits of a variance, a covariance or a regression, an
    /// approximate percentile within its error, and what is left in a sliding sum of which all rows are NULL. After an error the
    /// operator is not to be used any more.
    fn save(&mut self, state: &mut Saver) -> Result<()>;

    /// Takes what another of the same plan saved, being itself as new. From here on both say the same, to the last bit without
    /// exception. After an error it is not to be used.
    fn load(&mut self, state: &mut Loader) -> Result<()>;
}

/// What the operators of a chain tell about themselves, for `SHOW STATUS` and the status line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Rows that came too late for every window (or order) they belong to, and were dropped.
    pub late_rows: u64,
    /// The last few of them, as text, each with its event time.
    pub late_samples: Vec<LateRow>,
    /// Rows that an expression of the query could not be computed for, and were dropped.
    pub bad_rows: u64,
    /// The last few of them.
    pub bad_samples: Vec<BadRow>,
    /// Windows (or sessions) that hold rows and are not closed.
    pub open_windows: usize,
    /// The watermark that lets the next result out: the earliest end among the open windows, or past the earliest row that waits.
    pub next_close: Option<Timestamp>,
    /// Rows kept in state: groups of windows, pieces of sessions, rows that wait or are looked back at.
    pub state_rows: usize,
    /// Memory of the state when it was last measured, see [`Operator::bytes`].
    pub state_bytes: usize,
}

/// A row that was dropped because its event time lies before what was still open.
#[derive(Debug, Clone, PartialEq)]
pub struct LateRow {
    pub time: Timestamp,
    pub watermark: Timestamp,
    pub row: String,
}

/// A row that was dropped because computing with it failed.
#[derive(Debug, Clone, PartialEq)]
pub struct BadRow {
    pub time: Timestamp,
    pub reason: String,
    pub row: String,
}

/// Late rows kept as samples, the latest ones.
pub const LATE_SAMPLES: usize = 16;

/// Bad rows kept as samples, the latest ones.
pub const BAD_SAMPLES: usize = 16;
