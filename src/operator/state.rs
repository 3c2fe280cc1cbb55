//! The state of operators as named tables of rows, for a checkpoint and back.

use arrow::array::RecordBatch;

/// One table of rows. The name is unique within its [`Part`] and made of `[a-z0-9/_.-]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub name: String,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Rows(RecordBatch),
    /// The same rows as in the frame of this name in the last checkpoint that was written.
    Unchanged,
}

/// The frames of one table or view: `table/metrics`, `view/rolling`.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub name: String,
    /// Of the definition and the plan that the frames belong to: under another one they mean nothing.
    pub fingerprint: String,
    pub frames: Vec<Frame>,
}
