//! What an expression may compute: the one place where the operators and functions of SQL are made safe.
//!
//! DataFusion wraps integers that overflow and lets some functions return whatever a number asks for. [`register`] puts operators and
//! functions of our own in their place, in the session itself: so a plain DataFusion program, a query that is answered once and a view
//! give the same answers. Types stay DataFusion's.
//!
//! An operator becomes a function by a rewrite ([`FunctionRewrite`]) that DataFusion applies before it types, folds or optimises
//! anything; a function is registered under the name of the one it stands for.
//!
//! [`FunctionRewrite`]: datafusion::logical_expr::expr_rewriter::FunctionRewrite

mod aggregate;
mod arithmetic;
mod bound;
mod field;
mod filtered;
mod form;
mod json;
mod lost_group;
mod wrapped;

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::execution::FunctionRegistry;
use datafusion::prelude::SessionContext;

pub use self::field::FieldByName;
pub use self::lost_group::{LostGroup, listen};
use crate::error::Result;

/// Makes the expressions of a session safe. The rules that find windows are not there yet.
pub fn register(session: &SessionContext) -> Result<()> {
    json::register(session)?;
    {
        let state = session.state_ref();
        let mut state = state.write();
        state.register_function_rewrite(Arc::new(arithmetic::CheckArithmetic))?;
        state.register_function_rewrite(Arc::new(bound::BoundFunctions))?;
        state.register_function_rewrite(Arc::new(filtered::FilterArguments))?;
        state.register_function_rewrite(Arc::new(form::FloatEquality))?;
    }
    aggregate::register(session)
}

/// A number's type as SQL writes it.
fn shown(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => return format!("DECIMAL({precision}, {scale})"),
        other => return other.to_string(),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use crate::error::Error;

    /// What `SELECT expression` answers in a session that is registered, or the error's sentence.
    pub async fn value(expression: &str) -> Result<String, String> {
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        crate::register(&session).map_err(|error| error.to_string())?;
        let rows = async { session.sql(&format!("SELECT {expression}")).await?.collect().await }.await;
        let rows = rows.map_err(|error| Error::from(error).message().to_string())?;
        let shown = pretty_format_batches(&rows).unwrap().to_string();
        let cells = shown.lines().skip(3).filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
        Ok(cells.map(str::trim).collect::<Vec<_>>().join(", "))
    }
}
