//! All event streams of a server: channels that clients share, streams that have a name and an address, and how all of it ends.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ask::Ask;
use super::channel::{Channel, End};
use super::client::{Client, Greeting};
use super::counters::{Counters, OpenClient};
use super::encode::Encoder;
use super::fields::Issue;
use super::filter::Filters;
use super::http::Visitor;
use super::listen::Listener;
use super::log::LogOutput;
use super::named_stream::{Named, StreamState};
use super::names;
use super::shape::{Ops, Shape};
use super::spec::{Endpoint, Heartbeat, StreamKind, StreamSpec};
use super::template::Templates;
use crate::checkpoint::{Space, Store};
use crate::engine::Engine;
use crate::error::{Code, Error, Result, nearest};
use crate::serve::connections::Connections;
use crate::serve::limits::{Permit, StreamLimiter};
use crate::serve::listen::Shutdown;
use crate::serve::problem::Problem;
use crate::serve::views::find;
use crate::time::Timestamp;
use crate::view::Live;

/// What streams may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many clients there may be, of all and of one.
    pub limiter: StreamLimiter,
    /// All connections, also those to addresses of streams.
    pub connections: Connections,
    /// Between two heartbeats, where a stream does not say.
    pub heartbeat: Duration,
    /// The addresses of the REST interface: a stream that names the port of one is served there.
    pub own: Vec<SocketAddr>,
    /// Whether streams may listen where other machines reach them.
    pub off_loopback: bool,
}

/// The streams of a server.
pub struct Streams {
    pub(super) engine: Arc<Engine>,
    pub(super) filters: Filters,
    store: Store,
    limits: Limits,
    clients: Arc<AtomicU64>,
    channels: Mutex<HashMap<ChannelKey, Weak<Channel>>>,
    /// Counts of the streams that have no name, by what they are called in metrics.
    views: Mutex<BTreeMap<String, Arc<Counters>>>,
    named: Mutex<BTreeMap<String, Arc<Named>>>,
    listeners: Mutex<HashMap<SocketAddr, Listener>>,
    /// Definitions change one after the other.
    changing: tokio::sync::Mutex<()>,
    closing: AtomicBool,
    guard: OnceLock<Guard>,
}

/// Puts what guards the server around the routes at an address of streams (`None`: of the REST interface).
pub type Guard = Arc<dyn Fn(Router, Option<SocketAddr>) -> Router + Send + Sync>;

/// A named stream as it is kept.
#[derive(Serialize, Deserialize)]
struct StoredStream {
    spec: Value,
    created_at: String,
    updated_at: String,
}

/// What clients have in common that share a channel: the stream, and each view with its epoch and the shape of its events.
#[derive(PartialEq, Eq, Hash)]
struct ChannelKey {
    stream: Option<u64>,
    parts: Vec<(String, u64, Shape)>,
}

/// Whether a stream that is there already may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Create,
    Replace,
}

/// How soon a client that found a stream full or stopped may come back.
const FULL_SECONDS: u64 = 30;

/// First parts of paths that belong to the REST interface.
const RESERVED: [&str; 7] = ["v1", "api", "healthz", "readyz", "metrics", "openapi.json", "docs"];

impl Streams {
    pub fn new(engine: Arc<Engine>, store: Store, limits: Limits) -> Arc<Streams> {
        Arc::new(Streams {
            engine,
            filters: Filters::default(),
            store,
            limits,
            clients: Arc::default(),
            channels: Mutex::default(),
            views: Mutex::default(),
            named: Mutex::default(),
            listeners: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            closing: AtomicBool::new(false),
            guard: OnceLock::new(),
        })
    }

    /// What guards the addresses of streams; to be called once, before any stream is opened.
    pub fn guard_with(&self, guard: Guard) {
        let _ = self.guard.set(guard);
    }

    /// The routes at an address, behind what guards them.
    pub fn guarded(&self, router: Router, address: Option<SocketAddr>) -> Router {
        match self.guard.get() {
            Some(guard) => guard(router, address),
            None => router,
        }
    }

    pub fn limiter(&self) -> &StreamLimiter {
        &self.limits.limiter
    }

    pub fn connections(&self) -> &Connections {
        &self.limits.connections
    }

    /// Opens the streams that were kept. One that cannot be opened says why, and the others go on.
    pub async fn restore(self: &Arc<Self>) -> Result<()> {
        let _changing = self.changing.lock().await;
        for kept in self.store.values::<StoredStream>(Space::Streams)? {
            let views: Vec<String> =
                kept.spec["views"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
            let views: Vec<&str> = views.iter().map(String::as_str).collect();
            match StreamSpec::read(&kept.spec, &views) {
                Ok(spec) => {
                    let named = self.make(spec, kept.created_at, kept.updated_at);
                    self.named().insert(named.spec.id.clone(), Arc::clone(&named));
                    if named.spec.auto_start {
                        self.run(&named).await;
                    }
                }
                Err(issues) => {
                    let reason = issues.first().map(|issue| issue.error.to_string());
                    tracing::error!(stream = %kept.spec["id"], reason, "a stream that was kept cannot be read");
                }
            }
        }
        Ok(())
    }

    /// Makes or replaces a named stream, and keeps it. The address must be free, its paths as well.
    pub async fn put(self: &Arc<Self>, value: &Value, write: Write) -> Result<Arc<Named>, Vec<Issue>> {
        let _changing = self.changing.lock().await;
        let spec = self.check(value, write)?;
        let old = self.find(&spec.id);
        let now = Timestamp::now().to_string();
        let created = old.as_ref().map_or_else(|| now.clone(), |old| old.created_at.clone());
        let named = self.make(spec, created, now);
        let issue = |pointer: &str, error: Error| vec![Issue { pointer: pointer.into(), error }];
        let fared = old.as_ref().map(|old| old.state());
        if let Some(old) = &old {
            self.halt(old, StreamState::Stopped).await;
        }
        if named.spec.auto_start
            && let Err(error) = self.listen(&named).await
        {
            self.put_back(old.as_ref().zip(fared)).await;
            return Err(issue("/port", error));
        }
        let kept = StoredStream {
            spec: serde_json::to_value(&named.spec).map_err(|error| issue("", Error::bug(error.to_string())))?,
            created_at: named.created_at.clone(),
            updated_at: named.updated_at.clone(),
        };
        if let Err(error) = self.store.put(Space::Streams, &named.spec.id, &kept) {
            self.halt(&named, StreamState::Stopped).await;
            self.put_back(old.as_ref().zip(fared)).await;
            return Err(issue("", error));
        }
        self.named().insert(named.spec.id.clone(), Arc::clone(&named));
        Ok(named)
    }

    /// What [`Streams::put`] would refuse before it does anything.
    pub fn check(&self, value: &Value, write: Write) -> Result<StreamSpec, Vec<Issue>> {
        let views = self.engine.views();
        let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
        let spec = StreamSpec::read(value, &names)?;
        let issue = |pointer: &str, error: Error| Err(vec![Issue { pointer: pointer.into(), error }]);
        if write == Write::Create && self.find(&spec.id).is_some() {
            let error = Error::new(Code::Exists, format!("there is a stream '{}' already", spec.id));
            return issue("/id", error.hint("replace it with PUT, or choose another id"));
        }
        let misfits = names::misfits(&spec, |view| Some(Arc::clone(&self.live(view).ok()?.schema)));
        if !misfits.is_empty() {
            return Err(misfits);
        }
        let address = self.address(&spec);
        if let Some(address) = address.filter(|address| !address.ip().is_loopback() && !self.limits.off_loopback) {
            let error =
                Error::new(Code::BadOption, format!("{} can be reached by other machines, and nothing guards it", address.ip()));
            return issue(
                "/host",
                error.hint("give the server a token, or start it with --insecure-no-auth, or write host 127.0.0.1"),
            );
        }
        for endpoint in spec.endpoints() {
            let first = endpoint.path.split('/').nth(1).unwrap_or_default();
            if address.is_none() && RESERVED.contains(&first) {
                let error = Error::new(Code::Exists, format!("the path '{}' belongs to the server", endpoint.path));
                return issue("/sse_path", error.hint("choose another path, or give the stream a port of its own"));
            }
            if let Some((other, _)) = self.at(address, &endpoint.path).filter(|(other, _)| other.spec.id != spec.id) {
                let error = Error::new(Code::Exists, format!("the stream '{}' has the path '{}'", other.spec.id, endpoint.path));
                return issue("/sse_path", error.hint("choose another path, or another port"));
            }
        }
        Ok(spec)
    }

    /// Forgets a named stream and ends its clients; whether it was there.
    pub async fn remove(&self, id: &str) -> Result<bool> {
        let _changing = self.changing.lock().await;
        let Some(named) = self.find(id) else { return Ok(false) };
        self.store.remove(Space::Streams, id)?;
        self.halt(&named, StreamState::Stopped).await;
        self.named().remove(id);
        Ok(true)
    }

    /// Lets a named stream run again.
    pub async fn start(self: &Arc<Self>, named: &Arc<Named>) -> Result<()> {
        let _changing = self.changing.lock().await;
        match named.state() {
            StreamState::Running => Ok(()),
            StreamState::Stopped | StreamState::Failed(_) => self.listen(named).await,
        }
    }

    /// Ends the clients of a named stream; new ones are refused until it is started again.
    pub async fn stop(&self, named: &Arc<Named>) {
        let _changing = self.changing.lock().await;
        self.halt(named, StreamState::Stopped).await;
    }

    /// All named streams, by id.
    pub fn list(&self) -> Vec<Arc<Named>> {
        self.named().values().cloned().collect()
    }

    pub fn find(&self, id: &str) -> Option<Arc<Named>> {
        self.named().get(id).cloned()
    }

    /// The named streams that send changes of a view.
    pub fn users(&self, view: &str) -> Vec<String> {
        let uses = |named: &&Arc<Named>| named.spec.views.iter().any(|used| used == view);
        self.named().values().filter(uses).map(|named| named.spec.id.clone()).collect()
    }

    /// The named stream at a path of an address (`None`: of the REST interface), and what it carries there.
    pub fn at(&self, address: Option<SocketAddr>, path: &str) -> Option<(Arc<Named>, Endpoint)> {
        self.named().values().filter(|named| named.address == address).find_map(|named| {
            let endpoint = named.endpoints.iter().find(|endpoint| endpoint.path == path)?;
            Some((Arc::clone(named), endpoint.clone()))
        })
    }

    /// The origins whose pages may read the stream at a path of an address; `*` for all.
    pub fn origins(&self, address: Option<SocketAddr>, path: &str) -> Vec<String> {
        self.at(address, path).map(|(named, _)| named.origins()).unwrap_or_default()
    }

    /// Counts by stream: `stream:<id>`, `view:<name>`, `views` for several at once.
    pub fn counters(&self) -> Vec<(String, Arc<Counters>)> {
        let views = lock(&self.views);
        let named = self.named();
        let named = named.values().map(|named| (format!("stream:{}", named.spec.id), Arc::clone(&named.counters)));
        views.iter().map(|(name, counters)| (name.clone(), Arc::clone(counters))).chain(named).collect()
    }

    /// Clients of all streams now.
    pub fn clients(&self) -> u64 {
        self.clients.load(Relaxed)
    }

    /// Connects a client to views; gives it with the id of its place.
    pub fn connect(&self, views: &[String], ask: &Ask, visitor: &Visitor) -> Result<(Client, String), Problem> {
        let views: Vec<StreamView> = views.iter().map(|name| StreamView { name, ops: Ops::ALL, templates: None }).collect();
        let label = match views.as_slice() {
            [view] => format!("view:{}", view.name),
            _ => "views".to_string(),
        };
        let parts = self.parts(&views, &ask.shape)?;
        let counters = Arc::clone(lock(&self.views).entry(label).or_default());
        let heartbeat = ask.heartbeat.or(Some(self.limits.heartbeat));
        self.open(parts, Outlet { named: None, counters, clients_max: u64::MAX, heartbeat }, ask, visitor)
    }

    /// Connects a client to a named stream.
    pub fn connect_named(
        &self,
        named: &Named,
        endpoint: &Endpoint,
        ask: &Ask,
        visitor: &Visitor,
    ) -> Result<(Client, String), Problem> {
        let view = |(index, ops): &(usize, Ops)| {
            let templates = Some(named.templates(*index));
            StreamView { name: &named.spec.views[*index], ops: *ops, templates }
        };
        let views: Vec<StreamView> = endpoint.views.iter().map(view).collect();
        let parts = self.parts(&views, &ask.shape)?;
        let web = named.spec.web.as_ref().ok_or_else(|| Error::bug("a client comes to a log"))?;
        let heartbeat = match (ask.heartbeat, web.heartbeat_interval_ms) {
            (Some(asked), _) | (None, Heartbeat::Every(asked)) => Some(asked),
            (None, Heartbeat::Off) => None,
        };
        let (counters, clients_max) = (Arc::clone(&named.counters), web.max_clients);
        self.open(parts, Outlet { named: Some(named), counters, clients_max, heartbeat }, ask, visitor)
    }

    /// Ends all streams when the shutdown begins; nothing else ends them.
    pub async fn end_with(self: Arc<Self>, shutdown: Shutdown) {
        shutdown.begun().await;
        self.close().await;
    }

    /// Ends all streams: clients are told when to come back, listeners close.
    pub async fn close(&self) {
        self.closing.store(true, Relaxed);
        for channel in self.channels() {
            channel.close(End::Shutdown);
        }
        let listeners: Vec<Listener> = lock(&self.listeners).drain().map(|(_, listener)| listener).collect();
        for listener in listeners {
            listener.close().await;
        }
        for named in self.list() {
            named.end_log().await;
        }
    }

    /// The name of the view that a name or an id means.
    pub fn view(&self, id: &str) -> Result<String, Problem> {
        Ok(find(&self.engine, id)?.name.clone())
    }

    /// The view's rows and changes.
    pub fn live(&self, view: &str) -> Result<Arc<Live>> {
        match self.engine.view(view).and_then(|view| view.live().cloned()) {
            Some(live) => Ok(live),
            None => {
                let views = self.engine.views();
                let error = Error::new(Code::UnknownTable, format!("there is no view '{view}'"));
                Err(match nearest(view, views.iter().map(|view| view.name.as_str())) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error,
                })
            }
        }
    }

    /// A view, and what writes its changes in a shape.
    pub fn encoder(&self, view: &str, shape: Shape, templates: Option<Arc<Templates>>) -> Result<(Arc<Live>, Encoder)> {
        let live = self.live(view)?;
        let filter = shape.filter.as_ref().map(|text| self.filter(live.epoch(), &live.schema, text)).transpose()?;
        let encoder = Encoder::new(&live.name, &live.schema, shape, templates)?.keyed(&live.schema, live.key.as_deref())?;
        Ok((live, encoder.filtered(filter)))
    }

    fn parts(&self, views: &[StreamView], shape: &Shape) -> Result<Vec<(Arc<Live>, Encoder)>, Problem> {
        let mut parts = Vec::with_capacity(views.len());
        let mut errors = Vec::new();
        for view in views {
            let shape = Shape { ops: shape.ops.and(view.ops), ..shape.clone() };
            let part = self.encoder(view.name, shape, view.templates.clone());
            match part {
                Ok(part) => parts.push(part),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(parts) } else { Err(errors.into()) }
    }

    /// A place for an answer without an end; it counts with the streams.
    pub fn place(&self, visitor: &Visitor) -> Result<Permit, Problem> {
        self.limits.limiter.enter(visitor.address, visitor.token.as_deref(), Instant::now())
    }

    fn open(
        &self,
        parts: Vec<(Arc<Live>, Encoder)>,
        outlet: Outlet,
        ask: &Ask,
        visitor: &Visitor,
    ) -> Result<(Client, String), Problem> {
        let Outlet { named, counters, clients_max, heartbeat } = outlet;
        let permit = self.place(visitor).inspect_err(|_| Counters::add(&counters.refused, 1))?;
        let Some(open) = OpenClient::enter(&counters, clients_max, &self.clients, permit) else {
            let detail = format!("the stream has {clients_max} clients, and takes no more");
            return Err(Problem::unavailable(detail, FULL_SECONDS));
        };
        let channel = self.channel(parts, named.map(|named| named.number), counters);
        // Whoever closes looks at the channels after saying so: either it has found this one, or it is seen here.
        if self.closing.load(Relaxed) {
            return Err(Problem::unavailable("the server stops", FULL_SECONDS));
        }
        if named.is_some_and(|named| named.state() != StreamState::Running) {
            return Err(Problem::unavailable("the stream is stopped", FULL_SECONDS));
        }
        let greeting = Greeting { stream: named.map(|named| named.spec.id.as_str()), ask, heartbeat };
        Ok(Client::connect(channel, &greeting, open)?)
    }

    /// The channel of these views in this shape, shared with whoever else wants the same.
    fn channel(&self, parts: Vec<(Arc<Live>, Encoder)>, stream: Option<u64>, counters: Arc<Counters>) -> Arc<Channel> {
        let part = |(live, encoder): &(Arc<Live>, Encoder)| (live.name.clone(), live.epoch(), encoder.shape().clone());
        let key = ChannelKey { stream, parts: parts.iter().map(part).collect() };
        let mut channels = lock(&self.channels);
        if let Some(channel) = channels.get(&key).and_then(Weak::upgrade).filter(|channel| channel.end().is_none()) {
            return channel;
        }
        channels.retain(|_, channel| channel.strong_count() > 0);
        let channel = Channel::open(parts, counters, Arc::clone(&self.clients));
        channels.insert(key, Arc::downgrade(&channel));
        channel
    }

    fn channels(&self) -> Vec<Arc<Channel>> {
        lock(&self.channels).values().filter_map(Weak::upgrade).collect()
    }

    fn make(&self, spec: StreamSpec, created_at: String, updated_at: String) -> Arc<Named> {
        let address = self.address(&spec);
        Arc::new(Named::new(spec, address, created_at, updated_at))
    }

    /// Where a stream listens by itself.
    fn address(&self, spec: &StreamSpec) -> Option<SocketAddr> {
        let web = spec.web.as_ref()?;
        let port = web.port.filter(|port| !self.limits.own.iter().any(|own| own.port() == *port))?;
        Some(SocketAddr::new(web.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port))
    }

    /// Starts a stream that is known to be right; if its address is not free it says so.
    async fn run(self: &Arc<Self>, named: &Arc<Named>) {
        if let Err(error) = self.listen(named).await {
            tracing::error!(stream = named.spec.id, reason = %error, "stream cannot be opened");
            named.enter(StreamState::Failed(error.to_string()));
        }
    }

    /// Makes a stream that gave way to another for nothing what it was before.
    async fn put_back(self: &Arc<Self>, old: Option<(&Arc<Named>, StreamState)>) {
        match old {
            Some((old, StreamState::Running)) => self.run(old).await,
            Some((old, fared)) => old.enter(fared),
            None => {}
        }
    }

    /// Listens where the stream wants to be, unless somebody does already; a log follows its views.
    async fn listen(self: &Arc<Self>, named: &Arc<Named>) -> Result<()> {
        if let Some(address) = named.address
            && !lock(&self.listeners).contains_key(&address)
        {
            let listener = Listener::open(self, address).await?;
            lock(&self.listeners).insert(address, listener);
        }
        if named.spec.kind == StreamKind::Log {
            named.begin_log(LogOutput::open(self, named)?);
        }
        named.enter(StreamState::Running);
        let path = named.spec.web.as_ref().map(|web| web.sse_path.as_str());
        tracing::info!(stream = named.spec.id, address = named.address.map(tracing::field::display), path, "stream runs");
        Ok(())
    }

    /// Ends a stream's clients, or its lines, and its listener if nobody else needs it.
    async fn halt(&self, named: &Named, state: StreamState) {
        named.enter(state);
        let own: Vec<Arc<Channel>> = {
            let channels = lock(&self.channels);
            let own = channels.iter().filter(|(key, _)| key.stream == Some(named.number));
            own.filter_map(|(_, channel)| channel.upgrade()).collect()
        };
        own.iter().for_each(|channel| channel.close(End::Stopped));
        named.end_log().await;
        let Some(address) = named.address else { return };
        let is_needed = self.list().iter().any(|other| other.address == Some(address) && other.state() == StreamState::Running);
        let listener = if is_needed { None } else { lock(&self.listeners).remove(&address) };
        if let Some(listener) = listener {
            listener.close().await;
        }
    }

    fn named(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Named>>> {
        lock(&self.named)
    }
}

/// Where a client comes out.
struct Outlet<'a> {
    named: Option<&'a Named>,
    counters: Arc<Counters>,
    clients_max: u64,
    heartbeat: Option<Duration>,
}

/// A view of a stream, and what of it is sent.
struct StreamView<'a> {
    name: &'a str,
    ops: Ops,
    templates: Option<Arc<Templates>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
