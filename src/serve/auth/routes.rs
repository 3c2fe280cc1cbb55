//! `/v1/tokens` and `/v1/tickets`.

use std::time::{Duration, Instant, SystemTime};

use axum::extract::{FromRef, Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use axum::{Extension, Json};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::gate::{Gate, Identity};
use super::scope::Scope;
use super::ticket::TTL_MAX;
use super::token::Record;
use crate::error::{Code, Error};
use crate::serve::body::Body;
use crate::serve::problem::{Problem, Result};
use crate::time::Timestamp;

/// A name says what a token is for; it is shown in lists and logs.
const NAME_CHARS_MAX: usize = 63;

/// The routes, without their `/v1`.
pub fn router<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S>
where
    Gate: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(list, make)).routes(routes!(remove)).routes(routes!(ticket))
}

/// A new token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenPost {
    /// What it is for.
    name: String,
    /// `read`, `stream:<view>`, `write`, `admin`; each includes those below it.
    #[schema(value_type = Vec<String>, example = json!(["stream:orders"]))]
    scopes: Vec<Scope>,
    /// RFC 3339: the token is good until then, and what it has opened ends. Without it, until it is removed.
    #[serde(default)]
    #[schema(example = "2030-01-01T00:00:00Z")]
    expires_at: Option<String>,
}

/// A token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct Token {
    #[schema(example = "tk_0123456789abcdef")]
    id: String,
    name: String,
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339; absent where it is good until it is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// Whether the settings name it; such a token can only be removed there.
    configured: bool,
}

/// A new token with its secret, which is shown here and never again.
#[derive(Debug, Serialize, ToSchema)]
struct NewToken {
    #[serde(flatten)]
    about: Token,
    /// The secret, for `Authorization: Bearer`.
    token: String,
    /// What changes by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<&'static str>,
}

/// All tokens.
#[derive(Debug, Serialize, ToSchema)]
struct TokenList {
    data: Vec<Token>,
    has_more: bool,
}

/// What a ticket is to open.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TicketPost {
    /// Views to follow with one stream.
    views: Vec<String>,
    /// Seconds in which the stream must be opened, from 1 to 60.
    #[serde(default = "ttl_max")]
    #[schema(minimum = 1, maximum = 60)]
    ttl_s: u64,
}

/// A secret for the address of one stream: `?ticket=…`.
#[derive(Debug, Serialize, ToSchema)]
struct Ticket {
    ticket: String,
    /// RFC 3339.
    expires_at: String,
}

impl From<Record> for Token {
    fn from(record: Record) -> Self {
        Token {
            id: record.id,
            name: record.name,
            scopes: record.scopes,
            created_at: record.created_at,
            expires_at: record.expires_at,
            configured: record.configured,
        }
    }
}

/// All tokens, without their secrets
#[utoipa::path(get, operation_id = "list_tokens", path = "/tokens", tag = "auth", responses((status = 200, body = TokenList, description = "All of them")))]
async fn list(State(gate): State<Gate>) -> Json<TokenList> {
    Json(TokenList { data: gate.tokens().list().into_iter().map(Token::from).collect(), has_more: false })
}

/// Make a token; the secret is in this answer alone
#[utoipa::path(post, operation_id = "create_token", path = "/tokens", tag = "auth", request_body = TokenPost,
    responses((status = 201, body = NewToken, description = "Made"), (status = 409, body = Problem, description = "The name is taken")))]
async fn make(
    State(gate): State<Gate>,
    Body(post): Body<TokenPost>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<NewToken>)> {
    let length = post.name.chars().count();
    if length == 0 || length > NAME_CHARS_MAX || post.name.contains(|letter: char| letter.is_control() || letter == '/') {
        let error = Error::new(Code::BadOption, format!("the name must have 1 to {NAME_CHARS_MAX} characters, and no '/'"));
        return Err(Problem::from(error).at("/name"));
    }
    if post.scopes.is_empty() {
        let error = Error::new(Code::BadOption, "a token without a scope opens nothing").hint("give one, such as \"read\"");
        return Err(Problem::from(error).at("/scopes"));
    }
    if let Some(text) = &post.expires_at
        && humantime::parse_rfc3339_weak(text).map_or(true, |time| time <= SystemTime::now())
    {
        let error = Error::new(Code::BadOption, format!("'{text}' is no time to come"));
        return Err(Problem::from(error.hint("write one such as 2030-01-01T00:00:00Z")).at("/expires_at"));
    }
    let was_open = gate.is_open();
    let (record, secret) = gate.tokens().make(&post.name, post.scopes, post.expires_at)?;
    gate.settle();
    let notice = (was_open && !gate.is_open()).then_some("from now on every request needs a token; keep this one");
    let location = [(LOCATION, format!("/v1/tokens/{}", record.id))];
    let new = NewToken { about: record.into(), token: secret.expose_secret().to_string(), notice };
    Ok((StatusCode::CREATED, location, Json(new)))
}

/// Remove a token; it is refused from then on
#[utoipa::path(delete, operation_id = "delete_token", path = "/tokens/{id}", tag = "auth", params(("id" = String, Path, description = "Id or name")),
    responses((status = 204, description = "Removed"), (status = 409, body = Problem, description = "The settings name it, or it is the last one for admin")))]
async fn remove(State(gate): State<Gate>, Path(id): Path<String>) -> Result<StatusCode> {
    let list = gate.tokens().list();
    let admins = || list.iter().filter(|record| record.scopes.contains(&Scope::Admin));
    let is_last = admins().count() == 1 && admins().all(|record| record.id == id || record.name == id);
    if is_last && !gate.needs_no_admin() {
        let error = Error::new(Code::InUse, format!("'{id}' is the last token with the scope 'admin'"));
        return Err(error.hint("make another one first").into());
    }
    match gate.tokens().remove(&id)? {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(Problem::not_found("token", &id, list.iter().map(|record| record.name.as_str()))),
    }
}

/// Make a ticket, which opens one stream once, for clients that can send no header
#[utoipa::path(post, operation_id = "create_ticket", path = "/tickets", tag = "auth", request_body = TicketPost,
    responses((status = 201, body = Ticket, description = "Made")))]
async fn ticket(
    State(gate): State<Gate>,
    Extension(identity): Extension<Identity>,
    Body(post): Body<TicketPost>,
) -> Result<(StatusCode, Json<Ticket>)> {
    let wrong = |pointer: &str, message: String| Err(Problem::from(Error::new(Code::BadOption, message)).at(pointer));
    if post.views.is_empty() {
        return wrong("/views", "a ticket needs at least one view".into());
    }
    if !(1..=TTL_MAX.as_secs()).contains(&post.ttl_s) {
        return wrong("/ttl_s", format!("a ticket lives from 1 to {} seconds", TTL_MAX.as_secs()));
    }
    let scopes: Vec<Scope> = post.views.into_iter().map(Scope::Stream).collect();
    scopes.iter().try_for_each(|scope| identity.demand(scope))?;
    let ttl = Duration::from_secs(post.ttl_s);
    let ticket = gate.tickets().make(identity.token, scopes, ttl, Instant::now())?;
    Ok((StatusCode::CREATED, Json(Ticket { ticket, expires_at: Timestamp::now().plus(ttl).to_string() })))
}

fn ttl_max() -> u64 {
    TTL_MAX.as_secs()
}
