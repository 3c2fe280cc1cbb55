//! `streamgauge serve` as a process: what it says, how it ends, and what clients that come and go leave behind.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::HUNG;
use crate::cli::program::{program, run};
use crate::cli::server::client;
use crate::support::server::{Answer as Feed, Server};

/// As many as the server takes where nothing else is said.
const STREAMS: usize = 1_000;

/// A server as a process of its own, which ends with the value.
pub(super) struct Process {
    child: Option<Child>,
    pub(super) url: String,
    pub(super) client: reqwest::Client,
    /// Everything it said so far.
    said: watch::Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    /// Waits until it listens, on a free port.
    pub(super) async fn start(args: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut command = program();
        command.args(["serve", "--bind", "127.0.0.1:0"]).args(args).envs(environment.iter().copied());
        Process::launch(command).await
    }

    /// The same on a disk that has room for so many KiB in a file: a write beyond them fails, until [`Process::make_room`].
    pub(super) async fn start_within(kib: u32, args: &[&str], environment: &[(&str, &str)]) -> Process {
        Process::launch(within(kib, args, environment)).await
    }

    /// Takes the bound of [`Process::start_within`] away.
    pub(super) fn make_room(&self) {
        let lifted = Command::new("prlimit").args(["--pid", &self.id().to_string(), "--fsize=unlimited:"]).status();
        assert!(lifted.unwrap().success());
    }

    pub(super) async fn launch(mut command: Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (saying, said) = watch::channel(String::new());
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                saying.send_modify(|said| said.push_str(&String::from_utf8_lossy(&line)));
                line.clear();
            }
        });
        let mut process = Process { child: Some(child), url: String::new(), client: client(), said };
        let said = process.until("Ctrl-C stops\n").await;
        process.url = said.split_once("listens on ").unwrap().1.lines().next().unwrap().to_string();
        process
    }

    /// Everything it said so far.
    pub(super) fn said(&self) -> String {
        self.said.borrow().clone()
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// Waits until it has said this; gives all that it said.
    pub(super) async fn until(&mut self, text: &str) -> String {
        let said = timeout(HUNG, self.said.wait_for(|said| said.contains(text))).await;
        said.ok().and_then(Result::ok).map(|said| said.clone()).unwrap_or_else(|| panic!("no '{text}': {}", *self.said.borrow()))
    }

    /// Tells it to read its settings again.
    pub(super) fn hang_up(&self) {
        assert!(Command::new("kill").args(["-HUP", &self.id().to_string()]).status().unwrap().success());
    }

    /// Asks it to end, as the system does.
    fn terminate(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.id().to_string()]).status().unwrap().success());
    }

    /// Waits for its end; gives the exit code and what it said.
    async fn ended(mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let status = timeout(HUNG, tokio::task::spawn_blocking(move || child.wait().unwrap())).await.expect("it ends").unwrap();
        // The channel closes with the last line.
        while self.said.changed().await.is_ok() {}
        (status.code(), self.said.borrow().clone())
    }

    pub(super) async fn stop(self) -> String {
        self.terminate();
        let (code, said) = self.ended().await;
        assert_eq!(code, Some(0), "{said}");
        said
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    /// A connection that has asked for a path.
    async fn open(&self, path: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address()).await.unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        socket
    }

    /// Memory that the process has of the system, in bytes: `VmRSS`, or `VmHWM` for the most it ever had.
    pub(super) fn memory(&self, what: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// The open files of the process.
    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count()
    }
}

/// The server on a disk that has room for so many KiB in a file.
pub(super) fn within(kib: u32, args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("ulimit -S -f {kib}; exec \"$0\" serve --bind 127.0.0.1:0 \"$@\"")]);
    command.arg(program().get_program()).args(args).envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

/// Reads until the text is there.
async fn until(socket: &mut TcpStream, text: &str) {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        let more = timeout(HUNG, socket.read_buf(&mut read)).await.expect("the server goes on").unwrap();
        assert_ne!(more, 0, "{}", String::from_utf8_lossy(&read));
    }
}

/// A script with a table `feed` over this feed, and the view `orders` over it.
fn script(dir: &Path, feed: &Server) -> String {
    let path = dir.join("init.sql");
    let table = format!("CREATE TABLE feed (id TEXT, text TEXT) WITH (connector = 'sse', endpoint = '{}');\n", feed.url());
    std::fs::write(&path, table + "CREATE VIEW orders AS SELECT id, text FROM feed;\n").unwrap();
    path.to_str().unwrap().to_string()
}

#[tokio::test]
async fn the_demo_says_what_it_serves_and_what_to_type_next() {
    let mut process = Process::start(&["--demo"], &[]).await;
    let said = process.until("Ctrl-C stops").await;
    let url = process.url.clone();
    for line in [
        format!("Streamgauge {} listens on {url}", env!("CARGO_PKG_VERSION")),
        "  views:    metrics_5s, cpu_rolling, vwap_rolling, price_alerts".into(),
        format!("  stream:   demo-stream: curl -N {url}/events"),
        "  kept in:  memory only; --data DIR keeps tables and views over a restart".into(),
        "  access:   everybody on this machine; POST /v1/tokens makes tokens".into(),
        format!("  curl {url}/v1/views/metrics_5s/results"),
        format!("  curl -N {url}/v1/views/metrics_5s/stream"),
    ] {
        assert!(said.lines().any(|said| said == line), "'{line}' is missing in\n{said}");
    }
    // The README's commands.
    let mut stream = process.open("/v1/views/cpu_rolling/stream").await;
    until(&mut stream, "\ndata: {\"op\":\"added\",\"query\":\"cpu_rolling\",\"after\":{\"host\":\"").await;
    let results = process.get("/v1/views/cpu_rolling/results").await;
    assert!(results["count"].as_u64() > Some(0), "{results}");
    let mut all = process.open("/events").await;
    until(&mut all, "\"query\":\"metrics_5s\"").await;
    let said = process.stop().await;
    assert!(said.contains("a client connected") && said.contains("a client is gone") && said.contains("stopping"), "{said}");
}

#[tokio::test]
async fn a_demo_does_not_go_on_with_feeds_that_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = ["--demo", "--data", data.to_str().unwrap()];
    Process::start(&args, &[]).await.stop().await;
    let (code, _, said) = run(&[&["serve", "--bind", "127.0.0.1:0"], args.as_slice()].concat()).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("an earlier demo") && said.contains("leave --data out"), "{said}");
}

#[tokio::test]
async fn a_log_writes_every_change_as_one_line_also_after_a_restart() {
    let row = json!({"id": "a", "text": "95\r\n\u{1b}[31mforged"});
    let (dir, feed) =
        (tempfile::tempdir().unwrap(), Server::start([Feed::stream().event("message", &row.to_string()).stall()]).await);
    let (data, config) = (dir.path().join("data"), dir.path().join("server.toml"));
    let settings = r#"
[[streams]]
kind = "log"
id = "metric-logger"
queries = ["orders"]
routes.orders.added.template = """
CRITICAL: {{after.id}} =
{{{after.text}}}%
"""

[[streams]]
kind = "log"
id = "plain"
views = ["orders"]
default_template.deleted.template = "gone"
"#;
    std::fs::write(&config, settings).unwrap();
    let (data, config, script) = (data.to_str().unwrap(), config.to_str().unwrap(), script(dir.path(), &feed));
    let first = ["--data", data, "--config", config, "--init", &script];
    for args in [&first[..], &["--data", data]] {
        let mut process = Process::start(args, &[]).await;
        let lines = [
            " INFO streamgauge::output: CRITICAL: a = 95  [31mforged% stream=\"metric-logger\" view=\"orders\"\n",
            " INFO streamgauge::output: {\"op\":\"added\",\"query\":\"orders\",\"after\":{\"id\":\"a\",\"text\":\"95\\r\\n\\u001b[31mforged\"}} \
             stream=\"plain\" view=\"orders\"\n",
        ];
        for line in lines {
            process.until(line).await;
        }
        let said = process.stop().await;
        assert_eq!(said.matches("streamgauge::output").count(), 2, "{said}");
    }
}

#[tokio::test]
async fn a_query_in_a_script_of_the_server_is_told_to_become_a_view() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ask.sql");
    std::fs::write(&path, "SHOW TABLES;\nSELECT 1 AS one;\n").unwrap();
    let said = Process::start(&["--init", path.to_str().unwrap()], &[]).await.stop().await;
    assert_eq!(said.matches("ask.sql: a SELECT has nobody here to show its rows to").count(), 1, "{said}");
}

#[tokio::test]
async fn a_thousand_streams_end_with_the_process() {
    let (dir, feed) = (tempfile::tempdir().unwrap(), Server::start([Feed::stream().stall()]).await);
    let process = Process::start(&["--init", &script(dir.path(), &feed)], &[]).await;
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        let mut client = process.open("/v1/views/orders/stream").await;
        until(&mut client, "event: connected").await;
        clients.push(client);
    }
    process.terminate();
    // Connections that are still there after four seconds are cut off: all of these end by themselves, and so before.
    for mut client in clients {
        let mut rest = String::new();
        timeout(HUNG, client.read_to_string(&mut rest)).await.expect("streams end").unwrap();
        assert!(rest.contains("retry: ") && rest.ends_with("0\r\n\r\n"), "{rest:?}");
    }
    let (code, said) = process.ended().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("are cut off"), "{said}");
}

#[tokio::test]
async fn clients_that_come_and_go_ten_thousand_times_leave_nothing() {
    const TIMES: usize = 10_000;
    const AT_ONCE: usize = 25;
    let text = "x".repeat(1_000);
    let events =
        (0..20).fold(Feed::stream(), |feed, id| feed.event("message", &json!({"id": id.to_string(), "text": text}).to_string()));
    let (dir, feed) = (tempfile::tempdir().unwrap(), Server::start([events.stall()]).await);
    let process = Process::start(&["--init", &script(dir.path(), &feed)], &[("RUST_LOG", "warn")]).await;
    let stream = json!({"id": "live", "views": ["orders"], "path": "/live"}).to_string();
    let made = process.client.post(format!("{}/v1/streams", process.url)).header("content-type", "application/json");
    assert_eq!(made.body(stream).send().await.unwrap().status(), 201);
    while process.get("/v1/views/orders/results").await["count"] != 20 {
        yield_now().await;
    }
    until(&mut process.open("/live").await, "snapshot_end").await;
    while process.get("/v1/streams/live").await["stats"]["clients"] != 0 {
        yield_now().await;
    }
    let files = process.files();
    let come_and_go = |worker: usize| {
        let process = &process;
        async move {
            for time in 0..TIMES / AT_ONCE {
                match (worker + time) % 5 {
                    // Says nothing.
                    0 => drop(TcpStream::connect(process.address()).await.unwrap()),
                    // Leaves in the middle of its request, right behind it, in the middle of an event, between two.
                    1 => {
                        TcpStream::connect(process.address()).await.unwrap().write_all(b"GET /live HTTP/1.1\r\nho").await.unwrap()
                    }
                    2 => drop(process.open("/live").await),
                    3 => drop(process.open("/live").await.read(&mut [0; 2_000]).await.unwrap()),
                    _ => until(&mut process.open("/live").await, "snapshot_end").await,
                }
            }
        }
    };
    futures::future::join_all((0..AT_ONCE).map(come_and_go)).await;
    let gone = async {
        loop {
            let stats = process.get("/v1/streams/live").await["stats"].clone();
            if stats["clients"] == 0 && process.files() <= files {
                return stats;
            }
            yield_now().await;
        }
    };
    let stats = timeout(HUNG, gone).await.unwrap_or_else(|_| panic!("{} files instead of {files}", process.files()));
    // Those who stayed until the end of the snapshot were there for sure.
    assert!(stats["connects_total"].as_u64() >= Some(TIMES as u64 / 5), "{stats}");
    process.stop().await;
}

#[tokio::test]
async fn wrong_flags_and_taken_places_are_told_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let write = |name: &str, content: &str| {
        std::fs::write(dir.path().join(name), content).unwrap();
        path(name)
    };
    let process = Process::start(&["--data", &path("data")], &[]).await;
    let taken = process.address().to_string();
    std::fs::create_dir(path("damaged")).unwrap();
    write("damaged/streamgauge.redb", &"garbage".repeat(1_000));
    std::fs::create_dir_all(path("empty/checkpoints")).unwrap();
    write("empty/streamgauge.redb", "");
    write("empty/checkpoints/0000000007.ckpt", "");
    let token = write("token", "short");
    for (args, code, expect) in [
        (&["--bidn", "x"][..], 2, "--bind"),
        (&["--bind", "nowhere"], 2, "'nowhere' is no address with a port"),
        (&["--bind", &taken], 1, "another process listens there; stop it, or give another port with --bind"),
        (&["--bind", "192.0.2.1:8000"], 2, "set STREAMGAUGE_TOKEN or give --token-file FILE"),
        (&["--bind", "192.0.2.1:8000", "--insecure-no-auth"], 1, "this machine has no such address"),
        (&["--data", &path("data")], 1, "is in use by another process"),
        (&["--data", &write("file", "")], 1, "cannot be used"),
        // Nobody can make a directory there, not even root.
        (&["--data", "/proc/streamgauge"], 1, "'/proc/streamgauge' cannot be used"),
        (&["--data", &path("damaged")], 1, "is damaged"),
        (&["--data", &path("empty")], 1, "nothing is in it, and there are checkpoints beside it"),
        (&["--init", &path("none.sql")], 2, "none.sql' cannot be read"),
        (&["--init", &write("bad.sql", "SELECT 1;\nCREATE VIEW v AS SELECT x FROM nothing;")], 2, "bad.sql:2:32"),
        (&["--token-file", &token], 2, "less than 16 characters"),
        (&["--config", &path("none.toml")], 2, "none.toml' cannot be read"),
        (&["--config", &write("a.toml", "data = 'x'\n[http]\nhots = ['a']")], 2, "line 3, column 1); did you mean 'hosts'?"),
        (&["--config", &write("b.toml", "[http]\n\nheartbeat = '5'")], 2, "line 3, column 1"),
        (&["--config", &write("c.toml", "bind = ")], 2, "line 1, column"),
        (&["--config", &write("d.toml", "[[streams]]\nid = 'a'\nviews = ['none']")], 2, "the view 'none' is not there"),
    ] {
        let bind: &[&str] = if args.contains(&"--bind") { &[] } else { &["--bind", "127.0.0.1:0"] };
        let args = [&["serve"], bind, args].concat();
        let (found, out, err) = timeout(HUNG, run(&args)).await.unwrap_or_else(|_| panic!("{args:?} goes on"));
        assert_eq!((found, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(err.replace("\n help: ", "; ").contains(expect), "{args:?}: {err}");
        assert!(!err.contains("panicked") && !err.contains("listens on"), "{args:?}: {err}");
    }
    process.stop().await;
}
