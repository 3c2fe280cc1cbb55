//! How much state a query may hold, and what is said once it holds more.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Code, Error, Result};
use crate::options::ViewOptions;

/// The most that the operators of one query may keep. A query that reaches it fails, as dropping a row would be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub rows: u64,
    pub bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget::of(&ViewOptions::read(&[]).expect("a view needs no options"))
    }
}

impl Budget {
    pub fn of(options: &ViewOptions) -> Self {
        Budget { rows: options.state_rows_max, bytes: options.state_bytes_max.0 as u64 }
    }

    /// Fails where the state is larger.
    pub fn check(self, rows: usize, bytes: usize) -> Result<()> {
        let over = |what: &str, have: usize, option: &str, most: u64| {
            let way_out = format!(
                "group by fewer keys, take shorter windows, or filter the rows; or make the view anew WITH ({option} = '…') for more"
            );
            let problem = format!("the state has grown to {have} {what}, and {option} allows {most}");
            Err(Error::new(Code::Runtime, problem).hint(way_out))
        };
        if rows as u64 > self.rows {
            return over("rows", rows, "state_rows_max", self.rows);
        }
        if bytes as u64 > self.bytes {
            return over("bytes", bytes, "state_bytes_max", self.bytes);
        }
        Ok(())
    }
}

/// How old the measure of a state may be that has changed since: what it can grow meanwhile is little beside any budget.
const AGE_MAX: Duration = Duration::from_millis(250);

/// Of its time a query spends no more than one part in so many on measuring its state.
const COST_MAX: u32 = 100;

/// When a state is to be measured: some time after it changed.
#[derive(Debug)]
pub struct Pace {
    next: Instant,
    changed: bool,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Pace { next: now + AGE_MAX, changed: false }
    }

    pub fn changed(&mut self) {
        self.changed = true;
    }

    /// When it is to be measured; `None` while it is as it was.
    pub fn due(&self) -> Option<Instant> {
        self.changed.then_some(self.next)
    }

    /// It was measured from `begin` to `end`.
    pub fn measured(&mut self, begin: Instant, end: Instant) {
        self.changed = false;
        self.next = end + AGE_MAX.max((end - begin) * COST_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_budget_is_told_with_the_bound_and_a_way_out() {
        let budget = Budget { rows: 10, bytes: 1_000 };
        assert_eq!(budget.check(10, 1_000), Ok(()));
        let told = |rows, bytes| budget.check(rows, bytes).unwrap_err().to_string();
        assert!(told(11, 0).starts_with("the state has grown to 11 rows, and state_rows_max allows 10; group by fewer keys"));
        assert!(told(0, 1_001).contains("1001 bytes, and state_bytes_max allows 1000"), "{}", told(0, 1_001));
        assert_eq!(Budget::default(), Budget { rows: 10_000_000, bytes: 4 << 30 });
    }

    #[test]
    fn a_state_is_measured_only_after_it_changed_and_the_less_often_the_more_it_costs() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.due(), None);
        pace.changed();
        assert_eq!(pace.due(), Some(start + AGE_MAX));
        let (begin, end) = (start + AGE_MAX, start + AGE_MAX + Duration::from_secs(1));
        pace.measured(begin, end);
        assert_eq!(pace.due(), None);
        pace.changed();
        assert_eq!(pace.due(), Some(end + Duration::from_secs(100)));
    }
}
