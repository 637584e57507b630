"""Some models of a store, as if it held no others."""

from collections.abc import Sequence
from pathlib import Path

from deepergatgnn.checkpoints.locations import split_reference
from deepergatgnn.errors import ModelNotFoundError
from deepergatgnn.model_store.store import ModelStore


class SelectedModels(ModelStore):
    """The models of a store that are to be served.

    Args:
        root: folder of the store, as of `ModelStore`.
        references: NAME stands for all versions of a model, that in production answering by default; NAME@VERSION for
            that version alone, which then answers by default wherever it is not among several of which one is in
            production.

    Raises:
        ModelNotFoundError: if a reference is of neither form.
    """

    def __init__(self, root: Path | str | None, references: Sequence[str]) -> None:
        super().__init__(root)
        self._references = references
        self._versions_of: dict[str, list[str]] = {}  # an empty list stands for all
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
        """Return if everything chosen is there, and of each model a version to answer with.

        Raises:
            ModelNotFoundError: with the first that is not.
        """
        for reference in self._references:
            self.folder(reference)

    def names(self) -> list[str]:
        """The chosen models that are there."""
        return [name for name in super().names() if name in self._versions_of]

    def versions(self, name: str) -> list[str]:
        """Chosen versions of a model, oldest first.

        Raises:
            ModelNotFoundError: if it is not there or not chosen.
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
        """The version served by default: that in production if it is chosen, else the chosen one named first.

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
    """The chosen models of a store; all of them, if none is named."""
    return SelectedModels(root, references) if references else ModelStore(root)
