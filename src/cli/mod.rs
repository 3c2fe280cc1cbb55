//! The verbs of the program.

pub mod args;
pub mod demo;
pub mod peek;
pub mod replay;
pub mod sample;
pub mod screen;
