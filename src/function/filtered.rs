//! `sum(a / b) FILTER (WHERE b <> 0)`: the filter comes first. A row that it keeps out is not computed with.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{AggregateFunction, Case, Sort};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::error::Error;

/// Puts the filter of an aggregate into what it is given, as a CASE: only the rows that come to its branch are computed with.
#[derive(Debug)]
pub struct FilterArguments;

impl FunctionRewrite for FilterArguments {
    fn name(&self) -> &str {
        "filter_before_arguments"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> DataFusionResult<Transformed<Expr>> {
        Ok(match expr {
            Expr::AggregateFunction(AggregateFunction { func, mut params }) if params.filter.is_some() => {
                let changed = admit(params.filter.as_deref(), &mut params.args, &mut params.order_by);
                of(Expr::AggregateFunction(AggregateFunction { func, params }), changed)
            }
            Expr::WindowFunction(mut call) if call.params.filter.is_some() => {
                let changed = admit(call.params.filter.as_deref(), &mut call.params.args, &mut []);
                of(Expr::WindowFunction(call), changed)
            }
            other => Transformed::no(other),
        })
    }
}

fn of(expr: Expr, changed: bool) -> Transformed<Expr> {
    if changed { Transformed::yes(expr) } else { Transformed::no(expr) }
}

fn admit(filter: Option<&Expr>, args: &mut [Expr], order_by: &mut [Sort]) -> bool {
    let mut changed = false;
    let Some(filter) = filter else { return false };
    for expr in args.iter_mut().chain(order_by.iter_mut().map(|by| &mut by.expr)) {
        // A column cannot fail, nor can a constant; and what is admitted already is admitted.
        let settled = match expr {
            Expr::Column(_) | Expr::Literal(..) => true,
            Expr::ScalarFunction(call) => call.func.inner().is::<Admitted>(),
            _ => false,
        };
        if !settled {
            let then = std::mem::take(expr);
            let admitted = ScalarUDF::new_from_impl(Admitted {
                text: then.schema_name().to_string(),
                signature: Signature::any(1, Volatility::Immutable),
            });
            let case = Case::new(None, vec![(Box::new(filter.clone()), Box::new(then))], None);
            *expr = admitted.call(vec![Expr::Case(case)]);
            changed = true;
        }
    }
    changed
}

/// What it is given; the schema shows it as what stands in the query.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Admitted {
    text: String,
    signature: Signature,
}

impl ScalarUDFImpl for Admitted {
    fn name(&self) -> &str {
        "admitted"
    }

    fn display_name(&self, _: &[Expr]) -> DataFusionResult<String> {
        Ok(self.text.clone())
    }

    fn schema_name(&self, _: &[Expr]) -> DataFusionResult<String> {
        Ok(self.text.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        types.first().cloned().ok_or_else(|| Error::bug("nothing is admitted").into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        args.args.into_iter().next().ok_or_else(|| Error::bug("nothing is admitted").into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::value;

    #[tokio::test]
    async fn what_a_filter_keeps_out_is_not_computed_with() {
        for (expression, text) in [
            ("count(*) || '/' || sum(a / b) FILTER (WHERE b <> 0) FROM (VALUES (10, 0), (10, 2)) t(a, b)", "2/5"),
            ("sum(a / b) FILTER (WHERE b <> 0) OVER (ORDER BY b) FROM (VALUES (10, 0), (10, 2)) t(a, b)", ", 5"),
            ("array_agg(a ORDER BY a / b) FILTER (WHERE b <> 0) FROM (VALUES (10, 0), (10, 2)) t(a, b)", "[10]"),
            ("count(DISTINCT a / b) FILTER (WHERE b <> 0) FROM (VALUES (10, 0), (10, 2), (5, 1)) t(a, b)", "1"),
        ] {
            assert_eq!(value(expression).await.as_deref(), Ok(text), "{expression}");
        }
    }
}
