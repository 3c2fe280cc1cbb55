//! Results out over Server-Sent Events: the changes of views as frames with ids that resume exactly.
//!
//! # Way of a change
//!
//! 1. A view publishes changes and numbers them ([`crate::view::Live`]); the number with the view's epoch is the event's id ([`Position`]).
//! 2. Clients that want the same views in the same [`Shape`] share a [`Channel`]. It wakes up, at most so often that all clients can be
//!    woken, and has the changes written once ([`Encoder`]), in one of the [`Format`]s or in a user's own words ([`Templates`]).
//! 3. It cuts the bytes into runs and tells its clients that there is one. Each takes the same bytes by reference.
//! 4. A [`Client`] that comes back reads what it missed from the view's history, until it stands where a run begins. One that is too
//!    far behind is told (`reset`, `lagged`) and gets the rows as they are.
//! 5. Streams with a name, a path and an address of their own are kept by [`Streams`], which also ends everything. One of the kind
//!    `log` has no clients: its changes become lines of the server's log.
//!
//! A server takes [`routes`] below `/v1`, [`reactions`] below `/api/v1`, and [`named`] for every path that is nobody else's; it calls
//! [`Streams::guard_with`] and [`Streams::restore`] at its start, and spawns [`Streams::end_with`].

mod ask;
mod channel;
mod client;
mod counters;
mod encode;
mod fields;
mod filter;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http;
mod listen;
mod log;
mod named_stream;
mod names;
mod poll;
mod position;
mod routes;
mod shape;
mod spec;
mod streams;
mod template;

pub use ask::{Ask, When};
pub use channel::{Channel, End};
pub use client::{Client, Greeting};
pub use counters::{Counters, OpenClient};
pub use encode::{Encoded, Encoder};
pub use fields::Issue;
pub use http::{Visitor, named};
pub use named_stream::{Named, StreamState};
pub use position::{Ids, Position, Start};
pub use routes::{reactions, routes};
pub use shape::{EventField, Format, Op, Ops, Shape};
pub use spec::{Endpoint, Heartbeat, OpTemplate, OpTemplates, Route, StreamKind, StreamSpec, Visibility, Web};
pub use streams::{Guard, Limits, Streams, Write};
pub use template::Templates;
