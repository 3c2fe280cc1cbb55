//! Streamgauge: Server-Sent Event feeds as SQL tables, with rolling windows that stay up to date.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod change;
pub mod cli;
pub mod engine;
pub mod error;
pub mod feed;
pub mod format;
pub mod operator;
pub mod options;
pub mod plan;
pub mod sql;
pub mod table;
pub mod time;
pub mod view;
pub mod window;
