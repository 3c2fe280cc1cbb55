//! Casts of what `->` gives, written by hand or put there because a function wants a text: they take the value, whatever its kind.
//!
//! DataFusion's cast of a union reads the branch of the type it leads to, and NULL where a value is in another: `d -> 'n' || '%'` would
//! lose every number.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_functions_json::JsonUnionValue;
use datafusion_functions_json::udfs::json_as_text_udf;

use super::get;
use super::value::{is_json, values};
use crate::error::{Error, Result};

/// Casts the text of the value. It comes before the rewrite of the functions of JSON, which would make `json_get_int` and its like of a
/// cast: they are NULL where a value is of another kind.
#[derive(Debug)]
pub struct CastJsonText;

impl FunctionRewrite for CastJsonText {
    fn name(&self) -> &str {
        "json_casts"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> DataFusionResult<Transformed<Expr>> {
        Ok(by_value(expr, schema))
    }
}

/// A cast of JSON as one of its text.
pub fn by_value(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let json = |expr: &Expr, to: &DataType| !is_json(to) && expr.get_type(schema).is_ok_and(|of| is_json(&of));
    match expr {
        Expr::Cast(Cast { expr, field }) if json(&expr, field.data_type()) => {
            Transformed::yes(Expr::Cast(Cast { expr: Box::new(text(*expr, field.data_type())), field }))
        }
        Expr::TryCast(TryCast { expr, field }) if json(&expr, field.data_type()) => {
            Transformed::yes(Expr::TryCast(TryCast { expr: Box::new(text(*expr, field.data_type())), field }))
        }
        other => Transformed::no(other),
    }
}

/// The text of a value, under the name of the value: what is called with it keeps its own.
fn text(expr: Expr, to: &DataType) -> Expr {
    let whole = to.is_integer();
    let name = expr.schema_name().to_string();
    let text = match expr.unalias() {
        // As `->>`, which does not look at the value.
        Expr::ScalarFunction(call) if call.func.name() == "json_get" && !whole => {
            get::wrap(Expr::ScalarFunction(ScalarFunction { func: json_as_text_udf(), args: call.args })).data
        }
        expr => {
            let func = ScalarUDF::new_from_impl(CastText { whole, signature: Signature::any(1, Volatility::Immutable) });
            Expr::ScalarFunction(ScalarFunction { func: func.into(), args: vec![expr] })
        }
    };
    text.alias(name)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CastText {
    /// Without what is behind the point of a number, as a cast of one to a whole number has it.
    whole: bool,
    signature: Signature,
}

impl ScalarUDFImpl for CastText {
    fn name(&self) -> &str {
        "json_value"
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(args.first().map(ToString::to_string).unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(arg) = args.args.first() else { return Err(Error::bug("the text of nothing").into()) };
        let texts = texts(&arg.to_array(1)?, self.whole)?;
        match arg {
            ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&texts, 0)?)),
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(texts)),
        }
    }
}

fn texts(array: &ArrayRef, whole: bool) -> Result<ArrayRef> {
    let values = values(array)?;
    let text = |row| match values.get_value(row) {
        JsonUnionValue::JsonNull => None,
        JsonUnionValue::Bool(value) => Some(value.to_string()),
        JsonUnionValue::Int(value) => Some(value.to_string()),
        JsonUnionValue::Float(value) if whole => Some(format!("{:.0}", value.trunc())),
        // Within 64 bits, and with a point or an exponent, as JSON writes it.
        JsonUnionValue::Float(value) => Some(serde_json::Value::from(value).to_string()),
        JsonUnionValue::Str(text) | JsonUnionValue::Array(text) | JsonUnionValue::Object(text) => Some(text.to_string()),
    };
    Ok(Arc::new((0..array.len()).map(text).collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use crate::function::tests::value;

    #[tokio::test]
    async fn a_cast_takes_the_value_whatever_its_kind() {
        let from = |json: &str| format!(" FROM (VALUES ('{json}')) t(j)");
        for (expression, json, text) in [
            ("(j -> 'v') || '%'", r#"{"v":3}"#, "3%"),
            ("concat(j -> 'v', '/', j -> 'w')", r#"{"v":1.50,"w":true}"#, "1.50/true"),
            ("concat_ws('-', j -> 'v', j -> 'w')", r#"{"v":null,"w":[1, 2]}"#, "[1, 2]"),
            ("length(j -> 'v')", r#"{"v":1234}"#, "4"),
            ("string_agg(j -> 'v', ',')", r#"{"v":18446744073709551616}"#, "18446744073709551616"),
            ("(j -> 'v')::DOUBLE", r#"{"v":4}"#, "4.0"),
            ("(j -> 'v')::DOUBLE", r#"{"v":"4.25"}"#, "4.25"),
            ("(j -> 'v')::INT", r#"{"v":4.75}"#, "4"),
            ("(j -> 'v')::BIGINT", r#"{"v":9223372036854775807}"#, "9223372036854775807"),
            ("(j -> 'v')::SMALLINT", r#"{"v":-7.5e1}"#, "-75"),
            ("(j -> 'v')::DECIMAL(10,2)", r#"{"v":0.1}"#, "0.10"),
            ("(j -> 'v')::BOOLEAN", r#"{"v":false}"#, "false"),
            ("(j -> 'v')::DATE", r#"{"v":"2026-03-29"}"#, "2026-03-29"),
            ("max(j -> 'v')::TEXT", r#"{"v":2.5}"#, "2.5"),
            ("(j -> 'v')::INT", r#"{"v":null}"#, ""),
            ("(j -> 'v')::INT", r#"{}"#, ""),
            ("TRY_CAST(j -> 'v' AS INT)", r#"{"v":"abc"}"#, ""),
            ("json_get_int(j, 'v')", r#"{"v":"abc"}"#, ""),
        ] {
            assert_eq!(value(&format!("{expression}{}", from(json))).await.as_deref(), Ok(text), "{expression} of {json}");
        }
        for (expression, json) in [
            ("(j -> 'v')::INT", r#"{"v":"abc"}"#),
            ("(j -> 'v')::INT", r#"{"v":4e300}"#),
            ("(j -> 'v')::DOUBLE", r#"{"v":[1]}"#),
            ("(j -> 'v')::BOOLEAN", r#"{"v":{}}"#),
        ] {
            assert!(value(&format!("{expression}{}", from(json))).await.is_err(), "{expression} of {json}");
        }
    }
}
