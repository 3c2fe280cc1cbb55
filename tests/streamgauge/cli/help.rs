//! The help texts, as a user sees them.

use clap::CommandFactory;
use streamgauge::cli::args::Args;

#[test]
fn help_of_the_program_and_of_every_verb() {
    let mut text = String::new();
    let mut command = Args::command().term_width(110).max_term_width(110);
    command.build();
    text += &command.render_help().to_string();
    for verb in command.get_subcommands_mut().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let help = verb.render_help();
        text += &format!("\n── {} ──\n{help}", verb.get_name());
    }
    insta::assert_snapshot!(text);
}
