//! Scripts of any text: read, resolved and planned, with nothing connected to.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::Runtime;

use crate::cli::diagnostic;
use crate::engine::{Answer, Engine};
use crate::error::Error;
use crate::sql::{Statement, StatementKind, covered, parse};

/// Of the threads on which the program plans.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Statements of a script; more would only be slower.
const STATEMENTS_MAX: usize = 6;

/// What every script finds.
const BASE: &str = "
    CREATE TABLE metrics (host TEXT NOT NULL, value DOUBLE, n BIGINT, price DECIMAL(12, 4), tags JSON, parts STRUCT<a BIGINT, b TEXT[]>,
        at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '5 seconds') WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/sse');
    CREATE TABLE hosts (host TEXT, place TEXT, since TIMESTAMP) WITH (connector = 'file', path = 'hosts.ndjson');
    CREATE TABLE gauges (id INT PRIMARY KEY, name TEXT, value DOUBLE)
        WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/gauges', format = 'debezium_json');
    CREATE VIEW rolling AS SELECT host, avg(value) AS mean, count(*) AS n, TUMBLE(INTERVAL '10 seconds') AS window
        FROM metrics GROUP BY host, window;";

/// An engine that the last script left as it was.
static READY: Mutex<Option<(Runtime, Engine)>> = Mutex::new(None);

/// A script gives statements or errors with places in it; what is made can be made again from what is kept of it.
pub fn sql(input: &[u8]) {
    let Ok(script) = std::str::from_utf8(input) else { return };
    std::thread::scope(|scope| {
        let planning = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || run(script));
        planning.expect("a thread").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn run(script: &str) {
    let (statements, errors) = parse(script);
    errors.iter().for_each(|error| check(error, script));
    assert!(covered(script).chars().count() == script.chars().count());
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    let (runtime, engine) = ready.take().unwrap_or_else(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
        let engine = runtime.block_on(engine());
        (runtime, engine)
    });
    let mut is_changed = false;
    for statement in statements.iter().take(STATEMENTS_MAX) {
        assert!(script.contains(&statement.text), "{:?}", statement.text);
        is_changed |= matches!(
            statement.kind,
            StatementKind::CreateTable(_) | StatementKind::CreateView(_) | StatementKind::Drop { .. } | StatementKind::Set { .. }
        );
        match runtime.block_on(engine.execute(statement)) {
            Ok(Answer::Query(query)) => drop(query.continuous().map(|continuous| continuous.plan().describe())),
            Ok(_) => {}
            Err(errors) => {
                assert!(!errors.is_empty());
                errors.iter().for_each(|error| check(error, script));
            }
        }
    }
    match is_changed {
        true => runtime.block_on(again(&engine, &statements)),
        false => *ready = Some((runtime, engine)),
    }
}

async fn engine() -> Engine {
    let engine = Engine::new().expect("an engine");
    for statement in parse(BASE).0 {
        engine.execute(&statement).await.map(drop).expect("what every script finds can be made");
    }
    engine
}

/// Makes everything anew as a server does at its start. Settings of the session are those of the first time only.
async fn again(engine: &Engine, statements: &[Statement]) {
    if statements.iter().any(|statement| matches!(statement.kind, StatementKind::Set { .. })) {
        return;
    }
    let other = Engine::new().expect("an engine");
    for definition in engine.definitions() {
        if let Err(errors) = other.restore(&definition).await {
            panic!("{} cannot be made again: {errors:?}", definition.text);
        }
    }
    let names = |engine: &Engine| engine.definitions().into_iter().map(|kept| (kept.name, kept.text)).collect::<Vec<_>>();
    assert_eq!(names(engine), names(&other));
}

/// An error lies in the script or just behind it, and can be drawn.
fn check(error: &Error, script: &str) {
    assert!(!error.message().is_empty());
    if let Some(span) = error.span() {
        let lines: Vec<&str> = script.split('\n').collect();
        for place in [span.start, span.end] {
            let line = usize::try_from(place.line).ok().and_then(|line| lines.get(line.checked_sub(1)?));
            let line = line.unwrap_or_else(|| panic!("{error} lies at {span:?}"));
            let column = usize::try_from(place.column).unwrap_or(usize::MAX);
            assert!((1..=line.chars().count() + 2).contains(&column), "{error} lies at {span:?}");
        }
        assert!(span.start <= span.end, "{error} lies at {span:?}");
    }
    let _ = diagnostic::render(error, "script.sql", script, false);
}
