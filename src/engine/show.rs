//! What `SHOW` and `DESCRIBE` answer: rows about tables and views, for people.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use super::{Answer, Engine, View, column};
use crate::error::{Code, Error, Result};
use crate::feed::Gap;
use crate::sql::{DropTarget, Name, Show};
use crate::table::Table;
use crate::view::Health;

impl Engine {
    pub(super) fn show(&self, show: &Show) -> Result<Answer> {
        match show {
            Show::Tables => column("table", self.catalog().tables().map(|(name, _)| name.to_string())),
            Show::Views => column("view", self.catalog().views().map(|(name, _)| name.to_string())),
            Show::Create(what, name) => {
                let catalog = self.catalog();
                let (is, text) = match (catalog.table(&name.text), catalog.view(&name.text)) {
                    (Some(table), _) => (DropTarget::Table, table.spec().shown.clone()),
                    (None, Some(view)) => (DropTarget::View, view.text.clone()),
                    (None, None) => return Err(self.unknown(name)),
                };
                match is == *what {
                    true => column("statement", [text]),
                    false => Err(Error::new(Code::UnknownTable, format!("'{name}' is a {}", is.to_string().to_lowercase()))
                        .hint(format!("write SHOW CREATE {is} {name}"))
                        .at(name.span)),
                }
            }
            Show::Status(name) => self.status(&self.shown_tables(name.as_ref())?),
            Show::Gaps(name) => self.gaps(&self.shown_tables(name.as_ref())?),
        }
    }

    /// The tables that `name` reads, or all of them.
    fn shown_tables(&self, name: Option<&Name>) -> Result<Vec<Arc<Table>>> {
        match name {
            None => Ok(self.tables()),
            Some(name) if self.catalog().contains(&name.text) => Ok(self.sources(&name.text)),
            Some(name) => Err(self.unknown(name)),
        }
    }

    /// A row for each stretch of a feed that may have been missed.
    fn gaps(&self, tables: &[Arc<Table>]) -> Result<Answer> {
        let gaps: Vec<(&Arc<Table>, Gap)> = tables
            .iter()
            .flat_map(|table| table.feed_status().gaps().entries_kept().into_iter().map(move |gap| (table, gap)))
            .collect();
        let text = |cell: &dyn Fn(&Table, &Gap) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(gaps.iter().map(|(table, gap)| cell(table, gap))))
        };
        let rows = RecordBatch::try_from_iter([
            ("table", text(&|table, _| table.spec().name.clone())),
            ("from", text(&|_, gap| gap.from.to_string())),
            ("to", text(&|_, gap| gap.to.to_string())),
            ("last id", text(&|table, gap| table.feed_status().shown(&gap.last_id))),
            ("next id", text(&|table, gap| table.feed_status().shown(&gap.next_id))),
            ("missing", text(&|_, gap| gap.missing.map_or_else(|| "unknown".into(), |missing| missing.to_string()))),
            ("reason", text(&|_, gap| gap.reason.to_string())),
        ])?;
        Ok(Answer::Rows(rows))
    }

    /// A row for each feed: what it does, how far it has come, why it is silent, and which views over it have failed.
    fn status(&self, tables: &[Arc<Table>]) -> Result<Answer> {
        let text = |cell: &dyn Fn(&Table) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(tables.iter().map(|table| cell(table))))
        };
        let rows = RecordBatch::try_from_iter([
            ("table", text(&|table| table.spec().name.clone())),
            ("state", text(&|table| table.state_text())),
            ("rows", text(&|table| table.status().snapshot().rows.to_string())),
            ("bad", text(&|table| table.status().snapshot().bad.to_string())),
            ("gaps", text(&|table| table.feed_status().gaps().last().to_string())),
            ("filtered", text(&|table| table.feed_status().snapshot().filtered.to_string())),
            ("watermark", text(&|table| table.status().snapshot().watermark.map_or_else(|| "–".into(), |time| time.to_string()))),
            ("silent because", text(&|table| table.silence().unwrap_or_default())),
            ("failed views", text(&|table| self.failed_views(&table.spec().name))),
            ("notes", text(&|table| table.notes().join("; "))),
        ])?;
        Ok(Answer::Rows(rows))
    }

    /// The views over a table that have failed, each with its reason.
    fn failed_views(&self, table: &str) -> String {
        let failed = |view: &Arc<View>| match view.live()?.health() {
            Health::Failed(error) => Some(format!("{}: {error}", view.name)),
            _ => None,
        };
        let views = self.views();
        let over = views.iter().filter(|view| self.sources(&view.name).iter().any(|source| source.spec().name == table));
        over.filter_map(failed).collect::<Vec<_>>().join("; ")
    }

    pub(super) fn describe(&self, name: &Name) -> Result<Answer> {
        let schema = {
            let catalog = self.catalog();
            match (catalog.table(&name.text), catalog.view(&name.text)) {
                (Some(table), _) => Arc::clone(&table.spec().schema),
                (None, Some(view)) => Arc::clone(view.plan.schema().inner()),
                (None, None) => return Err(self.unknown(name)),
            }
        };
        let fields = || schema.fields().iter();
        let strings = |cells: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(cells)) };
        let marked = |field: &arrow::datatypes::Field| match field.metadata().contains_key(crate::time::EVENT_TIME) {
            true => "event time".to_string(),
            false => String::new(),
        };
        Ok(Answer::Rows(RecordBatch::try_from_iter([
            ("column", strings(fields().map(|field| field.name().clone()).collect())),
            ("type", strings(fields().map(|field| crate::format::infer::field_type(field)).collect())),
            ("null", strings(fields().map(|field| if field.is_nullable() { "yes" } else { "no" }.to_string()).collect())),
            ("note", strings(fields().map(|field| marked(field)).collect())),
        ])?))
    }
}
