//! What all requests share: the engine, what outlives the program, and the one way by which definitions change.

use tokio::sync::{Mutex, MutexGuard};

use super::once::Once;
use crate::engine::{Answer, Engine};
use crate::error::{Code, Error};
use crate::sql::{self, Kind, Statement};
use crate::table::Spec;
use crate::time::Timestamp;

/// The server behind its routes.
pub struct App {
    pub engine: Engine,
    pub started: Timestamp,
    /// Writes that may come twice.
    pub once: Once,
    /// Definitions change one after the other, and each is kept before the next.
    changing: Mutex<()>,
}

impl App {
    pub fn new(engine: Engine) -> Self {
        App { engine, started: Timestamp::now(), once: Once::default(), changing: Mutex::default() }
    }

    /// Runs a statement. One that makes or drops something is done when it is also kept.
    pub async fn execute(&self, statement: &Statement) -> Result<Answer, Vec<Error>> {
        match changes_definitions(&statement.kind) {
            false => self.engine.execute(statement).await,
            true => self.changing().await.execute(statement).await,
        }
    }

    /// Waits for the turn to change definitions: until it is over, no other changes them.
    pub async fn changing(&self) -> Changing<'_> {
        Changing { app: self, _turn: self.changing.lock().await }
    }

    /// Runs a text that must be one statement.
    pub async fn execute_text(&self, text: &str) -> Result<Answer, Vec<Error>> {
        self.execute(&single(text)?).await
    }
}

/// The turn to change definitions.
pub struct Changing<'a> {
    app: &'a App,
    _turn: MutexGuard<'a, ()>,
}

impl Changing<'_> {
    /// Runs a statement that makes or drops something.
    pub async fn execute(&self, statement: &Statement) -> Result<Answer, Vec<Error>> {
        self.app.engine.execute(statement).await
    }

    /// Gives a table another definition while it lives.
    pub async fn reconfigure(&self, spec: Spec) -> Result<(), Error> {
        self.app.engine.reconfigure(spec)
    }
}

/// The only statement of a text.
pub fn single(text: &str) -> Result<Statement, Vec<Error>> {
    let (mut statements, errors) = sql::parse(text);
    if !errors.is_empty() {
        return Err(errors);
    }
    match (statements.pop(), statements.pop()) {
        (Some(statement), None) => Ok(statement),
        (None, _) => Err(vec![Error::new(Code::Syntax, "there is no statement").hint("write one, such as SELECT * FROM a_view")]),
        (Some(second), Some(_)) => {
            Err(vec![Error::new(Code::Syntax, "here stands more than one statement").hint("keep one").at(second.span)])
        }
    }
}

/// Whether a statement makes, drops or sets something.
pub fn changes_definitions(kind: &Kind) -> bool {
    match kind {
        Kind::CreateTable(_) | Kind::CreateView(_) | Kind::Drop { .. } | Kind::Set { .. } => true,
        Kind::Query(_) | Kind::Subscribe(_) | Kind::Explain { .. } | Kind::Show(_) | Kind::Describe(_) | Kind::Insert { .. } => {
            false
        }
    }
}
