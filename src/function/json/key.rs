//! Values of JSON and of SQL as bytes that compare as the values do, whatever their types: what `=`, `<`, ORDER BY and joins look at.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion_functions_json::JsonUnionValue;

use super::value::{is_json, values};
use crate::error::{Error, Result};

/// Kinds of values, in the order in which ORDER BY puts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JsonKind {
    Bool = 1,
    Number,
    Text,
    Array,
    Object,
}

impl JsonKind {
    /// The kind of all values of a type; `None` for JSON, which has any, and for what cannot be compared with it.
    pub fn of(data_type: &DataType) -> Option<JsonKind> {
        match data_type {
            DataType::Boolean => Some(JsonKind::Bool),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(JsonKind::Text),
            DataType::Dictionary(_, values) => JsonKind::of(values),
            other if other.is_numeric() => Some(JsonKind::Number),
            _ => None,
        }
    }
}

/// Whether values of a type have keys.
pub fn has_key(data_type: &DataType) -> bool {
    is_json(data_type) || data_type.is_null() || JsonKind::of(data_type).is_some()
}

/// The keys of `expr`; NULL for values of JSON that are not of the kind `only`.
pub fn key(expr: Expr, only: Option<JsonKind>) -> Expr {
    Key { only, unseen: false, signature: Signature::any(1, Volatility::Immutable) }.of(expr)
}

/// The keys of `expr` inside a function whose column is named by what it is called with.
pub fn key_within(expr: Expr) -> Expr {
    Key { only: None, unseen: true, signature: Signature::any(1, Volatility::Immutable) }.of(expr)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    only: Option<JsonKind>,
    /// Whether the schema shows the argument alone.
    unseen: bool,
    signature: Signature,
}

impl Key {
    fn of(self, expr: Expr) -> Expr {
        Expr::ScalarFunction(ScalarFunction { func: ScalarUDF::new_from_impl(self).into(), args: vec![expr] })
    }
}

impl ScalarUDFImpl for Key {
    fn name(&self) -> &str {
        "json_key"
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        let shown = args.first().map(|arg| arg.schema_name().to_string()).unwrap_or_default();
        Ok(if self.unseen { shown } else { format!("json_key({shown})") })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(arg) = args.args.first() else { return Err(Error::bug("a key of nothing").into()) };
        let keys = keys(&arg.to_array(1)?, self.only)?;
        match arg {
            ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&keys, 0)?)),
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(keys)),
        }
    }
}

/// A key for each value; NULL for NULL.
pub fn keys(array: &ArrayRef, only: Option<JsonKind>) -> Result<ArrayRef> {
    let mut builder = BinaryBuilder::with_capacity(array.len(), array.len() * 12);
    let mut bytes = Vec::new();
    let wanted = |kind: JsonKind| only.is_none_or(|only| only == kind);
    let mut put = |there: bool, bytes: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>)| {
        bytes.clear();
        match there {
            true => {
                write(bytes);
                builder.append_value(bytes.as_slice());
            }
            false => builder.append_null(),
        }
    };
    if is_json(array.data_type()) {
        let values = values(array)?;
        for row in 0..values.len() {
            let value = values.get_value(row);
            let there = kind_of(value).is_some_and(wanted);
            put(there, &mut bytes, &|bytes| write_json(value, bytes));
        }
        return Ok(Arc::new(builder.finish()));
    }
    match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean();
            (0..values.len()).for_each(|row| put(values.is_valid(row), &mut bytes, &|bytes| flag(values.value(row), bytes)));
        }
        DataType::UInt64 => {
            let values = array.as_primitive::<UInt64Type>();
            for row in 0..values.len() {
                put(values.is_valid(row), &mut bytes, &|bytes| whole(values.value(row).into(), bytes));
            }
        }
        data_type if data_type.is_integer() => {
            let values = cast(array, &DataType::Int64)?;
            let values = values.as_primitive::<Int64Type>();
            for row in 0..values.len() {
                put(values.is_valid(row), &mut bytes, &|bytes| whole(values.value(row).into(), bytes));
            }
        }
        data_type if data_type.is_decimal() => {
            // As text: it says what a literal of JSON would.
            let values = cast(array, &DataType::Utf8)?;
            let values = values.as_string::<i32>();
            for row in 0..values.len() {
                put(values.is_valid(row), &mut bytes, &|bytes| written(values.value(row), bytes));
            }
        }
        data_type if data_type.is_numeric() => {
            let values = cast(array, &DataType::Float64)?;
            let values = values.as_primitive::<Float64Type>();
            for row in 0..values.len() {
                put(values.is_valid(row), &mut bytes, &|bytes| number(values.value(row), 0, bytes));
            }
        }
        DataType::Null => (0..array.len()).for_each(|_| put(false, &mut bytes, &|_| {})),
        _ => {
            let values = cast(array, &DataType::Utf8View)?;
            let values = values.as_string_view();
            for row in 0..values.len() {
                put(values.is_valid(row), &mut bytes, &|bytes| text(JsonKind::Text, values.value(row), bytes));
            }
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn kind_of(value: JsonUnionValue) -> Option<JsonKind> {
    match value {
        JsonUnionValue::JsonNull => None,
        JsonUnionValue::Bool(_) => Some(JsonKind::Bool),
        JsonUnionValue::Int(_) | JsonUnionValue::Float(_) => Some(JsonKind::Number),
        JsonUnionValue::Str(_) => Some(JsonKind::Text),
        // A number that is too large for the others.
        JsonUnionValue::Array(text) if !text.starts_with('[') => Some(JsonKind::Number),
        JsonUnionValue::Array(_) => Some(JsonKind::Array),
        JsonUnionValue::Object(_) => Some(JsonKind::Object),
    }
}

/// The key of a value of JSON; nothing for its null.
pub fn write_json(value: JsonUnionValue, bytes: &mut Vec<u8>) {
    match value {
        JsonUnionValue::JsonNull => {}
        JsonUnionValue::Bool(value) => flag(value, bytes),
        JsonUnionValue::Int(value) => whole(value.into(), bytes),
        JsonUnionValue::Float(value) => number(value, 0, bytes),
        JsonUnionValue::Str(value) => text(JsonKind::Text, value, bytes),
        JsonUnionValue::Array(value) if !value.starts_with('[') => written(value, bytes),
        JsonUnionValue::Array(value) => text(JsonKind::Array, value, bytes),
        JsonUnionValue::Object(value) => text(JsonKind::Object, value, bytes),
    }
}

fn flag(value: bool, bytes: &mut Vec<u8>) {
    bytes.extend([JsonKind::Bool as u8, u8::from(value)]);
}

fn text(kind: JsonKind, value: &str, bytes: &mut Vec<u8>) {
    bytes.push(kind as u8);
    bytes.extend(value.as_bytes());
}

fn whole(value: i128, bytes: &mut Vec<u8>) {
    let near = value as f64;
    number(near, value.saturating_sub(near as i128), bytes);
}

/// A number as it is written.
fn written(value: &str, bytes: &mut Vec<u8>) {
    let zeros = |digits: &str| digits.bytes().all(|digit| digit == b'0');
    let integer = match value.split_once('.') {
        Some((integer, digits)) if zeros(digits) => integer,
        _ => value,
    };
    match integer.parse::<i128>() {
        Ok(value) => whole(value, bytes),
        Err(_) => number(value.parse().unwrap_or(f64::NAN), 0, bytes),
    }
}

/// The nearest float, whose bits are turned so that they compare as it does, then how far the number is from it. A longer key is one
/// that the float alone does not say: whole numbers beyond 2⁵³.
fn number(near: f64, rest: i128, bytes: &mut Vec<u8>) {
    const SIGN: u64 = 1 << 63;
    let near = match near {
        near if near.is_nan() => f64::NAN,
        near => near + 0.0,
    };
    let bits = near.to_bits();
    let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    bytes.push(JsonKind::Number as u8);
    bytes.extend(ordered.to_be_bytes());
    match rest {
        0 => bytes.push(1),
        rest => {
            bytes.push(if rest < 0 { 0 } else { 2 });
            bytes.extend(rest.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_compare_as_the_values_do() {
        let key = |value: JsonUnionValue| {
            let mut bytes = Vec::new();
            write_json(value, &mut bytes);
            bytes
        };
        let (int, float, big) = (JsonUnionValue::Int, JsonUnionValue::Float, JsonUnionValue::Array);
        let ascending = [
            JsonUnionValue::Bool(false),
            JsonUnionValue::Bool(true),
            float(-1e300),
            int(i64::MIN),
            float(-4.5),
            int(-4),
            int(0),
            float(0.5),
            int(9_007_199_254_740_992),
            int(9_007_199_254_740_993),
            int(9_007_199_254_740_994),
            int(i64::MAX - 1),
            int(i64::MAX),
            float(9_223_372_036_854_775_808.0),
            big("18446744073709551614"),
            big("18446744073709551615"),
            float(1e300),
            JsonUnionValue::Str(""),
            JsonUnionValue::Str("4"),
            JsonUnionValue::Array("[4]"),
            JsonUnionValue::Object("{}"),
        ];
        assert!(ascending.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        for (one, other) in [
            (int(4), float(4.0)),
            (float(0.0), float(-0.0)),
            (float(9_007_199_254_740_992.0), int(9_007_199_254_740_992)),
            (big("18446744073709551616"), float(18_446_744_073_709_551_616.0)),
        ] {
            assert_eq!(key(one), key(other));
        }
    }
}
