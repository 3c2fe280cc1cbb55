//! All tests from outside, in one binary: each binary links the whole of DataFusion.

mod bad_input;
mod cli;
mod docs;
mod feed;
mod golden;
mod library;
mod oracle;
mod rooms;
mod seeds;
mod serve;
mod stories;
mod support;
mod table;
mod zones;
