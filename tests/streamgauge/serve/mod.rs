//! The server from outside.

mod stream;
