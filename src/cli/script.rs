//! SQL scripts as the program reads them: files or standard input, their statements, and their errors shown in place.

use std::io::{IsTerminal, Read};

use super::args::Input;
use super::diagnostic;
use crate::engine::{Answer, Engine, Query};
use crate::error::{Code, Error, Result};
use crate::sql::{self, Statement};

/// A script with the name that errors show.
pub struct Script {
    pub name: String,
    pub text: String,
}

impl Script {
    pub fn read(input: &Input) -> Result<Script> {
        let unreadable = |name: &str, error: std::io::Error| {
            Error::new(Code::File, format!("script '{name}' cannot be read: {error}"))
                .hint("give the path of a SQL file, or - for standard input")
        };
        Ok(match input {
            Input::Stdin => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(|error| unreadable("-", error))?;
                Script { name: "<stdin>".into(), text }
            }
            Input::File(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|error| unreadable(&name, error))?;
                Script { name, text }
            }
        })
    }

    /// Shows an error on standard error, with its place if it has one.
    pub fn complain(&self, error: &Error) {
        let color = std::io::stderr().is_terminal();
        eprintln!("{}", diagnostic::render(error, &self.name, &self.text, color).trim_end());
    }
}

/// What running a script led to.
#[derive(Default)]
pub struct Outcome {
    /// Its queries, planned and not yet running.
    pub queries: Vec<Query>,
    /// Errors shown so far.
    pub errors: usize,
}

impl Outcome {
    /// Runs the statements of a script against an engine. Every statement is tried, whatever went wrong with those before.
    /// `each` gets what is not a query.
    pub async fn run(&mut self, engine: &Engine, script: &Script, each: &mut dyn FnMut(Answer)) {
        let (statements, errors) = sql::parse(&script.text);
        for error in &errors {
            self.errors += 1;
            script.complain(error);
        }
        for statement in &statements {
            self.statement(engine, script, statement, each).await;
        }
    }

    async fn statement(&mut self, engine: &Engine, script: &Script, statement: &Statement, each: &mut dyn FnMut(Answer)) {
        match engine.execute(statement).await {
            Ok(Answer::Query(query)) => self.queries.push(*query),
            Ok(answer) => each(answer),
            Err(errors) => {
                for error in errors {
                    self.errors += 1;
                    script.complain(&error.at(statement.span));
                }
            }
        }
    }
}
