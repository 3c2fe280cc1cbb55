//! Views by REST: made from a body that means a `CREATE VIEW`, looked at, replaced and dropped; their rows in several forms.

mod post;
mod results;
mod routes;
mod shown;

pub use results::running;
pub use routes::routes;
pub use shown::find;
