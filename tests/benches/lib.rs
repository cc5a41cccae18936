//! Benchmarks print tables of what was measured in one run, and ratios of it.
//! They never assert a time.
