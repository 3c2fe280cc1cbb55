//! Results out over Server-Sent Events: the changes of views as frames with ids that resume exactly.

mod ask;
mod channel;
mod client;
mod counters;
mod encode;
mod fields;
mod frame;
mod http;
mod listen;
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
pub use counters::{Counters, Open};
pub use encode::{Encoded, Encoder};
pub use fields::Issue;
pub use http::{Visitor, named};
pub use position::{Ids, Position, Start};
pub use routes::{reactions, routes};
pub use shape::{EventField, Format, Op, Ops, Shape};
pub use spec::{Endpoint, Heartbeat, OpTemplate, OpTemplates, Route, StreamSpec, Visibility};
pub use streams::{Guard, Limits, Named, State, Streams, Write};
pub use template::Templates;
