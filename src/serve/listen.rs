//! Sockets in, answers out: one loop a listener, one task a connection, and an end that is clean or, after four seconds, hard.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::activity::{TimedBody, TrackedBody};
use super::connections::{ConnectionLimits, ConnectionSlot, Connections};
use super::problem::Problem;
use super::wire::{self, Wire};
use crate::error::{Code, Error, Result};

/// What a connection gets to finish in once the server stops: with the signal and the last writes, all is over within five seconds.
const GRACE: Duration = Duration::from_secs(4);

/// A connection of HTTP/2 is asked so often whether its client is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a connection is looked at: a quarter of the shortest time that it has, within these.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(20);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);

/// How long to wait when the system gives no more connections (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends what its [`Shutdown`]s wait for, when it is told to or dropped.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>);

/// Waits for the end. Streams select on it, since nothing else ends them; handlers find theirs as an extension.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Vec<watch::Receiver<bool>>);

impl Stop {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// A shutdown and what begins it.
    pub fn new() -> (Stop, Shutdown) {
        Shutdown::default().child()
    }

    /// One that begins with this one or by itself: for a listener that comes and goes while the server runs.
    pub fn child(&self) -> (Stop, Shutdown) {
        let (sender, receiver) = watch::channel(false);
        let all = self.0.iter().cloned().chain([receiver]).collect();
        (Stop(sender), Shutdown(all))
    }

    pub fn is_begun(&self) -> bool {
        self.0.iter().any(|stop| *stop.borrow() || stop.has_changed().is_err())
    }

    /// Until the shutdown begins.
    pub async fn begun(&self) {
        let mut waits: Vec<_> = self
            .0
            .iter()
            .map(|stop| {
                let mut stop = stop.clone();
                // An error means that the sender is gone: an end as well.
                Box::pin(async move { drop(stop.wait_for(|stopped| *stopped).await) })
            })
            .collect();
        if waits.is_empty() {
            pending::<()>().await;
        }
        futures::future::select_all(waits.drain(..)).await;
    }

    /// What comes of `work`, or 503 if the shutdown begins first: for handlers that wait.
    pub async fn or<T>(&self, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.begun() => Err(Problem::unavailable("the server stops", 1)),
        }
    }
}

/// A socket that listens. `setting` is what the user would change: `--bind`.
pub async fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let (reason, hint) = match error.kind() {
            io::ErrorKind::AddrInUse => {
                ("another process listens there".to_string(), format!("stop it, or give another port with {setting}"))
            }
            io::ErrorKind::PermissionDenied => (
                "this user may not".to_string(),
                format!("give a port from 1024 with {setting}, or let the program have low ones"),
            ),
            io::ErrorKind::AddrNotAvailable => {
                ("this machine has no such address".to_string(), format!("give one of its own with {setting}, or 0.0.0.0"))
            }
            _ => (error.to_string(), format!("give another address with {setting}")),
        };
        Error::new(Code::Address, format!("{address} cannot be listened on: {reason}")).hint(hint)
    })
}

/// Serves the router on every listener until the shutdown begins, and returns when the last connection has ended, some
/// seconds later at the most. Handlers get [`ConnectInfo`] and [`Shutdown`] as extensions. `connections` has a slot for each of them.
pub async fn serve(listeners: Vec<TcpListener>, router: Router, shutdown: Shutdown, connections: Connections) {
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept(listener, router.clone(), shutdown.clone(), connections.clone()));
    }
    while loops.join_next().await.is_some() {}
}

async fn accept(listener: TcpListener, router: Router, shutdown: Shutdown, connections: Connections) {
    let router = router.layer(Extension(shutdown.clone()));
    let mut tasks = JoinSet::new();
    let mut end = Box::pin(shutdown.begun());
    loop {
        tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match connections.admit(peer.ip()) {
                    Some(place) => drop(tasks.spawn(connection(stream, peer, router.clone(), shutdown.clone(), place))),
                    None => wire::turn_away(&stream),
                },
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    connections.make_room(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = tasks.join_next() => {}
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = tasks.len(), "connections that did not end are cut off");
        tasks.shutdown().await;
    }
}

/// One connection, from its first request to its last, or until its client was silent for too long.
async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, shutdown: Shutdown, place: ConnectionSlot) {
    let limits = place.limits();
    // An event is to leave at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "small packets may wait");
    }
    if let Err(error) = end_unread(&stream, limits.unread) {
        tracing::debug!(%peer, %error, "the connection stays if the client reads nothing");
    }
    let activity = Arc::clone(&place.activity);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let flight = activity.begin();
        let mut request = request.map(|body| Body::new(TimedBody::new(body, Arc::clone(&activity), limits.body)));
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().oneshot(request);
        async move { answer.await.map(|response| response.map(|body| TrackedBody::new(body, flight))) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The activity bounds the time for the head, also of connections on which nothing has come yet.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIMEOUT);
    let wire = TokioIo::new(Wire::new(stream));
    let connection = builder.serve_connection_with_upgrades(wire, TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        reason = silence(&place, &limits) => {
            tracing::debug!(%peer, reason, "a connection is closed");
            return;
        }
        () = shutdown.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "a connection broke");
    }
}

/// Until the client of a connection was silent for too long, or its place is needed; gives the reason.
async fn silence(place: &ConnectionSlot, limits: &ConnectionLimits) -> &'static str {
    let shortest = limits.head.min(limits.idle).min(limits.unread);
    let every = (shortest / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
    loop {
        tokio::select! {
            () = place.activity.until_end() => return "another needs its place",
            () = tokio::time::sleep(every) => {}
        }
        if let Some(reason) = place.activity.verdict(Instant::now(), limits) {
            return reason;
        }
    }
}

/// Lets the system end a connection whose peer has taken nothing for `after` (`TCP_USER_TIMEOUT`, RFC 5482): a write that waits
/// cannot be given up otherwise.
#[cfg(target_os = "linux")]
fn end_unread(stream: &TcpStream, after: Duration) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(after))
}

#[cfg(not(target_os = "linux"))]
fn end_unread(_: &TcpStream, _: Duration) -> io::Result<()> {
    Ok(())
}

/// Whether it was only this one connection that failed.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_client_that_takes_nothing_is_ended() {
        use tokio::io::AsyncWriteExt;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        end_unread(&stream, Duration::from_millis(300)).unwrap();
        let error = loop {
            if let Err(error) = stream.write_all(&[0; 65536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(silent);
    }

    const LOOPBACK: &str = "127.0.0.1:0";

    /// A stream that says hello and ends with the server.
    async fn polite(Extension(shutdown): Extension<Shutdown>) -> Body {
        let hello = futures::stream::iter([Ok::<_, Infallible>(Bytes::from("hello"))]);
        let end = futures::stream::once(async move {
            shutdown.begun().await;
            Ok(Bytes::from("bye"))
        });
        Body::from_stream(hello.chain(end))
    }

    /// A stream that says hello and never ends.
    async fn stubborn() -> Body {
        Body::from_stream(futures::stream::iter([Ok::<_, Infallible>(Bytes::from("hello"))]).chain(futures::stream::pending()))
    }

    fn router() -> Router {
        let peer = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string();
        Router::new().route("/polite", get(polite)).route("/stubborn", get(stubborn)).route("/peer", get(peer))
    }

    fn connections() -> Connections {
        Connections::new(&crate::serve::settings::Http::default(), None)
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = bind(LOOPBACK.parse().unwrap(), "--bind").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A connection that asked for a path and has read up to `until`.
    async fn open(address: SocketAddr, path: &str, until: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(until) {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "{}", String::from_utf8_lossy(&read));
        }
        stream
    }

    #[tokio::test]
    async fn a_thousand_streams_end_with_the_server_after_their_last_words() {
        let (listener, address) = listener().await;
        let (stop, shutdown) = Shutdown::new();
        let server = tokio::spawn(serve(vec![listener], router(), shutdown, connections()));
        let mut clients = Vec::new();
        for _ in 0..1_000 {
            clients.push(open(address, "/polite", "hello").await);
        }
        let mut idle = open(address, "/peer", "127.0.0.1:").await;
        stop.stop();
        for mut client in clients {
            let mut rest = String::new();
            client.read_to_string(&mut rest).await.unwrap();
            assert!(rest.ends_with("bye\r\n0\r\n\r\n"), "{rest}");
        }
        idle.read_to_end(&mut Vec::new()).await.unwrap();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_stream_that_does_not_end_is_cut_off() {
        let (listener, address) = listener().await;
        let (stop, shutdown) = Shutdown::new();
        let server = tokio::spawn(serve(vec![listener], router(), shutdown, connections()));
        let mut client = open(address, "/stubborn", "hello").await;
        tokio::time::pause();
        stop.stop();
        server.await.unwrap();
        let mut rest = Vec::new();
        // An end or a reset: either way no hanging.
        let _ = client.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"));
    }

    #[tokio::test]
    async fn one_listener_can_go_while_another_stays() {
        let ((main, main_address), (own, own_address)) = (listener().await, listener().await);
        let (stop, shutdown) = Shutdown::new();
        let (stop_own, shutdown_own) = shutdown.child();
        let main = tokio::spawn(serve(vec![main], router(), shutdown.clone(), connections()));
        let own = tokio::spawn(serve(vec![own], router(), shutdown_own.clone(), connections()));
        let _client = open(own_address, "/polite", "hello").await;
        stop_own.stop();
        own.await.unwrap();
        assert!(shutdown_own.is_begun() && !shutdown.is_begun());
        open(main_address, "/peer", "127.0.0.1:").await;
        drop(stop);
        main.await.unwrap();
        assert!(shutdown.is_begun());
    }

    #[tokio::test]
    async fn a_child_ends_with_its_parent() {
        let (stop, shutdown) = Shutdown::new();
        let (_own, child) = shutdown.child();
        assert!(!child.is_begun());
        stop.stop();
        child.begun().await;
        assert!(child.is_begun());
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_a_way_out() {
        let (_taken, address) = listener().await;
        let error = bind(address, "--bind").await.unwrap_err();
        assert_eq!(error.code(), Code::Address);
        let expect =
            format!("{address} cannot be listened on: another process listens there; stop it, or give another port with --bind");
        assert_eq!(error.to_string(), expect);
    }
}
