//! Sums of intervals. Months, days and nanoseconds are summed up apart, as they stand in an interval, and do not wrap.

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Int64Array};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Accumulator;

use crate::error::{Error, Result};
use crate::function::lost_group;

/// The type whose values are summed up here.
pub const OF: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// The columns of a state.
pub const STATES: [(&str, DataType); 4] = [
    ("count", DataType::Int64),
    ("months", DataType::Int64),
    ("days", DataType::Int64),
    ("nanos", DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0)),
];

/// The intervals of one group, some of which may leave again.
#[derive(Debug)]
pub struct Intervals {
    /// As SQL shows the aggregate, for errors.
    name: String,
    count: i64,
    months: i64,
    days: i64,
    nanos: i128,
}

impl Intervals {
    pub fn new(name: &str) -> Self {
        Intervals { name: name.into(), count: 0, months: 0, days: 0, nanos: 0 }
    }

    /// Adds intervals, or takes them out. Parts of 32 and 64 bits would have to come 2³² times to overflow these.
    fn add(&mut self, values: &ArrayRef, sign: i8) {
        for value in values.as_primitive::<IntervalMonthDayNanoType>().iter().flatten() {
            self.count += i64::from(sign);
            self.months += i64::from(sign) * i64::from(value.months);
            self.days += i64::from(sign) * i64::from(value.days);
            self.nanos += i128::from(sign) * i128::from(value.nanoseconds);
        }
    }
}

impl Accumulator for Intervals {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.add(&values[0], 1);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.add(&values[0], -1);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        if self.count == 0 {
            return Ok(ScalarValue::IntervalMonthDayNano(None));
        }
        let parts = (self.months.try_into(), self.days.try_into(), self.nanos.try_into());
        let (Ok(months), Ok(days), Ok(nanoseconds)) = parts else {
            lost_group::lost(None, || format!("{} is out of range for INTERVAL", self.name))?;
            return Ok(ScalarValue::IntervalMonthDayNano(None));
        };
        Ok(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNanoType::make_value(months, days, nanoseconds))))
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let whole = |number| ScalarValue::Int64(Some(number));
        let nanos = ScalarValue::Decimal128(Some(self.nanos), DECIMAL128_MAX_PRECISION, 0);
        Ok(vec![whole(self.count), whole(self.months), whole(self.days), nanos])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let whole = |place: usize| -> Result<&Int64Array> {
            states.get(place).and_then(|state| state.as_primitive_opt::<Int64Type>()).ok_or_else(misfit)
        };
        let nanos: &Decimal128Array =
            states.get(3).and_then(|state| state.as_primitive_opt::<Decimal128Type>()).ok_or_else(misfit)?;
        self.count += whole(0)?.iter().flatten().sum::<i64>();
        self.months += whole(1)?.iter().flatten().sum::<i64>();
        self.days += whole(2)?.iter().flatten().sum::<i64>();
        self.nanos += nanos.iter().flatten().sum::<i128>();
        Ok(())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.name.capacity()
    }
}

fn misfit() -> Error {
    Error::bug("the states of a sum of intervals are of other types")
}

#[cfg(test)]
mod tests {
    use crate::function::tests::value;

    #[tokio::test]
    async fn parts_are_summed_up_apart_and_do_not_wrap() {
        let hours = "INTERVAL '2562047 hours'";
        for (expression, text) in [
            (
                "sum(v) FROM (VALUES (INTERVAL '1 month 2 days'), (NULL), (INTERVAL '30 days 90 minutes')) t(v)".to_string(),
                "1 mons 32 days 1 hours 30 mins",
            ),
            ("sum(v) FROM (VALUES (INTERVAL '1 hour')) t(v) WHERE false".into(), ""),
            (
                format!(
                    "sum(v) OVER (ORDER BY i ROWS 1 PRECEDING) FROM (VALUES (1, {hours}), (2, -{hours}), (3, INTERVAL '1 hour')) t(i, v)"
                ),
                "2562047 hours, 0 secs, -2562046 hours",
            ),
        ] {
            assert_eq!(value(&expression).await.as_deref(), Ok(text), "{expression}");
        }
        let wide = format!("sum(v) FROM (VALUES ({hours}), ({hours})) t(v)");
        assert_eq!(value(&wide).await, Err("sum(t.v) is out of range for INTERVAL".into()));
        let grouped = format!("sum(v) FROM (VALUES (1, {hours}), (1, {hours}), (2, {hours})) t(k, v) GROUP BY k");
        assert!(value(&grouped).await.is_err());
    }
}
