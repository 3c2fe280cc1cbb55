//! What the server is told before it starts: defaults, a TOML file, the environment, flags; each over the one before.

mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::source::{assign, expand, overlay, parse, placed, told};
use super::body::{BODY_BYTES_MAX, misfit, pointer};
use super::proxies::Networks;
use crate::engine::memory_max_default;
use crate::error::{Code, Error, Result};
use crate::options;

/// Variables of this prefix set settings: `STREAMGAUGE_BIND`, and `STREAMGAUGE_HTTP__HOSTS` for `hosts` in `[http]`.
const PREFIX: &str = "STREAMGAUGE_";

/// The quick way to `auth.token`.
const TOKEN: &str = "STREAMGAUGE_TOKEN";

/// What feeds may use as `{{ NAME }}` on a server that others can reach, unless `secrets.env` says otherwise.
const SECRET_PREFIX: &str = "STREAMGAUGE_SECRET_";

/// The program itself takes about as much.
const MEMORY_MIN: usize = 64 << 20;

/// A shorter token can be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// Everything that `streamgauge serve` can be told. `Debug` shows no secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where REST and streams are: address and port.
    #[serde(deserialize_with = "address")]
    pub bind: SocketAddr,
    /// More addresses with the same content.
    #[serde(deserialize_with = "addresses")]
    pub listeners: Vec<SocketAddr>,
    /// The data directory. Without one, what is defined ends with the process.
    pub data: Option<PathBuf>,
    /// How often the state of tables and views is brought into the data directory.
    #[serde(deserialize_with = "duration")]
    pub checkpoint_interval: Duration,
    /// What tables and views may hold in memory together, such as `2GiB`. Default: three quarters of the machine's, or of what its
    /// control group allows.
    #[serde(deserialize_with = "size")]
    pub memory_max: usize,
    /// SQL files to run at the start; what they make and is there already is left as it is.
    pub init: Words,
    pub auth: Auth,
    pub http: Http,
    pub secrets: Secrets,
    pub feeds: Feeds,
    pub ready: Ready,
    pub log: LogSettings,
    /// Named streams, as `POST /v1/streams` takes them.
    pub streams: Vec<Value>,
}

/// `[auth]`: who may.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// A token that may do everything.
    #[serde(deserialize_with = "secret")]
    pub token: Option<SecretString>,
    /// A file with such a token.
    pub token_file: Option<PathBuf>,
    /// More tokens, with scopes.
    pub tokens: Vec<Token>,
    /// Everybody may do everything, on whatever address.
    pub insecure_no_auth: bool,
}

/// `[[auth.tokens]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    pub name: String,
    #[serde(deserialize_with = "required_secret")]
    pub token: SecretString,
    /// `read`, `stream:<view>`, `write`, `admin`.
    pub scopes: Words,
}

/// `[http]`: who is let in, and how many.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Names by which the server may be called besides `localhost` and loopback addresses. Off loopback without tokens: all.
    pub hosts: Words,
    /// Origins whose pages may read answers: `https://dashboard.example`. Streams may name more.
    pub cors_origins: Words,
    /// The largest body of a request.
    pub body_bytes_max: usize,
    /// Open streams, all together.
    pub streams_max: usize,
    /// Open streams of one address. Default: 50, but for this machine, where a proxy's clients all seem to be.
    pub streams_per_address_max: Option<usize>,
    /// Open streams of one token, also by its tickets.
    pub streams_per_token_max: usize,
    /// New streams a second from one address. Default: 100, but for this machine.
    pub connects_per_second_max: Option<u32>,
    /// A silent stream says so often that it is alive.
    #[serde(deserialize_with = "duration")]
    pub heartbeat: Duration,
    /// Addresses (`10.0.0.1`) and networks (`10.0.0.0/8`) of proxies: what they say in `X-Forwarded-For`, else `Forwarded`, is believed.
    pub trusted_proxies: Networks,
    /// The prefix below which a proxy shows the server: `/gauge`. Requests are taken with and without it.
    #[serde(deserialize_with = "base_path")]
    pub base_path: String,
    /// Open connections, all together. Default: what the limit of open files allows, with room for feeds and files.
    pub connections_max: Option<usize>,
    /// Open connections of one address. Default: half of all, but as many as there are for this machine and for trusted proxies.
    pub connections_per_address_max: Option<usize>,
    /// How long the first request may take to say what it wants.
    #[serde(deserialize_with = "duration")]
    pub head_timeout: Duration,
    /// How long a body may take.
    #[serde(deserialize_with = "duration")]
    pub body_timeout: Duration,
    /// How long a connection may wait for its next request.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    /// A client that takes nothing of an answer for so long is gone.
    #[serde(deserialize_with = "duration")]
    pub unread_timeout: Duration,
}

/// `[secrets]`: what feeds may use as `{{ NAME }}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// Names of environment variables, `PREFIX_*`, or `*` for all. Default: all where only this machine can reach the server, else
    /// `STREAMGAUGE_SECRET_*`.
    pub env: Option<Words>,
    /// The hosts that may get a variable: `SSE_TOKEN = ["api.example.com"]`. One that is not here may go to any.
    pub bind: BTreeMap<String, Words>,
    /// Values that feeds find before they look into the environment: `SSE_TOKEN = "${file:/run/secrets/sse_token}"`.
    #[serde(deserialize_with = "secrets")]
    pub values: BTreeMap<String, SecretString>,
}

/// `[feeds]`: where feeds may come from.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Feeds {
    /// Hosts and addresses that may be read although they are of this network or of the cloud's own services.
    pub allow_hosts: Words,
    /// Whether a table may read a file of this machine.
    pub files: bool,
    /// The sockets of feeds that the program serves itself.
    #[serde(skip)]
    pub own: Vec<SocketAddr>,
}

/// `[ready]`: without what the server is not ready. By default it is ready once its views were started, however feeds fare.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ready {
    /// Tables whose feeds must be connected or complete; `*` for all.
    pub tables: Words,
    /// Views that must run; `*` for all.
    pub views: Words,
}

/// `[log]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What was typed after `streamgauge serve`. A flag that is absent leaves the setting as it is.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct Flags {
    /// Settings in TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen; another address than this machine's own needs a token [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<String>,
    /// Keep tables, views, streams and tokens in this directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// What tables and views may hold in memory, such as 2GiB [default: three quarters of the machine's]
    #[arg(long, value_name = "SIZE")]
    pub memory_max: Option<String>,
    /// Run a SQL file first; may be given several times
    #[arg(long, value_name = "FILE")]
    pub init: Vec<PathBuf>,
    /// Take requests with the token in this file; STREAMGAUGE_TOKEN is another way
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Let everybody do everything
    #[arg(long)]
    pub insecure_no_auth: bool,
    /// How the log looks
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// A list, written as one or as `a, b`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl Settings {
    /// Reads the file that the flags name, then `environment`, then the flags themselves. Errors in the file have line and column.
    pub fn read(
        flags: &Flags,
        environment: impl Fn(&str) -> Option<String>,
        names: impl Iterator<Item = String>,
    ) -> Result<Self> {
        let text = match &flags.config {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                Error::new(Code::Settings, format!("the settings '{}' cannot be read: {error}", path.display()))
                    .hint("give a TOML file with --config FILE")
            })?,
            None => String::new(),
        };
        let file = flags.config.as_deref().unwrap_or(Path::new("settings"));
        let mut settings = parse(&text, file)?;
        expand(&mut settings, &environment).map_err(|(pointer, reason)| {
            placed(Error::new(Code::Settings, format!("{} {reason}", told(&pointer))), &text, &pointer, file)
        })?;
        for name in names {
            if let Some(value) = environment(&name) {
                assign(&mut settings, &name, &value);
            }
        }
        overlay(&mut settings, flags);
        let mut read: Settings = serde_path_to_error::deserialize(settings).map_err(|error| {
            let misfit = misfit(pointer(error.path()), &error.inner().to_string(), "setting");
            let pointer = misfit.pointer.clone();
            let message = match misfit.code {
                Code::BadOption => format!("{}: {}", told(&pointer), misfit.message),
                _ => misfit.message,
            };
            let error = Error::new(Code::Settings, message);
            placed(misfit.hint.into_iter().fold(error, Error::hint), &text, &pointer, file)
        })?;
        if read.http.cors_origins.0.iter().any(|origin| origin == "*") {
            return Err(Error::new(
                Code::Settings,
                "the setting 'http.cors_origins' cannot be '*': every page could change everything",
            )
            .hint("name the origins, or give '*' to cors_origins of a public stream"));
        }
        read.auth.fill()?;
        Ok(read)
    }

    /// From the process: its environment, and what was typed.
    pub fn of_process(flags: &Flags) -> Result<Self> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        Settings::read(flags, |name| std::env::var(name).ok(), names)
    }

    /// Refuses to listen where strangers are, unless somebody keeps the door. `stored` tells that the store has a token for `admin`.
    pub fn check(&self, stored: bool) -> Result<()> {
        self.addresses().try_for_each(|address| self.may_listen(address, stored))
    }

    /// As [`Settings::check`], for the own address of one stream.
    pub fn may_listen(&self, address: SocketAddr, stored: bool) -> Result<()> {
        if address.ip().is_loopback() || self.auth.insecure_no_auth || self.auth.has_tokens() || stored {
            return Ok(());
        }
        Err(Error::new(Code::Settings, format!("on {address} everybody in reach could change everything: no token is set"))
            .hint(format!("set {TOKEN} or give --token-file FILE; to go without, give --insecure-no-auth; or stay on 127.0.0.1")))
    }

    /// All addresses to listen on, streams with their own host aside.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.bind).chain(self.listeners.iter().copied())
    }

    /// Whether only this machine can reach the server, as far as the settings say.
    pub fn is_loopback_only(&self) -> bool {
        let own = |stream: &Value| stream.get("host").and_then(Value::as_str).is_none_or(is_loopback);
        self.addresses().all(|address| address.ip().is_loopback()) && self.streams.iter().all(own)
    }

    /// The environment variables that a feed may use as `{{ NAME }}`: names, or beginnings with a `*`.
    pub fn permitted(&self) -> Vec<String> {
        match &self.secrets.env {
            Some(names) => names.0.clone(),
            None if self.is_loopback_only() => vec!["*".into()],
            None => vec![format!("{SECRET_PREFIX}*")],
        }
    }
}

impl Auth {
    /// Whether the settings name a token.
    pub fn has_tokens(&self) -> bool {
        self.token.is_some() || !self.tokens.is_empty()
    }

    /// Takes the token out of its file, and refuses tokens that can be guessed.
    pub fn fill(&mut self) -> Result<()> {
        if let Some(file) = &self.token_file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Error::new(Code::Settings, format!("the token file '{}' cannot be read: {error}", file.display()))
                    .hint("give a file with one token in it")
            })?;
            self.token = Some(SecretString::from(text.trim()));
        }
        let named = self.token.iter().map(|token| ("auth.token", token));
        let scoped = self.tokens.iter().map(|token| (token.name.as_str(), &token.token));
        for (name, token) in named.chain(scoped) {
            if token.expose_secret().chars().count() < TOKEN_CHARS_MIN {
                return Err(Error::new(Code::Settings, format!("the token '{name}' has less than {TOKEN_CHARS_MIN} characters"))
                    .hint("make one with `openssl rand -hex 32`"));
            }
        }
        Ok(())
    }
}

/// Whether a variable is one of the server's own settings, among them its token: nobody's to use.
pub fn is_own(name: &str) -> bool {
    name.starts_with(PREFIX) && !name.starts_with(SECRET_PREFIX)
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            bind: (Ipv4Addr::LOCALHOST, 8000).into(),
            listeners: Vec::new(),
            data: None,
            checkpoint_interval: Duration::from_secs(10),
            memory_max: memory_max_default(),
            init: Words::default(),
            auth: Auth::default(),
            http: Http::default(),
            secrets: Secrets::default(),
            feeds: Feeds::default(),
            ready: Ready::default(),
            log: LogSettings::default(),
            streams: Vec::new(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Http {
            hosts: Words::default(),
            cors_origins: Words::default(),
            body_bytes_max: BODY_BYTES_MAX,
            streams_max: 1_000,
            streams_per_address_max: None,
            streams_per_token_max: 50,
            connects_per_second_max: None,
            heartbeat: Duration::from_secs(30),
            trusted_proxies: Networks::default(),
            base_path: String::new(),
            connections_max: None,
            connections_per_address_max: None,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            unread_timeout: Duration::from_secs(60),
        }
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Words;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts, or one text with commas")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Words, E> {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Ok(Words(words.map(str::to_string).collect()))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(Words(words))
            }
        }
        from.deserialize_any(Visitor)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    read_address(&String::deserialize(from)?).map_err(de::Error::custom)
}

fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    Words::deserialize(from)?.0.iter().map(|text| read_address(text).map_err(de::Error::custom)).collect()
}

/// An address and a port; `localhost` is the only name, since others may change what they mean.
fn read_address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let parsed = numeric.as_deref().unwrap_or(text).parse();
    parsed.map_err(|_| format!("'{text}' is no address with a port; write it like 127.0.0.1:8000 or [::1]:8000"))
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let read = <Duration as options::Value>::read(&text).map_err(|reason| format!("'{text}' {reason}"));
    match read {
        Ok(Duration::ZERO) => Err(de::Error::custom("it must be longer than nothing")),
        Ok(duration) => Ok(duration),
        Err(reason) => Err(de::Error::custom(reason)),
    }
}

/// A size with its unit. Less than [`MEMORY_MIN`] is a slip.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    let text = String::deserialize(from)?;
    match <options::Bytes as options::Value>::read(&text) {
        Ok(options::Bytes(bytes)) if bytes < MEMORY_MIN => Err(de::Error::custom(format!("'{text}' is less than 64MiB"))),
        Ok(options::Bytes(bytes)) => Ok(bytes),
        Err(reason) => Err(de::Error::custom(format!("'{text}' {reason}; give {}", <options::Bytes as options::Value>::EXPECTS))),
    }
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    required_secret(from).map(Some)
}

fn required_secret<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from).map(SecretString::from)
}

fn secrets<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, SecretString>, D::Error> {
    let texts = BTreeMap::<String, String>::deserialize(from)?;
    Ok(texts.into_iter().map(|(name, text)| (name, text.into())).collect())
}

/// A path that begins with a slash and does not end with one; `/` is none.
fn base_path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let path = text.trim_end_matches('/');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    match path.is_empty() || path.starts_with('/') && !path.contains("//") && path.bytes().all(is_plain) {
        true => Ok(path.to_string()),
        false => Err(de::Error::custom(format!("'{text}' is no path; write it like /gauge"))),
    }
}

#[cfg(test)]
mod tests;
