//! The engine to the world: REST, event streams out, and what guards them.

pub mod auth;
pub mod body;
pub mod guard;
pub mod listen;
pub mod log;
pub mod problem;
pub mod settings;
pub mod stream;
pub mod turnstile;
