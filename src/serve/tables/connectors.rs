//! `/v1/connectors`: what tables can be made of, with a JSON Schema of each option.

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::alias::AUTH;
use super::post::{is_duration, plain_name};
use crate::options::{Declared, TableOptions, Value as _};

/// A kind of feed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Connector {
    #[schema(value_type = String)]
    pub id: &'static str,
    #[schema(value_type = String)]
    pub name: &'static str,
    #[schema(value_type = String)]
    pub description: &'static str,
    /// Events are read from it.
    pub source: bool,
    /// Rows are written to it.
    pub sink: bool,
    /// The JSON Schema of `config`.
    #[schema(value_type = Object)]
    pub table_config: Value,
    /// The names that `schema.format` may have.
    pub formats: Vec<String>,
    /// Bodies for `POST /v1/connection_tables`.
    #[schema(value_type = Vec<Object>)]
    pub examples: Vec<Value>,
}

/// All connectors.
pub fn connectors() -> &'static [Connector] {
    static ALL: LazyLock<Vec<Connector>> = LazyLock::new(|| vec![sse()]);
    &ALL
}

fn sse() -> Connector {
    let format = TableOptions::DECLARED.iter().find(|option| option.name == "format");
    Connector {
        id: "sse",
        name: "Server-Sent Events",
        description: "Reads events from an HTTP endpoint that sends text/event-stream; reconnects and resumes by itself.",
        source: true,
        sink: false,
        table_config: config_schema(),
        formats: format.map(|format| words(format.expects)).unwrap_or_default(),
        examples: vec![
            json!({
                "name": "live_updates",
                "connector": "sse",
                "config": {
                    "endpoint": "https://api.example.com/v1/events",
                    "headers": "Authorization: Bearer {{ SSE_TOKEN }}",
                    "events": "update,insert,delete",
                },
                "schema": {"format": {"json": {}}},
            }),
            json!({
                "name": "system_metrics",
                "connector": "sse",
                "config": {"endpoint": "https://monitoring.example.com/sse/metrics", "headers": {"X-Auth-Token": "{{ MONITORING_TOKEN }}"}},
                "schema": {
                    "format": "json",
                    "fields": [
                        {"name": "host", "type": "TEXT", "required": true},
                        {"name": "value", "type": "DOUBLE"},
                        {"name": "timestamp", "type": "TIMESTAMP"},
                        {"name": "kind", "type": "TEXT", "metadata_key": "event_type"},
                    ],
                },
                "event_time_field": "timestamp",
                "watermark_delay": "5 seconds",
            }),
        ],
    }
}

/// The JSON Schema of `config`: every option by its names, with what help and documentation say about it.
pub fn config_schema() -> Value {
    let mut properties = Map::new();
    // The connector stands beside `config`, and files are no matter of REST.
    for option in TableOptions::DECLARED.iter().filter(|option| !matches!(option.name, "connector" | "path")) {
        let name = plain_name(option);
        properties.insert(name.into(), property(option));
        for alias in option.aliases {
            properties
                .insert((*alias).into(), json!({"description": format!("The same as `{name}`."), "type": alias_types(option)}));
        }
        if is_duration(option) {
            let description = format!("`{name}` in milliseconds.");
            properties.insert(format!("{name}_ms"), json!({"type": "number", "minimum": 0, "description": description}));
        }
    }
    for (name, doc) in AUTH {
        properties.insert(name.into(), json!({"type": "string", "description": doc}));
    }
    json!({
        "type": "object",
        "properties": properties,
        "anyOf": [{"required": ["endpoint"]}, {"required": ["url"]}],
        "additionalProperties": false,
    })
}

fn property(option: &Declared) -> Value {
    let mut schema = json!({"type": types(option), "description": format!("{} Expects {}.", option.doc, option.expects)});
    if !option.default.is_empty() {
        schema["default"] = match option.default {
            "true" => true.into(),
            "false" => false.into(),
            text => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
        };
    }
    let words = words(option.expects);
    // Only a closed set is nothing but its words.
    let is_closed = words.iter().fold(option.expects.to_string(), |rest, word| rest.replace(&format!("`{word}`"), ""));
    if !words.is_empty()
        && option.name != "resume"
        && is_closed.replace("or", "").trim_matches([',', ' ']).is_empty()
        && types(option) == json!("string")
    {
        schema["enum"] = words.into();
    }
    if option.name == "endpoint" {
        schema["format"] = "uri".into();
    }
    schema
}

/// The types of JSON that an option is read from.
fn types(option: &Declared) -> Value {
    match (plain_name(option), option.expects) {
        ("headers", _) => json!(["string", "object"]),
        ("events" | "primary_key", _) => json!(["string", "array"]),
        ("max_event_bytes", _) => json!(["string", "integer"]),
        (_, expects) if expects == bool::EXPECTS => json!("boolean"),
        (_, expects) if expects == u64::EXPECTS => json!("integer"),
        _ => json!("string"),
    }
}

/// The JavaScript spelling of a time span is a number, in milliseconds.
fn alias_types(option: &Declared) -> Value {
    if is_duration(option) { json!(["string", "integer"]) } else { types(option) }
}

/// The words in backticks.
fn words(expects: &str) -> Vec<String> {
    expects.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::tables::post::{Config, ConnectionTablePost};

    #[test]
    fn every_option_is_in_the_schema_with_its_type() {
        let schema = config_schema();
        for option in TableOptions::DECLARED.iter().filter(|option| !matches!(option.name, "connector" | "path")) {
            assert!(schema["properties"][plain_name(option)]["description"].is_string(), "{}", option.name);
        }
        let read: utoipa::openapi::RefOr<utoipa::openapi::Schema> = <Config as utoipa::PartialSchema>::schema();
        // What OpenAPI's builder does not know is left out there.
        let known: serde_json::Map<String, Value> =
            schema.as_object().unwrap().clone().into_iter().filter(|(name, _)| name != "anyOf").collect();
        assert_eq!(serde_json::to_value(read).unwrap(), Value::Object(known));
        let property = |name: &str| &schema["properties"][name];
        assert_eq!(property("reconnect")["type"], "boolean");
        assert_eq!(property("max_reconnect_attempts")["type"], "integer");
        assert_eq!(property("reconnect_delay")["default"], "1s");
        assert_eq!(property("reconnect_delay_ms")["type"], "number");
        assert_eq!(property("bad_data")["enum"], json!(["dead_letter", "drop", "fail"]));
        assert!(
            property("read_timeout")["enum"].is_null()
                && property("resume")["enum"].is_null()
                && property("method")["enum"].is_null()
        );
    }

    #[test]
    fn every_example_is_a_statement() {
        for example in connectors().iter().flat_map(|connector| &connector.examples) {
            let post: ConnectionTablePost = serde_json::from_value(example.clone()).unwrap();
            assert!(post.statement(false).is_ok(), "{example}");
        }
    }
}
