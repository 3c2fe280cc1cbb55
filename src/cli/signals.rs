//! The end from outside: Ctrl-C and SIGTERM. They are heard on a thread of their own, since a query may keep all others busy.

use std::future::pending;
use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::sleep;

use super::args::Exit;
use crate::error::{Code, Error, Result};

/// How long the program may take to end by itself. A server takes five seconds at the most.
const GRACE: Duration = Duration::from_secs(6);

/// Which signals end the program in an orderly way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// None: they end it at once.
    None,
    Interrupt,
    /// Also SIGTERM, where there is one.
    All,
}

/// Listens from this call on; what it gives waits for the first signal. The program ends at the first if nobody waits for it yet, else at
/// the second, or if the first has not ended it after some seconds; and so long after `limit`, which it is to keep by itself.
pub fn listen(heard: Heard, limit: Option<Duration>) -> Result<impl Future<Output = ()> + Send + 'static> {
    let (told, mut ending) = watch::channel(false);
    let awaited = Arc::new(AtomicBool::new(false));
    let is_awaited = Arc::clone(&awaited);
    let (ready, listening) = mpsc::channel();
    let unheard = |error: io::Error| Error::new(Code::Runtime, format!("signals cannot be heard: {error}"));
    let thread = move || {
        let opened = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let signals = {
                let _inside = runtime.enter();
                Signals::new(heard)?
            };
            Ok((runtime, signals))
        });
        let (runtime, signals) = match opened {
            Ok(opened) => opened,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let _ = ready.send(Ok(()));
        let exit = runtime.block_on(ended(signals, limit, &told, &is_awaited));
        process::exit(exit as i32);
    };
    if heard != Heard::None {
        thread::Builder::new().name("signals".into()).spawn(thread).map_err(unheard)?;
        if let Ok(Err(error)) = listening.recv() {
            tracing::warn!(%error, "Ctrl-C and SIGTERM cannot be seen");
        }
    }
    Ok(async move {
        awaited.store(true, Relaxed);
        if ending.wait_for(|told| *told).await.is_err() {
            pending::<()>().await;
        }
    })
}

/// Returns when the program has to end, whatever it is doing.
async fn ended(mut signals: Signals, limit: Option<Duration>, told: &watch::Sender<bool>, awaited: &AtomicBool) -> Exit {
    let over = async {
        match limit {
            Some(limit) => sleep(limit.saturating_add(GRACE)).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = signals.next() => {}
        () = over => {
            eprintln!("error: the time is up, and a query has not ended: it is broken off");
            return Exit::Failed;
        }
    }
    if !awaited.load(Relaxed) {
        return Exit::Interrupted;
    }
    told.send_replace(true);
    tokio::select! {
        () = signals.next() => {}
        () = sleep(GRACE) => eprintln!("error: a query has not ended: it is broken off"),
    }
    Exit::Interrupted
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new(heard: Heard) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = (heard == Heard::All).then(|| signal(SignalKind::terminate())).transpose()?;
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate })
    }

    async fn next(&mut self) {
        let terminate = async {
            match &mut self.terminate {
                Some(terminate) => drop(terminate.recv().await),
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            () = terminate => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new(_: Heard) -> io::Result<Self> {
        Ok(Signals)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            pending().await
        }
    }
}
