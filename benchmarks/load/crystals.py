"""Real crystals as the bodies of requests."""

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
    """CIF of every crystal of a data set, in an order that makes any stretch of them like the whole."""
    rows = list(read_dataset(data).rows)
    random.Random(0).shuffle(rows)  # noqa: S311 - an order, no secret
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's and spglib's, of every file
        return [str(crystal_to_pymatgen(row.crystal).to(fmt="cif")) for row in rows]


def dearest(some: Sequence[str], count: int) -> list[str]:
    """Those with the most edges after merging: the most to compute for what there is to parse."""

    def edges(text: str) -> int:
        return reduce_graph(build_graph(read_structure(text), GraphConfig())).n_links

    return sorted(some, key=edges)[-count:]


def write_singles(path: Path, some: Sequence[str], models: Sequence[str], attention: str) -> Path:
    """Bodies of `POST /predict`, one a line, a crystal each."""
    lines = (json.dumps({"structure": text, "models": models, "attention": attention}) for text in some)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_batches(path: Path, some: Sequence[str], models: Sequence[str], attention: str = "none") -> Path:
    """Bodies of `POST /predict/batch`, one a line; ids are the crystals' indices."""
    structures = [{"id": str(index), "structure": text, "format": "cif"} for index, text in enumerate(some)]
    structures += structures[: -len(structures) % BATCH]  # the last batch is whole as well
    starts = range(0, len(structures), BATCH)
    wanted = {"models": models, "attention": attention}
    lines = (json.dumps({"structures": structures[start : start + BATCH]} | wanted) for start in starts)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
