//! Feed + format + schema = a DataFusion streaming table, one connection shared by all its readers.

mod arriving;
mod clock;
mod control;
mod current;
mod decode;
mod hub;
mod journals;
mod mark;
pub mod peek;
mod provider;
mod readers;
mod saved;
mod spec;
mod status;

pub use arriving::{ARRIVAL, Arriving};
pub use mark::{Given, Holder, Mark, Written, next_holder};
pub use provider::Table;
pub use readers::{Delivery, Follow, Subscription};
pub use spec::{EventTime, Generated, Source, Spec};
pub use status::{Sample, Snapshot, Status};
