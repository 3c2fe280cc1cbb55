//! `->`, `->>`, `?` and their kin: DataFusion's functions, which are shown the value that the path leads to.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl};
use datafusion_functions_json::JsonUnionValue;

use super::find::{PathStep, find};
use super::value::{Builder, is_json, read, values};
use crate::error::Result;
use crate::function::wrapped::{Invoke, Wrapped};

/// Those that take a path.
const NAMES: &[&str] = &[
    "json_get",
    "json_get_bool",
    "json_get_float",
    "json_get_int",
    "json_get_json",
    "json_get_array",
    "json_get_str",
    "json_as_text",
    "json_contains",
    "json_length",
    "json_object_keys",
];

/// Puts a wrapped function in the place of one that takes a path.
pub fn wrap(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args })
            if NAMES.contains(&func.name()) && !func.inner().is::<Wrapped<Located>>() =>
        {
            let func = ScalarUDF::new_from_impl(Wrapped { inner: func, how: Located });
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: func.into(), args }))
        }
        other => Transformed::no(other),
    }
}

/// Finds the value first, after rules that DataFusion's function does not have: the last member of a name counts, and no number is
/// too large.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Located;

impl Invoke for Located {
    fn invoke(&self, inner: &dyn ScalarUDFImpl, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some((json, path)) = args.args.split_first() else { return inner.invoke_with_args(args) };
        let mut json = json.to_array(1)?;
        if inner.name() == "json_contains" && is_json(json.data_type()) {
            json = nested(&json)?;
        }
        let (Some(text), Some(path)) = (texts(&json), steps(path)?) else { return inner.invoke_with_args(args) };
        let found: Vec<Option<Option<&str>>> = (0..json.len()).map(|row| text(row).map(|text| find(text, &path))).collect();
        let column: ArrayRef = match inner.name() {
            "json_get" => {
                let mut builder = Builder::default();
                let mut scratch = String::new();
                for value in &found {
                    match value.flatten() {
                        Some(text) => builder.push(read(text, &mut scratch)),
                        None => builder.push(JsonUnionValue::JsonNull),
                    }
                }
                builder.finish()?
            }
            // Nothing is known of what is not there.
            "json_contains" => {
                let (key, before) =
                    path.split_last().map_or((&[][..], &path[..]), |(key, before)| (std::slice::from_ref(key), before));
                let contains = |row| Some(find(find(text(row)?, before)?, key).is_some());
                Arc::new((0..json.len()).map(contains).collect::<BooleanArray>())
            }
            _ => {
                let element = |value: &Option<Option<&str>>| value.map(|text| format!("[{}]", text.unwrap_or_default()));
                let elements: ArrayRef = Arc::new(found.iter().map(element).collect::<StringArray>());
                let rows = elements.len();
                let located = ScalarFunctionArgs {
                    args: vec![ColumnarValue::Array(elements), ColumnarValue::Scalar(ScalarValue::Int64(Some(0)))],
                    arg_fields: args.arg_fields.clone(),
                    number_rows: rows,
                    return_field: Arc::clone(&args.return_field),
                    config_options: Arc::clone(&args.config_options),
                };
                inner.invoke_with_args(located)?.into_array(rows)?
            }
        };
        match args.args.first() {
            Some(ColumnarValue::Scalar(_)) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&column, 0)?)),
            _ => Ok(ColumnarValue::Array(column)),
        }
    }
}

/// The JSON text of what a nested call has found, as far as something can be in it.
fn nested(found: &ArrayRef) -> Result<ArrayRef> {
    let values = values(found)?;
    let text = |row| match values.get_value(row) {
        JsonUnionValue::JsonNull => None,
        JsonUnionValue::Array(text) | JsonUnionValue::Object(text) => Some(text.to_string()),
        _ => Some("0".into()),
    };
    Ok(Arc::new((0..found.len()).map(text).collect::<StringArray>()))
}

/// The JSON text of each row; `None` where they are of another type, as the unions of a nested call.
fn texts<'j>(json: &'j ArrayRef) -> Option<Box<dyn Fn(usize) -> Option<&'j str> + 'j>> {
    match json.data_type() {
        DataType::Utf8 => {
            let texts = json.as_string::<i32>();
            Some(Box::new(|row| texts.is_valid(row).then(|| texts.value(row))))
        }
        DataType::Utf8View => {
            let texts = json.as_string_view();
            Some(Box::new(|row| texts.is_valid(row).then(|| texts.value(row))))
        }
        _ => None,
    }
}

/// The steps of a path that is the same for all rows; `None` for another, or one with a NULL in it.
fn steps(path: &[ColumnarValue]) -> DataFusionResult<Option<Vec<PathStep<'static>>>> {
    let mut steps = Vec::new();
    for part in path {
        let ColumnarValue::Scalar(part) = part else { return Ok(None) };
        let parts = match part {
            ScalarValue::List(list) if list.len() == 1 => {
                let elements = list.value(0);
                (0..elements.len()).map(|row| ScalarValue::try_from_array(&elements, row)).collect::<DataFusionResult<_>>()?
            }
            part => vec![part.clone()],
        };
        for part in parts {
            let step = match part.try_as_str() {
                Some(Some(key)) => Some(PathStep::Key(key.to_string().into())),
                _ if part.data_type().is_integer() => match part.cast_to(&DataType::Int64)? {
                    ScalarValue::Int64(Some(index)) => isize::try_from(index).ok().map(PathStep::Index),
                    _ => None,
                },
                _ => None,
            };
            let Some(step) = step else { return Ok(None) };
            steps.push(step);
        }
    }
    Ok((!steps.is_empty()).then_some(steps))
}
