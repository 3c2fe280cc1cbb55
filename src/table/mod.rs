//! Feed + format + schema = a DataFusion streaming table, one connection shared by all its readers.

mod clock;
mod control;
mod current;
mod decode;
mod hub;
pub mod peek;
mod provider;
mod readers;
mod spec;
mod status;

pub use provider::Table;
pub use readers::{Follow, Subscription};
pub use spec::{EventTime, Generated, Spec};
pub use status::{Sample, Snapshot, Status};
