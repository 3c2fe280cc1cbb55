//! The verbs of the program, from outside.

mod help;
mod peek;
mod program;
mod replay;
mod sample;
mod server;
