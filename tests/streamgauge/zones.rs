//! Times and zones: what PostgreSQL answers (tests/golden/zone/postgres.tsv, made by the script beside it), and what feeds bring.

use datafusion::prelude::SessionContext;
use serde_json::{Map, Value, json};
use streamgauge::format::encode::JsonRows;

use crate::cli::program::run;
use crate::support::server::file;

/// Expressions and their answers.
fn answers() -> Vec<(&'static str, Value)> {
    let lines = include_str!("../golden/zone/postgres.tsv").lines().filter(|line| !line.starts_with('#'));
    let answer = |line: &'static str| {
        let (expression, answer) = line.split_once('\t').unwrap();
        (expression, serde_json::from_str(answer).unwrap())
    };
    lines.map(answer).collect()
}

fn objects(out: &str) -> Vec<Map<String, Value>> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a script over a file of events.
async fn over(columns: &str, more: &str, events: &[Value], sql: &str) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    let path = file(directory.path(), "events.ndjson", lines.as_bytes());
    let table = format!("CREATE TABLE t ({columns}) WITH (connector = 'file', path = '{}'{more});", path.display());
    let script = file(directory.path(), "script.sql", table.as_bytes()).display().to_string();
    run(&["run", &script, "-c", sql]).await
}

#[tokio::test]
async fn a_plain_session_answers_as_postgresql_does() {
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    let mut wrong = Vec::new();
    for (expression, expect) in answers() {
        // DataFusion's own planner takes a constant text as a zone, and nothing else; a cast to UTC it does not tell from a type, nor
        // TIMESTAMPTZ '…' from TIMESTAMP '…'.
        let is_cast = expression.contains("AT TIME ZONE INTERVAL") || expression.ends_with("AT TIME ZONE 'UTC'");
        if is_cast || expression == "TIMESTAMPTZ '2026-01-15 20:15:00' AT TIME ZONE 'Europe/Berlin'" {
            continue;
        }
        let rows = async { session.sql(&format!("SELECT {expression} AS answer")).await?.collect().await };
        let got = match rows.await {
            Ok(rows) => {
                let mut out = Vec::new();
                JsonRows::new(&rows[0].schema()).write_row(&rows[0], 0, &mut out);
                serde_json::from_slice::<Value>(&out).unwrap()["answer"].clone()
            }
            Err(error) => json!({ "error": error.to_string() }),
        };
        if got != expect {
            wrong.push(format!("{expression}: {got}, not {expect}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_program_answers_as_postgresql_does() {
    let answers = answers();
    let items: Vec<String> = answers.iter().enumerate().map(|(at, (expression, _))| format!("{expression} AS a{at}")).collect();
    let (code, out, err) = run(&["run", "-c", &format!("SELECT {}", items.join(", "))]).await;
    assert_eq!(code, 0, "{err}");
    let got = &objects(&out)[0];
    let wrong: Vec<String> = answers
        .iter()
        .enumerate()
        .filter(|(at, (_, expect))| got[&format!("a{at}")] != *expect)
        .map(|(at, (expression, expect))| format!("{expression}: {}, not {expect}", got[&format!("a{at}")]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The zone of each row is another column of it.
#[tokio::test]
async fn rows_of_a_feed_are_moved_by_zones_of_their_own() {
    let parts = |expression: &str, kind: &str| -> Option<(String, String)> {
        let (time, zone) = expression.strip_prefix(kind)?.strip_prefix(" '")?.split_once("' AT TIME ZONE '")?;
        if time.contains('\'') {
            return None;
        }
        Some((time.to_string(), zone.strip_suffix('\'')?.to_string()))
    };
    for (kind, column) in [("TIMESTAMPTZ", "TIMESTAMP"), ("TIMESTAMP", "TIMESTAMP WITHOUT TIME ZONE")] {
        let cases: Vec<(String, String, Value)> = answers()
            .into_iter()
            .filter_map(|(expression, expect)| parts(expression, kind).map(|(time, zone)| (time, zone, expect)))
            .collect();
        assert!(cases.len() > 20);
        let events: Vec<Value> = cases.iter().map(|(time, zone, _)| json!({ "at": time, "zone": zone })).collect();
        let (code, out, err) =
            over(&format!("at {column}, zone TEXT"), "", &events, "SELECT zone, at, at AT TIME ZONE zone AS moved FROM t").await;
        assert_eq!(code, 0, "{err}");
        let rows = objects(&out);
        assert_eq!(rows.len(), cases.len());
        for (row, (time, zone, expect)) in rows.iter().zip(&cases) {
            assert_eq!(row["moved"], *expect, "{time} {zone}: {row:?}");
        }
    }
}

/// The case of the report: an evening in winter, whose local time is an hour later.
#[tokio::test]
async fn an_instant_keeps_its_z_and_a_local_time_has_none() {
    let events = [
        json!({ "at": "2026-01-15T20:15:00Z" }),
        json!({ "at": "2026-01-15T21:15:00+01:00" }),
        json!({ "at": "2026-01-15 20:15:00" }),
    ];
    let sql = "SELECT at, at AT TIME ZONE 'Europe/Berlin' AS local, date_trunc('day', at, 'Europe/Berlin') AS day,
               to_char(at AT TIME ZONE 'Europe/Berlin', '%H:%M') AS clock, CAST(at AS TEXT) AS text FROM t";
    for column in ["TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP(3)"] {
        let (code, out, err) = over(&format!("at {column}"), "", &events, sql).await;
        assert_eq!(code, 0, "{err}");
        for row in objects(&out) {
            let expect = json!({
                "at": "2026-01-15T20:15:00Z", "local": "2026-01-15T21:15:00", "day": "2026-01-14T23:00:00Z",
                "clock": "21:15", "text": "2026-01-15T20:15:00Z"
            });
            assert_eq!(Value::from(row), expect, "{column}");
        }
    }
    let (_, out, err) =
        over("at TIMESTAMP WITHOUT TIME ZONE", "", &events, "SELECT at, at AT TIME ZONE 'Asia/Kolkata' AS utc FROM t").await;
    let expect = [
        json!({ "at": "2026-01-15T20:15:00", "utc": "2026-01-15T14:45:00Z" }),
        json!({ "at": "2026-01-15T21:15:00", "utc": "2026-01-15T15:45:00Z" }),
        json!({ "at": "2026-01-15T20:15:00", "utc": "2026-01-15T14:45:00Z" }),
    ];
    assert_eq!(objects(&out).into_iter().map(Value::from).collect::<Vec<_>>(), expect, "{err}");
}

#[tokio::test]
async fn days_of_a_zone_are_groups() {
    let events = ["2026-03-28T22:59:59Z", "2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"];
    let events: Vec<Value> = events.iter().map(|at| json!({ "at": at })).collect();
    let days = "SELECT date_trunc('day', at, 'Europe/Berlin') AS day, count(*) AS n, TUMBLE(INTERVAL '7 days') AS window FROM t GROUP BY day, window ORDER BY day";
    let (code, out, err) = over("at TIMESTAMP, WATERMARK FOR at", "", &events, &format!("SELECT day, n FROM ({days})")).await;
    assert_eq!(code, 0, "{err}");
    let expect = [
        json!({ "day": "2026-03-27T23:00:00Z", "n": 1 }),
        json!({ "day": "2026-03-28T23:00:00Z", "n": 2 }),
        json!({ "day": "2026-03-29T22:00:00Z", "n": 1 }),
    ];
    assert_eq!(objects(&out).into_iter().map(Value::from).collect::<Vec<_>>(), expect, "{err}");
}

#[tokio::test]
async fn a_zone_that_is_not_known_is_told_with_the_nearest() {
    for (zone, hint) in
        [("Europe/Berln", "did you mean 'Europe/Berlin'?"), ("Berlin", "did you mean 'Europe/Berlin'?"), ("UTC+2", "'+02:00'")]
    {
        for sql in [
            format!("SELECT at AT TIME ZONE '{zone}' AS x FROM t"),
            format!("SELECT date_trunc('day', at, '{zone}') AS x FROM t"),
        ] {
            let (code, out, err) = over("at TIMESTAMP", "", &[json!({ "at": "2026-01-15T20:15:00Z" })], &sql).await;
            assert_eq!((code, out.as_str()), (2, ""), "{sql}: {err}");
            assert!(err.contains(&format!("time zone '{zone}' is not known")) && err.contains(hint), "{sql}: {err}");
        }
    }
    // A distance from UTC is positive in the east, as in the times of feeds.
    let sql = "SELECT at AT TIME ZONE '+02:00' AS x FROM t";
    let (_, out, err) = over("at TIMESTAMP", "", &[json!({ "at": "2026-01-15T20:15:00Z" })], sql).await;
    assert_eq!(out, "{\"x\":\"2026-01-15T22:15:00\"}\n", "{err}");
}

/// Years that no nanoseconds count have a place in a coarser unit, and cost a plain TIMESTAMP its event, with the way out.
#[tokio::test]
async fn all_years_fit_a_timestamp_of_fewer_digits() {
    let events = [json!({ "at": "0001-01-01T00:00:00Z" }), json!({ "at": "9999-12-31" })];
    for digits in 0..=6 {
        let sql = "SELECT at, date_trunc('month', at) AS month, extract(year FROM at) AS year, at AT TIME ZONE 'Asia/Tokyo' AS tokyo FROM t";
        let (code, out, err) = over(&format!("at TIMESTAMP({digits})"), "", &events, sql).await;
        assert_eq!(code, 0, "{err}");
        let expect = [
            json!({ "at": "0001-01-01T00:00:00Z", "month": "0001-01-01T00:00:00Z", "year": 1, "tokyo": "0001-01-01T09:18:59" }),
            json!({ "at": "9999-12-31T00:00:00Z", "month": "9999-12-01T00:00:00Z", "year": 9999, "tokyo": "9999-12-31T09:00:00" }),
        ];
        assert_eq!(objects(&out).into_iter().map(Value::from).collect::<Vec<_>>(), expect, "{digits} {err}");
    }
    let (_, out, err) = over("at TIMESTAMP", "", &events, "SELECT at FROM t").await;
    assert_eq!(out, "", "{err}");
    assert!(err.contains("declare the column as TIMESTAMP(6)"), "{err}");
}

/// What PHP writes for an empty object.
#[tokio::test]
async fn an_empty_array_is_no_struct_and_costs_no_event() {
    let events = [json!({ "n": 1, "meta": [] }), json!({ "n": 2, "meta": { "a": 7 } })];
    let (code, out, err) = over("n INT, meta STRUCT<a INT>", "", &events, "SELECT n, meta FROM t").await;
    assert_eq!((code, out.as_str()), (0, "{\"n\":1,\"meta\":null}\n{\"n\":2,\"meta\":{\"a\":7}}\n"), "{err}");
}

/// Debezium's numbers: by the types its schema names, else by the digits of the column, unless the option says another unit.
#[tokio::test]
async fn debezium_writes_times_as_numbers() {
    let columns = "id INT PRIMARY KEY, at TIMESTAMP, ms TIMESTAMP(3), day DATE, clock TIME";
    let row = json!({ "id": 1, "at": 1_772_366_400_500_000_i64, "ms": 1_772_366_400_500_i64, "day": 20_513, "clock": 43_200_500_000_i64 });
    let change = json!({ "op": "c", "before": null, "after": row });
    let expect = "{\"id\":1,\"at\":\"2026-03-01T12:00:00.5Z\",\"ms\":\"2026-03-01T12:00:00.5Z\",\"day\":\"2026-03-01\",\"clock\":\"12:00:00.5\"}";
    let format = ", format = 'debezium_json'";
    let (code, out, err) = over(columns, format, &[change], "SELECT * FROM t").await;
    assert_eq!((code, err.contains("bad")), (0, false), "{err}");
    assert!(out.contains(expect.trim_matches(['{', '}'])), "{out}");
    // The schema says nanoseconds, milliseconds and text where the columns would be read otherwise.
    let field = |field: &str, name: &str| json!({ "field": field, "type": "int64", "name": name });
    let fields = [
        field("at", "io.debezium.time.NanoTimestamp"),
        field("ms", "io.debezium.time.MicroTimestamp"),
        field("day", "io.debezium.time.Date"),
        field("clock", "io.debezium.time.Time"),
    ];
    let row = json!({ "id": 1, "at": 1_772_366_400_500_000_000_i64, "ms": 1_772_366_400_500_000_i64, "day": 20_513, "clock": 43_200_500 });
    let schema = json!({ "type": "struct", "fields": [{ "field": "after", "type": "struct", "fields": fields }] });
    let change = json!({ "schema": schema, "payload": { "op": "r", "after": row } });
    let (_, out, err) = over(columns, format, &[change], "SELECT * FROM t").await;
    assert!(out.contains(expect.trim_matches(['{', '}'])), "{out} {err}");
    // The option goes before both.
    let change = json!({ "op": "c", "after": { "id": 1, "at": 1_772_366_400 } });
    let more = ", format = 'debezium_json', 'json.timestamp_format' = 'unix_seconds'";
    let (_, out, err) = over("id INT PRIMARY KEY, at TIMESTAMP", more, &[change], "SELECT at FROM t").await;
    assert!(out.contains("2026-03-01T12:00:00Z"), "{out} {err}");
}

#[tokio::test]
async fn set_time_zone_changes_how_instants_are_printed_and_nothing_else() {
    let events = [json!({ "at": "2026-03-29T00:59:59Z" }), json!({ "at": "2026-03-29T01:00:00.5Z" })];
    let select =
        "SELECT at, at AT TIME ZONE 'UTC' AS utc, date_trunc('hour', at) AS hour, at >= '2026-03-29 01:00:00' AS late FROM t";
    for zone in ["SET TIME ZONE 'Asia/Kathmandu'", "SET timezone = 'Asia/Kathmandu'", "SET TIMEZONE TO 'asia/kathmandu'"] {
        let (code, out, err) = over("at TIMESTAMP", "", &events, &format!("{zone}; {select}")).await;
        let expect = "{\"at\":\"2026-03-29T06:44:59+05:45\",\"utc\":\"2026-03-29T00:59:59\",\"hour\":\"2026-03-29T05:45:00+05:45\",\"late\":false}\n\
                      {\"at\":\"2026-03-29T06:45:00.5+05:45\",\"utc\":\"2026-03-29T01:00:00.5\",\"hour\":\"2026-03-29T06:45:00+05:45\",\"late\":true}\n";
        assert_eq!((code, out.as_str()), (0, expect), "{err}");
    }
    let (code, _, err) = over("at TIMESTAMP", "", &events, "SET TIME ZONE 'Asia/Katmandoo'; SELECT at FROM t").await;
    assert_eq!(code, 2);
    assert!(err.contains("did you mean 'Asia/Kat"), "{err}");
}
