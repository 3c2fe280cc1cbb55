//! Aggregates in the place of DataFusion's: sums that do not wrap, and frames from which rows leave without a trace.

mod distinct;
mod interval;
mod moments;
mod parts;
mod total;

use std::sync::Arc;

use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Field, FieldRef, Int64Type, TimeUnit, UInt64Type, i256,
};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
};
use datafusion::prelude::SessionContext;

use self::distinct::Distinct;
use self::interval::Intervals;
use self::moments::{Moment, Moments, MomentsOfGroups};
use self::parts::{FrameParts, Recipe};
use self::total::{Total, TotalKind, Totals};
use crate::error::{Error, Result};

/// Registers them under the names of those they stand for.
pub fn register(session: &SessionContext) -> Result<()> {
    let mut kinds = vec![("sum", AggregateKind::Sum), ("avg", AggregateKind::Average), ("bit_xor", AggregateKind::Xor)];
    kinds.extend(moments::ALL.iter().map(|(name, moment)| (*name, AggregateKind::Moment(*moment))));
    for (name, kind) in kinds {
        let inner = session.udaf(name)?;
        session.register_udaf(AggregateUDF::new_from_impl(Safe { inner, kind }));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum AggregateKind {
    Sum,
    Average,
    /// Of variances, covariances, correlations and regressions.
    Moment(Moment),
    Xor,
}

/// An aggregate of DataFusion that computes in another way. All else is its own.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Safe {
    inner: Arc<AggregateUDF>,
    kind: AggregateKind,
}

/// Calls a generic function for the type of the values and of their sum.
macro_rules! with_types {
    ($data_type:expr, $function:ident($($arg:expr),*), $other:expr) => {
        match $data_type {
            DataType::Int64 => $function::<Int64Type, i128>($($arg),*),
            DataType::UInt64 => $function::<UInt64Type, i128>($($arg),*),
            DataType::Decimal32(..) => $function::<Decimal32Type, i128>($($arg),*),
            DataType::Decimal64(..) => $function::<Decimal64Type, i128>($($arg),*),
            DataType::Decimal128(..) => $function::<Decimal128Type, i256>($($arg),*),
            DataType::Decimal256(..) => $function::<Decimal256Type, i256>($($arg),*),
            DataType::Duration(TimeUnit::Second) => $function::<DurationSecondType, i128>($($arg),*),
            DataType::Duration(TimeUnit::Millisecond) => $function::<DurationMillisecondType, i128>($($arg),*),
            DataType::Duration(TimeUnit::Microsecond) => $function::<DurationMicrosecondType, i128>($($arg),*),
            DataType::Duration(TimeUnit::Nanosecond) => $function::<DurationNanosecondType, i128>($($arg),*),
            _ => $other,
        }
    };
}

fn distinct<T: total::Exact<W>, W: total::Wide>(what: TotalKind) -> DataFusionResult<Box<dyn Accumulator>> {
    Ok(Box::new(Distinct::<T, W>::new(what)))
}

fn total<T: total::Exact<W>, W: total::Wide>(what: TotalKind) -> DataFusionResult<Box<dyn Accumulator>> {
    Ok(Box::new(Total::<T, W>::new(what)))
}

fn totals<T: total::Exact<W>, W: total::Wide>(what: TotalKind) -> DataFusionResult<Box<dyn GroupsAccumulator>> {
    Ok(Box::new(Totals::<T, W>::new(what)))
}

fn sum_type<T: total::Exact<W>, W: total::Wide>(of: &DataType) -> Option<DataType> {
    Some(W::data_type(total::scale(of)))
}

impl Safe {
    /// What is computed exactly in one number; none for floating-point numbers and intervals.
    fn exact(&self, args: &AccumulatorArgs) -> Option<TotalKind> {
        let of = args.expr_fields.first()?.data_type();
        let average = match self.kind {
            AggregateKind::Sum => false,
            AggregateKind::Average => true,
            AggregateKind::Moment(_) | AggregateKind::Xor => return None,
        };
        let _ = with_types!(of, sum_type(of), None)?;
        Some(TotalKind { of: of.clone(), result: args.return_type().clone(), average, name: args.name.into() })
    }

    fn is_interval(args: &AccumulatorArgs) -> bool {
        !args.is_distinct && args.expr_fields.first().is_some_and(|field| *field.data_type() == interval::OF)
    }

    fn is_float(args: &AccumulatorArgs) -> bool {
        args.expr_fields.iter().all(|field| *field.data_type() == DataType::Float64)
    }
}

fn unknown<T>(what: &TotalKind) -> DataFusionResult<T> {
    Err(Error::bug(format!("no exact sum of {}", what.of)).into())
}

#[warn(clippy::missing_trait_methods)]
impl AggregateUDFImpl for Safe {
    fn accumulator(&self, args: AccumulatorArgs) -> DataFusionResult<Box<dyn Accumulator>> {
        if let Some(what) = self.exact(&args) {
            return match args.is_distinct {
                true => with_types!(what.of, distinct(what), unknown(&what)),
                false => with_types!(what.of, total(what), unknown(&what)),
            };
        }
        match self.kind {
            AggregateKind::Sum if Self::is_interval(&args) => Ok(Box::new(Intervals::new(args.name))),
            AggregateKind::Moment(moment) if !args.is_distinct => Ok(Box::new(Moments::new(moment))),
            _ => self.inner.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DataFusionResult<Vec<FieldRef>> {
        let field = |name: &str, data_type: DataType| Field::new(format!("{}[{name}]", args.name), data_type, true).into();
        if let AggregateKind::Moment(moment) = self.kind
            && !args.is_distinct
        {
            return Ok(moment.states().iter().map(|(name, data_type)| field(name, data_type.clone())).collect());
        }
        let of = args.input_fields.first().map(|field| field.data_type()).unwrap_or(&DataType::Null);
        if matches!(self.kind, AggregateKind::Sum) && *of == interval::OF && !args.is_distinct {
            return Ok(interval::STATES.into_iter().map(|(name, data_type)| field(name, data_type)).collect());
        }
        let sum = match self.kind {
            AggregateKind::Sum | AggregateKind::Average => with_types!(of, sum_type(of), None),
            AggregateKind::Moment(_) | AggregateKind::Xor => None,
        };
        Ok(match (sum, args.is_distinct) {
            (None, _) => return self.inner.state_fields(args),
            (Some(_), true) => vec![field("values", DataType::new_list(of.clone(), true))],
            (Some(sum), false) => vec![field("count", DataType::UInt64), field("sum", sum)],
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        match self.kind {
            AggregateKind::Sum | AggregateKind::Average if self.exact(&args).is_some() => !args.is_distinct,
            AggregateKind::Sum if Self::is_interval(&args) => false,
            AggregateKind::Moment(_) => !args.is_distinct,
            _ => self.inner.groups_accumulator_supported(args),
        }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DataFusionResult<Box<dyn GroupsAccumulator>> {
        if let Some(what) = self.exact(&args) {
            return with_types!(what.of, totals(what), unknown(&what));
        }
        match self.kind {
            AggregateKind::Moment(moment) => Ok(Box::new(MomentsOfGroups::new(moment))),
            _ => self.inner.create_groups_accumulator(args),
        }
    }

    /// Sums of whole numbers take rows out exactly. What rounds is computed from the rows that are left.
    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DataFusionResult<Box<dyn Accumulator>> {
        match self.kind {
            AggregateKind::Sum | AggregateKind::Average if self.exact(&args).is_some() => self.accumulator(args),
            AggregateKind::Sum if Self::is_interval(&args) => self.accumulator(args),
            AggregateKind::Xor => Ok(Box::new(parts::Counted::new(self.inner.create_sliding_accumulator(args)?))),
            AggregateKind::Moment(moment) if !args.is_distinct => {
                Ok(Box::new(FrameParts::new(moment.arguments(), move || Ok(Box::new(Moments::new(moment)) as _))))
            }
            _ if Self::is_float(&args) && !args.is_distinct => {
                let recipe = Recipe::new(&self.inner, &args);
                Ok(Box::new(FrameParts::new(args.exprs.len(), move || recipe.accumulator())))
            }
            _ => self.inner.create_sliding_accumulator(args),
        }
    }

    fn name(&self) -> &str {
        self.inner.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.inner().aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> DataFusionResult<String> {
        self.inner.inner().schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> DataFusionResult<String> {
        self.inner.inner().human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> DataFusionResult<String> {
        self.inner.inner().window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> DataFusionResult<String> {
        self.inner.inner().display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> DataFusionResult<String> {
        self.inner.inner().window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner.inner().signature()
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        self.inner.inner().return_type(types)
    }

    fn return_field(&self, fields: &[FieldRef]) -> DataFusionResult<FieldRef> {
        self.inner.inner().return_field(fields)
    }

    fn is_nullable(&self) -> bool {
        self.inner.inner().is_nullable()
    }

    fn with_beneficial_ordering(self: Arc<Self>, _: bool) -> DataFusionResult<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(None)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.inner().order_sensitivity()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        None
    }

    /// `sum(v + 1)` stays what it is: its parts may overflow where the whole does not.
    fn simplify_expr_op_literal(
        &self,
        _: &datafusion::logical_expr::expr::AggregateFunction,
        _: &datafusion::logical_expr::Expr,
        _: datafusion::logical_expr::Operator,
        _: &datafusion::logical_expr::Expr,
        _: bool,
    ) -> DataFusionResult<Option<datafusion::logical_expr::Expr>> {
        Ok(None)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.inner().reverse_expr()
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        self.inner.inner().coerce_types(types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.inner().is_descending()
    }

    fn value_from_stats(&self, _: &datafusion::logical_expr::StatisticsArgs) -> Option<ScalarValue> {
        None
    }

    fn default_value(&self, data_type: &DataType) -> DataFusionResult<ScalarValue> {
        self.inner.inner().default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.inner().supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.inner().supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.inner().documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
}
