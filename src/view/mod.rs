//! A running chain: reads its tables, drives its operators, and gives changes.

mod exec;
mod planner;
mod run;

pub use exec::ContinuousExec;
pub use planner::register;
pub use run::{Progress, Run};
