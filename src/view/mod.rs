//! A running chain: reads its tables, drives its operators, and gives changes.

mod budget;
mod exec;
mod inputs;
mod latency;
mod live;
mod planner;
mod rows;
mod run;
mod saved;

pub use budget::Budget;
pub use exec::ContinuousExec;
pub use latency::{Latencies, Latency};
pub use live::{Entry, Followed, Follower, HISTORY_CHANGES_MAX, Health, Live, Order, Snapshot};
pub use planner::register;
pub use rows::Rows;
pub use run::{Progress, Run, Step};
