//! One HTTP request for an event stream: sent, redirected, judged; what comes out is a stream of byte chunks.
//!
//! This is the seam to the HTTP library: nothing outside of this file and `client.rs` sends anything.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;
use url::Url;

use super::coding::{ACCEPTED, codings, decoded};
use super::secrets::Secrets;
use super::spec::{FeedSpec, Filled, Request, shown};
use super::status::FeedStatus;
use crate::error::{Code, Error, Result};
use crate::options::{ReadTimeout, Resume};

/// The body of a response as it arrives. The end of the stream is its regular end.
pub(super) type Chunks = BoxStream<'static, Result<Bytes, Cut>>;

/// Why a body broke off.
#[derive(Debug)]
pub(super) struct Cut(pub(super) String);

/// What a server answered that is no error.
pub(super) enum ServerAnswer {
    Stream(Chunks),
    /// A stream that begins after another event than the one that was asked for.
    Elsewhere(Chunks),
    /// 204: the server asks not to come again.
    NoContent,
}

/// Why there is no stream.
pub(super) enum Refusal {
    /// Another attempt would end the same way.
    Final(Error),
    /// May pass; with the server's `Retry-After`.
    Passing(Error, Option<Duration>),
    /// The server's certificate is not trusted. It may pass if it was trusted before.
    Untrusted(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Final(error)
    }
}

/// Redirects that are followed in a row, as in the Fetch standard.
const REDIRECTS_MAX: usize = 20;
/// Longest wait for a response's head: some servers send it with their first event only.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a wrong response's body that its error shows, and how long they are waited for.
const EXCERPT_BYTES: usize = 1024;
const EXCERPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Characters of it that a sentence bears.
const EXCERPT_CHARACTERS: usize = 200;
/// Longest event id sent in a header: many servers refuse a head of 8 KiB.
const ID_BYTES_MAX: usize = 8 * 1024;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const USER_AGENT: &str = concat!("streamgauge/", env!("CARGO_PKG_VERSION"));

/// Headers in which a client says what it can read, and where it stopped.
const PLAIN: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::USER_AGENT,
    HeaderName::from_static("last-event-id"),
];

/// Sends the request, with `last_id` if there is one, and follows redirects until a stream is there or the reason why not.
pub(super) async fn open(
    client: &Client,
    request: &Request,
    spec: &FeedSpec,
    last_id: &str,
    status: &FeedStatus,
) -> Result<ServerAnswer, Refusal> {
    let mut warn = |warning| status.warn(warning);
    let mut filled = request.fill(&spec.variables)?;
    request.check_bound(&spec.policy, &filled.url)?;
    let mut headers = headers(&filled, request, last_id, &mut warn)?;
    if let (Resume::Query(name), false) = (&request.resume, last_id.is_empty()) {
        match last_id.len() <= ID_BYTES_MAX {
            true => set_query(&mut filled.url, name, last_id),
            false => warn(too_long(last_id)),
        }
    }
    if let (Some(secret), false) = (secret_header(&headers), request.endpoint.0.scheme() == "https" || is_loopback(&filled.url)) {
        warn(format!("the header '{secret}' goes over plain http to {}: anyone on the way can read it", request.shown()));
    }
    let mut method = request.method.clone();
    let mut body = filled.body.take();
    let mut url = filled.url.clone();
    // Where we are, for people: nothing that was filled in.
    let mut place = request.shown();
    for _ in 0..=REDIRECTS_MAX {
        spec.policy.check_url(&url)?;
        let response = send(client, request, &method, &url, &place, &headers, body.as_ref()).await?;
        status.answered(response.status().as_u16());
        let Some(target) = redirect(&response, &url, &place, &filled.secrets)? else {
            let answer = judge(response, &place, last_id, &filled.secrets, &mut warn).await;
            // What the server repeats of them in its events is not shown either.
            status.hide(filled.secrets);
            return answer;
        };
        let answer = response.status();
        if answer == StatusCode::SEE_OTHER && method != Method::HEAD
            || matches!(answer, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND) && method == Method::POST
        {
            (method, body) = (Method::GET, None);
            for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_LOCATION] {
                headers.remove(name);
            }
        }
        let target_place = filled.secrets.hide(&shown(&target));
        if target.origin() != url.origin() {
            // Nobody can tell which part of a body is a secret.
            if body.is_some() {
                let reason = format!("{place} redirects to {target_place}, which may not have the body: it may hold secrets");
                return Err(Refusal::Final(Error::new(Code::Redirect, reason).hint("give the final URL as the endpoint")));
            }
            // Nor which header is one, whatever it is called: the other server gets what every client says.
            let is_kept = |name: &HeaderName, value: &HeaderValue| PLAIN.contains(name) && !value.is_sensitive();
            let others: Vec<HeaderName> =
                headers.iter().filter(|(name, value)| !is_kept(name, value)).map(|(name, _)| name.clone()).collect();
            for name in others {
                headers.remove(name);
            }
        }
        tracing::debug!(from = place, to = target_place, status = answer.as_u16(), "redirected");
        (url, place) = (target, target_place);
    }
    let error = Error::new(Code::Redirect, format!("{} redirects more than {REDIRECTS_MAX} times", request.shown()));
    Err(Refusal::Passing(error, None))
}

/// The headers of the first request; secret ones are marked sensitive. What the user gave wins over what we would send.
fn headers(filled: &Filled, request: &Request, last_id: &str, warn: &mut impl FnMut(String)) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &HeaderName, text: &SecretString, secret: bool| {
        let value = HeaderValue::from_str(text.expose_secret()).map_err(|_| {
            Error::new(
                Code::BadOption,
                format!("the header '{name}' would hold a control character once its variables are filled in"),
            )
            .hint("correct the variable's value")
        });
        value.map(|mut value| {
            value.set_sensitive(secret);
            headers.append(name, value);
        })
    };
    for (name, value, secret) in &filled.headers {
        add(name, value, *secret)?;
    }
    if let Some(basic) = filled.basic.as_ref().filter(|_| filled.headers.iter().all(|(name, ..)| *name != header::AUTHORIZATION))
    {
        add(&header::AUTHORIZATION, basic, true)?;
    }
    let mut default = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(header::ACCEPT, "text/event-stream");
    default(header::ACCEPT_ENCODING, ACCEPTED);
    default(header::CACHE_CONTROL, "no-cache");
    default(header::USER_AGENT, USER_AGENT);
    if filled.body.is_some() {
        default(header::CONTENT_TYPE, "application/json");
    }
    if request.resume == Resume::Header && !last_id.is_empty() {
        match HeaderValue::from_bytes(last_id.as_bytes()) {
            Ok(value) if last_id.len() <= ID_BYTES_MAX => {
                headers.insert(LAST_EVENT_ID, value);
            }
            Ok(_) => warn(too_long(last_id)),
            Err(_) => warn(
                "the last event id holds control characters, which a header cannot: it was not sent; resume = 'query:NAME' can"
                    .into(),
            ),
        }
    }
    Ok(headers)
}

fn too_long(last_id: &str) -> String {
    format!("the last event id has {} bytes, more than a request should hold: it was not sent", last_id.len())
}

/// Whether a request that resumes so can hold an id.
pub(super) fn is_sendable(id: &str, resume: &Resume) -> bool {
    id.len() <= ID_BYTES_MAX && (*resume != Resume::Header || HeaderValue::from_bytes(id.as_bytes()).is_ok())
}

async fn send(
    client: &Client,
    request: &Request,
    method: &Method,
    url: &Url,
    place: &str,
    headers: &HeaderMap,
    body: Option<&SecretString>,
) -> Result<Response, Refusal> {
    let mut message = reqwest::Request::new(method.clone(), url.clone());
    *message.headers_mut() = headers.clone();
    *message.body_mut() = body.map(|body| body.expose_secret().to_string().into());
    let head = match request.read_timeout {
        ReadTimeout::After(patience) => patience,
        ReadTimeout::Auto => HEAD_TIMEOUT,
        ReadTimeout::Off => Duration::MAX,
    };
    match timeout(request.connect_timeout.saturating_add(head), client.execute(message)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            if let Some(own) = own_error(&error) {
                return Err(Refusal::Final(own.clone()));
            }
            let code = if error.is_timeout() { Code::Silent } else { Code::Connect };
            let reason = Error::new(code, format!("cannot connect to {place}: {}", root_cause(&error)));
            Err(match is_untrusted(&error) {
                true => Refusal::Untrusted(reason.hint("name its certificate authority in the option 'tls_ca_file'")),
                false if code == Code::Connect => Refusal::Passing(reason.hint("is the server running, is the URL right?"), None),
                false => Refusal::Passing(reason, None),
            })
        }
        Err(_) => Err(Refusal::Passing(Error::new(Code::Silent, format!("{place} took the request and never answered")), None)),
    }
}

/// The target of a redirect that may be followed; `None` for any other response.
fn redirect(response: &Response, url: &Url, place: &str, secrets: &Secrets) -> Result<Option<Url>> {
    let status = response.status();
    if !status.is_redirection() {
        return Ok(None);
    }
    let refused = |reason: String| Error::new(Code::Redirect, format!("{place} answers {status} {reason}"));
    let location = response.headers().get(header::LOCATION).map(|location| String::from_utf8_lossy(location.as_bytes()));
    let location = location.filter(|location| !location.is_empty() && matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
    let Some(location) = location else { return Err(refused("without saying where to".into())) };
    let mut target = url.join(&location).map_err(|error| refused(format!("with a target that is no URL: {error}")))?;
    match (url.scheme(), target.scheme()) {
        ("https", "http") => {
            Err(refused(format!("and would lead from https to plain http at {}", secrets.hide(&shown(&target)))))
        }
        (_, "http" | "https") => {
            let _ = target.set_username("");
            let _ = target.set_password(None);
            Ok(Some(target))
        }
        (_, scheme) => Err(refused(format!("to the scheme '{scheme}'"))),
    }
}

/// Whether the response is an event stream, and what it means if not.
async fn judge(
    response: Response,
    place: &str,
    last_id: &str,
    secrets: &Secrets,
    warn: &mut impl FnMut(String),
) -> Result<ServerAnswer, Refusal> {
    let status = response.status();
    if status == StatusCode::NO_CONTENT {
        return Ok(ServerAnswer::NoContent);
    }
    let headers = response.headers();
    if status != StatusCode::OK {
        let after = headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
        let error = Error::new(Code::Status, format!("{place} answers {status}{}", excerpt(response, secrets).await));
        return Err(match status.as_u16() {
            408 | 425 | 429 | 500..=599 => Refusal::Passing(error, after),
            401 | 403 => Refusal::Final(error.hint("check the credentials in the option 'headers'")),
            407 => Refusal::Final(error.hint("check the credentials in the option 'proxy'")),
            404 | 410 => Refusal::Final(error.hint("check the option 'endpoint'")),
            405 => Refusal::Final(error.hint("check the option 'method'")),
            _ => Refusal::Final(error),
        });
    }
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let essence = content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("text/event-stream") {
        let sends =
            if essence.is_empty() { "a body without a content type".to_string() } else { printable(essence, EXCERPT_CHARACTERS) };
        let text = excerpt(response, secrets).await;
        let error = Error::new(Code::ContentType, format!("{place} answers {status} with {sends}, not text/event-stream{text}"))
            .hint("give the URL of an event stream, or the header 'Accept' that makes it one");
        return Err(Refusal::Final(error));
    }
    let codings = codings(headers).map_err(|coding| {
        let coding = printable(&coding, EXCERPT_CHARACTERS);
        Error::new(Code::ContentType, format!("{place} compresses its stream as '{coding}', which is not known"))
            .hint("ask for none with the header 'Accept-Encoding: identity'")
    })?;
    if let Some(charset) = charset(content_type.as_deref().unwrap_or_default()) {
        warn(format!("the server calls its stream '{charset}'; it was read as UTF-8, as the standard says"));
    }
    let elsewhere = headers.get(LAST_EVENT_ID).filter(|sent| !last_id.is_empty() && sent.as_bytes() != last_id.as_bytes());
    let is_elsewhere = elsewhere.is_some();
    if let Some(sent) = elsewhere {
        let sent = printable(&String::from_utf8_lossy(sent.as_bytes()), EXCERPT_CHARACTERS);
        let asked = printable(last_id, EXCERPT_CHARACTERS);
        warn(format!("asked to go on after the event '{asked}', the server went on after '{sent}': events may be missing"));
    }
    let chunks = decoded(chunks(response), &codings);
    Ok(if is_elsewhere { ServerAnswer::Elsewhere(chunks) } else { ServerAnswer::Stream(chunks) })
}

/// The body of a response as it comes.
fn chunks(response: Response) -> Chunks {
    response.bytes_stream().map(|chunk| chunk.map_err(|error| Cut(root_cause(&error)))).boxed()
}

/// `Retry-After`: seconds, or a date.
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// The charset that a content type names, unless it is UTF-8.
fn charset(content_type: &str) -> Option<String> {
    let named = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    })?;
    let is_utf_8 = named.eq_ignore_ascii_case("utf-8") || named.eq_ignore_ascii_case("utf8") || named.is_empty();
    (!is_utf_8).then(|| printable(named, EXCERPT_CHARACTERS))
}

/// The beginning of a wrong response's body, as the end of a sentence; without our own secrets should the server repeat them.
async fn excerpt(response: Response, secrets: &Secrets) -> String {
    let Ok(codings) = codings(response.headers()) else { return String::new() };
    let mut bytes = Vec::new();
    let mut chunks = decoded(chunks(response), &codings);
    let read = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            bytes.extend_from_slice(&chunk[..chunk.len().min(EXCERPT_BYTES - bytes.len())]);
            if bytes.len() == EXCERPT_BYTES {
                break;
            }
        }
    };
    // What came until then is worth showing.
    let _ = timeout(EXCERPT_TIMEOUT, read).await;
    let text = secrets.hide(&String::from_utf8_lossy(&bytes));
    match printable(&text, EXCERPT_CHARACTERS) {
        text if text.is_empty() => text,
        text => format!(": {text}"),
    }
}

/// One line without control characters, cut to a length that a sentence bears.
fn printable(text: &str, characters_max: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(characters_max) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn set_query(url: &mut Url, name: &str, value: &str) {
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(known, _)| known != name)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    url.query_pairs_mut().clear().extend_pairs(kept).append_pair(name, value);
}

fn secret_header(headers: &HeaderMap) -> Option<&HeaderName> {
    headers.iter().find(|(_, value)| value.is_sensitive()).map(|(name, _)| name)
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The innermost reason, which is the one that says something; never a URL.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer within the option 'connect_timeout'".into();
    }
    match causes(error).last() {
        Some(root) => printable(&root.to_string(), EXCERPT_CHARACTERS),
        None => "the request failed".into(),
    }
}

/// What we ourselves have refused on the way.
pub(super) fn own_error(error: &reqwest::Error) -> Option<&Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn is_untrusted(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

type Cause<'a> = &'a (dyn std::error::Error + 'static);

/// The errors behind an error; what an I/O error wraps is one of them, though it is not its `source`.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = Cause<'_>> {
    fn behind(cause: Cause<'_>) -> Option<Cause<'_>> {
        match cause.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
            Some(inner) => Some(inner),
            None => cause.source(),
        }
    }
    std::iter::successors(error.source(), |cause| behind(*cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let after = retry_after(&HeaderValue::from_static(text), now);
            assert_eq!(after.map(|after| after.as_secs()), expected, "{text}");
        }
    }

    #[test]
    fn a_charset_is_remarked_on_only_if_it_is_another() {
        assert_eq!(charset("text/event-stream; charset=\"UTF-8\""), None);
        assert_eq!(charset("text/event-stream;"), None);
        assert_eq!(charset("text/event-stream; x=y; Charset=windows-1252"), Some("windows-1252".into()));
    }

    #[test]
    fn the_resume_parameter_replaces_the_one_before() {
        let mut url = Url::parse("http://x/?since=1&a=b").unwrap();
        set_query(&mut url, "since", "a&b");
        assert_eq!(url.as_str(), "http://x/?a=b&since=a%26b");
    }
}
