//! See [`streamgauge::fuzz::decode`].
#![no_main]

use streamgauge_fuzz as _;

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamgauge::fuzz::decode(data));
