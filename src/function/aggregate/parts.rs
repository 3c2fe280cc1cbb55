//! A frame of floating-point numbers that moves on: computed from the numbers in it, never by taking one back out of a sum.
//!
//! `2⁵⁴ + 1 − 2⁵⁴` is 0 and `∞ − ∞` is no number, so a number that has left would be remembered for as long as the stream lasts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{FieldRef, Float64Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};

/// Rows of which the aggregate of a block is made.
const BLOCK_ROWS: usize = 64;

/// A frame of this many rows is computed anew each time, so that it is what a query over its rows would say, to the last digit.
const FEW_ROWS: usize = 2 * BLOCK_ROWS;

type Make = Box<dyn Fn() -> DataFusionResult<Box<dyn Accumulator>> + Send + Sync>;

/// What it takes to make an accumulator of DataFusion's again and again.
pub struct Recipe {
    function: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    ignore_nulls: bool,
    order_bys: Vec<PhysicalSortExpr>,
    is_reversed: bool,
    name: String,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Recipe {
    pub fn new(function: &Arc<AggregateUDF>, args: &AccumulatorArgs) -> Self {
        Recipe {
            function: Arc::clone(function),
            return_field: Arc::clone(&args.return_field),
            schema: args.schema.clone(),
            ignore_nulls: args.ignore_nulls,
            order_bys: args.order_bys.to_vec(),
            is_reversed: args.is_reversed,
            name: args.name.into(),
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        }
    }

    pub fn accumulator(&self) -> DataFusionResult<Box<dyn Accumulator>> {
        self.function.accumulator(AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &self.order_bys,
            is_reversed: self.is_reversed,
            name: &self.name,
            is_distinct: false,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

/// The rows of a frame in blocks. As in the queue of two stacks, the blocks of an older part are merged each with all later ones of
/// that part, and those since then are merged as they come: a frame is the merge of the two with the rows at its ends.
pub struct FrameParts {
    make: Make,
    /// A column for each argument. Rows in which one is NULL count for no aggregate of this kind, and are left out.
    columns: Vec<Vec<f64>>,
    /// How many rows have left the columns, a number of whole blocks; and where in the columns the frame begins.
    gone: usize,
    first: usize,
    /// Whole blocks from the end of the older part to its start, by the number of each: its merge with those before it in this list.
    front: Vec<(usize, Vec<ArrayRef>)>,
    /// The merge of the whole blocks after that part, up to the block with this number.
    back: Option<Box<dyn Accumulator>>,
    back_state: Option<Vec<ArrayRef>>,
    merged: usize,
}

impl std::fmt::Debug for FrameParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("rows", &(self.end() - self.first)).finish_non_exhaustive()
    }
}

impl FrameParts {
    pub fn new(arguments: usize, make: impl Fn() -> DataFusionResult<Box<dyn Accumulator>> + Send + Sync + 'static) -> Self {
        FrameParts {
            make: Box::new(make),
            columns: vec![Vec::new(); arguments],
            gone: 0,
            first: 0,
            front: Vec::new(),
            back: None,
            back_state: None,
            merged: 0,
        }
    }

    fn end(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// The rows at `rows` of the columns.
    fn slice(&self, rows: std::ops::Range<usize>) -> Vec<ArrayRef> {
        let slice = |column: &Vec<f64>| Arc::new(Float64Array::from(column[rows.clone()].to_vec())) as ArrayRef;
        self.columns.iter().map(slice).collect()
    }

    /// Where block `number` begins in the columns.
    fn start_of(&self, number: usize) -> usize {
        number * BLOCK_ROWS - self.gone
    }

    /// The number of the first block that lies in the frame as a whole, and of the first that does not end in it.
    fn whole(&self) -> (usize, usize) {
        ((self.gone + self.first).div_ceil(BLOCK_ROWS), (self.gone + self.end()) / BLOCK_ROWS)
    }

    fn block(&self, number: usize) -> Vec<ArrayRef> {
        let start = self.start_of(number);
        self.slice(start..start + BLOCK_ROWS)
    }

    /// Brings the two parts up to the frame.
    fn settle(&mut self) -> DataFusionResult<()> {
        let (first, end) = self.whole();
        while self.front.last().is_some_and(|(number, _)| *number < first) {
            self.front.pop();
        }
        if self.front.is_empty() {
            (self.back, self.back_state) = (None, None);
            for number in (first..end).rev() {
                let mut accumulator = (self.make)()?;
                accumulator.update_batch(&self.block(number))?;
                if let Some((_, later)) = self.front.last() {
                    accumulator.merge_batch(later)?;
                }
                self.front.push((number, state(accumulator.as_mut())?));
            }
            self.merged = end;
        }
        while self.merged < end {
            let block = self.block(self.merged);
            let back = match &mut self.back {
                Some(back) => back,
                None => self.back.insert((self.make)()?),
            };
            back.update_batch(&block)?;
            self.back_state = None;
            self.merged += 1;
        }
        Ok(())
    }

    /// Lets go of rows that have left, once they are as many as those that are there.
    fn shrink(&mut self) {
        let blocks = self.first / BLOCK_ROWS;
        if blocks * BLOCK_ROWS * 2 > self.end().max(FEW_ROWS) {
            let rows = blocks * BLOCK_ROWS;
            self.columns.iter_mut().for_each(|column| drop(column.drain(..rows)));
            self.gone += rows;
            self.first -= rows;
        }
    }

    /// The rows of `values` in which no argument is NULL.
    fn there<'a>(values: &'a [&'a Float64Array]) -> impl Iterator<Item = usize> + 'a {
        let rows = values.first().map_or(0, |column| column.len());
        (0..rows).filter(|row| values.iter().all(|column| column.is_valid(*row)))
    }
}

fn state(accumulator: &mut dyn Accumulator) -> DataFusionResult<Vec<ArrayRef>> {
    accumulator.state()?.iter().map(|value| value.to_array()).collect()
}

fn floats(values: &[ArrayRef]) -> Vec<&Float64Array> {
    values.iter().map(|column| column.as_primitive::<Float64Type>()).collect()
}

impl Accumulator for FrameParts {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let values = floats(values);
        for row in Self::there(&values) {
            self.columns.iter_mut().zip(&values).for_each(|(column, values)| column.push(values.value(row)));
        }
        Ok(())
    }

    /// Rows leave in the order in which they came.
    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.first += Self::there(&floats(values)).count();
        self.shrink();
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let (start, end) = (self.first, self.end());
        let mut all = (self.make)()?;
        if end - start <= FEW_ROWS {
            all.update_batch(&self.slice(start..end))?;
            return all.evaluate();
        }
        self.settle()?;
        let (first, last) = self.whole();
        all.update_batch(&self.slice(start..self.start_of(first)))?;
        if let Some((_, front)) = self.front.last() {
            all.merge_batch(front)?;
        }
        if let Some(back) = &mut self.back {
            let back = match self.back_state.take() {
                Some(back) => back,
                None => state(back.as_mut())?,
            };
            all.merge_batch(&back)?;
            self.back_state = Some(back);
        }
        all.update_batch(&self.slice(self.start_of(last)..end))?;
        all.evaluate()
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let mut all = (self.make)()?;
        all.update_batch(&self.slice(self.first..self.end()))?;
        all.state()
    }

    /// A merge of states has no rows that could leave.
    fn merge_batch(&mut self, _: &[ArrayRef]) -> DataFusionResult<()> {
        Err(crate::error::Error::bug("a frame is made of rows, not of states").into())
    }

    fn size(&self) -> usize {
        let columns: usize = self.columns.iter().map(|column| column.capacity() * size_of::<f64>()).sum();
        size_of_val(self) + columns + self.front.capacity() * size_of::<(usize, Vec<ArrayRef>)>()
    }
}

/// An accumulator that is NULL where it holds no values.
#[derive(Debug)]
pub struct Counted {
    inner: Box<dyn Accumulator>,
    count: u64,
}

impl Counted {
    pub fn new(inner: Box<dyn Accumulator>) -> Self {
        Counted { inner, count: 0 }
    }
}

fn count(values: &[ArrayRef]) -> u64 {
    values.first().map_or(0, |column| column.len() - column.null_count()) as u64
}

impl Accumulator for Counted {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.count += count(values);
        self.inner.update_batch(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.count -= count(values);
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let value = self.inner.evaluate()?;
        match self.count {
            0 => ScalarValue::try_new_null(&value.data_type()),
            _ => Ok(value),
        }
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> DataFusionResult<()> {
        Err(crate::error::Error::bug("a frame is made of rows, not of states").into())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use super::super::moments::{Moment, Moments};
    use super::*;

    fn number(value: ScalarValue) -> Option<f64> {
        match value {
            ScalarValue::Float64(value) => value,
            other => panic!("{other} is no float"),
        }
    }

    /// Frames of every size, at every place among the blocks: each says what an accumulator says that has its rows alone.
    #[test]
    fn a_frame_says_what_its_rows_say() {
        let mut random = fastrand::Rng::with_seed(7);
        for moment in [Moment::Variance { sample: true }, Moment::Correlation] {
            let mut parts = FrameParts::new(moment.arguments(), move || Ok(Box::new(Moments::new(moment)) as _));
            let mut rows: Vec<Vec<ArrayRef>> = Vec::new();
            let mut first = 0;
            for step in 0..3000 {
                let size = 1 + random.usize(0..4);
                let column = |random: &mut fastrand::Rng| {
                    let value = |random: &mut fastrand::Rng| (random.u8(0..9) > 0).then(|| random.f64() * 10.0);
                    Arc::new((0..size).map(|_| value(random)).collect::<Float64Array>()) as ArrayRef
                };
                let batch: Vec<ArrayRef> = (0..moment.arguments()).map(|_| column(&mut random)).collect();
                parts.update_batch(&batch).unwrap();
                rows.push(batch);
                // The frame grows to some hundreds of rows, and shrinks to none now and then.
                let keep = if step % 700 == 699 { 0 } else { 200 };
                while rows.len() - first > keep && (keep == 0 || random.bool()) {
                    parts.retract_batch(&rows[first]).unwrap();
                    first += 1;
                }
                let mut alone = Moments::new(moment);
                rows[first..].iter().for_each(|batch| alone.update_batch(batch).unwrap());
                match (number(parts.evaluate().unwrap()), number(alone.evaluate().unwrap())) {
                    (Some(found), Some(right)) => assert!((found - right).abs() < 1e-9, "step {step}: {found} for {right}"),
                    (found, right) => assert_eq!(found, right, "step {step}"),
                }
            }
        }
    }

    #[test]
    fn equal_values_have_no_spread_however_they_are_merged() {
        let moment = Moment::Deviation { sample: false };
        let mut parts = FrameParts::new(1, move || Ok(Box::new(Moments::new(moment)) as _));
        for rows in 1..1000 {
            let value: ArrayRef = Arc::new(Float64Array::from(vec![0.1]));
            parts.update_batch(&[Arc::clone(&value)]).unwrap();
            if rows > 300 {
                parts.retract_batch(&[value]).unwrap();
            }
            assert_eq!(number(parts.evaluate().unwrap()), Some(0.0), "{rows} rows");
        }
    }

    #[test]
    fn what_is_not_finite_leaves_without_a_trace() {
        let moment = Moment::Variance { sample: false };
        let mut parts = FrameParts::new(1, move || Ok(Box::new(Moments::new(moment)) as _));
        let push = |parts: &mut FrameParts, value: f64| parts.update_batch(&[Arc::new(Float64Array::from(vec![value]))]).unwrap();
        [f64::INFINITY, f64::NAN, 1e300].into_iter().for_each(|value| push(&mut parts, value));
        (0..500).for_each(|value| push(&mut parts, f64::from(value % 2)));
        parts.retract_batch(&[Arc::new(Float64Array::from(vec![f64::INFINITY, f64::NAN, 1e300]))]).unwrap();
        let found = number(parts.evaluate().unwrap()).unwrap();
        assert!((found - 0.25).abs() < 1e-12, "{found}");
    }
}
