//! What a token may do, and what a request needs.

use std::fmt;
use std::str::FromStr;

use axum::http::Method;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

/// The scope of a stream stands for all views with this name.
const ALL: &str = "*";

/// One thing that a token may do. `admin` includes `write`, that includes `read`, and that the streams of all views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// See everything that is defined, and all results.
    Read,
    /// Follow and read the results of one view: `stream:orders`; `stream:*` of all.
    Stream(String),
    /// Define, change and remove tables, views and streams.
    Write,
    /// Make and remove tokens.
    Admin,
}

impl Scope {
    pub fn includes(&self, needed: &Scope) -> bool {
        match (self, needed) {
            (Scope::Admin, _) => true,
            (Scope::Write, needed) => *needed != Scope::Admin,
            (Scope::Read, needed) => matches!(needed, Scope::Read | Scope::Stream(_)),
            (Scope::Stream(view), Scope::Stream(needed)) => view == ALL || view == needed,
            (Scope::Stream(_), _) => false,
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Scope::Read),
            "write" => Ok(Scope::Write),
            "admin" => Ok(Scope::Admin),
            _ => match text.strip_prefix("stream:") {
                Some(view) if !view.is_empty() => Ok(Scope::Stream(view.to_string())),
                _ => Err(format!("'{text}' is no scope; give read, stream:<view>, write or admin")),
            },
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Read => f.write_str("read"),
            Scope::Stream(view) => write!(f, "stream:{view}"),
            Scope::Write => f.write_str("write"),
            Scope::Admin => f.write_str("admin"),
        }
    }
}

/// What a request needs before its handler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it says nothing that is anybody's secret.
    Nothing,
    /// All of these scopes.
    Scopes(Vec<Scope>),
    /// Some token; the handler decides by what the request says.
    Known,
    /// The handler decides, also about requests without a token.
    Handler,
}

/// What a request to a named stream needs, whatever path its definition gives it: it knows by itself whether it is public.
pub fn need_of_stream(method: &Method) -> (Need, bool) {
    (Need::Handler, reads(method))
}

/// What a request to the REST interface needs, and whether it may carry its token in the address, as an `EventSource` must.
pub fn need(method: &Method, path: &str, query: &str) -> (Need, bool) {
    let only = |scope: Scope| Need::Scopes(vec![scope]);
    let api = ["/api/v1", "/v1"]
        .iter()
        .find_map(|base| path.strip_prefix(base))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let Some(rest) = api else {
        return match path {
            "/" | "/healthz" | "/readyz" | "/openapi.json" | "/favicon.ico" => (Need::Nothing, false),
            "/metrics" => (only(Scope::Read), false),
            _ if path == "/docs" || path.starts_with("/docs/") => (Need::Nothing, false),
            _ => need_of_stream(method),
        };
    };
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    let named = || {
        form_urlencoded::parse(query.as_bytes())
            .filter(|(name, _)| name == "view")
            .flat_map(|(_, views)| views.split(',').map(|view| Scope::Stream(view.trim().to_string())).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    match (reads(method), &parts[..]) {
        (true, ["ping"]) => (Need::Nothing, false),
        (_, ["tokens", ..]) => (only(Scope::Admin), false),
        (true, ["views", view, "stream" | "changes"]) => (only(Scope::Stream(decoded(view))), true),
        (true, ["views" | "queries", view, "results"]) => (only(Scope::Stream(decoded(view))), false),
        (true, ["streams"]) if !named().is_empty() => (Need::Scopes(named()), true),
        (true, [.., "stream"] | ["events"]) => (only(Scope::Read), true),
        (true, _) => (only(Scope::Read), false),
        (false, ["sql"] | ["tickets"]) => (Need::Known, false),
        (false, ["sql", "validate"]) => (only(Scope::Read), false),
        (false, _) => (only(Scope::Write), false),
    }
}

fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// A part of a path as the handler will see it, so that no spelling of a name gets around its scope.
fn decoded(part: &str) -> String {
    // The only decoder at hand is that of forms, where a plus is a blank; in a path it is itself.
    let form = format!("x={}", part.replace('+', "%2B").replace('&', "%26"));
    form_urlencoded::parse(form.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(line: &str) -> String {
        let (method, address) = line.split_once(' ').unwrap();
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let (need, in_address) = need(&method.parse().unwrap(), path, query);
        let need = match need {
            Need::Nothing => "nothing".to_string(),
            Need::Scopes(scopes) => scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(" "),
            Need::Known => "known".to_string(),
            Need::Handler => "handler".to_string(),
        };
        if in_address { format!("{need} (url)") } else { need }
    }

    #[test]
    fn every_request_has_its_need() {
        for (line, expect) in [
            ("GET /v1/ping", "nothing"),
            ("GET /healthz", "nothing"),
            ("GET /docs/", "nothing"),
            ("POST /v1/ping", "write"),
            ("GET /metrics", "read"),
            ("GET /v1/connection_tables", "read"),
            ("HEAD /api/v1/connection_tables", "read"),
            ("GET /v1/events", "read (url)"),
            ("GET /v1/connection_tables/t/events", "read"),
            ("POST /v1/connection_tables", "write"),
            ("POST /v1/connection_tables/test", "write"),
            // It may look at the feed.
            ("POST /v1/connection_tables/schemas/test", "write"),
            ("DELETE /v1/views/a", "write"),
            ("GET /v1/views/a/stream", "stream:a (url)"),
            ("GET /v1/views/%61b+c/changes", "stream:ab+c (url)"),
            ("GET /v1/views/a/plan", "read"),
            // Rows are an answer like others: whoever asks can send a header.
            ("GET /v1/views/a/results", "stream:a"),
            ("GET /api/v1/queries/a/results", "stream:a"),
            ("GET /v1/streams", "read"),
            ("GET /v1/streams?view=a&view=b,c", "stream:a stream:b stream:c (url)"),
            ("POST /v1/streams?view=a", "write"),
            ("GET /v1/connection_tables/a/events/stream", "read (url)"),
            ("POST /v1/sql", "known"),
            ("POST /v1/sql/validate", "read"),
            ("POST /v1/tickets", "known"),
            ("GET /v1/tokens", "admin"),
            ("DELETE /v1/tokens/tk_1", "admin"),
            ("GET /v1//tokens", "admin"),
            ("GET /v1x", "handler (url)"),
            ("GET /events", "handler (url)"),
            ("POST /events", "handler"),
        ] {
            assert_eq!(needs(line), expect, "{line}");
        }
    }

    #[test]
    fn scopes_include_what_is_below_them() {
        let scope = |text: &str| text.parse::<Scope>().unwrap();
        for (has, needed, allowed) in [
            ("admin", "admin", true),
            ("admin", "stream:a", true),
            ("write", "read", true),
            ("write", "admin", false),
            ("read", "stream:a", true),
            ("read", "write", false),
            ("stream:a", "stream:a", true),
            ("stream:a", "stream:b", false),
            ("stream:*", "stream:b", true),
            ("stream:a", "read", false),
        ] {
            assert_eq!(scope(has).includes(&scope(needed)), allowed, "{has} {needed}");
        }
        for wrong in ["", "all", "stream:", "Read", "stream"] {
            assert!(wrong.parse::<Scope>().is_err(), "{wrong}");
        }
    }
}
