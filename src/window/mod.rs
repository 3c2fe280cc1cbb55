//! Which windows a time is in: pure arithmetic, aligned to the Unix epoch, half open.
//!
//! All times and lengths are nanoseconds. Nothing here overflows: a time whose windows would reach past the ends of the range
//! (the years 1677 and 2262) has no place, and the callers report its row.

mod kind;

use std::fmt;
use std::time::Duration;

pub use kind::WindowKind;

use crate::error::{Code, Error, Result};

/// The kind and the lengths of a window. Every value is one that has a meaning: lengths are positive and fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// `TUMBLE` and `HOP`: the same windows for every key.
    Grid(Grid),
    /// `SESSION`: windows that each key's own rows make.
    Session(Gap),
}

/// A window `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    pub start: i64,
    pub end: i64,
}

impl Shape {
    /// Windows side by side, each `width` long.
    pub fn tumble(width: i64) -> Result<Shape> {
        positive("TUMBLE", "width", width)?;
        Ok(Shape::Grid(Grid { slide: width, width }))
    }

    /// Windows `width` long that start every `slide`; the width is a multiple of the slide.
    pub fn hop(slide: i64, width: i64) -> Result<Shape> {
        positive("HOP", "slide", slide)?;
        positive("HOP", "width", width)?;
        let (slide_text, width_text) = (length(slide), length(width));
        if slide > width {
            let problem =
                format!("HOP with a slide of {slide_text} and a width of {width_text} leaves events between its windows");
            let hint = format!("the slide comes first: did you mean HOP({width_text}, {slide_text})?");
            return Err(Error::new(Code::Window, problem).hint(hint));
        }
        if width % slide != 0 {
            let below = width - width % slide;
            let near = match below.checked_add(slide) {
                Some(above) => format!("{} or {}", length(below), length(above)),
                None => length(below),
            };
            let problem = format!("HOP with a width of {width_text} is no multiple of its slide of {slide_text}");
            let hint = format!("make the width {near}, or the slide {}", length(gcd(slide, width)));
            return Err(Error::new(Code::Window, problem).hint(hint));
        }
        Ok(Shape::Grid(Grid { slide, width }))
    }

    /// Windows that end once a key has been silent for `gap`.
    pub fn session(gap: i64) -> Result<Shape> {
        positive("SESSION", "gap", gap)?;
        Ok(Shape::Session(Gap(gap)))
    }
}

/// Windows of one width that start at every multiple of the slide.
///
/// A *pane* is `[start, start + slide)`, the stretch between two starts: all its times are in the same windows, and each window
/// is a whole number of panes. `TUMBLE` is the grid whose windows are one pane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    slide: i64,
    width: i64,
}

impl Grid {
    pub fn slide(self) -> i64 {
        self.slide
    }

    pub fn width(self) -> i64 {
        self.width
    }

    /// Panes in a window, which is also the number of windows a time is in.
    pub fn panes(self) -> i64 {
        self.width / self.slide
    }

    /// The start of the pane `time` is in; `None` if one of its windows would reach past the ends of time.
    pub fn pane_of(self, time: i64) -> Option<i64> {
        let pane = time.checked_sub(time.rem_euclid(self.slide))?;
        pane.checked_sub(self.width - self.slide)?;
        pane.checked_add(self.width)?;
        Some(pane)
    }

    /// The ends of the windows of `pane`, the earliest first.
    pub fn ends_of(self, pane: i64) -> impl Iterator<Item = i64> {
        (1..=self.panes()).map(move |n| pane + self.slide * n)
    }

    /// The earliest end of a window of `pane` that lies after `time`, if there is one.
    pub fn next_end(self, pane: i64, time: i64) -> Option<i64> {
        let first = pane + self.slide;
        let last = pane + self.width;
        if time < first {
            return Some(first);
        }
        // `first <= time < last`, so both the floor and the step up stay in range.
        (time < last).then(|| time - time.rem_euclid(self.slide) + self.slide)
    }
}

/// The silence that ends a session.
///
/// A row at `t` claims `[t, t + gap)`. Rows of one key whose claims overlap are in one session, so rows less than a gap apart; a
/// row exactly a gap after the last one starts the next session. The session's window is the union of its rows' claims. With
/// that rule a watermark at the end of a session settles it, in whatever order its rows came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gap(i64);

impl Gap {
    pub fn nanos(self) -> i64 {
        self.0
    }

    /// The window a row at `time` claims; `None` if it would reach past the end of time.
    pub fn claim(self, time: i64) -> Option<Window> {
        Some(Window { start: time, end: time.checked_add(self.0)? })
    }
}

impl Window {
    pub fn overlaps(self, other: Window) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The smallest window around both.
    pub fn union(self, other: Window) -> Window {
        Window { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// As in SQL, lengths in short: `TUMBLE(10s)`, `HOP(1s, 1m)`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Grid(Grid { slide, width }) if slide == width => write!(f, "TUMBLE({})", length(*width)),
            Shape::Grid(Grid { slide, width }) => write!(f, "HOP({}, {})", length(*slide), length(*width)),
            Shape::Session(Gap(gap)) => write!(f, "SESSION({})", length(*gap)),
        }
    }
}

/// A length as people write it: `1h30m`.
pub fn length(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let text = humantime::format_duration(Duration::from_nanos(nanos.unsigned_abs())).to_string();
    format!("{sign}{}", text.replace(' ', ""))
}

fn positive(window: &str, what: &str, nanos: i64) -> Result<()> {
    if nanos > 0 {
        return Ok(());
    }
    let problem = format!("{window} with a {what} of {} holds no time", length(nanos));
    Err(Error::new(Code::Window, problem).hint(format!("give a positive {what}, such as INTERVAL '10 seconds'")))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(slide: i64, width: i64) -> Grid {
        match Shape::hop(slide, width).unwrap() {
            Shape::Grid(grid) => grid,
            Shape::Session(_) => unreachable!("HOP is a grid"),
        }
    }

    fn windows(grid: Grid, time: i64) -> Vec<(i64, i64)> {
        let pane = grid.pane_of(time).into_iter();
        pane.flat_map(|pane| grid.ends_of(pane)).map(|end| (end - grid.width(), end)).collect()
    }

    #[test]
    fn a_time_is_in_every_window_around_it_and_an_end_is_outside() {
        for (slide, width, time, expect) in [
            (10, 10, 0, vec![(0, 10)]),
            (10, 10, 9, vec![(0, 10)]),
            (10, 10, 10, vec![(10, 20)]),
            (10, 10, -1, vec![(-10, 0)]),
            (10, 10, -10, vec![(-10, 0)]),
            (10, 10, -11, vec![(-20, -10)]),
            (5, 15, 7, vec![(-5, 10), (0, 15), (5, 20)]),
            (5, 15, -1, vec![(-15, 0), (-10, 5), (-5, 10)]),
        ] {
            assert_eq!(windows(grid(slide, width), time), expect, "HOP({slide}, {width}) at {time}");
        }
    }

    #[test]
    fn a_time_whose_windows_would_overflow_has_no_place() {
        let grid = grid(10, 30);
        for time in [i64::MIN, i64::MIN + 20, i64::MAX, i64::MAX - 20] {
            assert_eq!(grid.pane_of(time), None, "{time}");
            assert_eq!(windows(grid, time), []);
        }
        assert!(grid.pane_of(i64::MIN + 40).is_some() && grid.pane_of(i64::MAX - 40).is_some());
        let Shape::Session(gap) = Shape::session(10).unwrap() else { unreachable!("SESSION is a session") };
        assert_eq!(gap.claim(i64::MAX - 9), None);
        assert_eq!(gap.claim(i64::MAX - 10), Some(Window { start: i64::MAX - 10, end: i64::MAX }));
    }

    /// Against numbers that have room for everything.
    #[test]
    fn windows_at_all_times_are_those_of_the_floor() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let most = [1, 10, 1 << 20, 1 << 40][random.usize(0..4)];
            let slide = random.i64(1..=most);
            let grid = grid(slide, slide * random.i64(1..=6));
            let edge = [i64::MIN, -86_400_000_000_000, 0, i64::MAX][random.usize(0..4)];
            let time = edge.saturating_add(random.i64(-20..=20).saturating_mul(random.i64(1..=slide)));
            let (wide_slide, wide_width) = (i128::from(slide), i128::from(grid.width()));
            let pane = i128::from(time).div_euclid(wide_slide) * wide_slide;
            let ends: Vec<i128> = (1..=grid.panes()).map(|n| pane + wide_slide * i128::from(n)).collect();
            let fits = |at: i128| i64::try_from(at).is_ok();
            let is_in_range = fits(ends[0] - wide_width) && ends.iter().all(|end| fits(*end));
            assert_eq!(grid.pane_of(time).is_some(), is_in_range, "HOP({slide}, {}) at {time}", grid.width());
            let Some(start) = grid.pane_of(time) else { continue };
            assert_eq!(grid.ends_of(start).map(i128::from).collect::<Vec<_>>(), ends);
            for (end, window) in ends.iter().zip(windows(grid, time)) {
                assert!(window.0 <= time && time < window.1 && i128::from(window.1) == *end);
            }
            let asked = edge.saturating_add(random.i64(-30..=30).saturating_mul(slide));
            let next = ends.iter().copied().find(|end| *end > i128::from(asked));
            assert_eq!(
                grid.next_end(start, asked).map(i128::from),
                next,
                "HOP({slide}, {}) of {start} after {asked}",
                grid.width()
            );
        }
    }

    #[test]
    fn the_next_end_is_the_first_after_a_time() {
        let grid = grid(5, 15);
        for (pane, time, expect) in
            [(0, i64::MIN, Some(5)), (0, 4, Some(5)), (0, 5, Some(10)), (0, 14, Some(15)), (0, 15, None), (-10, -3, Some(0))]
        {
            assert_eq!(grid.next_end(pane, time), expect, "pane {pane} after {time}");
        }
    }

    #[test]
    fn lengths_that_have_no_meaning_are_refused_with_a_way_out() {
        let second = 1_000_000_000;
        for (shape, expect) in [
            (Shape::tumble(0), "TUMBLE with a width of 0s holds no time; give a positive width, such as INTERVAL '10 seconds'"),
            (
                Shape::session(-second),
                "SESSION with a gap of -1s holds no time; give a positive gap, such as INTERVAL '10 seconds'",
            ),
            (
                Shape::hop(7 * second, 60 * second),
                "HOP with a width of 1m is no multiple of its slide of 7s; make the width 56s or 1m3s, or the slide 1s",
            ),
            (
                Shape::hop(60 * second, 10 * second),
                "HOP with a slide of 1m and a width of 10s leaves events between its windows; \
                 the slide comes first: did you mean HOP(10s, 1m)?",
            ),
        ] {
            assert_eq!(shape.unwrap_err().to_string(), expect);
        }
    }

    #[test]
    fn shapes_print_as_they_are_written() {
        let second = 1_000_000_000;
        for (shape, expect) in [
            (Shape::tumble(10 * second), "TUMBLE(10s)"),
            (Shape::hop(second, 60 * second), "HOP(1s, 1m)"),
            (Shape::session(90 * second), "SESSION(1m30s)"),
        ] {
            assert_eq!(shape.unwrap().to_string(), expect);
        }
    }
}
