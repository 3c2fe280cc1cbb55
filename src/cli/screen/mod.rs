//! The live screen of `demo` on a terminal: what the feeds do, and the newest rows of each view.
//!
//! [`Model`] is what is shown, [`draw`] shows it; neither knows a terminal. [`Terminal`] is one.

mod cells;
mod draw;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::change::Changes;
use crate::error::Result;
use crate::time::{Timestamp, Watermark};
use cells::Cells;

pub use draw::draw;

/// Rows kept of each view: more than the highest terminal shows.
const ROWS_MAX: usize = 200;

/// What the screen shows.
#[derive(Debug, Default)]
pub struct Model {
    /// The wall clock, from which lags are counted.
    pub now: Option<Timestamp>,
    pub feeds: Vec<FeedLine>,
    pub views: Vec<ViewPane>,
}

/// What a feed does.
#[derive(Debug, Clone, Default)]
pub struct FeedLine {
    pub name: String,
    /// As people say it: `connected`, `backing off`.
    pub state: String,
    /// Events a second.
    pub rate: f64,
    pub events: u64,
    pub reconnects: u64,
    pub watermark: Option<Watermark>,
    /// Events dropped for their size.
    pub dropped: u64,
    /// Rows too late for their window.
    pub late: u64,
    /// Events that could not be read.
    pub bad: u64,
}

/// The newest rows of a view.
#[derive(Debug)]
pub struct ViewPane {
    pub name: String,
    /// The watermark that lets the next result out.
    pub next_close: Option<Timestamp>,
    /// Why there is nothing to see.
    pub silent: Option<String>,
    columns: Vec<Heading>,
    /// The newest first.
    rows: VecDeque<Row>,
}

#[derive(Debug)]
struct Heading {
    name: String,
    numeric: bool,
}

/// A row as text; numbers are kept for the bars.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    cells: Vec<String>,
    numbers: Vec<Option<f64>>,
}

impl ViewPane {
    pub fn new(name: impl Into<String>, schema: &SchemaRef) -> Self {
        let heading = |field: &Arc<arrow::datatypes::Field>| Heading {
            name: field.name().clone(),
            numeric: field.data_type().is_numeric(),
        };
        ViewPane {
            name: name.into(),
            next_close: None,
            silent: None,
            columns: schema.fields().iter().map(heading).collect(),
            rows: VecDeque::new(),
        }
    }

    /// Takes changes: new rows come to the top in their order, deleted ones go where they are still kept.
    pub fn apply(&mut self, changes: &Changes) -> Result<()> {
        let cells = Cells::new(&changes.rows)?;
        let mut fresh: Vec<Row> = Vec::new();
        for row in 0..changes.len() {
            let shown = cells.row(row)?;
            let weight = changes.weight(row);
            for _ in weight..0 {
                if let Some(place) = fresh.iter().position(|kept| *kept == shown) {
                    fresh.remove(place);
                } else if let Some(place) = self.rows.iter().position(|kept| *kept == shown) {
                    self.rows.remove(place);
                }
            }
            fresh.extend((0..weight.min(ROWS_MAX as i64)).map(|_| shown.clone()));
        }
        fresh.into_iter().take(ROWS_MAX).rev().for_each(|row| self.rows.push_front(row));
        self.rows.truncate(ROWS_MAX);
        Ok(())
    }
}

impl Model {
    /// Takes changes of the view `view`; of a view that is not shown, nothing.
    pub fn apply(&mut self, view: &str, changes: &Changes) -> Result<()> {
        match self.views.iter_mut().find(|pane| pane.name == view) {
            Some(pane) => pane.apply(changes),
            None => Ok(()),
        }
    }
}

/// The terminal in its screen mode, until dropped; a panic restores it as well.
pub struct Terminal {
    terminal: DefaultTerminal,
    closed: Arc<AtomicBool>,
}

/// How long the reader of keys waits before it looks whether it is still wanted.
const KEY_TURN: Duration = Duration::from_millis(100);

impl Terminal {
    /// Takes over the terminal of standard output.
    pub fn open() -> io::Result<Self> {
        Ok(Terminal { terminal: ratatui::try_init()?, closed: Arc::default() })
    }

    pub fn show(&mut self, model: &Model) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame, model)).map(drop)
    }

    /// Ready once the user leaves: `q`, Escape or Ctrl-C, which is no signal in this mode.
    pub fn left(&self) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let closed = Arc::clone(&self.closed);
        let keys = tokio::task::spawn_blocking(move || {
            while !closed.load(Relaxed) {
                if event::poll(KEY_TURN)? && leaves(&event::read()?) {
                    break;
                }
            }
            Ok(())
        });
        async { keys.await.unwrap_or_else(|error| Err(io::Error::other(error))) }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.closed.store(true, Relaxed);
        ratatui::restore();
    }
}

fn leaves(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}
