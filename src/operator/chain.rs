//! A tree of operators, driven one message at a time: what enters at a source goes up to the root before the next one enters.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::state::{Cut, Frame, Loader, Saver, contents, misfit};
use super::{Message, Operator, Report};
use crate::error::{Error, Result};

/// The operators of a query, the root first. Built by the plan, run by a [`Chain`].
pub enum Tree {
    /// Where messages enter: the number of the source, and its line for `EXPLAIN`.
    Source(usize, String),
    /// An operator over its inputs, in the order of their numbers.
    Operator(Box<dyn Operator>, Vec<Tree>),
}

impl Tree {
    pub fn source(number: usize, line: impl Into<String>) -> Tree {
        Tree::Source(number, line.into())
    }

    pub fn operator(operator: impl Operator + 'static, inputs: Vec<Tree>) -> Tree {
        Tree::Operator(Box::new(operator), inputs)
    }
}

/// A running tree of operators.
pub struct Chain {
    /// The root first, then depth first.
    nodes: Vec<Node>,
    /// For each source, every place it is read at.
    sources: Vec<Vec<usize>>,
    waiting: Vec<Message>,
    next: Vec<Message>,
}

struct Node {
    /// The node that takes what this one gives, and as which input; none for the root.
    parent: Option<(usize, usize)>,
    depth: usize,
    /// None for a source.
    operator: Option<Box<dyn Operator>>,
    line: String,
}

impl Chain {
    pub fn new(tree: Tree) -> Self {
        let mut chain = Chain { nodes: Vec::new(), sources: Vec::new(), waiting: Vec::new(), next: Vec::new() };
        chain.add(tree, None, 0);
        chain
    }

    fn add(&mut self, tree: Tree, parent: Option<(usize, usize)>, depth: usize) {
        let at = self.nodes.len();
        match tree {
            Tree::Source(number, line) => {
                if number >= self.sources.len() {
                    self.sources.resize_with(number + 1, Vec::new);
                }
                self.sources[number].push(at);
                self.nodes.push(Node { parent, depth, operator: None, line });
            }
            Tree::Operator(operator, inputs) => {
                self.nodes.push(Node { parent, depth, line: operator.describe(), operator: Some(operator) });
                for (input, tree) in inputs.into_iter().enumerate() {
                    self.add(tree, Some((at, input)), depth + 1);
                }
            }
        }
    }

    /// The number of sources.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Takes one message of a source and appends what comes out at the root to `out`. A barrier comes once for all sources, aligned by
    /// whoever feeds the chain.
    pub fn push(&mut self, source: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        let Some(places) = self.sources.get(source) else {
            return Err(Error::bug(format!("a message came from source {source} of {}", self.sources.len())));
        };
        if let Message::Barrier(_) = message {
            out.push(message);
            return Ok(());
        }
        for place in places {
            self.waiting.clear();
            self.waiting.push(message.clone());
            let mut at = *place;
            while let Some((parent, input)) = self.nodes[at].parent {
                self.next.clear();
                if let Some(operator) = &mut self.nodes[parent].operator {
                    for message in self.waiting.drain(..) {
                        operator.push(input, message, &mut self.next)?;
                    }
                }
                std::mem::swap(&mut self.waiting, &mut self.next);
                at = parent;
            }
            out.append(&mut self.waiting);
        }
        Ok(())
    }

    /// The tree for `EXPLAIN`, a line each, indented by depth.
    pub fn describe(&self) -> String {
        let lines: Vec<String> = self.nodes.iter().map(|node| format!("{}{}", "  ".repeat(node.depth), node.line)).collect();
        lines.join("\n")
    }

    /// What all operators tell, together.
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        for operator in self.nodes.iter().filter_map(|node| node.operator.as_ref()) {
            operator.report(&mut report);
        }
        report
    }

    /// Memory of the state of all operators, see [`Operator::bytes`].
    pub fn bytes(&self) -> usize {
        self.nodes.iter().filter_map(|node| node.operator.as_ref()).map(|operator| operator.bytes()).sum()
    }

    /// The state of all operators after the last message: everything that later messages depend on. See [`Operator::save`].
    pub fn save(&mut self, cut: Cut) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        let mut state = Saver::new(cut, &mut frames);
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if let Some(operator) = &mut node.operator {
                operator.save(&mut state.within(number))?;
            }
        }
        Ok(frames)
    }

    /// Puts this chain, as new, where one of the same plan was when it gave `frames`, none of them unchanged. After an error, which
    /// tells that they are not of this plan or damaged, the chain is not to be used.
    pub fn load(&mut self, frames: Vec<Frame>) -> Result<()> {
        let mut left = contents(frames)?;
        // DataFusion's accumulators do not expect other states than they gave, and assert it.
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            let mut state = Loader::new(&mut left);
            for (number, node) in self.nodes.iter_mut().enumerate() {
                if let Some(operator) = &mut node.operator {
                    operator.load(&mut state.within(number))?;
                }
            }
            Ok(())
        }));
        loaded.unwrap_or_else(|_| Err(misfit("a frame", "has values that an aggregate cannot take")))?;
        match left.first_key_value() {
            Some((name, _)) => Err(misfit(name, "belongs to none of its operators")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::logical_expr::Operator::{Divide, Gt, Plus};
    use datafusion::physical_expr::PhysicalExpr;
    use datafusion::physical_expr::expressions::{binary, col, lit};

    use super::super::{filter::Filter, limit::Limit, merge::Merge, project::Project};
    use super::*;
    use crate::change::Changes;
    use crate::time::{Timestamp, TimestampArray, Watermark};

    fn schema() -> Schema {
        Schema::new(vec![Field::new("v", DataType::Int64, true)])
    }

    fn v(operator: datafusion::logical_expr::Operator, value: i64) -> Arc<dyn PhysicalExpr> {
        binary(col("v", &schema()).unwrap(), operator, lit(value), &schema()).unwrap()
    }

    /// A message of values, whose times are ten times as much.
    fn rows(values: &[Option<i64>]) -> Message {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let rows = RecordBatch::try_new(Arc::new(schema()), vec![column]).unwrap();
        Message::Changes(Changes::inserts(
            rows,
            values.iter().map(|value| Some(value.unwrap_or(0) * 10)).collect::<TimestampArray>(),
        ))
    }

    fn weighted(values: &[i64], weights: &[i64]) -> Message {
        let Message::Changes(changes) = rows(&values.iter().copied().map(Some).collect::<Vec<_>>()) else { unreachable!() };
        Message::Changes(Changes { weights: Some(Int64Array::from(weights.to_vec())), ..changes })
    }

    fn at(time: i64) -> Message {
        Message::Watermark(Watermark::at(Timestamp(time)))
    }

    /// Values as `value@time`, with `-` before those that are taken back.
    fn show(message: &Message) -> String {
        match message {
            Message::Changes(changes) => {
                let values = changes.rows.column(0).as_primitive::<Int64Type>();
                let row = |row: usize| {
                    let sign = if changes.weight(row) < 0 { "-" } else { "" };
                    format!("{sign}{}@{}", values.value(row), changes.times.value(row))
                };
                (0..changes.len()).map(row).collect::<Vec<_>>().join(" ")
            }
            Message::Watermark(Watermark { time: Timestamp::MAX, .. }) => "max".into(),
            Message::Watermark(watermark) => format!("~{}", watermark.time.nanos()),
            Message::Barrier(barrier) => format!("barrier {}", barrier.epoch),
            Message::End => "end".into(),
        }
    }

    fn check(tree: Tree, steps: Vec<(usize, Message, &str)>) -> Chain {
        let mut chain = Chain::new(tree);
        for (at, (source, message, expect)) in steps.into_iter().enumerate() {
            let mut out = Vec::new();
            chain.push(source, message, &mut out).unwrap();
            assert_eq!(out.iter().map(show).collect::<Vec<_>>().join(", "), expect, "step {at}");
        }
        chain
    }

    fn source() -> Vec<Tree> {
        vec![Tree::source(0, "Source: t")]
    }

    #[test]
    fn a_filter_keeps_true_rows_with_their_times_and_weights() {
        let chain = check(
            Tree::operator(Filter::new(binary(v(Divide, 1), Gt, lit(2i64), &schema()).unwrap()), source()),
            vec![
                (0, rows(&[Some(1), Some(3), None, Some(4)]), "3@30 4@40"),
                (0, rows(&[Some(5), Some(3)]), "5@50 3@30"),
                (0, rows(&[Some(1), None]), ""),
                (0, rows(&[]), ""),
                // What is left of an update stands apart from the next row.
                (0, weighted(&[3, 2, 4], &[-1, 1, 1]), "-3@30, 4@40"),
                (0, weighted(&[3, 4, 5], &[-1, 1, 1]), "-3@30 4@40 5@50"),
                (0, at(7), "~7"),
                (0, Message::End, "end"),
            ],
        );
        assert_eq!(chain.describe(), "Filter: v / 1 > 2\n  Source: t");
    }

    #[test]
    fn a_row_that_a_projection_or_a_filter_cannot_compute_is_dropped_alone() {
        let inverse = binary(lit(12i64), Divide, col("v", &schema()).unwrap(), &schema()).unwrap();
        let project = Project::new(vec![inverse.clone()], Arc::new(schema())).unwrap();
        let filter = Filter::new(binary(inverse, Gt, lit(2i64), &schema()).unwrap());
        let chain = check(
            Tree::operator(project, vec![Tree::operator(filter, source())]),
            vec![(0, rows(&[Some(3), Some(0), Some(4), Some(12)]), "4@30 3@40"), (0, rows(&[Some(0)]), "")],
        );
        assert_eq!(chain.report().bad_rows, 2);
        assert_eq!(chain.report().bad_samples[0].reason, "division by zero");
        assert_eq!(chain.describe(), "Project: 12 / v AS v\n  Filter: 12 / v > 2\n    Source: t");
    }

    #[test]
    fn a_limit_ends_the_stream_as_a_feed_does() {
        check(
            Tree::operator(Limit::new(0, Some(3)), source()),
            vec![
                (0, rows(&[Some(1), Some(2)]), "1@10 2@20"),
                (0, at(5), "~5"),
                (0, rows(&[Some(3), Some(4)]), "3@30, max, end"),
                (0, rows(&[Some(5)]), ""),
                (0, Message::End, ""),
            ],
        );
        check(Tree::operator(Limit::new(0, Some(3)), source()), vec![(0, rows(&[Some(1)]), "1@10"), (0, Message::End, "end")]);
    }

    #[test]
    fn messages_go_up_the_tree_from_the_place_of_their_source() {
        let double = Project::new(vec![v(Plus, 100)], Arc::new(schema())).unwrap();
        let tree = Tree::operator(
            Merge::new(3),
            vec![
                Tree::operator(double, vec![Tree::source(0, "Source: a")]),
                Tree::source(1, "Source: b"),
                Tree::source(0, "Source: a"),
            ],
        );
        let chain = check(
            tree,
            vec![
                (0, rows(&[Some(1)]), "101@10, 1@10"),
                (1, rows(&[Some(2)]), "2@20"),
                (0, at(5), ""),
                (1, at(3), "~3"),
                (1, at(9), "~5"),
                (1, Message::End, ""),
                (0, at(11), "~11"),
                (0, Message::End, "end"),
            ],
        );
        assert_eq!(chain.sources(), 2);
        assert_eq!(chain.describe(), "Merge: 3 streams\n  Project: v + 100 AS v\n    Source: a\n  Source: b\n  Source: a");
    }

    #[test]
    fn a_tree_of_one_source_passes_everything() {
        check(Tree::source(0, "Source: t"), vec![(0, rows(&[Some(1)]), "1@10"), (0, at(5), "~5"), (0, Message::End, "end")]);
        let mut chain = Chain::new(Tree::source(0, "Source: t"));
        assert!(chain.push(1, Message::End, &mut Vec::new()).is_err());
    }
}
