//! The values that `->` gives: a union of a branch for each kind of JSON value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, NullArray, StringBuilder, UnionArray};
use arrow::datatypes::DataType;
use datafusion_functions_json::{JSON_UNION_DATA_TYPE, JsonUnionEncoder, JsonUnionValue};

use crate::error::{Error, Result};

/// Whether a type is that of `->`.
pub fn is_json(data_type: &DataType) -> bool {
    *data_type == *JSON_UNION_DATA_TYPE
}

/// The values of a column of that type.
pub fn values(array: &ArrayRef) -> Result<JsonUnionEncoder> {
    let union = array.as_any().downcast_ref::<UnionArray>().cloned();
    union.and_then(JsonUnionEncoder::from_union).ok_or_else(|| Error::bug(format!("{} is no JSON", array.data_type())))
}

/// The value that a JSON text is. A number that neither 64 bits nor a finite float hold stays text, which is printed as it is: it
/// stands where arrays do, whose text a number cannot be.
pub fn read<'t>(text: &'t str, scratch: &'t mut String) -> JsonUnionValue<'t> {
    let text = text.trim_ascii();
    match text.as_bytes().first() {
        Some(b'"') => match crate::format::scan::has_escapes(text) {
            false => JsonUnionValue::Str(&text[1..text.len().max(2) - 1]),
            true => match serde_json::from_str(text) {
                Ok(content) => {
                    *scratch = content;
                    JsonUnionValue::Str(scratch)
                }
                Err(_) => JsonUnionValue::JsonNull,
            },
        },
        Some(b'{') => JsonUnionValue::Object(text),
        Some(b'[') => JsonUnionValue::Array(text),
        Some(b't') => JsonUnionValue::Bool(true),
        Some(b'f') => JsonUnionValue::Bool(false),
        Some(b'-' | b'0'..=b'9') => number(text),
        _ => JsonUnionValue::JsonNull,
    }
}

fn number(text: &str) -> JsonUnionValue<'_> {
    if let Ok(whole) = text.parse() {
        return JsonUnionValue::Int(whole);
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() && text.contains(['.', 'e', 'E']) => JsonUnionValue::Float(float),
        _ => JsonUnionValue::Array(text),
    }
}

/// Equal values in one form: numbers that are whole as such.
pub fn normal(value: JsonUnionValue<'_>) -> JsonUnionValue<'_> {
    /// Beyond it floats are whole numbers that no 64 bits hold.
    const WHOLE_MAX: f64 = 9_223_372_036_854_775_808.0;
    match value {
        JsonUnionValue::Float(float) if float.fract() == 0.0 && float.abs() < WHOLE_MAX => JsonUnionValue::Int(float as i64),
        JsonUnionValue::Array(text) if !text.starts_with('[') => match text.parse::<i128>() {
            Ok(whole) if whole as f64 as i128 == whole => JsonUnionValue::Float(whole as f64),
            _ => value,
        },
        value => value,
    }
}

/// Collects values into a column.
#[derive(Default)]
pub struct Builder {
    ids: Vec<i8>,
    bools: BooleanBuilder,
    ints: Int64Builder,
    floats: Float64Builder,
    texts: [StringBuilder; 3],
}

impl Builder {
    pub fn push(&mut self, value: JsonUnionValue) {
        let (mut flag, mut int, mut float, mut texts) = (None, None, None, [None; 3]);
        let id = match value {
            JsonUnionValue::JsonNull => 0,
            JsonUnionValue::Bool(value) => {
                flag = Some(value);
                1
            }
            JsonUnionValue::Int(value) => {
                int = Some(value);
                2
            }
            JsonUnionValue::Float(value) => {
                float = Some(value);
                3
            }
            JsonUnionValue::Str(text) => {
                texts[0] = Some(text);
                4
            }
            JsonUnionValue::Array(text) => {
                texts[1] = Some(text);
                5
            }
            JsonUnionValue::Object(text) => {
                texts[2] = Some(text);
                6
            }
        };
        self.ids.push(id);
        self.bools.append_option(flag);
        self.ints.append_option(int);
        self.floats.append_option(float);
        self.texts.iter_mut().zip(texts).for_each(|(builder, text)| builder.append_option(text));
    }

    pub fn finish(mut self) -> Result<ArrayRef> {
        let DataType::Union(fields, _) = &*JSON_UNION_DATA_TYPE else { return Err(Error::bug("JSON is no union")) };
        let mut children: Vec<ArrayRef> = vec![
            Arc::new(NullArray::new(self.ids.len())),
            Arc::new(self.bools.finish()),
            Arc::new(self.ints.finish()),
            Arc::new(self.floats.finish()),
        ];
        children.extend(self.texts.iter_mut().map(|texts| Arc::new(texts.finish()) as ArrayRef));
        Ok(Arc::new(UnionArray::try_new(fields.clone(), self.ids.into(), None, children)?))
    }
}
