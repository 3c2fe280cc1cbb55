//! SQL scripts as the program reads them: files or standard input, their statements, and their errors shown in place.

use std::io::{IsTerminal, Read};
use std::sync::OnceLock;

use super::args::InputPath;
use super::diagnostic::Canvas;
use crate::engine::{Answer, Attempts, Engine, Query};
use crate::error::{Code, Error, Result};
use crate::sql::{self, Statement, StatementKind};

/// What some editors write before the text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A script with the name that errors show.
pub struct Script {
    pub name: String,
    pub text: String,
    canvas: OnceLock<Canvas>,
}

impl Script {
    pub fn new(name: impl Into<String>, text: String) -> Script {
        Script { name: name.into(), text, canvas: OnceLock::new() }
    }

    pub fn read(input: &InputPath) -> Result<Script> {
        let (name, bytes) = match input {
            InputPath::Stdin => {
                let mut bytes = Vec::new();
                ("<stdin>".to_string(), std::io::stdin().read_to_end(&mut bytes).map(|_| bytes))
            }
            InputPath::File(path) => (path.display().to_string(), std::fs::read(path)),
        };
        // A wrong argument, not a failure of the run.
        let unreadable = |reason: String| {
            Error::new(Code::BadOption, format!("script '{name}' cannot be read: {reason}"))
                .hint("give the path of a SQL file, or - for standard input")
        };
        let text = String::from_utf8(bytes.map_err(|error| unreadable(error.to_string()))?);
        let text = text.map_err(|error| unreadable(format!("byte {} is no UTF-8 text", error.utf8_error().valid_up_to() + 1)))?;
        let text = text.strip_prefix(BYTE_ORDER_MARK).map(str::to_string).unwrap_or(text);
        Ok(Script::new(name, text))
    }

    /// Shows an error on standard error, with its place if it has one.
    pub fn complain(&self, error: &Error) {
        let color = std::io::stderr().is_terminal();
        let canvas = self.canvas.get_or_init(|| Canvas::new(&self.text));
        eprintln!("{}", canvas.draw(error, &self.name, color).trim_end());
    }
}

/// What running a script led to.
#[derive(Default)]
pub struct Outcome {
    /// Its queries, planned and not yet running.
    pub queries: Vec<Query>,
    /// Errors shown so far.
    pub errors: usize,
    attempts: Attempts,
}

impl Outcome {
    /// Runs the statements of a script against an engine. Every statement is tried, whatever went wrong with those before.
    /// `each` gets what is not a query.
    pub async fn run(&mut self, engine: &Engine, script: &Script, each: &mut dyn FnMut(Answer)) {
        for statement in &self.statements(script) {
            self.execute(engine, script, statement, each).await;
        }
    }

    /// As [`Outcome::run`], but tables and views that are there already are left as they are.
    pub async fn run_missing(&mut self, engine: &Engine, script: &Script, each: &mut dyn FnMut(Answer)) {
        for statement in &self.statements(script) {
            let name = match &statement.kind {
                StatementKind::CreateTable(create) if !create.or_replace => Some(&create.name.text),
                StatementKind::CreateView(create) if !create.or_replace => Some(&create.name.text),
                _ => None,
            };
            match name.filter(|name| engine.made(name).is_some()) {
                Some(name) => each(Answer::Done(vec![format!("{name} is there already, and left as it is")])),
                None => self.execute(engine, script, statement, each).await,
            }
        }
    }

    /// What can be read of a script; what cannot is shown.
    fn statements(&mut self, script: &Script) -> Vec<Statement> {
        let (statements, errors, unread) = sql::parse_all(&script.text);
        self.attempts.expect(&unread);
        self.errors += errors.len();
        errors.iter().for_each(|error| script.complain(error));
        statements
    }

    async fn execute(&mut self, engine: &Engine, script: &Script, statement: &Statement, each: &mut dyn FnMut(Answer)) {
        match self.attempts.execute(engine, statement).await {
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
