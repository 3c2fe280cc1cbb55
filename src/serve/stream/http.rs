//! A client of a stream as an HTTP answer, and a named stream at the path that its definition says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE, ORIGIN, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::ask::Ask;
use super::client::Client;
use super::frame::{self, Event};
use super::shape::Shape;
use super::streams::{Named, Refused, Streams};
use crate::error::{Code, Error};
use crate::serve::problem::{Problem, Result};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How long a browser waits that was answered softly.
const SOFT_RETRY_MS: u64 = 30_000;

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
pub fn stream(connected: Result<(Client, String), Refused>, ask: &Ask) -> Result<Response> {
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
        Err(Refused::Errors(errors)) => Err(errors.into()),
        Err(Refused::Full(reason, _)) if ask.soft => {
            let mut out = Vec::new();
            frame::retry(SOFT_RETRY_MS, &mut out);
            let data = serde_json::json!({"reason": "overload", "detail": reason});
            Event::named("error").write(data.to_string().as_bytes(), &mut out);
            Ok(event_stream(Body::from(out)))
        }
        Err(Refused::Full(reason, seconds)) => Err(Problem::unavailable(reason, seconds)),
    }
}

/// The named stream that a request asks for at an address (`None`: of the REST interface), to whatever method.
pub fn named(streams: &Arc<Streams>, address: Option<SocketAddr>, parts: &Parts) -> Result<Response> {
    let path = parts.uri.path();
    let Some((named, endpoint)) = streams.at(address, path) else {
        let named = streams.list();
        let here = named.iter().filter(|named| named.address == address);
        let paths: Vec<&str> = here.flat_map(|named| named.endpoints.iter().map(|endpoint| endpoint.path.as_str())).collect();
        let error = Error::new(Code::NoRoute, format!("nothing is at '{path}'"));
        return Err(match crate::error::nearest(path, paths) {
            Some(near) => error.hint(format!("did you mean '{near}'?")).into(),
            None => error.into(),
        });
    };
    let answer = match parts.method {
        Method::GET | Method::HEAD => {
            let ask = ask(parts, named.shape());
            ask.and_then(|ask| stream(streams.connect_named(&named, &endpoint, &ask), &ask))
        }
        Method::OPTIONS => return Ok(shared(&named, &parts.headers, preflight())),
        _ => {
            let error = Error::new(Code::Method, format!("a stream is read with GET, not with {}", parts.method));
            let mut response = Problem::from(error).into_response();
            response.headers_mut().insert(axum::http::header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            return Ok(response);
        }
    };
    Ok(shared(&named, &parts.headers, answer.into_response()))
}

fn event_stream(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache, no-transform"),
        (ACCEL_BUFFERING, "no"),
        (VARY, "origin"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    (headers, body).into_response()
}

fn preflight() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, cache-control, last-event-id"),
        (ACCESS_CONTROL_MAX_AGE, "3600"),
        (VARY, "origin"),
    ];
    (StatusCode::NO_CONTENT, headers.map(|(name, value)| (name, HeaderValue::from_static(value)))).into_response()
}

/// Lets the page of a request read the answer, if the stream lets its origin.
fn shared(named: &Named, headers: &HeaderMap, mut response: Response) -> Response {
    let Some(origin) = headers.get(ORIGIN) else { return response };
    let origins = named.origins();
    let allowed = match origins.iter().any(|allowed| allowed == "*") {
        true => HeaderValue::from_static("*"),
        false if origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) => origin.clone(),
        false => {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            tracing::info!(stream = named.spec.id, %origin, "a page of another origin may not read this stream; cors_origins names those that may");
            return response;
        }
    };
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    response.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("last-event-id"));
    response
}
