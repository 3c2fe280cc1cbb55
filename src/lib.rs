//! Streamgauge: Server-Sent Event feeds as SQL tables, with rolling windows that stay up to date.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod change;
pub mod cli;
pub mod error;
pub mod operator;
pub mod options;
pub mod sql;
pub mod time;
pub mod window;
