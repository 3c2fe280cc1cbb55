//! Bodies become statements, and statements bodies.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::ConnectionTablePost;
use super::statement::{Fault, Rendered};
use crate::Engine;
use crate::sql::{CreateTable, Origin, StatementKind};

/// The body of the curl command of the fourth source document.
fn seed() -> Value {
    json!({
        "name": "live_updates",
        "connector": "sse",
        "config": {
            "endpoint": "https://api.example.com/v1/events",
            "headers": "Authorization: Bearer {{ SSE_TOKEN }}",
            "events": "update,insert,delete"
        },
        "schema": {"format": {"json": {}}}
    })
}

/// The seed's body with these members in place of its own.
fn with(changes: Value) -> Value {
    fn merge(into: &mut Value, changes: Value) {
        match (into, changes) {
            (Value::Object(into), Value::Object(changes)) => {
                changes.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, value) => *into = value,
        }
    }
    let mut body = seed();
    merge(&mut body, changes);
    body
}

fn post(body: Value) -> ConnectionTablePost {
    serde_json::from_value(body).unwrap()
}

fn rendered(body: Value) -> Rendered {
    post(body).statement(false).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn create(rendered: &Rendered) -> &CreateTable {
    match &rendered.statement.kind {
        StatementKind::CreateTable(create) => create,
        other => panic!("{other:?}"),
    }
}

/// The faults of a body, those of the statement and those of what it means.
async fn faults(body: Value) -> Vec<Fault> {
    let rendered = match post(body).statement(false) {
        Ok(rendered) => rendered,
        Err(faults) => return faults,
    };
    match Engine::new().unwrap().execute(&rendered.statement).await {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| rendered.fault(error)).collect(),
    }
}

#[test]
fn the_body_of_the_source_document_is_a_statement() {
    assert_eq!(
        rendered(seed()).statement.text,
        "CREATE TABLE live_updates WITH (
    connector = 'sse',
    endpoint = 'https://api.example.com/v1/events',
    headers = 'Authorization: Bearer {{ SSE_TOKEN }}',
    events = 'update,insert,delete',
    format = 'json'
)"
    );
}

#[test]
fn every_part_of_a_body_has_its_place_in_the_statement() {
    let body = with(json!({
        "name": "Live-updates",
        "connection_profile_id": null,
        "config": {
            "endpoint": null,
            "url": "https://api.example.com/it's",
            "headers": {"Authorization": "Bearer {{ SSE_TOKEN }}", "Accept": "a, b"},
            "events": ["update", "insert"],
            "autoReconnect": true,
            "reconnect_delay_ms": 250,
            "reconnect_max_delay_ms": 1500.5,
            "maxReconnectAttempts": 5,
            "read_timeout_ms": 0,
            "max_event_bytes": 4096,
            "last_event_id": "7",
            "resume": null
        },
        "schema": {
            "format": {"json": {"timestamp_format": "unix_millis", "confluent_schema_registry": false}},
            "fields": [
                {"name": "id", "type": "bigint", "required": true},
                {"name": "userId", "data_type": "decimal(18,6)", "nullable": true},
                {"name": "itemId", "type": "TEXT", "sql_name": "itemid"},
                {"name": "check", "type": "TEXT"},
                {"name": "kind", "type": "TEXT", "metadata_key": "event_type"},
                {"name": "twice", "generated": "id * 2"},
                {"field_name": "at", "field_type": {"type": {"primitive": "DateTime"}, "sql_name": null}, "nullable": false},
                {"name": "tags", "type": {"list": {"name": "item", "type": {"primitive": "String"}}}},
                {"name": "where", "type": {"type": {"struct": {"fields": [
                    {"field_name": "x", "field_type": {"type": {"primitive": "F64"}}}, {"name": "Y", "type": "json"}
                ]}}}}
            ],
            "primary_keys": ["id", "userId"],
            "bad_data": {"drop": {}},
            "framing": "newline",
            "inference": "required"
        },
        "event_time_field": "at",
        "watermark_delay": "5 seconds",
        "allowed_lateness": "1 minute",
        "idle_timeout": "off"
    }));
    assert_eq!(
        rendered(body).statement.text,
        r#"CREATE TABLE "Live-updates" (
    id BIGINT NOT NULL,
    "userId" DECIMAL(18,6),
    itemId TEXT,
    "check" TEXT,
    kind TEXT METADATA FROM 'event_type',
    twice GENERATED ALWAYS AS (id * 2),
    at TIMESTAMP NOT NULL,
    tags TEXT[],
    where STRUCT<x DOUBLE, "Y" JSON>,
    PRIMARY KEY (id, "userId")
) WITH (
    connector = 'sse',
    headers = '{"Authorization":"Bearer {{ SSE_TOKEN }}","Accept":"a, b"}',
    events = 'update,insert',
    endpoint = 'https://api.example.com/it''s',
    reconnect = 'true',
    reconnect_delay = '250ms',
    reconnect_max_delay = '1500.5ms',
    max_reconnect_attempts = '5',
    read_timeout = 'off',
    max_event_bytes = '4096',
    last_event_id = '7',
    format = 'json',
    json.timestamp_format = 'unix_millis',
    bad_data = 'drop',
    framing = 'newline',
    event_time_field = 'at',
    watermark_delay = '5 seconds',
    allowed_lateness = '1 minute',
    idle_timeout = 'off'
)"#
    );
}

#[tokio::test]
async fn a_fault_says_where_in_the_body_it_lies() {
    let mut wrong = Vec::new();
    let field = |field: Value| with(json!({"schema": {"fields": [{"name": "a", "type": "TEXT"}, field]}}));
    let fields = |changes: Value| {
        let mut body = with(json!({"schema": {"fields": [{"name": "a", "type": "TEXT"}]}}));
        changes.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        body
    };
    for (body, pointer, says) in [
        (with(json!({"name": "1st"})), "/name", "no name of a table"),
        (with(json!({"name": "x".repeat(64)})), "/name", "no name of a table"),
        (with(json!({"connector": "kafka"})), "/connector", "no connector 'kafka'"),
        (with(json!({"connection_profile_id": "cp_1"})), "/connection_profile_id", "no connection profiles"),
        (with(json!({"config": {"event": "a"}})), "/config/event", "unknown option 'event'; did you mean 'events'?"),
        (with(json!({"config": {"a/b~c": 1}})), "/config/a~1b~0c", "unknown option 'a/b~c'"),
        (with(json!({"config": {"url": "http://x"}})), "/config/url", "given twice"),
        (with(json!({"config": {"endpoint": "ftp://x"}})), "/config/endpoint", "not http or https"),
        (with(json!({"config": {"endpoint": ["x"]}})), "/config/endpoint", "no text, number or truth value"),
        (fields(json!({"config": {}})), "/config/endpoint", "option 'endpoint' is missing"),
        (with(json!({"config": {"headers": "nonsense"}})), "/config/headers", "no 'Name:'"),
        (with(json!({"config": {"headers": {"A": ["x"]}}})), "/config/headers", "no text"),
        (with(json!({"config": {"events": ["a,b"]}})), "/config/events", "has a comma"),
        (with(json!({"config": {"events": [1]}})), "/config/events", "no text"),
        (with(json!({"config": {"reconnect": "maybe"}})), "/config/reconnect", "neither true nor false"),
        (with(json!({"config": {"reconnect_delay_ms": -1}})), "/config/reconnect_delay_ms", "no duration"),
        (with(json!({"config": {"reconnect_delay": 5}})), "/config/reconnect_delay", "has no unit"),
        (with(json!({"config": {"type": "sink"}})), "/config/type", "cannot be a sink"),
        (with(json!({"schema": {"format": "jsn"}})), "/schema/format", "did you mean 'json'?"),
        (with(json!({"schema": {"format": 1}})), "/schema/format", "neither a name nor an object"),
        (with(json!({"schema": {"format": {"json": []}}})), "/schema/format/json", "no object"),
        (
            with(json!({"schema": {"format": {"json": {"unstructurd": true}}}})),
            "/schema/format/json/unstructurd",
            "'unstructured'",
        ),
        (with(json!({"schema": {"format": {"json": {"debezium": true}}}})), "/schema/format/json/debezium", "debezium_json"),
        (with(json!({"schema": {"format": {"json": {"timestamp_format": "x"}}}})), "/schema/format/json/timestamp_format", "'x'"),
        (with(json!({"schema": {"bad_data": "dorp"}})), "/schema/bad_data", "did you mean 'drop'?"),
        (with(json!({"schema": {"bad_data": 1}})), "/schema/bad_data", "neither a name nor"),
        (field(json!({"name": "b"})), "/schema/fields/1/type", "has no type"),
        (field(json!({"name": "b", "type": "TXT"})), "/schema/fields/1/type", "did you mean TEXT?"),
        (field(json!({"name": "b", "type": "TEXT NOT NULL"})), "/schema/fields/1/type", "expected the end of a type"),
        (field(json!({"name": "b", "type": ""})), "/schema/fields/1/type", "found nothing"),
        (field(json!({"name": "b", "type": {"primitive": "Int65"}})), "/schema/fields/1/type", "did you mean 'Int64'?"),
        (field(json!({"name": "b", "type": 5})), "/schema/fields/1/type", "this is no type"),
        (field(json!({"name": "a", "type": "TEXT"})), "/schema/fields/1/name", "declared twice"),
        (field(json!({"name": "b", "type": "TEXT", "required": true, "nullable": true})), "/schema/fields/1/nullable", "at once"),
        (
            field(json!({"name": "b", "type": "TEXT", "metadata_key": "event_typ"})),
            "/schema/fields/1/metadata_key",
            "'event_type'",
        ),
        (field(json!({"name": "b", "generated": "1 +"})), "/schema/fields/1/generated", "expected"),
        (field(json!({"name": "b", "generated": "nothing + 1"})), "/schema/fields/1/generated", "nothing"),
        (field(json!({"name": "B", "type": "TEXT", "sql_name": "c"})), "/schema/fields/1/sql_name", "cannot be named 'c'"),
        (
            with(json!({"schema": {"fields": [{"name": "a", "type": "TEXT"}], "primary_keys": ["b"]}})),
            "/schema/primary_keys/0",
            "'b'",
        ),
        (fields(json!({"event_time_field": "b"})), "/event_time_field", "no column"),
        (fields(json!({"event_time_field": "a"})), "/event_time_field", "is no TIMESTAMP"),
        (fields(json!({"watermark_delay": "soon"})), "/watermark_delay", "no duration"),
        (fields(json!({"idle_timeout": "10"})), "/idle_timeout", "no unit"),
        (seed(), "/schema/fields", "has no columns"),
    ] {
        let faults = faults(body.clone()).await;
        let shown = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.error)).collect::<Vec<_>>();
        let is_there = |fault: &String| fault.starts_with(&format!("{pointer}: ")) && fault.contains(says);
        if !shown.iter().any(is_there) {
            wrong.push(format!("{pointer} {says}: {body}: {shown:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unknown_members_are_refused() {
    for body in [
        with(json!({"shema": {}})),
        with(json!({"schema": {"fromat": "json"}})),
        with(json!({"schema": {"fields": [{"name": "a", "type": "TEXT", "nulable": true}]}})),
        with(json!({"schema": {"inference": "maybe"}})),
    ] {
        assert!(serde_json::from_value::<ConnectionTablePost>(body).is_err());
    }
}

#[tokio::test]
async fn the_body_of_a_table_makes_the_same_table() {
    let (statements, errors) = crate::sql::parse(
        "CREATE TABLE a (itemId BIGINT NOT NULL PRIMARY KEY, \"userId\" TEXT, kind TEXT METADATA FROM 'event_type', ts TIMESTAMP,
             late GENERATED ALWAYS AS (ts - INTERVAL '1 day'), WATERMARK FOR ts AS ts - INTERVAL '5 seconds')
         WITH (connector = 'sse', url = 'http://127.0.0.1/x', headers = 'A: {{ B }}', read_timeout = 'off', connect_timeout = '3s',
             max_reconnect_attempts = 5, reconnect = true, json.timestamp_format = 'unix_millis', idle_timeout = 'off');
         CREATE TABLE b WITH (connector = 'sse', url = 'http://127.0.0.1/x', json.unstructured = true);
         CREATE TABLE c WITH (connector = 'sse', url = 'http://127.0.0.1/x', format = 'raw_string')",
    );
    assert_eq!(errors, []);
    let engine = Engine::new().unwrap();
    for statement in &statements {
        engine.execute(statement).await.unwrap_or_else(|errors| panic!("{errors:?}"));
        let StatementKind::CreateTable(create) = &statement.kind else { unreachable!("all are tables") };
        let table = engine.tables().pop().unwrap();
        let first = ConnectionTablePost::of(create, &table.spec());
        let remade = first.statement(true).unwrap_or_else(|faults| panic!("{faults:?}"));
        engine.execute(&remade.statement).await.unwrap_or_else(|errors| panic!("{}: {errors:?}", remade.statement.text));
        let second = engine.tables().pop().unwrap();
        assert_eq!(table.spec().schema, second.spec().schema);
        assert_eq!((table.spec().delay, table.spec().idle), (second.spec().delay, second.spec().idle));
        let again = ConnectionTablePost::of(self::create(&remade), &second.spec());
        assert_eq!(serde_json::to_value(&first).unwrap(), serde_json::to_value(&again).unwrap());
        let read: ConnectionTablePost = serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap();
        assert!(read == first);
    }
    let shown = serde_json::to_value(ConnectionTablePost::of(
        match &statements[0].kind {
            StatementKind::CreateTable(create) => create,
            _ => unreachable!("the first is a table"),
        },
        &engine.tables()[0].spec(),
    ));
    insta::assert_snapshot!(serde_json::to_string_pretty(&shown.unwrap()).unwrap());
}

/// Any JSON, small.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "json|BIGINT|TEXT\\[\\]|\\{\\{ ?A ?\\}\\}|\\PC{0,8}|.{0,8}".prop_map(Value::from),
    ];
    let keys = "json|type|primitive|list|struct|fields|name|url|reconnect_delay_ms|auth_type|\\PC{0,6}";
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((keys, inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_body_does_harm(
        place in proptest::sample::select(vec![
            "name", "connector", "config", "config/endpoint", "config/headers", "config/events", "config/x", "schema", "schema/format",
            "schema/fields", "schema/primary_keys", "schema/bad_data", "schema/framing", "event_time_field", "idle_timeout",
        ]),
        value in any_json(),
    ) {
        let mut body = seed();
        match place.split_once('/') {
            Some((parent, name)) => body[parent][name] = value,
            None => body[place] = value,
        }
        let Ok(body) = super::alias::translated(body) else { return Ok(()) };
        let Ok(post) = serde_json::from_value::<ConnectionTablePost>(body) else { return Ok(()) };
        let session = Engine::new().unwrap().session().state();
        match post.statement(false) {
            Ok(rendered) => match rendered.spec(&session) {
                Ok(spec) => prop_assert!(!ConnectionTablePost::of(create(&rendered), &spec).name.is_empty()),
                Err(faults) => prop_assert!(!faults.is_empty()),
            },
            Err(faults) => prop_assert!(faults.iter().all(|fault| fault.pointer.starts_with('/')), "{:?}", faults),
        }
    }

    #[test]
    fn whatever_stands_in_a_body_comes_out_of_its_statement(
        names in proptest::collection::btree_set("\\PC{1,12}|[a-z]{1,8}", 1..6),
        required in any::<bool>(),
        key in any::<bool>(),
        values in proptest::collection::vec(any::<String>(), 3),
    ) {
        let names: Vec<String> = names.into_iter().collect();
        let fields: Vec<Value> =
            names.iter().map(|name| json!({"name": name, "type": "TEXT", "required": required, "metadata_key": values[0]})).collect();
        let keys = if key { vec![names[0].clone()] } else { Vec::new() };
        let body = with(json!({
            "config": {"endpoint": values[1], "headers": values[2]},
            "schema": {"fields": fields, "primary_keys": keys},
        }));
        let rendered = rendered(body);
        let create = create(&rendered);
        prop_assert_eq!(create.columns.len(), names.len());
        for (column, name) in create.columns.iter().zip(&names) {
            prop_assert_eq!(&column.name.text, name);
            prop_assert_eq!(&column.name.written, name);
            prop_assert_eq!(column.not_null, required);
            prop_assert_eq!(column.primary_key, keys.contains(name));
            let Origin::Metadata { key, .. } = &column.origin else { panic!("{:?}", column.origin) };
            prop_assert_eq!(key, &values[0]);
        }
        let value = |name: &str| create.options.iter().find(|given| given.name == name).map(|given| given.value.as_str());
        prop_assert_eq!(value("endpoint"), Some(values[1].as_str()));
        prop_assert_eq!(value("headers"), Some(values[2].as_str()));
        prop_assert_eq!(value("format"), Some("json"));
        prop_assert_eq!(create.options.len(), 5);
    }
}
