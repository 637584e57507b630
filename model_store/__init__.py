"""Versioned checkpoints: NAME@VERSION → a verified folder; publish, promote, roll back."""

from deepergatgnn.checkpoints import split_reference
from model_store.store import ModelStore

__all__ = ["ModelStore", "split_reference"]
