//! Windowed aggregates against DataFusion's batch answer over the rows that count, for random feeds, cuts, shapes and emissions.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field};
use datafusion::prelude::SessionContext;

use super::tests::{Row, changes, columns, lines, operator, schema, wait};
use super::*;

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
                Message::Barrier(_) | Message::End => panic!("nobody sent {message:?}"),
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
pub(super) enum Step {
    Rows(Vec<Row>),
    Watermark(i64),
}

/// A random feed: event times go up with a disorder of at most `disorder`, the watermark follows the greatest at `delay`.
pub(super) fn feed(random: &mut fastrand::Rng, count: usize, disorder: i64, delay: i64) -> Vec<Step> {
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
     sum(v) FILTER (WHERE v > 3), count(*) FILTER (WHERE v IS NULL), bool_or(v > 8), bit_xor(v), sum(DISTINCT v), corr(f, o), approx_distinct(v), var_pop(f), covar_pop(f, o), bit_and(v), percentile_cont(0.25) WITHIN GROUP (ORDER BY f), \
     count(DISTINCT v) FILTER (WHERE v > 0), any_value(v IS NULL) FILTER (WHERE v IS NULL)",
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
    let only =
        |these: &[String], those: &[String]| these.iter().filter(|line| !those.contains(line)).cloned().collect::<Vec<_>>();
    assert_eq!(only(&got, &expect), only(&expect, &got), "{shape}, {emission:?}");
    assert_eq!(got.len(), expect.len());
}

pub(super) fn shapes(random: &mut fastrand::Rng) -> Shape {
    let slide = random.i64(1..40);
    match random.u8(0..4) {
        0 => Shape::tumble(random.i64(1..100)),
        1 | 2 => Shape::hop(slide, slide * random.i64(1..9)),
        _ => Shape::session(random.i64(1..30)),
    }
    .unwrap()
}

/// Runs `case` for seeds, and names the one that fails.
pub(super) fn seeds(count: u64, case: impl Fn(&mut fastrand::Rng) + std::panic::RefUnwindSafe) {
    for seed in 0..count {
        if let Err(panic) = std::panic::catch_unwind(|| case(&mut fastrand::Rng::with_seed(seed))) {
            eprintln!("the case of seed {seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn windows_equal_the_batch_query_whatever_the_order_and_the_cut() {
    seeds(25, |random| {
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
