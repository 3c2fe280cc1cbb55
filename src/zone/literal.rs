//! Times that a query writes as text: `'2026-03-29 01:00'` needs no seconds, and what is no time is told as such.

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, BinaryExpr, Cast, InList, TryCast};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, lit};

use crate::error::{Code, Error};
use crate::time::UTC;

/// Completes literals that are cast to a timestamp or compared with one, as PostgreSQL reads them. DataFusion asks for seconds.
#[derive(Debug)]
pub struct Literals;

impl FunctionRewrite for Literals {
    fn name(&self) -> &str {
        "time_literals"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let is_time = |expr: &Expr| matches!(expr.get_type(schema), Ok(DataType::Timestamp(..)));
        let whole = |expr: Box<Expr>| completed(*expr).map(Box::new);
        Ok(Transformed::yes(match expr {
            Expr::Cast(Cast { expr, field }) if matches!(field.data_type(), DataType::Timestamp(..)) => {
                Expr::Cast(Cast { expr: whole(expr)?, field })
            }
            Expr::TryCast(TryCast { expr, field }) if matches!(field.data_type(), DataType::Timestamp(..)) => {
                let expr = read(&expr).and_then(with_seconds).map_or(expr, |text| Box::new(lit(text)));
                Expr::TryCast(TryCast { expr, field })
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) && (is_time(&left) || is_time(&right)) => {
                Expr::BinaryExpr(BinaryExpr { left: whole(left)?, op, right: whole(right)? })
            }
            Expr::Between(Between { expr, negated, low, high }) if is_time(&expr) || is_time(&low) || is_time(&high) => {
                Expr::Between(Between { expr: whole(expr)?, negated, low: whole(low)?, high: whole(high)? })
            }
            Expr::InList(InList { expr, list, negated }) if is_time(&expr) || list.iter().any(is_time) => {
                let list = list.into_iter().map(completed).collect::<Result<_>>()?;
                Expr::InList(InList { expr: whole(expr)?, list, negated })
            }
            other => return Ok(Transformed::no(other)),
        }))
    }
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn read(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    }
}

/// A literal text with its seconds; everything else as it is.
fn completed(expr: Expr) -> Result<Expr> {
    let Some(text) = read(&expr) else { return Ok(expr) };
    let whole = with_seconds(text);
    let utc: Tz = UTC.parse()?;
    if string_to_datetime(&utc, whole.as_deref().unwrap_or(text).trim()).is_err() {
        return Err(Error::new(Code::Query, format!("'{text}' is no time"))
            .hint("write it as '2026-03-29 01:00:00', with a zone behind it if it is not UTC: '2026-03-29 01:00:00+02:00'")
            .into());
    }
    Ok(whole.map_or(expr, |text| Expr::Literal(ScalarValue::Utf8View(Some(text)), None)))
}

/// `2026-03-29 01:00` and `2026-03-29 01`, with a zone behind them or not, with what is missing; nothing where nothing is.
fn with_seconds(text: &str) -> Option<String> {
    let text = text.trim();
    let clock = text.get(10..)?.strip_prefix([' ', 'T', 't'])?;
    let two = |text: &str| text.get(..2).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
    let after = clock.get(2..).filter(|_| two(clock))?;
    let (minutes, zone) = match after.strip_prefix(':') {
        Some(minutes) if two(minutes) && !minutes[2..].starts_with(':') => (&minutes[..2], &minutes[2..]),
        Some(_) => return None,
        None => ("00", after),
    };
    Some(format!("{}T{}:{minutes}:00{zone}", &text[..10], &clock[..2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        for (text, whole) in [
            ("2026-03-29 01:00", Some("2026-03-29T01:00:00")),
            (" 2026-03-29T01 ", Some("2026-03-29T01:00:00")),
            ("2026-03-29 01:30+02", Some("2026-03-29T01:30:00+02")),
            ("2026-03-29 01 Europe/Berlin", Some("2026-03-29T01:00:00 Europe/Berlin")),
            ("2026-03-29T01:30Z", Some("2026-03-29T01:30:00Z")),
            ("2026-03-29 01:00:00", None),
            ("2026-03-29", None),
            ("2026-03-29 1:00", None),
            ("yesterday ört", None),
            ("", None),
        ] {
            assert_eq!(with_seconds(text).as_deref(), whole, "{text}");
        }
    }
}
