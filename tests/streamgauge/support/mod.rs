//! What tests of several rooms need: a scripted server of event streams.

pub mod server;
