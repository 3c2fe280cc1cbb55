//! A client of a stream as an HTTP answer, and a named stream at the path that its definition says.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::ask::Ask;
use super::client::Client;
use super::frame::{self, FrameFields};
use super::shape::Shape;
use super::spec::Visibility;
use super::streams::Streams;
use crate::error::{Code, Error, nearest};
use crate::serve::auth::{Identity, Scope};
use crate::serve::problem::{Problem, Result};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How long a browser waits that was answered softly.
const SOFT_RETRY_MS: u64 = 30_000;

/// Who asks for a stream: whose limits it counts against.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub address: IpAddr,
    pub token: Option<String>,
}

impl Visitor {
    pub fn of(parts: &Parts) -> Visitor {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let identity = parts.extensions.get::<Identity>();
        Visitor {
            address: peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip()),
            token: identity.and_then(|identity| identity.token.clone()),
        }
    }
}

/// Reads what a request asks of a stream; `shape` is what the stream says itself.
pub fn ask(parts: &Parts, shape: Shape) -> Result<Ask> {
    // EventSource sends the id as UTF-8; what is none becomes an id that is not known.
    let id = parts.headers.get(LAST_EVENT_ID).map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    Ask::read(parts.uri.query().unwrap_or_default(), id.as_deref(), shape).map_err(bad_query)
}

/// The mistakes of a query are a request that cannot be read.
pub fn bad_query(errors: Vec<Error>) -> Problem {
    Problem::from(errors).with_status(StatusCode::BAD_REQUEST)
}

/// The answer that sends what a client gets, or why there is none.
pub fn stream(connected: Result<(Client, String)>, ask: &Ask) -> Result<Response> {
    match connected {
        Ok((client, id)) => {
            let bytes = futures::stream::unfold(client, async |mut client: Client| {
                let bytes = client.next().await?;
                Some((Ok::<_, Infallible>(bytes), client))
            });
            let mut response = event_stream(Body::from_stream(bytes));
            if let Ok(id) = HeaderValue::from_str(&id) {
                response.headers_mut().insert(LAST_EVENT_ID, id);
            }
            Ok(response)
        }
        Err(problem) if ask.soft && is_overload(problem.status()) => {
            let mut out = Vec::new();
            frame::retry(SOFT_RETRY_MS, &mut out);
            let data = serde_json::json!({"reason": "overload", "detail": problem.detail()});
            FrameFields::named("error").write(data.to_string().as_bytes(), &mut out);
            Ok(event_stream(Body::from(out)))
        }
        Err(problem) => Err(problem),
    }
}

/// The named stream that a request asks for at an address (`None`: of the REST interface).
pub async fn named(streams: &Arc<Streams>, address: Option<SocketAddr>, parts: &Parts) -> Result<Response> {
    let path = parts.uri.path();
    let Some((named, endpoint)) = streams.at(address, path) else {
        let named = streams.list();
        let here = named.iter().filter(|named| named.address == address);
        let paths = here.flat_map(|named| named.endpoints.iter().map(|endpoint| endpoint.path.as_str()));
        let error = Error::new(Code::NoRoute, format!("nothing is at {path}"));
        return Err(match nearest(path, paths) {
            Some(near) => error.hint(format!("did you mean '{near}'?")).into(),
            None => error.hint("see /docs for what there is").into(),
        });
    };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let error = Error::new(Code::Method, format!("a stream is read with GET, not with {}", parts.method));
        return Err(Problem::from(error).header(ALLOW, HeaderValue::from_static("GET, HEAD")));
    }
    if named.visibility() == Visibility::Private {
        let identity = parts.extensions.get::<Identity>();
        let identity = identity.ok_or_else(|| Error::bug("a stream was asked for past the gate"))?;
        for (view, _) in &endpoint.views {
            identity.demand(&Scope::Stream(named.spec.views[*view].clone()))?;
        }
    }
    let ask = ask(parts, named.shape())?;
    let views: Vec<String> = endpoint.views.iter().map(|(view, _)| named.spec.views[*view].clone()).collect();
    streams.prepare(&views, &ask.shape).await?;
    stream(streams.connect_named(&named, &endpoint, &ask, &Visitor::of(parts)), &ask)
}

fn is_overload(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

fn event_stream(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache, no-transform"),
        (ACCEL_BUFFERING, "no"),
        (VARY, "origin"),
    ];
    (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), body).into_response()
}
