//! All tests from outside, in one binary: each binary links the whole of DataFusion.

mod bad_input;
mod cli;
mod feed;
mod golden;
mod library;
mod oracle;
mod readme;
mod rooms;
mod seeds;
mod serve;
mod stories;
mod support;
mod table;
mod zones;
