//! What the functions of this room share: their arguments' types, and times as numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;

use super::clock::Zone;
use crate::error::{Code, Error};
use crate::time::{UTC, instant_ns};

/// How many of a unit make a second.
pub fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

pub fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// The type that an argument is read as where a point in time is meant: times as they are, text and dates as instants.
pub fn time_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(unit, Some(_)) => Some(DataType::Timestamp(*unit, Some(UTC.into()))),
        DataType::Timestamp(..) => Some(data_type.clone()),
        DataType::Date32 | DataType::Date64 => Some(instant_ns()),
        text if is_text(text) => Some(instant_ns()),
        _ => None,
    }
}

/// The text of a constant argument.
pub fn text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

/// The times of an argument as numbers of their unit.
pub fn numbers(times: &dyn Array) -> Result<Int64Array> {
    Ok(cast(times, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// Numbers as times of a type.
pub fn times(numbers: Int64Array, data_type: &DataType) -> Result<ArrayRef> {
    Ok(cast(&numbers, data_type)?)
}

/// A zone for each row, or one for all.
pub enum Zones {
    One(Option<Zone>),
    Each(Vec<Option<Zone>>),
}

impl Zones {
    pub fn read(value: &ColumnarValue) -> Result<Zones> {
        match value {
            ColumnarValue::Scalar(scalar) => Ok(Zones::One(zone_of(scalar)?)),
            ColumnarValue::Array(array) => {
                let texts = cast(array, &DataType::Utf8)?;
                let mut last: Option<(&str, Zone)> = None;
                let mut zones = Vec::with_capacity(array.len());
                for text in texts.as_string::<i32>() {
                    zones.push(match (text, last) {
                        (None, _) => None,
                        // Rows that follow each other often name the same zone.
                        (Some(text), Some((known, zone))) if text == known => Some(zone),
                        (Some(text), _) => {
                            let zone = Zone::read(text)?;
                            last = Some((text, zone));
                            Some(zone)
                        }
                    });
                }
                Ok(Zones::Each(zones))
            }
        }
    }

    pub fn at(&self, row: usize) -> Option<Zone> {
        match self {
            Zones::One(zone) => *zone,
            Zones::Each(zones) => zones[row],
        }
    }
}

/// The zone that a constant names, by text or by an interval east of UTC.
pub fn zone_of(scalar: &ScalarValue) -> Result<Option<Zone>> {
    match scalar {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            let seconds = interval.nanoseconds / 1_000_000_000;
            match (interval.months, interval.days, i32::try_from(seconds)) {
                (0, 0, Ok(seconds)) if seconds.abs() < 86_400 => Ok(Some(Zone::Fixed(seconds))),
                _ => Err(Error::new(Code::Query, "a time zone given as an interval is less than a day from UTC")
                    .hint("write AT TIME ZONE INTERVAL '2 hours', or a name such as 'Europe/Berlin'")
                    .into()),
            }
        }
        scalar => text(scalar).map(Zone::read).transpose().map_err(DataFusionError::from),
    }
}

/// Whether all of these arguments are constants, so that the answer is one too.
pub fn all_constant(args: &[ColumnarValue]) -> bool {
    args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)))
}

/// The answer as what was asked: one value for constants.
pub fn answer(array: ArrayRef, constant: bool) -> Result<ColumnarValue> {
    match constant {
        true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)),
        false => Ok(ColumnarValue::Array(array)),
    }
}

/// The rows of an argument; one for constants.
pub fn rows(value: &ColumnarValue, count: usize) -> Result<ArrayRef> {
    match value {
        ColumnarValue::Array(array) => Ok(Arc::clone(array)),
        ColumnarValue::Scalar(scalar) => Ok(scalar.to_array_of_size(count)?),
    }
}

/// What a row costs whose time leaves the range of its type.
pub fn out_of_range() -> DataFusionError {
    DataFusionError::Execution("the time lies outside what its type holds".into())
}

/// The types of a call, as a sentence shows them.
pub fn shown(types: &[DataType]) -> String {
    types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
