//! See [`streamgauge::fuzz::headers`].
#![no_main]

use streamgauge_fuzz as _;

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamgauge::fuzz::headers(data));
