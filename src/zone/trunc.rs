//! `date_trunc(unit, time [, zone])`: the beginning of the hour, day, month … in which a time lies, in UTC or by the clocks of a zone.

use std::sync::Arc;

use arrow::array::{Array, Int64Array};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::error::Result;
use datafusion::functions::datetime::date_trunc;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::clock::Zone;
use super::values::{self, Zones};
use crate::error::{Code, Error, nearest};
use crate::time::{civil, day_of};

/// DataFusion's function, with a zone and for every year.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct DateTrunc {
    signature: Signature,
    aliases: Vec<String>,
}

impl Default for DateTrunc {
    fn default() -> Self {
        DateTrunc { signature: Signature::user_defined(Volatility::Immutable), aliases: vec!["datetrunc".into()] }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Parts of a second, of which so many make one.
    Parts(i64),
    /// So many seconds, of a minute, hour or day.
    Seconds(i64),
    Day,
    Week,
    /// So many months.
    Months(i64),
    /// So many years; the first of them is the year 0, or the year 1 where centuries are counted.
    Years(i64, i64),
}

const UNITS: [(&str, Unit); 13] = [
    ("microsecond", Unit::Parts(1_000_000)),
    ("millisecond", Unit::Parts(1_000)),
    ("second", Unit::Seconds(1)),
    ("minute", Unit::Seconds(60)),
    ("hour", Unit::Seconds(3600)),
    ("day", Unit::Day),
    ("week", Unit::Week),
    ("month", Unit::Months(1)),
    ("quarter", Unit::Months(3)),
    ("year", Unit::Months(12)),
    ("decade", Unit::Years(10, 0)),
    ("century", Unit::Years(100, 1)),
    ("millennium", Unit::Years(1000, 1)),
];

impl Unit {
    fn read(text: &str) -> Result<Unit> {
        let name = text.trim().to_ascii_lowercase();
        let singular = match name.as_str() {
            "centuries" => "century",
            "millennia" => "millennium",
            name => name.strip_suffix('s').unwrap_or(name),
        };
        if let Some((_, unit)) = UNITS.iter().find(|(known, _)| *known == singular) {
            return Ok(*unit);
        }
        let names = || UNITS.iter().map(|(name, _)| *name);
        let error = Error::new(Code::Query, format!("date_trunc does not know the unit '{text}'"));
        Err(match nearest(&name, names()) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint(format!("known are {}", names().collect::<Vec<_>>().join(", "))),
        }
        .into())
    }

    /// Whether the clocks' changes play a part: shorter units begin at the same instants, whatever happens to the clocks.
    fn is_of_days(self) -> bool {
        !matches!(self, Unit::Parts(_) | Unit::Seconds(_))
    }

    /// The beginning in seconds of a calendar without zones.
    fn floor(self, seconds: i64) -> Option<i64> {
        const DAY: i64 = 86_400;
        let day = seconds.div_euclid(DAY);
        let day = match self {
            Unit::Parts(_) => return Some(seconds),
            Unit::Seconds(length) => return seconds.checked_sub(seconds.rem_euclid(length)),
            Unit::Day => day,
            // 1970 began on a Thursday, and weeks begin on Mondays.
            Unit::Week => day - (day + 3).rem_euclid(7),
            Unit::Months(length) => {
                let (year, month, _) = civil(day);
                day_of(year, month - (month - 1) % length, 1)
            }
            Unit::Years(length, first) => {
                let (year, ..) = civil(day);
                day_of(year - (year - first).rem_euclid(length), 1, 1)
            }
        };
        day.checked_mul(DAY)
    }

    /// The beginning in a zone, in units of which `per_second` make a second. `None` where it lies before the type's first year.
    fn begin(self, value: i64, per_second: i64, zone: Zone) -> Option<i64> {
        if let Unit::Parts(parts) = self {
            let length = (per_second / parts).max(1);
            return value.checked_sub(value.rem_euclid(length));
        }
        let seconds = value.div_euclid(per_second);
        let offset = zone.offset(seconds)?;
        let local = self.floor(seconds.checked_add(offset)?)?;
        let begin = if self.is_of_days() { zone.instant(local)? } else { local - offset };
        begin.checked_mul(per_second)
    }
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        "date_trunc"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let wrong = || {
            Error::new(
                Code::Query,
                format!("date_trunc takes a unit, a time, and perhaps a zone, not ({})", values::shown(types)),
            )
            .hint("write date_trunc('day', ts), or date_trunc('day', ts, 'Europe/Berlin') for the days of a zone")
        };
        match types {
            [unit, DataType::Time32(_) | DataType::Time64(_)] if values::is_text(unit) => {
                Ok(vec![DataType::Utf8, types[1].clone()])
            }
            [unit, time] if values::is_text(unit) => Ok(vec![DataType::Utf8, values::time_type(time).ok_or_else(wrong)?]),
            [unit, time, zone] if values::is_text(unit) && values::is_text(zone) => {
                match values::time_type(time).ok_or_else(wrong)? {
                    DataType::Timestamp(unit, _) => Ok(vec![DataType::Utf8, crate::time::instant(unit), DataType::Utf8]),
                    _ => Err(wrong().into()),
                }
            }
            _ => Err(wrong().into()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.get(1).cloned().ok_or_else(|| Error::bug("date_trunc of nothing").into())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        if let Some(unit) = args.scalar_arguments[0].and_then(values::text) {
            Unit::read(unit)?;
        }
        if let Some(zone) = args.scalar_arguments.get(2).copied().flatten() {
            values::zone_of(zone)?;
        }
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), args.arg_fields[1].data_type().clone(), nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if !matches!(args.args[1].data_type(), DataType::Timestamp(..)) {
            return date_trunc().invoke_with_args(args);
        }
        let constant = values::all_constant(&args.args);
        let ColumnarValue::Scalar(unit) = &args.args[0] else {
            return Err(Error::new(Code::Query, "the unit of date_trunc is a constant")
                .hint("write date_trunc('day', ts)")
                .into());
        };
        let unit = values::text(unit).map(Unit::read).transpose()?;
        let zones = match args.args.get(2) {
            Some(zone) => Zones::read(zone)?,
            None => Zones::One(Some(Zone::UTC)),
        };
        let times = values::rows(&args.args[1], if constant { 1 } else { args.number_rows })?;
        let DataType::Timestamp(time_unit, _) = times.data_type() else { return Err(Error::bug("date_trunc of no time").into()) };
        let per_second = values::per_second(*time_unit);
        let numbers = values::numbers(&times)?;
        let begun: Int64Array = match (unit, &zones) {
            (None, _) | (_, Zones::One(None)) => Int64Array::new_null(numbers.len()),
            (Some(unit), Zones::One(Some(zone))) => {
                numbers.try_unary(|value| unit.begin(value, per_second, *zone).ok_or_else(values::out_of_range))?
            }
            (Some(unit), zones) => {
                let begin = |row: usize| match zones.at(row).filter(|_| numbers.is_valid(row)) {
                    Some(zone) => unit.begin(numbers.value(row), per_second, zone).map(Some).ok_or_else(values::out_of_range),
                    None => Ok(None),
                };
                (0..numbers.len()).map(begin).collect::<Result<_>>()?
            }
        };
        values::answer(values::times(begun, args.return_field.data_type())?, constant)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        match input {
            [unit, time] if unit.sort_properties == SortProperties::Singleton => Ok(time.sort_properties),
            _ => Ok(SortProperties::Unordered),
        }
    }
}
