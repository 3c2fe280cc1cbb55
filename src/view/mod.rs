//! A running chain: reads its tables, drives its operators, and gives changes.

mod budget;
mod drive;
mod exec;
mod history;
mod inputs;
mod latency;
mod live;
mod once;
mod planner;
mod rows;
mod run;
mod saved;

pub use budget::Budget;
pub use drive::{Sink, drive};
pub use exec::ContinuousExec;
pub use history::{Followed, Follower, HISTORY_CHANGES_MAX, HistoryEntry};
pub use latency::{Latencies, Latency};
pub use live::{Health, Live, Order, Snapshot, begin_epochs};
pub use once::Once;
pub use planner::register;
pub use rows::Rows;
pub use run::{Progress, Run};
