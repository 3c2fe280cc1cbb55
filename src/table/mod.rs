//! Feed + format + schema = a DataFusion streaming table, one connection shared by all its readers.

mod hub;
mod provider;
mod spec;
mod status;

pub use provider::Table;
pub use spec::{EventTime, Generated, Spec};
pub use status::{Sample, Snapshot, Status};

pub use hub::Subscription;
