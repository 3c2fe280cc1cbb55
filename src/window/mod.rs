//! Which windows a time is in: pure arithmetic, aligned to the Unix epoch, half open.
