//! `extract` and `date_part` with the parts that DataFusion leaves out, and `from_unixtime` as an instant.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions::datetime::{date_part, from_unixtime};
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature};

use super::values;
use crate::error::{Code, Error};
use crate::time::{civil, instant};

/// DataFusion's function, with PostgreSQL's remaining parts.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct DatePart {
    signature: Signature,
    aliases: Vec<String>,
}

impl Default for DatePart {
    fn default() -> Self {
        DatePart { signature: date_part().signature().clone(), aliases: vec!["datepart".into()] }
    }
}

/// A part that DataFusion does not know.
#[derive(Debug, Clone, Copy)]
enum DateField {
    /// The distance of the session's zone from UTC, or its hours or minutes. An instant is shown in UTC.
    Zone,
    /// So many years, counted from the year 1 where `from_one`.
    Years { length: i64, from_one: bool },
    /// Days since 4714 BC, with the fraction of the day.
    Julian,
}

impl DateField {
    fn of(name: &str) -> Option<DateField> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "timezone" | "timezone_hour" | "timezone_minute" => DateField::Zone,
            "decade" | "decades" => DateField::Years { length: 10, from_one: false },
            "century" | "centuries" => DateField::Years { length: 100, from_one: true },
            "millennium" | "millennia" | "millenniums" => DateField::Years { length: 1000, from_one: true },
            "julian" => DateField::Julian,
            _ => return None,
        })
    }

    fn data_type(self) -> DataType {
        match self {
            DateField::Julian => DataType::Float64,
            DateField::Zone | DateField::Years { .. } => DataType::Int32,
        }
    }

    /// The part of times whose numbers are seconds, without their fractions where those do not matter.
    fn take(self, times: &ArrayRef) -> Result<ArrayRef> {
        let unit = match times.data_type() {
            DataType::Timestamp(unit, _) => *unit,
            _ => TimeUnit::Second,
        };
        let numbers = values::numbers(&cast(times, &DataType::Timestamp(unit, None))?)?;
        let per_second = values::per_second(unit);
        const DAY: i64 = 86_400;
        let day = |value: i64| value.div_euclid(per_second).div_euclid(DAY);
        Ok(match self {
            DateField::Zone => Arc::new(numbers.unary::<_, arrow::datatypes::Int32Type>(|_| 0)) as ArrayRef,
            DateField::Years { length, from_one } => {
                let count = |value: i64| -> Option<i32> {
                    let (year, ..) = civil(day(value));
                    let number = match from_one {
                        false => year.div_euclid(length),
                        // There is no year 0: right before the first century comes the first one BC, which is -1.
                        true if year > 0 => (year + length - 1) / length,
                        true => -((length - year) / length),
                    };
                    i32::try_from(number).ok()
                };
                Arc::new(numbers.iter().map(|value| value.and_then(count)).collect::<Int32Array>())
            }
            DateField::Julian => {
                const JULIAN_DAY_OF_1970: i64 = 2_440_588;
                let julian = |value: i64| {
                    let in_day = value - day(value) * DAY * per_second;
                    (day(value) + JULIAN_DAY_OF_1970) as f64 + in_day as f64 / (DAY * per_second) as f64
                };
                Arc::new(numbers.iter().map(|value| value.map(julian)).collect::<Float64Array>())
            }
        })
    }
}

/// The part that a call asks for, if it is none of DataFusion's.
fn asked(part: &ScalarValue) -> Option<DateField> {
    values::text(part).and_then(DateField::of)
}

fn has_calendar(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        "date_part"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Err(Error::bug("the type of date_part depends on its part").into())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let Some(part) = args.scalar_arguments[0].and_then(asked) else { return date_part().return_field_from_args(args) };
        let time = args.arg_fields[1].data_type();
        let name = args.scalar_arguments[0].and_then(values::text).unwrap_or_default();
        match (part, time) {
            (DateField::Zone, DataType::Timestamp(_, Some(_))) => {}
            (DateField::Zone, _) => {
                return Err(Error::new(
                    Code::Query,
                    format!("{} has no {name}: it is a time without a zone", values::shown(std::slice::from_ref(time))),
                )
                .hint("ask an instant, before AT TIME ZONE")
                .into());
            }
            (_, time) if has_calendar(time) => {}
            _ => {
                return Err(Error::new(Code::Query, format!("{} has no {name}", values::shown(std::slice::from_ref(time))))
                    .hint("take it of a TIMESTAMP or DATE")
                    .into());
            }
        }
        Ok(Arc::new(Field::new(self.name(), part.data_type(), args.arg_fields[1].is_nullable())))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = matches!(args.args[1], ColumnarValue::Scalar(_));
        if let ColumnarValue::Scalar(part) = &args.args[0]
            && let Some(part) = asked(part)
        {
            let times = values::rows(&args.args[1], if constant { 1 } else { args.number_rows })?;
            return values::answer(part.take(&times)?, constant);
        }
        // In UTC a clock shows what the number says: without the zone nothing is looked up for each row.
        if let DataType::Timestamp(unit, Some(zone)) = args.args[1].data_type()
            && zone.as_ref() == crate::time::UTC
        {
            let plain = DataType::Timestamp(unit, None);
            args.args[1] = args.args[1].cast_to(&plain, None)?;
            args.arg_fields[1] = Arc::new(args.arg_fields[1].as_ref().clone().with_data_type(plain));
        }
        date_part().invoke_with_args(args)
    }

    fn preimage(&self, args: &[Expr], lit: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        date_part().preimage(args, lit, info)
    }
}

/// DataFusion's function, whose result without a zone given is an instant.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct FromUnixtime {
    signature: Signature,
}

impl Default for FromUnixtime {
    fn default() -> Self {
        FromUnixtime { signature: from_unixtime().signature().clone() }
    }
}

impl ScalarUDFImpl for FromUnixtime {
    fn name(&self) -> &str {
        "from_unixtime"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        from_unixtime().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        if args.arg_fields.len() > 1 {
            return from_unixtime().return_field_from_args(args);
        }
        Ok(Arc::new(Field::new(self.name(), instant(TimeUnit::Second), args.arg_fields[0].is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.args.len() > 1 {
            return from_unixtime().invoke_with_args(args);
        }
        args.args[0].cast_to(&instant(TimeUnit::Second), None)
    }
}
