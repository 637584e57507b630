"""The API's view of the store: which versions answer, and what their manifests say. No weights, no torch."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.errors import ArtifactError, ModelNotFoundError
from deepergatgnn.manifest import Manifest
from model_store import ModelStore, split_reference

FRESH_S = 1.0  # how long a production pointer is believed without a look at the disk


@dataclass(eq=False)
class Wanted:
    """The versions that a request asks for.

    Attributes:
        manifests: in the order asked for, each once.
        readers: references of the versions that read each kind of graph: several models share one.
        layers: of the deepest network.
    """

    manifests: list[Manifest]
    readers: dict[GraphConfig, list[str]]
    layers: int

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> "Wanted":
        """Those of these manifests."""
        found = list({manifest.reference: manifest for manifest in manifests}.values())
        readers: dict[GraphConfig, list[str]] = {}
        for manifest in found:
            readers.setdefault(manifest.graph, []).append(manifest.reference)
        return cls(found, readers, max(manifest.network.layers for manifest in found))


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
        self._resolved: dict[tuple[str, ...], Wanted] = {}

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

    def resolve(self, references: Sequence[str]) -> Wanted:
        """What NAME or NAME@VERSION stand for; all models in production, if none is named.

        Raises:
            ModelNotFoundError: if one is not there, or none at all.
        """
        production, loaded = self.production(), self._loaded()
        if production is not self._grounds[0] or loaded is not self._grounds[1]:
            self._grounds, self._resolved = (production, loaded), {}
        asked = tuple(references)
        if asked not in self._resolved:
            found = [self.manifest(*split_reference(reference)) for reference in asked or production]
            if not found:
                raise ModelNotFoundError("no model is in production: promote one with `deepergatgnn models promote`")
            self._resolved[asked] = Wanted.of(found)
        return self._resolved[asked]
