//! An authenticated event stream that never ends: bytes → events of the wanted types; reconnect, resume, watchdog.

mod address;
mod body;
mod client;
mod coding;
mod connection;
mod course;
mod digest;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gap;
mod header;
mod ids;
mod journal;
mod mask;
mod parser;
mod policy;
mod reader;
mod recent;
mod retry;
mod secrets;
mod spec;
mod status;
mod watchdog;

pub use address::Reach;
pub use gap::{Gap, Lost, Reason};
pub use header::{Variables, written_headers};
pub use ids::Ids;
pub use journal::Journal;
pub use mask::{MASK, holds_mask, masked, secret_parts};
pub use parser::{Event, Parser};
pub use policy::{Policy, Values, Variables as AllowedVariables};
pub use reader::{Feed, Position, Reading};
pub use recent::{Mark, Memory, Older, Renders};
pub use spec::Spec;
pub use status::{Cause, Happening, RecentEvent, Snapshot, State, Status};
