//! What an operator knows, as Arrow rows with a name: the same for a checkpoint, a restart and a test.

use arrow::array::RecordBatch;

use super::Epoch;

/// Rows of a state under a name that is unique within its part: letters, digits and `/_.-`.
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

/// The state of one table or view.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// `table/metrics`, `view/rolling`.
    pub name: String,
    /// What the state belongs to: definitions and plan. Under another one it must not be read.
    pub fingerprint: String,
    pub frames: Vec<Frame>,
}

/// The checkpoint for which a state is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub epoch: Epoch,
    /// The last checkpoint known to be safely written; `None`: everything must be given in full.
    pub written: Option<Epoch>,
}
