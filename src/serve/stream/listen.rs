//! An address of a stream's own, shared by all streams that name it.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use tokio::task::JoinHandle;

use super::http;
use super::streams::Streams;
use crate::error::{Code, Error, Result};
use crate::serve::listen::{Shutdown, Stop, bind, serve};
use crate::serve::problem::Problem;

/// A listener and the connections it took.
pub struct Listener {
    stop: Stop,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens; fails with the reason if the address is not free.
    pub async fn open(streams: &Arc<Streams>, address: SocketAddr) -> Result<Listener> {
        let socket = bind(address, "port").await.map_err(taken)?;
        let router = Router::new().fallback(answer).with_state((Arc::downgrade(streams), address));
        let (stop, shutdown) = Shutdown::new();
        let task =
            tokio::spawn(serve(vec![socket], streams.guarded(router, Some(address)), shutdown, streams.connections().clone()));
        Ok(Listener { stop, task })
    }

    /// Takes no more connections, and waits until those that are there have ended; their streams are told before.
    pub async fn close(mut self) {
        self.stop.stop();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// That an address is not to be had is for the program's own a matter of this machine; here it is one of the request.
fn taken(error: Error) -> Error {
    let here = Error::new(Code::Exists, error.message());
    match error.way_out() {
        Some(hint) => here.hint(hint),
        None => here,
    }
}

async fn answer(State((streams, address)): State<(Weak<Streams>, SocketAddr)>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match streams.upgrade() {
        Some(streams) => http::named(&streams, Some(address), &parts).await.into_response(),
        None => Problem::unavailable("the server stops", 10).into_response(),
    }
}
