//! The engine to the world: REST, event streams out, and what guards them.

pub mod body;
pub mod problem;
pub mod settings;
pub mod stream;
