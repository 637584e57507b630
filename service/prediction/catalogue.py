"""Model versions and their manifests, as the API reads them from the store; without weights and torch."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deepergatgnn.checkpoints.files import MANIFEST, Version
from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.model_store import ModelStore, split_reference

REFRESH_S = 1.0  # between two reads of the production pointers
_FileStamp = tuple[int, int, int]  # inode, size and modification time


@dataclass(eq=False)
class ResolvedModels:
    """The versions that a request selects.

    Attributes:
        versions: in the requested order, each once.
        identities: of the versions by their featuriser; several models share a graph.
        layers: of the deepest network.
        cell_bound: identities of the versions that see more of a crystal than its digest covers, so that their results
            hold for the identical graph only, not for every cell of the crystal.
    """

    versions: list[Version]
    identities: dict[GraphConfig, list[str]]
    layers: int
    cell_bound: frozenset[str]

    @classmethod
    def of(cls, versions: Iterable[Version]) -> "ResolvedModels":
        """Group versions by featuriser."""
        unique = list({version.identity: version for version in versions}.values())
        identities: dict[GraphConfig, list[str]] = {}
        for version in unique:
            identities.setdefault(version.manifest.graph, []).append(version.identity)
        layers = max(version.manifest.network.layers for version in unique)
        bound = frozenset(
            version.identity for version in unique if not version.manifest.network.may_share_between_cells
        )
        return cls(unique, identities, layers, bound)


@dataclass(frozen=True)
class Availability:
    """Which models in production can answer.

    Attributes:
        ready: NAME@VERSION of those that can.
        failed: reason of each other one, by NAME or NAME@VERSION.
    """

    ready: Sequence[str]
    failed: Mapping[str, str]


class Catalogue:
    """Versions by reference: manifests are read once and when they change, production pointers every second.

    Args:
        store: the store.
        loaded: returns identities that every worker has loaded and verified; none while no worker is known.
        failed: returns reasons of models that workers could not load, by NAME or NAME@VERSION.
    """

    def __init__(
        self,
        store: ModelStore,
        loaded: Callable[[], frozenset[str]] = frozenset,
        failed: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._store, self._loaded, self._failed = store, loaded, failed
        self._live: dict[str, str] = {}
        self._versions: dict[str, tuple[_FileStamp | None, Version]] = {}
        self._production: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self._refreshed_at = float("-inf")
        self._resolved_from: tuple[object, object] = None, None  # production and loaded versions
        self._resolved: dict[tuple[str, ...], ResolvedModels] = {}

    def production(self) -> dict[str, str]:
        """Return the version in production of each model; a model without a readable one is left out."""
        if time.monotonic() - self._refreshed_at > REFRESH_S:
            found, unreadable = {}, {}
            for name in self._store.names():
                try:
                    version = self._store.production(name)
                    self.version(name, version)
                    found[name] = version
                except DeeperGATGNNError as error:
                    unreadable[name] = str(error)
            self._production, self._unreadable = found, unreadable
            self._refreshed_at = time.monotonic()
        return self._production

    def availability(self) -> Availability:
        """Return which models in production can answer, and why others cannot."""
        production, loaded = self.production(), self._loaded()
        failed = dict(self._failed()) | self._unreadable
        live = {name: self.version(name, self.live(name)) for name in production}
        ready = [version.manifest.reference for version in live.values() if version.identity in loaded]
        for name, version in live.items():
            if version.identity not in loaded and not {name, version.manifest.reference} & failed.keys():
                failed[version.manifest.reference] = "not every worker has loaded it"
        return Availability(ready, failed)

    def live(self, name: str) -> str:
        """Return the version that answers for a model: that in production, once every worker has loaded it.

        Until then, and permanently if workers cannot verify it, the one that answered before; after a restart of this
        process the most recent of the earlier production versions that is loaded.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        live = self.production().get(name) or self._store.production(name)
        loaded = self._loaded()
        if loaded and not self._is_loaded(name, live, loaded):
            earlier = [self._live.get(name, live), *self._store.preferred(name)]
            live = next((version for version in earlier if self._is_loaded(name, version, loaded)), live)
        self._live[name] = live
        return live

    def _is_loaded(self, name: str, version: str, loaded: frozenset[str]) -> bool:
        try:
            return self.version(name, version).identity in loaded
        except (ArtifactError, ModelNotFoundError):
            return False

    def version(self, name: str, number: str | None = None) -> Version:
        """Return a version; without a number the live one.

        Raises:
            ModelNotFoundError: there is none.
            ArtifactError: it cannot be read.
        """
        if number is None:
            number = self.live(name)
        reference = f"{name}@{number}"
        stamp = _manifest_stamp(self._store, name, number)
        cached = self._versions.get(reference)
        if cached is None or cached[0] != stamp:
            cached = self._versions[reference] = stamp, self._store.version(reference)
        return cached[1]

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model, oldest first.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        return self._store.versions(name)

    def resolve(self, references: Sequence[str]) -> ResolvedModels:
        """Resolve NAME or NAME@VERSION; without references, all models in production that workers have loaded.

        Raises:
            ModelNotFoundError: one is unknown, or no model is in production.
            ArtifactError: one cannot be read.
        """
        production, loaded = self.production(), self._loaded()
        if production is not self._resolved_from[0] or loaded is not self._resolved_from[1]:
            self._resolved_from, self._resolved = (production, loaded), {}
        requested = tuple(references)
        if requested not in self._resolved:
            versions = [self.version(*split_reference(reference)) for reference in requested or production]
            if not versions:
                raise ModelNotFoundError("no model is in production: promote one with `deepergatgnn models promote`")
            if not requested and loaded:
                versions = [version for version in versions if version.identity in loaded] or versions
            self._resolved[requested] = ResolvedModels.of(versions)
        return self._resolved[requested]


def _manifest_stamp(store: ModelStore, name: str, version: str) -> _FileStamp | None:
    """Detect a replaced manifest: a version never changes, but its folder may be deleted and written again."""
    try:
        status = os.lstat(store.root / name / version / MANIFEST)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
