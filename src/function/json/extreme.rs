//! `max` and `min` of what `->` gives: the value of the greatest or least key.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};
use datafusion_functions_json::{JSON_UNION_DATA_TYPE, JsonUnionValue};

use super::key::write_json;
use super::value::{Builder, read, values};
use crate::error::Result;

/// The aggregate in the place of DataFusion's `max` or `min`.
pub fn of(function: &AggregateUDF) -> Option<Arc<AggregateUDF>> {
    let greatest = match function.name() {
        "max" => true,
        "min" => false,
        _ => return None,
    };
    let signature = Signature::any(1, Volatility::Immutable);
    Some(Arc::new(AggregateUDF::new_from_impl(Extreme { greatest, signature })))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    greatest: bool,
    signature: Signature,
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        if self.greatest { "max" } else { "min" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(JSON_UNION_DATA_TYPE.clone())
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DataFusionResult<Vec<FieldRef>> {
        Ok(vec![Field::new(format!("{}[json]", args.name), DataType::Utf8, true).into()])
    }

    fn accumulator(&self, _: AccumulatorArgs) -> DataFusionResult<Box<dyn Accumulator>> {
        Ok(Box::new(Bests { greatest: self.greatest, groups: vec![None] }))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> DataFusionResult<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Bests { greatest: self.greatest, groups: Vec::new() }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The best value of each group so far: its key and its JSON text.
#[derive(Debug)]
struct Bests {
    greatest: bool,
    groups: Vec<Option<(Vec<u8>, String)>>,
}

impl Bests {
    fn offer(&mut self, group: usize, value: JsonUnionValue) {
        let mut key = Vec::new();
        write_json(value, &mut key);
        let better = match &self.groups[group] {
            _ if key.is_empty() => false,
            None => true,
            Some((best, _)) => (key > *best) == self.greatest && key != *best,
        };
        if better {
            self.groups[group] = Some((key, written(value)));
        }
    }

    fn offer_all(&mut self, array: &ArrayRef, group: impl Fn(usize) -> Option<usize>) -> Result<()> {
        let values = values(array)?;
        for row in 0..values.len() {
            if let Some(group) = group(row) {
                self.offer(group, values.get_value(row));
            }
        }
        Ok(())
    }

    fn merge(&mut self, states: &ArrayRef, group: impl Fn(usize) -> usize) {
        let texts = states.as_string::<i32>();
        let mut scratch = String::new();
        for row in (0..texts.len()).filter(|row| texts.is_valid(*row)) {
            self.offer(group(row), read(texts.value(row), &mut scratch));
        }
    }
}

/// A value as JSON text.
fn written(value: JsonUnionValue) -> String {
    match value {
        JsonUnionValue::JsonNull => "null".into(),
        JsonUnionValue::Bool(value) => value.to_string(),
        JsonUnionValue::Int(value) => value.to_string(),
        // With a point or an exponent, so that it comes back as what it was.
        JsonUnionValue::Float(value) => format!("{value:?}"),
        JsonUnionValue::Str(value) => serde_json::Value::from(value).to_string(),
        JsonUnionValue::Array(text) | JsonUnionValue::Object(text) => text.into(),
    }
}

fn column(groups: &[Option<(Vec<u8>, String)>]) -> Result<ArrayRef> {
    let mut builder = Builder::default();
    let mut scratch = String::new();
    for group in groups {
        match group {
            Some((_, text)) => builder.push(read(text, &mut scratch)),
            None => builder.push(JsonUnionValue::JsonNull),
        }
    }
    builder.finish()
}

fn texts(groups: &[Option<(Vec<u8>, String)>]) -> ArrayRef {
    Arc::new(groups.iter().map(|group| group.as_ref().map(|(_, text)| text)).collect::<StringArray>())
}

impl GroupsAccumulator for Bests {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        self.groups.resize(total.max(self.groups.len()), None);
        let admits = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        Ok(self.offer_all(&values[0], |row| admits(row).then(|| groups[row]))?)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.groups.resize(total.max(self.groups.len()), None);
        self.merge(&states[0], |row| groups[row]);
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DataFusionResult<ArrayRef> {
        Ok(column(&emit_to.take_needed(&mut self.groups))?)
    }

    fn state(&mut self, emit_to: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        Ok(vec![texts(&emit_to.take_needed(&mut self.groups))])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DataFusionResult<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut all = Bests { greatest: self.greatest, groups: vec![None; rows] };
        let admits = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        all.offer_all(&values[0], |row| admits(row).then_some(row))?;
        Ok(vec![texts(&all.groups)])
    }

    fn size(&self) -> usize {
        let held = |group: &Option<(Vec<u8>, String)>| group.as_ref().map_or(0, |(key, text)| key.capacity() + text.capacity());
        self.groups.capacity() * size_of::<Option<(Vec<u8>, String)>>() + self.groups.iter().map(held).sum::<usize>()
    }
}

/// One group alone.
impl Accumulator for Bests {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        Ok(self.offer_all(&values[0], |_| Some(0))?)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        self.merge(&states[0], |_| 0);
        Ok(())
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        ScalarValue::try_from_array(&column(&self.groups)?, 0)
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::try_from_array(&texts(&self.groups), 0)?])
    }

    fn size(&self) -> usize {
        size_of_val(self) + GroupsAccumulator::size(self)
    }
}
