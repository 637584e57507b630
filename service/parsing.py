"""The parse pool: files become graphs in killable processes, away from the event loop."""

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

import orjson
from pebble import ProcessExpired, ProcessPool

from deepergatgnn.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.equivalence import merge_equivalent
from deepergatgnn.errors import StructureError
from deepergatgnn.graph import build_graph
from deepergatgnn.structures import StructureFormat, read_structure

FILES_PER_PROCESS = 5000  # then it is replaced, so that a leak in a parser stays small
WARM_UP = b'{"lattice": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]], "species": ["Na"], "frac_coords": [[0, 0, 0]]}'
WARM_UP_S = 120.0


@dataclass(frozen=True)
class Parsed:
    """What a parse process made of a file.

    Attributes:
        formula, reduced_formula: of the posted cell.
        symbols: element of each atom, in the posted order.
        frac_coords: of each atom, as posted.
        warnings: what the reader dropped or changed.
        graphs: one for each featuriser asked for.
        parse_ms, graph_ms: measured in the process.
    """

    formula: str
    reduced_formula: str
    symbols: tuple[str, ...]
    frac_coords: tuple[tuple[float, float, float], ...]
    warnings: tuple[str, ...]
    graphs: tuple[CrystalGraph, ...]
    parse_ms: float
    graph_ms: float


def parse(source: bytes | str, file_format: StructureFormat, configs: Sequence[GraphConfig]) -> Parsed:
    """Read a file and build its graphs; runs in a parse process.

    Raises:
        StructureError: if the structure is refused.
    """
    started = time.perf_counter()
    crystal = read_structure(source, file_format)
    read = time.perf_counter()
    graphs = tuple(merge_equivalent(build_graph(crystal, config)) for config in configs)
    built = time.perf_counter()
    return Parsed(
        formula=crystal.formula,
        reduced_formula=crystal.reduced_formula,
        symbols=crystal.symbols,
        frac_coords=tuple(map(tuple, crystal.frac_coords.tolist())),
        warnings=crystal.warnings,
        graphs=graphs,
        parse_ms=(read - started) * 1000,
        graph_ms=(built - read) * 1000,
    )


def _limit_memory(mib: int) -> None:
    size = mib * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class ParsePool:
    """Parse processes, each killed when it exceeds its time or memory; the others do not notice.

    Args:
        processes: how many.
        timeout_s: wall time of one file.
        memory_mib: address space of one process.
    """

    def __init__(self, processes: int, timeout_s: float, memory_mib: int) -> None:
        self._processes, self._timeout_s = processes, timeout_s
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["service.parsing"])  # a killed process is replaced without importing anew
        self._pool = ProcessPool(
            max_workers=processes,
            max_tasks=FILES_PER_PROCESS,
            initializer=_limit_memory,
            initargs=(memory_mib,),
            context=context,
        )

    async def warm(self) -> None:
        """Start the processes and let each import what it needs."""
        tasks = [
            asyncio.wrap_future(self._pool.schedule(parse, (WARM_UP, "json", (GraphConfig(),)), timeout=WARM_UP_S))
            for _ in range(self._processes)
        ]
        await asyncio.gather(*tasks)

    async def parse(
        self, source: bytes | str | Mapping[str, Any], file_format: StructureFormat, configs: Sequence[GraphConfig]
    ) -> Parsed:
        """Parse in the pool.

        Raises:
            StructureError: if the structure is refused, or broke or outlasted its process.
        """
        if isinstance(source, Mapping):
            source, file_format = orjson.dumps(source), "json"
        future = self._pool.schedule(parse, (source, file_format, tuple(configs)), timeout=self._timeout_s)
        try:
            return await asyncio.wrap_future(future)
        except (FutureTimeoutError, TimeoutError):
            detail = f"reading the file took more than {self._timeout_s:g} s: post a plain, smaller cell"
            raise StructureError("unreadable", detail) from None
        except (ProcessExpired, MemoryError):
            raise StructureError("unreadable", "reading the file took too much memory: post a smaller cell") from None

    def close(self) -> None:
        """Stop all processes now."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()
        # The server that forks the processes would outlive this one for a moment; only its private method waits for it.
        getattr(forkserver._forkserver, "_stop", lambda: None)()  # noqa: SLF001
