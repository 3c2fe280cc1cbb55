//! `streamgauge run` and `check`: scripts against an engine, and what comes out of them on standard output.

use std::io::{IsTerminal, stdout};

use super::args::{self, Exit, Format};
use super::present::{Ends, present};
use super::print::Printer;
use super::script::{Outcome, Script};
use crate::change::Changes;
use crate::engine::{Answer, Engine, Query};
use crate::error::Result;
use crate::time::TimestampArray;

/// Runs scripts; the rows of their queries, or of their topmost views, go to standard output.
pub async fn run(args: &args::Run, interrupted: impl Future<Output = ()>) -> Result<Exit> {
    let mut scripts = args.files.iter().map(Script::read).collect::<Result<Vec<_>>>()?;
    scripts.extend(args.command.iter().map(|text| Script { name: "-c".into(), text: text.clone() }));
    let engine = Engine::new()?;
    let format = args.format.unwrap_or(if stdout().is_terminal() { Format::Table } else { Format::Ndjson });
    let mut outcome = Outcome::default();
    let mut answers = Vec::new();
    for script in &scripts {
        outcome.run(&engine, script, &mut |answer| answers.push(answer)).await;
    }
    if outcome.errors > 0 {
        return Ok(Exit::Wrong);
    }
    let asked = !answers.iter().all(|answer| matches!(answer, Answer::Done(_)));
    for answer in answers {
        match answer {
            Answer::Done(notes) => notes.iter().for_each(|note| eprintln!("note: {note}")),
            Answer::Rows(rows) => {
                let times = TimestampArray::from_value(0, rows.num_rows());
                let mut printer = Printer::rows(format, rows.schema_ref());
                printer.print(0, &Changes::inserts(rows, times), u64::MAX)?;
                printer.finish()?;
            }
            // Views are not kept running here.
            Answer::Query(_) | Answer::Follow(_) => {}
        }
    }
    outcome.queries.iter().flat_map(Query::notices).for_each(|note| eprintln!("note: {note}"));
    let ends = Ends { limit: args.limit, timeout: args.timeout };
    if !outcome.queries.is_empty() {
        tokio::pin!(interrupted);
        for query in outcome.queries {
            let exit = present(&engine, &[query], format, ends, interrupted.as_mut()).await?;
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
            eprintln!("note: there is nothing to print: the script has no SELECT and no view");
            Ok(Exit::Done)
        }
        false => present(&engine, &views, format, ends, interrupted).await,
    }
}

/// Everything but connecting: all errors of all scripts.
pub async fn check(args: &args::Check) -> Result<Exit> {
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
