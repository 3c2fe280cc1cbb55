//! What `->` gives, compared by value: 4.25 is more than 4, and 4.0 is 4, whatever branch of DataFusion's union holds them.

mod cast;
mod compare;
mod extreme;
mod find;
mod get;
mod key;
mod rule;
mod value;

use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::execution::FunctionRegistry;
use datafusion::prelude::SessionContext;

pub use self::value::is_json;
use crate::error::Result;

/// The values of a column of JSON in one form.
pub fn normal_column(array: &ArrayRef) -> Result<ArrayRef> {
    let values = value::values(array)?;
    let mut builder = value::Builder::default();
    (0..values.len()).for_each(|row| builder.push(value::normal(values.get_value(row))));
    builder.finish()
}

/// Registers the operators and functions of JSON, and makes their values comparable.
pub fn register(session: &SessionContext) -> Result<()> {
    let state = session.state_ref();
    let mut state = state.write();
    state.register_function_rewrite(Arc::new(cast::CastJsonText))?;
    datafusion_functions_json::register_all(&mut *state)?;
    state.register_function_rewrite(Arc::new(compare::CompareJson))?;
    drop(state);
    session.add_analyzer_rule(Arc::new(rule::Rule));
    Ok(())
}
