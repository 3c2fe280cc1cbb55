//! Checkpoints that are damaged under correct checksums: they are refused, or gone on from.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use datafusion::physical_plan::ExecutionPlan;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::change::Changes;
use crate::checkpoint::{Archive, Opened};
use crate::engine::{Answer, Engine};
use crate::format::{Decoder, RawEvent};
use crate::operator::state::rows;
use crate::operator::{Barrier, Cut, Frame, FrameContent, Message, StatePart};
use crate::sql::parse;
use crate::table::{ColumnSource, Gathering, Table, TableSpec};
use crate::time::{Timestamp, Watermark};
use crate::view::{ContinuousExec, Health, Live, Rows};

/// What is saved: one view each, over every operator that has a state.
const CASES: [&str; 7] = [
    "SELECT host, count(*) AS c, sum(n), avg(value), min(host), max(value), median(n), TUMBLE(INTERVAL '10 seconds') AS window
     FROM metrics GROUP BY host, window",
    "SELECT host, count(DISTINCT n), array_agg(host ORDER BY n), first_value(value ORDER BY n), approx_distinct(host), stddev(value),
     string_agg(host, ','), HOP(INTERVAL '5 seconds', INTERVAL '20 seconds') AS window FROM late GROUP BY host, window",
    "SELECT host, count(*), max(host), approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY value), SESSION(INTERVAL '4 seconds') AS window
     FROM late GROUP BY host, window",
    "SELECT host, value, lag(value) OVER w AS before, row_number() OVER w AS number, sum(n) OVER (PARTITION BY host ORDER BY at
     ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS sum, max(value) OVER (PARTITION BY host ORDER BY at
     RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW) AS most FROM metrics WINDOW w AS (PARTITION BY host ORDER BY at)",
    "SELECT max(c) AS most, TUMBLE(INTERVAL '20 seconds') AS window FROM (SELECT host, count(*) AS c, TUMBLE(INTERVAL '5 seconds') AS w
     FROM metrics GROUP BY host, w) GROUP BY window",
    "SELECT name, value FROM gauges WHERE value > 3",
    "SELECT host FROM metrics UNION ALL SELECT host FROM late LIMIT 100",
];

const TABLES: &str = "
    CREATE TABLE metrics (host TEXT, value DOUBLE, n BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '5 seconds')
        WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/');
    CREATE TABLE late (host TEXT, value DOUBLE, n BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '5 seconds')
        WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/', allowed_lateness = '1 minute');
    CREATE TABLE gauges (id INT PRIMARY KEY, name TEXT, value DOUBLE) WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/');";

/// A view, its checkpoint, what it is fed after that, and what it then says.
struct Case {
    plan: Arc<dyn ExecutionPlan>,
    table: Arc<Table>,
    file: File,
    rest: Vec<(usize, Message)>,
    says: String,
}

/// A file of an archive in its parts: frames as they lie in it, and the list of them, where the place of each is its number.
#[derive(Clone)]
struct File {
    header: Vec<u8>,
    frames: Vec<Vec<u8>>,
    manifest: Value,
}

/// The first byte chooses a view; each six behind it are a blow: of which kind, where, and what is there from now on.
pub fn checkpoint(input: &[u8]) {
    static CASES: OnceLock<(Runtime, Vec<Case>)> = OnceLock::new();
    let (runtime, cases) = CASES.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
        let cases = runtime.block_on(cases());
        (runtime, cases)
    });
    let Some((which, blows)) = input.split_first() else { return };
    let case = &cases[usize::from(*which) % cases.len()];
    let _inside = runtime.enter();
    let blows: Vec<&[u8]> = blows.chunks(6).take(12).collect();
    let mut file = case.file.clone();
    let mut last = Vec::new();
    for blow in &blows {
        let mut bytes = [0; 6];
        bytes[..blow.len()].copy_from_slice(blow);
        strike(&mut file, bytes, &mut last);
    }
    let mut bytes = file.bytes();
    for (place, to) in last {
        let at = place % bytes.len().max(1);
        match to % 8 {
            0 => bytes.truncate(at),
            _ => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= to),
        }
    }
    let said = go_on(case, &bytes);
    if blows.is_empty() {
        assert_eq!(said.map(|said| format!("{said:?}")).as_ref(), Some(&case.says), "after a checkpoint that nobody touched");
    }
}

/// Changes a frame, or the list of frames; what is to be changed after the checksums is put into `last`.
fn strike(file: &mut File, [how, which, low, high, to, more]: [u8; 6], last: &mut Vec<(usize, u8)>) {
    const NUMBERS: [i64; 8] = [0, 1, -1, i64::MIN, i64::MAX, i32::MAX as i64, 1 << 40, 86_400_000_000_000];
    let count = file.frames.len();
    let place = usize::from(u16::from_le_bytes([low, high]));
    let number = NUMBERS[usize::from(to % 8)].wrapping_add(i64::from(more as i8));
    let frame = &mut file.frames[usize::from(which) % count];
    let at = place % frame.len().max(1);
    match how % 8 {
        0 => frame[at..].iter_mut().take(1).for_each(|byte| *byte = to),
        1 => frame[at..].iter_mut().zip((number as i32).to_le_bytes()).for_each(|(byte, to)| *byte = to),
        2 => {
            let aligned = at & !7;
            frame[aligned..].iter_mut().zip(number.to_le_bytes()).for_each(|(byte, to)| *byte = to);
        }
        3 => frame.truncate(at),
        4 => {
            let other = file.frames[usize::from(to) % count].clone();
            file.frames[usize::from(which) % count] = other;
        }
        5 => {
            let frames = file.manifest["parts"][0]["frames"].as_array_mut().expect("a list");
            let there = frames.len();
            match to % 3 {
                0 if there > 1 => drop(frames.remove(usize::from(which) % there)),
                1 => frames.push(frames[usize::from(which) % there].clone()),
                _ => frames.swap(0, usize::from(which) % there),
            }
        }
        6 => {
            let mut text = file.manifest.to_string().into_bytes();
            let at = place % text.len();
            text[at] = to;
            if let Ok(manifest @ Value::Object(_)) = serde_json::from_slice::<Value>(&text)
                && manifest["parts"][0]["frames"].as_array().is_some_and(|frames| !frames.is_empty())
            {
                file.manifest = manifest;
            }
        }
        _ => last.push((place, to)),
    }
}

/// Where each frame is said to lie.
fn places(manifest: &mut Value) -> impl Iterator<Item = &mut Value> {
    let parts = manifest["parts"].as_array_mut().into_iter().flatten();
    let frames = parts.filter_map(|part| part.get_mut("frames")?.as_array_mut()).flatten();
    frames.filter_map(|frame| frame.get_mut("place"))
}

impl File {
    /// The parts of a file of one checkpoint, which stands by itself.
    fn of(bytes: &[u8]) -> Self {
        let footer = bytes.len() - 20;
        let length = u64::from_le_bytes(bytes[footer..footer + 8].try_into().expect("eight bytes")) as usize;
        let mut manifest: Value = serde_json::from_slice(&bytes[footer - length..footer]).expect("a list of frames");
        let mut frames = Vec::new();
        for place in places(&mut manifest) {
            let [offset, length] = ["offset", "length"].map(|name| place[name].as_u64().expect("a number") as usize);
            *place = frames.len().into();
            frames.push(bytes[offset..offset + length].to_vec());
        }
        File { header: bytes[..16].to_vec(), frames, manifest }
    }

    /// The file with checksums that are right.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        let mut manifest = self.manifest.clone();
        for place in places(&mut manifest) {
            let content = &self.frames[place.as_u64().unwrap_or(0) as usize % self.frames.len()];
            *place = json!({"file": 1, "offset": bytes.len(), "length": content.len(), "checksum": crc32fast::hash(content)});
            bytes.extend(content);
        }
        let manifest = manifest.to_string().into_bytes();
        let length = (manifest.len() as u64).to_le_bytes();
        let sum = crc32fast::hash(&[&manifest[..], &length[..]].concat());
        for piece in [&manifest[..], &length, &sum.to_le_bytes(), b"\r\nSGCEND"] {
            bytes.extend(piece);
        }
        bytes
    }
}

/// Reads a checkpoint as a server does at its start; `None` where it is refused. What it gives then must take everything that follows.
fn go_on(case: &Case, bytes: &[u8]) -> Option<Vec<Message>> {
    let (dir, file) = place();
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(file.parent().expect("a directory")).expect("a directory for one checkpoint");
    fs::write(&file, bytes).expect("room for one checkpoint");
    let Opened { loaded, damaged, .. } = Archive::open(&dir).ok()?;
    assert_eq!(loaded.is_none(), !damaged.is_empty());
    let parts = loaded?.parts;
    let continuous = continuous(&case.plan);
    let mut said = Some(Vec::new());
    for StatePart { frames, name, .. } in parts {
        if name.starts_with("table/") {
            let is_place = case.table.resume_at(frames.clone());
            case.table.begin_after(frames);
            said = said.filter(|_| is_place.is_ok());
            continue;
        }
        let live = live(continuous);
        let mut chain = continuous.plan().instance().expect("the plan runs").chain;
        live.load(None, frames.clone()).ok()?;
        chain.load(frames.into_iter().filter(|frame| !frame.name.starts_with("live")).collect()).ok()?;
        let _ = live.snapshot();
        let mut out = Vec::new();
        let pushed = case.rest.iter().try_for_each(|(source, message)| chain.push(*source, message.clone(), &mut out));
        let _ = (chain.report(), chain.bytes());
        if pushed.is_err() || chain.save(Cut { epoch: 2, written: None }).is_err() {
            return None;
        }
        for message in &out {
            if let Message::Changes(changes) = message {
                live.publish(changes.clone(), Timestamp(0)).ok()?;
            }
        }
        let _ = live.snapshot();
        if let Some(said) = &mut said {
            said.extend(out);
        }
    }
    said
}

/// A directory of this process alone, and the checkpoint in it.
fn place() -> (PathBuf, PathBuf) {
    let dir = std::env::temp_dir().join(format!("streamgauge-fuzz-{}", std::process::id()));
    let file = dir.join("checkpoints/0000000001.ckpt");
    (dir, file)
}

fn continuous(plan: &Arc<dyn ExecutionPlan>) -> &ContinuousExec {
    (plan.as_ref() as &dyn std::any::Any).downcast_ref().expect("a query over feeds")
}

fn live(continuous: &ContinuousExec) -> Live {
    let (plan, schema) = (continuous.plan(), continuous.schema());
    let rows = match plan.is_changelog() {
        true => Rows::standing(&schema, Some(100)).expect("rows that can be told apart"),
        false => Rows::appended(100),
    };
    Live::new("v", schema, plan.is_changelog(), rows)
}

async fn cases() -> Vec<Case> {
    let engine = Engine::new().expect("an engine");
    let mut cases = Vec::new();
    for statement in parse(TABLES).0 {
        engine.execute(&statement).await.map(drop).expect("a table");
    }
    for query in CASES {
        let Ok(Answer::Query(query)) = engine.execute(&parse(query).0[0]).await else { panic!("no query: {query}") };
        let plan = Arc::clone(&query.plan);
        let instance = continuous(&plan).plan().instance().expect("the plan runs");
        let mut chain = instance.chain;
        let table = Arc::clone(&instance.sources[0].0);
        let mut feed: Vec<(usize, Message)> = Vec::new();
        for batch in 0..6 {
            for (source, (table, projection)) in instance.sources.iter().enumerate() {
                feed.push((source, batch_of(&table.spec(), projection, batch)));
                feed.push((source, Message::Watermark(Watermark::at(Timestamp((batch * 8 - 5) * 1_000_000_000)))));
            }
        }
        let rest = feed.split_off(feed.len() / 2);
        let (live, mut out) = (live(continuous(&plan)), Vec::new());
        for (source, message) in feed {
            chain.push(source, message, &mut out).expect("a good message");
        }
        for message in out {
            if let Message::Changes(changes) = message {
                live.publish(changes, Timestamp(7)).expect("good changes");
            }
        }
        let (gathering, mut given) = Gathering::new(Barrier { epoch: 1, last: true }, None);
        live.enter(Health::Ended);
        live.take_last_part(&gathering, "f");
        drop(gathering);
        let told = given.recv().await.and_then(|given| given.part.ok()).expect("what the view has said");
        let mut frames = chain.save(Cut { epoch: 1, written: None }).expect("a state");
        frames.extend(told.frames);
        let parts = vec![
            StatePart { name: "view/v".into(), fingerprint: "f".into(), frames },
            StatePart { name: table.part_name(), fingerprint: table.fingerprint(), frames: place_of(&table) },
        ];
        let mut said = Vec::new();
        for (source, message) in &rest {
            chain.push(*source, message.clone(), &mut said).expect("a good message");
        }
        cases.push(Case { plan, table, file: written(parts), rest, says: format!("{said:?}") });
    }
    cases
}

/// The file that an archive makes of these parts.
fn written(parts: Vec<StatePart>) -> File {
    let (dir, file) = place();
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a directory for one checkpoint");
    let mut archive = Archive::open(&dir).expect("an empty archive").archive;
    archive.write(1, parts).expect("room for one checkpoint");
    let file = File::of(&fs::read(file).expect("what was written"));
    fs::remove_dir_all(&dir).expect("nobody holds it");
    file
}

/// Where a table's feed is.
fn place_of(table: &Table) -> Vec<Frame> {
    let number = |number: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![number])) };
    let count = |count: u64| -> ArrayRef { Arc::new(UInt64Array::from(vec![count])) };
    let place: [(&str, ArrayRef); 8] = [
        ("last_id", Arc::new(StringArray::from(vec!["17"]))),
        ("last_at", number(5)),
        ("counted", count(17)),
        ("steps", count(3)),
        ("arrival", number(5)),
        ("by_rows", number(5)),
        ("watermark", number(5)),
        ("has_watermark", Arc::new(BooleanArray::from(vec![true]))),
    ];
    let seen = [("id", count(4)), ("content", count(5))];
    let frame = |name: &str, rows: RecordBatch| Frame { name: name.into(), content: FrameContent::Rows(rows) };
    let frames = vec![frame("place", rows(place, 1).expect("columns")), frame("seen", rows(seen, 1).expect("columns"))];
    assert_eq!(table.resume_at(frames.clone()), Ok(true), "the place of a table is written in another way now");
    frames
}

/// Rows of a table as its feed would give them.
fn batch_of(spec: &TableSpec, projection: &[usize], batch: i64) -> Message {
    let decoded: Vec<usize> = projection
        .iter()
        .map(|index| match &spec.columns[*index] {
            ColumnSource::Decoded(at) => *at,
            ColumnSource::Generated(_) => unreachable!("no column is computed"),
        })
        .collect();
    let mut decoder = Decoder::new(&spec.format, &decoded).expect("columns of the table");
    for row in 0..5 {
        let second = batch * 8 + row;
        let host = ["a", "b", "a host whose name is too long for a view"][row as usize % 3];
        let data = json!({
            "host": host, "value": second as f64 / 3.0, "n": second % 4,
            "at": Timestamp(second * 1_000_000_000).to_string(), "id": second % 7, "name": format!("gauge {second}"),
        });
        let received = Timestamp(second * 1_000_000_000);
        let input = RawEvent { kind: "message", data: &data.to_string(), id: "", received };
        decoder.push(input, &mut |bad| panic!("{bad:?}"));
    }
    let (rows, times) = decoder.take().expect("good rows");
    let columns = Arc::new(spec.schema.project(projection).expect("columns of the table"));
    Message::Changes(Changes::inserts(rows.with_schema(columns).expect("the same columns"), times))
}
