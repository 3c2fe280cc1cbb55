//! The engine to the world: REST, event streams out, and what guards them.

pub mod auth;
pub mod body;
pub mod problem;
pub mod settings;
