//! `streamgauge help`: the verbs, one of them, or a page of the documentation.

use clap::CommandFactory;

use super::args::{Args, Exit};
use super::sink::Sink;
use crate::docs::{PAGES, page};
use crate::error::{Code, Error, Result, nearest};

/// Prints what is asked for: the help of a verb, a page, or without a topic all there is.
pub fn run(topic: Option<&str>) -> Result<Exit> {
    let mut command = Args::command();
    command.build();
    let Some(topic) = topic else {
        print(&command.render_long_help().to_string())?;
        return Ok(Exit::Done);
    };
    if let Some(verb) = command.find_subcommand_mut(topic) {
        print(&verb.render_long_help().to_string())?;
        return Ok(Exit::Done);
    }
    if let Some(page) = page(topic) {
        print(page.text)?;
        return Ok(Exit::Done);
    }
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(|verb| verb.get_name());
    let known: Vec<&str> = verbs.chain(PAGES.iter().map(|page| page.name)).collect();
    let error = Error::new(Code::BadOption, format!("there is no help on '{topic}'"));
    Err(match nearest(topic, known.iter().copied()) {
        Some(name) => error.hint(format!("did you mean '{name}'?")),
        None => error.hint(format!("there is on {}", known.join(", "))),
    })
}

fn print(text: &str) -> Result<()> {
    Sink::stdout().write(text.as_bytes())
}

/// What `--help` says of the pages.
pub fn topics() -> String {
    let lines = PAGES.iter().map(|page| format!("  {:<12} {}", page.name, page.summary()));
    format!("Topics of `streamgauge help TOPIC`:\n{}", lines.collect::<Vec<_>>().join("\n"))
}
