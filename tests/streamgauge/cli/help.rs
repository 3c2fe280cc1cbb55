//! The help texts, as a user sees them.

use clap::CommandFactory;
use streamgauge::cli::args::Args;
use streamgauge::docs::PAGES;

use super::program::run;

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

#[tokio::test]
async fn help_prints_every_page_and_the_help_of_every_verb() {
    for page in PAGES {
        assert_eq!(run(&["help", page.name]).await, (0, page.text.to_string(), String::new()), "{}", page.name);
    }
    let (code, text, _) = run(&["help", "replay"]).await;
    assert!(code == 0 && text.contains("Usage: streamgauge replay"), "{text}");
    let (code, text, _) = run(&["help"]).await;
    assert!(code == 0 && text.contains("Topics of `streamgauge help TOPIC`"), "{text}");
    let (code, text, said) = run(&["help", "setings"]).await;
    assert_eq!((code, text.as_str()), (2, ""));
    assert!(said.contains("there is no help on 'setings'") && said.contains("did you mean 'settings'?"), "{said}");
}
