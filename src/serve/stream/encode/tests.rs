//! Every format byte by byte, and what is chosen, filtered, templated, cut and too large.

use arrow::array::{ArrayRef, Int64Array, StringArray};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};

use super::super::shape::Ops;
use super::*;
use crate::time::TimestampArray;

const AT: Timestamp = Timestamp(1_772_366_400_500_000_000);

/// Rows of an id and a name, each with its weight.
fn changes(rows: &[(i64, &str, i64)]) -> Changes {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0.to_string())));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    Changes {
        rows: RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap(),
        times: TimestampArray::from(vec![0; rows.len()]),
        weights: Some(rows.iter().map(|row| row.2).collect::<Vec<i64>>().into()),
    }
}

/// The changes of the documentation: added, updated, deleted.
fn story() -> Changes {
    changes(&[(1, "Test", 1), (1, "Test", -1), (1, "Updated", 1), (1, "Updated", -1)])
}

fn encoder(shape: Shape, templates: &[(Op, &str)]) -> Encoder {
    let templates = Arc::new(Templates::compile(templates.iter().copied()).unwrap());
    Encoder::new("my-query", &story().rows.schema(), shape, Some(templates)).unwrap()
}

fn encoded(shape: Shape, changes: &Changes) -> String {
    text(encoder(shape, &[]).changes(changes, 41, 0, &Ids::single(7), AT).unwrap())
}

fn text(encoded: Encoded) -> String {
    let text = String::from_utf8(encoded.bytes.to_vec()).unwrap();
    assert_eq!(text.matches("\n\n").count() as u64, encoded.events);
    text
}

fn of(format: Format) -> Shape {
    Shape { format, ..Shape::default() }
}

#[test]
fn changes_are_written_as_documented() {
    let expected = concat!(
        "id: 7-41\ndata: {\"op\":\"added\",\"query\":\"my-query\",\"after\":{\"id\":\"1\",\"name\":\"Test\"}}\n\n",
        "id: 7-42\ndata: {\"op\":\"updated\",\"query\":\"my-query\",\"before\":{\"id\":\"1\",\"name\":\"Test\"},",
        "\"after\":{\"id\":\"1\",\"name\":\"Updated\"}}\n\n",
        "id: 7-43\ndata: {\"op\":\"deleted\",\"query\":\"my-query\",\"before\":{\"id\":\"1\",\"name\":\"Updated\"}}\n\n",
    );
    assert_eq!(encoded(of(Format::Changes), &story()), expected);
}

#[test]
fn a_batch_is_one_event_with_the_id_of_its_last_change() {
    let expected = concat!(
        "id: 7-43\ndata: {\"queryId\":\"my-query\",\"added\":[{\"after\":{\"id\":\"1\",\"name\":\"Test\"}}],",
        "\"updated\":[{\"before\":{\"id\":\"1\",\"name\":\"Test\"},\"after\":{\"id\":\"1\",\"name\":\"Updated\"}}],",
        "\"deleted\":[{\"before\":{\"id\":\"1\",\"name\":\"Updated\"}}]}\n\n",
    );
    assert_eq!(encoded(of(Format::Batch), &story()), expected);
}

#[test]
fn a_batch_is_cut_where_its_lists_would_change_the_order() {
    let back = changes(&[(1, "a", 1), (1, "a", -1), (1, "c", 1), (1, "c", -1), (1, "d", 1)]);
    // Added, updated, then deleted stay together; an update after it would be taken too early.
    let written = encoded(of(Format::Batch), &changes(&[(1, "a", 1), (1, "a", -1), (2, "b", 1)]));
    assert_eq!(written.matches("\n\n").count(), 1, "{written}");
    let deleted_first = Int64Array::from(vec![1, -2, 1, -2, 1]);
    let expected = ["id: 7-43", "id: 7-46", "id: 7-47"];
    let written = encoded(of(Format::Batch), &Changes { weights: Some(deleted_first), ..back });
    let ids: Vec<&str> = written.lines().filter(|line| line.starts_with("id")).collect();
    assert_eq!(ids, expected, "{written}");
}

#[test]
fn changes_of_different_rows_stay_in_one_batch_where_rows_have_a_key() {
    let keyed = encoder(of(Format::Batch), &[]).keyed(&story().rows.schema(), Some(&[0])).unwrap();
    let written = text(keyed.changes(&changes(&[(1, "a", -2), (3, "c", 1), (2, "b", -1)]), 41, 0, &Ids::single(7), AT).unwrap());
    assert!(written.starts_with("id: 7-44\ndata: {\"queryId\":\"my-query\",\"added\":[{\"after\":{\"id\":\"3\""), "{written}");
    assert_eq!(written.matches("\n\n").count(), 1, "{written}");
    let again = text(keyed.changes(&changes(&[(1, "a", -2), (3, "c", 1), (1, "b", 1)]), 41, 0, &Ids::single(7), AT).unwrap());
    assert_eq!(again.matches("\n\n").count(), 2, "{again}");
}

#[test]
fn rows_are_those_that_are_there_now() {
    let expected = concat!(
        "id: 7-41\ndata: {\"id\":\"1\",\"name\":\"Test\"}\n\n",
        "id: 7-42\ndata: {\"id\":\"1\",\"name\":\"Updated\"}\n\n",
    );
    assert_eq!(encoded(of(Format::Rows), &story()), expected);
}

#[test]
fn drasi_has_its_own_words() {
    let expected = concat!(
        "id: 7-43\ndata: {\"queryId\":\"my-query\",\"results\":[{\"type\":\"ADD\",\"data\":{\"id\":\"1\",\"name\":\"Test\"}},",
        "{\"type\":\"UPDATE\",\"data\":{\"id\":\"1\",\"name\":\"Updated\"},\"before\":{\"id\":\"1\",\"name\":\"Test\"},",
        "\"after\":{\"id\":\"1\",\"name\":\"Updated\"}},",
        "{\"type\":\"DELETE\",\"data\":{\"id\":\"1\",\"name\":\"Updated\"}}],\"timestamp\":1772366400500}\n\n",
    );
    assert_eq!(encoded(of(Format::Drasi), &story()), expected);
}

#[test]
fn debezium_has_its_own_words() {
    let written = encoded(of(Format::Debezium), &story());
    let events: Vec<serde_json::Value> =
        written.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    let ops: Vec<&str> = events.iter().map(|event| event["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["c", "u", "d"]);
    let expected = concat!(
        r#"{"before":null,"after":{"id":"1","name":"Test"},"op":"c","ts_ms":1772366400500,"source":{"version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","connector":"streamgauge","name":"streamgauge","ts_ms":1772366400500,"snapshot":"false","db":"streamgauge","#,
        r#""table":"my-query","sequence":41}}"#,
    );
    assert_eq!(events[0].to_string(), expected);
    assert_eq!((&events[1]["before"]["name"], &events[1]["after"]["name"]), (&"Test".into(), &"Updated".into()));
    assert_eq!((&events[2]["before"]["name"], &events[2]["after"]), (&"Updated".into(), &serde_json::Value::Null));
    let snapshot = text(encoder(of(Format::Debezium), &[]).snapshot(&story().rows.slice(0, 1), AT).unwrap());
    assert!(snapshot.contains(r#""op":"r""#) && snapshot.contains(r#""snapshot":"true""#), "{snapshot}");
}

#[test]
fn kinds_columns_and_types_are_chosen() {
    let shape = Shape {
        ops: Ops { added: false, ..Ops::ALL },
        columns: Some(vec!["name".into()]),
        event_field: EventField::Op,
        ..Shape::default()
    };
    let expected = concat!(
        "id: 7-42\nevent: updated\ndata: {\"op\":\"updated\",\"query\":\"my-query\",\"before\":{\"name\":\"Test\"},",
        "\"after\":{\"name\":\"Updated\"}}\n\n",
        "id: 7-43\nevent: deleted\ndata: {\"op\":\"deleted\",\"query\":\"my-query\",\"before\":{\"name\":\"Updated\"}}\n\n",
    );
    assert_eq!(encoded(shape, &story()), expected);
    let shape = Shape { columns: Some(vec!["nam".into()]), ..Shape::default() };
    let error = Encoder::new("v", &story().rows.schema(), shape, None).err().unwrap();
    assert_eq!(error.to_string(), "column 'nam' is not there; did you mean 'name'?");
}

#[test]
fn what_a_client_has_is_left_out() {
    let encoder = encoder(Shape::default(), &[]);
    let rest = text(encoder.changes(&story(), 41, 43, &Ids::single(7), AT).unwrap());
    assert!(rest.starts_with("id: 7-43\n"), "{rest}");
}

#[test]
fn rows_that_come_to_meet_a_filter_are_added_and_those_that_leave_it_deleted() {
    let named = |name: &str| -> Arc<dyn PhysicalExpr> {
        let column = Arc::new(Column::new("name", 1));
        Arc::new(BinaryExpr::new(column, Operator::Eq, Arc::new(Literal::new(ScalarValue::from(name)))))
    };
    let kinds = |name: &str| -> Vec<String> {
        let encoder = encoder(Shape::default(), &[]).filtered(Some(named(name)));
        let text = text(encoder.changes(&story(), 41, 0, &Ids::single(7), AT).unwrap());
        text.split("\n\n").filter_map(|event| Some(format!("{} {}", event.get(4..8)?, event.split('"').nth(3)?))).collect()
    };
    assert_eq!(kinds("Test"), ["7-41 added", "7-42 deleted"]);
    assert_eq!(kinds("Updated"), ["7-42 added", "7-43 deleted"]);
    assert_eq!(kinds("other"), [""; 0]);
    let snapshot = encoder(Shape::default(), &[]).filtered(Some(named("Test"))).snapshot(&story().rows, AT).unwrap();
    assert_eq!(snapshot.events, 2);
}

#[test]
fn a_snapshot_is_added_rows_without_ids() {
    let shown = text(encoder(Shape::default(), &[]).snapshot(&story().rows.slice(0, 1), AT).unwrap());
    assert_eq!(shown, "data: {\"op\":\"added\",\"query\":\"my-query\",\"after\":{\"id\":\"1\",\"name\":\"Test\"}}\n\n");
}

#[test]
fn an_operation_without_a_template_is_in_the_default_format() {
    let templates = [(Op::Added, "new\n{{after.name}}")];
    let encoded = encoder(of(Format::Batch), &templates).changes(&story(), 41, 0, &Ids::single(7), AT).unwrap();
    let expected = concat!(
        "id: 7-41\ndata: new\ndata: Test\n\n",
        "id: 7-43\ndata: {\"queryId\":\"my-query\",\"added\":[],\"updated\":[{\"before\":{\"id\":\"1\",\"name\":\"Test\"},",
        "\"after\":{\"id\":\"1\",\"name\":\"Updated\"}}],\"deleted\":[{\"before\":{\"id\":\"1\",\"name\":\"Updated\"}}]}\n\n",
    );
    assert_eq!(text(encoded), expected);
}

#[test]
fn a_template_that_fails_gives_the_default_format_and_is_counted() {
    let long = "x".repeat(2 * 1024 * 1024);
    let encoder = encoder(Shape::default(), &[(Op::Added, "{{after.name}}{{after.name}}{{after.name}}")]);
    let encoded = encoder.changes(&changes(&[(1, &long, 1)]), 1, 0, &Ids::single(7), AT).unwrap();
    assert_eq!((encoded.render_errors, encoded.events, encoded.oversized), (1, 1, 0));
    assert!(encoded.bytes.starts_with(b"id: 7-1\ndata: {\"op\":\"added\""));
}

#[test]
fn an_event_that_is_too_large_is_told() {
    let long = "x".repeat(MAX_EVENT_BYTES);
    let encoded =
        encoder(Shape::default(), &[]).changes(&changes(&[(1, &long, 1), (2, "b", 1)]), 1, 0, &Ids::single(7), AT).unwrap();
    assert_eq!((encoded.events, encoded.oversized), (2, 1));
    let text = text(encoded);
    assert!(text.starts_with(
        "id: 7-1\nevent: error\ndata: {\"reason\":\"too_large\",\"query\":\"my-query\",\"op\":\"added\",\"bytes\":"
    ));
    assert!(text.contains("id: 7-2\ndata: {\"op\":\"added\""));
}

#[test]
fn weights_count_as_often_as_they_say() {
    let twice = encoded(Shape::default(), &changes(&[(1, "a", 2), (2, "b", 1)]));
    let ids: Vec<&str> = twice.lines().filter(|line| line.starts_with("id")).collect();
    assert_eq!(ids, ["id: 7-41", "id: 7-42", "id: 7-43"]);
}
