//! Sums and averages of the different values.

use std::collections::HashMap;
use std::marker::PhantomData;

use arrow::array::{Array, ArrayRef, AsArray};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Accumulator;

use super::total::{Exact, TotalKind, Wide};

/// How often each value is there.
#[derive(Debug)]
pub struct Distinct<T: Exact<W>, W: Wide> {
    what: TotalKind,
    counts: HashMap<W, u64>,
    sum: W,
    of: PhantomData<T>,
}

impl<T: Exact<W>, W: Wide> Distinct<T, W> {
    pub fn new(what: TotalKind) -> Self {
        Distinct { what, counts: HashMap::new(), sum: W::default(), of: PhantomData }
    }

    fn add(&mut self, values: &dyn Array) {
        for value in values.as_primitive::<T>().iter().flatten().map(T::widen) {
            let count = self.counts.entry(value).or_default();
            *count += 1;
            if *count == 1 {
                self.sum = self.sum.plus(value);
            }
        }
    }
}

impl<T: Exact<W>, W: Wide> Accumulator for Distinct<T, W> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.add(&values[0]);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        for value in values[0].as_primitive::<T>().iter().flatten().map(T::widen) {
            let Some(count) = self.counts.get_mut(&value) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&value);
                self.sum = self.sum.minus(value);
            }
        }
        if self.counts.is_empty() {
            self.sum = W::default();
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let value = match self.counts.len() {
            0 => None,
            count => self.what.value::<T, W>(None, self.sum, count as u64)?,
        };
        ScalarValue::new_primitive::<T>(value, &self.what.result)
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let mut values: Vec<W> = self.counts.keys().copied().collect();
        values.sort_unstable();
        let values = values.into_iter().map(|value| ScalarValue::new_primitive::<T>(T::narrow(value), &self.what.of));
        let values = values.collect::<DataFusionResult<Vec<_>>>()?;
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &self.what.of))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        states[0].as_list::<i32>().iter().flatten().for_each(|values| self.add(&values));
        Ok(())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<(W, u64)>()
    }
}
