//! A tree of operators, driven one message at a time: what enters at a source goes up to the root before the next one enters.

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

    /// Takes one message of a source and appends what comes out at the root to `out`.
    pub fn push(&mut self, source: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        let Some(places) = self.sources.get(source) else {
            return Err(Error::bug(format!("a message came from source {source} of {}", self.sources.len())));
        };
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
}
