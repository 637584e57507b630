"""Production versions of a store, loaded into an engine and followed as they are promoted."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.worker.engine import Engine

POLL_S = 1.0
RETRY_S = 30.0  # until a version that could not be loaded is tried again
log = structlog.get_logger("worker")


class ModelLoader:
    """Keeps the production versions of a store loaded.

    Attributes:
        failed: reason for each model, by NAME or NAME@VERSION, that is in production but not loaded.
    """

    def __init__(self, store: ModelStore, engine: Engine) -> None:
        self.failed: dict[str, str] = {}
        self._store, self._engine = store, engine
        self._retry_at: dict[str, float] = {}

    def load_production(self) -> None:
        """Load the production version of every model, or the newest loadable version before it.

        Raises:
            ArtifactError: if no model can be loaded.
        """
        for name in self._store.names():
            try:
                versions = self._store.preferred(name)
            except ModelNotFoundError as error:
                self._fail(name, error)
                continue
            for version in versions:
                if self._load(f"{name}@{version}"):
                    break
        if not self._engine.loaded:
            problems = "; ".join(self.failed.values())
            raise ArtifactError(f"no model could be loaded from the store: {problems or 'it is empty'}")

    def _load(self, reference: str) -> bool:
        try:
            self._engine.load(reference)
        except (ArtifactError, ModelNotFoundError) as error:
            self._fail(reference, error)
            return False
        self.failed.pop(reference, None)
        log.info("loaded", model=reference)
        return True

    def _fail(self, which: str, error: DeeperGATGNNError) -> None:
        self.failed[which] = str(error)
        log.warning("model not loaded", model=which, error=str(error))

    def read_production(self) -> tuple[list[str], list[str]]:
        """Read which versions are in production now.

        Returns:
            Identities of all of them that can be read, and NAME@VERSION of those not loaded.
        """
        identities, missing, failed = [], [], {}
        for name in self._store.names():
            which = name
            try:
                which = f"{name}@{self._store.production(name)}"
                identity = self._store.version(which).identity
            except (ArtifactError, ModelNotFoundError) as error:
                failed[which] = str(error)
                continue
            identities.append(identity)
            if identity not in self._engine.loaded:
                missing.append(which)
                if which in self.failed:
                    failed[which] = self.failed[which]
        self.failed = failed
        return identities, missing

    async def follow_store(self, on_load: Callable[[], Awaitable[None]]) -> None:
        """Load promoted versions beside those in use; the API uses a version once every worker has loaded it.

        Args:
            on_load: called after each load.
        """
        while True:
            await asyncio.sleep(POLL_S)
            production, missing = await asyncio.to_thread(self.read_production)
            for reference in missing:
                if time.monotonic() < self._retry_at.get(reference, 0.0):
                    continue
                if await asyncio.to_thread(self._load, reference):
                    await on_load()
                else:  # the version before stays in use
                    self._retry_at[reference] = time.monotonic() + RETRY_S
                    metrics.LOAD_FAILURES.labels(reference.partition("@")[0]).inc()
            self._engine.evict(production)
