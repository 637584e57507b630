"""Fuzzing: random and mutated files at the structures door."""
