//! A named stream as its user writes it: which views, where, and in what words. JSON and YAML, in snake_case or camelCase.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::fields::{Fields, Issue, child};
use super::position::escaped;
use super::shape::{Format, Op, Ops};
use super::template::Templates;
use crate::error::{Code, Error, nearest};

/// Between two heartbeats, if nobody says otherwise.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// Heartbeats that come faster than this are a load and no sign of life.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Proxies and routers forget a silent connection sooner than this.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);
/// Clients of one stream, if nobody says otherwise.
pub const MAX_CLIENTS: u64 = 1000;
/// Views of one stream: every event's id tells of each of them.
pub const MAX_VIEWS: usize = 64;
const SSE_PATH: &str = "/events";

/// A named stream; valid by construction.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StreamSpec {
    #[schema(required = false)]
    pub kind: StreamKind,
    #[schema(example = "live-stream")]
    pub id: String,
    /// The views whose changes it sends; `queries` says the same.
    pub views: Vec<String>,
    #[schema(required = false)]
    pub auto_start: bool,
    /// `None` for a log.
    #[serde(flatten)]
    #[schema(value_type = Web)]
    pub web: Option<Web>,
    #[schema(required = false)]
    pub format: Format,
    /// By view: a path of its own, and templates.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub routes: BTreeMap<String, Route>,
    /// Templates for all views.
    #[serde(skip_serializing_if = "OpTemplates::is_empty")]
    #[schema(required = false)]
    pub default_template: OpTemplates,
}

/// Where the changes of a stream go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StreamKind)]
pub enum StreamKind {
    /// To clients, as Server-Sent Events.
    #[default]
    Sse,
    /// To the log of the server, a line each; it has no address, no paths and no clients.
    Log,
}

/// Where clients find a stream of the kind `sse`, and which of them.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = StreamWeb)]
pub struct Web {
    /// Where to listen; without a port, the address of the REST interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub host: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// All changes of all views.
    #[schema(required = false)]
    pub sse_path: String,
    /// Milliseconds, or `off`.
    #[schema(value_type = u64, required = false, example = 30000)]
    pub heartbeat_interval_ms: Heartbeat,
    #[schema(required = false)]
    pub visibility: Visibility,
    /// Origins whose pages may read it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub cors_origins: Vec<String>,
    #[schema(required = false)]
    pub max_clients: u64,
}

/// The time between two signs of life on a silent connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    Every(Duration),
    Off,
}

/// Who may read a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StreamVisibility)]
pub enum Visibility {
    /// Whoever may read its views.
    #[default]
    Private,
    /// Everybody, from every page.
    Public,
}

/// How one view is sent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
#[schema(as = StreamRoute)]
pub struct Route {
    /// A path for this view alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(flatten)]
    pub templates: OpTemplates,
}

/// What is said of each kind of change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
#[schema(as = StreamTemplates)]
pub struct OpTemplates {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<OpTemplate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated: Option<OpTemplate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<OpTemplate>,
}

/// What is said of one kind of change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
#[schema(as = StreamTemplate)]
pub struct OpTemplate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A path for these changes alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// What one path of a stream carries: views by their place in [`StreamSpec::views`], and the kinds of changes of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub path: String,
    pub views: Vec<(usize, Ops)>,
}

impl StreamSpec {
    /// Reads a stream; all that is wrong with it, not only the first. `views` are those that exist.
    pub fn read(value: &Value, views: &[&str]) -> Result<StreamSpec, Vec<Issue>> {
        let mut issues = Vec::new();
        let spec = Fields::of(value, "", &mut issues).and_then(|fields| read(fields, views, &mut issues));
        match spec {
            Some(spec) if issues.is_empty() => Ok(spec),
            _ => Err(issues),
        }
    }

    /// The templates of a view: its own, then those for all views.
    pub fn templates(&self, view: &str) -> Templates {
        let route = self.routes.get(view);
        let source = |op: Op| {
            let own = route.and_then(|route| route.templates.get(op)?.template.as_deref());
            let common = || self.default_template.get(op)?.template.as_deref();
            Some((op, own.or_else(common)?))
        };
        Templates::compile(Op::NAMES.iter().filter_map(|(_, op)| source(*op)))
            .expect("templates were compiled when the stream was read")
    }

    /// The paths of the stream: `sse_path` with everything, `sse_path/<view>` for each view, and those of the routes. A log has none.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let Some(web) = &self.web else { return Vec::new() };
        let mut paths: BTreeMap<String, BTreeMap<usize, Ops>> = BTreeMap::new();
        let mut carry = |path: String, view: usize, ops: Ops| {
            let known = paths.entry(path).or_default().entry(view).or_insert(Ops::NONE);
            *known = known.or(ops);
        };
        for (index, view) in self.views.iter().enumerate() {
            carry(web.sse_path.clone(), index, Ops::ALL);
            carry(web.joined(&escaped(view, '%')), index, Ops::ALL);
            let Some(route) = self.routes.get(view) else { continue };
            let mut rest = Ops::ALL;
            for (_, op) in Op::NAMES {
                if let Some(path) = route.templates.get(op).and_then(|template| template.path.as_ref()) {
                    carry(web.joined(path), index, Ops::NONE.with(op));
                    rest = rest.without(op);
                }
            }
            if let Some(path) = &route.path {
                carry(web.joined(path), index, rest);
            }
        }
        paths.into_iter().map(|(path, views)| Endpoint { path, views: views.into_iter().collect() }).collect()
    }
}

impl StreamKind {
    const NAMES: [(&str, StreamKind); 2] = [("sse", StreamKind::Sse), ("log", StreamKind::Log)];

    pub fn name(self) -> &'static str {
        StreamKind::NAMES[self as usize].0
    }
}

impl Web {
    /// The names of its fields, each with its other spellings.
    const FIELDS: [&[&'static str]; 7] = [
        &["host"],
        &["port"],
        &["sse_path", "ssePath", "path"],
        &["heartbeat_interval_ms", "heartbeatIntervalMs"],
        &["visibility"],
        &["cors_origins", "corsOrigins"],
        &["max_clients", "maxClients"],
    ];

    /// A path as it is, or below `sse_path` where it does not begin with `/`.
    fn joined(&self, path: &str) -> String {
        match path.starts_with('/') {
            true => path.to_string(),
            false => format!("{}/{path}", self.sse_path.trim_end_matches('/')),
        }
    }
}

impl OpTemplates {
    pub fn get(&self, op: Op) -> Option<&OpTemplate> {
        match op {
            Op::Added => self.added.as_ref(),
            Op::Updated => self.updated.as_ref(),
            Op::Deleted => self.deleted.as_ref(),
        }
    }

    fn is_empty(&self) -> bool {
        self == &OpTemplates::default()
    }
}

/// Milliseconds, or `off`.
impl Serialize for Heartbeat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Heartbeat::Every(interval) => serializer.serialize_u64(interval.as_millis() as u64),
            Heartbeat::Off => serializer.serialize_str("off"),
        }
    }
}

fn read(mut fields: Fields, existing: &[&str], issues: &mut Vec<Issue>) -> Option<StreamSpec> {
    let kind = fields.text(&["kind"], issues).and_then(|(text, pointer)| {
        let kind = StreamKind::NAMES.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
        if kind.is_none() {
            bad(issues, pointer, format!("the kind '{text}' is not there"), "write sse or log");
        }
        kind
    });
    let kind = kind.unwrap_or_default();
    let id = id(&mut fields, issues);
    let views = views(&mut fields, existing, issues);
    let auto_start = fields.bool(&["auto_start", "autoStart"], issues).unwrap_or(true);
    let web = match kind {
        StreamKind::Sse => Some(web(&mut fields, issues)),
        StreamKind::Log => {
            for names in Web::FIELDS {
                if let Some((_, pointer)) = fields.take(names, issues) {
                    bad(issues, pointer, format!("a stream to the log has no '{}'", names[0]), "leave it out, or write kind sse");
                }
            }
            None
        }
    };
    let format = fields
        .text(&["format"], issues)
        .and_then(|(text, pointer)| Format::parse(text).map_err(|error| issues.push(Issue { pointer, error })).ok());
    let routes = routes(&mut fields, &views, kind == StreamKind::Sse, issues);
    let default_template = fields.take(&["default_template", "defaultTemplate"], issues).and_then(|(value, pointer)| {
        let mut fields = Fields::of(value, &pointer, issues)?;
        let templates = op_templates(&mut fields, false, issues);
        fields.finish(issues);
        Some(templates)
    });
    fields.finish(issues);
    Some(StreamSpec {
        kind,
        id: id?,
        views,
        auto_start,
        web,
        format: format.unwrap_or_default(),
        routes,
        default_template: default_template.unwrap_or_default(),
    })
}

fn web(fields: &mut Fields, issues: &mut Vec<Issue>) -> Web {
    let host = fields.text(&["host"], issues).and_then(|(host, pointer)| {
        let parsed = if host == "localhost" { Ok(IpAddr::from([127, 0, 0, 1])) } else { host.parse() };
        parsed
            .map_err(|_| {
                bad(issues, pointer, format!("'{host}' is no address"), "write 127.0.0.1, or 0.0.0.0 for all interfaces")
            })
            .ok()
    });
    let port = fields.number(&["port"], issues).and_then(|(port, pointer)| {
        u16::try_from(port).map_err(|_| bad(issues, pointer, format!("{port} is no port"), "a port is at most 65535")).ok()
    });
    let sse_path = path(fields, &["sse_path", "ssePath", "path"], issues).unwrap_or_else(|| SSE_PATH.into());
    if !sse_path.starts_with('/') {
        bad(
            issues,
            fields.pointer("sse_path"),
            format!("the path '{sse_path}' does not begin with /"),
            &format!("write /{sse_path}"),
        );
    }
    let heartbeat_interval_ms = heartbeat(fields, issues);
    let visibility = fields.text(&["visibility"], issues).map(|(text, pointer)| match text {
        "public" => Visibility::Public,
        "private" => Visibility::Private,
        _ => {
            bad(issues, pointer, format!("the visibility '{text}' is not there"), "write private or public");
            Visibility::default()
        }
    });
    let visibility = visibility.unwrap_or_default();
    let cors_origins = origins(fields, visibility, issues);
    let max_clients = fields.number(&["max_clients", "maxClients"], issues).map(|(number, pointer)| {
        if number == 0 {
            bad(issues, pointer, "a stream without clients".into(), "give at least 1, or stop the stream");
        }
        number
    });
    Web { host, port, sse_path, heartbeat_interval_ms, visibility, cors_origins, max_clients: max_clients.unwrap_or(MAX_CLIENTS) }
}

fn id(fields: &mut Fields, issues: &mut Vec<Issue>) -> Option<String> {
    let Some((id, pointer)) = fields.text(&["id"], issues) else {
        missing(issues, fields.pointer("id"), "a stream needs an id", "such as \"id\": \"live-stream\"");
        return None;
    };
    let letters = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if !letters || id.len() > 63 || !id.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        bad(
            issues,
            pointer,
            format!("'{id}' is no id"),
            "an id has at most 63 letters, digits, _ and -, and begins with a letter or _",
        );
    }
    Some(id.to_string())
}

fn views(fields: &mut Fields, existing: &[&str], issues: &mut Vec<Issue>) -> Vec<String> {
    let mut views: Vec<String> = Vec::new();
    let pointer = fields.pointer("views");
    let given = fields.texts(&["views", "queries"], issues).unwrap_or_default();
    if given.is_empty() {
        missing(issues, pointer, "a stream needs views", "such as \"views\": [\"rolling_metrics\"]");
    } else if given.len() > MAX_VIEWS {
        bad(issues, pointer, format!("{} views are too many for one stream", given.len()), &format!("give at most {MAX_VIEWS}"));
    }
    for (view, pointer) in given {
        if views.iter().any(|known| known == view) {
            bad(issues, pointer, format!("the view '{view}' is named twice"), "name it once");
            continue;
        }
        if !existing.contains(&view) {
            let error = Error::new(Code::UnknownTable, format!("the view '{view}' is not there"));
            let error = match nearest(view, existing.iter().copied()) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint(format!("create it first: CREATE VIEW {view} AS SELECT …")),
            };
            issues.push(Issue { pointer, error });
        }
        views.push(view.to_string());
    }
    views
}

fn heartbeat(fields: &mut Fields, issues: &mut Vec<Issue>) -> Heartbeat {
    let Some((value, pointer)) = fields.take(&["heartbeat_interval_ms", "heartbeatIntervalMs"], issues) else {
        return Heartbeat::Every(HEARTBEAT);
    };
    if value.as_str() == Some("off") {
        return Heartbeat::Off;
    }
    let interval =
        value.as_u64().map(Duration::from_millis).filter(|interval| (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(interval));
    if interval.is_none() {
        let hint = "write 30000 for 30 seconds; without heartbeats (\"off\") proxies close a silent connection";
        let range = format!("{} to {} milliseconds", HEARTBEAT_MIN.as_millis(), HEARTBEAT_MAX.as_millis());
        bad(issues, pointer, format!("a heartbeat comes every {range}, not every {value}"), hint);
    }
    Heartbeat::Every(interval.unwrap_or(HEARTBEAT))
}

/// `paths` says whether views and kinds of changes may have paths of their own.
fn routes(fields: &mut Fields, views: &[String], paths: bool, issues: &mut Vec<Issue>) -> BTreeMap<String, Route> {
    let mut routes = BTreeMap::new();
    let Some((value, pointer)) = fields.take(&["routes"], issues) else { return routes };
    let Some(members) = value.as_object() else {
        bad(issues, pointer, "routes are an object".into(), "write {\"my-view\": {\"path\": \"/my-path\"}}");
        return routes;
    };
    for (view, value) in members {
        let pointer = child(&pointer, view);
        if !views.contains(view) {
            let error = Error::new(Code::BadOption, format!("the view '{view}' is not one of the stream"));
            let error = match nearest(view, views.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint(format!("the views are {}", views.join(", "))),
            };
            issues.push(Issue { pointer: pointer.clone(), error });
        }
        let Some(mut fields) = Fields::of(value, &pointer, issues) else { continue };
        let path = if paths { path(&mut fields, &["path"], issues) } else { None };
        let templates = op_templates(&mut fields, paths, issues);
        fields.finish(issues);
        routes.insert(view.clone(), Route { path, templates });
    }
    routes
}

/// The templates of an object with `added`, `updated` and `deleted`; `paths` says whether each may have a path of its own.
fn op_templates(fields: &mut Fields, paths: bool, issues: &mut Vec<Issue>) -> OpTemplates {
    let mut templates = OpTemplates::default();
    for (name, op) in Op::NAMES {
        let Some((value, pointer)) = fields.take(&[name], issues) else { continue };
        let Some(mut fields) = Fields::of(value, &pointer, issues) else { continue };
        let template = fields.text(&["template"], issues).map(|(source, pointer)| {
            if let Err(errors) = Templates::compile([(op, source)]) {
                issues.extend(errors.into_iter().map(|(_, error)| Issue { pointer: pointer.clone(), error }));
            }
            source.to_string()
        });
        let path = if paths { path(&mut fields, &["path"], issues) } else { None };
        fields.finish(issues);
        let place = match op {
            Op::Added => &mut templates.added,
            Op::Updated => &mut templates.updated,
            Op::Deleted => &mut templates.deleted,
        };
        *place = Some(OpTemplate { template, path });
    }
    templates
}

fn path(fields: &mut Fields, names: &[&'static str], issues: &mut Vec<Issue>) -> Option<String> {
    let (path, pointer) = fields.text(names, issues)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()+,;=:@".contains(&byte);
    let steps = path.trim_start_matches('/').split('/');
    if !path.bytes().all(plain) || steps.clone().any(|step| matches!(step, "" | "." | "..")) {
        bad(issues, pointer, format!("'{path}' is no path of a stream"), "write a fixed path such as /orders/stream");
    }
    Some(path.to_string())
}

fn origins(fields: &mut Fields, visibility: Visibility, issues: &mut Vec<Issue>) -> Vec<String> {
    let given = fields.texts(&["cors_origins", "corsOrigins"], issues).unwrap_or_default();
    for (origin, pointer) in &given {
        if *origin == "*" {
            if visibility == Visibility::Private {
                bad(
                    issues,
                    pointer.clone(),
                    "the origin * lets every page read the stream".into(),
                    "name the origins, or set visibility to public",
                );
            }
            continue;
        }
        let exact = url::Url::parse(origin).ok().map(|url| url.origin().ascii_serialization());
        if exact.as_deref() != Some(*origin) {
            let hint = match exact.filter(|exact| exact != "null") {
                Some(exact) => format!("write {exact}"),
                None => "write scheme, host and port, such as http://localhost:3000".into(),
            };
            bad(issues, pointer.clone(), format!("'{origin}' is no origin"), &hint);
        }
    }
    given.into_iter().map(|(origin, _)| origin.to_string()).collect()
}

fn bad(issues: &mut Vec<Issue>, pointer: String, message: String, hint: &str) {
    issues.push(Issue { pointer, error: Error::new(Code::BadOption, message).hint(hint) });
}

fn missing(issues: &mut Vec<Issue>, pointer: String, message: &str, hint: &str) {
    issues.push(Issue { pointer, error: Error::new(Code::MissingOption, message).hint(hint) });
}

#[cfg(test)]
mod tests;
