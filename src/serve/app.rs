//! What all requests share: the engine, what outlives the program, and the one way by which definitions change.

use tokio::sync::Mutex;

use crate::engine::{Answer, Engine};
use crate::error::{Code, Error};
use crate::sql::{self, Kind, Statement};
use crate::time::Timestamp;

/// The server behind its routes.
pub struct App {
    pub engine: Engine,
    pub started: Timestamp,
    /// Definitions change one after the other, and each is kept before the next.
    changing: Mutex<()>,
}

impl App {
    pub fn new(engine: Engine) -> Self {
        App { engine, started: Timestamp::now(), changing: Mutex::default() }
    }

    /// Runs a statement. One that makes or drops something is done when it is also kept.
    pub async fn execute(&self, statement: &Statement) -> Result<Answer, Vec<Error>> {
        if !changes_definitions(&statement.kind) {
            return self.engine.execute(statement).await;
        }
        let _changing = self.changing.lock().await;
        self.engine.execute(statement).await
    }

    /// Runs a text that must be one statement.
    pub async fn execute_text(&self, text: &str) -> Result<Answer, Vec<Error>> {
        self.execute(&single(text)?).await
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
        Kind::Query(_) | Kind::Subscribe(_) | Kind::Explain { .. } | Kind::Show(_) | Kind::Describe(_) | Kind::Insert { .. } => false,
    }
}
