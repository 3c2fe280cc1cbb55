//! An error as people read it: the sentence with its code, the place in the script with a caret, the way out.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::error::Error;
use crate::sql::{self, Lines};

/// Widest line that is drawn, in columns; a longer one is cut around the caret.
const WIDTH: usize = 140;

/// A script in which errors are drawn: looked through once, however many they are.
pub struct Canvas {
    /// Its secrets are covered.
    script: String,
    lines: Lines,
}

impl Canvas {
    pub fn new(script: &str) -> Canvas {
        let script = sql::covered(script);
        Canvas { lines: Lines::new(&script), script }
    }

    /// Draws an error of the script. Without a place it is only the sentence and the way out. No line break at the end.
    pub fn draw(&self, error: &Error, file: &str, color: bool) -> String {
        let id = error.code().to_string();
        let title = Level::ERROR.primary_title(error.message()).id(&id);
        let mut report = match error.span() {
            Some(span) => {
                let mut range = self.lines.range(&self.script, span);
                // A line break is nothing to point at.
                range.end = range.start + self.script[range.clone()].trim_end_matches(['\r', '\n']).len();
                let (line, shown) = self.lines.around(&range);
                let range = range.start - shown.start..range.end - shown.start;
                let snippet = Snippet::source(&self.script[shown]).line_start(line).path(file);
                title.element(snippet.annotation(AnnotationKind::Primary.span(range)))
            }
            None => title.elements(std::iter::empty::<Snippet<'_, annotate_snippets::Annotation<'_>>>()),
        };
        if let Some(hint) = error.way_out() {
            report = report.element(Level::HELP.message(hint));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.term_width(WIDTH).render(&[report])
    }
}

/// Draws one error of a script: see [`Canvas::draw`].
pub fn render(error: &Error, file: &str, script: &str, color: bool) -> String {
    Canvas::new(script).draw(error, file, color)
}

/// Shows an error that has no script, or none at hand, on standard error.
pub fn complain(error: &Error) {
    eprintln!("error[{}]: {}", error.code(), error.message());
    if let Some(hint) = error.way_out() {
        eprintln!(" help: {hint}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, LineColumn, Span};

    fn at(line: u64, from: u64, to: u64) -> Span {
        Span { start: LineColumn { line, column: from }, end: LineColumn { line, column: to } }
    }

    #[test]
    fn an_error_points_at_its_place_and_ends_with_the_way_out() {
        let script = "SELECT 'ü',\n\tsymbl FROM stocks;\n";
        let error = Error::new(Code::UnknownColumn, "column 'symbl' is not there").at(at(2, 2, 7)).hint("did you mean 'symbol'?");
        assert_eq!(
            render(&error, "stocks.sql", script, false).lines().collect::<Vec<_>>(),
            [
                "error[SG-1004]: column 'symbl' is not there",
                " --> stocks.sql:2:2",
                "  |",
                "2 |     symbl FROM stocks;",
                "  |     ^^^^^",
                "  |",
                "  = help: did you mean 'symbol'?",
            ]
        );
    }

    #[test]
    fn an_error_without_a_place_is_a_sentence() {
        let error = Error::new(Code::MissingOption, "option 'endpoint' is missing").hint("add endpoint = '…'");
        assert_eq!(
            render(&error, "stocks.sql", "", false),
            "error[SG-1203]: option 'endpoint' is missing\n |\n = help: add endpoint = '…'"
        );
    }

    #[test]
    fn a_place_at_the_end_or_outside_of_the_script_does_no_harm() {
        for span in [at(1, 9, 10), at(1, 8, 99), at(9, 1, 2), at(0, 0, 0), at(1, 3, 2)] {
            for script in ["SELECT a", "", "\n", "é\r\n"] {
                let text = render(&Error::new(Code::Syntax, "expected a name").at(span), "-", script, true);
                assert!(text.contains("expected a name"), "{text}");
            }
        }
    }

    #[test]
    fn color_is_given_only_where_asked_for() {
        let error = Error::new(Code::Syntax, "expected a name").at(at(1, 1, 2));
        assert!(!render(&error, "-", "x", false).contains('\u{1b}'));
        assert!(render(&error, "-", "x", true).contains('\u{1b}'));
    }
}
