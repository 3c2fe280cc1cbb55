//! Equal values in one form, where they are compared by their bytes: as keys of groups and joins, in DISTINCT, IN and CASE.
//!
//! −0.0 is 0.0, and every NaN is the same; 4.0 in JSON is 4.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float16Array, Float32Array, Float64Array};
use arrow::compute::unary;
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{Case, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::json::{is_json, normal_column};
use crate::error::{Error, Result};

/// Whether values of a type may be equal and have different bytes.
pub fn has_forms(data_type: &DataType) -> bool {
    data_type.is_floating() || is_json(data_type)
}

/// The same value in the form that all equal ones have.
pub fn in_one_form(expr: Expr) -> Expr {
    Form { unseen: false, signature: Signature::any(1, Volatility::Immutable) }.of(expr)
}

/// The same inside a function whose column is named by what it is called with.
pub fn formed_within(expr: Expr) -> Expr {
    Form { unseen: true, signature: Signature::any(1, Volatility::Immutable) }.of(expr)
}

/// Floating-point numbers in IN, `CASE v WHEN …`, `nullif` and `count(DISTINCT v)`.
#[derive(Debug)]
pub struct FloatEquality;

impl FunctionRewrite for FloatEquality {
    fn name(&self) -> &str {
        "one_form"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> DataFusionResult<Transformed<Expr>> {
        let floats = |expr: &Expr| expr.get_type(schema).is_ok_and(|data_type| data_type.is_floating()) && !is_formed(expr);
        let form = |expr: Box<Expr>| if floats(&expr) { Box::new(in_one_form(*expr)) } else { expr };
        Ok(match expr {
            Expr::InList(InList { expr, list, negated }) if floats(&expr) || list.iter().any(floats) => {
                let list = list.into_iter().map(|part| *form(Box::new(part))).collect();
                Transformed::yes(Expr::InList(InList { expr: form(expr), list, negated }))
            }
            Expr::Case(Case { expr: Some(of), when_then_expr, else_expr })
                if floats(&of) || when_then_expr.iter().any(|(when, _)| floats(when)) =>
            {
                let when_then_expr = when_then_expr.into_iter().map(|(when, then)| (form(when), then)).collect();
                Transformed::yes(Expr::Case(Case { expr: Some(form(of)), when_then_expr, else_expr }))
            }
            Expr::ScalarFunction(mut call) if call.func.name() == "nullif" && call.args.iter().any(floats) => {
                call.args = call.args.into_iter().map(|arg| *form(Box::new(arg))).collect();
                Transformed::yes(Expr::ScalarFunction(call))
            }
            Expr::AggregateFunction(mut call) if call.params.distinct && call.params.args.iter().any(floats) => {
                let form = |arg: Expr| if floats(&arg) { formed_within(arg) } else { arg };
                call.params.args = call.params.args.into_iter().map(form).collect();
                Transformed::yes(Expr::AggregateFunction(call))
            }
            other => Transformed::no(other),
        })
    }
}

/// Whether it is given in that form.
pub fn is_formed(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.inner().is::<Form>())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Form {
    /// Whether the schema shows the argument alone.
    unseen: bool,
    signature: Signature,
}

impl Form {
    fn of(self, expr: Expr) -> Expr {
        Expr::ScalarFunction(ScalarFunction { func: ScalarUDF::new_from_impl(self).into(), args: vec![expr] })
    }
}

impl ScalarUDFImpl for Form {
    fn name(&self) -> &str {
        "one_form"
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(args.first().map(ToString::to_string).unwrap_or_default())
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        let shown = args.first().map(|arg| arg.schema_name().to_string()).unwrap_or_default();
        Ok(if self.unseen { shown } else { format!("one_form({shown})") })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        types.first().cloned().ok_or_else(|| Error::bug("a value of nothing").into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(arg) = args.args.first() else { return Err(Error::bug("a value of nothing").into()) };
        let formed = formed(&arg.to_array(1)?)?;
        match arg {
            ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&formed, 0)?)),
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(formed)),
        }
    }
}

fn formed(array: &ArrayRef) -> Result<ArrayRef> {
    macro_rules! floats {
        ($data_type:ty, $array:ty, $float:ty, $nan:expr, $zero:expr) => {{
            let form = |value: $float| if value.is_nan() { $nan } else { value + $zero };
            let formed: $array = unary(array.as_primitive::<$data_type>(), form);
            Ok(Arc::new(formed))
        }};
    }
    match array.data_type() {
        DataType::Float64 => floats!(Float64Type, Float64Array, f64, f64::NAN, 0.0),
        DataType::Float32 => floats!(Float32Type, Float32Array, f32, f32::NAN, 0.0),
        DataType::Float16 => {
            type Half = <Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native;
            floats!(Float16Type, Float16Array, Half, Half::NAN, Half::ZERO)
        }
        _ => normal_column(array),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::value;

    #[tokio::test]
    async fn zeros_are_equal_and_so_are_nans() {
        let zeros = "FROM (VALUES (0.0), (-0.0), (1.0)) t(v)";
        let nans = "FROM (VALUES ('NaN'::double), (-('NaN'::double))) t(v)";
        for (expression, text) in [
            (format!("count(DISTINCT v) {zeros}"), "2"),
            (format!("count(DISTINCT v) {nans}"), "1"),
            (format!("count(*) {zeros} GROUP BY v ORDER BY v"), "2, 1"),
            (format!("count(*) {nans} GROUP BY v"), "2"),
            (format!("count(*) FROM (SELECT DISTINCT v {zeros})"), "2"),
            (format!("count(*) FROM (SELECT CASE v WHEN 0.0 THEN 1 END AS c {zeros}) WHERE c = 1"), "2"),
            (format!("count(*) {zeros} WHERE v IN (0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)"), "2"),
            (format!("count(*) {zeros} WHERE v IN (0, 2, 3, 4, 5, 6, 7)"), "2"),
            (format!("count(*) {zeros} WHERE v = 0"), "2"),
            (format!("count(nullif(v, 0.0)) {zeros}"), "1"),
            (
                "string_agg(i::text, ' ') FROM (SELECT i FROM (VALUES (1, 0.0), (2, -0.0), (3, 0.0)) t(i, v) ORDER BY v, i)"
                    .into(),
                "1 2 3",
            ),
            (format!("count(*) FROM (SELECT v {zeros}) a JOIN (SELECT v {zeros}) b ON a.v = b.v"), "5"),
            (format!("count(*) FROM (SELECT v {zeros} INTERSECT SELECT -0.0)"), "1"),
            (format!("max(n) FROM (SELECT row_number() OVER (PARTITION BY v) AS n {zeros})"), "2"),
        ] {
            assert_eq!(value(&expression).await.as_deref(), Ok(text), "{expression}");
        }
    }

    #[tokio::test]
    async fn a_frame_of_nulls_has_no_bits() {
        let expression = "string_agg(coalesce(x::text, '-'), ' ' ORDER BY n) FROM (SELECT n, bit_xor(v) OVER (ORDER BY n ROWS 1 PRECEDING) AS x \
                          FROM (VALUES (1, 5), (2, NULL), (3, NULL), (4, 6)) t(n, v))";
        assert_eq!(value(expression).await.as_deref(), Ok("5 5 - 6"));
    }
}
