//! A running chain: reads its tables, drives its operators, and gives changes.

mod exec;
mod live;
mod planner;
mod rows;
mod run;

pub use exec::ContinuousExec;
pub use live::{Entry, Followed, Follower, Health, Live, Order, Snapshot};
pub use planner::register;
pub use rows::Rows;
pub use run::{Progress, Run};
