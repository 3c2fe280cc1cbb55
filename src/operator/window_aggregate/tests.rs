//! Windowed aggregates by hand: a step in, what it lets out.

use std::time::Duration;

use arrow::array::{Float64Array, Int64Array, StringViewArray, StructArray};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::array_value_to_string;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::aggregate::{LoweredAggregate, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::col;
use datafusion::prelude::SessionContext;

use super::super::finish::FinishRows;
use super::*;
use crate::time::{TimestampArray, instant_ns};

/// An input row: event time, key, value; `order` is its place in the input.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub time: i64,
    pub key: Option<&'static str>,
    pub value: Option<i64>,
    pub order: i64,
}

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8View, true),
        Field::new("v", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("s", DataType::Utf8View, true),
        Field::new("o", DataType::Int64, false),
    ]))
}

pub(super) fn columns<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Vec<ArrayRef> {
    let values = rows.clone().map(|row| row.value);
    vec![
        Arc::new(rows.clone().map(|row| row.key).collect::<StringViewArray>()),
        Arc::new(values.clone().collect::<Int64Array>()),
        Arc::new(values.clone().map(|value| value.map(|value| value as f64 / 4.0)).collect::<Float64Array>()),
        Arc::new(values.map(|value| value.map(|value| format!("text {value}"))).collect::<StringViewArray>()),
        Arc::new(rows.map(|row| row.order).collect::<Int64Array>()),
    ]
}

pub(super) fn changes(rows: &[Row]) -> Changes {
    let batch = RecordBatch::try_new(schema(), columns(rows.iter())).unwrap();
    Changes::inserts(batch, TimestampArray::from_iter_values(rows.iter().map(|row| row.time)))
}

pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// The operator that computes `aggregates` (SQL) by `k`, or by the window alone.
pub(super) fn operator(shape: Shape, aggregates: &str, by_key: bool, emission: Emission) -> WindowAggregate {
    operators(shape, aggregates, by_key, emission)()
}

/// Makes any number of such operators, of one plan.
pub(super) fn operators(shape: Shape, aggregates: &str, by_key: bool, emission: Emission) -> impl Fn() -> WindowAggregate {
    let lowered = if aggregates.is_empty() { Vec::new() } else { lower(aggregates) };
    move || WindowAggregate::new(spec_of(shape, &lowered, by_key, emission)).unwrap()
}

fn spec(shape: Shape, aggregates: &str, by_key: bool, emission: Emission) -> WindowAggregateSpec {
    spec_of(shape, &lower(aggregates), by_key, emission)
}

fn spec_of(shape: Shape, lowered: &[LoweredAggregate], by_key: bool, emission: Emission) -> WindowAggregateSpec {
    let time = |name: &str| Field::new(name, instant_ns(), false);
    let window = Field::new("window", DataType::Struct(vec![time("start"), time("end")].into()), false);
    let mut fields = if by_key { vec![schema().field(0).clone(), window] } else { vec![window] };
    fields.extend(
        lowered.iter().enumerate().map(|(at, lowered)| lowered.aggregate.field().as_ref().clone().with_name(format!("a{at}"))),
    );
    let output = Arc::new(Schema::new(fields));
    WindowAggregateSpec {
        shape,
        keys: if by_key { vec![col("k", &schema()).unwrap()] } else { Vec::new() },
        aggregates: lowered.iter().map(|lowered| lowered.aggregate.clone()).collect(),
        filters: lowered.iter().map(|lowered| lowered.filter.clone()).collect(),
        window_index: usize::from(by_key),
        emission,
        finish: Box::new(unfinished(output.clone(), 1 + usize::from(by_key))),
        output,
    }
}

/// What the plan makes of the SQL of aggregates.
fn lower(aggregates: &str) -> Vec<LoweredAggregate> {
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
    aggregate
        .aggr_expr
        .iter()
        .map(|expression| {
            let input = aggregate.input.schema();
            LoweredAggregateBuilder::new(expression, input, input.as_arrow(), state.execution_props(), &planning).build().unwrap()
        })
        .collect()
}

/// A value as text, floats rounded to what merging in another order may not change; the small shift takes dyadic values off the
/// edge between two roundings.
fn show(column: &ArrayRef, row: usize) -> String {
    match column.as_any().downcast_ref::<Float64Array>() {
        Some(floats) if !floats.is_null(row) => format!("{:.9}", floats.value(row) + 3.7e-11),
        _ => array_value_to_string(column, row).unwrap(),
    }
}

/// The rows of a result as text: the window as `start..end`, then the columns in their order.
pub(super) fn lines(rows: &RecordBatch) -> Vec<String> {
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
                Message::Barrier(_) => shown.push("barrier".into()),
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
            (at(4), &["~10"]),
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
fn rows_that_are_taken_back_are_refused() {
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

#[test]
fn keys_alone_are_a_result() {
    for shape in [Shape::tumble(10).unwrap(), Shape::session(10).unwrap()] {
        let mut operator = operator(shape, "", true, Emission::default());
        let (start, end) = if matches!(shape, Shape::Grid(_)) { (0, 10) } else { (1, 11) };
        let expect = ["a", "b"].map(|key| format!("+{key} {start}..{end}"));
        let input = rows(&[row(1, "a", 1), row(1, "b", 1), row(1, "a", 1)]);
        script(&mut operator, vec![(input, &[]), (at(11), &[&expect[0], &expect[1], "~11"])]);
    }
}

/// The output is the result, whose rows are identified by the first `groups` columns.
fn unfinished(schema: SchemaRef, groups: usize) -> FinishRows {
    FinishRows::new(Vec::new(), (0..groups).collect(), schema)
}

/// Keeps one row of a window.
struct Top(FinishRows);

impl Finish for Top {
    fn run(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        Ok(rows.slice(0, 1))
    }

    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn keys(&self) -> &[usize] {
        self.0.keys()
    }

    fn describe(&self) -> String {
        "the first row".into()
    }
}

#[test]
fn rows_of_one_window_are_finished_together_and_of_others_apart() {
    for shape in [Shape::tumble(10).unwrap(), Shape::session(9).unwrap()] {
        let spec = spec(shape, "count(*)", true, Emission::default());
        let top = Top(unfinished(spec.output.clone(), 2));
        let mut operator = WindowAggregate::new(WindowAggregateSpec { finish: Box::new(top), ..spec }).unwrap();
        let mut out = Vec::new();
        operator.push(0, rows(&[row(1, "a", 1), row(1, "b", 1), row(21, "c", 1), row(21, "b", 1)]), &mut out).unwrap();
        operator.push(0, at(40), &mut out).unwrap();
        let Message::Changes(changes) = &out[0] else { panic!("{out:?}") };
        assert_eq!(changes.len(), 2, "{shape}");
        assert!(operator.describe().ends_with(", then the first row"));
    }
}

#[test]
fn a_session_that_may_speak_again_is_not_ranked() {
    let emission = Emission { early: Some(Duration::from_nanos(5)), allowed_lateness: Duration::ZERO };
    let spec = spec(Shape::session(10).unwrap(), "count(*)", true, emission);
    let top = Top(unfinished(spec.output.clone(), 2));
    let refused = WindowAggregate::new(WindowAggregateSpec { finish: Box::new(top), ..spec });
    assert_eq!(refused.err().map(|error| error.code()), Some(Code::NotYet));
}

#[test]
fn a_window_that_said_nothing_in_a_silence_may_be_opened_by_what_comes_behind_it() {
    let idle = |time| Message::Watermark(Watermark::idle(Timestamp(time)));
    for (shape, ends) in [
        (Shape::tumble(10).unwrap(), ["0..10", "30..40", "70..80"]),
        (Shape::session(10).unwrap(), ["5..15", "32..42", "70..80"]),
    ] {
        let mut operator = operator(shape, "count(*), sum(v)", true, Emission::default());
        let out = |window: &str, rest: &str| format!("+a {window} {rest}");
        let (first, second, third) = (out(ends[0], "1 1"), out(ends[1], "1 3"), out(ends[2], "1 4"));
        script(
            &mut operator,
            vec![
                (rows(&[row(5, "a", 1)]), &[]),
                (idle(28), &[&first, "~28 idle"]),
                (idle(60), &["~60 idle"]),
                // The window of 4 has spoken; that of 32 has not, whatever silence supposed.
                (rows(&[row(4, "a", 2), row(32, "a", 3)]), &[]),
                (at(31), &["~31"]),
                (idle(60), &[&second, "~60 idle"]),
                // What is promised is over.
                (at(70), &["~70"]),
                (rows(&[row(35, "a", 9), row(70, "a", 4)]), &[]),
                (at(80), &[&third, "~80"]),
            ],
        );
        assert_eq!(report(&operator).late_rows, 2);
    }
}
