//! Conditions of streams: planned, and tried on the rows that the view has, on a thread for questions. A condition that takes too long there
//! would hold up all streams each time a row comes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use tokio::time::Instant;

use super::shape::Shape;
use super::streams::{Streams, lock};
use crate::engine::{Engine, Purpose};
use crate::error::{Code, Error, Result};

/// How long a condition may take to be planned and to be computed for all rows of a view.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(2);

/// Conditions remembered: clients that come back ask for the same ones.
const KNOWN_MAX: usize = 256;

/// The latest conditions that were tried.
#[derive(Default)]
pub struct Filters(Mutex<VecDeque<CachedFilter>>);

struct CachedFilter {
    /// That of the view: one that is made anew has other columns.
    epoch: u64,
    text: String,
    expr: Arc<dyn PhysicalExpr>,
}

impl Filters {
    fn find(&self, epoch: u64, text: &str) -> Option<Arc<dyn PhysicalExpr>> {
        let known = lock(&self.0);
        known.iter().find(|known| known.epoch == epoch && known.text == text).map(|known| Arc::clone(&known.expr))
    }

    fn remember(&self, epoch: u64, text: String, expr: Arc<dyn PhysicalExpr>) {
        let mut known = lock(&self.0);
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back(CachedFilter { epoch, text, expr });
    }
}

impl Streams {
    /// Plans and tries the condition of a shape for each view, so that [`Streams::encoder`] finds it. A view that is not there is left to
    /// that.
    pub async fn prepare(&self, views: &[String], shape: &Shape) -> Result<()> {
        let Some(text) = &shape.filter else { return Ok(()) };
        for view in views {
            let Ok(live) = self.live(view) else { continue };
            let epoch = live.epoch();
            if self.filters.find(epoch, text).is_some() {
                continue;
            }
            let (engine, text) = (Arc::clone(&self.engine), text.clone());
            let work = async move {
                let expr = planned(&engine, &live.schema, &text)?;
                let rows = live.snapshot()?.rows;
                // Rows on which it fails are the stream's matter.
                let _ = expr.evaluate(&rows);
                Ok::<_, Error>((text, expr))
            };
            let tried = self.engine.ask(Purpose::Reader, Instant::now() + TRIAL_TIME_MAX, work).await;
            let (text, expr) = tried.map_err(|error| match error.code() {
                Code::Runtime => Error::new(Code::BadOption, "option 'where': the condition takes too long")
                    .hint("compare columns with values; what takes longer is a view: CREATE VIEW … AS SELECT …"),
                _ => error,
            })??;
            self.filters.remember(epoch, text, expr);
        }
        Ok(())
    }

    /// The condition over the columns of a view.
    pub(super) fn filter(&self, epoch: u64, schema: &SchemaRef, text: &str) -> Result<Arc<dyn PhysicalExpr>> {
        match self.filters.find(epoch, text) {
            Some(known) => Ok(known),
            None => planned(&self.engine, schema, text),
        }
    }
}

/// A condition over the columns of a schema. Whatever it names, the view itself is there.
fn planned(engine: &Engine, schema: &SchemaRef, text: &str) -> Result<Arc<dyn PhysicalExpr>> {
    engine.condition(schema, text).map_err(|error| {
        let told = Error::new(error.code(), format!("option 'where': {}", error.message()));
        told.hint(error.way_out().unwrap_or("write a condition over the columns, such as total > 1000"))
    })
}
