//! `streamgauge run` and `check`: scripts against an engine, and what comes out of them in print.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::sync::Arc;

use super::args::{self, Exit, Format};
use super::output_checkpoints::{OutputCheckpoints, StateDirectory};
use super::present::{EndConditions, present, print};
use super::print::Printer;
use super::script::{Outcome, Script};
use super::sink::Sink;
use crate::change::Changes;
use crate::engine::{Answer, Engine, Printed, Query, memory_max_default};
use crate::error::{Code, Error, Result};
use crate::time::TimestampArray;

/// Runs scripts; the rows of their queries, or of their topmost views, are printed.
pub async fn run(args: &args::RunArgs, interrupted: impl Future<Output = ()>) -> Result<Exit> {
    let mut scripts = args.files.iter().map(Script::read).collect::<Result<Vec<_>>>()?;
    scripts.extend(args.command.iter().map(|text| Script::new("-c", text.clone())));
    let engine = Arc::new(Engine::within(memory_max_default())?);
    let is_shown = args.output.is_none() && args.state.is_none() && stdout().is_terminal();
    let format = match &args.output {
        Some(path) => Format::of_file(path, args.format)?,
        None => args.format.unwrap_or(if is_shown { Format::Table } else { Format::Ndjson }),
    };
    if args.state.is_some() && !matches!(format, Format::Ndjson | Format::Csv) {
        return Err(Error::new(
            Code::BadOption,
            "with --state rows are written over several runs, which this format cannot be cut into",
        )
        .hint("give --format ndjson or csv"));
    }
    let mut outcome = Outcome::default();
    let mut answers = Vec::new();
    for script in &scripts {
        outcome.run(&engine, script, &mut |answer| answers.push(answer)).await;
    }
    if outcome.errors > 0 {
        return Ok(Exit::Wrong);
    }
    let ends = EndConditions { limit: args.limit, timeout: args.timeout };
    let asked = !answers.iter().all(|answer| matches!(answer, Answer::Done(_)));
    if let Some(dir) = &args.state {
        if asked || !outcome.queries.is_empty() {
            return Err(Error::new(
                Code::BadOption,
                "with --state only views are printed, whose state can be kept by their names",
            )
            .hint("make it a view: CREATE VIEW name AS SELECT …"));
        }
        answers.into_iter().for_each(|answer| {
            if let Answer::Done(notes) = answer {
                tell(&notes)
            }
        });
        return keep(args, dir, engine, format, ends, interrupted).await;
    }
    let mut sink = args.output.as_deref().map_or_else(|| Ok(Sink::stdout()), |path| Sink::create(path, args.force))?;
    for answer in answers {
        match answer {
            Answer::Done(notes) => tell(&notes),
            Answer::Rows(rows) => {
                let times = TimestampArray::from_value(0, rows.num_rows());
                let mut printer = Printer::rows(&mut sink, format, rows.schema_ref(), engine.zone());
                printer.print(0, &Changes::inserts(rows, times), u64::MAX)?;
                printer.finish()?;
            }
            // Views are not kept running here.
            Answer::Query(_) | Answer::Follow(_) => {}
        }
    }
    outcome.queries.iter().for_each(|query| tell(query.notices()));
    if !outcome.queries.is_empty() {
        tell(never_begun(&outcome.queries, ends).as_slice());
        tokio::pin!(interrupted);
        for query in outcome.queries {
            let exit = present(&engine, &[query], format, &mut sink, ends, interrupted.as_mut()).await?;
            if exit != Exit::Done {
                return Ok(exit);
            }
        }
        return Ok(Exit::Done);
    }
    let views = engine.top_views().await?;
    match views.is_empty() {
        true if asked => Ok(Exit::Done),
        true => {
            tell(&[NOTHING.into()]);
            Ok(Exit::Done)
        }
        false => present(&engine, &views, format, &mut sink, ends, interrupted).await,
    }
}

const NOTHING: &str = "there is nothing to print: the script has no SELECT and no view";

/// That queries wait behind one without an end, where they do.
fn never_begun(queries: &[Query], ends: EndConditions) -> Option<String> {
    let is_endless = |query: &Query| query.continuous().is_some_and(|continuous| !continuous.plan().is_finite());
    let (_, before) = queries.split_last()?;
    let index = before.iter().position(is_endless).filter(|_| ends.limit.is_none() && ends.timeout.is_none())?;
    Some(format!(
        "SELECT {} of {} has no end, and those after it wait for it; views are printed together: CREATE VIEW … AS …",
        index + 1,
        queries.len()
    ))
}

fn tell(notes: &[String]) {
    notes.iter().for_each(|note| eprintln!("note: {note}"));
}

/// Prints the topmost views from where the state in `dir` has left them.
async fn keep(
    args: &args::RunArgs,
    dir: &Path,
    engine: Arc<Engine>,
    format: Format,
    ends: EndConditions,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit> {
    if engine.view_count() == 0 {
        tell(&[NOTHING.into()]);
        return Ok(Exit::Done);
    }
    let StateDirectory { archive, mut sink, loaded, notes } =
        StateDirectory::open(dir, args.output.as_deref(), args.force, format)?;
    tell(&notes);
    if let Some(loaded) = loaded {
        engine.resume(loaded.epoch, loaded.parts);
    }
    if ends.limit == Some(0) {
        return Ok(Exit::Done);
    }
    let Printed { outputs, barriers, notices } = engine.print().await?;
    tell(&notices);
    let mut printer = Printer::of(&mut sink, format, &outputs, engine.zone())?;
    if args.output.is_some() {
        printer.resume()?;
    }
    if barriers.has_ended() {
        tell(&["all feeds had ended: there is nothing more to print".into()]);
        return Ok(Exit::Done);
    }
    if let Some(view) = barriers.hindered_by() {
        tell(&[format!(
            "view {view} reads a feed that ends: its state is kept once that has ended, and no checkpoint is taken before"
        )]);
    }
    let keeper = OutputCheckpoints::new(Arc::clone(&engine), archive, barriers, format, args.checkpoint_interval);
    print(outputs, engine.tables(), printer, Some(keeper), ends, interrupted).await
}

/// Everything but connecting: all errors of all scripts.
pub async fn check(args: &args::CheckArgs) -> Result<Exit> {
    let engine = Engine::new()?;
    let mut outcome = Outcome::default();
    for input in &args.files {
        let script = Script::read(input)?;
        let mut notes = Vec::new();
        outcome
            .run(&engine, &script, &mut |answer| {
                if let Answer::Done(told) = answer {
                    notes.extend(told);
                }
            })
            .await;
        notes.extend(outcome.queries.drain(..).flat_map(|query| query.notices().to_vec()));
        notes.iter().for_each(|note| eprintln!("note: {}: {note}", script.name));
    }
    for table in &engine.tables() {
        for name in table.spec().feed.unset_variables() {
            eprintln!("note: table {}: the variable {name} is not set; connecting will fail until it is", table.spec().name);
        }
    }
    match outcome.errors {
        0 => {
            let (tables, views) = (engine.tables().len(), engine.view_count());
            eprintln!("no errors; {}, {}", number(tables, "table"), number(views, "view"));
            Ok(Exit::Done)
        }
        count => {
            eprintln!("{}", number(count, "error"));
            Ok(Exit::Wrong)
        }
    }
}

fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn queries_behind_one_without_an_end_are_told_to_wait() {
        let engine = Engine::new().unwrap();
        let text = "CREATE TABLE endless (a TEXT) WITH (connector = 'sse', url = 'http://127.0.0.1:1/');
            CREATE TABLE file (a TEXT) WITH (connector = 'file', path = 'fixtures/news.ndjson');";
        let told = async |selects: &str, ends: EndConditions| {
            let mut outcome = Outcome::default();
            let text = if engine.tables().is_empty() { format!("{text}{selects}") } else { selects.into() };
            outcome.run(&engine, &Script::new("-c", text), &mut |_| {}).await;
            assert_eq!(outcome.errors, 0, "{selects}");
            never_begun(&outcome.queries, ends).map(|note| note.split(" has").next().unwrap_or_default().to_string())
        };
        for (selects, expect) in [
            ("SELECT * FROM endless", None),
            ("SELECT * FROM file; SELECT 1; SELECT * FROM endless", None),
            ("SELECT * FROM endless LIMIT 3; SELECT * FROM endless", None),
            ("SELECT * FROM file; SELECT * FROM endless; SELECT 1", Some("SELECT 2 of 3")),
        ] {
            assert_eq!(told(selects, EndConditions::default()).await.as_deref(), expect, "{selects}");
        }
        let twice = "SELECT * FROM endless; SELECT * FROM endless";
        for ends in [
            EndConditions { limit: Some(1), timeout: None },
            EndConditions { limit: None, timeout: Some(Duration::from_secs(1)) },
        ] {
            assert_eq!(told(twice, ends).await, None);
        }
    }
}
