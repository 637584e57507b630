"""Files after public bug reports: each is answered for the right crystal, or refused with a reason."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal, StructureFormat, crystal_to_pymatgen, read_structure

CASES = Path(__file__).parent / "cases"
EXPECTED: dict[str, dict[str, Any]] = json.loads((CASES / "EXPECTED.json").read_text("utf-8"))
FORMATS: dict[str, StructureFormat] = {".cif": "cif", ".vasp": "poscar", ".extxyz": "extxyz", ".json": "json"}


def closest(crystal: Crystal) -> float:
    """The shortest distance between two atoms or an atom and its own image, in Å."""
    structure = crystal_to_pymatgen(crystal)
    distances = np.where(np.eye(len(structure), dtype=bool), np.inf, structure.distance_matrix)
    return float(min(distances.min(), *structure.lattice.abc))


@pytest.mark.parametrize("explicit", [False, True], ids=["auto", "format"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_answered_for_the_right_crystal_or_refused(name: str, explicit: bool) -> None:
    expected = EXPECTED[name]
    try:
        crystal = read_structure((CASES / name).read_bytes(), FORMATS[Path(name).suffix] if explicit else "auto")
    except StructureError as error:
        refusal = error.detail
    else:
        refusal = ""
    if refusal:
        assert expected["refusal"], refusal
        assert len(refusal.split()) > 5, "a refusal names the reason and the remedy"
        return
    assert not expected.get("only_refusal"), f"{crystal.formula}; right: {expected['right']}"
    if "counts" in expected:
        assert Counter(crystal.symbols) == expected["counts"], expected["right"]
    if "closest" in expected:
        assert closest(crystal) == pytest.approx(expected["closest"], abs=0.01)
    if expected.get("warning"):
        assert crystal.warnings


def test_every_file_has_an_expectation() -> None:
    files = {path.name for path in CASES.iterdir()} - {"EXPECTED.json", "README.md"}
    assert files == EXPECTED.keys()
