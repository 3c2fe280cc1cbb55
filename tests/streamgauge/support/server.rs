//! A server of event streams that does exactly what a script says, byte by byte: drips, cuts, stalls, lies, redirects, compresses, replays.
//!
//! ```ignore
//! let server = Server::start([Answer::stream().text("id: 1\ndata: a\n\n").cut(), Answer::status(204)]).await;
//! // … read from server.url() …
//! assert_eq!(server.requests()[1].header("last-event-id"), Some("1"));
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// Lets a script go on where it waits. One `notify_one` opens one wait, also before it is reached.
pub type Signal = Arc<Notify>;

/// A running server; it ends with the value.
pub struct Server {
    address: SocketAddr,
    requests: watch::Receiver<Vec<Request>>,
    /// Connections that are open.
    open: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
    authority: Option<Authority>,
}

/// A private certificate authority that exists as a file.
struct Authority {
    directory: tempfile::TempDir,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Whether the client has proved by a certificate who it is.
    pub has_certificate: bool,
}

impl Request {
    /// The value of a header, its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a query parameter, as it was written.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// What one connection gets. After the last step the body ends as HTTP says it should, and the connection closes.
#[derive(Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    gzip: bool,
    steps: Vec<Step>,
    /// Bytes of the body as on the wire after which the connection is cut.
    cut_at: Option<usize>,
    /// Instead of all this: what a function makes of the request.
    by: Option<By>,
}

type By = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// `Transfer-Encoding: chunked`, one chunk a step.
    Chunked,
    /// The end of the connection is the end of the body.
    Close,
    /// `Content-Length`, which only works without waits.
    Length,
    /// Not even a status line.
    Nothing,
}

#[derive(Clone)]
enum Step {
    Bytes(Vec<u8>),
    Wait(Signal),
    Stall,
    Cut,
}

#[allow(dead_code)]
impl Answer {
    /// 200 and `text/event-stream`, chunked, with nothing in it yet.
    pub fn stream() -> Answer {
        Answer::status(200).header("Content-Type", "text/event-stream")
    }

    /// A status with an empty body.
    pub fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), framing: Framing::Chunked, gzip: false, steps: Vec::new(), cut_at: None, by: None }
    }

    pub fn redirect(status: u16, location: &str) -> Answer {
        Answer::status(status).header("Location", location)
    }

    /// Takes the request and never answers.
    pub fn silence() -> Answer {
        Answer { framing: Framing::Nothing, ..Answer::status(0) }.stall()
    }

    /// Takes the request and hangs up.
    pub fn hang_up() -> Answer {
        Answer { framing: Framing::Nothing, ..Answer::status(0) }
    }

    /// What a function makes of the request.
    pub fn by(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Answer {
        Answer { by: Some(Arc::new(answer)), ..Answer::status(0) }
    }

    /// Serves `events` numbered from 1 in their ids, those after `Last-Event-ID` only; ends the body after the last.
    pub fn replay(events: Vec<String>) -> Answer {
        Answer::by(move |request| {
            let after: usize = request.header("last-event-id").map_or(0, |id| id.parse().unwrap());
            let rest = events.iter().enumerate().skip(after);
            rest.fold(Answer::stream(), |answer, (index, data)| answer.text(&format!("id: {}\ndata: {data}\n\n", index + 1)))
        })
    }

    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn content_type(mut self, value: &str) -> Answer {
        self.headers.retain(|(name, _)| name != "Content-Type");
        self.header("Content-Type", value)
    }

    /// Sends these bytes at once, as one HTTP chunk.
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Answer {
        self.steps.push(Step::Bytes(bytes.into()));
        self
    }

    pub fn text(self, text: &str) -> Answer {
        self.bytes(text.as_bytes())
    }

    /// An event of a type, `message` for none.
    pub fn event(self, kind: &str, data: &str) -> Answer {
        self.text(&format!("event: {kind}\ndata: {data}\n\n"))
    }

    /// Sends every byte on its own.
    pub fn drip(self, text: &str) -> Answer {
        text.bytes().fold(self, |answer, byte| answer.bytes([byte]))
    }

    /// Goes on only when signalled.
    pub fn wait(mut self, signal: &Signal) -> Answer {
        self.steps.push(Step::Wait(signal.clone()));
        self
    }

    /// Sends nothing more and keeps the connection open.
    pub fn stall(mut self) -> Answer {
        self.steps.push(Step::Stall);
        self
    }

    /// Closes the connection without an end of the body.
    pub fn cut(mut self) -> Answer {
        self.steps.push(Step::Cut);
        self
    }

    /// Cuts the connection after so many bytes of the body as they are on the wire.
    pub fn cut_at(mut self, bytes: usize) -> Answer {
        self.cut_at = Some(bytes);
        self
    }

    pub fn close_delimited(mut self) -> Answer {
        self.framing = Framing::Close;
        self
    }

    pub fn with_length(mut self) -> Answer {
        self.framing = Framing::Length;
        self
    }

    /// Compresses the body, flushed with every step.
    pub fn gzip(mut self) -> Answer {
        self.gzip = true;
        self.header("Content-Encoding", "gzip")
    }
}

#[allow(dead_code)]
impl Server {
    /// A server on a free port of 127.0.0.1: the first request gets the first answer, and so on; once they are used up, every request
    /// gets the last one.
    pub async fn start(script: impl Into<Vec<Answer>>) -> Server {
        Server::serve(script.into(), None).await
    }

    /// The same over TLS with a certificate for `localhost` of a private authority: [`Server::authority_file`].
    pub async fn start_tls(script: impl Into<Vec<Answer>>) -> Server {
        Server::serve(script.into(), Some(certify())).await
    }

    async fn serve(script: Vec<Answer>, tls: Option<(TlsAcceptor, Authority)>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (record, requests) = watch::channel(Vec::new());
        let (count, open) = watch::channel(0);
        let count = Arc::new(count);
        let (acceptor, authority) = tls.unzip();
        let script = Arc::new(Mutex::new(script.into_iter().collect::<std::collections::VecDeque<_>>()));
        let record = Arc::new(record);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (script, record, acceptor, count) = (script.clone(), record.clone(), acceptor.clone(), count.clone());
                count.send_modify(|open| *open += 1);
                connections.spawn(async move {
                    // A client that goes away, or does not trust us, ends its connection only.
                    let _ = match acceptor {
                        None => converse(socket, false, &script, &record).await,
                        Some(acceptor) => handshake(acceptor, socket, &script, &record).await,
                    };
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        Server { address, requests, open, task, authority }
    }

    /// The root of the server, without a slash at its end.
    pub fn url(&self) -> String {
        match self.authority {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    /// The same server under another origin.
    pub fn other_url(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    /// Waits for the request with this number, counted from 0.
    pub async fn request(&self, number: usize) -> Request {
        let mut requests = self.requests.clone();
        let requests = requests.wait_for(|requests| requests.len() > number).await.unwrap();
        requests[number].clone()
    }

    /// Waits until no connection is open.
    pub async fn closed(&self) {
        self.closed_but(0).await;
    }

    /// Waits until so many connections are open.
    pub async fn closed_but(&self, number: usize) {
        self.open.clone().wait_for(|open| *open == number).await.unwrap();
    }

    /// The certificate authority of a server with TLS, in PEM.
    pub fn authority_file(&self) -> PathBuf {
        self.tls_file("ca.pem")
    }

    /// A client's certificate from that authority with its key, in PEM.
    pub fn client_file(&self) -> PathBuf {
        self.tls_file("client.pem")
    }

    fn tls_file(&self, name: &str) -> PathBuf {
        self.authority.as_ref().expect("the server was started with TLS").directory.path().join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An authority, a server's certificate and a client's, the latter as `client.pem`.
fn certify() -> (TlsAcceptor, Authority) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap();
    let issuer = Issuer::new(parameters, key);
    let leaf = |name: &str| {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, &issuer).unwrap(), key)
    };
    let directory = tempfile::tempdir().unwrap();
    file(directory.path(), "ca.pem", certificate.pem().as_bytes());
    let (client, client_key) = leaf("client");
    file(directory.path(), "client.pem", format!("{}{}", client.pem(), client_key.serialize_pem()).as_bytes());
    let (server, server_key) = leaf("localhost");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![server.der().clone()], PrivateKeyDer::try_from(server_key.serialize_der()).unwrap())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), Authority { directory })
}

type Script = Mutex<std::collections::VecDeque<Answer>>;
type Record = watch::Sender<Vec<Request>>;

async fn handshake(acceptor: TlsAcceptor, socket: TcpStream, script: &Script, record: &Record) -> std::io::Result<()> {
    let socket = acceptor.accept(socket).await?;
    let is_known = socket.get_ref().1.peer_certificates().is_some();
    converse(socket, is_known, script, record).await
}

async fn converse(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    has_certificate: bool,
    script: &Script,
    record: &Record,
) -> std::io::Result<()> {
    let request = Request { has_certificate, ..request(&mut socket).await? };
    let answer = {
        let mut script = script.lock().unwrap();
        if script.len() > 1 { script.pop_front().unwrap() } else { script[0].clone() }
    };
    let answer = match answer.by {
        Some(by) => Answer { cut_at: answer.cut_at, framing: answer.framing, ..by(&request) },
        None => answer,
    };
    record.send_modify(|requests| requests.push(request));
    let (mut read, mut write) = tokio::io::split(socket);
    tokio::select! {
        sent = respond(&mut write, answer) => sent,
        // A client that says nothing more closes when it goes away.
        _ = read.read_u8() => Ok(()),
    }
}

async fn request(socket: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default().to_string(), first.next().unwrap_or_default().to_string());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    while bytes.len() < end + 4 + length {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    Ok(Request { method, target, headers, body, has_certificate: false })
}

async fn respond(socket: &mut (impl AsyncWrite + Unpin), answer: Answer) -> std::io::Result<()> {
    let mut gzip = answer.gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    let mut head = format!("HTTP/1.1 {} Scripted\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let length: usize = answer.steps.iter().map(|step| if let Step::Bytes(bytes) = step { bytes.len() } else { 0 }).sum();
    match answer.framing {
        Framing::Chunked if answer.status == 204 => {}
        Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
        Framing::Length => head += &format!("Content-Length: {length}\r\n"),
        Framing::Close | Framing::Nothing => {}
    }
    if answer.framing != Framing::Nothing {
        socket.write_all(format!("{head}\r\n").as_bytes()).await?;
        socket.flush().await?;
    }
    let mut left = answer.cut_at.unwrap_or(usize::MAX);
    for step in answer.steps {
        match step {
            Step::Bytes(bytes) => {
                let bytes = match &mut gzip {
                    Some(gzip) => {
                        gzip.write_all(&bytes)?;
                        gzip.flush()?;
                        std::mem::take(gzip.get_mut())
                    }
                    None => bytes,
                };
                if !send(socket, answer.framing, &bytes, &mut left).await? {
                    return Ok(());
                }
            }
            Step::Wait(signal) => signal.notified().await,
            Step::Stall => std::future::pending().await,
            Step::Cut => return Ok(()),
        }
    }
    if let Some(gzip) = gzip
        && !send(socket, answer.framing, &gzip.finish()?, &mut left).await?
    {
        return Ok(());
    }
    if answer.framing == Framing::Chunked && answer.status != 204 {
        write(socket, b"0\r\n\r\n", &mut left).await?;
    }
    socket.shutdown().await
}

/// Sends bytes of the body; `false` if the connection is to be cut here.
async fn send(socket: &mut (impl AsyncWrite + Unpin), framing: Framing, bytes: &[u8], left: &mut usize) -> std::io::Result<bool> {
    if framing != Framing::Chunked {
        return write(socket, bytes, left).await;
    }
    if bytes.is_empty() {
        return Ok(true);
    }
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    write(socket, &chunk, left).await
}

async fn write(socket: &mut (impl AsyncWrite + Unpin), bytes: &[u8], left: &mut usize) -> std::io::Result<bool> {
    let now = bytes.len().min(*left);
    socket.write_all(&bytes[..now]).await?;
    socket.flush().await?;
    *left -= now;
    Ok(now == bytes.len() && *left > 0)
}

/// A file with this content that lives as long as the directory.
#[allow(dead_code)]
pub fn file(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path
}
