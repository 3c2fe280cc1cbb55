//! `+`, `-`, `*` of whole numbers and decimals, and the sign `-`: what is out of range is an error that names the expression.
//!
//! Times, intervals and floating-point numbers stay with DataFusion: the first are checked there, the others have no range to leave.

use std::fmt;

use arrow::array::{ArrayRef, AsArray, Datum};
use arrow::compute::kernels::numeric::{add, div, mul, neg, rem, sub};
use arrow::datatypes::{DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Field, FieldRef};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{BinaryExpr, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::shown;
use crate::error::{Code, Error};

/// Puts [`Checked`] in the place of the operators that could overflow.
#[derive(Debug)]
pub struct CheckArithmetic;

impl FunctionRewrite for CheckArithmetic {
    fn name(&self) -> &str {
        "checked_arithmetic"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> DataFusionResult<Transformed<Expr>> {
        let sign = match &expr {
            Expr::BinaryExpr(BinaryExpr { op: Operator::Plus, .. }) => Sign::Plus,
            Expr::BinaryExpr(BinaryExpr { op: Operator::Minus, .. }) => Sign::Minus,
            Expr::BinaryExpr(BinaryExpr { op: Operator::Multiply, .. }) => Sign::Times,
            Expr::BinaryExpr(BinaryExpr { op: Operator::Divide, .. }) => Sign::Over,
            Expr::BinaryExpr(BinaryExpr { op: Operator::Modulo, .. }) => Sign::Rest,
            Expr::Negative(inner) if !matches!(inner.as_ref(), Expr::Literal(..)) => Sign::Negative,
            _ => return Ok(Transformed::no(expr)),
        };
        if !sign.may_overflow(&expr, schema) {
            return Ok(Transformed::no(expr));
        }
        let text = expr.schema_name().to_string();
        let args = match expr {
            Expr::BinaryExpr(BinaryExpr { left, right, .. }) => vec![*left, *right],
            Expr::Negative(inner) => vec![*inner],
            other => vec![other],
        };
        let func = ScalarUDF::new_from_impl(Checked { sign, text, signature: Signature::user_defined(Volatility::Immutable) });
        Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: func.into(), args })))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sign {
    Plus,
    Minus,
    Times,
    Over,
    Rest,
    Negative,
}

impl Sign {
    /// DataFusion's operator; none for the sign.
    fn operator(self) -> Option<Operator> {
        match self {
            Sign::Plus => Some(Operator::Plus),
            Sign::Minus => Some(Operator::Minus),
            Sign::Times => Some(Operator::Multiply),
            Sign::Over => Some(Operator::Divide),
            Sign::Rest => Some(Operator::Modulo),
            Sign::Negative => None,
        }
    }

    /// Whether DataFusion would give a wrong number: it wraps whole numbers, but not in a division, and lets a decimal have more digits
    /// than its type.
    fn may_overflow(self, expr: &Expr, schema: &DFSchema) -> bool {
        let whole = |data_type: &DataType| data_type.is_integer();
        let of = |expr: &Expr| expr.get_type(schema).ok();
        match (self, of(expr)) {
            (_, Some(data_type)) if data_type.is_decimal() => true,
            (Sign::Over | Sign::Rest, _) => false,
            // The days between two dates are a whole number too.
            (_, Some(data_type)) if whole(&data_type) => match expr {
                Expr::BinaryExpr(BinaryExpr { left, .. }) => of(left).is_some_and(|left| whole(&left)),
                _ => true,
            },
            _ => false,
        }
    }

    fn compute(self, args: &[ColumnarValue]) -> Result<ArrayRef, ArrowError> {
        let datum = |value: &ColumnarValue| -> DataFusionResult<Box<dyn Datum>> {
            Ok(match value {
                ColumnarValue::Array(array) => Box::new(ArrayRef::clone(array)),
                ColumnarValue::Scalar(scalar) => Box::new(scalar.to_scalar()?),
            })
        };
        let found = match args {
            [left, right] => {
                let (left, right) = (datum(left)?, datum(right)?);
                match self {
                    Sign::Plus => add(left.as_ref(), right.as_ref()),
                    Sign::Minus => sub(left.as_ref(), right.as_ref()),
                    Sign::Times => mul(left.as_ref(), right.as_ref()),
                    Sign::Over => div(left.as_ref(), right.as_ref()),
                    _ => rem(left.as_ref(), right.as_ref()),
                }
            }
            args => neg(&ColumnarValue::values_to_arrays(args)?[0]),
        }?;
        fits(&found)?;
        Ok(found)
    }
}

/// Refuses decimals with more digits than their type has.
fn fits(found: &ArrayRef) -> Result<(), ArrowError> {
    match found.data_type() {
        DataType::Decimal32(precision, _) => found.as_primitive::<Decimal32Type>().validate_decimal_precision(*precision),
        DataType::Decimal64(precision, _) => found.as_primitive::<Decimal64Type>().validate_decimal_precision(*precision),
        DataType::Decimal128(precision, _) => found.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision),
        DataType::Decimal256(precision, _) => found.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision),
        _ => Ok(()),
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sign::Plus => "+",
            Sign::Minus | Sign::Negative => "-",
            Sign::Times => "*",
            Sign::Over => "/",
            Sign::Rest => "%",
        })
    }
}

/// An operator of SQL as a function. It is called as the operator reads, so that columns keep their names.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    sign: Sign,
    /// The expression as SQL shows it, for errors.
    text: String,
    signature: Signature,
}

impl Checked {
    fn written(&self, args: &[Expr], write: impl Fn(&Expr) -> String) -> String {
        let write = |expr: &Expr| match expr {
            Expr::ScalarFunction(call) if call.func.inner().is::<Checked>() => format!("({})", write(expr)),
            _ => write(expr),
        };
        match args {
            [left, right] => format!("{} {} {}", write(left), self.sign, write(right)),
            args => format!("(- {})", args.first().map(write).unwrap_or_default()),
        }
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self.sign {
            Sign::Plus => "add",
            Sign::Minus => "subtract",
            Sign::Times => "multiply",
            Sign::Over => "divide",
            Sign::Rest => "remainder",
            Sign::Negative => "negative",
        }
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(self.written(args, ToString::to_string))
    }

    fn schema_name(&self, _: &[Expr]) -> DataFusionResult<String> {
        Ok(self.text.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        match (types, self.sign.operator()) {
            ([left, right], Some(operator)) => {
                let (left, right) = BinaryTypeCoercer::new(left, &operator, right).get_input_types()?;
                Ok(vec![left, right])
            }
            _ => Ok(types.to_vec()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        match (types, self.sign.operator()) {
            ([left, right], Some(operator)) => BinaryTypeCoercer::new(left, &operator, right).get_result_type(),
            (types, _) => types.first().cloned().ok_or_else(|| Error::bug("an operator without operands").into()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Field::new(&self.text, self.return_type(&types)?, nullable).into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match self.sign.compute(&args.args) {
            Ok(found) if args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?))
            }
            Ok(found) => Ok(ColumnarValue::Array(found)),
            Err(ArrowError::DivideByZero) => Err(ArrowError::DivideByZero.into()),
            Err(ArrowError::ArithmeticOverflow(_) | ArrowError::InvalidArgumentError(_)) => {
                let message = format!("{} is out of range for {}", self.text, shown(args.return_field.data_type()));
                Err(Error::new(Code::Runtime, message).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::value;

    #[tokio::test]
    async fn what_is_out_of_range_is_an_error_that_names_the_expression() {
        let max = "9223372036854775807";
        for (expression, reason) in [
            (format!("v + 1 FROM (VALUES ({max})) t(v)"), "t.v + Int64(1) is out of range for BIGINT"),
            (format!("v - w FROM (VALUES (-{max}, 2)) t(v, w)"), "t.v - t.w is out of range for BIGINT"),
            ("a * b FROM (VALUES (70000::int, 70000::int)) t(a, b)".into(), "t.a * t.b is out of range for INT"),
            ("-v FROM (VALUES ((-128)::tinyint)) t(v)".into(), "(- t.v) is out of range for TINYINT"),
            ("a - b FROM (VALUES (3::bigint unsigned, 5::bigint unsigned)) t(a, b)".into(), "t.a - t.b is out of range for BIGINT UNSIGNED"),
            (format!("{max} + 1"), "Int64(9223372036854775807) + Int64(1) is out of range for BIGINT"),
            (
                "a + a FROM (VALUES (90000000000000000000000000000000000000::decimal(38,0))) t(a)".into(),
                "t.a + t.a is out of range for DECIMAL(38, 0)",
            ),
            (
                "a + b FROM (VALUES (90000000000000000000000000000000000000::decimal(38,0), 50000000000000000000000000000000000000::decimal(38,0))) t(a, b)".into(),
                "t.a + t.b is out of range for DECIMAL(38, 0)",
            ),
        ] {
            assert_eq!(value(&expression).await, Err(reason.to_string()), "{expression}");
        }
        for expression in
            ["(-9223372036854775807 - 1) / v FROM (VALUES (-1)) t(v)", "abs(v - 1) FROM (VALUES (-9223372036854775807)) t(v)"]
        {
            assert!(value(expression).await.is_err(), "{expression}");
        }
    }

    #[tokio::test]
    async fn what_is_in_range_is_as_it_was() {
        for (expression, text) in [
            ("arrow_typeof(a * b) FROM (VALUES (7::int, 7::int)) t(a, b)", "Int32"),
            ("a * b - 50 FROM (VALUES (7::int, 7::int)) t(a, b)", "-1"),
            ("arrow_typeof(a + 1) FROM (VALUES (7::int)) t(a)", "Int64"),
            ("a * b FROM (VALUES (70000, 70000)) t(a, b)", "4900000000"),
            ("a + NULL FROM (VALUES (1)) t(a)", ""),
            ("a % b FROM (VALUES (-9223372036854775807 - 1, -1)) t(a, b)", "0"),
            ("DATE '2026-03-01' - DATE '2026-02-01'", "28"),
            ("DATE '2026-03-01' + INTERVAL '1 day'", "2026-03-02"),
            ("TIMESTAMP '2026-03-01' - INTERVAL '1 day'", "2026-02-28T00:00:00Z"),
            ("1.5 * 2", "3.0"),
            ("arrow_typeof(a * 2) FROM (VALUES (1.50::decimal(10,2))) t(a)", "Decimal128(31, 2)"),
            ("a / 3 FROM (VALUES (1.50::decimal(10,2))) t(a)", "0.500000"),
            ("-a FROM (VALUES (1.50::decimal(10,2))) t(a)", "-1.50"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("sum(a * 2) + 1 FROM (VALUES (1), (2)) t(a) GROUP BY a % 1", "7"),
        ] {
            assert_eq!(value(expression).await.as_deref(), Ok(text), "{expression}");
        }
    }
}
