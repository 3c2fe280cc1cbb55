//! The body that makes a view, and where in it an error of its `CREATE VIEW` lies.

use std::cell::RefCell;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::{Code, Error};
use crate::format::infer::identifier;
use crate::serve::app::single;
use crate::serve::name;
use crate::serve::problem::{Problem, Result};
use crate::serve::sql::SQL_BYTES_MAX;
use crate::sql::Statement;

/// A view to make: `CREATE VIEW` in other words.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewPost {
    #[schema(example = "rolling_metrics")]
    pub name: String,
    /// The query, without a `;`.
    #[schema(example = "SELECT host, avg(value), TUMBLE(INTERVAL '10 seconds') AS window FROM metrics GROUP BY host, window")]
    pub query: String,
    /// `final` (default): each window's result when it closes. `changes`: also before, as updates.
    emit: Option<String>,
    /// With `changes`: the least event time between two early results, such as `1s`.
    emit_interval: Option<String>,
    /// For how long after its end a window takes late rows, such as `5s`.
    allowed_lateness: Option<String>,
    /// How many of its latest rows the view keeps.
    retention: Option<u64>,
    /// Most rows in the state of its operators; a view that needs more fails.
    state_rows_max: Option<u64>,
    /// Most memory of that state, such as `512MiB`.
    state_bytes_max: Option<String>,
}

impl ViewPost {
    /// The statement that this post means. Its query stands on lines of its own, so that places in it can be told.
    pub fn statement(&self, or_replace: bool) -> Result<Statement> {
        let options: Vec<String> = [
            ("emit", self.emit.clone()),
            ("emit_interval", self.emit_interval.clone()),
            ("allowed_lateness", self.allowed_lateness.clone()),
            ("retention", self.retention.map(|rows| rows.to_string())),
            ("state_rows_max", self.state_rows_max.map(|rows| rows.to_string())),
            ("state_bytes_max", self.state_bytes_max.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} = '{}'", value?.replace('\'', "''"))))
        .collect();
        let with = if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) };
        let replace = if or_replace { "OR REPLACE " } else { "" };
        name::check("view", &self.name).map_err(|error| Problem::from(error).at("/name"))?;
        if self.query.len() > SQL_BYTES_MAX {
            let error = Error::new(Code::TooLarge, format!("the query is longer than {SQL_BYTES_MAX} bytes"));
            return Err(Problem::from(error.hint("make views of its parts")).at("/query"));
        }
        let text = format!("CREATE {replace}VIEW {}{with} AS\n{}", identifier(&self.name), self.query);
        single(&text).map_err(located)
    }
}

/// Errors of a posted view: those in the query are told by their place in it.
pub fn located(errors: Vec<Error>) -> Problem {
    let mut pointers = Vec::new();
    let mut located = Vec::new();
    for error in errors {
        let option = error.message().strip_prefix("option '").and_then(|rest| rest.split('\'').next());
        // The name and the options stand in the line above the query, which nobody has written.
        let in_query = error.span().is_none_or(|span| span.start.line > 1);
        let pointer = match option {
            Some(option) => format!("/{option}"),
            // A query that is not there is missed at the end of that line.
            None if in_query || error.code() == Code::Syntax => "/query".to_string(),
            None => "/name".to_string(),
        };
        pointers.push(pointer);
        match in_query {
            true => located.push(error.moved_up(1)),
            false => located.push(error.unplaced()),
        }
    }
    let pointers = RefCell::new(pointers.into_iter());
    Problem::from(located).point(|_| pointers.borrow_mut().next())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::options::{Value, ViewOptions};
    use crate::serve::body::shape;
    use crate::sql::StatementKind;

    #[test]
    fn every_option_of_a_view_can_be_posted() {
        for option in ViewOptions::DECLARED {
            let value = match option.expects {
                expects if expects == u64::EXPECTS => json!(7),
                _ if option.name == "emit" => json!("changes"),
                _ if option.name == "state_bytes_max" => json!("7MiB"),
                _ => json!("7s"),
            };
            let post: ViewPost = shape(json!({"name": "v", "query": "SELECT 1", option.name: value})).unwrap();
            let StatementKind::CreateView(create) = post.statement(false).unwrap().kind else { panic!("no view") };
            assert_eq!(create.options[0].name, option.name);
            ViewOptions::read(&create.options).unwrap();
        }
    }
}
