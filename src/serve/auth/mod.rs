//! Who may do what: tokens with scopes, tickets for streams, and the gate that every request passes.

mod gate;
mod origin;
mod routes;
mod scope;
mod ticket;
mod token;
mod until;

pub use gate::{Gate, Identity, authorize};
pub use origin::{Origins, host, is_same_origin, keep_out_foreign_pages};
pub use routes::router;
pub use scope::{Need, Scope, need};
pub use ticket::Tickets;
pub use token::{Record, Tokens};

/// What tokens and tickets begin with.
pub const SECRET_PREFIXES: [&str; 2] = [token::PREFIX, ticket::PREFIX];
