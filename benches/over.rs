//! Window functions over partitions of a stream: rows a second through the operator, watermark and reorder buffer included.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::prelude::SessionContext;
use streamgauge::change::Changes;
use streamgauge::operator::over::{Order, Over, OverSpec};
use streamgauge::operator::{Message, Operator};
use streamgauge::time::{Timestamp, TimestampArray, Watermark};

/// Rows of the whole input.
const ROWS: usize = 1 << 18;

/// Event time from one row to the next: 100 rows a millisecond.
const STEP_NANOS: i64 = 10_000;

criterion_group!(benches, over);
criterion_main!(benches);

fn over(criterion: &mut Criterion) {
    let lag = "LAG(price, 1) OVER (PARTITION BY symbol ORDER BY ts)";
    let sum = "SUM(price) OVER (PARTITION BY symbol ORDER BY ts RANGE INTERVAL '1 second' PRECEDING)";
    let lead = "LEAD(price, 1) OVER (PARTITION BY symbol ORDER BY ts)";
    for (name, functions, keys, batch, disorder) in [
        ("lag, 1 000 keys, batches of 8192", lag, 1_000, 8192, 0),
        ("lag, 1 000 keys, batches of 8192, half a batch of disorder", lag, 1_000, 8192, 4096),
        ("lag, 1 000 keys, batches of 100", lag, 1_000, 100, 0),
        ("lag, 1 000 keys, batches of 1", lag, 1_000, 1, 0),
        ("lag, 100 000 keys, batches of 8192", lag, 100_000, 8192, 0),
        ("lag, 100 000 keys, batches of 100", lag, 100_000, 100, 0),
        ("lead, 1 000 keys, batches of 8192", lead, 1_000, 8192, 0),
        ("sum of the last second, 1 000 keys, batches of 8192", sum, 1_000, 8192, 0),
    ] {
        let spec = spec(functions);
        let rows = if batch == 1 { ROWS / 16 } else { ROWS };
        let messages = messages(rows, keys, batch, disorder);
        let mut group = criterion.benchmark_group("over");
        group.sample_size(10).throughput(Throughput::Elements(rows as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || (Over::new(spec.clone()).unwrap(), messages.clone()),
                |(mut over, messages)| {
                    let mut out = Vec::new();
                    for message in messages {
                        over.push(0, message, &mut out).unwrap();
                        out.drain(..).for_each(|message| drop(black_box(message)));
                    }
                },
                BatchSize::PerIteration,
            )
        });
        group.finish();
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
        Field::new("symbol", DataType::Utf8View, true),
        Field::new("price", DataType::Float64, true),
    ]))
}

fn spec(functions: &str) -> OverSpec {
    let plan = async {
        let context = SessionContext::new();
        let table = MemTable::try_new(schema(), vec![vec![]]).unwrap();
        context.register_table("trades", Arc::new(table)).unwrap();
        context.sql(&format!("SELECT *, {functions} FROM trades")).await.unwrap().into_optimized_plan().unwrap()
    };
    let plan = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(plan);
    let mut spec = None;
    plan.apply(|node| {
        if let LogicalPlan::Window(window) = node {
            let output = Arc::new(window.schema.as_arrow().clone());
            let (props, planning) = (ExecutionProps::new(), PhysicalPlanningContext::default());
            spec = OverSpec::plan(&window.window_expr, window.input.schema(), output, Order::EventTime, &props, &planning).ok();
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    spec.expect("a query with a window function")
}

/// Batches, each with its watermark; times are off by up to `disorder` rows, and the watermark is as far behind.
fn messages(rows: usize, keys: usize, batch: usize, disorder: usize) -> Vec<Message> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut messages = Vec::new();
    for first in (0..rows).step_by(batch) {
        let count = batch.min(rows - first);
        let numbers: Vec<usize> = (first..first + count).collect();
        let times = numbers.iter().map(|row| (row + disorder - random.usize(0..=disorder)) as i64 * STEP_NANOS);
        let times = TimestampArray::from_iter_values(times);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(times.clone()),
            Arc::new(StringViewArray::from_iter_values(numbers.iter().map(|_| format!("symbol{:07}", random.usize(0..keys))))),
            Arc::new(Float64Array::from_iter_values(numbers.iter().map(|_| random.f64()))),
        ];
        let rows = RecordBatch::try_new(schema(), columns).unwrap();
        messages.push(Message::Changes(Changes::inserts(rows, times)));
        messages.push(Message::Watermark(Watermark::at(Timestamp((first + count) as i64 * STEP_NANOS))));
    }
    messages.push(Message::Watermark(Watermark::at(Timestamp::MAX)));
    messages
}
