"""Fit: the training loop and what it needs; runs on a bare machine."""
