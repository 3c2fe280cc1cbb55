//! Tables in the words of other programs: a client library's API definition, and authentication said apart from the headers.

use serde_json::{Map, Value, json};

use super::mask::listed;
use super::statement::Fault;
use crate::error::{Code, Error, nearest};
use crate::serve::body::escape;

/// Members of an API definition. What a client does with an event is no matter of a server; a view is.
const API: [&str; 6] = ["type", "url", "headers", "sseOptions", "onResponse", "onError"];

/// Attempts of such a client before it gives up, where its definition says nothing; a table's default is to go on for ever.
const API_ATTEMPTS: u64 = 5;

/// A body `{"API": {"name": {"type": "sse", "url": …, "sseOptions": {…}}}}` in our words; any other as it is.
pub fn translated(body: Value) -> Result<Value, Fault> {
    let Some(apis) = body.get("API") else { return Ok(body) };
    let refuse =
        |pointer: String, message: String, hint: &str| Fault { pointer, error: Error::new(Code::BadOption, message).hint(hint) };
    let mut entries = apis.as_object().into_iter().flatten();
    let (Some((name, Value::Object(api))), None) = (entries.next(), entries.next()) else {
        return Err(refuse("/API".into(), "this is not the definition of one API".into(), "give one name with its definition"));
    };
    let at = |member: &str| format!("/API/{}/{}", escape(name), escape(member));
    if let Some(member) = api.keys().find(|member| !API.contains(&member.as_str())) {
        let hint =
            nearest(member, API).map_or_else(|| format!("known: {}", API.join(", ")), |near| format!("did you mean '{near}'?"));
        return Err(refuse(at(member), format!("unknown member '{member}'"), &hint));
    }
    if api.get("type").and_then(Value::as_str) != Some("sse") {
        return Err(refuse(at("type"), "only an API of the type 'sse' is a table".into(), "give \"type\": \"sse\""));
    }
    let mut config = match api.get("sseOptions") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(options)) => options.clone(),
        Some(_) => return Err(refuse(at("sseOptions"), "this is no object".into(), "give options such as autoReconnect")),
    };
    config.entry("maxReconnectAttempts").or_insert(API_ATTEMPTS.into());
    for member in ["url", "headers"] {
        config.extend(api.get(member).map(|value| (member.to_string(), value.clone())));
    }
    Ok(json!({"name": name, "connector": "sse", "config": config}))
}

/// Names in `config` that say how to authenticate, and what they mean.
pub const AUTH: [(&str, &str); 4] = [
    ("auth_type", "How to authenticate: `none`, `bearer` (with `auth_token`) or `api_key`."),
    ("auth_token", "The token of `bearer`; `{{ NAME }}` is filled in from the environment when connecting."),
    ("api_key", "The key of `api_key`; `{{ NAME }}` is filled in from the environment when connecting."),
    ("api_key_header", "The header that takes the key: `X-API-Key` unless it says another."),
];

/// The same `config` with its authentication among the headers.
pub fn authenticated(config: &Map<String, Value>, faults: &mut Vec<Fault>) -> Map<String, Value> {
    let mut plain: Map<String, Value> = config.clone();
    plain.retain(|name, _| !AUTH.iter().any(|(known, _)| known == name));
    if plain.len() == config.len() {
        return plain;
    }
    let text = |name: &str| config.get(name).and_then(Value::as_str);
    let mut refuse = |name: &str, message: String, hint: &str| {
        faults.push(Fault::new(&format!("/config/{name}"), Error::new(Code::BadOption, message).hint(hint)));
    };
    if let Some((name, _)) =
        AUTH.iter().find(|(name, _)| config.get(*name).is_some_and(|value| !value.is_string() && !value.is_null()))
    {
        refuse(name, format!("option '{name}' is no text"), "give a text");
        return plain;
    }
    let (needed, header) = match text("auth_type") {
        Some("bearer") => ("auth_token", "Authorization"),
        Some("api_key") => ("api_key", text("api_key_header").unwrap_or("X-API-Key")),
        Some("none") => return plain,
        _ => {
            refuse(
                "auth_type",
                "option 'auth_type' does not say how to authenticate".into(),
                "give `none`, `bearer` or `api_key`",
            );
            return plain;
        }
    };
    let Some(credential) = text(needed) else {
        refuse(needed, format!("option '{needed}' is missing"), "give it as {{ NAME }}, a variable of the server's environment");
        return plain;
    };
    let value = if needed == "auth_token" { format!("Bearer {credential}") } else { credential.to_string() };
    match plain.get_mut("headers") {
        Some(Value::Object(headers)) => drop(headers.insert(header.into(), value.into())),
        Some(Value::String(headers)) if !headers.trim().is_empty() => *headers += &format!(", {header}: {}", listed(&value)),
        _ => drop(plain.insert("headers".into(), json!({ header: value }))),
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_an_api_is_a_table() {
        let body = json!({"API": {"sseEvents": {
            "type": "sse",
            "url": "https://sse.dev/test",
            "sseOptions": {"autoReconnect": true, "reconnectDelay": 1000},
            "onResponse": {"executeCode": {"body": "var eventData = response.body.data;"}},
        }}});
        let config =
            json!({"autoReconnect": true, "reconnectDelay": 1000, "maxReconnectAttempts": 5, "url": "https://sse.dev/test"});
        assert_eq!(translated(body).unwrap(), json!({"name": "sseEvents", "connector": "sse", "config": config}));
        assert_eq!(translated(json!({"name": "a"})).unwrap(), json!({"name": "a"}));
        for (body, pointer) in [
            (json!({"API": {}}), "/API"),
            (json!({"API": {"a": {}, "b": {}}}), "/API"),
            (json!({"API": {"a": []}}), "/API"),
            (json!({"API": {"a": {"type": "rest"}}}), "/API/a/type"),
            (json!({"API": {"a": {"type": "sse", "ulr": "x"}}}), "/API/a/ulr"),
            (json!({"API": {"a": {"type": "sse", "sseOptions": 1}}}), "/API/a/sseOptions"),
        ] {
            assert_eq!(translated(body).unwrap_err().pointer, pointer);
        }
    }

    #[test]
    fn authentication_becomes_a_header() {
        for (config, expect) in [
            (json!({"auth_type": "bearer", "auth_token": "{{ T }}"}), json!({"Authorization": "Bearer {{ T }}"})),
            (json!({"auth_type": "api_key", "api_key": "a,b", "headers": "A: 1"}), json!("A: 1, X-API-Key: \"a,b\"")),
            (
                json!({"auth_type": "api_key", "api_key": "k", "api_key_header": "K", "headers": {"A": "1"}}),
                json!({"A": "1", "K": "k"}),
            ),
            (json!({"auth_type": "none", "headers": "A: 1"}), json!("A: 1")),
        ] {
            let mut faults = Vec::new();
            assert_eq!(authenticated(config.as_object().unwrap(), &mut faults), *json!({"headers": expect}).as_object().unwrap());
            assert_eq!(faults, []);
        }
        for (config, pointer) in [
            (json!({"auth_type": "basic"}), "/config/auth_type"),
            (json!({"auth_token": "t"}), "/config/auth_type"),
            (json!({"auth_type": "bearer"}), "/config/auth_token"),
            (json!({"auth_type": "api_key", "api_key": 5}), "/config/api_key"),
        ] {
            let mut faults = Vec::new();
            authenticated(config.as_object().unwrap(), &mut faults);
            assert_eq!(faults.iter().map(|fault| fault.pointer.as_str()).collect::<Vec<_>>(), [pointer]);
        }
    }
}
