"""Experiments: whole runs, cross-validation, searches."""
