//! The program that is measured, and how it is asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// A server as a process of its own; it is killed with the value. What it warns of is shown.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Waits until it listens, on a free port; `configure` adds arguments and variables.
    pub fn start(configure: impl FnOnce(&mut Command)) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamgauge"));
        command.args(["serve", "--bind", "127.0.0.1:0"]).stderr(Stdio::piped());
        configure(&mut command);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map(Result::unwrap).find_map(|line| line.split_once("listens on http://")?.1.parse().ok());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|line| line.contains("WARN") || line.contains("ERROR")) {
                eprintln!("server: {line}");
            }
        });
        Server { child, address: address.expect("the server says where it listens") }
    }

    pub fn sql(&self, statement: &str) {
        let answer = self.ask("POST", "/v1/sql", &json!({"sql": statement}).to_string());
        assert!(answer["results"].is_array(), "{statement}: {answer}");
    }

    /// The JSON that a request is answered with.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let text = self.text(method, path, body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub fn text(&self, method: &str, path: &str, body: &str) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_string()
    }
}
