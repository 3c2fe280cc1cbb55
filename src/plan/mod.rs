//! A DataFusion logical plan → a chain of operators, or a refusal that says why and what to write instead.

mod bounded;
mod compile;
mod describe;
mod finish;
mod lookup;
mod marker;
mod node;
mod step;

pub use bounded::SlotNode;
pub use compile::{Emit, compile, is_refusal, session, tables};
pub use describe::readable;
pub use marker::functions;
pub use node::{FindWindows, WindowNode};
pub use step::{Fixed, Instance, Plan, Step};
