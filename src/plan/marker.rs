//! `TUMBLE`, `HOP` and `SESSION` as functions that DataFusion can resolve: they mark a window in `GROUP BY` and are never evaluated.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{Code, Error, Result};
use crate::options::Value;
use crate::time::{EVENT_TIME, instant_ns};
use crate::window::{Shape, WindowKind};

/// The three functions, for registration.
pub fn functions() -> Vec<ScalarUDF> {
    WindowKind::ALL.map(|kind| ScalarUDF::from(Marker::new(kind))).into()
}

/// Metadata key that marks a window column and its two parts.
pub const WINDOW: &str = "streamgauge.window";

/// The type of a window column: `struct{start, end}`, half open.
pub fn window_type() -> DataType {
    static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
        let part = |name: &str| Field::new(name, instant_ns(), false).with_metadata(window_metadata());
        Fields::from(vec![part("start"), part("end")])
    });
    DataType::Struct(FIELDS.clone())
}

fn window_metadata() -> std::collections::HashMap<String, String> {
    [(EVENT_TIME.to_string(), "true".to_string()), (WINDOW.to_string(), "true".to_string())].into()
}

/// Whether an expression over `schema` is the event time of its rows.
pub fn is_event_time(expr: &Expr, schema: &DFSchema) -> bool {
    marked(expr, schema, EVENT_TIME)
}

/// Whether an expression over `schema` is the window of its rows, or one of its ends: equal for all rows of one window.
pub fn is_window(expr: &Expr, schema: &DFSchema) -> bool {
    marked(expr, schema, WINDOW)
}

fn marked(expr: &Expr, schema: &DFSchema, key: &str) -> bool {
    match expr {
        Expr::Column(column) => schema.field_from_column(column).is_ok_and(|field| field.metadata().contains_key(key)),
        Expr::Alias(alias) => marked(&alias.expr, schema, key),
        Expr::ScalarFunction(call) if call.func.name() == "get_field" => {
            expr.to_field(schema).is_ok_and(|(_, field)| field.metadata().contains_key(key))
        }
        _ => false,
    }
}

/// A window call as it stands in a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub shape: Shape,
    /// The time column given first, if any.
    pub time: Option<Expr>,
}

/// The window call that an expression is, under any aliases; `None` if it is something else.
pub fn call(expr: &Expr) -> Result<Option<Call>> {
    let Expr::ScalarFunction(function) = expr.clone().unalias_nested().data else { return Ok(None) };
    let Some(marker) = function.func.inner().downcast_ref::<Marker>() else { return Ok(None) };
    let (time, lengths) = match function.args.as_slice() {
        [first, rest @ ..] if length(first).is_none() => (Some(first.clone()), rest),
        all => (None, all),
    };
    let lengths = lengths.iter().map(|arg| fixed_length(marker.kind, arg)).collect::<Result<Vec<_>>>()?;
    Ok(Some(Call { shape: marker.kind.shape(&lengths)?, time }))
}

/// The kind of the first window call in an expression.
pub fn first_call(expr: &Expr) -> Option<WindowKind> {
    let mut found = None;
    let _ = expr.apply(|part| {
        if let Expr::ScalarFunction(function) = part
            && let Some(marker) = function.func.inner().downcast_ref::<Marker>()
        {
            found = Some(marker.kind);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The nanoseconds of a length of a window call.
fn fixed_length(kind: WindowKind, arg: &Expr) -> Result<i64> {
    let message = match length(arg) {
        Some(Ok(nanos)) => return Ok(nanos),
        Some(Err(reason)) => format!("a length of {} {reason}", kind.shown()),
        None => format!("{} takes fixed lengths, not '{arg}'", kind.shown()),
    };
    Err(Error::new(Code::Window, message).hint(format!("write {}", kind.example())))
}

/// The nanoseconds of a literal length; `None` if the expression is no literal.
fn length(expr: &Expr) -> Option<Result<i64, String>> {
    let Expr::Literal(value, _) = expr else { return None };
    Some(match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months != 0 => {
            Err("in months or years has no fixed size".into())
        }
        ScalarValue::IntervalMonthDayNano(Some(interval)) => i64::from(interval.days)
            .checked_mul(86_400_000_000_000)
            .and_then(|days| days.checked_add(interval.nanoseconds))
            .ok_or_else(|| "is longer than time itself".into()),
        ScalarValue::IntervalDayTime(Some(interval)) => {
            Ok(i64::from(interval.days) * 86_400_000_000_000 + i64::from(interval.milliseconds) * 1_000_000)
        }
        ScalarValue::IntervalYearMonth(Some(_)) => Err("in months or years has no fixed size".into()),
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            Duration::read(text).map(crate::time::nanos_of).map_err(|reason| format!("given as '{text}' {reason}"))
        }
        other => Err(format!("given as {other} is no interval")),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    kind: WindowKind,
    signature: Signature,
}

impl Marker {
    fn new(kind: WindowKind) -> Self {
        // Volatile: otherwise the optimizer would try to evaluate a call with literal arguments.
        Marker { kind, signature: Signature::variadic_any(Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// `tumble(10s)`: the name of a window column that nobody named.
    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        let arg = |arg: &Expr| match length(arg) {
            Some(Ok(nanos)) => crate::window::length(nanos),
            _ => arg.schema_name().to_string(),
        };
        Ok(format!("{}({})", self.name(), args.iter().map(arg).collect::<Vec<_>>().join(", ")))
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(window_type())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), window_type(), false).with_metadata(window_metadata())))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Err(outside(self.kind).into())
    }
}

/// A window call that stands where it means nothing.
pub fn outside(kind: WindowKind) -> Error {
    let name = kind.shown();
    Error::new(Code::Window, format!("{name} has a meaning only as a window to group by"))
        .hint(format!("write SELECT count(*), {name}(…) AS window FROM … GROUP BY window"))
}
