"""Request bodies made of real crystals."""

import json
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.structures import crystal_to_pymatgen, read_structure
from deepergatgnn.training.data.catalogue import read_dataset

BATCH = 256


def texts(data: str) -> list[str]:
    """Write every crystal of a data set as CIF, in random order, so that any stretch represents the whole set."""
    rows = list(read_dataset(data).rows)
    random.Random(0).shuffle(rows)  # noqa: S311 - an order, no secret
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's and spglib's, of every file
        return [str(crystal_to_pymatgen(row.crystal).to(fmt="cif")) for row in rows]


def most_expensive(some: Sequence[str], count: int) -> list[str]:
    """Select the crystals with the most edges after reduction: the most computation for a given amount of parsing."""

    def edges(text: str) -> int:
        return reduce_graph(build_graph(read_structure(text), GraphConfig())).n_links

    return sorted(some, key=edges)[-count:]


def write_singles(path: Path, some: Sequence[str], models: Sequence[str], attention: str) -> Path:
    """Write bodies of `POST /predict`, one a line, with one crystal each."""
    lines = (json.dumps({"structure": text, "models": models, "attention": attention}) for text in some)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_batches(path: Path, some: Sequence[str], models: Sequence[str], attention: str = "none") -> Path:
    """Write bodies of `POST /predict/batch`, one a line; the ids are the indices of the crystals."""
    structures = [{"id": str(index), "structure": text, "format": "cif"} for index, text in enumerate(some)]
    structures += structures[: -len(structures) % BATCH]  # the last batch is full too
    starts = range(0, len(structures), BATCH)
    options = {"models": models, "attention": attention}
    lines = (json.dumps({"structures": structures[start : start + BATCH]} | options) for start in starts)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
