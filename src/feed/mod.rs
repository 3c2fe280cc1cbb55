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
pub use gap::{Gap, GapReason, LostPlace};
pub use header::{Variables, written_headers};
pub use ids::Ids;
pub use journal::Journal;
pub use mask::{MASK, holds_mask, masked, secret_parts};
pub use parser::{Event, Parser};
pub use policy::{Policy, SecretValues, Variables as AllowedVariables};
pub use reader::{Feed, FeedPosition, ReadOutcome};
pub use recent::{Memory, Older, Rendering, SeenEvent};
pub use spec::FeedSpec;
pub use status::{Cause, FeedSnapshot, FeedState, FeedStatus, Happening, RecentEvent};
