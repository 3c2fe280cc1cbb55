//! An error as an answer: `application/problem+json` of RFC 9457, its status from the code of the error.

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{Code, Error, ErrorKind, LineColumn, Span, nearest};

/// Seconds to wait where the server is busy and nothing more is known.
const RETRY_AFTER_BUSY: u64 = 5;

pub type Result<T, E = Problem> = std::result::Result<T, E>;

/// What went wrong with a request, and what to do about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem(Box<Document>);

/// What went wrong with a request, and what to do about it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Problem)]
struct Document {
    /// Names the kind of the problem: `urn:streamgauge:error:SG-1201`.
    #[serde(rename = "type")]
    kind: String,
    /// What the code means, the same for every problem of this kind.
    #[schema(value_type = String)]
    title: &'static str,
    /// The status of the answer.
    #[serde(serialize_with = "number")]
    #[schema(value_type = u16)]
    status: StatusCode,
    /// The stable code: `SG-1201`.
    code: String,
    /// What went wrong here, as a sentence.
    detail: String,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// Every single mistake, with its way out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Mistake>,
    /// What has to go first, where something is still in use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dependants: Vec<String>,
    /// The place in the text of the request (SQL, JSON or YAML), counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<Stretch>,
    /// The `X-Request-Id` of the answer; the log knows it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// `detail` again, for clients that look for it here.
    error: String,
    #[serde(skip)]
    headers: HeaderMap,
    /// What only the log may say.
    #[serde(skip)]
    cause: Option<String>,
}

/// One mistake in a request.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Mistake {
    /// Where in the body, as a JSON pointer: `/config/event`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    pub message: String,
    /// The way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// From the first character to behind the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stretch {
    start: TextPosition,
    end: TextPosition,
}

/// Line and column, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct TextPosition {
    line: u64,
    column: u64,
}

/// The status of an answer to an error; all other wire codes of HTTP follow from it.
pub fn status(error: &Error) -> StatusCode {
    match (error.code(), error.kind()) {
        (Code::Malformed, _) => StatusCode::BAD_REQUEST,
        (Code::Method, _) => StatusCode::METHOD_NOT_ALLOWED,
        (Code::Unauthorized, _) => StatusCode::UNAUTHORIZED,
        (Code::Forbidden | Code::Origin, _) => StatusCode::FORBIDDEN,
        (Code::TooLarge, _) => StatusCode::PAYLOAD_TOO_LARGE,
        (Code::MediaType, _) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (Code::NotAcceptable, _) => StatusCode::NOT_ACCEPTABLE,
        (Code::Stale, _) => StatusCode::PRECONDITION_FAILED,
        (Code::TooMany, _) => StatusCode::TOO_MANY_REQUESTS,
        (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        // What a statement names is a matter of its text; only what the address names is "not found".
        (Code::UnknownColumn | Code::UnknownFunction, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (_, ErrorKind::Missing) if error.span().is_some() => StatusCode::UNPROCESSABLE_ENTITY,
        (_, ErrorKind::Missing) => StatusCode::NOT_FOUND,
        (_, ErrorKind::Statement | ErrorKind::Option | ErrorKind::Payload) => StatusCode::UNPROCESSABLE_ENTITY,
        (_, ErrorKind::Conflict) => StatusCode::CONFLICT,
        (_, ErrorKind::Feed) => StatusCode::BAD_GATEWAY,
        (_, ErrorKind::Request) => StatusCode::BAD_REQUEST,
        (_, ErrorKind::Host | ErrorKind::Bug) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Error::new(code, detail).into()
    }

    /// 404: what the address names is not there; `known` are the names that are. `what` is the noun: `view`.
    pub fn not_found<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let error = Error::new(Code::NotFound, format!("there is no {what} '{name}'"));
        match nearest(name, known) {
            Some(near) => error.hint(format!("did you mean '{near}'?")).into(),
            None => error.into(),
        }
    }

    /// 401, with the challenge that tells a client how to come back.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let hint = "send the header Authorization: Bearer <token>; tokens are made with POST /v1/tokens";
        Problem::from(Error::new(Code::Unauthorized, detail).hint(hint))
            .header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"streamgauge\""))
    }

    /// 403: the caller is known and may not; `missing` is the scope that would do.
    pub fn forbidden(missing: &str) -> Self {
        Error::new(Code::Forbidden, format!("the token lacks the scope '{missing}'"))
            .hint(format!("use a token with the scope '{missing}'"))
            .into()
    }

    /// 429: come back in `seconds`; `hint` names the limit.
    pub fn too_many(detail: impl Into<String>, seconds: u64, hint: &str) -> Self {
        Problem::from(Error::new(Code::TooMany, detail).hint(hint)).header(RETRY_AFTER, seconds.into())
    }

    /// 408: the body did not come in time.
    pub fn slow() -> Self {
        let error = Error::new(Code::Malformed, "the body did not come in time");
        Problem::from(error.hint("send it whole; http.body_timeout in the settings is how long it may take"))
            .with_status(StatusCode::REQUEST_TIMEOUT)
    }

    /// 503: come back in `seconds`.
    pub fn unavailable(detail: impl Into<String>, seconds: u64) -> Self {
        Problem::new(Code::Unavailable, detail).header(RETRY_AFTER, seconds.into())
    }

    /// What a part of the server refuses that tells no more than a status.
    pub fn of_status(status: StatusCode) -> Self {
        let of = |code: Code, detail: &str, hint: &str| Problem::from(Error::new(code, detail).hint(hint)).with_status(status);
        match status {
            StatusCode::URI_TOO_LONG => of(Code::TooLarge, "the address is too long", "send less in it, or use a body"),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                of(Code::TooLarge, "the head of the request is too large", "send less")
            }
            StatusCode::PAYLOAD_TOO_LARGE => of(Code::TooLarge, "the body is too large", "send less"),
            status if status.is_server_error() => Problem::new(Code::Bug, "an answer has no reason").with_status(status),
            _ => of(
                Code::Malformed,
                "the request cannot be read",
                "percent-encode what an address cannot hold: > is %3E, < is %3C, \" is %22, a blank %20",
            ),
        }
    }

    /// 412: what `If-Match` or `If-None-Match` asked for does not hold.
    pub fn precondition(detail: impl Into<String>) -> Self {
        Error::new(Code::Stale, detail).hint("read it again and send its ETag in If-Match").into()
    }

    /// 413.
    pub fn too_large(bytes_max: usize) -> Self {
        Error::new(Code::TooLarge, format!("the body is larger than {bytes_max} bytes"))
            .hint("send less, or raise http.body_bytes_max in the settings")
            .into()
    }

    /// 415: `given` is the type that was sent, empty for none.
    pub fn unsupported_media(given: &str) -> Self {
        let detail = match given {
            "" => "the body has no Content-Type".to_string(),
            _ => format!("a body of the type '{given}' is not read here"),
        };
        Error::new(Code::MediaType, detail).hint("send Content-Type: application/json or application/yaml").into()
    }

    /// The JSON pointer of the only, or the last, mistake: `/config/event`.
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        if let Some(mistake) = self.0.errors.last_mut() {
            mistake.pointer = Some(pointer.into());
        }
        self
    }

    /// JSON pointers by what a mistake says, for callers that know which field an option name stands for.
    pub fn point(mut self, pointer: impl Fn(&Mistake) -> Option<String>) -> Self {
        for mistake in &mut self.0.errors {
            mistake.pointer = mistake.pointer.take().or_else(|| pointer(mistake));
        }
        self
    }

    /// What still uses the thing that was to go.
    pub fn dependants(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.0.dependants.extend(names);
        self
    }

    pub fn header(mut self, name: axum::http::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// The status, where the caller knows better than the code.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    pub fn mistakes(&self) -> &[Mistake] {
        &self.0.errors
    }

    /// The problem with the id by which the log knows it.
    pub(super) fn named(mut self, request_id: &str) -> Self {
        self.0.request_id = Some(request_id.to_string());
        self
    }

    /// The request that the problem answers, and what the answer is called in the log. Logs what only the log may say.
    pub(super) fn about(mut self, path: &str, request_id: &str) -> Self {
        if let Some(cause) = &self.0.cause {
            tracing::error!(request_id, path, code = self.0.code, cause, "a request failed inside the server");
        }
        self.0.instance = Some(path.to_string());
        self.0.request_id = Some(request_id.to_string());
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        vec![error].into()
    }
}

/// Status, code and detail are those of the first error; `errors` has them all.
impl From<Vec<Error>> for Problem {
    fn from(errors: Vec<Error>) -> Self {
        let Some(first) = errors.first() else {
            return Error::bug("a request failed without a reason").into();
        };
        let (status, code) = (status(first), first.code());
        let hidden = status == StatusCode::INTERNAL_SERVER_ERROR;
        let detail = match (hidden, errors.len() - 1) {
            (true, _) => "the server failed; its log says why, under the request id".to_string(),
            (false, 0) => first.message().to_string(),
            (false, 1) => format!("{} (and one more mistake)", first.message()),
            (false, more) => format!("{} (and {more} more mistakes)", first.message()),
        };
        Problem(Box::new(Document {
            kind: format!("urn:streamgauge:error:{code}"),
            title: code.title(),
            status,
            code: code.to_string(),
            instance: None,
            span: first.span().filter(|_| !hidden).map(Stretch::from),
            cause: hidden.then(|| errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")),
            errors: if hidden { Vec::new() } else { errors.iter().map(Mistake::from).collect() },
            dependants: Vec::new(),
            request_id: None,
            error: detail.clone(),
            detail,
            headers: if code == Code::Unavailable { again_in(RETRY_AFTER_BUSY) } else { HeaderMap::new() },
        }))
    }
}

fn again_in(seconds: u64) -> HeaderMap {
    HeaderMap::from_iter([(RETRY_AFTER, seconds.into())])
}

impl From<&Error> for Mistake {
    fn from(error: &Error) -> Self {
        Mistake { pointer: None, message: error.message().to_string(), hint: error.way_out().map(str::to_string) }
    }
}

impl From<Span> for Stretch {
    fn from(span: Span) -> Self {
        let position = |place: LineColumn| TextPosition { line: place.line, column: place.column };
        Stretch { start: position(span.start), end: position(span.end) }
    }
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        Document::schema()
    }
}

impl ToSchema for Problem {
    fn name() -> Cow<'static, str> {
        Document::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Document::schemas(schemas);
    }
}

/// The problem itself goes along as an extension, for the layer that knows the request's path and id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(&self)).into_response();
        response.headers_mut().extend(self.0.headers.clone());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.extensions_mut().insert(self);
        response
    }
}

fn number<S: serde::Serializer>(status: &StatusCode, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(problem: &Problem) -> serde_json::Value {
        serde_json::to_value(problem).unwrap()
    }

    #[test]
    fn a_problem_has_the_shape_of_rfc_9457_and_our_additions() {
        let span = Span { start: LineColumn { line: 3, column: 5 }, end: LineColumn { line: 3, column: 10 } };
        let error = Error::new(Code::UnknownOption, "unknown option 'event'").hint("did you mean 'events'?").at(span);
        let problem = Problem::from(error).at("/config/event").about("/v1/connection_tables", "01J");
        assert_eq!(
            shown(&problem),
            json!({
                "type": "urn:streamgauge:error:SG-1201", "title": "An option is not known", "status": 422, "code": "SG-1201",
                "detail": "unknown option 'event'", "instance": "/v1/connection_tables",
                "errors": [{"pointer": "/config/event", "message": "unknown option 'event'", "hint": "did you mean 'events'?"}],
                "span": {"start": {"line": 3, "column": 5}, "end": {"line": 3, "column": 10}},
                "request_id": "01J", "error": "unknown option 'event'",
            })
        );
    }

    #[test]
    fn the_message_of_a_bug_stays_inside() {
        for error in [Error::bug("the state of 'x' is gone"), Error::new(Code::Data, "/var/x is full")] {
            let problem = Problem::from(error).about("/v1/views", "01J");
            let text = shown(&problem).to_string();
            assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert!(!text.contains("gone") && !text.contains("/var") && text.contains("01J"), "{text}");
        }
    }

    #[test]
    fn every_code_has_a_status_that_fits_who_must_act() {
        for code in Code::ALL {
            let status = status(&Error::new(*code, ""));
            let server = matches!(code.kind(), ErrorKind::Bug | ErrorKind::Host | ErrorKind::Feed) || *code == Code::Unavailable;
            assert_eq!(status.is_server_error(), server, "{code} {status}");
            assert!(status.is_client_error() || status.is_server_error(), "{code} {status}");
        }
    }

    #[test]
    fn a_missing_name_is_404_in_an_address_and_422_in_a_text() {
        let error = Error::new(Code::UnknownTable, "there is no table 'trade'");
        let place = LineColumn { line: 1, column: 15 };
        assert_eq!(status(&error), StatusCode::NOT_FOUND);
        assert_eq!(status(&error.at(Span { start: place, end: place })), StatusCode::UNPROCESSABLE_ENTITY);
    }

    #[test]
    fn a_name_that_is_missing_comes_with_the_nearest() {
        let problem = Problem::not_found("view", "rollin", ["rolling", "trades"]);
        assert_eq!(problem.status(), StatusCode::NOT_FOUND);
        assert_eq!(problem.detail(), "there is no view 'rollin'");
        assert_eq!(problem.mistakes()[0].hint.as_deref(), Some("did you mean 'rolling'?"));
    }

    #[test]
    fn answers_carry_the_headers_that_their_status_asks_for() {
        let refused = Problem::unauthorized("a token is needed").into_response();
        assert_eq!(refused.headers()[WWW_AUTHENTICATE], "Bearer realm=\"streamgauge\"");
        assert_eq!(refused.headers()[CONTENT_TYPE], "application/problem+json");
        for (problem, status) in [(Problem::too_many("", 7, "wait"), 429), (Problem::unavailable("", 7), 503)] {
            let response = problem.into_response();
            assert_eq!((response.status().as_u16(), response.headers()[RETRY_AFTER].as_bytes()), (status, &b"7"[..]));
        }
    }

    #[test]
    fn several_mistakes_are_all_told() {
        let problem = Problem::from(vec![
            Error::new(Code::BadOption, "option 'a' is no number"),
            Error::new(Code::UnknownOption, "unknown option 'b'"),
        ])
        .point(|mistake| mistake.message.split('\'').nth(1).map(|name| format!("/config/{name}")));
        assert_eq!(problem.detail(), "option 'a' is no number (and one more mistake)");
        let pointers: Vec<_> = problem.mistakes().iter().map(|mistake| mistake.pointer.as_deref()).collect();
        assert_eq!(pointers, [Some("/config/a"), Some("/config/b")]);
    }
}
