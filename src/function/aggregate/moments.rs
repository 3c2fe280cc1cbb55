//! Variances, covariances and correlations, whose parts merge so that equal values have no spread.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, UInt64Array};
use arrow::datatypes::{DataType, Float64Type, UInt64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::total::admits;

/// By the name of the aggregate.
pub const ALL: &[(&str, Moment)] = &[
    ("var", Moment::Variance { sample: true }),
    ("var_pop", Moment::Variance { sample: false }),
    ("stddev", Moment::Deviation { sample: true }),
    ("stddev_pop", Moment::Deviation { sample: false }),
    ("covar_samp", Moment::Covariance { sample: true }),
    ("covar_pop", Moment::Covariance { sample: false }),
    ("corr", Moment::Correlation),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    Variance { sample: bool },
    Deviation { sample: bool },
    Covariance { sample: bool },
    Correlation,
}

impl Moment {
    pub fn arguments(self) -> usize {
        match self {
            Moment::Variance { .. } | Moment::Deviation { .. } => 1,
            Moment::Covariance { .. } | Moment::Correlation => 2,
        }
    }

    /// The states and their types.
    pub fn states(self) -> &'static [(&'static str, DataType)] {
        const STATES: &[(&str, DataType)] = &[
            ("mean_y", DataType::Float64),
            ("spread_y", DataType::Float64),
            ("spread_xy", DataType::Float64),
            ("count", DataType::UInt64),
            ("mean_x", DataType::Float64),
            ("spread_x", DataType::Float64),
        ];
        match self.arguments() {
            1 => &STATES[3..],
            _ => STATES,
        }
    }

    fn value(self, sums: &Sums) -> Option<f64> {
        let divisor = |sample: bool| match sums.count - u64::from(sample) {
            0 => None,
            divisor => Some(divisor as f64),
        };
        if sums.count == 0 {
            return None;
        }
        match self {
            Moment::Variance { sample } => Some(sums.spread[0] / divisor(sample)?),
            Moment::Deviation { sample } => Some((sums.spread[0] / divisor(sample)?).sqrt()),
            Moment::Covariance { sample } => Some(sums.product / divisor(sample)?),
            Moment::Correlation => match sums.mean.map(f64::is_nan) {
                [true, true] => Some(f64::NAN),
                [false, false] if sums.count > 1 && sums.spread.iter().all(|spread| *spread != 0.0) => {
                    let count = sums.count as f64;
                    let [x, y] = sums.spread.map(|spread| (spread / count).sqrt());
                    Some(sums.product / count / x / y)
                }
                _ => None,
            },
        }
    }
}

/// What is known of values, or pairs of them.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    count: u64,
    mean: [f64; 2],
    /// Sums of the squared distances from the mean.
    spread: [f64; 2],
    /// Sum of the products of both distances.
    product: f64,
}

impl Sums {
    /// Welford's way.
    fn add(&mut self, values: [f64; 2]) {
        self.count += 1;
        let count = self.count as f64;
        let before = [0, 1].map(|of| values[of] - self.mean[of]);
        [0, 1].into_iter().for_each(|of| self.mean[of] += before[of] / count);
        let after = [0, 1].map(|of| values[of] - self.mean[of]);
        [0, 1].into_iter().for_each(|of| self.spread[of] += before[of] * after[of]);
        self.product += before[0] * after[1];
    }

    /// The mean moves by a part of the distance: where there is none, it stays to the last digit.
    fn merge(&mut self, other: &Sums) {
        if self.count == 0 || other.count == 0 {
            if self.count == 0 {
                *self = *other;
            }
            return;
        }
        let (here, there) = (self.count as f64, other.count as f64);
        let all = here + there;
        let distance = [0, 1].map(|of| other.mean[of] - self.mean[of]);
        self.count += other.count;
        for of in [0, 1] {
            self.mean[of] += distance[of] * (there / all);
            self.spread[of] += other.spread[of] + distance[of] * distance[of] * (here * there / all);
        }
        self.product += other.product + distance[0] * distance[1] * (here * there / all);
    }
}

/// Calls `each` with every row whose values are all there.
fn pairs(values: &[ArrayRef], mut each: impl FnMut(usize, [f64; 2])) {
    let columns: Vec<&Float64Array> = values.iter().map(|column| column.as_primitive::<Float64Type>()).collect();
    let [x, rest @ ..] = columns.as_slice() else { return };
    let whole = columns.iter().all(|column| column.null_count() == 0);
    for row in 0..x.len() {
        if whole || columns.iter().all(|column| column.is_valid(row)) {
            each(row, [x.value(row), rest.first().map_or(0.0, |y| y.value(row))]);
        }
    }
}

fn states(of: &[Sums], moment: Moment) -> Vec<ArrayRef> {
    let floats = |value: fn(&Sums) -> f64| Arc::new(Float64Array::from_iter_values(of.iter().map(value))) as ArrayRef;
    let mut states = Vec::new();
    if moment.arguments() > 1 {
        states.extend([floats(|sums| sums.mean[1]), floats(|sums| sums.spread[1]), floats(|sums| sums.product)]);
    }
    states.push(Arc::new(UInt64Array::from_iter_values(of.iter().map(|sums| sums.count))));
    states.extend([floats(|sums| sums.mean[0]), floats(|sums| sums.spread[0])]);
    states
}

/// What stands in row `row` of states; nothing where a part is missing.
fn read(states: &[ArrayRef], row: usize) -> Sums {
    // Those of a pair stand before those that a single value has too.
    let first = states.len().saturating_sub(3);
    let number = |at: Option<usize>| {
        let column = at.and_then(|at| states.get(at)?.as_primitive_opt::<Float64Type>());
        column.filter(|column| column.is_valid(row)).map_or(0.0, |column| column.value(row))
    };
    let of_pair = |at: usize| number((at < first).then_some(at));
    let counts = states.get(first).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    Sums {
        count: counts.filter(|counts| counts.is_valid(row)).map_or(0, |counts| counts.value(row)),
        mean: [number(Some(first + 1)), of_pair(0)],
        spread: [number(Some(first + 2)), of_pair(1)],
        product: of_pair(2),
    }
}

/// One group alone.
#[derive(Debug)]
pub struct Moments {
    moment: Moment,
    sums: Sums,
}

impl Moments {
    pub fn new(moment: Moment) -> Self {
        Moments { moment, sums: Sums::default() }
    }
}

impl Accumulator for Moments {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        pairs(values, |_, values| self.sums.add(values));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let rows = states.first().map_or(0, |column| column.len());
        (0..rows).for_each(|row| self.sums.merge(&read(states, row)));
        Ok(())
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        Ok(ScalarValue::Float64(self.moment.value(&self.sums)))
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let states = states(&[self.sums], self.moment);
        states.iter().map(|state| ScalarValue::try_from_array(state, 0)).collect()
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

#[derive(Debug)]
pub struct MomentsOfGroups {
    moment: Moment,
    groups: Vec<Sums>,
}

impl MomentsOfGroups {
    pub fn new(moment: Moment) -> Self {
        MomentsOfGroups { moment, groups: Vec::new() }
    }

    fn grow(&mut self, groups: usize) {
        self.groups.resize(groups.max(self.groups.len()), Sums::default());
    }
}

impl GroupsAccumulator for MomentsOfGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        self.grow(total);
        pairs(values, |row, values| {
            if admits(filter, row) {
                self.groups[groups[row]].add(values);
            }
        });
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.grow(total);
        groups.iter().enumerate().for_each(|(row, group)| self.groups[*group].merge(&read(states, row)));
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DataFusionResult<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        Ok(Arc::new(groups.iter().map(|sums| self.moment.value(sums)).collect::<Float64Array>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        Ok(states(&emit_to.take_needed(&mut self.groups), self.moment))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DataFusionResult<Vec<ArrayRef>> {
        let mut rows = vec![Sums::default(); values.first().map_or(0, |column| column.len())];
        pairs(values, |row, values| {
            if admits(filter, row) {
                rows[row].add(values);
            }
        });
        Ok(states(&rows, self.moment))
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Sums>()
    }
}
