//! A DataFusion logical plan → a chain of operators, or a refusal that says why and what to write instead.
//!
//! Life of a query:
//!
//! 1. DataFusion resolves the text. `TUMBLE(…)` is a function to it, a marker that is never evaluated ([`functions`]).
//! 2. After type coercion, [`FindWindows`] puts a [`WindowNode`] in the place of each aggregate that groups by a marker, and refuses markers elsewhere;
//!    [`Clocks`] makes `now()` in `SELECT` the time of arrival, and refuses it elsewhere.
//! 3. DataFusion optimises: filters by a key go below the window, columns nobody needs leave the scan.
//! 4. [`compile`] walks the plan from its root and gives each node its [`Step`]. What looks at one window at a time stays a bounded DataFusion plan.
//! 5. A [`Plan`] is plain data; each run gets a chain of operators of its own ([`Plan::instance`]).
//!
//! Absent here: sockets, clocks, tasks. `compile` is `async` only because DataFusion plans bounded parts that way.

mod clocks;
mod compile;
mod describe;
mod finish;
mod marker;
mod node;
mod step;

pub use clocks::Clocks;
pub use compile::{Emit, compile, is_refusal, session, tables};
pub use describe::readable;
pub use marker::functions;
pub use node::{FindWindows, WindowNode};
pub use step::{Fixed, Instance, Plan, Step};
