//! Serves recorded or made-up events as a proper SSE feed: ids, resume, pace, heartbeats, and cuts where a client is to be tried.

mod body;
mod moved;
mod source;

use std::future::Future;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::source::{EventFields, EventReader, EventSource, Layout, render};
use super::args::{self, Exit, InputPath, Rate};
use crate::error::{Code, Error, Result};
use body::Cursor;

/// What is served, and how. Every client has its own place in the events and its own pace.
#[derive(Clone)]
pub struct Replay {
    pub source: EventSource,
    pub pace: Pace,
    /// Start over at the end; else the response ends there, and a resume behind the last event is answered with 204.
    pub repeat: bool,
    /// Cut the connection after so many events. A client that resumes by id gets each event once.
    pub drop_every: Option<NonZeroU64>,
    /// Time between heartbeat comments.
    pub heartbeat: Option<Duration>,
    /// The reconnect delay told to clients.
    pub retry: Option<Duration>,
    pub flush: Flush,
}

/// When an event is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as the client reads.
    Max,
    /// So many a second, counted from the moment the client connects.
    PerSecond(f64),
    /// So many a second since the server started: after a gap a client gets at once what it missed, as from a live feed.
    Live(f64),
}

/// How events are put into chunks of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Each event in a chunk of its own, sent before the next one is looked at.
    Each,
    /// All that are due in one chunk, up to 64 KiB.
    Coalesced,
}

impl Replay {
    /// As fast as the client reads, once, without cuts or heartbeats.
    pub fn new(source: EventSource) -> Self {
        Replay { source, pace: Pace::Max, repeat: false, drop_every: None, heartbeat: None, retry: None, flush: Flush::Coalesced }
    }
}

/// How long a client that has stopped reading may hold up the end of the server.
const GRACE: Duration = Duration::from_secs(1);

/// Serves `replay` at every path of `listener` until `shutdown` is ready. All responses end then, but for those of clients that have stopped
/// reading: those are waited for one second.
pub async fn serve(listener: TcpListener, replay: Replay, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let served = Arc::new(Served { replay, started: Instant::now(), stopped: stopped.clone() });
    let router = Router::new().fallback(answer).with_state(served);
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the socket keeps small packets back");
        }
    });
    let signal = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    let mut stopped = stopped;
    let stalled = async move {
        // The sender goes with `signal`, after it has sent: an error means stopped as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = axum::serve(listener, router).with_graceful_shutdown(signal).into_future() => result,
        () = stalled => Ok(()),
    }
}

struct Served {
    replay: Replay,
    started: Instant,
    stopped: watch::Receiver<bool>,
}

async fn answer(State(served): State<Arc<Served>>, headers: HeaderMap, uri: Uri) -> Response {
    let last = last_event_id(&headers, &uri);
    tracing::info!(path = uri.path(), last_event_id = last.as_deref(), "a client connects");
    match Cursor::open(&served.replay, served.started, served.stopped.clone(), last.as_deref()).await {
        Ok(Some(cursor)) => {
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream"),
                (header::CACHE_CONTROL, "no-cache"),
                (header::HeaderName::from_static("x-accel-buffering"), "no"),
            ];
            (headers, Body::from_stream(cursor.chunks())).into_response()
        }
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            tracing::error!(%error, "the events cannot be read");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the events cannot be read: {error}\n")).into_response()
        }
    }
}

/// The id to go on after: by the header of the standard, or by the query for clients that can set no header.
fn last_event_id(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    if let Some(id) = headers.get("last-event-id") {
        return Some(String::from_utf8_lossy(id.as_bytes()).into_owned()).filter(|id| !id.is_empty());
    }
    let query = url::form_urlencoded::parse(uri.query()?.as_bytes());
    query.into_iter().find(|(name, _)| name == "last_event_id").map(|(_, id)| id.into_owned()).filter(|id| !id.is_empty())
}

/// `streamgauge replay`: serves until `shutdown`.
pub async fn run(args: args::ReplayArgs, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<Exit> {
    let replay = Replay {
        source: source_of(&args)?,
        pace: match args.rate {
            Rate::Max => Pace::Max,
            Rate::PerSecond(rate) => Pace::PerSecond(rate),
        },
        repeat: args.repeat,
        drop_every: args.drop_every,
        heartbeat: Some(args.heartbeat).filter(|gap| !gap.is_zero()),
        retry: Some(args.retry),
        flush: Flush::Coalesced,
    };
    let failed = |error: io::Error| {
        Error::new(Code::Connect, format!("port {} on 127.0.0.1 cannot be served: {error}", args.port))
            .hint("give another --port, or 0 for any free one")
    };
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let name = match &args.file {
        InputPath::Stdin => "standard input".into(),
        InputPath::File(path) => path.display().to_string(),
    };
    eprintln!("serving http://127.0.0.1:{port}/ from {name}; Ctrl-C ends it");
    serve(listener, replay, shutdown).await.map_err(failed)?;
    Ok(Exit::Interrupted)
}

/// The source, whose times are moved as `--now` says; with `--loop` also without: what comes again would be late for all who read it by its
/// times.
fn source_of(args: &args::ReplayArgs) -> Result<EventSource> {
    let now = args.now.clone().filter(|field| !field.is_empty());
    if args.now.is_some() || !args.repeat {
        return plain_source(args, now);
    }
    let plain = plain_source(args, None)?;
    // Standard input can be read once.
    let found = match &args.file {
        InputPath::Stdin => None,
        InputPath::File(_) => moved::event_time(&plain).ok().flatten(),
    };
    match found {
        Some(field) => {
            eprintln!(
                "note: with --loop the time in '{field}' becomes the moment of sending; --now names another field, --now '' none"
            );
            plain_source(args, Some(field))
        }
        None => Ok(plain),
    }
}

fn plain_source(args: &args::ReplayArgs, now: Option<String>) -> Result<EventSource> {
    let fields = EventFields { id: args.id.clone(), event: args.event.clone(), now: now.clone() };
    let unreadable = |name: &str, error: io::Error| {
        Error::new(Code::File, format!("{name} cannot be read: {error}")).hint("name an NDJSON file or a recorded .sse stream")
    };
    match &args.file {
        InputPath::Stdin => {
            let mut text = Vec::new();
            io::stdin().lock().read_to_end(&mut text).map_err(|error| unreadable("standard input", error))?;
            Ok(EventSource::bytes(Bytes::from(text), Layout::Ndjson(fields)))
        }
        InputPath::File(path) => {
            let recorded = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sse"));
            if recorded && (fields.id.is_some() || fields.event.is_some()) {
                return Err(Error::new(
                    Code::BadOption,
                    "--id and --event take fields of NDJSON lines; this is a recorded stream",
                )
                .hint("leave them out: a recorded stream keeps its own ids and types"));
            }
            let layout = if recorded { Layout::Recorded { now } } else { Layout::Ndjson(fields) };
            let name = format!("'{}'", path.display());
            if path.is_dir() {
                return Err(unreadable(&name, io::ErrorKind::IsADirectory.into()));
            }
            let source = EventSource::file(path.clone(), layout);
            source.open().map_err(|error| unreadable(&name, error))?;
            Ok(source)
        }
    }
}
