//! `date_bin(width, time [, origin])`, where the origin is read as what the time is: an instant or a local time.

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::error::Result;
use datafusion::functions::datetime::date_bin;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::values;
use crate::error::{Code, Error};

/// DataFusion's function, with arguments of more types.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct DateBin {
    signature: Signature,
}

impl Default for DateBin {
    fn default() -> Self {
        DateBin { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        "date_bin"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let wrong = || {
            Error::new(
                Code::Query,
                format!("date_bin takes an interval, a time, and perhaps an origin, not ({})", values::shown(types)),
            )
            .hint("write date_bin(INTERVAL '15 minutes', ts)")
        };
        let [width, time, origin @ ..] = types else { return Err(wrong().into()) };
        let width = match width {
            DataType::Interval(IntervalUnit::DayTime) => width.clone(),
            DataType::Interval(_) | DataType::Duration(_) => DataType::Interval(IntervalUnit::MonthDayNano),
            text if values::is_text(text) => DataType::Interval(IntervalUnit::MonthDayNano),
            _ => return Err(wrong().into()),
        };
        let time = match time {
            DataType::Time32(_) | DataType::Time64(_) => time.clone(),
            time => values::time_type(time).ok_or_else(wrong)?,
        };
        let mut read = vec![width, time.clone()];
        match (origin, &time) {
            ([], _) => {}
            ([_], DataType::Timestamp(_, zone)) => read.push(DataType::Timestamp(TimeUnit::Nanosecond, zone.clone())),
            ([_], _) => read.push(time),
            _ => return Err(wrong().into()),
        }
        Ok(read)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.get(1).cloned().ok_or_else(|| Error::bug("date_bin of nothing").into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        date_bin().invoke_with_args(args)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        date_bin().output_ordering(input)
    }
}
