//! The verbs of the program.

pub mod diagnostic;
