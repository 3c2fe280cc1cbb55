//! A window function of SQL, made ready for a stream: what it reads, which rows around its own it looks at, or why it cannot run.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, IntervalUnit, Schema};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{ColumnarValue, Expr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::scalar::ScalarValue;

use super::Order;
use crate::error::{Code, Error, Result};

/// One output column: a function of the rows around each row of its partition.
#[derive(Debug, Clone)]
pub struct Function {
    /// As SQL shows it.
    pub name: String,
    pub kind: FunctionKind,
}

#[derive(Debug, Clone)]
pub enum FunctionKind {
    RowNumber,
    Rank,
    DenseRank,
    Value(FrameValue),
    Aggregate(Aggregate),
}

/// The argument's value in one row of the frame: LAG, LEAD, FIRST_VALUE, LAST_VALUE and NTH_VALUE.
#[derive(Debug, Clone)]
pub struct FrameValue {
    pub argument: Arc<dyn PhysicalExpr>,
    pub frame: Frame,
    pub place: NthRow,
    /// Rows whose value is NULL do not count.
    pub ignore_nulls: bool,
    /// Where the frame has no such row; of the argument's type.
    pub default: ScalarValue,
}

/// Which row of a frame, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NthRow {
    FromStart(usize),
    FromEnd(usize),
}

/// Any aggregate of DataFusion over the frame.
#[derive(Debug, Clone)]
pub struct Aggregate {
    pub function: Arc<AggregateFunctionExpr>,
    pub arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub frame: Frame,
}

/// Rows around the current one, `start` to `end`, both inclusive and negative before it; no start is the first row of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub unit: Unit,
    pub start: Option<i64>,
    pub end: i64,
}

/// What the bounds of a frame count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Rows,
    /// Nanoseconds of event time: rows of the same time are in or out together.
    Time,
}

impl Frame {
    fn rows(start: Option<i64>, end: i64) -> Self {
        Frame { unit: Unit::Rows, start, end }
    }
}

impl Function {
    /// Makes a function of DataFusion's logical expression (perhaps aliased) over rows of `input`.
    ///
    /// Refused, with the reason and what to write instead, is what an endless stream has no answer for and what is not built.
    pub fn plan(
        expr: &Expr,
        input: &DFSchema,
        order: Order,
        props: &ExecutionProps,
        planning: &PhysicalPlanningContext,
    ) -> Result<Function> {
        let function = window_function(expr)?;
        let name = expr.schema_name().to_string();
        let planner =
            Planner { function, input, order, physical: |expr: &Expr| Ok(create_physical_expr(expr, input, props, planning)?) };
        Ok(Function { kind: planner.kind()?, name })
    }

    /// The frame, where the function looks at other rows.
    pub fn frame(&self) -> Option<Frame> {
        match &self.kind {
            FunctionKind::Value(value) => Some(value.frame),
            FunctionKind::Aggregate(aggregate) => Some(aggregate.frame),
            FunctionKind::RowNumber | FunctionKind::Rank | FunctionKind::DenseRank => None,
        }
    }
}

/// The window function under an expression's aliases.
pub fn window_function(expr: &Expr) -> Result<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => window_function(&alias.expr),
        Expr::WindowFunction(function) => Ok(function),
        other => Err(Error::bug(format!("{other} is no window function"))),
    }
}

struct Planner<'a, P> {
    function: &'a WindowFunction,
    input: &'a DFSchema,
    order: Order,
    physical: P,
}

impl<P: Fn(&Expr) -> Result<Arc<dyn PhysicalExpr>>> Planner<'_, P> {
    fn kind(&self) -> Result<FunctionKind> {
        self.check_order()?;
        match &self.function.fun {
            WindowFunctionDefinition::AggregateUDF(_) => self.aggregate(),
            WindowFunctionDefinition::WindowUDF(function) => match function.name() {
                "row_number" => Ok(FunctionKind::RowNumber),
                "rank" => self.by_time(FunctionKind::Rank),
                "dense_rank" => self.by_time(FunctionKind::DenseRank),
                "lag" => self.shift(-1),
                "lead" => self.shift(1),
                "first_value" => self.value(self.frame()?, NthRow::FromStart(1), None),
                "last_value" => self.value(self.frame()?, NthRow::FromEnd(1), None),
                "nth_value" => self.nth(),
                "ntile" | "percent_rank" | "cume_dist" => Err(Error::new(
                    Code::Endless,
                    format!(
                        "{}() needs the number of rows of its whole partition, and a stream never has the last one",
                        self.name()
                    ),
                )
                .hint("use row_number() or rank(), or call it over the rows of a window: PARTITION BY window")),
                _ => Err(Error::new(Code::NotYet, format!("{}() over a stream is not built yet", self.name()))
                    .hint("lag, lead, row_number, rank, dense_rank, first_value, last_value, nth_value and all aggregates are")),
            },
        }
    }

    fn params(&self) -> &WindowFunctionParams {
        &self.function.params
    }

    fn name(&self) -> &str {
        self.function.fun.name()
    }

    fn check_order(&self) -> Result<()> {
        let refuse = |code, reason: &str| Err(Error::new(code, format!("{}(): {reason}", self.name())));
        match &self.params().order_by[..] {
            [] => Ok(()),
            [key] if key.asc => Ok(()),
            [_] => refuse(Code::Endless, "ORDER BY … DESC starts at the last row, and a stream never has it")
                .map_err(|error| error.hint("order ascending; LEAD is LAG in the other direction, LAST_VALUE is FIRST_VALUE")),
            _ => refuse(Code::NotYet, "ORDER BY takes one column over a stream").map_err(|error| {
                error.hint("order by the event time alone: rows of the same time keep the order in which they arrived")
            }),
        }
    }

    /// A function that compares the times of rows.
    fn by_time(&self, kind: FunctionKind) -> Result<FunctionKind> {
        match self.order {
            Order::EventTime => Ok(kind),
            Order::Arrival => Err(Error::new(
                Code::NotYet,
                format!(
                    "{}() needs rows in the order of the column it ranks by, and a stream has only that of its event time",
                    self.name()
                ),
            )
            .hint("order by the event time (declare it with WATERMARK FOR the column), or use row_number()")),
        }
    }

    fn shift(&self, direction: i64) -> Result<FunctionKind> {
        let offset = match self.whole_number(1)? {
            None => direction,
            Some(rows) => rows.saturating_mul(direction),
        };
        let default = match self.params().args.get(2) {
            None => None,
            Some(default) => Some(self.constant(default)?),
        };
        // LAG … IGNORE NULLS is the n-th last value among all rows before, however far back.
        if self.ignores_nulls() && offset < 0 {
            let place = NthRow::FromEnd(offset.unsigned_abs() as usize);
            return self.value(Frame::rows(None, -1), place, default);
        }
        if self.ignores_nulls() && offset > 0 {
            return Err(Error::new(Code::Endless, "LEAD … IGNORE NULLS may wait for ever for a value that is not NULL")
                .hint("leave IGNORE NULLS out, or filter the NULLs before in a subquery"));
        }
        self.value(Frame::rows(Some(offset), offset), NthRow::FromStart(1), default)
    }

    fn nth(&self) -> Result<FunctionKind> {
        let place = match self.whole_number(1)? {
            Some(n @ 1..) => NthRow::FromStart(n as usize),
            Some(n @ ..=-1) => NthRow::FromEnd(n.unsigned_abs() as usize),
            _ => {
                return Err(Error::new(Code::Query, "nth_value(): rows of a frame are counted from 1")
                    .hint("give a whole number, as in nth_value(price, 2)"));
            }
        };
        self.value(self.frame()?, place, None)
    }

    fn value(&self, frame: Frame, place: NthRow, default: Option<ScalarValue>) -> Result<FunctionKind> {
        let argument = self.params().args.first().ok_or_else(|| Error::bug(format!("{}() without argument", self.name())))?;
        let argument = (self.physical)(argument)?;
        let of = argument.data_type(self.input.as_arrow())?;
        // LAG(NULL, 1, x) has the type of x.
        let (argument, of) = match (&default, &of) {
            (Some(default), DataType::Null) => (literal(ScalarValue::try_new_null(&default.data_type())?), default.data_type()),
            _ => (argument, of),
        };
        let default = match default {
            Some(default) if !default.is_null() => default.cast_to(&of)?,
            _ => ScalarValue::try_new_null(&of)?,
        };
        Ok(FunctionKind::Value(FrameValue { argument, frame, place, ignore_nulls: self.ignores_nulls(), default }))
    }

    fn aggregate(&self) -> Result<FunctionKind> {
        let WindowFunctionDefinition::AggregateUDF(function) = &self.function.fun else {
            return Err(Error::bug(format!("{}() is no aggregate", self.name())));
        };
        let arguments = self.params().args.iter().map(&self.physical).collect::<Result<Vec<_>>>()?;
        let filter = self.params().filter.as_deref().map(&self.physical).transpose()?;
        let shown: Vec<String> = self.params().args.iter().map(|arg| arg.schema_name().to_string()).collect();
        let builder = AggregateExprBuilder::new(Arc::clone(function), arguments.clone())
            .schema(Arc::clone(self.input.inner()))
            .alias(format!("{}({})", self.name(), shown.join(", ")))
            .with_ignore_nulls(self.ignores_nulls())
            .with_distinct(self.params().distinct);
        Ok(FunctionKind::Aggregate(Aggregate { function: Arc::new(builder.build()?), arguments, filter, frame: self.frame()? }))
    }

    fn ignores_nulls(&self) -> bool {
        self.params().null_treatment == Some(NullTreatment::IgnoreNulls)
    }

    fn frame(&self) -> Result<Frame> {
        let WindowFrame { units, start_bound, end_bound, .. } = &self.params().window_frame;
        if end_bound.is_unbounded() {
            let error = Error::new(
                Code::Endless,
                format!("{}() looks at all rows of its partition, and a stream never has the last one", self.name()),
            );
            return Err(match self.params().order_by.is_empty() {
                true => error.hint("add ORDER BY and the event time for the value up to each row, or group by a window"),
                false => error.hint("end the frame at CURRENT ROW, or leave the frame out"),
            });
        }
        let current = matches!(start_bound, WindowFrameBound::CurrentRow) || matches!(end_bound, WindowFrameBound::CurrentRow);
        let unbounded = start_bound.is_unbounded();
        let unit = match (units, self.order) {
            (WindowFrameUnits::Rows, _) => Unit::Rows,
            (WindowFrameUnits::Range, Order::EventTime) => Unit::Time,
            // The default frame; in the order of arrival no two rows are peers.
            (WindowFrameUnits::Range, Order::Arrival) if unbounded && current => Unit::Rows,
            (WindowFrameUnits::Range, Order::Arrival) => {
                return Err(Error::new(
                    Code::NotYet,
                    format!(
                        "{}(): a RANGE frame needs rows in the order of its column, and a stream has only that of its event time",
                        self.name()
                    ),
                )
                .hint("order by the event time (declare it with WATERMARK FOR the column), or count ROWS"));
            }
            (WindowFrameUnits::Groups, _) => {
                return Err(Error::new(
                    Code::NotYet,
                    format!("{}(): GROUPS frames over a stream are not built yet", self.name()),
                )
                .hint("count ROWS, or give a RANGE of time"));
            }
        };
        let start = match unbounded {
            true => None,
            false => Some(self.bound(start_bound, unit)?),
        };
        let end = self.bound(end_bound, unit)?;
        match start {
            Some(start) if start > end => {
                Err(Error::new(Code::Window, format!("{}(): its frame ends before it starts", self.name()))
                    .hint("give the earlier bound first, as in BETWEEN 5 PRECEDING AND CURRENT ROW"))
            }
            _ => Ok(Frame { unit, start, end }),
        }
    }

    fn bound(&self, bound: &WindowFrameBound, unit: Unit) -> Result<i64> {
        let (size, sign) = match bound {
            WindowFrameBound::CurrentRow => return Ok(0),
            WindowFrameBound::Preceding(size) => (size, -1),
            WindowFrameBound::Following(size) => (size, 1),
        };
        let wrong = |reason: &str| Error::new(Code::Window, format!("{}(): the frame bound {bound} {reason}", self.name()));
        let size = match unit {
            Unit::Rows => match size.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(Some(rows))) => rows,
                _ => return Err(wrong("is no number of rows").hint("write a whole number, as in 10 PRECEDING")),
            },
            Unit::Time => match size.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)) {
                Ok(ScalarValue::IntervalMonthDayNano(Some(interval))) if interval.months == 0 => {
                    let days = i64::from(interval.days).saturating_mul(86_400_000_000_000);
                    days.saturating_add(interval.nanoseconds)
                }
                Ok(ScalarValue::IntervalMonthDayNano(Some(_))) => {
                    return Err(wrong("has no fixed length").hint("write days: INTERVAL '30 days'"));
                }
                _ => {
                    return Err(
                        wrong("is no length of time").hint("write an interval, as in RANGE INTERVAL '10 seconds' PRECEDING")
                    );
                }
            },
        };
        match size {
            ..0 => Err(wrong("is negative").hint("write FOLLOWING for PRECEDING, or PRECEDING for FOLLOWING")),
            size => Ok(size * sign),
        }
    }

    /// The argument at `index` as a constant whole number; `None` where it is left out or NULL.
    fn whole_number(&self, index: usize) -> Result<Option<i64>> {
        let Some(argument) = self.params().args.get(index) else { return Ok(None) };
        let value = self.constant(argument)?;
        match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(number)) if value.data_type().is_integer() || value.is_null() => Ok(number),
            _ => Err(Error::new(Code::Query, format!("{}(): {argument} is no whole number", self.name()))
                .hint(format!("give a number of rows, as in {}(price, 1)", self.name()))),
        }
    }

    fn constant(&self, expr: &Expr) -> Result<ScalarValue> {
        let not_constant =
            || Error::new(Code::Query, format!("{}(): {expr} is not the same for all rows", self.name())).hint("give a constant");
        if expr.any_column_refs() {
            return Err(not_constant());
        }
        let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
        match (self.physical)(expr)?.evaluate(&nothing)? {
            ColumnarValue::Scalar(value) => Ok(value),
            ColumnarValue::Array(_) => Err(not_constant()),
        }
    }
}

fn literal(value: ScalarValue) -> Arc<dyn PhysicalExpr> {
    Arc::new(datafusion::physical_expr::expressions::Literal::new(value))
}
