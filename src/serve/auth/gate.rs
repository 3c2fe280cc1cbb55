//! The gate: who a request is from, and whether that is enough for what it wants.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, REFERRER_POLICY};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::scope::{Need, Scope, need, need_of_stream};
use super::ticket::Tickets;
use super::token::Tokens;
use super::until;
use crate::checkpoint::Store;
use crate::error::Result;
use crate::serve::listen::{Shutdown, Stop};
use crate::serve::problem::Problem;
use crate::serve::settings::Settings;

/// Tokens, tickets, and whether anybody is asked for them. Clones share them.
#[derive(Debug, Clone)]
pub struct Gate {
    kept: Arc<GateState>,
    /// The address of streams that this one is at; `None` for the REST interface.
    address: Option<SocketAddr>,
}

#[derive(Debug)]
struct GateState {
    tokens: Tokens,
    tickets: Tickets,
    /// `insecure_no_auth`: open whatever happens.
    insecure: bool,
    /// Only this machine can reach the server.
    loopback: bool,
    /// As long as everybody may do everything, and what ends that.
    open: Mutex<(Stop, Shutdown)>,
}

/// Who a request is from; every handler can ask for it as an extension.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The id of the token, for limits.
    pub token: Option<String>,
    /// The name of the token, for the log.
    pub name: Option<String>,
    scopes: Vec<Scope>,
    /// When it is over: what was opened by it ends.
    until: Shutdown,
}

impl Gate {
    pub fn new(settings: &Settings, store: Store) -> Result<Self> {
        let tokens = Tokens::new(&settings.auth, store)?;
        let (insecure, loopback) = (settings.auth.insecure_no_auth, settings.is_loopback_only());
        let kept = GateState { tokens, tickets: Tickets::default(), insecure, loopback, open: Mutex::new(Shutdown::new()) };
        Ok(Gate { kept: Arc::new(kept), address: None })
    }

    /// The same at another address: at one of streams no path belongs to the REST interface.
    pub fn at(&self, address: Option<SocketAddr>) -> Self {
        Gate { address, ..self.clone() }
    }

    /// Whether everybody may do everything: by the settings, or on loopback as long as no token for `admin` is there.
    pub fn is_open(&self) -> bool {
        self.kept.insecure || self.kept.loopback && !self.kept.tokens.has_admin()
    }

    /// Ends what was opened by nobody in particular, if a token is needed now.
    pub fn settle(&self) {
        if !self.is_open() {
            *self.kept.open.lock().unwrap_or_else(PoisonError::into_inner) = Shutdown::new();
        }
    }

    /// How the server is guarded, as `info` says it.
    pub fn mode(&self) -> &'static str {
        if self.is_open() { "none" } else { "token" }
    }

    pub fn tokens(&self) -> &Tokens {
        &self.kept.tokens
    }

    pub fn tickets(&self) -> &Tickets {
        &self.kept.tickets
    }

    /// Whether the server can go without a token for `admin`, since strangers cannot reach it or all are let in.
    pub(super) fn needs_no_admin(&self) -> bool {
        self.kept.insecure || self.kept.loopback
    }

    /// Who asks, if that is enough for the need.
    fn admit(&self, need: Need, credentials: impl FnOnce() -> Result<Option<Credentials>, Problem>) -> Result<Identity, Problem> {
        if self.is_open() {
            let until = self.kept.open.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
            return Ok(Identity { token: None, name: None, scopes: vec![Scope::Admin], until });
        }
        let identity = credentials().and_then(|shown| self.identify(shown));
        match need {
            Need::Nothing => Ok(identity.unwrap_or_else(|_| Identity::nobody())),
            Need::Handler => identity,
            Need::Known => match identity? {
                identity if identity.scopes.is_empty() => Err(Problem::unauthorized("a token is needed")),
                identity => Ok(identity),
            },
            Need::Scopes(scopes) => {
                let identity = identity?;
                scopes.iter().try_for_each(|scope| identity.demand(scope))?;
                Ok(identity)
            }
        }
    }

    /// Who carries these credentials: nobody where there are none; an error where they are wrong.
    fn identify(&self, credentials: Option<Credentials>) -> Result<Identity, Problem> {
        match credentials {
            None => Ok(Identity::nobody()),
            Some(Credentials::Token(secret)) => match self.kept.tokens.find(&secret) {
                Some((record, until)) => {
                    Ok(Identity { token: Some(record.id), name: Some(record.name), scopes: record.scopes, until })
                }
                None => Err(Problem::unauthorized("the token is not known")),
            },
            Some(Credentials::Ticket(secret)) => {
                let known = self.kept.tickets.take(&secret, Instant::now()).and_then(|ticket| {
                    // A ticket of a token that is gone is worth no more than the token.
                    let (name, until) = self.kept.tokens.until(ticket.token.as_deref()?)?;
                    Some(Identity { token: ticket.token, name: Some(name), scopes: ticket.scopes, until })
                });
                known.ok_or_else(|| Problem::unauthorized("the ticket is not known, used, or too old"))
            }
        }
    }
}

impl Identity {
    fn nobody() -> Self {
        Identity { token: None, name: None, scopes: Vec::new(), until: Shutdown::default() }
    }

    pub fn allows(&self, scope: &Scope) -> bool {
        self.scopes.iter().any(|has| has.includes(scope))
    }

    /// 401 for a stranger, 403 with the missing scope for a token that lacks it.
    pub fn demand(&self, scope: &Scope) -> Result<(), Problem> {
        match self.allows(scope) {
            true => Ok(()),
            false if self.scopes.is_empty() => Err(Problem::unauthorized("a token is needed")),
            false => Err(Problem::forbidden(&scope.to_string())),
        }
    }
}

/// The middleware: lets a request through with its [`Identity`], or answers 401 or 403.
pub async fn authorize(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let uri = request.uri();
    let query = uri.query().unwrap_or_default();
    let (need, in_address) = match gate.address {
        Some(_) => need_of_stream(request.method()),
        None => need(request.method(), uri.path(), query),
    };
    match gate.admit(need, || credentials(request.headers(), query, in_address)) {
        Ok(identity) => {
            request.extensions_mut().insert(identity.clone());
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            let asks = request.uri().path().ends_with("/sql");
            let answer = next.run(request);
            // What waits for rows or changes, as a statement may, waits no longer than its token is known; a change by REST is brought to its end.
            let response = match reads || asks {
                true => tokio::select! {
                    biased;
                    response = answer => response,
                    () = identity.until.begun() => Problem::unauthorized("the token is not known any more").into_response(),
                },
                false => answer.await,
            };
            let mut response = until::ended_with(response, &identity.until);
            response.extensions_mut().insert(identity);
            // An address with a secret in it goes nowhere else.
            if in_address {
                response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            }
            response
        }
        Err(problem) => problem.into_response(),
    }
}

enum Credentials {
    Token(String),
    Ticket(String),
}

/// What the request shows: the header, or in the address of a stream `token` or `ticket`.
fn credentials(headers: &HeaderMap, query: &str, in_address: bool) -> Result<Option<Credentials>, Problem> {
    if let Some(given) = headers.get(AUTHORIZATION) {
        let token = given
            .to_str()
            .ok()
            .and_then(|given| given.split_once(' '))
            .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty());
        return match token {
            Some((_, token)) => Ok(Some(Credentials::Token(token.trim().to_string()))),
            None => Err(Problem::unauthorized("the header Authorization holds no Bearer token")),
        };
    }
    if !in_address {
        return Ok(None);
    }
    Ok(form_urlencoded::parse(query.as_bytes()).find_map(|(name, value)| match &*name {
        "token" => Some(Credentials::Token(value.into_owned())),
        "ticket" => Some(Credentials::Ticket(value.into_owned())),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::StatusCode;
    use axum::http::header::{CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
    use axum::{Extension, Router, middleware};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::serve::auth::router;

    const ADMIN: &str = "0123456789abcdef";

    fn gate(change: impl FnOnce(&mut Settings)) -> Gate {
        let mut settings = Settings::default();
        change(&mut settings);
        Gate::new(&settings, Store::in_memory().unwrap()).unwrap()
    }

    fn closed() -> Gate {
        gate(|settings| settings.auth.token = Some(ADMIN.into()))
    }

    /// The routes of tokens and tickets, and an echo of who asks everywhere else.
    fn app(gate: &Gate) -> Router {
        let echo = async |Extension(identity): Extension<Identity>| format!("{:?}", identity.token);
        let (auth, _api) = router::<Gate>().split_for_parts();
        Router::new()
            .nest("/v1", auth)
            .fallback(echo)
            .layer(middleware::from_fn_with_state(gate.clone(), authorize))
            .with_state(gate.clone())
    }

    async fn send(gate: &Gate, line: &str, token: &str, body: Value) -> Response {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        if !token.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        app(gate).oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap()
    }

    async fn status(gate: &Gate, line: &str, token: &str) -> u16 {
        send(gate, line, token, Value::Null).await.status().as_u16()
    }

    async fn read(response: Response) -> Value {
        serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap()
    }

    async fn token(gate: &Gate, name: &str, scopes: &[&str]) -> String {
        let response = send(gate, "POST /v1/tokens", ADMIN, json!({"name": name, "scopes": scopes})).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        read(response).await["token"].as_str().unwrap().to_string()
    }

    #[tokio::test]
    async fn on_loopback_without_tokens_everything_is_allowed_and_any_token_is_taken() {
        let gate = gate(|_| {});
        for token in ["", "YOUR_TOKEN"] {
            assert_eq!(status(&gate, "POST /v1/connection_tables", token).await, 200);
            assert_eq!(status(&gate, "GET /v1/tokens", token).await, 200);
        }
    }

    #[tokio::test]
    async fn the_first_token_for_admin_closes_the_gate() {
        let gate = gate(|_| {});
        let small = read(send(&gate, "POST /v1/tokens", "", json!({"name": "a", "scopes": ["read"]})).await).await;
        assert!(gate.is_open() && small.get("notice").is_none());
        let admin = read(send(&gate, "POST /v1/tokens", "", json!({"name": "b", "scopes": ["admin"]})).await).await;
        assert!(!gate.is_open() && admin["notice"].is_string(), "{admin}");
        assert_eq!(status(&gate, "GET /v1/views", "").await, 401);
        assert_eq!(status(&gate, "GET /v1/views", small["token"].as_str().unwrap()).await, 200);
        assert_eq!(status(&gate, "DELETE /v1/tokens/b", admin["token"].as_str().unwrap()).await, 204);
        assert!(gate.is_open());
    }

    #[tokio::test]
    async fn a_stranger_gets_401_with_a_challenge_and_a_weak_token_403_with_the_scope() {
        let gate = closed();
        let refused = send(&gate, "GET /v1/views", "", Value::Null).await;
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key(WWW_AUTHENTICATE)), (401, true));
        assert_eq!(status(&gate, "GET /v1/views", "no such token").await, 401);
        assert_eq!(status(&gate, "GET /v1/ping", "").await, 200);
        assert_eq!(status(&gate, "POST /v1/sql", "").await, 401);
        let reader = token(&gate, "reader", &["read"]).await;
        assert_eq!(status(&gate, "POST /v1/sql", &reader).await, 200);
        assert_eq!(status(&gate, "GET /v1/views/a/stream", &reader).await, 200);
        let refused = send(&gate, "DELETE /v1/views/a", &reader, Value::Null).await;
        assert_eq!(refused.status().as_u16(), 403);
        assert_eq!(read(refused).await["detail"], "the token lacks the scope 'write'");
    }

    #[tokio::test]
    async fn a_token_in_the_address_opens_streams_only() {
        let gate = closed();
        let one = token(&gate, "one", &["stream:a"]).await;
        let response = send(&gate, &format!("GET /v1/views/a/stream?token={one}"), "", Value::Null).await;
        assert_eq!((response.status().as_u16(), response.headers()[REFERRER_POLICY].as_bytes()), (200, &b"no-referrer"[..]));
        assert_eq!(status(&gate, &format!("GET /v1/views/b/stream?token={one}"), "").await, 403);
        assert_eq!(status(&gate, &format!("GET /v1/streams?view=a&view=b&token={one}"), "").await, 403);
        for path in ["views", "views/a/results"] {
            assert_eq!(status(&gate, &format!("GET /v1/{path}?token={ADMIN}"), "").await, 401, "{path}");
        }
        assert_eq!(status(&gate, &format!("POST /v1/views?token={ADMIN}"), "").await, 401);
    }

    #[tokio::test]
    async fn a_ticket_opens_one_stream_of_its_views_once() {
        let gate = closed();
        let reader = token(&gate, "reader", &["stream:a"]).await;
        let made = send(&gate, "POST /v1/tickets", &reader, json!({"views": ["a"], "ttl_s": 5})).await;
        assert_eq!(made.status(), StatusCode::CREATED);
        let ticket = read(made).await["ticket"].as_str().unwrap().to_string();
        let address = format!("GET /v1/views/a/stream?ticket={ticket}");
        assert_eq!((status(&gate, &address, "").await, status(&gate, &address, "").await), (200, 401));
        for (body, expect) in [
            (json!({"views": ["b"]}), 403),
            (json!({"views": []}), 422),
            (json!({"views": ["a"], "ttl_s": 61}), 422),
            (json!({"view": ["a"]}), 422),
        ] {
            assert_eq!(send(&gate, "POST /v1/tickets", &reader, body.clone()).await.status().as_u16(), expect, "{body}");
        }
    }

    #[tokio::test]
    async fn tokens_are_made_listed_and_removed() {
        let gate = closed();
        let made = send(&gate, "POST /v1/tokens", ADMIN, json!({"name": "ci", "scopes": ["write"]})).await;
        let location = made.headers()[LOCATION].to_str().unwrap().to_string();
        let secret = read(made).await["token"].as_str().unwrap().to_string();
        let list = read(send(&gate, "GET /v1/tokens", ADMIN, Value::Null).await).await;
        assert_eq!((list["data"][0]["name"].as_str(), list["data"][0]["scopes"].clone()), (Some("ci"), json!(["write"])));
        assert!(!list.to_string().contains(&secret) && !list.to_string().contains("sha256"), "{list}");
        for (body, expect) in [
            (json!({"name": "ci", "scopes": ["read"]}), 409),
            (json!({"name": "", "scopes": ["read"]}), 422),
            (json!({"name": "x", "scopes": []}), 422),
            (json!({"name": "x", "scopes": ["reed"]}), 422),
        ] {
            assert_eq!(send(&gate, "POST /v1/tokens", ADMIN, body.clone()).await.status().as_u16(), expect, "{body}");
        }
        assert_eq!(status(&gate, &format!("DELETE {location}"), ADMIN).await, 204);
        assert_eq!(status(&gate, &format!("DELETE {location}"), ADMIN).await, 404);
        assert_eq!(status(&gate, "GET /v1/views", &secret).await, 401);
        assert_eq!(status(&gate, "DELETE /v1/tokens/auth.token", ADMIN).await, 409);
    }

    #[tokio::test]
    async fn the_last_way_in_is_not_taken_away() {
        let store = Store::in_memory().unwrap();
        let settings = Settings { bind: "0.0.0.0:1".parse().unwrap(), ..Settings::default() };
        let gate = Gate::new(&settings, store).unwrap();
        assert_eq!(status(&gate, "GET /v1/views", "").await, 401);
        let (_, secret) = gate.tokens().make("root", vec![Scope::Admin], None).unwrap();
        let secret = secrecy::ExposeSecret::expose_secret(&secret).to_string();
        assert_eq!(status(&gate, "DELETE /v1/tokens/root", &secret).await, 409);
    }
}
