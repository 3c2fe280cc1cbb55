//! `SELECT` of plain expressions: new columns from each row.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::rows::{BadRows, evaluate_rows};
use super::{Loader, Message, Operator, Report, Saver};
use crate::change::Changes;
use crate::error::{Error, Result};

/// Computes `expressions` for each row; event times and weights stay. An update that changes none of them is none.
pub struct Project {
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    bad: BadRows,
}

impl Project {
    /// `schema` has a field for each expression.
    pub fn new(expressions: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef) -> Result<Self> {
        if expressions.len() != schema.fields().len() {
            return Err(Error::bug("a projection has not as many fields as expressions"));
        }
        Ok(Project { expressions, schema, bad: BadRows::default() })
    }
}

impl Operator for Project {
    fn push(&mut self, _input: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        let Message::Changes(changes) = message else {
            out.push(message);
            return Ok(());
        };
        let found = evaluate_rows(&self.expressions, &changes, &mut self.bad)?;
        let left = match &found.kept {
            Some(kept) => changes.take(kept)?,
            None => changes.clone(),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(left.len()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), found.columns, &options)?;
        let left = Changes { rows, ..left };
        let parts = match &found.kept {
            Some(kept) => changes.cut(kept, left),
            None => vec![left],
        };
        for part in parts {
            out.extend(part.settle()?.into_iter().filter(|part| !part.is_empty()).map(Message::Changes));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let columns: Vec<String> = self
            .expressions
            .iter()
            .zip(self.schema.fields())
            .map(|(expression, field)| {
                let text = fmt_sql(expression.as_ref()).to_string();
                if text == *field.name() { text } else { format!("{text} AS {}", field.name()) }
            })
            .collect();
        format!("Project: {}", columns.join(", "))
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
