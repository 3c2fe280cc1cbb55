//! Result rows become text.
