"""Benchmarks, run by hand: medians and ratios against the plainest code that does the same, interleaved in one run."""
