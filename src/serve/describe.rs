//! What can be asked, described by the routes themselves: OpenAPI at `/openapi.json`, and a page for people at `/docs/api`.

mod events;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::Config;

use super::auth::{Need, need};
use super::problem::{Problem, Result};
use crate::error::{Code, Error};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Streamgauge",
        description = "Server-Sent Event feeds as SQL tables, and views that stay up to date.\n\nWhat is below `/v1` is below `/api/v1`, too. Where the server has no tokens, none is needed. Mistakes are answered as problem details (RFC 9457)."
    ),
    servers((url = "./", description = "This server")),
    tags(
        (name = "server", description = "The server itself"),
        (name = "tables", description = "Tables over feeds"),
        (name = "views", description = "Queries that are kept up to date"),
        (name = "streams", description = "Changes of views as event streams"),
        (name = "sql", description = "Statements"),
        (name = "auth", description = "Who may do what"),
        (name = "drasi", description = "The same by the names that Drasi has for it"),
    ),
    paths(openapi),
)]
struct Api;

/// The description of the server without its routes.
pub fn base() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Api::openapi())
}

/// The document and the page that shows it.
pub fn routes(description: &utoipa::openapi::OpenApi, base_path: &str) -> Router {
    // What derives its own serialization serializes.
    let mut document = completed(serde_json::to_value(description).unwrap_or_default());
    if !base_path.is_empty() {
        document["servers"][0]["url"] = base_path.into();
    }
    let config = Config::new(["../../openapi.json"]).validator_url("none").try_it_out_enabled(true).persist_authorization(true);
    Router::new().route("/openapi.json", get(openapi)).with_state(Document(document.to_string().into())).merge(
        Router::new()
            .route("/docs/api", get(async || Redirect::temporary("api/")))
            .route("/docs/api/", get(async |config: State<Arc<Config<'static>>>| page(config, Path("index.html".into())).await))
            .route("/docs/api/{file}", get(page))
            .with_state(Arc::new(config)),
    )
}

/// The description as it is sent.
#[derive(Clone)]
struct Document(Bytes);

/// This description.
#[utoipa::path(get, operation_id = "openapi", path = "/openapi.json", tag = "server", responses(
    (status = 200, body = Object, description = "OpenAPI 3.1"),
))]
async fn openapi(State(Document(document)): State<Document>) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), document).into_response()
}

/// The page may load its own files and ask this server, and nothing else in the world.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// A file of the page for people.
async fn page(State(config): State<Arc<Config<'static>>>, Path(file): Path<String>) -> Result<Response> {
    let found = utoipa_swagger_ui::serve(&file, config).map_err(|error| Error::bug(format!("/docs/api/{file}: {error}")))?;
    let file = found.ok_or_else(|| Problem::from(Error::new(Code::NoRoute, format!("nothing is at /docs/api/{file}"))))?;
    let content_type = HeaderValue::from_str(&file.content_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let fixed: [(HeaderName, &str); 2] = [(CACHE_CONTROL, "no-cache"), (CONTENT_SECURITY_POLICY, POLICY)];
    let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok(([(CONTENT_TYPE, content_type)], fixed, file.bytes.into_owned()).into_response())
}

/// Answers that many operations have: status, name, what it says.
const ANSWERS: [(&str, &str, &str); 9] = [
    ("400", "Malformed", "A parameter or the body cannot be read"),
    ("401", "Unauthorized", "A token is missing or not known"),
    ("403", "Forbidden", "The token does not allow this, or the page or name that asks is not allowed"),
    ("404", "NotFound", "What the address names is not there"),
    ("413", "TooLarge", "The body is too large"),
    ("415", "MediaType", "The type of the body is not known"),
    ("422", "Unprocessable", "The body has no meaning"),
    ("429", "TooMany", "This client has too many streams; Retry-After says when to come back"),
    ("503", "Unavailable", "The server has too many clients; Retry-After says when to come back"),
];

/// The description with what all operations of a kind have in common: answers, the type of problems, who may ask.
fn completed(mut document: Value) -> Value {
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                complete(operation, method, path);
            }
        }
    }
    let problem = json!({"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
    let answers = ANSWERS.iter().map(|(_, name, says)| (name.to_string(), json!({"description": says, "content": problem})));
    document = flattened(&document, &document["components"]["schemas"]);
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.extend(events::schemas());
    }
    open_objects(&mut document, false);
    document["components"]["responses"] = Value::Object(answers.collect());
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "A token: POST /v1/tokens makes one"},
        "token": {"type": "apiKey", "in": "query", "name": "token", "description": "A token in the address of a stream"},
        "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "For one stream, once: POST /v1/tickets makes one"},
    });
    document
}

/// The description with objects for what serde flattens. The parts cannot stand side by side: one that is closed refuses the others'
/// members.
fn flattened(part: &Value, schemas: &Value) -> Value {
    let members = match part {
        Value::Array(items) => return items.iter().map(|item| flattened(item, schemas)).collect(),
        Value::Object(members) => members,
        _ => return part.clone(),
    };
    let others = members.iter().filter(|(name, _)| *name != "allOf");
    let mut whole: Map<String, Value> = others.map(|(name, member)| (name.clone(), flattened(member, schemas))).collect();
    for part in members.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        let name = part["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        let part = flattened(name.map_or(part, |name| &schemas[name]), schemas);
        whole.insert("type".into(), "object".into());
        if let Some(properties) = part["properties"].as_object() {
            let known = whole.entry("properties").or_insert_with(|| json!({}));
            known.as_object_mut().into_iter().for_each(|known| known.extend(properties.clone()));
        }
        if let Some(required) = part["required"].as_array() {
            let known = whole.entry("required").or_insert_with(|| json!([]));
            known.as_array_mut().into_iter().for_each(|known| known.extend_from_slice(required));
        }
    }
    Value::Object(whole)
}

/// Says of each object whose members nobody knows that it has some: a program that is generated would take it for one that has none.
/// `are_names` tells that the members are what a schema calls its properties, and no words of the description.
fn open_objects(part: &mut Value, are_names: bool) {
    match part {
        Value::Array(items) => items.iter_mut().for_each(|item| open_objects(item, false)),
        Value::Object(members) => {
            let is_object = match members.get("type") {
                Some(Value::Array(types)) => types.iter().any(|name| name == "object"),
                Some(Value::String(name)) => name == "object",
                _ => false,
            };
            let known = ["properties", "additionalProperties", "oneOf", "anyOf", "$ref"];
            if is_object && !are_names && !known.iter().any(|name| members.contains_key(*name)) {
                members.insert("additionalProperties".into(), true.into());
            }
            for (name, member) in members.iter_mut() {
                // An example is no schema.
                if are_names || !matches!(name.as_str(), "example" | "examples" | "default" | "enum") {
                    open_objects(member, !are_names && name == "properties");
                }
            }
        }
        _ => {}
    }
}

fn complete(operation: &mut Value, method: &str, path: &str) {
    let asks = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default();
    let (needs, in_address) = need(&asks, path, "");
    // One address is a list or, with this, a stream.
    let in_address = in_address || need(&asks, path, "view=a").1;
    let open = needs == Need::Nothing;
    operation["security"] = match (open, in_address) {
        (true, _) => json!([]),
        (false, false) => json!([{"bearer": []}]),
        (false, true) => json!([{"bearer": []}, {"token": []}, {"ticket": []}]),
    };
    let (asked, answered) = events::headers(operation["operationId"].as_str().unwrap_or_default());
    if !asked.is_empty() {
        let mut parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        parameters.extend(asked);
        operation["parameters"] = parameters.into();
    }
    for status in ["200", "201"] {
        let Some(response) = operation["responses"].get_mut(status) else { continue };
        for (name, says) in &answered {
            if (*name == "Location") == (status == "201") {
                response["headers"][name] = json!({"description": says, "schema": {"type": "string"}});
            }
        }
    }
    unite(operation);
    also_yaml(operation);
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has_query = parameters.iter().any(|parameter| parameter["in"] == "query");
    let has_body = operation.get("requestBody").is_some();
    let streams = !operation["responses"]["200"]["content"]["text/event-stream"].is_null() && method == "get";
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, response) in responses.iter_mut() {
        retype(status, response);
    }
    for (status, name, _) in ANSWERS {
        let applies = match status {
            "400" => has_query || has_body,
            "401" | "403" => !open,
            "404" => path.contains('{'),
            "413" | "415" | "422" => has_body,
            _ => streams,
        };
        if applies && !responses.contains_key(status) {
            responses.insert(status.into(), json!({"$ref": format!("#/components/responses/{name}")}));
        }
    }
    let mut sorted: Vec<(String, Value)> = std::mem::take(responses).into_iter().collect();
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    *responses = Map::from_iter(sorted);
}

/// A parameter stands once, also where two forms of an answer take it: then it says both.
fn unite(operation: &mut Value) {
    let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) else { return };
    let mut united: Vec<Value> = Vec::new();
    for parameter in std::mem::take(parameters) {
        match united.iter_mut().find(|known| known["name"] == parameter["name"] && known["in"] == parameter["in"]) {
            Some(known) => {
                let says = |parameter: &Value| parameter["description"].as_str().unwrap_or_default().to_string();
                known["description"] = format!("{} Of a list: {}", says(known), says(&parameter)).into();
            }
            None => united.push(parameter),
        }
    }
    *parameters = united;
}

/// A body in JSON may be in YAML as well.
fn also_yaml(operation: &mut Value) {
    let content = operation.get_mut("requestBody").and_then(|body| body["content"].as_object_mut());
    if let Some(content) = content
        && let Some(json) = content.get("application/json").cloned()
    {
        content.insert("application/yaml".into(), json);
    }
}

/// A problem has its own media type.
fn retype(status: &str, response: &mut Value) {
    let Some(content) = response.get_mut("content").and_then(Value::as_object_mut) else { return };
    if status.starts_with(['4', '5'])
        && content.get("application/json").is_some_and(|json| json["schema"]["$ref"] == "#/components/schemas/Problem")
        && let Some(problem) = content.remove("application/json")
    {
        content.insert("application/problem+json".into(), problem);
    }
}
