"""Versioned checkpoints: NAME@VERSION → a verified folder; publish, promote, roll back."""

from deepergatgnn.checkpoints.locations import split_reference
from deepergatgnn.model_store.selection import SelectedModels, open_models
from deepergatgnn.model_store.store import ModelStore

__all__ = ["ModelStore", "SelectedModels", "open_models", "split_reference"]
