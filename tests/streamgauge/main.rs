//! All tests from outside, in one binary: each binary links the whole of DataFusion.

mod cli;
mod feed;
mod readme;
mod support;
mod table;
