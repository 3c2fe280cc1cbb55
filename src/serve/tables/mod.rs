//! `/v1/connection_tables` and `/v1/connectors`: tables over feeds, made, looked at and steered over REST.

mod post;
mod statement;

pub use post::{Config, ConnectionTablePost, FieldPost, Inference, SchemaPost};
pub use statement::{Fault, Rendered};

#[cfg(test)]
mod tests;
