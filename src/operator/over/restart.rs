//! Window functions that are saved and loaded at any message: nobody can tell.

use proptest::prelude::*;

use super::tests::{BY_ROW, BY_TIME, DELAY, Row, SECOND, changes, chosen, input, keys, spec, spelled};
use super::*;
use crate::operator::state::survival::{self, Feed, Likeness, left_out};
use crate::operator::{Chain, Tree};

/// Aggregates that keep more than a number, or rows, or rounding errors; a growing frame first.
const AGGREGATES: &[&str] = &[
    "SUM(v / 7.0) OVER w",
    "AVG(v / 7.0) OVER w",
    "MEDIAN(v) OVER w",
    "STRING_AGG(k, ',') OVER w",
    "ARRAY_AGG(k) OVER w",
    "COUNT(DISTINCT k) OVER w",
    "APPROX_DISTINCT(v) OVER w",
    "MAX(k) OVER w",
    "MIN(v / 7.0) OVER w",
    "BOOL_AND(v > -3) OVER w",
    "BIT_XOR(v) OVER w",
    "SUM(DISTINCT v) OVER w",
    "AVG(v / 7.0) OVER (w ROWS 2 PRECEDING)",
    "AVG(v / 7.0) OVER (w RANGE INTERVAL '4 seconds' PRECEDING)",
    "MIN(v / 7.0) OVER (w ROWS 3 PRECEDING)",
    "MAX(v / 7.0) OVER (w RANGE INTERVAL '4 seconds' PRECEDING)",
    "MEDIAN(v / 7.0) OVER (w ROWS 4 PRECEDING)",
    "COUNT(DISTINCT v) OVER (w ROWS 4 PRECEDING)",
    "SUM(v::DECIMAL(9, 2)) OVER (w ROWS 4 PRECEDING)",
    "BOOL_OR(v > 3) OVER (w ROWS 2 PRECEDING)",
];

/// Those that come back with other last digits.
const ROUNDED: &[&str] = &[
    "STDDEV(v / 7.0) OVER w",
    "VAR_POP(v / 7.0) OVER (w ROWS 3 PRECEDING)",
    "CORR(v / 7.0, seq) OVER w",
    "COVAR_POP(v / 7.0, seq) OVER (w ROWS 3 PRECEDING)",
    "REGR_SLOPE(v / 7.0, seq) OVER w",
    // A frame of NULL alone hides what rounding left in the sum.
    "SUM(v / 7.0) OVER (w ROWS 2 PRECEDING)",
    "SUM(v / 7.0) OVER (w RANGE BETWEEN INTERVAL '4 seconds' PRECEDING AND INTERVAL '2 seconds' PRECEDING)",
];

fn feed(input: &[Row], sizes: &[usize]) -> Feed {
    let (mut first, mut greatest, mut sizes) = (0, i64::MIN, sizes.iter().cycle());
    let mut feed = Vec::new();
    while first < input.len() {
        let count = sizes.next().map_or(1, |size| *size).min(input.len() - first);
        let part = &input[first..first + count];
        feed.push((0, Message::Changes(changes(part, first))));
        greatest = part.iter().map(|row| row.0).max().unwrap_or(0).max(greatest);
        feed.push((0, Message::Watermark(Watermark::at(Timestamp((greatest - DELAY + 1) * SECOND)))));
        first += count;
    }
    feed.extend([(0, Message::Watermark(Watermark::at(Timestamp::MAX))), (0, Message::End)]);
    feed
}

fn chain(spec: &OverSpec) -> Chain {
    Chain::new(Tree::operator(Over::new(spec.clone()).unwrap(), vec![Tree::source(0, "Source: t")]))
}

fn check(functions: &str, keys: &str, order: Order, feed: &Feed, cuts: &[usize], likeness: Likeness) {
    let by = match order {
        Order::EventTime => format!("{keys} ORDER BY ts"),
        Order::Arrival => keys.to_string(),
    };
    let spec = spec(&spelled(functions, &by), order).unwrap();
    let cuts: Vec<usize> = cuts.iter().map(|cut| cut % feed.len()).collect();
    survival::check(&|| chain(&spec), feed, &cuts, likeness);
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn functions_of_rows_survive_at_any_message(
        functions in chosen(BY_ROW), keys in keys(), input in input(), sizes in prop::collection::vec(1..20usize, 1..5), cuts in cuts(),
    ) {
        check(&functions, keys, Order::EventTime, &feed(&input, &sizes), &cuts, Likeness::Results);
    }

    #[test]
    fn functions_of_time_survive_at_any_message(
        functions in chosen(BY_TIME), keys in keys(), input in input(), sizes in prop::collection::vec(1..20usize, 1..5), cuts in cuts(),
    ) {
        check(&functions, keys, Order::EventTime, &feed(&input, &sizes), &cuts, Likeness::Results);
    }

    #[test]
    fn aggregates_survive_at_any_message(
        functions in chosen(AGGREGATES), keys in keys(), input in input(), sizes in prop::collection::vec(1..20usize, 1..5), cuts in cuts(),
    ) {
        check(&functions, keys, Order::EventTime, &feed(&input, &sizes), &cuts, Likeness::Results);
    }

    #[test]
    fn aggregates_that_merge_with_rounding_survive_up_to_it(
        functions in chosen(ROUNDED), keys in keys(), input in input(), sizes in prop::collection::vec(1..20usize, 1..5), cuts in cuts(),
    ) {
        check(&functions, keys, Order::EventTime, &feed(&input, &sizes), &cuts, Likeness::Within(1e-9));
    }

    #[test]
    fn rows_in_the_order_of_arrival_survive_at_any_message(
        input in input(), sizes in prop::collection::vec(1..20usize, 1..5), cuts in cuts(),
    ) {
        let functions = "LAG(v, 2) OVER w, LEAD(k) OVER w, ROW_NUMBER() OVER w";
        check(functions, "PARTITION BY k", Order::Arrival, &feed(&input, &sizes), &cuts, Likeness::States);
        check("LAG(v) OVER w", "", Order::Arrival, &feed(&input, &sizes), &cuts, Likeness::States);
    }
}

fn some_rows(count: i64) -> Vec<Row> {
    let mut random = fastrand::Rng::with_seed(7);
    let key = |random: &mut fastrand::Rng| [None, Some("a"), Some("b")][random.usize(0..3)];
    (0..count).map(|row| (row / 3 - random.i64(0..DELAY), key(&mut random), Some(random.i64(-5..5)))).collect()
}

#[test]
fn rows_that_cannot_be_computed_and_partitions_that_are_forgotten_survive() {
    let functions =
        "SUM(10 / v) OVER (w RANGE INTERVAL '3 seconds' PRECEDING), LAST_VALUE(v) OVER (w RANGE INTERVAL '1 second' PRECEDING)";
    let feed = feed(&some_rows(400), &[7]);
    let cuts: Vec<usize> = (0..feed.len()).step_by(3).collect();
    check(functions, "PARTITION BY v, seq", Order::EventTime, &feed, &cuts, Likeness::Results);
}

#[test]
fn compactions_of_the_log_survive() {
    let functions = "LAG(seq, 2) OVER w, LEAD(k) OVER w, FIRST_VALUE(seq) OVER (w ROWS UNBOUNDED PRECEDING), MIN(seq) OVER (w ROWS 5 PRECEDING)";
    let feed = feed(&some_rows(80_000), &[8192]);
    let cuts: Vec<usize> = (0..feed.len()).step_by(5).collect();
    check(functions, "PARTITION BY v", Order::EventTime, &feed, &cuts, Likeness::Results);
}

#[test]
fn chunks_of_rows_that_do_not_change_are_given_once() {
    let spec = spec("LAG(v, 2) OVER (PARTITION BY k ORDER BY ts)", Order::EventTime).unwrap();
    let (unchanged, all) = left_out(chain(&spec), &feed(&some_rows(5000), &[100]));
    assert!(unchanged * 4 > all, "{unchanged} of {all}");
}

#[test]
fn a_state_with_any_number_changed_is_refused_or_gone_on_with() {
    let functions = "RANK() OVER w, LAG(v, 2) OVER w, LEAD(v) OVER w, LAST_VALUE(v) IGNORE NULLS OVER (w ROWS UNBOUNDED PRECEDING), \
        SUM(v) OVER (w RANGE INTERVAL '3 seconds' PRECEDING), AVG(v) OVER w, MEDIAN(v) OVER w";
    let spec = spec(&spelled(functions, "PARTITION BY k ORDER BY ts"), Order::EventTime).unwrap();
    survival::check_damaged(&|| chain(&spec), &feed(&some_rows(60), &[5]));
}
