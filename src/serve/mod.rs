//! The engine to the world: the only room that knows HTTP, JSON shapes and wire codes.

pub mod stream;
