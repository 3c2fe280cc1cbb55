//! The program: reads what was typed and hands it to the verb.

use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Parser;
use streamgauge::cli::args::{Args, Command, Exit};
use streamgauge::cli::{demo, diagnostic, peek, replay, run, sample, serve};
use streamgauge::error::{Code, Error, Result};
use streamgauge::time::check;
use tracing_subscriber::EnvFilter;

/// As much as the main thread has: queries are planned by recursion, deep within a request.
const STACK_BYTES: usize = 8 * 1024 * 1024;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = bear_full_files().and_then(|()| check(SystemTime::now())) {
        diagnostic::complain(&error);
        return Exit::from(&error).into();
    }
    // The server has a log of its own.
    if !matches!(args.command, Command::Serve(_)) {
        log(args.verbose);
    }
    let exit = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(|error| Error::new(Code::Runtime, format!("no threads: {error}")))
        .and_then(|runtime| runtime.block_on(dispatch(args.command, args.verbose)));
    match exit {
        Ok(exit) => exit.into(),
        // The reader of standard output has seen enough: an end as good as any.
        Err(error) if error.code() == Code::Closed => Exit::Done.into(),
        Err(error) => {
            diagnostic::complain(&error);
            Exit::from(&error).into()
        }
    }
}

/// A file that reaches the limit of the system (`ulimit -f`) is an error of that write, and not the end of the program without a word.
fn bear_full_files() -> Result<()> {
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())
        .map_err(|error| Error::new(Code::Runtime, format!("signals cannot be heard: {error}")))?;
    Ok(())
}

async fn dispatch(command: Command, verbose: u8) -> Result<Exit> {
    match command {
        Command::Replay(args) => replay::run(args, interrupted()).await,
        Command::Peek(args) => peek::run(args, interrupted()).await,
        Command::Sample(args) => match sample::run(&args) {
            // The reader has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Done),
            Err(error) => Err(Error::new(Code::Output, format!("standard output cannot be written: {error}"))),
            Ok(()) => Ok(Exit::Done),
        },
        Command::Run(args) => run::run(&args, stopped()).await,
        Command::Check(args) => run::check(&args).await,
        Command::Demo(args) => demo::run(&args, interrupted()).await,
        Command::Serve(args) => serve::run(&args, verbose, stopped()).await,
    }
}

/// Until Ctrl-C; for ever where there is no such signal.
async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "Ctrl-C cannot be seen");
        std::future::pending().await
    }
}

/// Until Ctrl-C, or until the system asks the program to end, which is heard from this call on.
fn stopped() -> impl Future<Output = ()> {
    #[cfg(unix)]
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    async {
        #[cfg(unix)]
        match terminate {
            Ok(mut terminate) => {
                tokio::select! {
                    () = interrupted() => {}
                    _ = terminate.recv() => {}
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "SIGTERM cannot be seen"),
        }
        interrupted().await
    }
}

/// Logs go to standard error: errors, or more by `-v`; `RUST_LOG` decides where it is set. What a user must know, the verbs say.
fn log(verbose: u8) {
    let level = ["error", "streamgauge=info,warn", "streamgauge=debug,info", "trace"][usize::from(verbose.min(3))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
