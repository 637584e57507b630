"""The API's view of the store: which versions answer, and what their manifests say. No weights, no torch."""

import time
from collections.abc import Callable, Sequence

from deepergatgnn.errors import ArtifactError, ModelNotFoundError
from deepergatgnn.manifest import Manifest
from model_store import ModelStore, split_reference

FRESH_S = 1.0  # how long a production pointer is believed without a look at the disk


class Catalogue:
    """Manifests by reference; versions are immutable, so they are read once, production pointers every second.

    Args:
        store: the store.
        loaded: NAME@VERSION of what every worker has on its device and found sound; nothing while no worker is known.
    """

    def __init__(self, store: ModelStore, loaded: Callable[[], frozenset[str]] = frozenset) -> None:
        self._store, self._loaded = store, loaded
        self._live: dict[str, str] = {}
        self._manifests: dict[str, Manifest] = {}
        self._production: dict[str, str] = {}
        self._read = float("-inf")
        self._grounds: tuple[object, object] = None, None  # what the following was resolved by
        self._resolved: dict[tuple[str, ...], list[Manifest]] = {}

    def production(self) -> dict[str, str]:
        """Version in production by model; a model without a readable one is left out."""
        if time.monotonic() - self._read > FRESH_S:
            found = {}
            for name in self._store.names():
                try:
                    found[name] = self._store.production(name)
                    self.manifest(name, found[name])
                except (ModelNotFoundError, ArtifactError):
                    found.pop(name, None)
            self._production, self._read = found, time.monotonic()
        return self._production

    def live(self, name: str) -> str:
        """The version that answers for a model: that in production, once every worker has it.

        Until then, and for good if workers find it unsound, the one that answered before; after a restart of this
        process the best of those that were in production before.

        Raises:
            ModelNotFoundError: if there is no such model.
        """
        wanted = self.production().get(name) or self._store.production(name)
        loaded = self._loaded()
        if loaded and f"{name}@{wanted}" not in loaded:
            known = [self._live.get(name, wanted), *self._store.preferred(name)]
            wanted = next((version for version in known if f"{name}@{version}" in loaded), wanted)
        self._live[name] = wanted
        return wanted

    def manifest(self, name: str, version: str | None = None) -> Manifest:
        """The manifest of a version, of the one that answers if none is named.

        Raises:
            ModelNotFoundError: if there is none.
        """
        if version is None:
            version = self.live(name)
        reference = f"{name}@{version}"
        if reference not in self._manifests:
            self._manifests[reference] = self._store.manifest(reference)
        return self._manifests[reference]

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first.

        Raises:
            ModelNotFoundError: if there is no such model.
        """
        return self._store.versions(name)

    def resolve(self, references: Sequence[str]) -> list[Manifest]:
        """Manifests of NAME or NAME@VERSION, each once, in their order; all models in production if none is named.

        Raises:
            ModelNotFoundError: if one is not there.
        """
        production, loaded = self.production(), self._loaded()
        if production is not self._grounds[0] or loaded is not self._grounds[1]:
            self._grounds, self._resolved = (production, loaded), {}
        wanted = tuple(references)
        if wanted not in self._resolved:
            self._resolved[wanted] = self._resolve(wanted or [*production])
        return self._resolved[wanted]

    def _resolve(self, references: Sequence[str]) -> list[Manifest]:
        found = [self.manifest(*split_reference(reference)) for reference in references]
        return list({manifest.reference: manifest for manifest in found}.values())
