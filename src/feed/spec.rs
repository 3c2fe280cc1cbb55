//! Where and how to read a feed: a table's options, checked once, without a look at network, files or environment.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::header::{Header, Template, Variables, environment, read_headers};
use super::policy::Policy;
use super::secrets::{Secrets, sounds_secret};
use crate::error::{Code, Error, Result};
use crate::options::{Connector, Endpoint, ReadTimeout, Resume, TableOptions};

/// A feed as its user means it; valid by construction.
#[derive(Clone)]
pub struct FeedSpec {
    pub(super) source: FeedSource,
    /// The event types to hand on; empty for all.
    pub(super) wanted: Vec<String>,
    pub(super) max_event_bytes: usize,
    pub(super) terminator: Option<String>,
    pub(super) last_event_id: String,
    pub(super) deduplicate: bool,
    pub(super) reconnect: bool,
    pub(super) reconnect_delay: Duration,
    pub(super) reconnect_max_delay: Duration,
    pub(super) max_reconnect_attempts: Option<u64>,
    pub(super) read_timeout: ReadTimeout,
    pub(super) variables: Variables,
    pub(super) policy: Arc<Policy>,
}

#[derive(Clone)]
pub(super) enum FeedSource {
    Http(Box<Request>),
    File(PathBuf),
}

/// The request that every connection of a feed sends.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) endpoint: Endpoint,
    pub(super) method: Method,
    pub(super) headers: Vec<Header>,
    pub(super) body: Option<Template>,
    pub(super) resume: Resume,
    pub(super) connect_timeout: Duration,
    pub(super) read_timeout: ReadTimeout,
    pub(super) proxy: Option<String>,
    pub(super) tls_ca_file: Option<PathBuf>,
    pub(super) tls_client_file: Option<PathBuf>,
}

impl std::fmt::Debug for FeedSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spec").field("source", &self.shown()).field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl FeedSpec {
    /// Reads the part of a table's options that concerns its feed; all errors, not only the first.
    pub fn new(options: &TableOptions) -> Result<FeedSpec, Vec<Error>> {
        let mut errors = Vec::new();
        let source = match options.connector {
            Connector::File => match &options.path {
                Some(path) => Some(FeedSource::File(path.clone())),
                None => {
                    errors.push(missing("path", "file", "'events.ndjson'"));
                    None
                }
            },
            Connector::Sse => request(options, &mut errors).map(|request| FeedSource::Http(Box::new(request))),
        };
        if options.reconnect_delay > options.reconnect_max_delay {
            errors.push(
                Error::new(
                    Code::BadOption,
                    format!(
                        "option 'reconnect_delay' ({}) is longer than 'reconnect_max_delay' ({})",
                        humantime::format_duration(options.reconnect_delay),
                        humantime::format_duration(options.reconnect_max_delay)
                    ),
                )
                .hint("raise reconnect_max_delay"),
            );
        }
        match source {
            Some(source) if errors.is_empty() => Ok(FeedSpec {
                source,
                wanted: options.events.0.clone(),
                max_event_bytes: options.max_event_bytes.0,
                terminator: options.terminator.clone(),
                last_event_id: options.last_event_id.clone().unwrap_or_default(),
                deduplicate: options.deduplicate,
                reconnect: options.reconnect.unwrap_or(options.method.0 != "POST"),
                reconnect_delay: options.reconnect_delay,
                reconnect_max_delay: options.reconnect_max_delay,
                max_reconnect_attempts: options.max_reconnect_attempts,
                read_timeout: options.read_timeout,
                variables: environment(),
                policy: Arc::default(),
            }),
            _ => Err(errors),
        }
    }

    /// Whether the feed is a file, which can be read again from its beginning.
    pub fn is_file(&self) -> bool {
        matches!(self.source, FeedSource::File(_))
    }

    /// Whether another spec reads the same feed, if only in another way.
    pub fn is_same_place(&self, other: &FeedSpec) -> bool {
        match (&self.source, &other.source) {
            (FeedSource::Http(one), FeedSource::Http(other)) => one.endpoint == other.endpoint,
            (FeedSource::File(one), FeedSource::File(other)) => one == other,
            _ => false,
        }
    }

    /// What [`FeedSpec::is_same_place`] compares, as text: it may hold secrets.
    pub fn place(&self) -> String {
        match &self.source {
            FeedSource::Http(request) => format!("{:?}", request.endpoint),
            FeedSource::File(path) => format!("{path:?}"),
        }
    }

    /// Whether the feed ends by what its user said: a file, one connection only, or a terminator in the data.
    pub fn is_finite(&self) -> bool {
        self.is_file() || !self.reconnect || self.terminator.is_some()
    }

    /// The variables in headers and body that have no value now; connecting would fail for them.
    pub fn unset_variables(&self) -> Vec<&str> {
        let FeedSource::Http(request) = &self.source else { return Vec::new() };
        let templates = request.headers.iter().map(|header| &header.value).chain(&request.body);
        let mut unset: Vec<&str> = templates.flat_map(Template::names).filter(|name| (self.variables)(name).is_none()).collect();
        unset.sort_unstable();
        unset.dedup();
        unset
    }

    /// Takes the values of `{{ NAME }}` from elsewhere than the environment.
    pub fn with_variables(mut self, variables: Variables) -> FeedSpec {
        self.variables = variables;
        self
    }

    /// The same feed under a policy, if that allows it; all that is not allowed otherwise.
    pub fn with_policy(mut self, policy: Arc<Policy>) -> Result<FeedSpec, Vec<Error>> {
        let checks = match &self.source {
            FeedSource::File(_) => vec![policy.check_files("path")],
            FeedSource::Http(request) => request.check(&policy),
        };
        let errors: Vec<Error> = checks.into_iter().filter_map(Result::err).collect();
        let (values, others) = (policy.values.clone(), self.variables);
        self.variables = Arc::new(move |name| values.get(name).or_else(|| others(name)));
        self.policy = policy;
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }

    /// The place of the feed for people: no password, no query.
    pub fn shown(&self) -> String {
        match &self.source {
            FeedSource::Http(request) => request.shown(),
            FeedSource::File(path) => path.display().to_string(),
        }
    }
}

fn request(options: &TableOptions, errors: &mut Vec<Error>) -> Option<Request> {
    let headers = read_headers(&options.headers).map_err(|more| errors.extend(more)).ok();
    let body = options.body.as_deref().map(Template::read).transpose();
    let body = body.map_err(|reason| errors.push(Error::new(Code::BadOption, format!("option 'body' {reason}")))).ok();
    let method = Method::from_bytes(options.method.0.as_bytes());
    let method = method.map_err(|_| errors.push(Error::new(Code::BadOption, "option 'method' is no HTTP method"))).ok();
    if let Some(proxy) = options.proxy.as_deref().filter(|proxy| *proxy != "off") {
        let scheme = Url::parse(proxy).map(|url| url.scheme().to_string()).unwrap_or_default();
        if !matches!(scheme.as_str(), "http" | "https" | "socks5" | "socks5h") {
            errors.push(
                Error::new(Code::BadOption, "option 'proxy' is no URL of a proxy")
                    .hint("give one such as `http://proxy:3128` or `socks5://proxy:1080`, or `off`"),
            );
        }
    }
    let Some(endpoint) = options.endpoint.clone() else {
        errors.push(missing("endpoint", "sse", "'https://example.com/events'"));
        return None;
    };
    Some(Request {
        endpoint,
        method: method?,
        headers: headers?,
        body: body?,
        resume: options.resume.clone(),
        connect_timeout: options.connect_timeout,
        read_timeout: options.read_timeout,
        proxy: options.proxy.clone(),
        tls_ca_file: options.tls_ca_file.clone(),
        tls_client_file: options.tls_client_file.clone(),
    })
}

fn missing(name: &str, connector: &str, example: &str) -> Error {
    Error::new(Code::MissingOption, format!("option '{name}' is missing: connector '{connector}' requires it"))
        .hint(format!("add {name} = {example}"))
}

/// What a request needs from the environment, filled in for one connection.
pub(super) struct Filled {
    /// Without user and password.
    pub(super) url: Url,
    /// `Authorization` from the user and password of the endpoint.
    pub(super) basic: Option<SecretString>,
    /// Names, values, and whether the value is a secret, which shows nowhere.
    pub(super) headers: Vec<(reqwest::header::HeaderName, SecretString, bool)>,
    pub(super) body: Option<SecretString>,
    /// Everything that must not show should the server repeat it.
    pub(super) secrets: Secrets,
}

impl Request {
    fn check(&self, policy: &Policy) -> Vec<Result<()>> {
        let (mut checks, readers) = (Vec::new(), self.readers(&self.endpoint.0));
        for name in self.variable_names() {
            let check_bound = || readers.iter().try_for_each(|url| policy.check_bound(&name, url));
            checks.push(policy.check_variable(&name).and_then(|()| check_bound()));
        }
        for (option, file) in [("tls_ca_file", &self.tls_ca_file), ("tls_client_file", &self.tls_client_file)] {
            checks.extend(file.is_some().then(|| policy.check_files(option)));
        }
        let proxy = self.proxy.as_deref().and_then(|proxy| Url::parse(proxy).ok());
        checks.extend(std::iter::once(&self.endpoint.0).chain(&proxy).map(|url| policy.check_url(url)));
        checks
    }

    /// The names of all variables that the request holds.
    fn variable_names(&self) -> BTreeSet<String> {
        let endpoint = Template::read(&as_written(self.endpoint.0.as_str())).ok();
        let templates = self.headers.iter().map(|header| &header.value).chain(&self.body).chain(&endpoint);
        templates.flat_map(Template::names).map(str::to_string).collect()
    }

    /// Refuses to send a variable to a host that it is not bound to; `url` has its own variables filled in.
    pub(super) fn check_bound(&self, policy: &Policy, url: &Url) -> Result<()> {
        if policy.bound.is_empty() {
            return Ok(());
        }
        let readers = self.readers(url);
        self.variable_names().iter().try_for_each(|name| readers.iter().try_for_each(|url| policy.check_bound(name, url)))
    }

    /// Whose hosts read what is sent to `url`: its own, and without TLS that of the table's proxy.
    fn readers(&self, url: &Url) -> Vec<Url> {
        let proxy = self.proxy.as_deref().filter(|_| url.scheme() == "http").and_then(|proxy| Url::parse(proxy).ok());
        std::iter::once(url.clone()).chain(proxy).collect()
    }

    /// The endpoint for people, its variables not filled in.
    pub(super) fn shown(&self) -> String {
        let shown = shown(&self.endpoint.0);
        match as_written(&shown) {
            written if written.contains("{{") => written,
            _ => shown,
        }
    }

    /// Fills in the variables. An unset one is an error that names it.
    pub(super) fn fill(&self, variables: &Variables) -> Result<Filled> {
        let mut secrets = Secrets::default();
        let mut url = self.url(variables, &mut secrets)?;
        let basic = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => {
                let password = percent_decoded(password.unwrap_or_default());
                let pair = BASE64_STANDARD.encode(format!("{}:{password}", percent_decoded(user)));
                secrets.add(password);
                secrets.add(pair.clone());
                Some(SecretString::from(format!("Basic {pair}")))
            }
        };
        for (_, value) in url.query_pairs().filter(|(name, _)| sounds_secret(name)) {
            secrets.add(value.into_owned());
        }
        // A URL with a host, as every endpoint has, can always lose its user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let mut headers = Vec::with_capacity(self.headers.len());
        for header in &self.headers {
            let place = format!("the header '{}'", header.name);
            let value = header.value.fill(variables, &place, str::to_string)?;
            if value.expose_secret().bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                return Err(Error::new(
                    Code::BadOption,
                    format!("{place} would hold a line break or a NUL once its variables are filled in"),
                )
                .hint("correct the variable's value"));
            }
            if header.is_secret() {
                secrets.add(value.clone());
            }
            header.value.values(variables).into_iter().for_each(|value| secrets.add(value));
            headers.push((header.name.clone(), value, header.is_secret()));
        }
        let body = self.body.as_ref().map(|body| body.fill(variables, "the body", str::to_string)).transpose()?;
        self.body.iter().flat_map(|body| body.values(variables)).for_each(|value| secrets.add(value));
        Ok(Filled { url, basic, headers, body, secrets })
    }

    /// The endpoint with its variables filled in, each percent-encoded so that it stays within its part of the URL.
    fn url(&self, variables: &Variables, secrets: &mut Secrets) -> Result<Url> {
        let url = &self.endpoint.0;
        let written = as_written(url.as_str());
        let template = match written.contains("{{").then(|| Template::read(&written)) {
            Some(Ok(template)) if template.has_variables() => template,
            _ => return Ok(url.clone()),
        };
        let filled = template.fill(variables, "the endpoint", percent_encoded)?;
        for value in template.values(variables) {
            secrets.add(percent_encoded(&value));
            secrets.add(value);
        }
        Url::parse(filled.expose_secret()).map_err(|error| {
            Error::new(Code::BadOption, format!("the endpoint is no URL once its variables are filled in: {error}"))
        })
    }
}

/// The text of a URL with the braces and blanks of `{{ NAME }}`, which parsing has encoded.
fn as_written(url: &str) -> String {
    url.replace("%7B", "{").replace("%7D", "}").replace("%20", " ")
}

/// A URL without user, password and query, which may all hold secrets.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let escaped = match (first, behind) {
            (b'%', [high, low, ..]) => char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &behind[2..];
            }
            None => {
                decoded.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::GivenOption;

    pub(crate) fn options(pairs: &[(&str, &str)]) -> TableOptions {
        let given: Vec<GivenOption> =
            pairs.iter().map(|(name, value)| GivenOption { name: (*name).into(), value: (*value).into(), span: None }).collect();
        TableOptions::read(&given).unwrap()
    }

    fn filled(pairs: &[(&str, &str)]) -> Result<Filled> {
        let variables: Variables = Arc::new(|name| (name == "TOKEN").then(|| "a/b c&d".to_string()));
        match FeedSpec::new(&options(pairs)).unwrap().source {
            FeedSource::Http(request) => request.fill(&variables),
            FeedSource::File(_) => unreachable!("these options are of the connector sse"),
        }
    }

    #[test]
    fn what_a_connector_requires_is_named() {
        for (connector, name) in [("sse", "endpoint"), ("file", "path")] {
            let errors = FeedSpec::new(&options(&[("connector", connector)])).unwrap_err();
            assert_eq!(errors[0].code(), Code::MissingOption);
            assert!(errors[0].message().contains(&format!("option '{name}'")), "{}", errors[0]);
        }
    }

    #[test]
    fn variables_in_an_endpoint_stay_within_their_part_of_it() {
        let endpoint = "https://u:{{TOKEN}}@example.com:8080/{{ TOKEN }}/x?key={{TOKEN}}&a=%7B1%7D#f";
        let filled = filled(&[("connector", "sse"), ("endpoint", endpoint)]).unwrap();
        assert_eq!(filled.url.as_str(), "https://example.com:8080/a%2Fb%20c%26d/x?key=a%2Fb%20c%26d&a={1}");
        let basic = format!("Basic {}", BASE64_STANDARD.encode("u:a/b c&d"));
        assert_eq!(filled.basic.unwrap().expose_secret(), basic);
        let error = self::filled(&[("connector", "sse"), ("endpoint", "https://example.com/{{ OTHER }}")]).err().unwrap();
        assert_eq!(error.code(), Code::UnsetVariable);
    }

    #[test]
    fn nothing_secret_shows() {
        let spec = FeedSpec::new(&options(&[
            ("connector", "sse"),
            ("endpoint", "https://geheim:geheim@example.com/x?key=geheim"),
            ("headers", "Authorization: geheim"),
            ("body", "geheim"),
        ]))
        .unwrap();
        assert!(!format!("{spec:?} {}", spec.shown()).contains("geheim"));
    }

    #[test]
    fn a_post_is_finite_unless_told_otherwise() {
        let reconnect = |more: &[(&str, &str)]| {
            FeedSpec::new(&options(&[&[("connector", "sse"), ("endpoint", "http://x")], more].concat())).unwrap().reconnect
        };
        assert!(reconnect(&[]));
        assert!(!reconnect(&[("method", "post")]));
        assert!(reconnect(&[("method", "post"), ("reconnect", "true")]));
        assert!(!reconnect(&[("reconnect", "false")]));
    }
}
