"""Checkpoints: manifest, files, weights, and where they are."""
