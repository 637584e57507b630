"""The API's view of the store: which versions answer, and what their manifests say. No weights, no torch."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deepergatgnn.checkpoints.files import MANIFEST, Version
from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.model_store import ModelStore, split_reference

FRESH_S = 1.0  # how long a production pointer is believed without a look at the disk
_Seen = tuple[int, int, int]  # inode, size and time of a manifest


@dataclass(eq=False)
class Wanted:
    """The versions that a request asks for.

    Attributes:
        versions: in the order asked for, each once.
        readers: identities of the versions that read each kind of graph: several models share one.
        layers: of the deepest network.
    """

    versions: list[Version]
    readers: dict[GraphConfig, list[str]]
    layers: int

    @classmethod
    def of(cls, versions: Iterable[Version]) -> "Wanted":
        """Those of these versions."""
        found = list({version.identity: version for version in versions}.values())
        readers: dict[GraphConfig, list[str]] = {}
        for version in found:
            readers.setdefault(version.manifest.graph, []).append(version.identity)
        return cls(found, readers, max(version.manifest.network.layers for version in found))


@dataclass(frozen=True)
class Offer:
    """What the models in production are good for now.

    Attributes:
        ready: NAME@VERSION of those that answer.
        failed: why the others do not, by NAME or NAME@VERSION.
    """

    ready: Sequence[str]
    failed: Mapping[str, str]


class Catalogue:
    """Versions by reference: manifests are read once and when they change, production pointers every second.

    Args:
        store: the store.
        loaded: identities of what every worker has on its device and found sound; nothing while no worker is known.
        failed: what workers say of the models that they could not load, by NAME or NAME@VERSION.
    """

    def __init__(
        self,
        store: ModelStore,
        loaded: Callable[[], frozenset[str]] = frozenset,
        failed: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._store, self._loaded, self._failed = store, loaded, failed
        self._live: dict[str, str] = {}
        self._versions: dict[str, tuple[_Seen | None, Version]] = {}
        self._production: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self._read = float("-inf")
        self._grounds: tuple[object, object] = None, None  # what the following was resolved by
        self._resolved: dict[tuple[str, ...], Wanted] = {}

    def production(self) -> dict[str, str]:
        """Version in production by model; a model without a readable one is left out."""
        if time.monotonic() - self._read > FRESH_S:
            found, unreadable = {}, {}
            for name in self._store.names():
                try:
                    version = self._store.production(name)
                    self.version(name, version)
                    found[name] = version
                except DeeperGATGNNError as error:
                    unreadable[name] = str(error)
            self._production, self._unreadable, self._read = found, unreadable, time.monotonic()
        return self._production

    def offer(self) -> Offer:
        """Which models answer, and why others do not."""
        production, loaded = self.production(), self._loaded()
        failed = dict(self._failed()) | self._unreadable
        live = {name: self.version(name, self.live(name)) for name in production}
        ready = [version.manifest.reference for version in live.values() if version.identity in loaded]
        for name, version in live.items():
            if version.identity not in loaded and not {name, version.manifest.reference} & failed.keys():
                failed[version.manifest.reference] = "no worker has it yet, or not every one"
        return Offer(ready, failed)

    def live(self, name: str) -> str:
        """The version that answers for a model: that in production, once every worker has it.

        Until then, and for good if workers find it unsound, the one that answered before; after a restart of this
        process the best of those that were in production before.

        Raises:
            ModelNotFoundError: if there is no such model.
        """
        wanted = self.production().get(name) or self._store.production(name)
        loaded = self._loaded()
        if loaded and not self._is_loaded(name, wanted, loaded):
            known = [self._live.get(name, wanted), *self._store.preferred(name)]
            wanted = next((version for version in known if self._is_loaded(name, version, loaded)), wanted)
        self._live[name] = wanted
        return wanted

    def _is_loaded(self, name: str, version: str, loaded: frozenset[str]) -> bool:
        try:
            return self.version(name, version).identity in loaded
        except (ArtifactError, ModelNotFoundError):
            return False

    def version(self, name: str, number: str | None = None) -> Version:
        """A version, that which answers if none is named.

        Raises:
            ModelNotFoundError: if there is none.
            ArtifactError: if it cannot be read.
        """
        if number is None:
            number = self.live(name)
        reference = f"{name}@{number}"
        seen = _seen(self._store, name, number)
        known = self._versions.get(reference)
        if known is None or known[0] != seen:
            known = self._versions[reference] = seen, self._store.version(reference)
        return known[1]

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first.

        Raises:
            ModelNotFoundError: if there is no such model.
        """
        return self._store.versions(name)

    def resolve(self, references: Sequence[str]) -> Wanted:
        """What NAME or NAME@VERSION stand for; if none is named, all models in production that workers could load.

        Raises:
            ModelNotFoundError: if one is not there, or none at all.
            ArtifactError: if one cannot be read.
        """
        production, loaded = self.production(), self._loaded()
        if production is not self._grounds[0] or loaded is not self._grounds[1]:
            self._grounds, self._resolved = (production, loaded), {}
        asked = tuple(references)
        if asked not in self._resolved:
            found = [self.version(*split_reference(reference)) for reference in asked or production]
            if not found:
                raise ModelNotFoundError("no model is in production: promote one with `deepergatgnn models promote`")
            if not asked and loaded:  # a request without `models` skips those that no worker could load
                found = [version for version in found if version.identity in loaded] or found
            self._resolved[asked] = Wanted.of(found)
        return self._resolved[asked]


def _seen(store: ModelStore, name: str, version: str) -> _Seen | None:
    """What shows that a manifest was replaced; a version never changes, but its folder may be put there anew."""
    try:
        found = os.lstat(store.root / name / version / MANIFEST)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
