//! What all requests share: the engine, what outlives the program, and the one way by which definitions change.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::auth::{Gate, Origins};
use super::connections::Connections;
use super::idempotency::IdempotencyKeys;
use super::problem::Problem;
use super::reload::CurrentSettings;
use super::stream::Streams;
use crate::catalog::listed;
use crate::checkpoint::{Definition, Store};
use crate::engine::{self, Answer, Checkpoints, Engine, Purpose};
use crate::error::{Code, Error};
use crate::feed::{Policy, SecretValues};
use crate::format::infer::identifier;
use crate::sql::{self, Statement, StatementKind};
use crate::table::TableSpec;
use crate::time::{Timestamp, nanos_of};

/// How long it may take to plan what is made, or what a request asks for.
const PLANNING_TIME_MAX: Duration = Duration::from_secs(30);

/// When planning that begins now is to be over.
pub fn planned_by() -> Instant {
    Instant::now() + PLANNING_TIME_MAX
}

/// The server behind its routes.
pub struct App {
    pub engine: Arc<Engine>,
    /// Where there is a data directory.
    pub checkpoints: Option<Arc<Checkpoints>>,
    pub settings: CurrentSettings,
    pub store: Store,
    pub gate: Gate,
    pub streams: Arc<Streams>,
    /// Values of variables that the settings give; feeds that are there already find others when they connect.
    pub values: SecretValues,
    pub origins: Origins,
    /// All connections.
    pub connections: Connections,
    pub started: Timestamp,
    /// Writes that may come twice.
    pub once: IdempotencyKeys,
    /// Definitions change one after the other, and each is kept before the next.
    pub(super) changing: Mutex<()>,
}

impl App {
    /// Runs a statement; a question is planned by `deadline`. One that makes or drops something is done when it is also kept.
    pub async fn execute(&self, statement: &Statement, deadline: Instant) -> Result<Answer, Vec<Error>> {
        match changes_definitions(&statement.kind) {
            false if is_planned(&statement.kind) => self.engine.asked(Purpose::Reader, deadline, statement).await,
            false => self.engine.execute(statement).await,
            true => self.changing().await.execute(statement).await,
        }
    }

    /// Waits for the turn to change definitions: until it is over, no other changes them.
    pub async fn changing(&self) -> Changing<'_> {
        Changing { app: self, _turn: self.changing.lock().await }
    }

    /// What feeds that are made by requests may use and reach.
    pub fn policy(&self) -> Policy {
        let settings = self.settings.now();
        super::start::policy(&settings, settings.feeds.files, &self.values)
    }

    /// An engine with the same definitions, in which nothing runs: what a statement would do there, it would do here.
    async fn trial(&self) -> Result<Engine, Vec<Error>> {
        let trial = Engine::keeping(Policy::default()).map_err(|error| vec![error])?;
        for definition in self.engine.definitions() {
            trial.restore(&definition).await?;
        }
        trial.limit(self.policy());
        Ok(trial)
    }

    /// What comes of `work` with such an engine, as a question.
    pub async fn tried<T, W>(self: &Arc<Self>, work: impl FnOnce(Engine) -> W + Send + 'static) -> Result<T, Vec<Error>>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Vec<Error>>> + Send,
    {
        let app = Arc::clone(self);
        let tried = self.engine.ask(Purpose::Reader, planned_by(), async move { work(app.trial().await?).await });
        tried.await.map_err(|error| vec![error])?
    }

    /// What is in the way of dropping a table or view: the views that read it, and the named streams that show it. With `cascade`
    /// only streams, also those of the views that would go along.
    pub fn dependants(&self, name: &str, cascade: bool) -> Vec<String> {
        let readers = if cascade { Vec::new() } else { self.engine.readers(name) };
        readers.into_iter().chain(self.going(name, cascade).iter().flat_map(|view| self.streams.users(view))).collect()
    }

    /// A table or view, and with `cascade` all views that read it, themselves or through others.
    fn going(&self, name: &str, cascade: bool) -> Vec<String> {
        let mut going = vec![name.to_string()];
        let mut next = 0;
        while let Some(name) = going.get(next).filter(|_| cascade) {
            let readers = self.engine.readers(name);
            going.extend(readers);
            next += 1;
        }
        going
    }

    /// Keeps what has changed of what is defined, so that a restart finds it. What cannot be kept is tried again with the next change.
    pub fn keep(&self) -> Result<(), Error> {
        let kept = |definition: engine::Definition| Definition {
            name: definition.name,
            text: definition.text,
            created_at: definition.made.created.to_string(),
            updated_at: definition.made.updated.to_string(),
            lateness_nanos: definition.lateness.into_iter().map(|(table, lateness)| (table, nanos_of(lateness) as u64)).collect(),
        };
        let changed = self.engine.take_changed();
        let changed: Vec<_> = changed.into_iter().map(|(number, definition)| (number, definition.map(kept))).collect();
        let done = self.store.change_definitions(&changed);
        done.inspect_err(|_| self.engine.change_again(changed.iter().map(|(number, _)| *number)))
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
        if let StatementKind::Drop { names, cascade, .. } = &statement.kind {
            self.spare_what_streams_show(names.iter().map(|name| name.text.as_str()), *cascade)?;
        }
        let made = self.makes(&statement.kind);
        let answer = self.app.engine.asked(Purpose::Writer, planned_by(), statement).await;
        // Of several names, those before the wrong one are gone.
        if (answer.is_ok() || matches!(statement.kind, StatementKind::Drop { .. }))
            && let Err(error) = self.app.keep()
        {
            return Err(vec![self.unkept(made, &error).await]);
        }
        answer
    }

    /// What a statement would make that is not there yet: `VIEW "x"`.
    fn makes(&self, kind: &StatementKind) -> Option<String> {
        let (what, name) = match kind {
            StatementKind::CreateTable(create) => ("TABLE", &create.name.text),
            StatementKind::CreateView(create) => ("VIEW", &create.name.text),
            _ => return None,
        };
        let is_there = self.app.engine.table(name).is_some() || self.app.engine.view(name).is_some();
        (!is_there).then(|| format!("{what} {}", identifier(name)))
    }

    /// The data directory does not take what was done: what is new goes again, and whoever asked for it is told.
    async fn unkept(&self, made: Option<String>, error: &Error) -> Error {
        tracing::error!(reason = %error, "what is defined cannot be kept");
        let undo = made.and_then(|made| single(&format!("DROP {made}")).ok());
        let is_undone = match &undo {
            Some(undo) => self.app.engine.execute(undo).await.is_ok(),
            None => false,
        };
        let problem = match is_undone {
            true => "nothing was made: the data directory cannot be written",
            false => {
                "it is done, but the data directory cannot be written: unless a later change can be kept, a restart finds what was there before"
            }
        };
        Error::new(Code::Unavailable, problem)
            .hint("see that the disk of the server has room and works, as its log tells, then try again")
    }

    /// Drops a `TABLE` or `VIEW` for a request that names it in its address; what is in the way is told as that.
    pub async fn remove(&self, what: &str, name: &str, cascade: bool) -> Result<(), Problem> {
        let in_the_way = |problem: Problem| problem.dependants(self.app.dependants(name, cascade));
        let readers = self.app.engine.readers(name);
        if !cascade && !readers.is_empty() {
            let error = Error::new(Code::InUse, format!("'{name}' is read by {}", listed(&readers)));
            return Err(in_the_way(error.hint("drop those first, or say cascade=true").into()));
        }
        let cascade = if cascade { " CASCADE" } else { "" };
        let statement = single(&format!("DROP {what} {}{cascade}", identifier(name)))?;
        let dropped = self.execute(&statement).await;
        dropped.map(drop).map_err(|errors| in_the_way(errors.into_iter().map(Error::unplaced).collect::<Vec<_>>().into()))
    }

    /// Gives a table another definition while it lives.
    pub async fn reconfigure(&self, spec: TableSpec) -> Result<(), Error> {
        self.app.engine.reconfigure(spec)?;
        match self.app.keep() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.unkept(None, &error).await),
        }
    }

    /// A view that a named stream shows stays.
    fn spare_what_streams_show<'a>(&self, names: impl Iterator<Item = &'a str>, cascade: bool) -> Result<(), Vec<Error>> {
        for name in names {
            for view in self.app.going(name, cascade) {
                if let Some(stream) = self.app.streams.users(&view).first() {
                    let error = Error::new(Code::InUse, format!("'{view}' is shown by the stream '{stream}'"));
                    return Err(vec![error.hint(format!("remove the stream first: DELETE /v1/streams/{stream}"))]);
                }
            }
        }
        Ok(())
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

/// Whether a statement is a query to plan: what is asked about definitions is told at once.
fn is_planned(kind: &StatementKind) -> bool {
    matches!(kind, StatementKind::Query(_) | StatementKind::Subscribe(_) | StatementKind::Explain { .. })
}

/// Whether a statement makes, drops or sets something.
pub fn changes_definitions(kind: &StatementKind) -> bool {
    match kind {
        StatementKind::CreateTable(_) | StatementKind::CreateView(_) | StatementKind::Drop { .. } | StatementKind::Set { .. } => {
            true
        }
        StatementKind::Query(_)
        | StatementKind::Subscribe(_)
        | StatementKind::Explain { .. }
        | StatementKind::Show(_)
        | StatementKind::Describe(_)
        | StatementKind::Insert { .. } => false,
    }
}
