//! Functions whose result is as large as a number says: one that asks for too much fails by itself, where its memory would end the process.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::config::ConfigOptions;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, StructFieldMapping,
};
use datafusion::prelude::SessionContext;

use crate::error::{Code, Error, Result};

/// Bytes that one call may make for a batch of rows, or for one constant: much more than an event may have.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

const MONTH_NANOS: u64 = 28 * 86_400_000_000_000;

/// Puts the functions that take a number of letters or elements under a bound.
pub fn register(session: &SessionContext) -> Result<()> {
    for (name, size) in [
        ("repeat", Size::Times),
        ("array_repeat", Size::Times),
        ("lpad", Size::Letters),
        ("rpad", Size::Letters),
        ("array_resize", Size::Elements),
        ("range", Size::Steps),
        ("generate_series", Size::Steps),
    ] {
        let inner = session.udf(name)?;
        session.register_udf(ScalarUDF::new_from_impl(Held { inner, size }));
    }
    Ok(())
}

/// How the size of a result follows from the arguments of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Size {
    /// The first argument, as often as the second says.
    Times,
    /// So many letters as the second argument says.
    Letters,
    /// So many elements as the second argument says, which are as large as the third.
    Elements,
    /// Numbers from the first argument (else 0) to the second, by the third (else 1).
    Steps,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Held {
    inner: Arc<ScalarUDF>,
    size: Size,
}

impl Held {
    /// Bytes of the result, roughly; 0 where the function itself must say what is wrong.
    fn bytes(&self, args: &[ColumnarValue]) -> DataFusionResult<u64> {
        let args = ColumnarValue::values_to_arrays(args)?;
        let rows = args.first().map_or(0, |first| first.len());
        let numbers = |at: usize| args.get(at).and_then(|array| numbers(array));
        let number = |column: &Option<ArrayRef>, row: usize| -> Option<i64> {
            let column = column.as_ref()?.as_primitive::<Int64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        let size_of = |at: usize, row: usize| -> DataFusionResult<u64> {
            args.get(at).map_or(Ok(8), |array| Ok(ScalarValue::try_from_array(array, row)?.size() as u64))
        };
        let mut bytes = 0_u64;
        match self.size {
            Size::Steps => {
                let (first, second) = (numbers(0), numbers(1));
                for row in 0..rows {
                    let (start, stop) = match args.len() {
                        1 => (Some(0), number(&first, row)),
                        _ => (number(&first, row), number(&second, row)),
                    };
                    let (Some(start), Some(stop)) = (start, stop) else { continue };
                    let step = args.get(2).map_or(1, |step| step_of(step, row)).max(1);
                    bytes = bytes.saturating_add((start.abs_diff(stop) / step).saturating_mul(8));
                }
            }
            Size::Times | Size::Letters | Size::Elements => {
                let counts = numbers(1);
                for row in 0..rows {
                    let count = number(&counts, row).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
                    let each = match self.size {
                        Size::Times => size_of(0, row)?,
                        Size::Elements => size_of(2, row)?,
                        _ => 4,
                    };
                    bytes = bytes.saturating_add(count.saturating_mul(each));
                }
            }
        }
        Ok(bytes)
    }
}

/// Whole numbers, or times as nanoseconds.
fn numbers(array: &ArrayRef) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let nanos = cast(array, &DataType::Timestamp(TimeUnit::Nanosecond, None)).ok()?;
            cast(&nanos, &DataType::Int64).ok()
        }
        _ => cast(array, &DataType::Int64).ok(),
    }
}

/// The size of a step: a number, or an interval as nanoseconds.
fn step_of(array: &ArrayRef, row: usize) -> u64 {
    match array.data_type() {
        _ if array.is_null(row) => 1,
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let step = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            let (months, days) = (u64::from(step.months.unsigned_abs()), u64::from(step.days.unsigned_abs()));
            let whole = months.saturating_mul(MONTH_NANOS).saturating_add(days.saturating_mul(86_400_000_000_000));
            whole.saturating_add(step.nanoseconds.unsigned_abs())
        }
        _ => numbers(array).map_or(1, |steps| steps.as_primitive::<Int64Type>().value(row).unsigned_abs()),
    }
}

/// All but the bound is the function's own.
#[warn(clippy::missing_trait_methods)]
impl ScalarUDFImpl for Held {
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let bytes = self.bytes(&args.args)?;
        if bytes > BYTES_MAX {
            let message = format!("{} would make {bytes} bytes, and at most {BYTES_MAX} are made at once", self.name());
            return Err(Error::new(Code::Runtime, message).hint("ask for less").into());
        }
        self.inner.inner().invoke_with_args(args)
    }

    fn name(&self) -> &str {
        self.inner.inner().name()
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        #[expect(deprecated, reason = "it is part of the trait")]
        self.inner.inner().display_name(args)
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        self.inner.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.inner().signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> DataFusionResult<DataType> {
        self.inner.inner().return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }

    fn is_nullable(&self, args: &[Expr], schema: &dyn datafusion::common::ExprSchema) -> bool {
        #[expect(deprecated, reason = "it is part of the trait")]
        self.inner.inner().is_nullable(args, schema)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn with_updated_config(&self, _: &ConfigOptions) -> Option<ScalarUDF> {
        None
    }

    fn aliases(&self) -> &[String] {
        self.inner.inner().aliases()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> DataFusionResult<ExprSimplifyResult> {
        self.inner.inner().simplify(args, info)
    }

    fn preimage(&self, args: &[Expr], lit: &Expr, info: &SimplifyContext) -> DataFusionResult<PreimageResult> {
        self.inner.inner().preimage(args, lit, info)
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.inner().conditional_arguments(args)
    }

    fn short_circuits(&self) -> bool {
        self.inner.inner().short_circuits()
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> DataFusionResult<Interval> {
        self.inner.inner().evaluate_bounds(input)
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> DataFusionResult<Option<Vec<Interval>>> {
        self.inner.inner().propagate_constraints(interval, inputs)
    }

    fn struct_field_mapping(&self, literals: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.inner().struct_field_mapping(literals)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> DataFusionResult<SortProperties> {
        self.inner.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> DataFusionResult<bool> {
        self.inner.inner().preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> DataFusionResult<bool> {
        self.inner.inner().strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.inner().documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.inner().placement(args)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::value;

    #[tokio::test]
    async fn what_would_not_fit_is_refused_and_all_else_is_as_it_was() {
        for (expression, text) in [
            ("repeat('ab', 3)", "ababab"),
            ("lpad('x', 3, 'ab')", "abx"),
            ("rpad('x', 3)", "x"),
            ("array_repeat(1, 2)", "[1, 1]"),
            ("list_repeat('a', 2)", "[a, a]"),
            ("array_resize([1, 2], 3, 7)", "[1, 2, 7]"),
            ("range(3)", "[0, 1, 2]"),
            ("generate_series(7, 1, -3)", "[7, 4, 1]"),
            ("array_length(generate_series(DATE '2026-03-01', DATE '2026-03-05', INTERVAL '1 day'))", "5"),
            ("repeat(NULL, 3)", ""),
        ] {
            assert_eq!(value(expression).await.as_deref(), Ok(text), "{expression}");
        }
        for expression in [
            "repeat('x', 2000000000)",
            "lpad('x', 2000000000)",
            "rpad('x', 2000000000, 'ab')",
            "array_repeat(1, 10000000000)",
            "array_repeat(repeat('x', 1000000), 1000000)",
            "array_resize([1], 10000000000)",
            "range(10000000000)",
            "generate_series(1, 10000000000)",
            "generate_series(-9223372036854775808, 9223372036854775807)",
            "generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2260-01-01', INTERVAL '1 second')",
            "array_length(generate_series(DATE '2026-03-01', DATE '2126-03-05', INTERVAL '1 nanosecond'))",
        ] {
            let reason = value(expression).await.unwrap_err();
            assert!(reason.contains("at most 67108864 are made at once"), "{expression}: {reason}");
        }
    }
}
