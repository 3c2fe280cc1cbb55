//! A stream with a name: its definition, what is made of it once, and how it fares.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::counters::Counters;
use super::log::LogOutput;
use super::shape::Shape;
use super::spec::{Endpoint, StreamSpec, Visibility};
use super::template::Templates;

/// A stream with a name.
pub struct Named {
    pub spec: StreamSpec,
    pub created_at: String,
    pub updated_at: String,
    pub endpoints: Vec<Endpoint>,
    pub counters: Arc<Counters>,
    /// Where it listens by itself; `None` for the address of the REST interface.
    pub address: Option<SocketAddr>,
    /// Tells it from an earlier stream of its name.
    pub(super) number: u64,
    templates: Vec<Arc<Templates>>,
    state: Mutex<StreamState>,
    /// What writes its lines while it runs, where it is a log.
    log: Mutex<Option<LogOutput>>,
}

/// How a named stream fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamState {
    Running,
    Stopped,
    Failed(String),
}

impl Named {
    /// A stream that is stopped.
    pub(super) fn new(spec: StreamSpec, address: Option<SocketAddr>, created_at: String, updated_at: String) -> Named {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Named {
            created_at,
            updated_at,
            endpoints: spec.endpoints(),
            counters: Arc::default(),
            address,
            number: NUMBER.fetch_add(1, Relaxed),
            templates: spec.views.iter().map(|view| Arc::new(spec.templates(view))).collect(),
            state: Mutex::new(StreamState::Stopped),
            log: Mutex::default(),
            spec,
        }
    }

    pub fn state(&self) -> StreamState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn enter(&self, state: StreamState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The origins whose pages may read it.
    pub fn origins(&self) -> Vec<String> {
        match &self.spec.web {
            Some(web) if web.visibility == Visibility::Public => vec!["*".into()],
            Some(web) => web.cors_origins.clone(),
            None => Vec::new(),
        }
    }

    pub fn visibility(&self) -> Visibility {
        self.spec.web.as_ref().map_or(Visibility::Private, |web| web.visibility)
    }

    /// What is sent of the view at a place of [`StreamSpec::views`].
    pub fn templates(&self, view: usize) -> Arc<Templates> {
        Arc::clone(&self.templates[view])
    }

    /// What its events look like, unless a client asks otherwise.
    pub fn shape(&self) -> Shape {
        Shape { format: self.spec.format, ..Shape::default() }
    }

    pub(super) fn begin_log(&self, log: LogOutput) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
    }

    /// Writes no more lines; returns when the last is written.
    pub(super) async fn end_log(&self) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(log) = log {
            log.close().await;
        }
    }
}
