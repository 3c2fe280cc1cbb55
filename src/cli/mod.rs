//! The verbs of the program.

pub mod args;
pub mod demo;
pub mod diagnostic;
pub mod help;
pub mod live;
pub mod output_checkpoints;
pub mod peek;
pub mod present;
pub mod print;
pub mod replay;
pub mod run;
pub mod sample;
pub mod screen;
pub mod script;
pub mod serve;
pub mod signals;
pub mod sink;
