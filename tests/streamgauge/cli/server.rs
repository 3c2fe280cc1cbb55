//! A replay server of a test's own.

use reqwest::{Client, Response};
use streamgauge::cli::replay::{Replay, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server of its own, stopped with the test.
pub struct Server {
    pub url: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub async fn start(replay: Replay) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, replay, async {
            let _ = stopped.await;
        }));
        Server { url, stop: Some(stop), task }
    }

    pub async fn get(&self, last: Option<&str>) -> Response {
        let mut request = client().get(&self.url);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        request.send().await.unwrap()
    }

    pub async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

pub fn client() -> Client {
    // The crypto of TLS is chosen once for the process; tests race for it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().build().unwrap()
}
