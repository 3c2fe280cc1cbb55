//! What outlives the process, and getting back from it.

mod archive;
mod lock;
mod store;
mod vigil;

pub use archive::{Archive, Damaged, Loaded, Opened, Written};
pub use store::{Batch, Definition, Space, Store};
pub use vigil::Vigil;
