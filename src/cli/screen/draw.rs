//! The model on a frame: a line for each feed, below it the views side by side where there is room.

use std::fmt::Write;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row as TableRow, Table};

use super::cells::time_of_day;
use super::{FeedLine, Model, ViewPane};
use crate::time::Timestamp;

/// From this width on, views stand in two columns.
const WIDE: u16 = 130;
/// Cells of a bar.
const BAR: usize = 6;
/// The widest text column; the rest of a longer text is cut.
const TEXT_MAX: u16 = 28;

/// Draws `model` on the whole frame.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let feeds = model.feeds.len() as u16 + 1;
    let [title, top, views, help] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(feeds + 1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(title_line(model), title);
    frame.render_widget(feed_table(model), top);
    for (pane, area) in model.views.iter().zip(grid(views, model.views.len())) {
        draw_view(frame, pane, area);
    }
    frame.render_widget(Line::from(" q leaves").dim(), help);
}

fn title_line(model: &Model) -> Line<'static> {
    let now = model.now.map_or_else(String::new, |now| format!("  {} UTC", time_of_day(second(now))));
    Line::from(vec![" streamgauge".bold(), now.dim()])
}

fn second(time: Timestamp) -> Timestamp {
    Timestamp(time.nanos().div_euclid(1_000_000_000).saturating_mul(1_000_000_000))
}

fn feed_table(model: &Model) -> Table<'static> {
    let header = ["feed", "state", "events/s", "events", "watermark", "behind", "reconnects", "dropped", "late", "bad"];
    let rows = model.feeds.iter().map(|feed| feed_row(feed, model.now));
    let widths = [16, 12, 9, 11, 14, 9, 11, 8, 7, 7].map(Constraint::Length);
    Table::new(rows, widths).header(TableRow::new(header.map(|name| Cell::from(format!(" {name}")))).dim())
}

fn feed_row(feed: &FeedLine, now: Option<Timestamp>) -> TableRow<'static> {
    let watermark = match feed.watermark {
        None => "–".into(),
        Some(watermark) if watermark.time == Timestamp::MAX => "the end".into(),
        Some(watermark) => format!("{}{}", time_of_day(watermark.time), if watermark.idle { " idle" } else { "" }),
    };
    let behind = match (now, feed.watermark) {
        (Some(now), Some(watermark)) if watermark.time != Timestamp::MAX && watermark.time != Timestamp::MIN => {
            lag(now.nanos().saturating_sub(watermark.time.nanos()))
        }
        _ => "–".into(),
    };
    let state = match feed.state.as_str() {
        "connected" => Color::Green,
        "failed" => Color::Red,
        "completed" => Color::Blue,
        _ => Color::Yellow,
    };
    let count = |count: u64| {
        let style = if count > 0 { Style::new().fg(Color::Red) } else { Style::new() };
        Cell::from(format!(" {count}")).style(style)
    };
    TableRow::new(vec![
        Cell::from(format!(" {}", feed.name)).bold(),
        Cell::from(format!(" {}", feed.state)).fg(state),
        Cell::from(format!(" {:.0}", feed.rate)),
        Cell::from(format!(" {}", feed.events)),
        Cell::from(format!(" {watermark}")),
        Cell::from(format!(" {behind}")),
        Cell::from(format!(" {}", feed.reconnects)),
        count(feed.dropped),
        count(feed.late),
        count(feed.bad),
    ])
}

/// `0.5 s`, or in whole larger units where tenths say nothing: `3h 20m`.
fn lag(nanos: i64) -> String {
    let lag = Duration::from_nanos(nanos.max(0) as u64);
    match lag.as_secs() {
        0..60 => format!("{:.1} s", lag.as_secs_f64()),
        seconds @ 60..86_400 => humantime::format_duration(Duration::from_secs(seconds / 60 * 60)).to_string(),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// The places of `count` views: one below the other, in two columns on a wide terminal.
fn grid(area: Rect, count: usize) -> Vec<Rect> {
    let columns = if area.width >= WIDE && count > 1 { 2 } else { 1 };
    let lines = Layout::vertical(vec![Constraint::Fill(1); count.div_ceil(columns)]).split(area);
    let mut places = Vec::with_capacity(count);
    for (line, area) in lines.iter().enumerate() {
        let here = columns.min(count - line * columns);
        places.extend(Layout::horizontal(vec![Constraint::Fill(1); here]).split(*area).iter());
    }
    places
}

fn draw_view(frame: &mut Frame<'_>, pane: &ViewPane, area: Rect) {
    let mut title = vec![Span::from(format!(" {} ", pane.name)).bold()];
    if let Some(close) = pane.next_close {
        title.push(format!("next window closes at {} ", time_of_day(close)).dim());
    }
    let block = Block::bordered().border_style(Style::new().dim()).title(Line::from(title));
    let inner = block.inner(area);
    if pane.rows.is_empty() {
        let reason = pane.silent.clone().unwrap_or_else(|| "no rows yet".into());
        frame.render_widget(Paragraph::new(format!(" {reason}")).dim().block(block), area);
        return;
    }
    // One line is the heading.
    let visible = usize::from(inner.height.saturating_sub(1));
    let rows: Vec<&super::Row> = pane.rows.iter().take(visible).collect();
    let (mut widths, mut columns) = (Vec::new(), Vec::new());
    for (index, heading) in pane.columns.iter().enumerate() {
        let longest = rows.iter().map(|row| row.cells[index].chars().count()).max().unwrap_or(0);
        let most = rows.iter().filter_map(|row| row.numbers[index]).filter(|number| number.is_finite()).fold(0.0, f64::max);
        let bar = if heading.numeric { 1 + BAR } else { 0 };
        let width = (longest + bar).max(heading.name.chars().count()) as u16;
        widths.push(Constraint::Length(width.min(TEXT_MAX.max(longest as u16 * u16::from(heading.numeric) + bar as u16))));
        columns.push((heading.numeric, longest, most));
    }
    let cells = rows.iter().enumerate().map(|(place, row)| {
        let cells = columns.iter().enumerate().map(|(index, (numeric, longest, most))| match numeric {
            false => Cell::from(row.cells[index].clone()),
            true => {
                let number = format!("{:>longest$} ", row.cells[index]);
                Cell::from(Line::from(vec![Span::from(number), Span::from(bar(row.numbers[index], *most)).fg(Color::Cyan)]))
            }
        });
        let style = if place == 0 { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
        TableRow::new(cells).style(style)
    });
    let header = TableRow::new(pane.columns.iter().map(|heading| heading.name.clone())).dim();
    frame.render_widget(Table::new(cells, widths).column_spacing(2).header(header).block(block), area);
}

/// A bar as long as `number` is a part of `most`, in eighths of a cell; empty for what is no part of it.
fn bar(number: Option<f64>, most: f64) -> String {
    let part = number.filter(|number| *number > 0.0 && most > 0.0).map_or(0.0, |number| (number / most).min(1.0));
    let eighths = (part * (BAR * 8) as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if let Some(rest) = [None, Some('▏'), Some('▎'), Some('▍'), Some('▌'), Some('▋'), Some('▊'), Some('▉')][eighths % 8]
    {
        bar.push(rest);
    }
    let _ = write!(bar, "{}", " ".repeat(BAR - bar.chars().count()));
    bar
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, StructArray};
    use arrow::datatypes::Field;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::change::Changes;
    use crate::time::{TimestampArray, Watermark};

    const NOON: i64 = 1_772_366_400_000_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(NOON + seconds * 1_000_000_000)
    }

    /// Rows of (host, mean, events) for the ten seconds up to `end`.
    fn changes(rows: &[(&str, Option<f64>, i64)], weights: Option<Vec<i64>>, end: i64) -> Changes {
        let times = |second: i64| Arc::new(TimestampArray::from(vec![at(second).nanos(); rows.len()])) as ArrayRef;
        let kind = times(0).data_type().clone();
        let window: ArrayRef = Arc::new(StructArray::from(vec![
            (Arc::new(Field::new("start", kind.clone(), false)), times(end - 10)),
            (Arc::new(Field::new("end", kind, false)), times(end)),
        ]));
        let batch = RecordBatch::try_from_iter([
            ("host", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef),
            ("avg_cpu", Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.1))) as ArrayRef),
            ("events", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))) as ArrayRef),
            ("window", window),
        ]);
        let mut changes = Changes::inserts(batch.unwrap(), TimestampArray::from(vec![at(end).nanos() - 1; rows.len()]));
        changes.weights = weights.map(Int64Array::from);
        changes
    }

    fn model() -> Model {
        let rows = changes(&[("web-1", Some(82.5), 12), ("db-2", Some(41.251), 6), ("cache-3", None, 1)], None, 20);
        let mut cpu = ViewPane::new("cpu_rolling", rows.rows.schema_ref());
        cpu.next_close = Some(at(21));
        let mut alerts = ViewPane::new("price_alerts", rows.rows.schema_ref());
        alerts.silent = Some("no rows match: 120 events, all filtered".into());
        let mut model = Model {
            now: Some(at(21)),
            feeds: vec![
                FeedLine {
                    name: "system_metrics".into(),
                    state: "connected".into(),
                    rate: 40.2,
                    events: 812,
                    watermark: Some(Watermark::at(Timestamp(at(20).nanos() + 500_000_000))),
                    late: 3,
                    ..FeedLine::default()
                },
                FeedLine { name: "trades".into(), state: "backing off".into(), reconnects: 2, ..FeedLine::default() },
            ],
            views: vec![cpu, alerts],
        };
        model.apply("cpu_rolling", &rows).unwrap();
        model
    }

    fn shown(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn feeds_and_views_below_each_other() {
        insta::assert_snapshot!(shown(&model(), 110, 17));
    }

    #[test]
    fn views_side_by_side_on_a_wide_terminal() {
        insta::assert_snapshot!(shown(&model(), 140, 12));
    }

    #[test]
    fn the_smallest_terminal_is_drawn_without_a_panic() {
        for (width, height) in [(1, 1), (10, 3), (200, 2), (3, 60)] {
            shown(&model(), width, height);
        }
    }

    #[test]
    fn an_update_takes_the_old_row_away() {
        let mut model = model();
        let update = changes(&[("web-1", Some(82.5), 12), ("web-1", Some(84.0), 13)], Some(vec![-1, 1]), 20);
        model.apply("cpu_rolling", &update).unwrap();
        let text = shown(&model, 110, 17);
        assert!(text.contains("84.00") && !text.contains("82.50"), "{text}");
    }

    #[test]
    fn rows_are_bounded_and_the_newest_stay() {
        let mut model = model();
        for end in 21..600 {
            model.apply("cpu_rolling", &changes(&[("web-1", Some(1.0), end)], None, end)).unwrap();
        }
        assert_eq!(model.views[0].rows.len(), super::super::ROWS_MAX);
        assert_eq!(model.views[0].rows[0].cells[2], "599");
    }
}
