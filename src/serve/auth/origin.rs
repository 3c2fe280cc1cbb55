//! Which names the server answers to, and which pages may talk to it: against DNS rebinding and forged requests of other sites.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use url::Url;

use crate::error::{Code, Error};
use crate::serve::problem::Problem;
use crate::serve::settings::Settings;

/// The types that a page may send to another site without asking it first.
const SIMPLE_TYPES: &[&str] = &["", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];

/// Any host, any page.
const ANY: &str = "*";

/// The origins that a path allows besides those of the settings: a named stream's own, at an address of streams (`None`: that of the REST
/// interface). `*` means all.
type Extra = Arc<dyn Fn(Option<SocketAddr>, &str) -> Vec<String> + Send + Sync>;

/// Hosts and origins that are let in.
#[derive(Clone)]
pub struct Origins {
    known: Arc<RwLock<AllowedOrigins>>,
    extra: Extra,
    /// Where requests come in that these are for.
    address: Option<SocketAddr>,
}

/// What the settings say.
struct AllowedOrigins {
    /// Names besides loopback's; none where every name is good.
    hosts: Option<Vec<String>>,
    pages: Vec<String>,
}

impl AllowedOrigins {
    fn of(settings: &Settings) -> AllowedOrigins {
        let hosts = &settings.http.hosts.0;
        // Where strangers can reach the server, its names are theirs to know, and tokens keep the door.
        let guarded = !hosts.iter().any(|host| host == ANY) && (settings.is_loopback_only() || !hosts.is_empty());
        let lower = |words: &[String]| words.iter().map(|word| word.trim_end_matches('/').to_ascii_lowercase()).collect();
        AllowedOrigins { hosts: guarded.then(|| lower(hosts)), pages: lower(&settings.http.cors_origins.0) }
    }
}

impl Origins {
    /// Those of the REST interface; `extra` gives the origins of the stream at a path of an address.
    pub fn new(settings: &Settings, extra: impl Fn(Option<SocketAddr>, &str) -> Vec<String> + Send + Sync + 'static) -> Self {
        Origins { known: Arc::new(RwLock::new(AllowedOrigins::of(settings))), extra: Arc::new(extra), address: None }
    }

    /// Takes other settings, at all addresses.
    pub fn set(&self, settings: &Settings) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = AllowedOrigins::of(settings);
    }

    fn known(&self) -> RwLockReadGuard<'_, AllowedOrigins> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same at another address: what a stream allows holds where it is, and at no other that has its path.
    pub fn at(&self, address: Option<SocketAddr>) -> Self {
        Origins { address, ..self.clone() }
    }

    /// Whether the server is meant by this `Host`, whatever the port.
    fn is_own_name(&self, host: &str) -> bool {
        let known = self.known();
        let Some(hosts) = &known.hosts else { return true };
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()) || hosts.contains(&name)
    }

    /// Whether a page of this origin may read what is at a path.
    pub fn may_read(&self, origin: &str, path: &str) -> bool {
        self.is_trusted(origin) || (self.extra)(self.address, path).iter().any(|page| fits(page, origin))
    }

    /// Whether the settings name this origin.
    fn is_trusted(&self, origin: &str) -> bool {
        self.known().pages.iter().any(|page| fits(page, origin))
    }
}

fn fits(allowed: &str, origin: &str) -> bool {
    allowed == ANY || allowed.trim_end_matches('/').eq_ignore_ascii_case(origin)
}

/// The name that a request calls the server by: of its address (HTTP/2), else of its `Host`.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    uri.authority().map(|authority| authority.as_str()).or_else(|| headers.get(HOST)?.to_str().ok())
}

/// Whether a page of this origin is one of the server's own.
pub fn is_same_origin(origin: &str, host: Option<&str>) -> bool {
    let Ok(origin) = Url::parse(origin) else { return false };
    let Some(name) = origin.host_str() else { return false };
    let origin = origin.port().map_or(name.to_string(), |port| format!("{name}:{port}"));
    host.is_some_and(|host| host.eq_ignore_ascii_case(&origin))
}

/// The middleware: refuses requests by a foreign name, and changes that the page of another site asks a browser for.
pub async fn keep_out_foreign_pages(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    match foreign(&origins, &request) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn foreign(origins: &Origins, request: &Request) -> Option<Problem> {
    let headers = request.headers();
    if headers.get_all(HOST).iter().nth(1).is_some() {
        // RFC 9112 §3.2: of two names a proxy might believe one and this server the other.
        return Some(Error::new(Code::Malformed, "the request has more than one Host header").hint("send one").into());
    }
    let host = host(request.uri(), headers);
    if let Some(host) = host.filter(|host| !origins.is_own_name(host)) {
        let error = Error::new(Code::Origin, format!("this server is not known as '{host}'"))
            .hint("call it localhost or 127.0.0.1, or add the name to http.hosts in the settings");
        return Some(Problem::from(error).with_status(StatusCode::MISDIRECTED_REQUEST));
    }
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let own = match (text("sec-fetch-site"), origin) {
        (Some("same-origin" | "none"), _) => true,
        (_, Some(origin)) if origins.is_trusted(origin) => true,
        (Some(_), _) => false,
        (None, Some(origin)) => is_same_origin(origin, host),
        (None, None) => true,
    };
    if !own {
        let error =
            Error::new(Code::Origin, format!("the page of '{}' may change nothing here", origin.unwrap_or("another site")))
                .hint("add its origin to http.cors_origins in the settings");
        return Some(error.into());
    }
    let length = text("content-length").and_then(|length| length.parse().ok()).unwrap_or(0u64);
    let has_body = length > 0 || headers.contains_key(TRANSFER_ENCODING);
    let given = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (has_body && SIMPLE_TYPES.contains(&essence.as_str())).then(|| Problem::unsupported_media(&essence))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::serve::settings::Words;

    fn origins(change: impl FnOnce(&mut Settings)) -> Origins {
        let mut settings = Settings::default();
        change(&mut settings);
        Origins::new(&settings, |_, path| if path == "/open" { vec!["*".into()] } else { Vec::new() })
    }

    fn answer(origins: &Origins, method: &str, headers: &[(&str, &str)]) -> u16 {
        let request = headers
            .iter()
            .fold(Request::builder().method(method).uri("/v1/views"), |request, (name, value)| request.header(*name, *value));
        foreign(origins, &request.body(Body::empty()).unwrap()).map_or(200, |problem| problem.status().as_u16())
    }

    #[test]
    fn a_server_of_this_machine_answers_to_its_own_names() {
        let own = origins(|settings| settings.http.hosts = Words(vec!["Gauge.example".into()]));
        for (host, status) in [
            ("localhost", 200),
            ("localhost:8000", 200),
            ("127.0.0.1:1", 200),
            ("127.1.2.3", 200),
            ("[::1]:8000", 200),
            ("gauge.example:8000", 200),
            ("LOCALHOST.", 200),
            ("evil.example", 421),
            ("localhost.evil.example", 421),
            ("192.168.0.1:8000", 421),
            ("", 421),
        ] {
            assert_eq!(answer(&own, "GET", &[("host", host)]), status, "{host}");
        }
        assert_eq!(answer(&own, "GET", &[]), 200);
        assert_eq!(answer(&own, "GET", &[("host", "localhost"), ("host", "evil.example")]), 400);
        let far = origins(|settings| settings.bind = "0.0.0.0:8000".parse().unwrap());
        assert_eq!(answer(&far, "GET", &[("host", "evil.example")]), 200);
    }

    #[test]
    fn changes_that_other_sites_ask_for_are_refused() {
        let own = origins(|settings| settings.http.cors_origins = Words(vec!["https://dash.example/".into()]));
        for (headers, status) in [
            (&[][..], 200),
            (&[("sec-fetch-site", "same-origin")], 200),
            (&[("sec-fetch-site", "none")], 200),
            (&[("sec-fetch-site", "cross-site")], 403),
            (&[("sec-fetch-site", "same-site")], 403),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://dash.example")], 200),
            (&[("origin", "http://localhost:8000"), ("host", "localhost:8000")], 200),
            (&[("origin", "http://localhost:3000"), ("host", "localhost:8000")], 403),
            (&[("origin", "null"), ("host", "localhost:8000")], 403),
            (&[("content-length", "2"), ("content-type", "application/json")], 200),
            (&[("content-length", "2"), ("content-type", "application/x-ndjson")], 200),
            (&[("content-length", "2"), ("content-type", "text/plain;charset=utf-8")], 415),
            (&[("content-length", "2")], 415),
            (&[("transfer-encoding", "chunked")], 415),
            (&[("content-length", "0")], 200),
        ] {
            assert_eq!(answer(&own, "POST", headers), status, "{headers:?}");
            let read = answer(&own, "GET", headers);
            assert_eq!(read, 200, "{headers:?}");
        }
    }

    #[test]
    fn a_stream_may_let_more_pages_read() {
        let own = origins(|settings| settings.http.cors_origins = Words(vec!["https://dash.example".into()]));
        assert!(own.may_read("https://dash.example", "/v1/views"));
        assert!(own.may_read("https://evil.example", "/open"));
        assert!(!own.may_read("https://evil.example", "/v1/views"));
        assert!(!own.is_trusted("https://evil.example"));
    }
}
