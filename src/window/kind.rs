//! The kinds of windows: one declaration for the rewriter, the planner, the error texts and EXPLAIN.

use super::Shape;
use crate::error::{Code, Error, Result};

/// A kind of window as SQL names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowKind {
    Tumble,
    Hop,
    Session,
}

impl WindowKind {
    pub const ALL: [WindowKind; 3] = [WindowKind::Tumble, WindowKind::Hop, WindowKind::Session];

    /// The kind of this name, in any case.
    pub fn named(name: &str) -> Option<WindowKind> {
        WindowKind::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// The function's name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            WindowKind::Tumble => "tumble",
            WindowKind::Hop => "hop",
            WindowKind::Session => "session",
        }
    }

    /// The name as it is written in a sentence.
    pub fn shown(self) -> String {
        self.name().to_ascii_uppercase()
    }

    /// What each of its lengths is, in order.
    pub fn lengths(self) -> &'static [&'static str] {
        match self {
            WindowKind::Tumble => &["width"],
            WindowKind::Hop => &["slide", "width"],
            WindowKind::Session => &["gap"],
        }
    }

    /// A call that is right.
    pub fn example(self) -> &'static str {
        match self {
            WindowKind::Tumble => "TUMBLE(INTERVAL '1 minute')",
            WindowKind::Hop => "HOP(INTERVAL '10 seconds', INTERVAL '1 minute')",
            WindowKind::Session => "SESSION(INTERVAL '5 minutes')",
        }
    }

    /// The window of these lengths in nanoseconds.
    pub fn shape(self, lengths: &[i64]) -> Result<Shape> {
        match (self, lengths) {
            (WindowKind::Tumble, [width]) => Shape::tumble(*width),
            (WindowKind::Hop, [slide, width]) => Shape::hop(*slide, *width),
            (WindowKind::Session, [gap]) => Shape::session(*gap),
            _ => {
                let takes = match self.lengths() {
                    [one] => format!("one length, the {one}"),
                    all => format!("two lengths, {}", all.join(" and ")),
                };
                let message = format!("{} takes {takes}, not {}", self.shown(), lengths.len());
                Err(Error::new(Code::Window, message).hint(format!("write {}", self.example())))
            }
        }
    }
}
