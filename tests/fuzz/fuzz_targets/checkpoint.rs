//! See [`streamgauge::fuzz::checkpoint`]. What reads checkpoints meets the panics of Arrow's reader and of DataFusion's aggregates.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamgauge_fuzz::escaping(|| streamgauge::fuzz::checkpoint(data)));
