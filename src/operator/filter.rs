//! `WHERE`: the rows for which a condition holds.

use std::sync::Arc;

use arrow::array::{Array, AsArray, UInt32Array};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::rows::{BadRows, evaluate_rows};
use super::{Loader, Message, Operator, Report, Saver};
use crate::error::{Error, Result};

/// Keeps the rows whose `predicate` is true; neither false nor NULL is. Of an update whose row enters or leaves, one half is left.
pub struct Filter {
    predicate: Arc<dyn PhysicalExpr>,
    bad: BadRows,
}

impl Filter {
    pub fn new(predicate: Arc<dyn PhysicalExpr>) -> Self {
        Filter { predicate, bad: BadRows::default() }
    }
}

impl Operator for Filter {
    fn push(&mut self, _input: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        let Message::Changes(changes) = message else {
            out.push(message);
            return Ok(());
        };
        let found = evaluate_rows(std::slice::from_ref(&self.predicate), &changes, &mut self.bad)?;
        let holds = found.columns[0].as_boolean_opt().ok_or_else(|| Error::bug("a filter's predicate is no BOOLEAN"))?;
        let holds = match holds.nulls() {
            Some(valid) => holds.values() & valid.inner(),
            None => holds.values().clone(),
        };
        let rows = holds.set_indices_u32();
        let rows = match &found.kept {
            None => UInt32Array::from_iter_values(rows),
            Some(kept) => UInt32Array::from_iter_values(rows.map(|row| kept.value(row as usize))),
        };
        if rows.len() == changes.len() {
            if !changes.is_empty() {
                out.push(Message::Changes(changes));
            }
        } else if !rows.is_empty() {
            out.extend(changes.select(&rows)?.into_iter().map(Message::Changes));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("Filter: {}", fmt_sql(self.predicate.as_ref()))
    }

    fn report(&self, report: &mut Report) {
        self.bad.report(report);
    }

    fn save(&mut self, state: &mut Saver) -> Result<()> {
        self.bad.save(state)
    }

    fn load(&mut self, state: &mut Loader) -> Result<()> {
        self.bad.load(state)
    }
}
