"""Structures in objects and JSON of ASE."""

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal, read_structure
from deepergatgnn.training.data.readers.rows import optional

REMEDY: Final = "pip install deepergatgnn[ase]"
_PERIODIC: Final = 3  # directions


def crystal_of_ase_json(document: Mapping[str, Any]) -> Crystal:
    """Read the first structure of a file that `ase.io.write("name.json", atoms)` wrote.

    Raises:
        StructureError: as `read_structure`.
        ConfigError: without ASE.
    """
    decode = optional("ase.io.jsonio", REMEDY).decode
    try:
        decoded = decode(json.dumps(document))
        atoms = decoded[decoded["ids"][0]]
        cell, numbers, positions, pbc = (atoms[key] for key in ("cell", "numbers", "positions", "pbc"))
    except Exception as error:
        raise StructureError("unreadable", "The JSON of ASE is incomplete: write it again with ASE.") from error
    return crystal_of_ase(cell, numbers, positions, pbc)


def crystal_of_ase(cell: Any, numbers: Any, positions: Any, pbc: Any) -> Crystal:
    """Read the arrays of an `ase.Atoms`: cell [3, 3] in Å, atomic numbers [N], positions [N, 3] in Å, pbc.

    Raises:
        StructureError: as `read_structure`.
    """
    symbols = optional("ase.data", REMEDY).chemical_symbols
    periodic = int(np.sum(np.broadcast_to(pbc, _PERIODIC)))
    known = range(len(symbols))
    return read_structure(
        {
            "lattice_vectors": np.asarray(cell).tolist(),
            "cartesian_site_positions": np.asarray(positions).tolist(),
            "species_at_sites": [symbols[n] if n in known else f"Z={n}" for n in np.asarray(numbers).tolist()],
            "nperiodic_dimensions": periodic,
        }
    )
