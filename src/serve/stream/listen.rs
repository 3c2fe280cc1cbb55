//! An address of a stream's own, shared by all streams that name it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http;
use super::streams::Streams;
use crate::error::{Code, Error, Result};
use crate::serve::problem::Problem;

/// How long connections have to end when their address closes: their streams are told before.
const GRACE: Duration = Duration::from_secs(2);

/// A listener and the connections it took.
pub struct Listener {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens; fails with the reason if the address is not free.
    pub async fn open(streams: &Arc<Streams>, address: SocketAddr) -> Result<Listener> {
        let socket = TcpListener::bind(address).await.map_err(|error| {
            let code = if error.kind() == ErrorKind::AddrInUse { Code::Exists } else { Code::BadOption };
            Error::new(code, format!("{address} cannot be listened on: {error}")).hint("choose another port, or free this one")
        })?;
        let router = streams.guarded(Router::new().fallback(answer).with_state((Arc::downgrade(streams), address)));
        let (stop, mut stopped) = watch::channel(false);
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let serving = axum::serve(socket, service).with_graceful_shutdown(async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        });
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%address, %error, "the listener of a stream failed");
            }
        });
        Ok(Listener { stop, task })
    }

    /// Takes no more connections, and waits a moment for those that are there.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(GRACE, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State((streams, address)): State<(Weak<Streams>, SocketAddr)>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match streams.upgrade() {
        Some(streams) => http::named(&streams, Some(address), &parts).into_response(),
        None => Problem::unavailable("the server stops", 10).into_response(),
    }
}
