//! What one call may return: a function whose result can be much larger than what it is given fails by itself, where its memory would
//! end the process. The bound is checked before anything is made.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{BinaryExpr, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::wrapped::{Invoke, Wrapped};
use crate::error::{Code, Error, Result};
use crate::memory::may_make;

/// Bytes that one call may make: much more than an event may have.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes that a call may make for the rows of a batch where it makes no more of each than it was given: long texts are not to be
/// refused for standing side by side.
const BATCH_BYTES_MAX: u64 = 4 * BYTES_MAX;

const MONTH_NANOS: u64 = 28 * 86_400_000_000_000;

/// How the size of a result follows from the arguments of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    /// The first argument, as often as the second says.
    Times,
    /// So many letters as the second argument says.
    Letters,
    /// So many elements as the second argument says, which are as large as the third.
    Elements,
    /// Numbers from the first argument (else 0) to the second, by the third (else 1).
    Steps,
    /// All arguments together.
    Sum,
    /// The first argument, each byte of which becomes at most so many.
    Grown(u64),
    /// The first argument, in which the third stands for each place of the second.
    Replaced,
    /// The first argument, in which the third stands for each match of the second.
    Matched,
    /// The elements of the first argument with the second between them.
    Joined,
    /// The elements of the first argument, each of which the third may stand for.
    Exchanged,
}

const SIZES: &[(&str, Size)] = &[
    ("repeat", Size::Times),
    ("array_repeat", Size::Times),
    ("lpad", Size::Letters),
    ("rpad", Size::Letters),
    ("array_resize", Size::Elements),
    ("range", Size::Steps),
    ("generate_series", Size::Steps),
    ("concat", Size::Sum),
    ("concat_ws", Size::Sum),
    ("overlay", Size::Sum),
    ("make_array", Size::Sum),
    ("array_append", Size::Sum),
    ("array_prepend", Size::Sum),
    ("array_concat", Size::Sum),
    ("array_union", Size::Sum),
    ("flatten", Size::Sum),
    ("encode", Size::Grown(2)),
    // A view of sixteen bytes for each letter, at worst.
    ("string_to_array", Size::Grown(17)),
    ("replace", Size::Replaced),
    ("regexp_replace", Size::Matched),
    ("array_to_string", Size::Joined),
    ("array_replace", Size::Exchanged),
    ("array_replace_n", Size::Exchanged),
    ("array_replace_all", Size::Exchanged),
];

/// Puts every function that can grow under a bound, however it came into the plan.
#[derive(Debug)]
pub struct BoundFunctions;

impl FunctionRewrite for BoundFunctions {
    fn name(&self) -> &str {
        "bounded_functions"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> DataFusionResult<Transformed<Expr>> {
        Ok(match expr {
            Expr::ScalarFunction(ScalarFunction { func, args }) if !func.inner().is::<Wrapped<Size>>() => {
                match SIZES.iter().find(|(name, _)| *name == func.name()) {
                    Some((_, how)) => {
                        let func = ScalarUDF::new_from_impl(Wrapped { inner: func, how: *how });
                        Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: func.into(), args }))
                    }
                    None => Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })),
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right })
                if !matches!(left.as_ref(), Expr::ScalarFunction(call) if call.func.inner().is::<Beside>())
                    && [&left, &right].iter().all(|side| side.get_type(schema).is_ok_and(|data_type| data_type.is_string())) =>
            {
                let func = ScalarUDF::new_from_impl(Beside { signature: Signature::any(2, Volatility::Immutable) });
                let args = vec![*left, right.as_ref().clone()];
                let left = Box::new(Expr::ScalarFunction(ScalarFunction { func: func.into(), args }));
                Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }))
            }
            other => Transformed::no(other),
        })
    }
}

impl Invoke for Size {
    fn invoke(&self, inner: &dyn ScalarUDFImpl, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        self.check(inner.name(), &args.args)?;
        inner.invoke_with_args(args)
    }
}

impl Size {
    fn check(self, name: &str, args: &[ColumnarValue]) -> Result<()> {
        let counts = matches!(self, Size::Times | Size::Letters | Size::Elements | Size::Steps);
        let columns = args.iter().map(|arg| Argument::new(arg, counts)).collect::<Result<Vec<_>>>()?;
        let rows = columns.iter().map(Argument::rows).max().unwrap_or(0);
        let most = if matches!(self, Size::Sum | Size::Grown(_)) { BATCH_BYTES_MAX } else { BYTES_MAX };
        let mut bytes = 0_u64;
        for row in 0..rows {
            let of_row = self.bytes(&columns, row);
            bytes = bytes.saturating_add(of_row);
            if of_row > BYTES_MAX || bytes > most {
                let most = if of_row > BYTES_MAX { BYTES_MAX } else { most };
                let bytes = bytes.max(of_row);
                let message = format!("{name} would make {bytes} bytes, and at most {most} are made at once");
                return Err(Error::new(Code::Runtime, message).hint("ask for less"));
            }
        }
        if !may_make(bytes) {
            let message = format!("{name} would make {bytes} bytes, and the process has no memory left for them");
            return Err(Error::new(Code::Runtime, message).hint("ask for less, or give the process more with memory_max"));
        }
        Ok(())
    }

    /// Bytes of the result of a row, roughly; 0 where the function itself must say what is wrong.
    fn bytes(self, args: &[Argument], row: usize) -> u64 {
        let bytes = |at: usize| args.get(at).map_or(0, |column| column.bytes(row));
        let number = |at: usize| args.get(at).and_then(|column| column.number(row));
        let count = || number(1).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        match self {
            Size::Times => count().saturating_mul(bytes(0).max(1)),
            Size::Letters => count().saturating_mul(4),
            Size::Elements => count().saturating_mul(bytes(2).max(8)),
            Size::Steps => {
                let (start, stop) = match args.len() {
                    1 => (Some(0), number(0)),
                    _ => (number(0), number(1)),
                };
                let (Some(start), Some(stop)) = (start, stop) else { return 0 };
                let step = args.get(2).map_or(1, |step| step.step(row)).max(1);
                (start.abs_diff(stop) / step).saturating_mul(8)
            }
            Size::Sum => args.iter().fold(0, |sum, column| sum.saturating_add(column.bytes(row))),
            Size::Grown(times) => bytes(0).saturating_mul(times),
            Size::Joined => bytes(0).saturating_add(elements(args, row).saturating_mul(bytes(1).saturating_add(8))),
            Size::Exchanged => bytes(0).saturating_add(elements(args, row).saturating_mul(bytes(2))),
            Size::Replaced => {
                // Counted only where there may be too many.
                let most = bytes(0) / bytes(1).max(1) + 1;
                let put = |places: u64| bytes(0).saturating_add(places.saturating_mul(bytes(2)));
                match put(most) {
                    few if few <= BYTES_MAX / 8192 => few,
                    _ => match (args[0].text(row), args.get(1).and_then(|from| from.text(row))) {
                        (Some(text), Some(from)) => put(text.matches(from).count() as u64),
                        _ => 0,
                    },
                }
            }
            Size::Matched => matched(args, row),
        }
    }
}

fn elements(args: &[Argument], row: usize) -> u64 {
    args.first().map_or(0, |column| column.elements(row))
}

/// Bytes of `regexp_replace`. What its groups say again is no longer than the text, each time that the replacement names one.
fn matched(args: &[Argument], row: usize) -> u64 {
    let text = |at: usize| args.get(at).and_then(|column| column.text(row));
    let (Some(of), Some(pattern), Some(put)) = (text(0), text(1), text(2)) else { return 0 };
    let flags = text(3).unwrap_or_default();
    let length = of.len() as u64;
    let named = put.bytes().filter(|byte| matches!(byte, b'\\' | b'$')).count() as u64;
    let with = |places: u64| {
        let put = places.saturating_mul(put.len() as u64);
        length.saturating_add(put).saturating_add(named.saturating_mul(length))
    };
    if !flags.contains('g') {
        return with(1);
    }
    match with(length + 1) {
        few if few <= BYTES_MAX / 8192 => few,
        most => {
            let options: String = flags.chars().filter(|flag| "imsUx".contains(*flag)).collect();
            let pattern = if options.is_empty() { pattern.to_string() } else { format!("(?{options}){pattern}") };
            // One that cannot be read is refused by the function itself.
            regex::Regex::new(&pattern).map_or(most.min(BYTES_MAX), |pattern| with(pattern.find_iter(of).count() as u64))
        }
    }
}

/// An argument: a column, or a constant.
struct Argument {
    array: ArrayRef,
    constant: bool,
    numbers: Option<ArrayRef>,
    /// Bytes of an element, where it is a list.
    element: u64,
}

impl Argument {
    fn new(value: &ColumnarValue, counts: bool) -> Result<Self> {
        let array = value.to_array(1)?;
        let element = match array.data_type() {
            DataType::List(_) => each(array.as_list::<i32>().values()),
            DataType::LargeList(_) => each(array.as_list::<i64>().values()),
            DataType::FixedSizeList(..) => each(array.as_fixed_size_list().values()),
            _ => 0,
        };
        let numbers = if counts { numbers(&array) } else { None };
        Ok(Argument { numbers, element, constant: matches!(value, ColumnarValue::Scalar(_)), array })
    }

    fn rows(&self) -> usize {
        self.array.len()
    }

    fn place(&self, row: usize) -> Option<usize> {
        let row = if self.constant { 0 } else { row };
        (row < self.array.len() && self.array.is_valid(row)).then_some(row)
    }

    fn text(&self, row: usize) -> Option<&str> {
        let row = self.place(row)?;
        match self.array.data_type() {
            DataType::Utf8 => Some(self.array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => Some(self.array.as_string::<i64>().value(row)),
            DataType::Utf8View => Some(self.array.as_string_view().value(row)),
            _ => None,
        }
    }

    fn elements(&self, row: usize) -> u64 {
        let Some(row) = self.place(row) else { return 0 };
        match self.array.data_type() {
            DataType::List(_) => self.array.as_list::<i32>().value_length(row) as u64,
            DataType::LargeList(_) => self.array.as_list::<i64>().value_length(row) as u64,
            DataType::FixedSizeList(_, length) => *length as u64,
            _ => 0,
        }
    }

    fn bytes(&self, row: usize) -> u64 {
        let Some(place) = self.place(row) else { return 0 };
        match self.array.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => self.text(row).map_or(0, |text| text.len() as u64),
            DataType::Binary => self.array.as_binary::<i32>().value(place).len() as u64,
            DataType::LargeBinary => self.array.as_binary::<i64>().value(place).len() as u64,
            DataType::BinaryView => self.array.as_binary_view().value(place).len() as u64,
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                self.elements(row).saturating_mul(self.element).saturating_add(8)
            }
            other => other.primitive_width().unwrap_or(16) as u64,
        }
    }

    fn number(&self, row: usize) -> Option<i64> {
        let row = self.place(row)?;
        let numbers = self.numbers.as_ref()?.as_primitive::<Int64Type>();
        numbers.is_valid(row).then(|| numbers.value(row))
    }

    /// The size of a step: a number, or an interval as nanoseconds.
    fn step(&self, row: usize) -> u64 {
        match (self.array.data_type(), self.place(row)) {
            (_, None) => 1,
            (DataType::Interval(IntervalUnit::MonthDayNano), Some(row)) => {
                let step = self.array.as_primitive::<IntervalMonthDayNanoType>().value(row);
                let (months, days) = (u64::from(step.months.unsigned_abs()), u64::from(step.days.unsigned_abs()));
                let whole = months.saturating_mul(MONTH_NANOS).saturating_add(days.saturating_mul(86_400_000_000_000));
                whole.saturating_add(step.nanoseconds.unsigned_abs())
            }
            _ => self.number(row).map_or(1, i64::unsigned_abs),
        }
    }
}

/// Whole numbers, or times as nanoseconds.
fn numbers(array: &ArrayRef) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let nanos = cast(array, &DataType::Timestamp(TimeUnit::Nanosecond, None)).ok()?;
            cast(&nanos, &DataType::Int64).ok()
        }
        data_type if data_type.is_numeric() => cast(array, &DataType::Int64).ok(),
        _ => None,
    }
}

/// Bytes of an element, on average.
fn each(elements: &ArrayRef) -> u64 {
    let bytes = match elements.data_type() {
        DataType::Utf8View => {
            let texts = elements.as_string_view();
            texts.iter().flatten().map(|text| text.len() as u64 + 16).sum()
        }
        _ => elements.to_data().get_slice_memory_size().unwrap_or_else(|_| elements.get_array_memory_size()) as u64,
    };
    bytes.div_ceil(elements.len().max(1) as u64)
}

/// Gives its first argument back, once it is known that both fit side by side: `||` asks it for its left side.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Beside {
    signature: Signature,
}

impl ScalarUDFImpl for Beside {
    fn name(&self) -> &str {
        "beside"
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(args.first().map(ToString::to_string).unwrap_or_default())
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(args.first().map(|arg| arg.schema_name().to_string()).unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        types.first().cloned().ok_or_else(|| Error::bug("a text beside nothing").into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Size::Sum.check("||", &args.args)?;
        args.args.into_iter().next().ok_or_else(|| Error::bug("a text beside nothing").into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::value;

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
            ("replace('abab', 'b', 'xy')", "axyaxy"),
            ("length(replace(repeat('x', 100000), 'x', 'yy'))", "200000"),
            ("length(replace(repeat('x', 100000), 'z', repeat('y', 100000)))", "100000"),
            ("regexp_replace('abab', '(b)', '<\\1>', 'g')", "a<b>a<b>"),
            ("length(regexp_replace(repeat('x', 100000), 'z', repeat('y', 100000), 'g'))", "100000"),
            ("length(regexp_replace(repeat('X', 100000), 'x', 'yy', 'gi'))", "200000"),
            ("'a' || 'b' || 'c'", "abc"),
            ("'a' || NULL", ""),
            ("[1] || [2]", "[1, 2]"),
            ("[1] || 2", "[1, 2]"),
            ("concat('a', NULL, 'b', 'c')", "abc"),
            ("array_to_string([1, 2], '-')", "1-2"),
            ("translate('abc', 'ab', 'xy')", "xyc"),
            ("string_to_array('a,b', ',')", "[a, b]"),
            ("array_replace_all([1, 2, 1], 1, 3)", "[3, 2, 3]"),
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
            "length(replace(repeat('x', 100000), 'x', repeat('y', 100000)))",
            "length(regexp_replace(repeat('x', 100000), 'x', repeat('y', 100000), 'g'))",
            "length(regexp_replace(repeat('x', 100000), '(.)', repeat('\\1', 1000), 'g'))",
            "length(repeat(repeat('x', 100000), 400) || repeat(repeat('y', 100000), 400))",
            "length(concat(repeat(repeat('x', 100000), 400), repeat(repeat('y', 100000), 400)))",
            "array_length(range(5000000) || range(5000000))",
            "length(array_to_string(range(100000), repeat('x', 100000)))",
            "array_length(string_to_array(repeat(repeat('x,', 10000), 2000), ','))",
            "array_length(array_replace_all(array_repeat('a', 100000), 'a', repeat('x', 100000)))",
        ] {
            let reason = value(expression).await.unwrap_err();
            assert!(reason.contains("at most 67108864 are made at once"), "{expression}: {reason}");
        }
    }

    #[tokio::test]
    async fn what_doubles_again_and_again_is_refused() {
        for (start, double) in [("[1]", "array_concat(v, v)"), ("'x'", "v || v"), ("'x'", "concat(v, v)"), ("[1]", "v || v")] {
            let steps: Vec<String> =
                (1..40).map(|step| format!("c{step} AS (SELECT {double} AS v FROM c{})", step - 1)).collect();
            let query =
                format!("x FROM (WITH c0 AS (SELECT {start} AS v), {} SELECT cast(v AS TEXT) AS x FROM c39)", steps.join(", "));
            let reason = value(&query).await.unwrap_err();
            assert!(reason.contains("are made at once"), "{double}: {reason}");
        }
    }
}
