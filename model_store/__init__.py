"""Model store: resolve NAME@VERSION to a verified folder; publish, promote, roll back and delete versions."""

from deepergatgnn.checkpoints.locations import split_reference
from deepergatgnn.model_store.selection import SelectedModels, open_models
from deepergatgnn.model_store.store import ModelStore

__all__ = ["ModelStore", "SelectedModels", "open_models", "split_reference"]
