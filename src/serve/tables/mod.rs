//! Tables over feeds by REST: made from a body that means a `CREATE TABLE`, looked at, changed and steered.

mod alias;
mod connectors;
mod look;
mod mask;
mod post;
mod routes;
mod shown;
mod statement;
mod steer;
mod trial;

pub use connectors::connectors;
pub use post::ConnectionTablePost;
pub use routes::routes;
pub use shown::ConnectionTable;

#[cfg(test)]
mod tests;
