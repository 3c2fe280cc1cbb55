//! From settings to a server that listens: what was kept is there again, then scripts, then streams, then the first request.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::app::App;
use super::auth::{Gate, Origins};
use super::connections::{Connections, files_max};
use super::guard::{Around, around};
use super::idempotency::IdempotencyKeys;
use super::limits::StreamLimiter;
use super::listen::{Shutdown, bind, serve};
use super::reload::{CurrentSettings, watch_tokens};
use super::settings::{Settings, is_own};
use super::stream::{Limits, Streams, Write};
use crate::catalog::Made;
use crate::checkpoint::{Archive, CrashGuard, Damaged, Opened, Store};
use crate::engine::{Checkpoints, Definition, Engine, LAST_CHECKPOINT_TIMEOUT, PRINT, QueryPool};
use crate::error::{Code, Error, ErrorKind, Result};
use crate::feed::{AllowedVariables, Policy, Reach, SecretValues};
use crate::time::Timestamp;
use crate::view::begin_epochs;

/// A server that has its addresses and what was kept, and answers nobody yet.
pub struct Server {
    pub app: Arc<App>,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    listeners: Vec<TcpListener>,
    router: Router,
}

impl Server {
    /// Opens the data directory and the addresses, and makes again what was kept. Until [`Server::start`] no view runs, so that
    /// scripts can be run first; they may read files, which requests may only by the settings.
    pub async fn open(settings: Settings) -> Result<Server> {
        let store = match &settings.data {
            Some(dir) => {
                refuse_printed(dir)?;
                Store::open(dir)?
            }
            None => Store::in_memory()?,
        };
        if settings.data.is_some() {
            begin_epochs(store.epoch());
        }
        let gate = Gate::new(&settings, store.clone())?;
        settings.check(gate.tokens().has_admin())?;
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for address in settings.addresses() {
            let listener = bind(address, "--bind").await?;
            addresses.push(listener.local_addr().unwrap_or(address));
            listeners.push(listener);
        }
        let values = SecretValues::default();
        values.set(settings.secrets.values.clone());
        let engine = Arc::new(Engine::keeping(policy(&settings, true, &values))?.beside(QueryPool::new(settings.memory_max)?));
        engine.allow(settings.memory_max);
        restore(&engine, &store).await?;
        let checkpoints = match &settings.data {
            Some(dir) => Some(Arc::new(resume(&engine, dir)?)),
            None => None,
        };
        let connections = Connections::new(&settings.http, files_max());
        let limits = Limits {
            limiter: StreamLimiter::new(&settings.http),
            connections: connections.clone(),
            heartbeat: settings.http.heartbeat,
            own: addresses.clone(),
            off_loopback: !settings.is_loopback_only(),
        };
        let streams = Streams::new(Arc::clone(&engine), store.clone(), limits);
        let weak = Arc::downgrade(&streams);
        let origins = Origins::new(&settings, move |address, path| {
            weak.upgrade().map(|streams| streams.origins(address, path)).unwrap_or_default()
        });
        let common = Around {
            body_bytes_max: settings.http.body_bytes_max,
            proxies: connections.proxies().clone(),
            base_path: settings.http.base_path.as_str().into(),
        };
        let guard = {
            let (gate, origins) = (gate.clone(), origins.clone());
            move |router, address| around(router, gate.at(address), origins.at(address), common.clone())
        };
        streams.guard_with(Arc::new(guard));
        let app = Arc::new(App {
            engine,
            checkpoints,
            settings: CurrentSettings::new(settings),
            store,
            gate,
            streams: Arc::clone(&streams),
            values,
            origins,
            connections,
            started: Timestamp::now(),
            once: IdempotencyKeys::default(),
            changing: Mutex::default(),
        });
        let router = streams.guarded(super::router(Arc::clone(&app)), None);
        Ok(Server { app, addresses, listeners, router })
    }

    /// Keeps what was made so far, opens the streams, and runs the views.
    pub async fn start(&self) -> Result<()> {
        let App { engine, settings, streams, .. } = self.app.as_ref();
        self.app.keep()?;
        streams.restore().await?;
        for stream in &settings.now().streams {
            if let Err(issues) = streams.put(stream, Write::Replace).await {
                let issue = issues.into_iter().next().map(|issue| (issue.pointer, issue.error));
                let (pointer, error) = issue.unwrap_or_else(|| (String::new(), Error::bug("a stream is wrong for no reason")));
                let problem = format!("a stream of the settings is wrong at '{pointer}': {}", error.message());
                return Err(Error::new(Code::Settings, problem).hint(error.way_out().unwrap_or("correct it").to_string()));
            }
        }
        engine.limit(self.app.policy());
        if let Some(dir) = &settings.now().data {
            engine.watch(CrashGuard::begin(&self.app.store, dir, &engine.watched())?);
        }
        engine.start()
    }

    /// Answers until the shutdown begins; returns when the last connection has ended, seconds later at the most.
    pub async fn serve(self, shutdown: Shutdown) {
        let app = Arc::clone(&self.app);
        // They end with this, also if it is broken off.
        let mut beside = JoinSet::new();
        beside.spawn(Arc::clone(&self.app.streams).end_with(shutdown.clone()));
        beside.spawn(keep_memory(Arc::clone(&self.app), shutdown.clone()));
        beside.spawn(keep_state(Arc::clone(&self.app), shutdown.clone()));
        beside.spawn(watch_tokens(Arc::clone(&self.app), shutdown.clone()));
        beside.spawn(keep_watch(Arc::clone(&self.app), shutdown.clone()));
        serve(self.listeners, self.router, shutdown, self.app.connections.clone()).await;
        while let Some(ended) = beside.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the server did not end as it should");
            }
        }
        if let Some(crash_guard) = app.engine.crash_guard() {
            crash_guard.end(&app.store);
        }
    }
}

/// The state of a run would be let go, and its file would not be written on.
fn refuse_printed(dir: &Path) -> Result<()> {
    if !Store::is_in(dir) && Archive::parts_in(dir).iter().any(|part| part == PRINT) {
        let message = format!("'{}' is the --state directory of a run, and no data directory", dir.display());
        return Err(
            Error::new(Code::Data, message).hint("give another --data DIR; streamgauge run --state goes on with this one")
        );
    }
    Ok(())
}

/// Keeps what tables and views hold within the settings until the shutdown begins.
async fn keep_memory(app: Arc<App>, shutdown: Shutdown) {
    tokio::select! {
        () = app.engine.keep_memory() => {}
        () = shutdown.begun() => {}
    }
}

/// Takes checkpoints until the shutdown begins, and then the last one.
async fn keep_state(app: Arc<App>, shutdown: Shutdown) {
    let Some(checkpoints) = &app.checkpoints else { return };
    let taken = checkpoints.run(app.settings.now().checkpoint_interval, shutdown.begun());
    let over = async {
        shutdown.begun().await;
        tokio::time::sleep(LAST_CHECKPOINT_TIMEOUT).await;
    };
    tokio::select! {
        // What went wrong has been told.
        _ = taken => {}
        () = over => tracing::warn!("the last checkpoint took too long: the next start goes on from the one before"),
    }
}

/// Watches over the views until all is well, or the server ends as it should.
async fn keep_watch(app: Arc<App>, shutdown: Shutdown) {
    let Some(crash_guard) = app.engine.crash_guard() else { return };
    tokio::select! {
        () = crash_guard.calm(&app.store) => {}
        () = shutdown.begun() => {}
    }
}

/// Opens the checkpoints in the data directory; the engine goes on from the last one when it starts.
fn resume(engine: &Arc<Engine>, dir: &Path) -> Result<Checkpoints> {
    let Opened { archive, loaded, damaged } = Archive::open(dir)?;
    for Damaged { file, reason } in &damaged {
        tracing::warn!(file = %file.display(), reason, "a checkpoint is damaged: the one before is used, if it is whole");
    }
    if loaded.is_none() && !damaged.is_empty() {
        tracing::warn!("no checkpoint is whole: all tables and views begin anew");
    }
    if let Some(loaded) = loaded {
        tracing::info!(epoch = loaded.epoch, at = %loaded.at, parts = loaded.parts.len(), bytes = loaded.bytes, "going on from a checkpoint");
        engine.resume(loaded.epoch, loaded.parts);
    }
    Ok(Checkpoints::new(Arc::clone(engine), archive))
}

/// What feeds may use and reach.
pub fn policy(settings: &Settings, files: bool, values: &SecretValues) -> Policy {
    let permitted = settings.permitted();
    Policy {
        variables: match permitted.iter().any(|name| name == "*") {
            true => AllowedVariables::All,
            false => AllowedVariables::Only(permitted),
        },
        bound: settings.secrets.bind.iter().map(|(name, hosts)| (name.clone(), hosts.0.clone())).collect(),
        values: values.clone(),
        reserved: is_own,
        reach: if settings.is_loopback_only() { Reach::NoMetadata } else { Reach::Public },
        allow_hosts: settings.feeds.allow_hosts.0.clone(),
        own: settings.feeds.own.clone(),
        files,
    }
}

/// Makes tables and views again. One whose statement is not taken any more is left out and stays kept; any other that cannot be made ends
/// the start: the settings may be what is wrong.
async fn restore(engine: &Engine, store: &Store) -> Result<()> {
    let mut passed = Vec::new();
    for (number, kept) in store.definitions()? {
        let made = Made { created: time(&kept.created_at), updated: time(&kept.updated_at) };
        let lateness = kept.lateness_nanos.into_iter().map(|(table, nanos)| (table, Duration::from_nanos(nanos))).collect();
        let definition = Definition { number, name: kept.name.clone(), text: kept.text, made, lateness };
        let Err(errors) = engine.restore(&definition).await else { continue };
        let reason = errors.first().map(Error::to_string).unwrap_or_default();
        let is_statement = |error: &Error| matches!(error.code().kind(), ErrorKind::Statement | ErrorKind::Missing);
        if errors.iter().all(is_statement) {
            engine.pass_over(definition.clone());
            passed.push((definition, reason));
            continue;
        }
        return Err(Error::new(
            Code::Data,
            format!("'{}', which the data directory keeps, cannot be made again: {reason}", kept.name),
        )
        .hint("correct the settings, or start with another data directory"));
    }
    // All of it is kept.
    engine.take_changed();
    // What one of them reads may have been made in the place of another since, and stands behind it.
    for (definition, reason) in passed {
        let name = definition.name.clone();
        if engine.restore(&Definition { number: 0, ..definition }).await.is_err() {
            tracing::warn!(name, %reason, "left out: its statement is not taken any more; it is kept until something of its name is made");
        }
    }
    Ok(())
}

/// A time as it was kept; now, if it cannot be read.
fn time(text: &str) -> Timestamp {
    let time = humantime::parse_rfc3339(text).ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    time.and_then(|since| i64::try_from(since.as_nanos()).ok()).map_or_else(Timestamp::now, Timestamp)
}
