//! What can be typed after `streamgauge`: verbs, flags and the exit codes, declared once for the parser and `--help`.

use std::convert::Infallible;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use super::help::topics;
use super::sample::Kind;
use crate::error::{Code, Error, ErrorKind as Blame};
use crate::options::Value;
use crate::serve::settings::Flags;

/// Server-Sent Event feeds as SQL tables, with rolling windows that stay up to date.
#[derive(Parser)]
#[command(name = "streamgauge", version, max_term_width = 110, after_help = format!("{}\n\n{EXIT_CODES}", topics()))]
#[command(propagate_version = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    /// Log more to standard error: -v what happens, -vv how, -vvv everything. RUST_LOG says it finer.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

const EXIT_CODES: &str = "Exit codes:\n    0  done: all feeds ended, or the limit or timeout was reached\n    \
    1  failed while running\n    2  the statement, an option or a flag is wrong\n  130  interrupted\n\n\
    Data goes to standard output, everything else to standard error.";

#[derive(Subcommand)]
pub enum Command {
    /// Run a SQL script and print the rows of its SELECTs in turn, or of its views.
    Run(RunArgs),
    /// Check SQL scripts without connecting to anything; tells all errors, not only the first.
    Check(CheckArgs),
    /// Serve an NDJSON file or a recorded .sse stream as a live feed with ids and resume.
    Replay(ReplayArgs),
    /// Read the first events of a feed and propose a CREATE TABLE for it: the statement on standard output, the report on standard error.
    Peek(PeekArgs),
    /// Show rolling windows over two feeds made inside the program; needs no network.
    Demo(DemoArgs),
    /// Keep tables and views running, and serve their results over HTTP.
    Serve(Box<ServeArgs>),
    /// Print the help of a verb, or a page of the documentation.
    Help {
        /// A verb or a topic; without one, all there is.
        topic: Option<String>,
    },
    /// Write a made-up feed of a real shape, the same for the same seed.
    #[command(hide = true)]
    Sample(Sample),
}

#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct RunArgs {
    /// SQL scripts, run one after the other as one; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "command")]
    pub files: Vec<InputPath>,
    /// SQL to run after the files.
    #[arg(short, long, value_name = "SQL", allow_hyphen_values = true)]
    pub command: Option<String>,
    /// How rows are written. Default: as the extension of --output says; a table on a terminal, else NDJSON.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Write rows to this file instead of standard output: .csv, .json, .ndjson or .jsonl, .txt for a table.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write over what is in the --output file.
    #[arg(long, requires = "output")]
    pub force: bool,
    /// Keep the state of the views in this directory: after a crash the next run goes on where it was.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// How often the state goes to the disk.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, requires = "state")]
    pub checkpoint_interval: Duration,
    /// End after so many rows.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// End after this time, such as 30s or 5min.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct CheckArgs {
    /// SQL scripts, checked one after the other as one; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<InputPath>,
}

#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct ReplayArgs {
    /// An NDJSON file (one event a line), or a recorded stream whose name ends in .sse; `-` is NDJSON from standard input.
    #[arg(value_name = "FILE")]
    pub file: InputPath,
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8090)]
    pub port: u16,
    /// Events a second for each client, or `max`.
    #[arg(long, value_name = "N|max", default_value = "10")]
    pub rate: Rate,
    /// Start over at the end of the file.
    #[arg(long = "loop")]
    pub repeat: bool,
    /// The field of an NDJSON line that is the event's id; may be a path such as meta.id. Default: the line's number.
    #[arg(long, value_name = "FIELD")]
    pub id: Option<String>,
    /// The field of an NDJSON line that is the event's type; may be a path. Default: events have no type.
    #[arg(long, value_name = "FIELD")]
    pub event: Option<String>,
    /// The field whose time becomes the moment of sending, in its own format; may be a path. Default: with --loop the one that peek takes for
    /// the event time, else none.
    #[arg(long, value_name = "FIELD")]
    pub now: Option<String>,
    /// Cut the connection after every N events, so that clients must resume.
    #[arg(long, value_name = "N")]
    pub drop_every: Option<NonZeroU64>,
    /// Time between heartbeat comments; 0 sends none.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub heartbeat: Duration,
    /// The reconnect delay told to clients.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub retry: Duration,
}

// No `Debug`: headers carry credentials.
#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct PeekArgs {
    /// URL of the feed, an address such as 127.0.0.1:8090, an NDJSON file or a recorded .sse stream.
    #[arg(value_name = "URL|FILE")]
    pub url: String,
    /// A request header; `{{ NAME }}` in it is filled in from the environment. May be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// How many events to read.
    #[arg(short = 'n', long = "events", value_name = "N", default_value = "100")]
    pub events: NonZeroU64,
    /// How long to wait for them; what came until then is reported.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
    /// The name of the proposed table. Default: the last word of the URL or the file's name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Write the statement without the report.
    #[arg(long, conflicts_with = "json")]
    pub sql: bool,
    /// Write the report as JSON, with the statement in it.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct DemoArgs {
    /// End after this time, such as 10s.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub time: Option<Duration>,
    /// End after so many rows.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// How rows are written. Default: a live screen on a terminal, NDJSON in a pipe.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct ServeArgs {
    #[command(flatten)]
    pub settings: Flags,
    /// Add the demo's feeds, tables and views, and a named stream of them
    #[arg(long)]
    pub demo: bool,
}

#[derive(clap::Args)]
pub struct Sample {
    #[arg(value_enum)]
    pub kind: Kind,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, default_value_t = 100)]
    pub count: u64,
    /// Event time of the first event.
    #[arg(long, default_value = "2026-03-01T12:00:00Z", value_parser = humantime::parse_rfc3339)]
    pub start: std::time::SystemTime,
    /// Events in a second of event time.
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
    /// How far events may be out of order.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub disorder: Duration,
    /// Distinct keys: hosts, symbols, repositories …; default: what suits the kind.
    #[arg(long)]
    pub keys: Option<NonZeroU64>,
    #[arg(long, value_enum, default_value_t = Wire::Ndjson)]
    pub format: Wire,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Json,
    Ndjson,
}

/// Extensions of names that promise what is not written here, whatever --format says.
const NOT_WRITTEN: [&str; 16] = [
    "parquet", "arrow", "feather", "avro", "orc", "xls", "xlsx", "ods", "tsv", "xml", "yaml", "html", "db", "sqlite", "gz", "zst",
];

impl Format {
    /// The format that the name of an output file promises; the error says why there is none, or why it is not `given`.
    pub fn of_file(path: &Path, given: Option<Format>) -> Result<Format, Error> {
        let shown = path.display();
        let Some(extension) = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()) else {
            return Ok(given.unwrap_or(Format::Ndjson));
        };
        let known = match extension.as_str() {
            "csv" => Format::Csv,
            "json" => Format::Json,
            "ndjson" | "jsonl" => Format::Ndjson,
            "txt" => Format::Table,
            other => {
                let is_wrong = |_: &Format| !NOT_WRITTEN.contains(&other);
                return given.filter(is_wrong).ok_or_else(|| {
                    Error::new(
                        Code::BadOption,
                        format!("rows cannot be written to '{shown}': '.{other}' is no format of rows here"),
                    )
                    .hint("name the file .csv, .json, .ndjson or .txt (a table); another name needs --format")
                });
            }
        };
        match given.filter(|given| *given != known) {
            None => Ok(known),
            Some(given) => Err(Error::new(
                Code::BadOption,
                format!("--output '{shown}' is named .{extension}, and --format says {}", given.word()),
            )
            .hint("leave --format out, or give the file another name")),
        }
    }

    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Ndjson => "ndjson",
        }
    }
}

/// How a sample feed is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// An event stream with types, ids and heartbeats.
    Sse,
    /// The data of each event on a line.
    Ndjson,
}

/// Where text is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputPath {
    Stdin,
    File(PathBuf),
}

impl FromStr for InputPath {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "-" { InputPath::Stdin } else { InputPath::File(text.into()) })
    }
}

/// How fast a replay sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as the client reads.
    Max,
    /// Events a second, above zero.
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<f64>()) {
            ("max", _) => Ok(Rate::Max),
            (_, Ok(rate)) if rate.is_finite() && rate > 0.0 => Ok(Rate::PerSecond(rate)),
            _ => Err("give events a second, such as 10 or 0.5, or `max`".into()),
        }
    }
}

/// How the program ends: the numbers in the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Wrong = 2,
    Interrupted = 130,
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.kind() {
            // The statement could be planned; what failed came with the rows.
            _ if error.code() == Code::Runtime => Exit::Failed,
            Blame::Statement | Blame::Option | Blame::Missing | Blame::Conflict => Exit::Wrong,
            Blame::Feed | Blame::Payload | Blame::Request | Blame::Host | Blame::Bug => Exit::Failed,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    Duration::read(text).map_err(|reason| format!("{reason}; give {}", Duration::EXPECTS))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declarations_contradict_nothing() {
        Args::command().debug_assert();
    }

    #[test]
    fn files_flags_and_the_dash_are_read() {
        let args =
            Args::try_parse_from(["streamgauge", "run", "-", "a.sql", "-c", "SELECT 1", "--timeout", "5s", "-vv"]).unwrap();
        assert_eq!(args.verbose, 2);
        let Command::Run(run) = args.command else { panic!("no run") };
        assert_eq!(run.files, [InputPath::Stdin, InputPath::File("a.sql".into())]);
        assert_eq!(run.timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn the_name_of_a_file_decides_how_rows_are_written() {
        let of = |name: &str, given| Format::of_file(Path::new(name), given);
        for (name, given, expect) in [
            ("x.csv", None, Format::Csv),
            ("dir.d/X.CSV", Some(Format::Csv), Format::Csv),
            ("x.json", None, Format::Json),
            ("x.ndjson", None, Format::Ndjson),
            ("x.jsonl", Some(Format::Ndjson), Format::Ndjson),
            ("x.txt", None, Format::Table),
            ("x", None, Format::Ndjson),
            ("x", Some(Format::Csv), Format::Csv),
            ("x.log", Some(Format::Csv), Format::Csv),
        ] {
            assert_eq!(of(name, given).unwrap(), expect, "{name}");
        }
        for (name, given, expect) in [
            ("x.parquet", None, "rows cannot be written to 'x.parquet'"),
            ("x.parquet", Some(Format::Csv), "'.parquet' is no format of rows here"),
            ("x.csv.gz", None, "'.gz' is no format"),
            ("x.log", None, "another name needs --format"),
            ("x.csv", Some(Format::Ndjson), "--output 'x.csv' is named .csv, and --format says ndjson"),
        ] {
            let error = of(name, given).unwrap_err();
            assert!(error.to_string().contains(expect), "{name}: {error}");
            assert_eq!(Exit::from(&error), Exit::Wrong);
        }
    }

    #[test]
    fn wrong_flags_are_told_with_a_way_out() {
        for (line, expect) in [
            ("run", "<FILE>"),
            ("run a.sql --timeout 5", "has no unit; give a duration with its unit"),
            ("replay f --rate fast", "give events a second, such as 10 or 0.5, or `max`"),
            ("replay f --rate 0", "give events a second"),
            ("replay f --drop-every 0", "--drop-every"),
            ("run a.sql --formt csv", "--format"),
        ] {
            let words = std::iter::once("streamgauge").chain(line.split(' '));
            let Err(error) = Args::try_parse_from(words) else { panic!("{line} was taken") };
            assert_eq!(error.exit_code(), Exit::Wrong as i32, "{line}");
            assert!(error.to_string().contains(expect), "{line}: {error}");
        }
    }
}
