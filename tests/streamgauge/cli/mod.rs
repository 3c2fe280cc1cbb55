//! The verbs of the program, from outside.

mod help;
mod peek;
pub mod program;
mod replay;
mod run;
mod sample;
pub mod server;
mod state;
