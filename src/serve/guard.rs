//! What every request passes on its way in and every answer on its way out, whatever is asked for.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, CONTENT_LENGTH,
    HeaderName, LOCATION, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Router, body};
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use url::Url;

use super::auth::{Gate, Identity, Origins, authorize, host, is_same_origin, keep_out_foreign_pages};
use super::log;
use super::problem::Problem;
use super::proxies::Proxies;
use crate::error::{Code, Error};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id of a client is not taken over.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// What pages of other origins may see of an answer besides its body.
const EXPOSED: &str = "etag, last-event-id, location, retry-after, x-request-id";

/// For how many seconds a browser may remember what it was told.
const PREFLIGHT_SECONDS: &str = "600";

/// The id of a request, as an extension: the client's own, or a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

/// What all addresses of a server have in common.
#[derive(Debug, Clone, Default)]
pub struct Around {
    pub body_bytes_max: usize,
    pub proxies: Proxies,
    /// The prefix below which a proxy shows the server; empty for none.
    pub base_path: Arc<str>,
}

/// The router behind everything that guards it. The first line here is the innermost.
pub fn around(router: Router, gate: Gate, origins: Origins, around: Around) -> Router {
    let (body_bytes_max, base_path) = (around.body_bytes_max, Arc::clone(&around.base_path));
    let guarded = router
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(from_fn_with_state(body_bytes_max, refuse_large))
        .layer(from_fn_with_state(gate, authorize))
        .layer(from_fn_with_state(origins.clone(), keep_out_foreign_pages))
        .layer(from_fn_with_state(origins, let_pages_read))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(around, account));
    below(guarded, base_path)
}

/// The router, also below a prefix: some proxies take it away, some do not. Layers come too late for that, as the route is found then.
fn below(router: Router, base_path: Arc<str>) -> Router {
    if base_path.is_empty() {
        return router;
    }
    let stripped = router.map_request(move |mut request: Request| {
        let path = request.uri().path_and_query().map(|path| path.as_str()).unwrap_or_default();
        let rest = path.strip_prefix(&*base_path).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        let inner = rest.map(|rest| if rest.starts_with('/') { rest.to_string() } else { format!("/{rest}") });
        if let Some(Ok(inner)) = inner.map(|inner| inner.parse()) {
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = Some(inner);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        request
    });
    Router::new().fallback_service(stripped)
}

/// Gives the request its id, and the answer what all answers have; tells the log.
async fn account(State(around): State<Around>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
    let peer = peer.map(|peer| SocketAddr::new(around.proxies.client(peer.ip(), request.headers()), peer.port()));
    if let Some(peer) = peer {
        request.extensions_mut().insert(ConnectInfo(peer));
    }
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let given = request.headers().get(X_REQUEST_ID).and_then(|given| given.to_str().ok());
    let id = given.filter(|given| is_fit_id(given)).map_or_else(|| format!("{:032x}", fastrand::u128(..)), str::to_string);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = finished(next.run(request).await, &method, uri.path(), &id);
    lead_below(&mut response, &around.base_path, uri.path());
    let (status, path, ms) = (response.status().as_u16(), log::shown(&uri), start.elapsed().as_millis() as u64);
    let token = response.extensions().get::<Identity>().and_then(|identity| identity.name.as_deref());
    let peer = peer.map(|peer| tracing::field::display(peer.ip()));
    let reason = response.extensions().get::<Problem>().map(Problem::detail);
    match (uri.path(), status) {
        (_, 401 | 403 | 421 | 429) => {
            tracing::warn!(%method, %path, status, ms, peer, token, reason, request_id = id, "request refused")
        }
        // Asked for every few seconds by machines.
        ("/healthz" | "/readyz" | "/metrics" | "/v1/ping" | "/api/v1/ping", _) => {
            tracing::debug!(%method, %path, status, ms, peer, token, request_id = id, "request")
        }
        _ => tracing::info!(%method, %path, status, ms, peer, token, request_id = id, "request"),
    }
    response
}

/// Leads a client that the server sends elsewhere to the same place below the prefix.
fn lead_below(response: &mut Response, base_path: &str, path: &str) {
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let Some(location) = location.filter(|_| !base_path.is_empty()) else { return };
    let joined = Url::parse("http://server/").and_then(|base| base.join(path)).and_then(|base| base.join(location));
    let below = joined.ok().and_then(|joined| HeaderValue::from_str(&format!("{base_path}{}", joined.path())).ok());
    if let Some(below) = below {
        response.headers_mut().insert(LOCATION, below);
    }
}

/// The answer with the headers that all have. A problem learns what it is about; what a part of the framework refuses becomes one.
fn finished(response: Response, method: &Method, path: &str, id: &str) -> Response {
    let kind = response.headers().get("content-type").map(|kind| kind.as_bytes());
    let bare = kind.is_none_or(|kind| kind.starts_with(b"text/plain")) && response.extensions().get::<Problem>().is_none();
    let mut response = match (response.status(), response.extensions().get::<Problem>()) {
        (_, Some(problem)) => with_headers(problem.clone().about(path, id).into_response(), response.headers().clone()),
        (StatusCode::NOT_FOUND, None) if bare => {
            let error = Error::new(Code::NoRoute, format!("nothing is at {path}")).hint("see /docs for what there is");
            with_headers(Problem::from(error).about(path, id).into_response(), response.headers().clone())
        }
        (StatusCode::METHOD_NOT_ALLOWED, None) if bare => {
            let error = Error::new(Code::Method, format!("{path} does not know the method {method}"))
                .hint("the header Allow has those it knows");
            with_headers(Problem::from(error).about(path, id).into_response(), response.headers().clone())
        }
        (status, None) if bare && (status.is_client_error() || status.is_server_error()) => {
            let problem = Problem::of_status(status);
            with_headers(problem.about(path, id).into_response(), response.headers().clone())
        }
        _ => response,
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Definitions, results and mistakes are nobody's to keep; pages and documents say so themselves where they are.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The answer's own headers, and of the others those that it does not have and that do not tell of another body.
fn with_headers(mut response: Response, others: axum::http::HeaderMap) -> Response {
    let own = response.headers_mut();
    for (name, value) in &others {
        if name.as_str() != "content-length" && (!own.contains_key(name) || name == VARY) {
            own.append(name, value.clone());
        }
    }
    response
}

/// A body that says it is too large is not waited for.
async fn refuse_large(State(bytes_max): State<usize>, request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    match length.is_some_and(|length| length > bytes_max) {
        true => Problem::too_large(bytes_max).into_response(),
        false => next.run(request).await,
    }
}

fn is_fit_id(id: &str) -> bool {
    (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// CORS: lets pages of allowed origins read answers, and tells the log how to allow one that is not.
async fn let_pages_read(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let Some(origin) = headers.get(ORIGIN).cloned() else { return varied(next.run(request).await) };
    let text = origin.to_str().unwrap_or_default().to_string();
    if is_same_origin(&text, host(request.uri(), headers)) {
        return varied(next.run(request).await);
    }
    let path = request.uri().path().to_string();
    let allowed = origins.may_read(&text, &path);
    if !allowed {
        tracing::warn!(
            origin = text,
            path,
            "a page may not read this; add its origin to http.cors_origins, or to cors_origins of the stream"
        );
    }
    let asks = *request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (asks, allowed) {
        (false, _) => next.run(request).await,
        (true, true) => {
            let wanted = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            let mut response = StatusCode::NO_CONTENT.into_response();
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE"));
            headers.extend(wanted.map(|wanted| (ACCESS_CONTROL_ALLOW_HEADERS, wanted)));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
            response
        }
        (true, false) => {
            let error = Error::new(Code::Origin, format!("a page of '{text}' may not read this"));
            Problem::from(error.hint("add its origin to http.cors_origins in the settings, or to cors_origins of the stream"))
                .into_response()
        }
    };
    if allowed {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    varied(response)
}

/// Another page may get another answer.
fn varied(mut response: Response) -> Response {
    let origin = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"origin");
    if !response.headers().get_all(VARY).iter().any(origin) {
        response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// A handler that panicked costs its own request only.
fn panicked(cause: Box<dyn Any + Send>) -> Response<body::Body> {
    let cause = cause.downcast_ref::<String>().cloned().or_else(|| cause.downcast_ref::<&str>().map(|cause| cause.to_string()));
    Problem::from(Error::bug(format!("a handler panicked: {}", cause.unwrap_or_default()))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::checkpoint::Store;
    use crate::serve::settings::{Settings, Words};

    fn app() -> Router {
        let mut settings = Settings::default();
        settings.http.cors_origins = Words(vec!["https://dash.example".into()]);
        let gate = Gate::new(&settings, Store::in_memory().unwrap()).unwrap();
        let origins = Origins::new(&settings, |_, path| if path == "/open" { vec!["*".into()] } else { Vec::new() });
        let router = Router::new()
            .route("/fine", get(async || "fine"))
            .route("/open", get(async || "open"))
            .route("/panic", get(async || -> String { panic!("hush") }))
            .route("/problem", get(async || Problem::too_many("slower", 7, "wait")))
            .route("/echo", axum::routing::post(async |body: crate::serve::body::Body<Value>| body.0.to_string()));
        around(router, gate, origins, Around { body_bytes_max: 1_000, ..Around::default() })
    }

    async fn send(line: &str, headers: &[(&str, &str)]) -> (StatusCode, axum::http::HeaderMap, Value) {
        let (method, path) = line.split_once(' ').unwrap();
        let request = headers
            .iter()
            .fold(Request::builder().method(method).uri(path), |request, (name, value)| request.header(*name, *value));
        let large = if method == "POST" { "x".repeat(1_001) } else { String::new() };
        let response = app().oneshot(request.body(Body::from(large)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        if let Some(length) = parts.headers.get("content-length") {
            assert_eq!(length.to_str().unwrap(), body.len().to_string());
        }
        (parts.status, parts.headers, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn every_answer_has_an_id_and_keeps_to_itself() {
        for line in ["GET /fine", "GET /nothing", "POST /fine", "GET /panic", "GET /problem"] {
            let (_, headers, _) = send(line, &[("x-request-id", "mine-1")]).await;
            for (name, value) in
                [("x-request-id", "mine-1"), ("x-content-type-options", "nosniff"), ("cache-control", "no-store")]
            {
                assert_eq!(headers[name], value, "{line}");
            }
        }
        for wrong in ["", "a b", &"x".repeat(129)] {
            let (_, headers, _) = send("GET /fine", &[("x-request-id", wrong)]).await;
            assert_eq!(headers["x-request-id"].len(), 32);
        }
    }

    #[tokio::test]
    async fn every_failure_is_a_problem_that_knows_its_request() {
        for (line, status, code) in [
            ("GET /nothing", 404, "SG-1602"),
            ("DELETE /fine", 405, "SG-1603"),
            ("GET /panic", 500, "SG-1901"),
            ("GET /problem", 429, "SG-1611"),
            ("POST /echo", 413, "SG-1607"),
        ] {
            let (answered, headers, body) = send(line, &[("x-request-id", "mine"), ("content-type", "application/json")]).await;
            let path = line.split(' ').nth(1).unwrap();
            assert_eq!((answered.as_u16(), body["code"].as_str()), (status, Some(code)), "{line}: {body}");
            assert_eq!((body["instance"].as_str(), body["request_id"].as_str()), (Some(path), Some("mine")), "{line}");
            assert_eq!(headers["content-type"], "application/problem+json", "{line}");
            assert_eq!(headers.get_all("content-type").iter().count(), 1, "{line}");
            assert!(!body.to_string().contains("hush"), "{body}");
        }
        assert_eq!(send("DELETE /fine", &[]).await.1["allow"], "GET,HEAD");
        assert_eq!(send("GET /problem", &[]).await.1["retry-after"], "7");
    }

    #[tokio::test]
    async fn pages_of_allowed_origins_may_read() {
        for (line, origin, host, allowed) in [
            ("GET /fine", "https://dash.example", "localhost", Some("https://dash.example")),
            ("GET /fine", "https://evil.example", "localhost", None),
            ("GET /open", "https://evil.example", "localhost", Some("https://evil.example")),
            ("GET /open", "null", "localhost", Some("null")),
            ("GET /fine", "http://localhost:8000", "localhost:8000", None),
            ("GET /problem", "https://dash.example", "localhost", Some("https://dash.example")),
        ] {
            let (_, headers, _) = send(line, &[("origin", origin), ("host", host)]).await;
            let answer = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|origin| origin.to_str().unwrap());
            assert_eq!((answer, headers[VARY].as_bytes()), (allowed, &b"origin"[..]), "{line} {origin}");
            assert!(!headers.contains_key("access-control-allow-credentials"));
        }
    }

    #[tokio::test]
    async fn a_page_that_asks_first_is_told() {
        let ask = [("access-control-request-method", "GET"), ("access-control-request-headers", "authorization, last-event-id")];
        let (status, headers, _) = send("OPTIONS /fine", &[ask[0], ask[1], ("origin", "https://dash.example")]).await;
        assert_eq!(status, 204);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "authorization, last-event-id");
        let (status, headers, body) = send("OPTIONS /fine", &[ask[0], ask[1], ("origin", "https://evil.example")]).await;
        assert_eq!((status.as_u16(), headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN)), (403, false));
        assert!(body["errors"][0]["hint"].as_str().unwrap().contains("http.cors_origins"));
    }
}
