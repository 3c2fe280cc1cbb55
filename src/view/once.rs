//! The rows of a query over feeds that all end: DataFusion computes them, once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::Stream;

use super::Progress;
use crate::function::listen;

/// Rows among which a group without a value costs itself: it is NULL, and the reason stands in the progress. For those who see both; for
/// others it is an error ([`listen`]).
pub struct Once {
    rows: SendableRecordBatchStream,
    progress: Arc<Progress>,
}

impl Once {
    pub fn of(rows: SendableRecordBatchStream) -> Self {
        Once { rows, progress: Arc::default() }
    }

    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

impl Stream for Once {
    type Item = DataFusionResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (polled, lost) = listen(|| self.rows.as_mut().poll_next(context));
        self.progress.lose(lost);
        polled
    }
}
