//! Sums and averages of whole numbers, decimals and lengths of time, in a type in which they cannot overflow on the way.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, UInt64Array};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, Decimal256Type, DecimalType, UInt64Type, i256,
};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use crate::error::{Error, Result};
use crate::function::{lost_group, shown};

/// A type for sums. Its greatest value stands for all that is beyond it, and nothing leads back from there.
pub trait Wide: Copy + Default + Send + Sync + Ord + std::hash::Hash + std::fmt::Debug + 'static {
    type State: DecimalType<Native = Self>;
    const BEYOND: Self;

    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    /// `self * 10^digits / count`, without what is behind the point.
    fn share(self, digits: u32, count: u64) -> Option<Self>;
    fn power_of_ten(digits: u8) -> Self;
    fn data_type(scale: i8) -> DataType;
}

impl Wide for i128 {
    type State = Decimal128Type;
    const BEYOND: Self = i128::MAX;

    fn plus(self, other: Self) -> Self {
        self.checked_add(other).unwrap_or(Self::BEYOND)
    }

    fn minus(self, other: Self) -> Self {
        self.checked_sub(other).unwrap_or(Self::BEYOND)
    }

    fn share(self, digits: u32, count: u64) -> Option<Self> {
        self.checked_mul(10_i128.checked_pow(digits)?)?.checked_div(count.into())
    }

    fn power_of_ten(digits: u8) -> Self {
        10_i128.pow(u32::from(digits.min(DECIMAL128_MAX_PRECISION)))
    }

    fn data_type(scale: i8) -> DataType {
        DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale)
    }
}

impl Wide for i256 {
    type State = Decimal256Type;
    const BEYOND: Self = i256::MAX;

    fn plus(self, other: Self) -> Self {
        match self == Self::BEYOND || other == Self::BEYOND {
            true => Self::BEYOND,
            false => self.checked_add(other).unwrap_or(Self::BEYOND),
        }
    }

    fn minus(self, other: Self) -> Self {
        match self == Self::BEYOND || other == Self::BEYOND {
            true => Self::BEYOND,
            false => self.checked_sub(other).unwrap_or(Self::BEYOND),
        }
    }

    fn share(self, digits: u32, count: u64) -> Option<Self> {
        let count = i256::from_i128(count.into());
        self.checked_mul(i256::from_i128(10).checked_pow(digits)?)?.checked_div(count)
    }

    fn power_of_ten(digits: u8) -> Self {
        i256::from_i128(10).checked_pow(u32::from(digits.min(DECIMAL256_MAX_PRECISION))).unwrap_or(Self::BEYOND)
    }

    fn data_type(scale: i8) -> DataType {
        DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale)
    }
}

/// Values that sum up in `W`.
pub trait Exact<W: Wide>: ArrowPrimitiveType + std::fmt::Debug + Send + Sync {
    fn widen(value: Self::Native) -> W;
    fn narrow(value: W) -> Option<Self::Native>;
}

macro_rules! exact {
    ($($type:ty),*) => {
        $(impl Exact<i128> for $type {
            fn widen(value: Self::Native) -> i128 {
                value.into()
            }

            fn narrow(value: i128) -> Option<Self::Native> {
                value.try_into().ok()
            }
        })*
    };
}

exact!(
    arrow::datatypes::Int64Type,
    arrow::datatypes::UInt64Type,
    arrow::datatypes::Decimal32Type,
    arrow::datatypes::Decimal64Type,
    arrow::datatypes::DurationSecondType,
    arrow::datatypes::DurationMillisecondType,
    arrow::datatypes::DurationMicrosecondType,
    arrow::datatypes::DurationNanosecondType
);

impl Exact<i256> for Decimal128Type {
    fn widen(value: i128) -> i256 {
        i256::from_i128(value)
    }

    fn narrow(value: i256) -> Option<i128> {
        value.to_i128()
    }
}

impl Exact<i256> for Decimal256Type {
    fn widen(value: i256) -> i256 {
        value
    }

    fn narrow(value: i256) -> Option<i256> {
        Some(value)
    }
}

/// Digits behind the point.
pub fn scale(data_type: &DataType) -> i8 {
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    }
}

fn precision(data_type: &DataType) -> Option<u8> {
    match data_type {
        DataType::Decimal32(precision, _)
        | DataType::Decimal64(precision, _)
        | DataType::Decimal128(precision, _)
        | DataType::Decimal256(precision, _) => Some(*precision),
        _ => None,
    }
}

/// What an accumulator computes.
#[derive(Debug, Clone)]
pub struct TotalKind {
    /// The type of the values.
    pub of: DataType,
    pub result: DataType,
    /// The sum is divided by the number of values.
    pub average: bool,
    /// As SQL shows it, for errors.
    pub name: String,
}

impl TotalKind {
    /// The result for a sum of `count` values, which are some; NULL, told to whoever listens, where it does not fit its type.
    pub fn value<T: Exact<W>, W: Wide>(&self, group: Option<usize>, sum: W, count: u64) -> Result<Option<T::Native>> {
        let value = match self.average {
            _ if sum == W::BEYOND => None,
            true => sum.share(scale(&self.result).abs_diff(scale(&self.of)).into(), count),
            false => Some(sum),
        };
        let fits = |value: &W| match precision(&self.result) {
            Some(precision) => {
                let limit = W::power_of_ten(precision);
                *value < limit && value.plus(limit) > W::default()
            }
            None => true,
        };
        let value = value.filter(fits).and_then(T::narrow);
        if value.is_none() {
            lost_group::lost(group, || format!("{} is out of range for {}", self.name, shown(&self.result)))?;
        }
        Ok(value)
    }
}

/// The number of values of each group and their sum.
#[derive(Debug)]
pub struct Totals<T, W> {
    what: TotalKind,
    counts: Vec<u64>,
    sums: Vec<W>,
    of: PhantomData<T>,
}

impl<T: Exact<W>, W: Wide> Totals<T, W> {
    pub fn new(what: TotalKind) -> Self {
        Totals { what, counts: Vec::new(), sums: Vec::new(), of: PhantomData }
    }

    fn grow(&mut self, groups: usize) {
        if groups > self.counts.len() {
            self.counts.resize(groups, 0);
            self.sums.resize(groups, W::default());
        }
    }
}

/// Whether a filter lets a row through.
pub fn admits(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

fn states<W: Wide>(counts: Vec<u64>, sums: Vec<W>, scale: i8) -> Vec<ArrayRef> {
    let sums = PrimitiveArray::<W::State>::from_iter_values(sums).with_data_type(W::data_type(scale));
    vec![Arc::new(UInt64Array::from(counts)), Arc::new(sums)]
}

/// The counts and sums of states; what is not there counts nothing.
fn read<W: Wide>(states: &[ArrayRef]) -> Result<(&UInt64Array, &PrimitiveArray<W::State>)> {
    match states {
        [counts, sums] => match (counts.as_primitive_opt::<UInt64Type>(), sums.as_primitive_opt::<W::State>()) {
            (Some(counts), Some(sums)) => Ok((counts, sums)),
            _ => Err(Error::bug("the states of a sum are of other types")),
        },
        _ => Err(Error::bug("a sum has two states")),
    }
}

impl<T: Exact<W>, W: Wide> GroupsAccumulator for Totals<T, W> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        let values = values[0].as_primitive::<T>();
        self.grow(total);
        let (counts, sums) = (&mut self.counts, &mut self.sums);
        let mut add = |group: usize, value: T::Native| {
            counts[group] += 1;
            sums[group] = sums[group].plus(T::widen(value));
        };
        if values.null_count() == 0 && filter.is_none() {
            groups.iter().zip(values.values()).for_each(|(group, value)| add(*group, *value));
        } else {
            for (row, group) in groups.iter().enumerate() {
                if values.is_valid(row) && admits(filter, row) {
                    add(*group, values.value(row));
                }
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DataFusionResult<ArrayRef> {
        let (counts, sums) = (emit_to.take_needed(&mut self.counts), emit_to.take_needed(&mut self.sums));
        let value = |(group, (count, sum)): (usize, (u64, W))| match count {
            0 => Ok(None),
            count => self.what.value::<T, W>(Some(group), sum, count),
        };
        let values = counts.into_iter().zip(sums).enumerate().map(value).collect::<Result<PrimitiveArray<T>>>()?;
        Ok(Arc::new(values.with_data_type(self.what.result.clone())))
    }

    fn state(&mut self, emit_to: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        let (counts, sums) = (emit_to.take_needed(&mut self.counts), emit_to.take_needed(&mut self.sums));
        Ok(states(counts, sums, scale(&self.what.of)))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        let (counts, sums) = read::<W>(values)?;
        self.grow(total);
        for (row, group) in groups.iter().enumerate() {
            if counts.is_valid(row) && sums.is_valid(row) {
                self.counts[*group] += counts.value(row);
                self.sums[*group] = self.sums[*group].plus(sums.value(row));
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DataFusionResult<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<T>();
        let there = |row: usize| values.is_valid(row) && admits(filter, row);
        let counts = (0..values.len()).map(|row| u64::from(there(row))).collect();
        let sum = |row: usize| if there(row) { T::widen(values.value(row)) } else { W::default() };
        Ok(states(counts, (0..values.len()).map(sum).collect(), scale(&self.what.of)))
    }

    fn size(&self) -> usize {
        self.counts.capacity() * size_of::<u64>() + self.sums.capacity() * size_of::<W>()
    }
}

/// One group alone, which may lose values again.
#[derive(Debug)]
pub struct Total<T, W> {
    what: TotalKind,
    count: u64,
    sum: W,
    of: PhantomData<T>,
}

impl<T: Exact<W>, W: Wide> Total<T, W> {
    pub fn new(what: TotalKind) -> Self {
        Total { what, count: 0, sum: W::default(), of: PhantomData }
    }
}

impl<T: Exact<W>, W: Wide> Accumulator for Total<T, W> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let values = values[0].as_primitive::<T>();
        self.count += (values.len() - values.null_count()) as u64;
        self.sum = values.iter().flatten().fold(self.sum, |sum, value| sum.plus(T::widen(value)));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let values = values[0].as_primitive::<T>();
        self.count -= (values.len() - values.null_count()) as u64;
        self.sum = match self.count {
            // Whatever was beyond reach has left.
            0 => W::default(),
            _ => values.iter().flatten().fold(self.sum, |sum, value| sum.minus(T::widen(value))),
        };
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let value = match self.count {
            0 => None,
            count => self.what.value::<T, W>(None, self.sum, count)?,
        };
        ScalarValue::new_primitive::<T>(value, &self.what.result)
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let states = states(vec![self.count], vec![self.sum], scale(&self.what.of));
        states.iter().map(|state| ScalarValue::try_from_array(state, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let (counts, sums) = read::<W>(states)?;
        self.count += counts.iter().flatten().sum::<u64>();
        self.sum = sums.iter().flatten().fold(self.sum, W::plus);
        Ok(())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
