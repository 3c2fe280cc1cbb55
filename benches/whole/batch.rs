//! Plain DataFusion over the same rows, which are in memory already: no feed, no decoding, no order in time.

use std::sync::Arc;

use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::case::Case;
use crate::meter::{Answer, Measured, Meter};
use crate::ours;

pub fn run(case: Case, port: u16) -> Measured {
    let rows = ours::rows(case, port);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let table = MemTable::try_new(rows[0].schema(), vec![rows]).expect("rows of one schema");
        session.register_table("feed", Arc::new(table)).expect("a table");
        let meter = Meter::start();
        let results = session.sql(&case.batch()).await.expect("a good query").collect().await.expect("results");
        let mut answer = Answer::default();
        results.iter().for_each(|rows| ours::count(rows, &mut answer));
        meter.stop(answer, Vec::new())
    })
}
