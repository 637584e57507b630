"""Fuzzing of `read_structure`: hostile, plausible and mutated files."""
