//! Statements one after the other, whatever went wrong with those before: each mistake is told once, where it is.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlparser::ast;

use super::{Answer, Engine, one};
use crate::error::{Code, Error, Result, Span};
use crate::options::GivenOption;
use crate::sql::{self, CreateTable, Statement, StatementKind, Unread};

/// The names whose definitions failed so far. Nothing of what such statements made may run: a table that failed by its options alone is
/// stood in for by one with its columns, so that what reads it can be checked all the same.
#[derive(Default)]
pub struct Attempts {
    failed: HashMap<String, Option<Span>>,
}

impl Attempts {
    /// Notes definitions that could not even be read.
    pub fn expect(&mut self, unread: &[Unread]) {
        self.failed.extend(unread.iter().map(|unread| (unread.name.clone(), unread.span)));
    }

    /// Runs a statement, unless it reads what could not be made.
    pub async fn execute(&mut self, engine: &Engine, statement: &Statement) -> Result<Answer, Vec<Error>> {
        let answer = match self.missing(engine, &statement.kind) {
            Some(error) => Err(one(error)),
            None => engine.execute(statement).await,
        };
        let Some(name) = defined(&statement.kind) else { return answer };
        match &answer {
            Ok(_) => drop(self.failed.remove(name)),
            Err(_) if engine.made(name).is_some() => {}
            Err(errors) => {
                let place = errors.iter().find_map(Error::span).or(Some(statement.span));
                let stands_in = match &statement.kind {
                    StatementKind::CreateTable(create) => stand_in(engine, create),
                    _ => false,
                };
                if !stands_in {
                    self.failed.insert(name.into(), place);
                }
            }
        }
        answer
    }

    /// That something a statement reads could not be made.
    fn missing(&self, engine: &Engine, kind: &StatementKind) -> Option<Error> {
        let query = match kind {
            StatementKind::Query(query) | StatementKind::Subscribe(query) => query,
            StatementKind::CreateView(create) => &create.query,
            StatementKind::Explain { statement, .. } => return self.missing(engine, statement),
            _ => return None,
        };
        let found = ast::visit_relations(query.as_ref(), |relation| match sql::folded(relation) {
            Some(name) if self.failed.contains_key(&name) && engine.made(&name).is_none() => {
                ControlFlow::Break((name, Span::from(ast::Spanned::span(relation))))
            }
            _ => ControlFlow::Continue(()),
        });
        let ControlFlow::Break((name, place)) = found else { return None };
        let line =
            self.failed.get(&name).copied().flatten().map_or(String::new(), |span| format!(" at line {}", span.start.line));
        Some(
            Error::new(Code::UnknownTable, format!("'{name}' could not be made: its definition{line} has an error"))
                .at(place)
                .hint("correct that first"),
        )
    }
}

fn defined(kind: &StatementKind) -> Option<&str> {
    match kind {
        StatementKind::CreateTable(create) => Some(&create.name.text),
        StatementKind::CreateView(create) => Some(&create.name.text),
        _ => None,
    }
}

/// Makes a table of the same columns whose feed is nowhere; `false` where the columns are what is wrong.
fn stand_in(engine: &Engine, create: &CreateTable) -> bool {
    const KEPT: [&str; 6] = ["format", "framing", "primary_key", "event_time_field", "json.unstructured", "table"];
    let kept = |given: &&GivenOption| KEPT.iter().any(|name| given.name.eq_ignore_ascii_case(name));
    let plain = |name: &str, value: &str| GivenOption { name: name.into(), value: value.into(), span: None };
    let is_file = |given: &GivenOption| given.name.eq_ignore_ascii_case("connector") && given.value.eq_ignore_ascii_case("file");
    let nowhere = match create.options.iter().any(is_file) {
        true => [plain("connector", "file"), plain("path", "nowhere.ndjson")],
        false => [plain("connector", "sse"), plain("endpoint", "http://127.0.0.1:9/")],
    };
    let with_all = nowhere.iter().chain(create.options.iter().filter(kept)).cloned().collect();
    for options in [with_all, nowhere.to_vec()] {
        if engine.create_table(&CreateTable { options, ..create.clone() }).is_ok() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The errors of a script, each with the line it stands on.
    async fn errors(script: &str) -> Vec<String> {
        let engine = Engine::new().unwrap();
        let (statements, errors, unread) = sql::parse_all(script);
        let mut attempts = Attempts::default();
        attempts.expect(&unread);
        let mut found = errors;
        for statement in &statements {
            if let Err(errors) = attempts.execute(&engine, statement).await {
                found.extend(errors.into_iter().map(|error| error.at(statement.span)));
            }
        }
        let line = |error: &Error| error.span().map_or(0, |span| span.start.line);
        found.iter().map(|error| format!("{}: {error}", line(error))).collect()
    }

    #[tokio::test]
    async fn what_could_not_be_made_is_known_as_that() {
        let script = "CREATE TABLE e (a NOTHING) WITH (connector = 'sse', endpoint = 'http://x');
            CREATE VIEW v AS SELECT a FROM e;
            SELECT * FROM v;
            CREATE VIEW w AS SELECT a FRM e;
            SELECT * FROM w;
            SELECT * FROM f";
        let expected = [
            "4: ",
            "1: type NOTHING is not known",
            "2: 'e' could not be made: its definition at line 1 has an error; correct that first",
            "3: 'v' could not be made: its definition at line 2 has an error; correct that first",
            "5: 'w' could not be made: its definition at line 4 has an error; correct that first",
            "6: table 'f' is not there; make it with CREATE TABLE",
        ];
        let found = errors(script).await;
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} {expected}");
        }
    }

    /// A table of which only the options are wrong has its columns: what reads it is checked against them.
    #[tokio::test]
    async fn errors_behind_a_wrong_option_are_told() {
        let script = "CREATE TABLE e (a TEXT) WITH (connector = 'sse', endpont = 'http://x');
            CREATE VIEW v AS SELECT a FROM e;
            CREATE VIEW w AS SELECT b FROM v;
            SELECT a FROM w";
        let found = errors(script).await;
        let expected = ["1: unknown option 'endpont'", "3: column 'b' is not there", "4: 'w' could not be made"];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} {expected}");
        }
    }

    #[tokio::test]
    async fn a_definition_that_is_made_in_the_end_is_there() {
        let table = |more: &str| format!("CREATE TABLE e (a TEXT) WITH (connector = 'sse', endpoint = 'http://x'{more});");
        let script = format!("CREATE VIEW v AS SELECT a FROM e; {} CREATE VIEW v AS SELECT a FROM e; SELECT a FROM v", table(""));
        let found = errors(&script).await;
        assert_eq!(found.len(), 1, "{found:#?}");
    }
}
