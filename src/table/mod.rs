//! Feed + format + schema = a DataFusion streaming table, one connection shared by all its readers.

mod arrival;
mod barrier;
mod bursts;
mod clock;
mod control;
mod current;
mod decode;
mod hub;
mod journals;
mod key;
pub mod peek;
mod provider;
mod readers;
mod saved;
mod spec;
mod status;

pub use arrival::{ARRIVAL, WithArrival};
pub use barrier::{Gathering, InstanceId, LastCheckpoint, SavedPart, next_instance};
pub use provider::Table;
pub use readers::{Follow, Subscription};
pub use spec::{ColumnSource, EventTime, Generated, TableSpec};
pub use status::{BadSample, TableSnapshot, TableStatus};
