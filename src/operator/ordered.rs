//! Aggregates that demand their rows in order (`nth_value(… ORDER BY …)` and its like), made exact for rows in any order.

use std::collections::HashMap;

use arrow::array::{ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{SortColumn, SortOptions, lexsort_to_indices, take, take_arrays};
use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use std::sync::Arc;

/// Makes accumulators of one aggregate.
pub type Factory = Arc<dyn Fn() -> Result<Box<dyn GroupsAccumulator>> + Send + Sync>;

/// Such an aggregate keeps rows in the order they come in, but its states carry their order and merge by it. So each batch is
/// sorted, aggregated apart and merged as a state. That costs more than feeding the rows, and is right.
pub struct Ordered {
    inner: Box<dyn GroupsAccumulator>,
    make: Factory,
    /// The order of the last columns of the arguments.
    options: Vec<SortOptions>,
}

impl Ordered {
    pub fn new(make: Factory, options: Vec<SortOptions>) -> Result<Self> {
        Ok(Ordered { inner: make()?, make, options })
    }
}

impl GroupsAccumulator for Ordered {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        let first = values.len() - self.options.len();
        let mut columns: Vec<SortColumn> = values[first..]
            .iter()
            .zip(&self.options)
            .map(|(values, options)| SortColumn { values: values.clone(), options: Some(*options) })
            .collect();
        // The last word has the place in the batch, so equal rows keep their order.
        columns.push(SortColumn { values: Arc::new(UInt32Array::from_iter_values(0..groups.len() as u32)), options: None });
        let order = lexsort_to_indices(&columns, None)?;
        let values = take_arrays(values, &order, None)?;
        let filter = filter.map(|filter| take(filter, &order, None)).transpose()?;

        let mut touched: Vec<usize> = Vec::new();
        let mut number: HashMap<usize, usize> = HashMap::new();
        let groups: Vec<usize> = order
            .values()
            .iter()
            .map(|row| {
                let group = groups[*row as usize];
                *number.entry(group).or_insert_with(|| {
                    touched.push(group);
                    touched.len() - 1
                })
            })
            .collect();
        let mut apart = (self.make)()?;
        apart.update_batch(&values, &groups, filter.as_ref().map(|filter| filter.as_boolean()), touched.len())?;
        if touched.is_empty() {
            return Ok(());
        }
        self.inner.merge_batch(&apart.state(EmitTo::All)?, &touched, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.inner.evaluate(emit_to)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.inner.merge_batch(values, groups, total)
    }

    fn convert_to_state(&self, _values: &[ArrayRef], _filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        not_impl_err!("rows of an ordered aggregate are never turned into states one by one")
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
