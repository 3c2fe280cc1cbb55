//! A table with one column more: when each event came in.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::provider::Table;
use crate::format::{Column, Metadata, Origin};

/// The column's name; it stands behind those of the table, and no query can name it.
pub const ARRIVAL: &str = "__streamgauge_arrival";

/// When an event came in, as a column that is decoded like any other.
pub(super) fn column() -> Column {
    let data_type = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    Column::new(ARRIVAL, data_type).with_origin(Origin::Metadata(Metadata::ReceivedAt)).not_null()
}

/// The columns that can be read of a table with these: they, and the time of arrival.
pub(super) fn readable(schema: &Schema) -> Schema {
    let fields: Vec<_> = schema.fields().iter().cloned().chain([Arc::new(column().field())]).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

/// A table whose scan gives [`ARRIVAL`] too: not for one whose rows change.
#[derive(Debug)]
pub struct WithArrival {
    pub table: Arc<Table>,
    schema: SchemaRef,
}

impl WithArrival {
    pub fn new(table: Arc<Table>) -> WithArrival {
        let schema = Arc::new(readable(&table.schema()));
        WithArrival { table, schema }
    }

    /// The place of [`ARRIVAL`].
    pub fn index(&self) -> usize {
        self.schema.fields().len() - 1
    }
}

#[async_trait]
impl TableProvider for WithArrival {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        self.table.rows(projection, limit)
    }
}
