//! The verbs of the program, from outside.

mod help;
mod replay;
mod sample;
