//! Aggregates over groups: open panes that take rows, and frozen ones that merge.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use datafusion::physical_plan::aggregates::{AggregateMode, aggregate_expressions};

use super::keys::{Dictionary, NONE};
use super::ordered::{Factory, Ordered};
use super::state::{self, FrameReader};
use crate::error::Result;
use crate::function::{LostGroup, listen};
use crate::memory::held;

/// The aggregates of one query: what they read, and fresh accumulators for them.
pub struct Aggregates {
    factories: Vec<Factory>,
    /// The arguments of each aggregate, with the expressions it orders by behind them.
    pub arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    /// The columns that the states of each aggregate have.
    states: Vec<Vec<DataType>>,
}

impl Aggregates {
    /// Fails where DataFusion cannot make an accumulator, so that a plan says so and not its first row.
    pub fn new(aggregates: &[Arc<AggregateFunctionExpr>]) -> Result<Self> {
        let arguments = aggregate_expressions(aggregates, &AggregateMode::Partial, 0)?;
        let factories = aggregates.iter().map(|aggregate| factory(aggregate.clone())).collect::<Result<_>>()?;
        let states = |aggregate: &Arc<AggregateFunctionExpr>| -> Result<Vec<DataType>> {
            Ok(aggregate.state_fields()?.iter().map(|field| field.data_type().clone()).collect())
        };
        Ok(Aggregates { factories, arguments, states: aggregates.iter().map(states).collect::<Result<_>>()? })
    }

    pub fn accumulators(&self) -> Result<Accumulators> {
        Ok(Accumulators(self.factories.iter().map(|make| Ok(make()?)).collect::<Result<_>>()?))
    }

    pub fn pane(&self) -> Result<Pane> {
        Ok(Pane { accumulators: self.accumulators()?, ids: Vec::new(), local: Vec::new(), groups: Vec::new() })
    }

    /// The partials in order, as one.
    pub fn merged(&self, partials: &[&Partial]) -> Result<Partial> {
        let mut pane = self.pane()?;
        for partial in partials {
            pane.merge(partial)?;
        }
        pane.freeze()
    }

    /// The states of each aggregate in a saved frame.
    pub fn load_states(&self, rows: &mut FrameReader) -> Result<Vec<Vec<ArrayRef>>> {
        let of = |types: &Vec<DataType>| types.iter().map(|data_type| rows.column("state", data_type)).collect();
        self.states.iter().map(of).collect()
    }
}

fn factory(aggregate: Arc<AggregateFunctionExpr>) -> Result<Factory> {
    let plain: Factory = if aggregate.groups_accumulator_supported() {
        let aggregate = aggregate.clone();
        Arc::new(move || aggregate.create_groups_accumulator())
    } else {
        aggregate.create_accumulator()?;
        let aggregate = aggregate.clone();
        Arc::new(move || {
            let aggregate = aggregate.clone();
            Ok(Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator())))
        })
    };
    plain()?;
    if !matches!(aggregate.order_sensitivity(), AggregateOrderSensitivity::HardRequirement) {
        return Ok(plain);
    }
    let options: Vec<_> = aggregate.order_bys().iter().map(|order| order.options).collect();
    Ok(Arc::new(move || Ok(Box::new(Ordered::new(plain.clone(), options.clone())?))))
}

/// An accumulator for each aggregate, over groups numbered from 0.
pub struct Accumulators(Vec<Box<dyn GroupsAccumulator>>);

impl Accumulators {
    /// Takes rows: `arguments` and `filters` of each aggregate, the group of each row, and how many groups there are now.
    pub fn update(
        &mut self,
        arguments: &[Vec<ArrayRef>],
        filters: &[Option<BooleanArray>],
        groups: &[usize],
        total: usize,
    ) -> Result<()> {
        for ((accumulator, arguments), filter) in self.0.iter_mut().zip(arguments).zip(filters) {
            accumulator.update_batch(arguments, groups, filter.as_ref(), total)?;
        }
        Ok(())
    }

    pub fn merge(&mut self, states: &[Vec<ArrayRef>], groups: &[usize], total: usize) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        for (accumulator, states) in self.0.iter_mut().zip(states) {
            accumulator.merge_batch(states, groups, total)?;
        }
        Ok(())
    }

    pub fn bytes(&self) -> usize {
        self.0.iter().map(|accumulator| accumulator.size()).sum()
    }

    /// The state columns of each aggregate. There must be groups: without any, some accumulators have no states to give.
    pub fn states(mut self) -> Result<Vec<Vec<ArrayRef>>> {
        self.0.iter_mut().map(|accumulator| Ok(accumulator.state(EmitTo::All)?)).collect()
    }

    /// The value column of each aggregate, and the groups that have none. There must be groups.
    pub fn values(mut self) -> Result<(Vec<ArrayRef>, Vec<LostGroup>)> {
        let evaluate = || self.0.iter_mut().map(|accumulator| Ok(accumulator.evaluate(EmitTo::All)?)).collect();
        let (values, lost): (Result<Vec<ArrayRef>>, _) = listen(evaluate);
        Ok((values?, lost))
    }
}

/// Rows of one stretch of time, aggregated by group, still taking more. Groups have their own dense numbers in it, so that its
/// accumulators hold nothing for keys that are not there.
pub struct Pane {
    accumulators: Accumulators,
    /// The dictionary's number of each group.
    ids: Vec<u32>,
    /// The group of each number of the dictionary; shorter than the dictionary where its last keys are not there.
    local: Vec<u32>,
    groups: Vec<usize>,
}

/// Aggregated groups at rest: the dictionary's number of each and the accumulators' states, a column list for each aggregate.
/// Panes merge and are saved in this form.
#[derive(Clone)]
pub struct Partial {
    pub ids: Vec<u32>,
    pub states: Vec<Vec<ArrayRef>>,
}

impl Partial {
    /// Memory of the groups and their states.
    pub fn bytes(&self) -> usize {
        self.ids.capacity() * size_of::<u32>() + held(self.states.iter().flatten())
    }
}

impl Pane {
    /// Memory of the groups and their accumulators.
    pub fn bytes(&self) -> usize {
        let numbers = (self.ids.capacity() + self.local.capacity()) * size_of::<u32>();
        self.accumulators.bytes() + numbers + self.groups.capacity() * size_of::<usize>()
    }

    /// Takes rows with the dictionary's numbers `ids`, with the arguments and filters of each aggregate.
    pub fn update(&mut self, ids: &[usize], arguments: &[Vec<ArrayRef>], filters: &[Option<BooleanArray>]) -> Result<()> {
        self.locate(ids.iter().copied());
        self.accumulators.update(arguments, filters, &self.groups, self.ids.len())
    }

    pub fn merge(&mut self, partial: &Partial) -> Result<()> {
        self.locate(partial.ids.iter().map(|id| *id as usize));
        self.accumulators.merge(&partial.states, &self.groups, self.ids.len())
    }

    /// Puts the groups of `ids` into `self.groups`, new ones at the end.
    fn locate(&mut self, ids: impl Iterator<Item = usize>) {
        self.groups.clear();
        for id in ids {
            if id >= self.local.len() {
                self.local.resize((id + 1).next_power_of_two(), NONE);
            }
            let mut group = self.local[id];
            if group == NONE {
                group = self.ids.len() as u32;
                self.local[id] = group;
                self.ids.push(id as u32);
            }
            self.groups.push(group as usize);
        }
    }

    /// The number of groups.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The groups as they are. The pane goes on with accumulators made of their states, as one does that is loaded from them.
    pub fn look(&mut self, aggregates: &Aggregates) -> Result<Partial> {
        let before = std::mem::replace(self, aggregates.pane()?);
        let partial = before.freeze()?;
        self.merge(&partial)?;
        Ok(partial)
    }

    pub fn freeze(self) -> Result<Partial> {
        let states = if self.ids.is_empty() { Vec::new() } else { self.accumulators.states()? };
        Ok(Partial { ids: self.ids, states })
    }

    /// The groups with the value column of each aggregate, and those that have none. There must be groups.
    pub fn evaluate(self) -> Result<(Vec<u32>, Vec<ArrayRef>, Vec<LostGroup>)> {
        let (values, lost) = self.accumulators.values()?;
        Ok((self.ids, values, lost))
    }

    /// Follows the dictionary to new numbers; all groups are alive in it.
    pub fn renumber(&mut self, numbers: &[u32]) {
        self.local.clear();
        for (group, id) in self.ids.iter_mut().enumerate() {
            *id = numbers[*id as usize];
            if *id as usize >= self.local.len() {
                self.local.resize((*id as usize + 1).next_power_of_two(), NONE);
            }
            self.local[*id as usize] = group as u32;
        }
    }
}

impl Partial {
    /// For a frame: the keys of the groups, then the states.
    pub fn rows(&self, dictionary: &Dictionary) -> Result<RecordBatch> {
        let keys = dictionary.keys(&self.ids)?.into_iter().map(|column| ("key", column));
        let states = self.states.iter().flatten().map(|column| ("state", Arc::clone(column)));
        state::rows(keys.chain(states), self.ids.len())
    }

    pub fn load(mut rows: FrameReader, dictionary: &mut Dictionary, aggregates: &Aggregates) -> Result<Partial> {
        if rows.is_empty() {
            return Err(rows.misfit("has no rows"));
        }
        let partial = Partial { ids: dictionary.load_keys(&mut rows)?, states: aggregates.load_states(&mut rows)? };
        rows.end()?;
        Ok(partial)
    }

    /// Follows the dictionary to new numbers; all groups are alive in it.
    pub fn renumber(&mut self, numbers: &[u32]) {
        for id in &mut self.ids {
            *id = numbers[*id as usize];
        }
    }
}
