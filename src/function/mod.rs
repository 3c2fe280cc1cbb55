//! What an expression may compute: the one place where the operators and functions of SQL are made safe.
//!
//! DataFusion wraps integers that overflow and lets some functions return whatever a number asks for. [`register`] puts operators and
//! functions of our own in their place, in the session itself: so a plain DataFusion program, a query that is answered once and a view
//! give the same answers. Types stay DataFusion's.
//!
//! A function is registered under the name of the one it stands for; an operator becomes a function by a rewrite ([`FunctionRewrite`])
//! that DataFusion applies before it types, folds or optimises anything.
//!
//! [`FunctionRewrite`]: datafusion::logical_expr::expr_rewriter::FunctionRewrite

mod bound;

use datafusion::prelude::SessionContext;

use crate::error::Result;

/// Makes the expressions of a session safe.
pub fn register(session: &SessionContext) -> Result<()> {
    bound::register(session)
}

#[cfg(test)]
mod testing {
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
