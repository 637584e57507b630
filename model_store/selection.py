"""A view of a store that contains selected models only."""

from collections.abc import Sequence
from pathlib import Path

from deepergatgnn.checkpoints.locations import split_reference
from deepergatgnn.errors import ModelNotFoundError
from deepergatgnn.model_store.store import ModelStore


class SelectedModels(ModelStore):
    """Selected models of a store.

    Args:
        root: folder of the store, as in `ModelStore`.
        references: NAME selects all versions of a model, NAME@VERSION one version. The default version of a model is
            that in production if it is selected, else the selected version that is listed first.

    Raises:
        ModelNotFoundError: if a reference has neither form.
    """

    def __init__(self, root: Path | str | None, references: Sequence[str]) -> None:
        super().__init__(root)
        self._references = references
        self._versions_of: dict[str, list[str]] = {}  # an empty list selects all
        whole = set[str]()
        for reference in references:
            name, version = split_reference(reference)
            chosen = self._versions_of.setdefault(name, [])
            if version is None:
                whole.add(name)
            elif version not in chosen:
                chosen.append(version)
        for name in whole:
            self._versions_of[name] = []

    def check(self) -> None:
        """Check that every selected version exists and that every selected model has a default version.

        Raises:
            ModelNotFoundError: for the first reference that does not resolve.
        """
        for reference in self._references:
            self.folder(reference)

    def names(self) -> list[str]:
        """Return the selected models of the store."""
        return [name for name in super().names() if name in self._versions_of]

    def versions(self, name: str) -> list[str]:
        """Return the selected versions of a model, oldest first.

        Raises:
            ModelNotFoundError: if the model does not exist or is not selected.
        """
        if name not in self._versions_of:
            split_reference(name)
            raise ModelNotFoundError(f"model {name!r} is not served here: {', '.join(sorted(self._versions_of))}")
        found, chosen = super().versions(name), self._versions_of[name]
        versions = [version for version in found if version in chosen] if chosen else found
        if not versions:
            raise ModelNotFoundError(f"model {name!r} has no version {', '.join(chosen)}: it has {', '.join(found)}")
        return versions

    def production(self, name: str) -> str:
        """Return the default version: that in production if it is selected, else the selected version listed first.

        Raises:
            ModelNotFoundError: as `ModelStore.production`.
        """
        versions, chosen = self.versions(name), self._versions_of[name]
        if not chosen:
            return super().production(name)
        if len(versions) > 1:
            try:
                return super().production(name)  # which is among `versions`
            except ModelNotFoundError:
                pass
        return next(version for version in chosen if version in versions)


def open_models(root: Path | str | None, references: Sequence[str]) -> ModelStore:
    """Open a store: all models, or the selected ones."""
    return SelectedModels(root, references) if references else ModelStore(root)
