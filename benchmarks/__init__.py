"""Benchmarks: each compares in one run, A B A B, prints medians and ratios, and a JSON object as its last line."""
