//! Windows that are saved and loaded at any message: nobody can tell.

use std::time::Duration;

use arrow::array::Int64Array;
use datafusion::logical_expr::Operator::{Divide, GtEq};
use datafusion::physical_expr::expressions::{binary, col, lit};

use super::oracle::{Step, feed, seeds, shapes};
use super::tests::{Row, changes, operator, operators, schema};
use super::*;
use crate::operator::state::survival::{self, Feed, Likeness, left_out, through_ipc};
use crate::operator::{Chain, Cut, Filter, Frame, FrameContent, Hold, Limit, Merge, Project, Tree};

/// Aggregates whose states merge without loss, in groups that fit one query.
const EXACT: &[&str] = &[
    "count(*), count(v), count(v, f), sum(v), sum(f / 3), avg(f / 7), avg(v), sum(o::decimal(12, 3)), avg(o::decimal(12, 3)), min(v), max(f)",
    "min(s), max(s), min(k::varchar), max(o::decimal(12, 3)), min(o::timestamp), max(v > 3), min(named_struct('v', v, 's', s))",
    "count(DISTINCT v), count(DISTINCT s), sum(DISTINCT v), avg(DISTINCT v), count(DISTINCT f)",
    "median(f), median(v), median(DISTINCT v), percentile_cont(0.25) WITHIN GROUP (ORDER BY f), approx_distinct(v), approx_distinct(s)",
    "bool_and(v > 0), bool_or(v > 8), bit_and(v), bit_or(v), bit_xor(v), corr(f / 3, o)",
    "first_value(s), last_value(v), first_value(s ORDER BY o), last_value(v ORDER BY o DESC), first_value(v) IGNORE NULLS",
    "array_agg(v), array_agg(s), array_agg(v ORDER BY o), array_agg(s ORDER BY v, o DESC), array_agg(named_struct('v', v, 's', s))",
    "array_agg(DISTINCT v ORDER BY v), string_agg(s, ', '), string_agg(s, ',' ORDER BY o), string_agg(DISTINCT s, ',' ORDER BY s)",
    "nth_value(v, 2 ORDER BY o), nth_value(v, -2 ORDER BY o DESC), any_value(s), array_agg(v) FILTER (WHERE v > 2)",
    "sum(v) FILTER (WHERE v > 3), count(DISTINCT v) FILTER (WHERE v > 0), approx_median(v) FILTER (WHERE false), max(arrow_cast(s, 'Dictionary(Int32, Utf8)'))",
    "",
];

/// Aggregates whose states merge up to rounding, and approximations.
const NEAR: &[&str] = &[
    "stddev(f / 3), stddev_pop(f), var_pop(f / 3), var_samp(f), covar_pop(f, o), covar_samp(f, o)",
    "regr_slope(f, o), regr_count(f, o), regr_avgx(f, o), regr_sxx(f, o), regr_r2(f, o)",
];

/// Keys that come and go, so that dictionaries forget some.
const KEYS: &[&str] = &["a", "b", "a key that no view holds", "c", "d", "another key that no view holds", "e", "f", "g"];

fn messages(random: &mut fastrand::Rng, count: usize, disorder: i64, delay: i64) -> Feed {
    let of_its_time = |mut row: Row| {
        let age = row.time.div_euclid(40) + row.order % 3;
        row.key = row.key.map(|_| KEYS[age.rem_euclid(KEYS.len() as i64) as usize]);
        row
    };
    let message = |step| match step {
        Step::Rows(rows) => Message::Changes(changes(&rows.into_iter().map(of_its_time).collect::<Vec<_>>())),
        Step::Watermark(time) => Message::Watermark(Watermark::at(Timestamp(time))),
    };
    feed(random, count, disorder, delay).into_iter().map(|step| (0, message(step))).collect()
}

fn cuts(random: &mut fastrand::Rng, messages: usize) -> Vec<usize> {
    (0..messages).filter(|_| random.u8(0..4) == 0).collect()
}

fn emission(random: &mut fastrand::Rng) -> Emission {
    let early = random.bool().then(|| Duration::from_nanos(random.u64(1..50)));
    Emission { early, allowed_lateness: Duration::from_nanos(if random.bool() { random.u64(0..60) } else { 0 }) }
}

fn check(random: &mut fastrand::Rng, aggregates: &str, emission: Emission, likeness: Likeness) {
    let (shape, by_key) = (shapes(random), random.u8(0..5) > 0);
    let (disorder, delay) = (random.i64(0..80), random.i64(0..30));
    let count = random.usize(1..200);
    let feed = messages(random, count, disorder, delay);
    let operators = operators(shape, aggregates, by_key, emission);
    let make = || Chain::new(Tree::operator(operators(), vec![Tree::source(0, "Source: t")]));
    survival::check(&make, &feed, &cuts(random, feed.len()), likeness);
}

#[test]
fn every_aggregate_survives_at_any_message() {
    for aggregates in EXACT {
        seeds(4, |random| check(random, aggregates, Emission::default(), Likeness::Results));
    }
}

#[test]
fn windows_that_speak_again_survive_at_any_message() {
    seeds(40, |random| {
        let emission = emission(random);
        check(random, "count(*), sum(f / 3), avg(o / 7.0), max(s), array_agg(v ORDER BY o)", emission, Likeness::States);
    });
}

#[test]
fn aggregates_that_merge_with_rounding_survive_up_to_it() {
    for aggregates in NEAR {
        seeds(4, |random| check(random, aggregates, Emission::default(), Likeness::Within(1e-9)));
    }
    seeds(4, |random| {
        let aggregates = "approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY f), approx_median(v)";
        check(random, aggregates, Emission::default(), Likeness::Within(0.5));
    });
}

/// Two windows over filtered rows as one stream, of which the first results are left out and the rest end.
fn pipelines() -> impl Fn() -> Chain {
    let hop = operators(Shape::hop(10, 30).unwrap(), "sum(f / 3), max(s)", true, Emission::default());
    let session = operators(Shape::session(12).unwrap(), "sum(f / 3), max(s)", true, Emission::default());
    move || pipeline([hop(), session()])
}

fn pipeline(windows: [WindowAggregate; 2]) -> Chain {
    let inverse = || binary(lit(12i64), Divide, col("v", &schema()).unwrap(), &schema()).unwrap();
    let filter = || Filter::new(binary(inverse(), GtEq, lit(-6i64), &schema()).unwrap());
    let branch = |(source, windows): (usize, WindowAggregate)| {
        let filtered = Tree::operator(filter(), vec![Tree::source(source, "Source")]);
        let output = windows.basis.emitter.finish.schema();
        let share = binary(lit(1.0f64), Divide, col("a0", &output).unwrap(), &output).unwrap();
        let expressions = vec![col("k", &output).unwrap(), share, col("a1", &output).unwrap()];
        let columns = [output.field(0).clone(), output.field(2).clone(), output.field(3).clone()];
        let project = Project::new(expressions, Arc::new(Schema::new(columns.to_vec()))).unwrap();
        Tree::operator(project, vec![Tree::operator(windows, vec![filtered])])
    };
    let branches = windows.into_iter().enumerate().map(branch).collect();
    let held = Tree::operator(Hold::new(Duration::from_nanos(5)), vec![Tree::operator(Merge::new(2), branches)]);
    Chain::new(Tree::operator(Limit::new(3, Some(200)), vec![held]))
}

#[test]
fn a_whole_chain_survives_at_any_message() {
    let pipelines = pipelines();
    let pipelines = std::panic::AssertUnwindSafe(&pipelines);
    seeds(30, |random| {
        let mut sources = [0, 1].map(|source| (source, messages(random, 120, 20, 15).into_iter()));
        let mut feed: Feed = Vec::new();
        while sources.iter().any(|(_, left)| left.len() > 0) {
            let (source, left) = &mut sources[random.usize(0..2)];
            feed.extend(left.next().map(|(_, message)| (*source, message)));
        }
        feed.extend([(0, Message::End), (1, Message::End)]);
        survival::check(*pipelines, &feed, &cuts(random, feed.len()), Likeness::States);
    });
}

#[test]
fn what_does_not_change_is_given_once() {
    seeds(5, |random| {
        let feed = messages(random, 500, 10, 10);
        for (shape, least) in [(Shape::hop(10, 400).unwrap(), 0.7), (Shape::session(3).unwrap(), 0.1)] {
            let emission = Emission { early: None, allowed_lateness: Duration::from_nanos(100) };
            let operator = operator(shape, "sum(f), max(s)", true, emission);
            let (unchanged, all) = left_out(Chain::new(Tree::operator(operator, vec![Tree::source(0, "Source: t")])), &feed);
            assert!(unchanged as f64 > least * all as f64, "{shape}: {unchanged} of {all}");
        }
    });
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let chain = |shape, aggregates: &str| {
        let operator = operator(shape, aggregates, true, Emission::default());
        Chain::new(Tree::operator(operator, vec![Tree::source(0, "Source: t")]))
    };
    let feed = messages(&mut fastrand::Rng::with_seed(5), 40, 10, 10);
    for shape in [Shape::hop(10, 30).unwrap(), Shape::session(10).unwrap()] {
        let saved = |aggregates: &str| -> Vec<Frame> {
            let mut chain = chain(shape, aggregates);
            for (source, message) in &feed[..feed.len() - 1] {
                chain.push(*source, message.clone(), &mut Vec::new()).unwrap();
            }
            chain.save(Cut { epoch: 1, written: None }).unwrap().into_iter().map(through_ipc).collect()
        };
        let frames = saved("sum(f)");
        chain(shape, "sum(f)").load(frames.clone()).unwrap();
        let refused = |frames: Vec<Frame>, what: &str| {
            let error = chain(shape, "sum(f)").load(frames).expect_err(what);
            assert_eq!(error.code(), Code::Data, "{what}: {error}");
        };
        refused(saved("sum(v)"), "another type");
        refused(saved("sum(f), sum(v)"), "a column too many");
        refused(saved(""), "a column too few");
        let mut unknown = frames.clone();
        unknown.push(Frame { name: "7/windows".into(), ..frames[0].clone() });
        refused(unknown, "a frame too many");
        let mut unresolved = frames.clone();
        unresolved[0].content = FrameContent::Unchanged;
        refused(unresolved, "a frame that is elsewhere");
        for (at, frame) in frames.iter().enumerate() {
            let mut less = frames.clone();
            less.remove(at);
            // Panes stand for themselves; all else belongs together.
            if !["open/", "frozen/"].iter().any(|pane| frame.name.contains(pane)) {
                refused(less, &format!("{} is missing", frame.name));
            }
        }
    }
}

#[test]
fn a_state_with_any_number_changed_is_refused_or_gone_on_with() {
    let feed = messages(&mut fastrand::Rng::with_seed(5), 120, 10, 10);
    for shape in [Shape::hop(10, 30).unwrap(), Shape::session(10).unwrap()] {
        let emission = Emission { early: Some(Duration::from_nanos(7)), allowed_lateness: Duration::from_nanos(40) };
        let operators = operators(shape, "sum(f), max(s), median(v)", true, emission);
        let chain = || Chain::new(Tree::operator(operators(), vec![Tree::source(0, "Source: t")]));
        survival::check_damaged(&chain, &feed);
    }
}

#[test]
fn a_state_with_values_that_no_aggregate_gives_is_refused() {
    let chain = || {
        let operator = operator(Shape::tumble(10).unwrap(), "count(v)", true, Emission::default());
        Chain::new(Tree::operator(operator, vec![Tree::source(0, "Source: t")]))
    };
    let mut saved = chain();
    saved.push(0, messages(&mut fastrand::Rng::with_seed(5), 40, 10, 10)[0].1.clone(), &mut Vec::new()).unwrap();
    let mut frames = saved.save(Cut { epoch: 1, written: None }).unwrap();
    let frame = frames.iter_mut().find(|frame| frame.name.contains("open/")).unwrap();
    let FrameContent::Rows(rows) = &mut frame.content else { panic!("not given") };
    let mut columns = rows.columns().to_vec();
    columns[1] = Arc::new(Int64Array::new_null(rows.num_rows()));
    *rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let error = chain().load(frames).unwrap_err();
    assert_eq!(error.code(), Code::Data, "{error}");
}
