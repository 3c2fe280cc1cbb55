//! What `->` gives, compared by value: 4.25 is more than 4, and 4.0 is 4, whatever branch of DataFusion's union holds them.

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

/// Makes JSON comparable. The functions of JSON are there already.
pub fn register(session: &SessionContext) -> Result<()> {
    session.state_ref().write().register_function_rewrite(Arc::new(compare::Rewrite))?;
    session.add_analyzer_rule(Arc::new(rule::Rule));
    Ok(())
}
