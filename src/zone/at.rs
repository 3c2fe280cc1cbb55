//! `AT TIME ZONE`: the function it stands for, and how DataFusion's own reading of it becomes a call of it.

use std::sync::Arc;

use arrow::array::{Array, Int64Array};
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use super::part::DatePart;
use super::values::{self, Zones};
use crate::error::{Code, Error};
use crate::time::UTC;

/// What `AT TIME ZONE` is called as a function, as in PostgreSQL: `timezone(zone, time)`.
pub const NAME: &str = "timezone";

/// An instant becomes the local time of a zone, and a local time of a zone the instant.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TimeZone {
    signature: Signature,
}

impl Default for TimeZone {
    fn default() -> Self {
        TimeZone { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TimeZone {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [zone, time] = types else {
            return Err(Error::new(Code::Query, "timezone takes a zone and a time")
                .hint("write ts AT TIME ZONE 'Europe/Berlin'")
                .into());
        };
        let zone = match zone {
            DataType::Interval(_) => DataType::Interval(IntervalUnit::MonthDayNano),
            text if values::is_text(text) => DataType::Utf8,
            other => {
                return Err(Error::new(
                    Code::Query,
                    format!("a time zone is a text, not {}", values::shown(std::slice::from_ref(other))),
                )
                .hint("give a name such as 'Europe/Berlin', or a distance from UTC such as '+02:00'")
                .into());
            }
        };
        match values::time_type(time) {
            Some(time) => Ok(vec![zone, time]),
            None => Err(Error::new(
                Code::Query,
                format!("AT TIME ZONE takes a time, not {}", values::shown(std::slice::from_ref(time))),
            )
            .hint("turn numbers into times first, as in to_timestamp_millis(ms) AT TIME ZONE 'Europe/Berlin'")
            .into()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, DataType::Timestamp(unit, Some(_))] => Ok(DataType::Timestamp(*unit, None)),
            [_, DataType::Timestamp(unit, None)] => Ok(crate::time::instant(*unit)),
            _ => Err(Error::bug("AT TIME ZONE of no time").into()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        // A zone that is not known is told when the query is planned.
        if let Some(zone) = args.scalar_arguments[0] {
            values::zone_of(zone)?;
        }
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(NAME, self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = values::all_constant(&args.args);
        let zones = Zones::read(&args.args[0])?;
        let times = values::rows(&args.args[1], if constant { 1 } else { args.number_rows })?;
        let DataType::Timestamp(unit, zone) = times.data_type() else { return Err(Error::bug("AT TIME ZONE of no time").into()) };
        let (per_second, to_local) = (values::per_second(*unit), zone.is_some());
        let numbers = values::numbers(&times)?;
        let moved = (0..numbers.len()).map(|row| {
            let Some(zone) = zones.at(row).filter(|_| numbers.is_valid(row)) else { return Ok(None) };
            let (seconds, rest) = (numbers.value(row).div_euclid(per_second), numbers.value(row).rem_euclid(per_second));
            let seconds = if to_local { zone.local(seconds) } else { zone.instant(seconds) };
            let moved = seconds.and_then(|seconds| seconds.checked_mul(per_second)?.checked_add(rest));
            moved.map(Some).ok_or_else(values::out_of_range)
        });
        let moved = moved.collect::<Result<Int64Array>>()?;
        values::answer(values::times(moved, args.return_field.data_type())?, constant)
    }
}

/// DataFusion reads `x AT TIME ZONE 'zone'` as a cast to a timestamp of that zone, which leaves the instant as it is and only says how to
/// show it. Where such a cast stands in a plan, the local time was asked for. `extract` is led to the function of this room.
#[derive(Debug)]
pub struct AtTimeZone;

impl FunctionRewrite for AtTimeZone {
    fn name(&self) -> &str {
        "at_time_zone"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        match expr {
            Expr::Cast(Cast { expr, field }) => match field.data_type() {
                DataType::Timestamp(_, Some(zone)) if zone.as_ref() != UTC => {
                    let call = ScalarFunction::new_udf(
                        Arc::new(ScalarUDF::from(TimeZone::default())),
                        vec![lit(zone.as_ref()), as_local(*expr)],
                    );
                    Ok(Transformed::yes(Expr::ScalarFunction(call)))
                }
                _ => Ok(Transformed::no(Expr::Cast(Cast { expr, field }))),
            },
            // `extract` is planned as DataFusion's own function, whatever goes by its name.
            Expr::ScalarFunction(call)
                if call.func.name() == "date_part" && call.func.inner().downcast_ref::<DatePart>().is_none() =>
            {
                let ours = Arc::new(ScalarUDF::from(DatePart::default()));
                Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(ours, call.args))))
            }
            expr => Ok(Transformed::no(expr)),
        }
    }
}

/// `TIMESTAMP '2026-03-29 00:00'` as an operand of `AT TIME ZONE`: a text without a zone is the local time there.
fn as_local(expr: Expr) -> Expr {
    match expr {
        Expr::Cast(Cast { expr, field }) => {
            let unit = match field.data_type() {
                DataType::Timestamp(unit, Some(zone)) if zone.as_ref() == UTC => *unit,
                _ => return Expr::Cast(Cast { expr, field }),
            };
            let local = match expr.as_ref() {
                Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _) => !has_zone(text),
                _ => false,
            };
            let field = if local { Arc::new(Field::new("", DataType::Timestamp(unit, None), true)) } else { field };
            Expr::Cast(Cast { expr, field })
        }
        expr => expr,
    }
}

/// Whether the text of a time says which zone it means: there are letters or a sign behind its clock.
pub fn has_zone(text: &str) -> bool {
    let clock = text.trim().get(10..).unwrap_or_default();
    let clock = clock.strip_prefix(['T', 't', ' ']).unwrap_or(clock);
    clock.contains(|letter: char| letter.is_ascii_alphabetic() || matches!(letter, '+' | '-'))
}
