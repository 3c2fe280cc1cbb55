//! By hand-fed messages, and against a batch run of DataFusion over the same rows.

use std::collections::HashMap;

use arrow::array::{AsArray, Int64Array, StringViewArray};
use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use arrow::util::display::array_value_to_string;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::logical_plan::Window;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use super::*;
use crate::error::Code;
use crate::operator::LateRow;

pub(super) const SECOND: i64 = 1_000_000_000;

/// A row in the order of arrival: seconds, key, value.
pub(super) type Row = (i64, Option<&'static str>, Option<i64>);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
        Field::new("k", DataType::Utf8View, true),
        Field::new("v", DataType::Int64, true),
        Field::new("seq", DataType::Int64, false),
    ]))
}

pub(super) fn changes(rows: &[Row], first: usize) -> Changes {
    let times = TimestampArray::from_iter_values(rows.iter().map(|row| row.0 * SECOND));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(times.clone()),
        Arc::new(StringViewArray::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.2))),
        Arc::new(Int64Array::from_iter_values((first..first + rows.len()).map(|row| row as i64))),
    ];
    Changes::inserts(RecordBatch::try_new(schema(), columns).unwrap(), times)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn session(rows: RecordBatch) -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let table = MemTable::try_new(schema(), vec![vec![rows]]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    crate::function::register(&context).unwrap();
    context
}

/// The window node of `SELECT *, functions FROM t` as DataFusion plans it.
fn window(functions: &str) -> Window {
    let context = session(RecordBatch::new_empty(schema()));
    // The arguments stay in the node, also those that occur twice.
    context.remove_optimizer_rule("common_sub_expression_eliminate");
    let sql = format!("SELECT *, {functions} FROM t");
    let plan = block_on(async { context.sql(&sql).await.unwrap().into_optimized_plan().unwrap() });
    let mut found = None;
    plan.apply(|node| {
        if let LogicalPlan::Window(window) = node {
            found = Some(window.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    found.expect("a query with a window function")
}

pub(super) fn spec(functions: &str, order: Order) -> Result<OverSpec> {
    let window = window(functions);
    assert_eq!(window.input.schema().as_arrow().fields(), schema().fields());
    let output = Arc::new(window.schema.as_arrow().clone());
    let planning = PhysicalPlanningContext::default();
    OverSpec::plan(&window.window_expr, window.input.schema(), output, order, &ExecutionProps::new(), &planning)
}

fn over(functions: &str) -> Over {
    Over::new(spec(functions, Order::EventTime).unwrap()).unwrap()
}

fn push(over: &mut Over, message: Message) -> Vec<String> {
    let mut out = Vec::new();
    over.push(0, message, &mut out).unwrap();
    out.iter().flat_map(show).collect()
}

fn rows(over: &mut Over, rows: &[Row]) -> Vec<String> {
    push(over, Message::Changes(changes(rows, 0)))
}

fn watermark(over: &mut Over, second: i64) -> Vec<String> {
    push(over, Message::Watermark(Watermark::at(Timestamp(second * SECOND))))
}

/// A message as lines: `second key value: answers`, `watermark second`, `end`.
fn show(message: &Message) -> Vec<String> {
    match message {
        Message::Changes(changes) => {
            assert_eq!(changes.rows.column(0).as_ref(), &changes.times as &dyn arrow::array::Array);
            (0..changes.len())
                .map(|row| {
                    let cell = |column: &ArrayRef| match column.is_null(row) {
                        true => "-".to_string(),
                        false => array_value_to_string(column, row).unwrap(),
                    };
                    let cells: Vec<String> = changes.rows.columns().iter().map(cell).collect();
                    format!("{} {} {}: {}", changes.times.value(row) / SECOND, cells[1], cells[2], cells[4..].join(" "))
                })
                .collect()
        }
        Message::Watermark(Watermark { time: Timestamp::MAX, .. }) => vec!["watermark max".into()],
        Message::Watermark(watermark) => vec![format!("watermark {}", watermark.time.nanos() / SECOND)],
        Message::Barrier(_) => vec!["barrier".into()],
        Message::End => vec!["end".into()],
    }
}

#[test]
fn lag_looks_back_in_event_time_however_rows_arrive() {
    let mut over = over("LAG(v, 1) OVER (PARTITION BY k ORDER BY ts)");
    assert!(rows(&mut over, &[(3, Some("a"), Some(30)), (1, Some("a"), Some(10)), (2, Some("b"), Some(20))]).is_empty());
    assert_eq!(watermark(&mut over, 3), ["1 a 10: -", "2 b 20: -", "watermark 3"]);
    assert!(rows(&mut over, &[(3, Some("b"), Some(31)), (4, Some("a"), Some(40))]).is_empty());
    assert_eq!(watermark(&mut over, 5), ["3 a 30: 10", "3 b 31: 20", "4 a 40: 30", "watermark 5"]);
}

#[test]
fn a_late_row_is_dropped_counted_and_shown() {
    let mut over = over("LAG(v) OVER (PARTITION BY k ORDER BY ts)");
    rows(&mut over, &[(5, Some("a"), Some(1))]);
    watermark(&mut over, 6);
    rows(&mut over, &[(5, Some("a"), Some(2)), (6, Some("a"), Some(3))]);
    assert_eq!(watermark(&mut over, 7), ["6 a 3: 1", "watermark 7"]);
    let mut report = Report::default();
    Operator::report(&over, &mut report);
    let row = "ts=1970-01-01T00:00:05, k=a, v=2, seq=0".to_string();
    let late = LateRow { time: Timestamp(5 * SECOND), watermark: Timestamp(6 * SECOND), row };
    assert_eq!((report.late_rows, report.late_samples), (1, vec![late]));
}

#[test]
fn what_comes_behind_a_silence_counts_where_nothing_was_said() {
    let mut over = over("LAG(v) OVER (PARTITION BY k ORDER BY ts)");
    let idle = |time: i64| Message::Watermark(Watermark::idle(Timestamp(time * SECOND)));
    rows(&mut over, &[(5, Some("a"), Some(1))]);
    assert_eq!(push(&mut over, idle(20)), ["5 a 1: -", "watermark 20"]);
    assert!(rows(&mut over, &[(4, Some("a"), Some(2)), (8, Some("a"), Some(3))]).is_empty());
    assert_eq!(watermark(&mut over, 9), ["8 a 3: 1", "watermark 9"]);
    let mut report = Report::default();
    Operator::report(&over, &mut report);
    assert_eq!(report.late_rows, 1);
}

#[test]
fn lead_waits_for_its_own_partition_only_and_holds_the_watermark_back() {
    let mut over = over("LEAD(v, 1, -1) OVER (PARTITION BY k ORDER BY ts)");
    rows(&mut over, &[(1, Some("quiet"), Some(1)), (2, Some("a"), Some(2)), (3, Some("a"), Some(3))]);
    assert_eq!(watermark(&mut over, 4), ["2 a 2: 3", "watermark 1"]);
    rows(&mut over, &[(4, Some("a"), Some(4))]);
    assert_eq!(watermark(&mut over, 9), ["3 a 3: 4", "watermark 1"]);
    rows(&mut over, &[(9, Some("quiet"), Some(5))]);
    assert_eq!(watermark(&mut over, 10), ["1 quiet 1: 5", "watermark 4"]);
    assert_eq!(
        push(&mut over, Message::Watermark(Watermark::at(Timestamp::MAX))),
        ["4 a 4: -1", "9 quiet 5: -1", "watermark max"]
    );
    assert_eq!(push(&mut over, Message::End), ["end"]);
}

#[test]
fn the_end_lets_waiting_rows_out_also_without_a_last_watermark() {
    let mut over = over("LEAD(v) OVER (ORDER BY ts)");
    rows(&mut over, &[(2, None, Some(2)), (1, None, Some(1))]);
    assert_eq!(push(&mut over, Message::End), ["1 - 1: 2", "2 - 2: -", "end"]);
}

#[test]
fn a_frame_that_looks_ahead_in_time_waits_for_the_watermark_and_not_for_rows() {
    let mut over =
        over("COUNT(*) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN CURRENT ROW AND INTERVAL '2 seconds' FOLLOWING)");
    rows(&mut over, &[(1, Some("a"), None), (2, Some("b"), None), (3, Some("a"), None), (4, Some("a"), None)]);
    assert_eq!(watermark(&mut over, 3), ["watermark 1"]);
    assert_eq!(watermark(&mut over, 4), ["1 a -: 2", "watermark 2"]);
    assert_eq!(watermark(&mut over, 6), ["2 b -: 1", "3 a -: 2", "watermark 4"]);
    assert_eq!(watermark(&mut over, 7), ["4 a -: 1", "watermark 7"]);
}

#[test]
fn peers_share_rank_and_running_sum() {
    let mut over =
        over("RANK() OVER w, DENSE_RANK() OVER w, ROW_NUMBER() OVER w, SUM(v) OVER w FROM t WINDOW w AS (ORDER BY ts) --");
    rows(&mut over, &[(1, None, Some(1)), (1, None, Some(2)), (2, None, Some(3)), (2, None, Some(4)), (3, None, Some(5))]);
    let expected = ["1 - 1: 1 1 1 3", "1 - 2: 1 1 2 3", "2 - 3: 3 2 3 10", "2 - 4: 3 2 4 10", "watermark 3"];
    assert_eq!(watermark(&mut over, 3), expected);
    assert_eq!(watermark(&mut over, 4), ["3 - 5: 5 3 5 15", "watermark 4"]);
}

#[test]
fn peers_stay_together_in_a_release_of_many_rows() {
    let mut over = over("COUNT(*) OVER (ORDER BY ts)");
    rows(&mut over, &vec![(1, None, None); BATCH_ROWS + 10]);
    let out = watermark(&mut over, 2);
    assert_eq!(out.len(), BATCH_ROWS + 11);
    assert!(out[..BATCH_ROWS + 10].iter().all(|row| *row == format!("1 - -: {}", BATCH_ROWS + 10)));
}

#[test]
fn rows_in_the_order_of_arrival_do_not_wait() {
    let mut over = Over::new(spec("LAG(v) OVER (PARTITION BY k)", Order::Arrival).unwrap()).unwrap();
    assert_eq!(rows(&mut over, &[(3, Some("a"), Some(1)), (1, Some("a"), Some(2))]), ["3 a 1: -", "1 a 2: 1"]);
    assert_eq!(watermark(&mut over, 2), ["watermark 2"]);
    assert_eq!(rows(&mut over, &[(1, Some("a"), Some(3))]), ["1 a 3: 2"]);
}

#[test]
fn the_watermark_never_goes_back_when_late_rows_wait_in_the_order_of_arrival() {
    let mut over = Over::new(spec("LEAD(v) OVER (PARTITION BY k)", Order::Arrival).unwrap()).unwrap();
    assert_eq!(watermark(&mut over, 5), ["watermark 5"]);
    assert!(rows(&mut over, &[(2, Some("a"), Some(1))]).is_empty());
    assert_eq!(watermark(&mut over, 6), ["watermark 5"]);
}

#[test]
fn a_row_that_cannot_be_computed_costs_only_itself() {
    let mut over = over("LAG(10 / v) OVER (PARTITION BY k ORDER BY ts)");
    let input: Vec<Row> = (0..100).map(|row| (row, Some("a"), Some(if row % 40 == 39 { 0 } else { 1 + row % 2 }))).collect();
    rows(&mut over, &input);
    let out = watermark(&mut over, 100);
    assert_eq!(out.len(), 98 + 1);
    assert_eq!(out[37..41], ["37 a 2: 10", "38 a 1: 5", "40 a 1: 10", "41 a 2: 10"]);
    let mut report = Report::default();
    Operator::report(&over, &mut report);
    assert_eq!(report.bad_rows, 2);
    rows(&mut over, &[(200, Some("a"), Some(0))]);
    assert_eq!(watermark(&mut over, 300), ["watermark 300"]);
}

#[test]
fn an_aggregate_that_cannot_take_rows_out_slides_all_the_same() {
    let mut over = over("MEDIAN(v) OVER (ORDER BY ts ROWS 2 PRECEDING), BOOL_OR(v > 2) OVER (ORDER BY ts ROWS 1 PRECEDING)");
    rows(&mut over, &[(1, None, Some(1)), (2, None, Some(3)), (3, None, Some(2)), (4, None, Some(2))]);
    let expected = ["1 - 1: 1.0 false", "2 - 3: 2.0 true", "3 - 2: 2.0 true", "4 - 2: 2.0 false", "watermark 9"];
    assert_eq!(watermark(&mut over, 9), expected);
}

#[test]
fn infinity_leaves_a_sliding_sum_with_its_row() {
    let mut over = over("SUM(1.0 / v) OVER (ORDER BY ts ROWS 1 PRECEDING)");
    rows(&mut over, &[(1, None, Some(1)), (2, None, Some(0)), (3, None, Some(2)), (4, None, Some(4))]);
    assert_eq!(watermark(&mut over, 9), ["1 - 1: 1.0", "2 - 0: inf", "3 - 2: inf", "4 - 4: 0.75", "watermark 9"]);
}

#[test]
fn rounding_errors_do_not_add_up_in_a_sliding_sum() {
    let mut over = over("SUM(v / 10.0) OVER (ORDER BY ts ROWS 1 PRECEDING)");
    let input: Vec<Row> = (0..20_000).map(|row| (row, None, Some(row * 7919 % 1000))).collect();
    rows(&mut over, &input);
    let out = watermark(&mut over, 20_000);
    let sum: f64 = out[19_999].rsplit(' ').next().unwrap().parse().unwrap();
    let exact = (19_998 * 7919 % 1000 + 19_999 * 7919 % 1000) as f64 / 10.0;
    assert!((sum - exact).abs() < 1e-11, "{sum} {exact}");
}

#[test]
fn rows_with_weights_are_refused() {
    let mut over = over("ROW_NUMBER() OVER (ORDER BY ts)");
    let mut input = changes(&[(1, None, None)], 0);
    input.weights = Some(Int64Array::from(vec![-1]));
    let error = over.push(0, Message::Changes(input), &mut Vec::new()).unwrap_err();
    assert_eq!(error.code(), Code::Bug);
}

#[test]
fn what_has_no_answer_is_refused_with_a_way_out() {
    for (functions, order, code, text) in [
        ("SUM(v) OVER (PARTITION BY k)", Order::Arrival, Code::Endless, "add ORDER BY"),
        ("LAG(v) OVER (ORDER BY ts DESC)", Order::EventTime, Code::Endless, "order ascending"),
        ("LAG(v) OVER (ORDER BY ts, k)", Order::EventTime, Code::NotYet, "event time alone"),
        ("NTILE(4) OVER (ORDER BY ts)", Order::EventTime, Code::Endless, "use row_number()"),
        ("PERCENT_RANK() OVER (ORDER BY ts)", Order::EventTime, Code::Endless, "use row_number()"),
        ("RANK() OVER (ORDER BY v)", Order::Arrival, Code::NotYet, "WATERMARK FOR"),
        ("LEAD(v) IGNORE NULLS OVER (ORDER BY ts)", Order::EventTime, Code::Endless, "IGNORE NULLS out"),
        (
            "SUM(v) OVER (ORDER BY ts ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)",
            Order::EventTime,
            Code::Endless,
            "CURRENT ROW",
        ),
        ("SUM(v) OVER (ORDER BY ts GROUPS 2 PRECEDING)", Order::EventTime, Code::NotYet, "count ROWS"),
        ("SUM(v) OVER (ORDER BY v RANGE 2 PRECEDING)", Order::Arrival, Code::NotYet, "event time"),
        ("SUM(v) OVER (ORDER BY ts RANGE INTERVAL '1 month' PRECEDING)", Order::EventTime, Code::Window, "days"),
    ] {
        let error = spec(functions, order).unwrap_err();
        assert_eq!(error.code(), code, "{functions}: {error}");
        assert!(error.way_out().unwrap_or_default().contains(text), "{functions}: {error}");
    }
}

#[test]
fn the_log_stays_as_large_as_what_functions_look_at() {
    let mut over = over("LAG(v, 2) OVER (PARTITION BY k ORDER BY ts), SUM(v) OVER (PARTITION BY k ORDER BY ts)");
    for round in 0..100 {
        let input: Vec<Row> = (0..4096).map(|row| (round, [Some("a"), Some("b"), None][row % 3], Some(row as i64))).collect();
        rows(&mut over, &input);
        watermark(&mut over, round + 1);
    }
    let mut report = Report::default();
    Operator::report(&over, &mut report);
    assert!(report.state_rows < 80_000, "{report:?}");
}

#[test]
fn partitions_whose_interval_has_passed_are_forgotten() {
    let input = |round: i64| {
        let times = TimestampArray::from_iter_values((0..4096).map(|_| round * SECOND));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(times.clone()),
            Arc::new(StringViewArray::from_iter_values((0..4096).map(|row| format!("{round}/{row}")))),
            Arc::new(Int64Array::from(vec![1; 4096])),
            Arc::new(Int64Array::from(vec![0; 4096])),
        ];
        Message::Changes(Changes::inserts(RecordBatch::try_new(schema(), columns).unwrap(), times))
    };
    for end in ["CURRENT ROW", "INTERVAL '2 seconds' FOLLOWING"] {
        let frame = format!("ORDER BY ts RANGE BETWEEN INTERVAL '3 seconds' PRECEDING AND {end}");
        let mut over = over(&format!("SUM(v) OVER (PARTITION BY k {frame}), LAST_VALUE(v) OVER (PARTITION BY k {frame})"));
        let mut out = Vec::new();
        for round in 0..100 {
            push(&mut over, input(round));
            out.extend(watermark(&mut over, round + 1));
        }
        assert!(over.partitions.len() < 50_000, "{} partitions", over.partitions.len());
        // One that is still within its interval was not forgotten, and one that was starts again.
        rows(&mut over, &[(101, Some("99/7"), Some(5)), (101, Some("1/7"), Some(5))]);
        out.extend(push(&mut over, Message::End));
        assert_eq!(out.iter().filter(|row| row.ends_with(": 1 1")).count(), 100 * 4096 - (end != "CURRENT ROW") as usize);
        assert!(out.contains(&"101 99/7 5: 6 5".into()) && out.contains(&"101 1/7 5: 5 5".into()));
    }
}

#[test]
fn rows_are_right_over_many_compactions_of_the_log() {
    let functions =
        ["LAG(seq, 2)", "LEAD(k)", "FIRST_VALUE(seq)", "NTH_VALUE(seq, 3)", "LAG(k) IGNORE NULLS", "SUM(seq)", "MIN(seq)"];
    let frames =
        ["", "", "ROWS UNBOUNDED PRECEDING", "ROWS UNBOUNDED PRECEDING", "", "ROWS UNBOUNDED PRECEDING", "ROWS 5 PRECEDING"];
    let functions: Vec<String> =
        functions.iter().zip(frames).map(|(function, frame)| format!("{function} OVER (w {frame})")).collect();
    let mut random = fastrand::Rng::with_seed(3);
    let input: Vec<Row> = (0..150_000)
        .map(|row| (row / 100 - random.i64(0..DELAY), [None, Some("a"), Some("b")][random.usize(0..3)], Some(random.i64(0..300))))
        .collect();
    for functions in [functions.join(", "), functions.join(", ").replace("LEAD(k)", "LAG(k)")] {
        let (ours, batch) = both(&functions, "PARTITION BY v", "ts, seq", &input, &[8192, 100, 1]);
        assert_same(&ours, &batch);
    }
}

/// Functions that see rows of one time in the order of arrival.
pub(super) const BY_ROW: &[&str] = &[
    "ROW_NUMBER() OVER w",
    "LAG(v) OVER w",
    "LAG(v, 2, -7) OVER w",
    "LAG(k, 1, 'none') OVER w",
    "LAG(v, 2) IGNORE NULLS OVER w",
    "FIRST_VALUE(v) OVER (w ROWS 3 PRECEDING)",
    "FIRST_VALUE(v) IGNORE NULLS OVER (w ROWS UNBOUNDED PRECEDING)",
    "LAST_VALUE(v) IGNORE NULLS OVER (w ROWS UNBOUNDED PRECEDING)",
    "LAST_VALUE(k) OVER (w ROWS BETWEEN 4 PRECEDING AND 2 PRECEDING)",
    "NTH_VALUE(v, 2) OVER (w ROWS UNBOUNDED PRECEDING)",
    "NTH_VALUE(v, 2) OVER (w ROWS 2 PRECEDING)",
    "SUM(v) OVER (w ROWS UNBOUNDED PRECEDING)",
    "COUNT(*) FILTER (WHERE v > 0) OVER (w ROWS UNBOUNDED PRECEDING)",
    "COUNT(DISTINCT v) OVER (w ROWS UNBOUNDED PRECEDING)",
    "SUM(v) OVER (w ROWS 2 PRECEDING)",
    "MAX(v) FILTER (WHERE v < 3) OVER (w ROWS 3 PRECEDING)",
    "MIN(k) OVER (w ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING)",
    "ARRAY_AGG(v) OVER (w ROWS 2 PRECEDING)",
    // From here on they look ahead.
    "LEAD(v) OVER w",
    "LEAD(k, 2, 'none') OVER w",
    "SUM(v) OVER (w ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING)",
    "COUNT(v) OVER (w ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING)",
    "FIRST_VALUE(v) OVER (w ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING)",
    "MAX(v) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING)",
];

/// Functions that see rows of one time together.
pub(super) const BY_TIME: &[&str] = &[
    "RANK() OVER w",
    "DENSE_RANK() OVER w",
    "SUM(v) OVER w",
    "COUNT(DISTINCT v) OVER w",
    "MIN(k) FILTER (WHERE v > 0) OVER w",
    "COUNT(*) OVER (w RANGE INTERVAL '3 seconds' PRECEDING)",
    "MAX(v) OVER (w RANGE INTERVAL '5 seconds' PRECEDING)",
    "SUM(v) OVER (w RANGE BETWEEN INTERVAL '6 seconds' PRECEDING AND INTERVAL '2 seconds' PRECEDING)",
    // From here on they look ahead.
    "SUM(v) OVER (w RANGE BETWEEN INTERVAL '1 second' PRECEDING AND INTERVAL '2 seconds' FOLLOWING)",
    "COUNT(v) OVER (w RANGE BETWEEN INTERVAL '1 second' FOLLOWING AND INTERVAL '4 seconds' FOLLOWING)",
    "MAX(v) OVER (w RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL '1 second' FOLLOWING)",
];

/// How far rows are out of order, in seconds.
pub(super) const DELAY: i64 = 4;

/// DataFusion 55 drops the PARTITION BY and ORDER BY of `w` in `OVER (w ROWS …)`, so they are written out.
pub(super) fn spelled(functions: &str, w: &str) -> String {
    functions.replace("OVER w", &format!("OVER ({w})")).replace("OVER (w ", &format!("OVER ({w} "))
}

/// Runs `functions` over the rows in batches of the given sizes, and as one batch query; both as one batch, by arrival.
fn both(functions: &str, keys: &str, tie: &str, input: &[Row], cuts: &[usize]) -> (RecordBatch, RecordBatch) {
    let spelled = |order: &str| spelled(functions, &format!("{keys} ORDER BY {order}"));
    let mut over = over(&spelled("ts"));
    let (mut first, mut greatest, mut cuts) = (0, i64::MIN, cuts.iter().cycle());
    let mut out = Vec::new();
    while first < input.len() {
        let count = (*cuts.next().unwrap()).min(input.len() - first);
        let part = &input[first..first + count];
        over.push(0, Message::Changes(changes(part, first)), &mut out).unwrap();
        greatest = part.iter().map(|row| row.0).max().unwrap().max(greatest);
        let watermark = Watermark::at(Timestamp((greatest - DELAY) * SECOND));
        over.push(0, Message::Watermark(watermark), &mut out).unwrap();
        first += count;
    }
    over.push(0, Message::Watermark(Watermark::at(Timestamp::MAX)), &mut out).unwrap();
    over.push(0, Message::End, &mut out).unwrap();
    check_order(&out);
    let parts: Vec<RecordBatch> = out
        .into_iter()
        .filter_map(|message| match message {
            Message::Changes(changes) => Some(changes.rows),
            _ => None,
        })
        .collect();
    let ours = concat_batches(&over.spec.output, &parts).unwrap();
    let context = session(changes(input, 0).rows);
    let batch = block_on(async {
        let frame = context.sql(&format!("SELECT *, {} FROM t ORDER BY seq", spelled(tie))).await.unwrap();
        let schema = Arc::new(frame.schema().as_arrow().clone());
        concat_batches(&schema, &frame.collect().await.unwrap()).unwrap()
    });
    let order = sort_to_indices(ours.column(3), None, None).unwrap();
    (take_record_batch(&ours, &order).unwrap(), batch)
}

/// No row goes out after a watermark beyond it, and each partition goes out in order.
fn check_order(out: &[Message]) {
    let mut passed = Timestamp::MIN;
    let mut last: HashMap<Vec<String>, (i64, i64)> = HashMap::new();
    for message in out {
        match message {
            Message::Watermark(watermark) => {
                assert!(watermark.time >= passed);
                passed = watermark.time;
            }
            Message::Changes(changes) => {
                let numbers = changes.rows.column(3).as_primitive::<Int64Type>();
                for row in 0..changes.len() {
                    let here = (changes.times.value(row), numbers.value(row));
                    assert!(Timestamp(here.0) >= passed, "a row after the watermark beyond it");
                    let key = changes.rows.columns()[1..3].iter().map(|column| array_value_to_string(column, row).unwrap());
                    let before = last.insert(key.collect(), here);
                    assert!(before.is_none_or(|before| before < here), "{before:?} before {here:?}");
                }
            }
            _ => {}
        }
    }
}

fn assert_same(ours: &RecordBatch, batch: &RecordBatch) {
    assert_eq!(ours.num_rows(), batch.num_rows());
    for (number, (ours, batch)) in ours.columns().iter().zip(batch.columns()).enumerate() {
        assert_eq!(ours, batch, "column {number}");
    }
}

/// Rows that come at most [`DELAY`] seconds out of order.
pub(super) fn input() -> impl Strategy<Value = Vec<Row>> {
    let key = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("a longer key than a view holds"))];
    let row = (0..40i64, 0..DELAY, key, prop::option::weighted(0.8, -5..5i64));
    prop::collection::vec(row, 1..80).prop_map(|mut rows| {
        rows.sort_by_key(|row| row.0 + row.1);
        rows.into_iter().map(|row| (row.0, row.2, row.3)).collect()
    })
}

pub(super) fn chosen(functions: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::subsequence(functions, 1..6).prop_map(|functions| functions.join(", "))
}

pub(super) fn keys() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("PARTITION BY k"), 1 => Just(""), 1 => Just("PARTITION BY k, v")]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn functions_of_rows_equal_the_batch_query(
        functions in chosen(BY_ROW), keys in keys(), input in input(), cuts in prop::collection::vec(1..20usize, 1..5),
    ) {
        let (ours, batch) = both(&functions, keys, "ts, seq", &input, &cuts);
        assert_same(&ours, &batch);
    }

    #[test]
    fn functions_of_time_equal_the_batch_query(
        functions in chosen(BY_TIME), keys in keys(), input in input(), cuts in prop::collection::vec(1..20usize, 1..5),
    ) {
        let (ours, batch) = both(&functions, keys, "ts", &input, &cuts);
        assert_same(&ours, &batch);
    }
}
