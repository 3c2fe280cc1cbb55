//! Values as short text for narrow cells: numbers rounded, times of day, windows as `12:00:05–10`.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampNanosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::Row;
use crate::error::Result;
use crate::time::Timestamp;

/// The columns of a batch, ready to be read row by row.
pub(super) struct Cells<'a> {
    columns: Vec<ScreenColumn<'a>>,
}

enum ScreenColumn<'a> {
    /// Numbers as doubles: the screen rounds anyway. Whole ones are shown without decimals.
    Number {
        values: ArrayRef,
        whole: bool,
    },
    Time(ArrayRef),
    Window {
        start: ArrayRef,
        end: ArrayRef,
    },
    Text(ArrayFormatter<'a>),
}

static FORMAT: FormatOptions<'static> = FormatOptions::new().with_null("");

fn times(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(array, &DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None))?)
}

impl<'a> Cells<'a> {
    pub fn new(rows: &'a RecordBatch) -> Result<Self> {
        let column = |array: &'a ArrayRef| -> Result<ScreenColumn<'a>> {
            Ok(match array.data_type() {
                kind if kind.is_numeric() => {
                    ScreenColumn::Number { values: cast(array, &DataType::Float64)?, whole: kind.is_integer() }
                }
                DataType::Timestamp(..) => ScreenColumn::Time(times(array)?),
                DataType::Struct(_) => {
                    let parts = array.as_struct();
                    match (parts.column_by_name("start"), parts.column_by_name("end")) {
                        (Some(start), Some(end)) if parts.num_columns() == 2 && start.data_type().is_temporal() => {
                            ScreenColumn::Window { start: times(start)?, end: times(end)? }
                        }
                        _ => ScreenColumn::Text(ArrayFormatter::try_new(array, &FORMAT)?),
                    }
                }
                _ => ScreenColumn::Text(ArrayFormatter::try_new(array, &FORMAT)?),
            })
        };
        Ok(Cells { columns: rows.columns().iter().map(column).collect::<Result<_>>()? })
    }

    pub fn row(&self, row: usize) -> Result<Row> {
        let mut shown = Row { cells: Vec::new(), numbers: Vec::new() };
        for column in &self.columns {
            let mut number = None;
            shown.cells.push(match column {
                ScreenColumn::Number { values, whole } => {
                    number = values.is_valid(row).then(|| values.as_primitive::<Float64Type>().value(row));
                    number.map_or_else(String::new, |number| rounded(number, *whole))
                }
                ScreenColumn::Time(times) => at(times, row).map_or_else(String::new, time_of_day),
                ScreenColumn::Window { start, end } => match (at(start, row), at(end, row)) {
                    (Some(start), Some(end)) => window(start, end),
                    _ => String::new(),
                },
                ScreenColumn::Text(text) => one_line(&text.value(row).try_to_string()?),
            });
            shown.numbers.push(number);
        }
        Ok(shown)
    }
}

fn at(times: &ArrayRef, row: usize) -> Option<Timestamp> {
    times.is_valid(row).then(|| Timestamp(times.as_primitive::<TimestampNanosecondType>().value(row)))
}

fn rounded(number: f64, whole: bool) -> String {
    match number.abs() {
        _ if whole => format!("{number:.0}"),
        size if size != 0.0 && !(0.001..1e12).contains(&size) => format!("{number:.2e}"),
        size if size < 1.0 => format!("{number:.4}"),
        _ => format!("{number:.2}"),
    }
}

/// `12:00:05`, with tenths of a second where there are any.
pub(super) fn time_of_day(time: Timestamp) -> String {
    let text = time.to_string();
    let Some((_, clock)) = text.trim_end_matches('Z').split_once('T') else { return text };
    let (clock, decimals) = clock.split_once('.').unwrap_or((clock, ""));
    match decimals.get(..1) {
        None => clock.into(),
        Some(tenths) => format!("{clock}.{tenths}"),
    }
}

/// `12:00:05–10`: of the end only what differs from the start; windows of a day and more with their dates.
fn window(start: Timestamp, end: Timestamp) -> String {
    const DAY: i64 = 86_400_000_000_000;
    if end.nanos().saturating_sub(start.nanos()) >= DAY {
        let date = |time: Timestamp| time.to_string().get(..16).map_or_else(|| time.to_string(), |text| text.replace('T', " "));
        return format!("{} – {}", date(start), date(end));
    }
    let (start, end) = (time_of_day(start), time_of_day(end));
    let prefixes = ["12:00:".len(), "12:".len()];
    let shared = prefixes.into_iter().find(|shared| start.get(..*shared) == end.get(..*shared)).unwrap_or(0);
    format!("{start}–{}", &end[shared..])
}

fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_must_be() {
        for (number, whole, text) in [
            (1234.0, true, "1234"),
            (83.456, false, "83.46"),
            (0.0, false, "0.0000"),
            (0.012345, false, "0.0123"),
            (1e-9, false, "1.00e-9"),
            (-2.5e13, false, "-2.50e13"),
            (f64::NAN, false, "NaN"),
        ] {
            assert_eq!(rounded(number, whole), text);
        }
    }

    #[test]
    fn a_window_says_of_its_end_only_what_differs() {
        let noon = 1_772_366_400;
        for (start, end, text) in [
            (noon, noon + 5, "12:00:00–05"),
            (noon, noon + 900, "12:00:00–15:00"),
            (noon, noon + 86_400, "2026-03-01 12:00 – 2026-03-02 12:00"),
            (noon, noon + 3_600, "12:00:00–13:00:00"),
        ] {
            assert_eq!(window(Timestamp(start * 1_000_000_000), Timestamp(end * 1_000_000_000)), text);
        }
    }
}
