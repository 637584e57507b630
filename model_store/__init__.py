"""Versioned checkpoints: NAME@VERSION → a verified folder; publish, promote, roll back."""

from model_store.store import ModelStore, split_reference

__all__ = ["ModelStore", "split_reference"]
