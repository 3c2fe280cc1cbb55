//! The engine to the world: REST, event streams out, and what guards them.

pub mod body;
mod once;
mod page;
mod precondition;
pub mod problem;
pub mod tables;
