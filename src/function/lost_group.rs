//! What aggregates cannot say: a group without a value costs itself, where somebody hears the reason.

use std::cell::RefCell;

use crate::error::{Code, Error, Result};

/// A group whose value could not be computed.
#[derive(Debug, Clone, PartialEq)]
pub struct LostGroup {
    /// Its place in the column, where the aggregate knows it.
    pub group: Option<usize>,
    pub reason: String,
}

/// Reasons that are kept of one piece of work; of more, only their number would be told anyway.
const LOST_MAX: usize = 64;

thread_local! {
    static TOLD: RefCell<Option<Vec<LostGroup>>> = const { RefCell::new(None) };
}

/// Does `work`, in which a group that has no value becomes NULL, and says which those were.
///
/// Without a listener it is an error: rows alone must not hide a group without a value among them. The reasons go by the
/// thread, for the aggregates are called by DataFusion, which has no place for them; so `work` must not move to another one.
pub fn listen<T>(work: impl FnOnce() -> T) -> (T, Vec<LostGroup>) {
    /// Lets the listener before this one hear again, whatever happens.
    struct Listener(Option<Vec<LostGroup>>);
    impl Drop for Listener {
        fn drop(&mut self) {
            TOLD.set(self.0.take());
        }
    }
    let _before = Listener(TOLD.replace(Some(Vec::new())));
    let done = work();
    let told = TOLD.with_borrow_mut(|told| told.as_mut().map(std::mem::take));
    (done, told.unwrap_or_default())
}

/// A group has no value. An error where nobody listens.
pub fn lost(group: Option<usize>, reason: impl FnOnce() -> String) -> Result<()> {
    TOLD.with_borrow_mut(|told| match told {
        Some(told) => {
            if told.len() < LOST_MAX {
                told.push(LostGroup { group, reason: reason() });
            }
            Ok(())
        }
        None => Err(Error::new(Code::Runtime, reason())),
    })
}
