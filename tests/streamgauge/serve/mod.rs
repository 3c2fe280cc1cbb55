//! The server from outside: requests over HTTP, and what is answered.

mod access;
mod carried;
mod checkpoints;
mod conditions;
pub(crate) mod crash;
mod describe;
mod gaps;
mod guard;
mod memory;
mod named;
mod program;
mod questions;
mod restart;
mod secrets;
mod sql;
mod starts;
mod states;
mod stream;
mod tables;
mod views;

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use streamgauge::engine;
use streamgauge::error::Error;
use streamgauge::operator::rows::text;
use streamgauge::serve::listen::{Shutdown, Stop};
use streamgauge::serve::settings::Settings;
use streamgauge::serve::{App, Server};
use tokio::task::JoinHandle;

/// So long a hung test lives; no test waits for it to pass.
const HUNG: Duration = Duration::from_secs(60);

/// A server on a free port of 127.0.0.1; it ends with the value.
struct Service {
    url: String,
    client: reqwest::Client,
    app: Arc<App>,
    stop: Stop,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Service {
    async fn start() -> Service {
        Service::start_with(Settings::default()).await
    }

    async fn start_with(settings: Settings) -> Service {
        // Whichever test comes first installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = Settings { bind: "127.0.0.1:0".parse().unwrap(), ..settings };
        let server = Server::open(settings).await.unwrap();
        server.start().await.unwrap();
        let url = format!("http://{}", server.addresses[0]);
        let app = Arc::clone(&server.app);
        let (stop, shutdown) = Shutdown::new();
        let task = tokio::spawn(server.serve(shutdown));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Service { url, client, app, stop, task }
    }

    /// Stops the server, and waits until it has ended.
    async fn stop(mut self) {
        self.stop.stop();
        (&mut self.task).await.unwrap();
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).timeout(HUNG)
    }

    async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        send(json(self.request(Method::POST, path), &body)).await
    }

    /// Waits until a view has had so many changes.
    async fn changes(&self, view: &str, number: u64) {
        let live = self.app.streams.live(view).unwrap();
        let mut follower = live.follow(0);
        while live.head() < number {
            tokio::time::timeout(HUNG, follower.changed()).await.expect("the view changes");
        }
    }

    /// Runs a statement; gives the cells of what it shows.
    async fn sql(&self, statement: &str) -> Vec<String> {
        match execute(&self.app, statement).await.unwrap_or_else(|errors| panic!("{statement}: {errors:?}")) {
            engine::Answer::Rows(rows) => (0..rows.num_rows()).map(|row| text(&rows, row)).collect(),
            _ => Vec::new(),
        }
    }
}

/// Runs one statement as the server would.
async fn execute(app: &App, text: &str) -> Result<engine::Answer, Vec<Error>> {
    let (statements, errors) = streamgauge::sql::parse(text);
    assert!(errors.is_empty() && statements.len() == 1, "{text}: {errors:?}");
    app.execute(&statements[0], tokio::time::Instant::now() + HUNG).await
}

/// With a body in JSON.
fn json(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request.header("content-type", "application/json").body(body.to_string())
}

async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer with this status, in JSON.
    #[track_caller]
    fn with(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}
