//! Memory under watch: whoever asks for very much at once is stopped, whether or not it is used.

use std::alloc::{GlobalAlloc, Layout, System};

/// Inputs have some kilobytes; nothing that is made of them needs this much.
const BYTES_MAX: usize = 128 * 1024 * 1024;

struct Watched;

#[global_allocator]
static WATCHED: Watched = Watched;

/// The size as it is, unless it is out of all proportion.
fn checked(size: usize) -> usize {
    if size > BYTES_MAX {
        eprintln!("{size} bytes are asked for at once");
        std::process::abort();
    }
    size
}

// SAFETY: the system's allocator, asked for the same.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        checked(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        checked(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        checked(size);
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }
}

/// Runs what meets panics of others and goes on: only one that nobody meets is a finding, and told.
pub fn escaping(run: impl FnOnce()) {
    use std::sync::{Mutex, Once, PoisonError};
    static LAST: Mutex<String> = Mutex::new(String::new());
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = format!("{panic}\n{}", std::backtrace::Backtrace::capture());
        }));
    });
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
        eprintln!("{}", LAST.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::abort();
    }
}
