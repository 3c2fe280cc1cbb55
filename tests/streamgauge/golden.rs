//! Golden scripts: SQL, what is fed and what comes out in one readable file a case, under `tests/golden/<room>/*.sg`.
//!
//! A file is a sequence of sections:
//!
//! - `[feed NAME]`: events, as lines of JSON or as the text of an event stream. A table reads them by `path = 'NAME'`, or over HTTP by
//!   `endpoint = 'http://feed/NAME'`. A line `---` cuts there: what follows is sent once all rows before it have been taken, so that it
//!   is a batch of its own; a line `--- cut` ends the connection too. Over HTTP the feed then ends, by a 204 to the next request.
//! - `[sql]`: statements, run in order. Queries run to their end.
//! - `[check]`: as `[sql]`, but queries are only planned; their plans come out.
//! - `[views]`: runs every view that no other view reads, all at once.
//! - `[out]`: what the section before gives: rows as NDJSON, errors as drawn, notes; and after the rows of a query what was lost on
//!   the way: late rows, rows that could not be computed, events that could not be read.
//!
//! `UPDATE_GOLDEN=1 cargo test golden` writes the outputs anew, for review as a diff.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;
use streamgauge::change::Changes;
use streamgauge::cli::diagnostic;
use streamgauge::engine::{Answer, Engine, Query};
use streamgauge::error::Error;
use streamgauge::format::encode::{Encoder, Encoding};
use streamgauge::options::GivenOption;
use streamgauge::sql::{self, Statement, StatementKind};
use streamgauge::table::Table;
use streamgauge::time::TimestampArray;

use crate::support::server::{Answer as Reply, Server, Signal};

/// So long a case may take that hangs; none waits for it to pass.
const HUNG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn every_golden_script_gives_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let only = std::env::var("GOLDEN").unwrap_or_default();
    let mut wrong = String::new();
    for path in scripts(&root) {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        if !name.contains(&only) {
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        let found = match tokio::time::timeout(HUNG, run(&expected)).await {
            Ok(found) => found,
            Err(_) => {
                writeln!(wrong, "\n=== {name}\nhangs").unwrap();
                continue;
            }
        };
        if found == expected {
            continue;
        }
        match update {
            true => std::fs::write(&path, found).unwrap(),
            false => write!(wrong, "\n=== {name}\n{}", difference(&expected, &found)).unwrap(),
        }
    }
    assert!(wrong.is_empty(), "{wrong}\nUPDATE_GOLDEN=1 cargo test golden writes them anew");
}

fn scripts(root: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let rooms = entries(root).into_iter().filter(|path| path.is_dir());
    rooms.flat_map(|room| entries(&room)).filter(|path| path.extension().is_some_and(|extension| extension == "sg")).collect()
}

/// The lines that differ, with `-` where they are expected and `+` where they were found.
fn difference(expected: &str, found: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - same;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let mut text = format!("@@ line {}\n", same + 1);
    old[same..old.len() - tail].iter().for_each(|line| writeln!(text, "-{line}").unwrap());
    new[same..new.len() - tail].iter().for_each(|line| writeln!(text, "+{line}").unwrap());
    text
}

/// Runs a script and gives its text with the outputs that came.
async fn run(script: &str) -> String {
    let mut case = Case::new();
    let mut text = String::new();
    for section in script.split_inclusive('\n').fold(Vec::<String>::new(), |mut sections, line| {
        match sections.last_mut() {
            Some(last) if !is_head(line) => last.push_str(line),
            _ => sections.push(line.into()),
        }
        sections
    }) {
        let (head, body) = section.split_once('\n').unwrap_or((&section, ""));
        if head == "[out]" {
            continue;
        }
        text.push_str(section.trim_end());
        text.push('\n');
        let out = match head {
            "[sql]" => Some(case.sql(body.trim_end(), Queries::Run).await),
            "[check]" => Some(case.sql(body.trim_end(), Queries::Plan).await),
            "[views]" => Some(case.views().await),
            _ => {
                if let Some(name) = head.strip_prefix("[feed ").and_then(|rest| rest.strip_suffix(']')) {
                    case.feed(name, body.trim_end());
                }
                None
            }
        };
        if let Some(out) = out {
            write!(text, "[out]\n{out}").unwrap();
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn is_head(line: &str) -> bool {
    let line = line.trim_end();
    matches!(line, "[sql]" | "[check]" | "[views]" | "[out]") || line.starts_with("[feed ") && line.ends_with(']')
}

/// What is done with a query.
#[derive(Clone, Copy)]
pub enum Queries {
    Run,
    Plan,
}

/// The state of a script while it runs.
pub struct Case {
    engine: Engine,
    directory: tempfile::TempDir,
    feeds: HashMap<String, Fed>,
    /// Those of the tables that read over HTTP, by the name of the table.
    served: HashMap<String, Served>,
    /// Samples of bad events already told, by table.
    told: HashMap<String, usize>,
}

/// The text of a feed: its connections, each in pieces.
struct Fed {
    connections: Vec<Vec<String>>,
}

/// A feed over HTTP: before each of its later pieces it waits for the events of those before.
struct Served {
    /// Never read: the server ends with it.
    _server: Server,
    gates: Vec<(u64, Signal)>,
}

impl Case {
    pub fn new() -> Case {
        Case {
            engine: Engine::new().unwrap(),
            directory: tempfile::tempdir().unwrap(),
            feeds: HashMap::new(),
            served: HashMap::new(),
            told: HashMap::new(),
        }
    }

    pub fn feed(&mut self, name: &str, text: &str) {
        let mut connections = vec![vec![String::new()]];
        for line in text.split_inclusive('\n') {
            match line.trim_end() {
                "---" => connections.last_mut().unwrap().push(String::new()),
                "--- cut" => connections.push(vec![String::new()]),
                _ => connections.last_mut().unwrap().last_mut().unwrap().push_str(line),
            }
        }
        let mut whole: String = connections.iter().flatten().map(String::as_str).collect();
        whole.push_str("\n\n");
        std::fs::write(self.directory.path().join(name), whole).unwrap();
        self.feeds.insert(name.into(), Fed { connections });
    }

    pub async fn sql(&mut self, text: &str, queries: Queries) -> String {
        let mut out = String::new();
        let (statements, errors) = sql::parse(text);
        for error in &errors {
            self.complain(error, text, &mut out);
        }
        for mut statement in statements {
            self.connect(&mut statement).await;
            match self.engine.execute(&statement).await {
                Ok(Answer::Done(notes)) => notes.iter().for_each(|note| writeln!(out, "note: {note}").unwrap()),
                Ok(Answer::Rows(rows)) => out.push_str(&table(rows)),
                Ok(Answer::Follow(_)) => unreachable!("no view is kept running here"),
                Ok(Answer::Query(query)) => match queries {
                    Queries::Run => out.push_str(&self.drain(&[*query]).await),
                    Queries::Plan => out.push_str(&match query.continuous() {
                        Some(continuous) => format!("{}\n", continuous.plan().describe().unwrap()),
                        None => "by DataFusion\n".into(),
                    }),
                },
                Err(errors) => errors.into_iter().for_each(|error| self.complain(&error.at(statement.span), text, &mut out)),
            }
        }
        out
    }

    pub async fn views(&mut self) -> String {
        let views = self.engine.top_views().await.unwrap();
        self.drain(&views).await
    }

    /// Puts the feed's real place into a `CREATE TABLE`.
    async fn connect(&mut self, statement: &mut Statement) {
        let StatementKind::CreateTable(create) = &mut statement.kind else { return };
        let mut is_served = false;
        for option in &mut create.options {
            match option.name.as_str() {
                "path" => option.value = self.directory.path().join(&option.value).display().to_string(),
                "endpoint" if option.value.starts_with("http://feed/") => {
                    is_served = true;
                    let served = serve(&self.feeds[&option.value["http://feed/".len()..]]).await;
                    option.value = served._server.url();
                    self.served.insert(create.name.text.clone(), served);
                }
                _ => {}
            }
        }
        if is_served && !create.options.iter().any(|option| option.name == "reconnect_delay") {
            create.options.push(GivenOption { name: "reconnect_delay".into(), value: "1ms".into(), span: None });
        }
    }

    /// Runs queries to their end: the rows of each, in the order of the queries, and what was lost.
    async fn drain(&mut self, queries: &[Query]) -> String {
        let mut outputs = match self.engine.open(queries) {
            Ok(outputs) => outputs,
            Err(error) => return format!("{}\n", diagnostic::render(&error, "script", "", false)),
        };
        let mut gates = tokio::task::JoinSet::new();
        for table in self.engine.tables() {
            if let Some(served) = self.served.remove(&table.spec().name) {
                gates.spawn(open_gates(table, served));
            }
        }
        let mut out = String::new();
        let several = outputs.len() > 1;
        let drained = futures::future::join_all(outputs.iter_mut().map(|output| async {
            let mut encoder = match output.changelog {
                true => Encoder::changelog(Encoding::Ndjson, &output.schema),
                false => Encoder::append_only(Encoding::Ndjson, &output.schema),
            };
            if let (true, Some(name)) = (several, &output.name) {
                encoder = encoder.view(name);
            }
            let mut text = Vec::new();
            while let Some(changes) = output.next_changes().await {
                match changes {
                    Ok(changes) => encoder.write(&changes, &mut text).unwrap(),
                    Err(error) => text.extend(format!("{}\n", diagnostic::render(&error, "script", "", false)).into_bytes()),
                }
            }
            String::from_utf8(text).unwrap()
        }))
        .await;
        for (output, text) in outputs.iter().zip(drained) {
            out.push_str(&text);
            let Some(progress) = &output.progress else { continue };
            let (_, report) = progress.read();
            for late in &report.late_samples {
                writeln!(out, "-- late: {} at {}, watermark {}", late.row, late.time, late.watermark).unwrap();
            }
            for bad in &report.bad_samples {
                writeln!(out, "-- lost: {}: {}", bad.row, bad.reason).unwrap();
            }
        }
        for table in self.engine.tables() {
            let samples = table.status().snapshot().samples;
            let told = self.told.entry(table.spec().name.clone()).or_default();
            for sample in &samples[*told..] {
                writeln!(out, "-- bad: {}: {}", table.spec().name, sample.bad.reason).unwrap();
            }
            *told = samples.len();
        }
        self.hide(out)
    }

    fn complain(&self, error: &Error, script: &str, out: &mut String) {
        writeln!(out, "{}", self.hide(diagnostic::render(error, "script", script, false))).unwrap();
    }

    /// Where the feeds are in this run says nothing.
    fn hide(&self, text: String) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

async fn serve(feed: &Fed) -> Served {
    let mut gates = Vec::new();
    let mut replies = Vec::new();
    let mut events = 0;
    for pieces in &feed.connections {
        let mut reply = Reply::stream();
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                let signal = Signal::default();
                reply = reply.wait(&signal);
                gates.push((events, signal));
            }
            let text = stream_of(piece);
            events += text.split("\n\n").filter(|event| event.lines().any(|line| line.starts_with("data"))).count() as u64;
            reply = reply.text(&text);
        }
        replies.push(reply);
    }
    replies.push(Reply::status(204));
    Served { _server: Server::start(replies).await, gates }
}

/// Lines of JSON as events; the text of a stream as it is, but for the blank line that ends its last event.
fn stream_of(piece: &str) -> String {
    match piece.trim_start().starts_with(['{', '[']) {
        true => piece.lines().filter(|line| !line.is_empty()).map(|line| format!("data: {line}\n\n")).collect(),
        false => format!("{}\n\n", piece.trim_end()),
    }
}

/// Opens each gate once the table has taken all events before it.
async fn open_gates(table: Arc<Table>, served: Served) {
    for (events, signal) in &served.gates {
        let taken = || {
            let (feed, table) = (table.feed_status().snapshot(), table.status().snapshot());
            table.rows + table.bad + table.skipped + feed.filtered + feed.repeated >= *events
        };
        while !taken() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        signal.notify_one();
    }
    std::future::pending().await
}

/// A column of text as it is, several as a table.
fn table(rows: RecordBatch) -> String {
    if let ([column], DataType::Utf8) = (rows.columns(), rows.schema().field(0).data_type()) {
        return column.as_string::<i32>().iter().map(|line| format!("{}\n", line.unwrap_or_default())).collect();
    }
    let times = TimestampArray::from_value(0, rows.num_rows());
    let mut text = Vec::new();
    let schema = rows.schema();
    Encoder::append_only(Encoding::Table, &schema).write(&Changes::inserts(rows, times), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}
