//! What outlives the process, and getting back from it.

mod archive;
mod crash_guard;
mod lock;
mod store;

pub use archive::{Archive, CheckpointCost, Damaged, Loaded, Opened};
pub use crash_guard::CrashGuard;
pub use store::{Batch, Definition, Space, Store};
