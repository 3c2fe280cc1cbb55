//! The engine to the world over HTTP; the only room that knows JSON shapes, statuses and wire codes.

pub mod tables;
