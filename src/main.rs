//! The program: reads what was typed and hands it to the verb.

use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime};

use clap::Parser;
use streamgauge::cli::args::{Args, Command, Exit};
use streamgauge::cli::signals::{Heard, listen};
use streamgauge::cli::{demo, diagnostic, help, peek, replay, run, sample, serve};
use streamgauge::error::{Code, Error, Result};
use streamgauge::time::check;
use tracing_subscriber::EnvFilter;

/// As much as the main thread has: queries are planned by recursion, deep within a request.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// At least so many threads: one that a query keeps busy leaves another for timers and sockets.
const THREADS_MIN: usize = 2;

/// What still runs when all is said has so long: a query that does not give way must not hold up the end.
const LAST_TIME_MAX: Duration = Duration::from_secs(1);

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
        .worker_threads(available_parallelism().map_or(THREADS_MIN, |cores| cores.get().max(THREADS_MIN)))
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(|error| Error::new(Code::Runtime, format!("no threads: {error}")))
        .and_then(|runtime| {
            let exit = runtime.block_on(dispatch(args.command, args.verbose));
            runtime.shutdown_timeout(LAST_TIME_MAX);
            exit
        });
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
    let (heard, limit) = match &command {
        Command::Run(args) => (Heard::All, args.timeout),
        Command::Serve(_) => (Heard::All, None),
        Command::Check(_) | Command::Sample(_) | Command::Help { .. } => (Heard::None, None),
        Command::Replay(_) | Command::Peek(_) | Command::Demo(_) => (Heard::Interrupt, None),
    };
    let ended = listen(heard, limit)?;
    match command {
        Command::Replay(args) => replay::run(args, ended).await,
        Command::Peek(args) => peek::run(args, ended).await,
        Command::Sample(args) => match sample::run(&args) {
            // The reader has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Done),
            Err(error) => Err(Error::new(Code::Output, format!("standard output cannot be written: {error}"))),
            Ok(()) => Ok(Exit::Done),
        },
        Command::Run(args) => run::run(&args, ended).await,
        Command::Check(args) => run::check(&args).await,
        Command::Demo(args) => demo::run(&args, ended).await,
        Command::Help { topic } => help::run(topic.as_deref()),
        Command::Serve(args) => serve::run(&args, verbose, ended).await,
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
