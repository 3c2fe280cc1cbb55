//! `/v1/connection_tables` and `/v1/connectors`: tables over feeds, made, looked at and steered over REST.

mod connectors;
mod look;
mod post;
mod statement;

pub use connectors::{Connector, connectors};
pub use look::Completed;
pub use post::{Config, ConnectionTablePost, FieldPost, Inference, SchemaPost};
pub use statement::{Fault, Rendered};

#[cfg(test)]
mod tests;
