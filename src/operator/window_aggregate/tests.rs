//! Windowed aggregates against DataFusion's batch answer over the same rows, and by hand.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use arrow::array::{Float64Array, Int64Array, StringViewArray, StructArray};
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::util::display::array_value_to_string;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::col;
use datafusion::prelude::SessionContext;

use super::super::emit::Pass;
use super::*;
use crate::time::TimestampArray;

/// An input row: event time, key, value; `order` is its place in the input.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    time: i64,
    key: Option<&'static str>,
    value: Option<i64>,
    order: i64,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8View, true),
        Field::new("v", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("s", DataType::Utf8View, true),
        Field::new("o", DataType::Int64, false),
    ]))
}

fn columns<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Vec<ArrayRef> {
    let values = rows.clone().map(|row| row.value);
    vec![
        Arc::new(rows.clone().map(|row| row.key).collect::<StringViewArray>()),
        Arc::new(values.clone().collect::<Int64Array>()),
        Arc::new(values.clone().map(|value| value.map(|value| value as f64 / 4.0)).collect::<Float64Array>()),
        Arc::new(values.map(|value| value.map(|value| format!("text {value}"))).collect::<StringViewArray>()),
        Arc::new(rows.map(|row| row.order).collect::<Int64Array>()),
    ]
}

fn changes(rows: &[Row]) -> Changes {
    let batch = RecordBatch::try_new(schema(), columns(rows.iter())).unwrap();
    Changes::inserts(batch, TimestampArray::from_iter_values(rows.iter().map(|row| row.time)))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// The operator that computes `aggregates` (SQL) by `k`, or by the window alone.
fn operator(shape: Shape, aggregates: &str, by_key: bool, emission: Emission) -> WindowAggregate {
    let context = SessionContext::new();
    context.register_batch("t", RecordBatch::new_empty(schema())).unwrap();
    let plan = wait(context.sql(&format!("SELECT {aggregates} FROM t"))).unwrap().into_unoptimized_plan();
    let state = context.state();
    let plan = state.analyzer().execute_and_check(plan, &state.config_options().clone(), |_, _| {}).unwrap();
    let mut node = &plan;
    let aggregate = loop {
        match node {
            LogicalPlan::Aggregate(aggregate) => break aggregate,
            other => node = other.inputs()[0],
        }
    };
    let planning = PhysicalPlanningContext::default();
    let lowered: Vec<_> = aggregate
        .aggr_expr
        .iter()
        .map(|expression| {
            let input = aggregate.input.schema();
            LoweredAggregateBuilder::new(expression, input, input.as_arrow(), state.execution_props(), &planning).build().unwrap()
        })
        .collect();
    let time = |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Nanosecond, None), false);
    let window = Field::new("window", DataType::Struct(vec![time("start"), time("end")].into()), false);
    let mut fields = if by_key { vec![schema().field(0).clone(), window] } else { vec![window] };
    fields.extend(
        lowered.iter().enumerate().map(|(at, lowered)| lowered.aggregate.field().as_ref().clone().with_name(format!("a{at}"))),
    );
    let output = Arc::new(Schema::new(fields));
    WindowAggregate::new(WindowAggregateSpec {
        shape,
        keys: if by_key { vec![col("k", &schema()).unwrap()] } else { Vec::new() },
        aggregates: lowered.iter().map(|lowered| lowered.aggregate.clone()).collect(),
        filters: lowered.iter().map(|lowered| lowered.filter.clone()).collect(),
        window_index: usize::from(by_key),
        emission,
        finish: Box::new(Pass::new(output.clone(), 1 + usize::from(by_key))),
        output,
    })
    .unwrap()
}

/// A value as text, floats rounded to what merging in another order may not change.
fn show(column: &ArrayRef, row: usize) -> String {
    match column.as_any().downcast_ref::<Float64Array>() {
        Some(floats) if !floats.is_null(row) => format!("{:.9}", floats.value(row) + 0.0),
        _ => array_value_to_string(column, row).unwrap(),
    }
}

/// The rows of a result as text: the window as `start..end`, then the columns in their order.
fn lines(rows: &RecordBatch) -> Vec<String> {
    let line = |row: usize| {
        let columns = rows.columns().iter().map(|column| match column.as_any().downcast_ref::<StructArray>() {
            Some(window) => {
                let [start, end] =
                    [0, 1].map(|at| window.column(at).as_any().downcast_ref::<TimestampArray>().unwrap().value(row));
                format!("{start}..{end}")
            }
            None => show(column, row),
        });
        columns.collect::<Vec<_>>().join(" ")
    };
    (0..rows.num_rows()).map(line).collect()
}

/// DataFusion's answer over rows that are written out once for each of their windows.
fn batch(aggregates: &[&str], by_key: bool, rows: &[(Window, Row)]) -> Vec<String> {
    let context = SessionContext::new();
    let mut fields: Vec<Field> = schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.extend([Field::new("s0", DataType::Int64, false), Field::new("e0", DataType::Int64, false)]);
    let mut columns = columns(rows.iter().map(|(_, row)| row));
    columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|(window, _)| window.start))));
    columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|(window, _)| window.end))));
    context.register_batch("t", RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()).unwrap();
    let key = if by_key { "k, " } else { "" };
    let mut lines: Vec<String> = Vec::new();
    for aggregates in aggregates {
        let sql = format!("SELECT {key}concat(s0, '..', e0), {aggregates} FROM t GROUP BY {key}s0, e0 ORDER BY {key}s0, e0");
        let batches = wait(async { context.sql(&sql).await?.collect().await }).unwrap();
        let found = batches.iter().flat_map(|rows| {
            let skip = if lines.is_empty() { 0 } else { 1 + usize::from(by_key) };
            self::lines(&rows.project(&(skip..rows.num_columns()).collect::<Vec<_>>()).unwrap())
        });
        let found: Vec<String> = found.collect();
        lines =
            if lines.is_empty() { found } else { lines.iter().zip(found).map(|(line, more)| format!("{line} {more}")).collect() };
    }
    lines.sort();
    lines
}

/// Collects what an operator says, and holds it to the rules of changes as they come.
struct Said {
    rows: HashMap<String, i64>,
    emission: Emission,
    watermark: i64,
    pending: Vec<i64>,
}

impl Said {
    fn new(emission: Emission) -> Self {
        Said { rows: HashMap::new(), emission, watermark: i64::MIN, pending: Vec::new() }
    }

    fn take(&mut self, out: Vec<Message>) {
        for message in out {
            match message {
                Message::Changes(changes) => {
                    assert!(!changes.is_empty(), "an empty message");
                    assert!(self.emission.updates() || changes.weights.is_none(), "weights on an append-only result");
                    self.pending.extend(changes.times.values());
                    for (row, line) in lines(&changes.rows).into_iter().enumerate() {
                        let count = self.rows.entry(line.clone()).or_default();
                        *count += changes.weight(row);
                        assert!((0..=1).contains(count), "{line} counts {count} times");
                    }
                }
                Message::Watermark(watermark) => {
                    assert!(watermark.time.nanos() >= self.watermark, "the watermark went back");
                    if !self.emission.updates() {
                        for time in self.pending.drain(..) {
                            assert!(
                                (self.watermark..watermark.time.nanos()).contains(&time),
                                "a result at {time} is not in time"
                            );
                        }
                    }
                    self.watermark = watermark.time.nanos();
                }
                Message::Checkpoint(_) | Message::End => panic!("nobody sent {message:?}"),
            }
        }
    }

    fn lines(self) -> Vec<String> {
        let mut lines: Vec<String> = self.rows.into_iter().filter(|(_, count)| *count != 0).map(|(line, _)| line).collect();
        lines.sort();
        lines
    }
}

/// What is fed: rows and watermarks, as the input brings them.
enum Step {
    Rows(Vec<Row>),
    Watermark(i64),
}

/// A random feed: event times go up with a disorder of at most `disorder`, the watermark follows the greatest at `delay`.
fn feed(random: &mut fastrand::Rng, count: usize, disorder: i64, delay: i64) -> Vec<Step> {
    let keys = [Some("a"), Some("b"), Some("a long key that is not kept in a view"), None];
    let mut now = random.i64(-400..400);
    let (mut steps, mut rows, mut greatest, mut sent) = (Vec::new(), Vec::new(), i64::MIN, i64::MIN);
    for order in 0..count as i64 {
        now += if random.u8(0..40) == 0 { random.i64(0..300) } else { random.i64(0..6) };
        let time = now - random.i64(0..=disorder);
        let value = (random.u8(0..9) > 0).then(|| random.i64(-9..10));
        let key = if random.u8(0..10) == 0 { keys[3] } else { keys[random.usize(0..3)] };
        rows.push(Row { time, key, value, order });
        greatest = greatest.max(now);
        if random.u8(0..8) == 0 {
            steps.push(Step::Rows(std::mem::take(&mut rows)));
            if random.u8(0..3) > 0 && greatest - delay > sent {
                sent = greatest - delay;
                steps.push(Step::Watermark(sent));
            }
            if random.u8(0..10) == 0 {
                steps.push(Step::Rows(Vec::new()));
            }
        }
    }
    steps.push(Step::Rows(rows));
    steps.push(Step::Watermark(i64::MAX));
    steps
}

/// Which rows count in which windows, by the plainest means: this is the specification.
struct Oracle {
    shape: Shape,
    lateness: i64,
    watermark: i64,
    accepted: Vec<(Window, Row)>,
    /// Rows of sessions that may still grow, by key.
    open: BTreeMap<Option<&'static str>, Vec<Row>>,
    dropped: u64,
    by_key: bool,
}

impl Oracle {
    fn over(&self, end: i64) -> bool {
        end.saturating_add(self.lateness) <= self.watermark
    }

    fn step(&mut self, step: &Step) {
        match (step, self.shape) {
            (Step::Watermark(watermark), Shape::Grid(_)) => self.watermark = *watermark,
            (Step::Rows(rows), Shape::Grid(grid)) => {
                for row in rows {
                    let first = row.time.div_euclid(grid.slide()) * grid.slide();
                    let starts = (0..grid.width() / grid.slide()).map(|n| first - n * grid.slide());
                    let windows = starts.map(|start| Window { start, end: start + grid.width() });
                    let open: Vec<Window> = windows.filter(|window| !self.over(window.end)).collect();
                    self.dropped += u64::from(open.is_empty());
                    self.accepted.extend(open.into_iter().map(|window| (window, row.clone())));
                }
            }
            (Step::Watermark(watermark), Shape::Session(gap)) => {
                self.watermark = *watermark;
                for (key, rows) in std::mem::take(&mut self.open) {
                    for session in sessions(rows, gap.nanos()) {
                        let window = Window { start: session[0].time, end: session[session.len() - 1].time + gap.nanos() };
                        if self.over(window.end) {
                            self.accepted.extend(session.into_iter().map(|row| (window, row)));
                        } else {
                            self.open.entry(key).or_default().extend(session);
                        }
                    }
                }
            }
            (Step::Rows(rows), Shape::Session(gap)) => {
                let mut fresh: BTreeMap<Option<&'static str>, Vec<Row>> = BTreeMap::new();
                for row in rows {
                    fresh.entry(row.key.filter(|_| self.by_key)).or_default().push(row.clone());
                }
                for (key, rows) in fresh {
                    let old = self.open.remove(&key).unwrap_or_default();
                    let all = old.iter().chain(&rows).cloned().collect();
                    for session in sessions(all, gap.nanos()) {
                        let end = session[session.len() - 1].time + gap.nanos();
                        if self.over(end) && !session.iter().any(|row| old.contains(row)) {
                            self.dropped += session.len() as u64;
                        } else {
                            self.open.entry(key).or_default().extend(session);
                        }
                    }
                }
            }
        }
    }
}

fn sessions(mut rows: Vec<Row>, gap: i64) -> Vec<Vec<Row>> {
    rows.sort_by_key(|row| row.time);
    let mut sessions: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        match sessions.last_mut() {
            Some(session) if row.time - session[session.len() - 1].time < gap => session.push(row),
            _ => sessions.push(vec![row]),
        }
    }
    sessions
}

/// In groups that DataFusion computes in one batch query: it refuses aggregates that demand different orders, which the operator
/// does not.
const AGGREGATES: &[&str] = &[
    "count(*), count(v), sum(v), avg(f), min(v), max(s), min(f), count(DISTINCT v), count(DISTINCT s), \
     array_agg(DISTINCT v ORDER BY v), first_value(s ORDER BY o), last_value(v ORDER BY o), median(f), stddev(f), \
     sum(v) FILTER (WHERE v > 3), count(*) FILTER (WHERE v IS NULL), bool_or(v > 8), bit_xor(v), sum(DISTINCT v), corr(f, o)",
    "array_agg(v ORDER BY o), nth_value(v, 2 ORDER BY o), string_agg(s, ',' ORDER BY o)",
    "nth_value(v, -2 ORDER BY o DESC)",
    "string_agg(DISTINCT s, ',' ORDER BY s)",
];

const FEW_AGGREGATES: &[&str] = &["count(*), sum(v), max(s), array_agg(v ORDER BY o)"];

/// Feeds the operator and holds its final state against the batch answer over the rows that count.
fn check(random: &mut fastrand::Rng, shape: Shape, aggregates: &[&str], emission: Emission, disorder: i64, delay: i64) {
    let by_key = random.u8(0..5) > 0;
    let count = random.usize(1..150);
    let mut operator = operator(shape, &aggregates.join(", "), by_key, emission);
    let lateness = emission.lateness();
    let mut oracle =
        Oracle { shape, lateness, watermark: i64::MIN, accepted: Vec::new(), open: BTreeMap::new(), dropped: 0, by_key };
    let mut said = Said::new(emission);
    for step in feed(random, count, disorder, delay) {
        oracle.step(&step);
        let mut out = Vec::new();
        let message = match &step {
            Step::Rows(rows) => Message::Changes(changes(rows)),
            Step::Watermark(time) => Message::Watermark(Watermark::at(Timestamp(*time))),
        };
        operator.push(0, message, &mut out).unwrap();
        said.take(out);
    }
    let mut report = Report::default();
    operator.report(&mut report);
    assert_eq!(report.late_rows, oracle.dropped, "late rows");
    assert_eq!((report.open_windows, report.next_close, report.state_rows), (0, None, 0), "state after the end");
    let (got, expect) = (said.lines(), batch(aggregates, by_key, &oracle.accepted));
    assert_eq!(got, expect);
}

fn shapes(random: &mut fastrand::Rng) -> Shape {
    let slide = random.i64(1..40);
    match random.u8(0..4) {
        0 => Shape::tumble(random.i64(1..100)),
        1 | 2 => Shape::hop(slide, slide * random.i64(1..9)),
        _ => Shape::session(random.i64(1..30)),
    }
    .unwrap()
}

/// Runs `case` for seeds, and names the one that fails.
fn seeds(count: u64, case: impl Fn(&mut fastrand::Rng) + std::panic::RefUnwindSafe) {
    for seed in 0..count {
        if let Err(panic) = std::panic::catch_unwind(|| case(&mut fastrand::Rng::with_seed(seed))) {
            eprintln!("the case of seed {seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn windows_equal_the_batch_query_whatever_the_order_and_the_cut() {
    seeds(30, |random| {
        let shape = shapes(random);
        let disorder = random.i64(0..50);
        check(random, shape, AGGREGATES, Emission::default(), disorder, disorder);
    });
}

#[test]
fn late_rows_count_where_windows_are_open() {
    seeds(60, |random| {
        let shape = shapes(random);
        let (disorder, delay) = (random.i64(0..80), random.i64(0..20));
        check(random, shape, FEW_AGGREGATES, Emission::default(), disorder, delay);
    });
}

#[test]
fn early_results_and_corrections_add_up_to_the_batch_query() {
    seeds(120, |random| {
        let shape = shapes(random);
        let (disorder, delay) = (random.i64(0..80), random.i64(0..20));
        let early = (random.bool()).then(|| Duration::from_nanos(random.u64(1..50)));
        let emission = Emission { early, allowed_lateness: Duration::from_nanos(random.u64(0..60)) };
        check(random, shape, FEW_AGGREGATES, emission, disorder, delay);
    });
}

// By hand.

fn row(time: i64, key: &'static str, value: i64) -> Row {
    Row { time, key: Some(key), value: Some(value), order: 0 }
}

/// Feeds steps and shows what each lets out: rows with their weights, the watermark as `~time`.
fn script(operator: &mut WindowAggregate, steps: Vec<(Message, &[&str])>) {
    for (at, (message, expect)) in steps.into_iter().enumerate() {
        let mut out = Vec::new();
        let input = format!("{message:?}");
        operator.push(0, message, &mut out).unwrap();
        let mut shown = Vec::new();
        for message in out {
            match message {
                Message::Changes(changes) => {
                    let sign = |row| if changes.weight(row) > 0 { "+" } else { "-" };
                    shown.extend(lines(&changes.rows).iter().enumerate().map(|(row, line)| format!("{}{line}", sign(row))));
                }
                Message::Watermark(Watermark { time, idle }) => {
                    shown.push(format!("~{}{}", time.nanos(), if idle { " idle" } else { "" }));
                }
                Message::Checkpoint(epoch) => shown.push(format!("#{epoch}")),
                Message::End => shown.push("end".into()),
            }
        }
        assert_eq!(shown, expect, "step {at}: {input}");
    }
}

fn rows(rows: &[Row]) -> Message {
    Message::Changes(changes(rows))
}

fn at(time: i64) -> Message {
    Message::Watermark(Watermark::at(Timestamp(time)))
}

fn report(operator: &WindowAggregate) -> Report {
    let mut report = Report::default();
    operator.report(&mut report);
    report
}

#[test]
fn a_window_comes_out_when_the_watermark_reaches_its_end_and_before_it() {
    let mut operator = operator(Shape::tumble(10).unwrap(), "count(*), sum(v)", true, Emission::default());
    script(
        &mut operator,
        vec![
            (rows(&[]), &[]),
            (rows(&[row(-1, "a", 1), row(0, "a", 2), row(3, "b", 3), row(9, "a", 4), row(10, "a", 5)]), &[]),
            (at(-5), &["~-5"]),
            (at(9), &["+a -10..0 1 1", "~9"]),
            (at(10), &["+a 0..10 2 6", "+b 0..10 1 3", "~10"]),
            (Message::Watermark(Watermark::idle(Timestamp(11))), &["~11 idle"]),
            (at(4), &["~11"]),
            (Message::Checkpoint(7), &["#7"]),
            (at(i64::MAX), &["+a 10..20 1 5", "~9223372036854775807"]),
            (Message::End, &["end"]),
        ],
    );
}

#[test]
fn a_late_row_counts_in_the_windows_still_open_and_is_dropped_after_the_last() {
    let mut operator = operator(Shape::hop(10, 30).unwrap(), "count(*)", false, Emission::default());
    script(
        &mut operator,
        vec![
            (rows(&[row(25, "a", 1)]), &[]),
            (at(30), &["+0..30 1", "~30"]),
            (rows(&[row(12, "a", 1), row(29, "a", 1)]), &[]),
            (at(40), &["+10..40 3", "~40"]),
            (rows(&[row(12, "late", 7)]), &[]),
            (at(60), &["+20..50 2", "~60"]),
        ],
    );
    let report = report(&operator);
    assert_eq!((report.late_rows, report.open_windows, report.state_rows), (1, 0, 0));
    let sample = &report.late_samples[0];
    assert_eq!((sample.time, sample.watermark), (Timestamp(12), Timestamp(40)));
    assert_eq!(sample.row, "k=late, v=7, f=1.75, s=text 7, o=0");
}

#[test]
fn the_report_names_open_windows_and_the_next_close() {
    let mut operator = operator(Shape::hop(10, 30).unwrap(), "count(*)", true, Emission::default());
    script(&mut operator, vec![(rows(&[row(25, "a", 1), row(41, "a", 1)]), &[]), (at(29), &["~29"])]);
    let report = report(&operator);
    assert_eq!((report.open_windows, report.next_close, report.state_rows), (5, Some(Timestamp(30)), 2));
}

#[test]
fn a_jump_of_the_watermark_closes_windows_in_order_and_skips_empty_ones() {
    let mut operator = operator(Shape::hop(10, 20).unwrap(), "sum(v)", false, Emission::default());
    let year = 31_536_000_000_000_000;
    script(
        &mut operator,
        vec![
            (rows(&[row(5, "a", 1), row(year + 5, "a", 2)]), &[]),
            (
                at(i64::MAX),
                &[
                    "+-10..10 1",
                    "+0..20 1",
                    "+31535999999999990..31536000000000010 2",
                    "+31536000000000000..31536000000000020 2",
                    "~9223372036854775807",
                ],
            ),
        ],
    );
}

#[test]
fn a_late_row_within_the_allowance_corrects_with_a_pair() {
    let emission = Emission { early: None, allowed_lateness: Duration::from_nanos(10) };
    let mut operator = operator(Shape::tumble(10).unwrap(), "count(*)", true, emission);
    script(
        &mut operator,
        vec![
            (rows(&[row(1, "a", 1), row(2, "b", 1)]), &[]),
            (at(10), &["+a 0..10 1", "+b 0..10 1", "~10"]),
            (rows(&[row(3, "a", 1), row(12, "a", 1)]), &["-a 0..10 1", "+a 0..10 2"]),
            (at(19), &["~19"]),
            (rows(&[row(4, "c", 1)]), &["+c 0..10 1"]),
            (at(20), &["+a 10..20 1", "~20"]),
            (rows(&[row(5, "a", 1)]), &[]),
        ],
    );
    assert_eq!(report(&operator).late_rows, 1);
}

#[test]
fn early_results_tell_only_what_changed() {
    let emission = Emission { early: Some(Duration::from_nanos(5)), allowed_lateness: Duration::ZERO };
    let mut operator = operator(Shape::tumble(20).unwrap(), "sum(v)", true, emission);
    script(
        &mut operator,
        vec![
            (rows(&[row(1, "a", 1), row(2, "b", 1)]), &[]),
            (at(4), &["+a 0..20 1", "+b 0..20 1", "~4"]),
            (rows(&[row(4, "a", 2)]), &[]),
            (at(5), &["-a 0..20 1", "+a 0..20 3", "~5"]),
            (at(11), &["~11"]),
            (rows(&[row(12, "a", 0)]), &[]),
            (at(20), &["~20"]),
        ],
    );
}

#[test]
fn a_session_grows_merges_and_ends_after_its_gap() {
    let mut operator = operator(Shape::session(10).unwrap(), "count(*), array_agg(v ORDER BY o)", true, Emission::default());
    script(
        &mut operator,
        vec![
            (rows(&[row(0, "a", 1), row(9, "a", 2), row(19, "a", 3), row(5, "b", 4)]), &[]),
            (at(15), &["+b 5..15 1 [4]", "~15"]),
            // A row exactly a gap after the last one starts the next session; one between them would have joined both.
            (at(19), &["+a 0..19 2 [1, 2]", "~19"]),
            (rows(&[row(35, "a", 5)]), &[]),
            (rows(&[row(27, "a", 6)]), &[]),
            (at(45), &["+a 19..45 3 [3, 5, 6]", "~45"]),
            (rows(&[row(35, "a", 7)]), &[]),
            (at(i64::MAX), &["~9223372036854775807"]),
        ],
    );
    assert_eq!(report(&operator).late_rows, 1);
}

#[test]
fn a_merge_of_sessions_takes_back_what_they_said() {
    let emission = Emission { early: None, allowed_lateness: Duration::from_nanos(100) };
    let mut operator = operator(Shape::session(10).unwrap(), "count(*)", true, emission);
    script(
        &mut operator,
        vec![
            (rows(&[row(0, "a", 1), row(15, "a", 1)]), &[]),
            (at(30), &["+a 0..10 1", "+a 15..25 1", "~30"]),
            (rows(&[row(8, "a", 1)]), &["+a 0..25 3", "-a 0..10 1", "-a 15..25 1"]),
            (at(i64::MAX), &["~9223372036854775807"]),
        ],
    );
}

#[test]
fn rows_without_a_place_or_a_value_cost_only_themselves() {
    for shape in [Shape::tumble(10).unwrap(), Shape::session(10).unwrap()] {
        let mut operator = operator(shape, "sum(12 / v)", false, Emission::default());
        let mut timeless = changes(&[row(1, "a", 4)]);
        timeless.times = TimestampArray::from(vec![None]);
        let end = if matches!(shape, Shape::Grid(_)) { "+0..10 6" } else { "+1..13 6" };
        script(
            &mut operator,
            vec![
                (rows(&[row(1, "a", 4), row(2, "a", 0), row(3, "a", 4), row(i64::MAX, "a", 1)]), &[]),
                (Message::Changes(timeless), &[]),
                (at(20), &[end, "~20"]),
            ],
        );
        let reasons: Vec<String> = report(&operator).bad_samples.into_iter().map(|bad| bad.reason).collect();
        assert_eq!(
            reasons,
            ["division by zero", "its event time is too near to the end of time for a window around it", "it has no event time"]
        );
    }
}

#[test]
fn a_stream_of_ever_new_keys_does_not_grow() {
    for shape in [Shape::tumble(1000).unwrap(), Shape::hop(500, 2000).unwrap(), Shape::session(300).unwrap()] {
        let mut operator = operator(shape, "count(*), max(s)", true, Emission::default());
        let mut out = Vec::new();
        let mut most = 0;
        let mut total = 0;
        for batch in 0..100 {
            let start = batch * 500;
            let keys: ArrayRef =
                Arc::new(StringViewArray::from_iter_values((start..start + 500).map(|n| format!("a key of its own: {n}"))));
            let template: Vec<Row> = (start..start + 500).map(|time| row(time, "", time)).collect();
            let mut changes = changes(&template);
            let mut columns = changes.rows.columns().to_vec();
            columns[0] = keys;
            changes.rows = RecordBatch::try_new(schema(), columns).unwrap();
            operator.push(0, Message::Changes(changes), &mut out).unwrap();
            operator.push(0, at(start + 500), &mut out).unwrap();
            most = most.max(operator.basis.dictionary.len());
        }
        operator.push(0, at(i64::MAX), &mut out).unwrap();
        for message in out {
            if let Message::Changes(changes) = message {
                total += changes.len();
            }
        }
        let windows = if let Shape::Grid(grid) = shape { grid.panes() } else { 1 };
        assert_eq!(total as i64, 50_000 * windows, "{shape}");
        assert!(most < 10_000, "{shape}: {most} keys are kept");
    }
}

#[test]
fn what_an_operator_cannot_do_is_said_before_it_runs() {
    let mut operator = operator(Shape::tumble(10).unwrap(), "count(*)", true, Emission::default());
    let mut taken_back = changes(&[row(1, "a", 1)]);
    taken_back.weights = Some(Int64Array::from(vec![-1]));
    let error = operator.push(0, Message::Changes(taken_back), &mut Vec::new()).unwrap_err();
    assert_eq!(error.code(), Code::Bug);
}

#[test]
fn an_operator_describes_itself_in_a_line() {
    let emission = Emission { early: Some(Duration::from_secs(1)), allowed_lateness: Duration::from_secs(5) };
    let shape = Shape::hop(1_000_000_000, 60_000_000_000).unwrap();
    let operator = operator(shape, "count(*), avg(f)", true, emission);
    assert_eq!(
        operator.describe(),
        "WindowAggregate: HOP(1s, 1m) by [k], [count(1), avg(t.f)], early every 1s, allowed lateness 5s"
    );
}
