//! What the event streams send, as schemas: programs that are generated from the description get a type for every event.

use serde_json::{Map, Value, json};

/// The events of a stream of changes by their names; those without one are called `message` by browsers. A row is an object of the view's
/// columns.
pub(super) fn schemas() -> Map<String, Value> {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer", "minimum": 0});
    let row = || reference("Row");
    let words = |words: &[&str]| json!({"type": "string", "enum": words});
    let all = |items: Value| json!({"type": "array", "items": items});
    let sides = || {
        object(
            "A row before and after a change: one that is added has no `before`, one that is deleted no `after`.",
            &[],
            &[("before", row()), ("after", row())],
        )
    };
    let messages = ["ChangeEvent", "BatchEvent", "Row", "DrasiEvent", "DebeziumEvent"].map(reference);
    let schemas = [
        (
            "Row",
            json!({"type": "object", "additionalProperties": true, "description": "A row: its values by the names of the columns."}),
        ),
        ("ChangeSides", sides()),
        (
            "ChangeEvent",
            object(
                "A change of one row (`format=changes`, the default).",
                &[("op", words(&["added", "updated", "deleted"])), ("query", text())],
                &[("before", row()), ("after", row())],
            ),
        ),
        (
            "BatchEvent",
            object(
                "Changes that came together (`format=batch`).",
                &[
                    ("queryId", text()),
                    ("added", all(reference("ChangeSides"))),
                    ("updated", all(reference("ChangeSides"))),
                    ("deleted", all(reference("ChangeSides"))),
                ],
                &[],
            ),
        ),
        (
            "DrasiChange",
            object(
                "A change in Drasi's words.",
                &[("type", words(&["ADD", "UPDATE", "DELETE"])), ("data", row())],
                &[("before", row()), ("after", row())],
            ),
        ),
        (
            "DrasiEvent",
            object(
                "Changes that came together, in Drasi's words (`format=drasi`); the timestamp in milliseconds.",
                &[("queryId", text()), ("results", all(reference("DrasiChange"))), ("timestamp", json!({"type": "integer"}))],
                &[],
            ),
        ),
        (
            "DebeziumEvent",
            object(
                "A change as Debezium writes it (`format=debezium`).",
                &[
                    ("before", nullable("Row")),
                    ("after", nullable("Row")),
                    ("op", words(&["r", "c", "u", "d"])),
                    ("ts_ms", json!({"type": "integer"})),
                    ("source", json!({"type": "object", "additionalProperties": true})),
                ],
                &[],
            ),
        ),
        (
            "ConnectedEvent",
            object(
                "The first event of a stream.",
                &[
                    ("clientId", text()),
                    ("format", words(&["changes", "batch", "rows", "drasi", "debezium"])),
                    ("resumed", json!({"type": "boolean"})),
                ],
                &[("stream", text()), ("view", text()), ("views", all(text()))],
            ),
        ),
        (
            "ResetEvent",
            object(
                "The stream cannot go on from where its client was; the rows as they are follow, if `action` is `resnapshot`.",
                &[
                    ("reason", words(&["garbage", "epoch", "retention"])),
                    ("view", text()),
                    ("oldest", text()),
                    ("action", words(&["resnapshot", "continue"])),
                ],
                &[],
            ),
        ),
        (
            "SnapshotEndEvent",
            object("All rows as they were have come; changes follow from this id.", &[("rows", number()), ("id", text())], &[]),
        ),
        (
            "LaggedEvent",
            object(
                "The client was too slow, and so many changes are not kept any more; the stream ends.",
                &[("view", text()), ("dropped", number()), ("oldest", text())],
                &[],
            ),
        ),
        (
            "HeartbeatEvent",
            object("A sign of life (`heartbeat=event`), in milliseconds.", &[("timestamp", json!({"type": "integer"}))], &[]),
        ),
        (
            "ErrorEvent",
            object(
                "Why the stream ends, or why a change is missing in it.",
                &[("reason", words(&["stopped", "dropped", "failed", "too_large", "overload", "unauthorized"]))],
                &[
                    ("view", text()),
                    ("query", text()),
                    ("op", text()),
                    ("code", text()),
                    ("detail", text()),
                    ("hint", json!({"type": ["string", "null"]})),
                    ("bytes", number()),
                    ("limit", number()),
                ],
            ),
        ),
        (
            "StreamEvents",
            object(
                "The data of the events of a stream, by the name of the event.",
                &[
                    ("message", json!({"oneOf": messages})),
                    ("connected", reference("ConnectedEvent")),
                    ("reset", reference("ResetEvent")),
                    ("snapshot_end", reference("SnapshotEndEvent")),
                    ("lagged", reference("LaggedEvent")),
                    ("heartbeat", reference("HeartbeatEvent")),
                    ("error", reference("ErrorEvent")),
                ],
                &[],
            ),
        ),
    ];
    schemas.into_iter().map(|(name, schema)| (name.to_string(), schema)).collect()
}

/// Headers of requests that say something, and headers of answers, by operation.
pub(super) fn headers(operation: &str) -> (Vec<Value>, Vec<(&'static str, &'static str)>) {
    let header = |name: &str, says: &str| json!({"name": name, "in": "header", "required": false, "schema": {"type": "string"}, "description": says});
    match operation {
        "stream_view" | "list_streams" => (
            vec![header("Last-Event-ID", "The id after which to go on; a browser that comes back sends it by itself")],
            vec![("Last-Event-ID", "The id after which the changes of this stream begin")],
        ),
        "view_results" => (
            vec![
                header("If-None-Match", "Only if the rows are not in the state that this ETag names"),
                header("Prefer", "`wait=30`: with If-None-Match, wait so many seconds for a change, 50 at most"),
            ],
            vec![("ETag", "The state of the rows"), ("Preference-Applied", "The wait that was granted")],
        ),
        "get_table" | "get_view" | "get_stream" => (Vec::new(), vec![("ETag", "The state of the definition, for If-Match")]),
        "create_table" | "create_view" | "create_stream" | "create_token" => {
            (Vec::new(), vec![("Location", "Where it is from now on")])
        }
        _ => (Vec::new(), Vec::new()),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn nullable(name: &str) -> Value {
    json!({"oneOf": [reference(name), {"type": "null"}]})
}

fn object(says: &str, required: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        required.iter().chain(optional).map(|(name, schema)| (name.to_string(), schema.clone())).collect();
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    let mut object = json!({"type": "object", "description": says, "properties": properties});
    if !names.is_empty() {
        object["required"] = names.into();
    }
    object
}
