//! The verbs of the program.

pub mod args;
pub mod replay;
pub mod sample;
