//! What outlives the process, and getting back from it.

mod store;

pub use store::{Batch, Definition, Of, Space, Store};
