"""Real crystals, small networks and two published versions, made once and shared by the tests."""

import fcntl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.structures import Crystal, crystal_from_arrays, crystal_from_pymatgen, crystal_to_pymatgen
from deepergatgnn.training.config.run import TargetConfig, TrainingConfig
from deepergatgnn.training.data.catalogue import Dataset, Row, read_dataset
from deepergatgnn.training.experiments.run import run
from tests.conftest import shared_folder

BUNDLED = "elastic_tensor_2015"
Files = dict[str, bytes]  # of a version
Make = Callable[[str, str], Files]  # from its name and version
# Sodium, body-centred cubic, primitive: one atom whose eight nearest neighbours are its own images.
SODIUM = crystal_from_arrays(4.29 / 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]), ["Na"], [[0, 0, 0]])


@cache
def bundled() -> Dataset:
    """The bundled data set."""
    return read_dataset(BUNDLED)


def some_rows(count: int) -> tuple[Row, ...]:
    """Rows of the bundled set, evenly spread over it."""
    rows = bundled().rows
    return tuple(rows[index] for index in np.linspace(0, len(rows) - 1, count).astype(int))


def some_crystals(count: int) -> list[Crystal]:
    """Crystals of the bundled set, evenly spread over it."""
    return [row.crystal for row in some_rows(count)]


@cache
def one_atom_cells() -> tuple[Crystal, ...]:
    """Primitive cells of the elemental metals in the bundled set, two dozen of them."""
    elemental = [
        crystal_to_pymatgen(row.crystal)
        for row in bundled().rows
        if row.crystal.n_atoms <= 4 and len(set(row.crystal.symbols)) == 1
    ]
    primitive = [SpacegroupAnalyzer(structure).get_primitive_standard_structure() for structure in elemental]
    return tuple(crystal_from_pymatgen(structure) for structure in primitive if len(structure) == 1)


def graphs_of(crystals: Sequence[Crystal], config: GraphConfig | None = None) -> list[CrystalGraph]:
    """Graphs under the default constants."""
    return [build_graph(crystal, config or GraphConfig()) for crystal in crystals]


def supercell(crystal: Crystal, repeats: tuple[int, int, int]) -> Crystal:
    """The same crystal in a larger cell; the images of each atom follow each other."""
    shifts = np.array(list(np.ndindex(repeats)))
    coords = (crystal.frac_coords[:, None, :] + shifts) / repeats
    return replace(
        crystal,
        lattice=crystal.lattice * np.array(repeats)[:, None],
        atomic_numbers=np.repeat(crystal.atomic_numbers, len(shifts)),
        frac_coords=coords.reshape(-1, 3),
    )


def permuted_graph(graph: CrystalGraph, order: NDArray[np.int64]) -> CrystalGraph:
    """The same graph with atom order[k] of it in place k."""
    place = np.argsort(order)
    edges = np.argsort(place[graph.receivers], kind="stable")
    return replace(
        graph,
        atomic_numbers=graph.atomic_numbers[order],
        senders=place[graph.senders][edges].astype(np.int32),
        degrees=graph.degrees[order],
        angular_features=graph.angular_features[order],
        distances=graph.distances[edges],
    )


def seeded_network(seed: int = 0, graph: GraphConfig | None = None, **sizes: Any) -> CrystalModel:
    """A network in evaluation mode, every weight and every running statistic drawn, none left at its default."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = CrystalModel(NetworkConfig(**sizes), graph or GraphConfig())
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith("running_var") or (".norm" in f".{name}" and name.endswith("weight") and tensor.ndim == 1):
                tensor.copy_(0.5 + noise)
            elif name.endswith(("running_mean", "bias")):
                tensor.copy_(0.4 * noise - 0.2)
            elif name.startswith("body.norms.") and not name.endswith("assign.weight"):
                tensor.copy_(0.5 + noise)
    return network.eval()


@dataclass(frozen=True)
class Published:
    """A tiny version, trained for an epoch on the bundled set and published into a store of its own."""

    config: TrainingConfig
    store: ModelStore
    runs: Path
    manifest: Manifest

    @property
    def folder(self) -> Path:
        """The folder of the version."""
        return self.store.folder(self.manifest.name)

    def files(self) -> dict[str, bytes]:
        """Content of its files."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


TINY = TrainingConfig.model_validate(
    {
        "name": "tiny",
        "data": BUNDLED,
        "source": "de Jong et al., doi:10.1038/sdata.2015.9",
        "licence": "open data",
        "targets": [{"model": "tiny-bulk-modulus", "key": "log10_K_VRH", "unit": "log10(GPa)"}],
        "split": {"test_fraction": 0.2, "validation_fraction": 0.1, "calibration_fraction": 0.1},
        "graph": {"angles": 0},
        "network": {"layers": 1, "channels": 16, "heads": 2, "groups": 4},
        "optimization": {"epochs": 1, "compile": False},
    }
)


# The same in GPa: two members with other seeds, and the logarithm inside.
PAIR = TINY.model_copy(
    update={
        "name": "pair",
        "members": 2,
        "targets": (TargetConfig(model="pair-bulk-modulus", key="K_VRH_GPa", unit="GPa", transform="log10"),),
    }
)


@cache
def _publish(config: TrainingConfig, folder: Path) -> Published:
    """Train and publish in the first process of the suite that asks; the others wait for it."""
    store, runs = ModelStore(folder / config.name / "store"), folder / config.name / "runs"
    with (folder / f"{config.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not store.names():
            run(config, store, runs, device=torch.device("cpu"), report=lambda _: None, plots=False)
    [name] = store.names()
    return Published(config, store, runs, store.manifest(name))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One tiny version of a single network; read it, never write it."""
    return _publish(TINY, shared_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One tiny version of an ensemble of two; read it, never write it."""
    return _publish(PAIR, shared_folder(tmp_path_factory))
