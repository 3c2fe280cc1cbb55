//! `streamgauge serve`: tables and views that are kept, with their results over HTTP, until it is told to stop.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use tokio::task::{JoinError, JoinHandle};

use super::args::{self, Exit, InputPath};
use super::demo;
use super::script::{Outcome, Script};
use crate::engine::Answer;
use crate::error::{Code, Error, Result};
use crate::serve::settings::{Flags, Settings};
use crate::serve::{App, Server, listen, log};
use crate::time::Timestamp;

/// The named stream of the demo: all of its views on one connection.
const DEMO_STREAM: &str =
    r#"{"id": "demo-stream", "views": ["metrics_5s", "cpu_rolling", "vwap_rolling", "price_alerts"], "path": "/events"}"#;

/// Serves until `stopped`; then ends within five seconds.
pub async fn run(args: &args::ServeArgs, verbose: u8, stopped: impl Future<Output = ()>) -> Result<Exit> {
    // From here on the signal is heard, whatever still has to be done before the first request.
    let hangups = Hangups::listen();
    let mut settings = Settings::of_process(&args.settings)?;
    log::start(settings.log.format, verbose);
    let mut scripts = Vec::new();
    for path in &settings.init.0 {
        scripts.push(Script::read(&InputPath::File(path.into()))?);
    }
    let feeds = match args.demo {
        true => {
            let unserved = |error: io::Error| Error::new(Code::Runtime, format!("the demo's feeds cannot be served: {error}"));
            let feeds = demo::start_feeds(Timestamp::now(), demo::SEED).await.map_err(unserved)?;
            scripts.push(Script::new("demo.sql", demo::script(&feeds)));
            let stream = serde_json::from_str(DEMO_STREAM).map_err(|error| Error::bug(format!("the demo's stream: {error}")))?;
            settings.streams.push(stream);
            settings.feeds.own.extend([feeds.metrics, feeds.trades]);
            Some(feeds)
        }
        false => None,
    };
    let server = Server::open(settings).await?;
    if args.demo && demo::TABLES.iter().any(|name| server.app.engine.made(name).is_some()) {
        let message = "the data directory keeps tables of an earlier demo, whose feeds ended with it";
        return Err(
            Error::new(Code::Settings, message).hint("leave --data out, or name a new directory: the demo makes its feeds anew")
        );
    }
    let mut outcome = Outcome::default();
    let note = &mut |answer| {
        if let Answer::Done(notes) = answer {
            notes.iter().for_each(|note: &String| eprintln!("note: {note}"));
        }
    };
    for script in &scripts {
        outcome.run_missing(&server.app.engine, script, note).await;
        if !std::mem::take(&mut outcome.queries).is_empty() {
            eprintln!("note: {}: a SELECT has nobody here to show its rows to; make it a view: CREATE VIEW … AS …", script.name);
        }
    }
    if outcome.errors > 0 {
        return Ok(Exit::Wrong);
    }
    server.start().await?;
    // The first look at a signal says that one is waited for: what the next lines promise holds from before they are printed.
    let mut stopped = pin!(stopped);
    let is_stopped = stopped.as_mut().now_or_never().is_some();
    let stopped = async {
        if !is_stopped {
            stopped.await;
        }
    };
    eprint!("{}", welcome(&server));
    let (stop, shutdown) = listen::Shutdown::new();
    let reloading = tokio::spawn(reload_at(hangups, Arc::clone(&server.app), args.settings.clone(), shutdown.clone()));
    end_of(tokio::spawn(server.serve(shutdown)), &stop, stopped).await?;
    reloading.abort();
    if let Some(feeds) = feeds {
        feeds.stop().await;
    }
    Ok(Exit::Done)
}

/// The wish that settings be read again: SIGHUP, where there is such a signal.
struct Hangups {
    #[cfg(unix)]
    signal: io::Result<tokio::signal::unix::Signal>,
}

impl Hangups {
    fn listen() -> Self {
        Hangups {
            #[cfg(unix)]
            signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()),
        }
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if let Ok(signal) = &mut self.signal
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

/// Reads the settings again whenever it is wished; wrong ones are told and change nothing.
async fn reload_at(mut hangups: Hangups, app: Arc<App>, flags: Flags, shutdown: listen::Shutdown) {
    loop {
        tokio::select! {
            () = hangups.next() => {}
            () = shutdown.begun() => return,
        }
        // The demo's stream is no one's setting.
        let settings = Settings::of_process(&flags).and_then(|mut settings| {
            let own =
                app.settings.now().streams.iter().filter(|stream| stream["id"] == "demo-stream").cloned().collect::<Vec<_>>();
            settings.streams.extend(own);
            app.reload(settings)
        });
        match settings {
            Ok(reloaded) => tracing::info!("the settings were read again; {reloaded}"),
            Err(error) => tracing::error!("the settings cannot be used, those before hold: {error}"),
        }
    }
}

/// Waits until `stopped`, then until the server has ended; an error where it ends by itself, since nobody would be answered any more.
async fn end_of(mut serving: JoinHandle<()>, stop: &listen::Stop, stopped: impl Future<Output = ()>) -> Result<()> {
    let broken = |error: JoinError| Error::bug(format!("the server broke off: {error}"));
    tokio::select! {
        ended = &mut serving => {
            ended.map_err(broken)?;
            return Err(Error::bug("the server ended before it was told to"));
        }
        () = stopped => {}
    }
    tracing::info!("stopping");
    stop.stop();
    serving.await.map_err(broken)
}

/// What is served, and what to type next.
fn welcome(server: &Server) -> String {
    let engine = &server.app.engine;
    let settings = server.app.settings.now();
    let base_path = &settings.http.base_path;
    let names = |names: Vec<String>| if names.is_empty() { "none yet".to_string() } else { names.join(", ") };
    let tables = engine.tables().iter().map(|table| table.spec().name.clone()).collect();
    let views: Vec<String> = engine.views().iter().map(|view| view.name.clone()).collect();
    let streams = server.app.streams.list();
    // What a shell makes of the name is the user's matter: the token itself is shown nowhere.
    let header = if server.app.gate.is_open() { "" } else { " -H \"Authorization: Bearer $TOKEN\"" };
    let mut lines = Vec::new();
    for address in &server.addresses {
        lines.push(format!("Streamgauge {} listens on http://{address}{base_path}", env!("CARGO_PKG_VERSION")));
    }
    lines.push(format!("  tables:   {}", names(tables)));
    lines.push(format!("  views:    {}", names(views.clone())));
    for named in &streams {
        let address = named.address.or(server.addresses.first().copied());
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        for endpoint in &named.endpoints {
            lines.push(format!("  stream:   {}: curl -N{header} http://{address}{base_path}{}", named.spec.id, endpoint.path));
        }
    }
    lines.push(match &settings.data {
        Some(dir) => format!("  kept in:  {}", dir.display()),
        None => "  kept in:  memory only; --data DIR keeps tables and views over a restart".into(),
    });
    lines.push(match server.app.gate.is_open() {
        true => "  access:   everybody on this machine; POST /v1/tokens makes tokens".into(),
        false => format!("  access:   by token; below, $TOKEN is yours{}", token_hint(&settings)),
    });
    let base = server.addresses.first().map(|address| format!("http://{address}{base_path}")).unwrap_or_default();
    lines.push("Try:".into());
    match views.first() {
        Some(view) => {
            lines.push(format!("  curl{header} {base}/v1/views/{view}/results"));
            lines.push(format!("  curl -N{header} {base}/v1/views/{view}/stream"));
        }
        None => lines
            .push(format!("  curl{header} {base}/v1/sql -H 'Content-Type: application/json' -d '{{\"sql\": \"SHOW TABLES\"}}'")),
    }
    lines.push(format!("  {base}/docs describes everything that can be asked; Ctrl-C stops"));
    lines.join("\n") + "\n"
}

/// Where the token can be taken from that the settings name.
fn token_hint(settings: &Settings) -> String {
    match &settings.auth.token_file {
        Some(file) => format!(": TOKEN=$(cat {})", file.display()),
        None if std::env::var_os("STREAMGAUGE_TOKEN").is_some() => ": TOKEN=$STREAMGAUGE_TOKEN".into(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_server_that_breaks_off_ends_the_program() {
        let (stop, shutdown) = listen::Shutdown::new();
        for (serving, expect) in [
            (tokio::spawn(async { panic!("no such thing") }), "the server broke off: "),
            (tokio::spawn(async {}), "the server ended before it was told to"),
        ] {
            let error = end_of(serving, &stop, pending()).await.unwrap_err();
            assert!(error.code() == Code::Bug && error.message().starts_with(expect), "{error}");
        }
        let serving = tokio::spawn(async move { shutdown.begun().await });
        end_of(serving, &stop, ready(())).await.unwrap();
    }
}
