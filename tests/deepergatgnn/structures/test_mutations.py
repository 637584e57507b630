"""Real files, damaged: bytes flipped, lines lost and doubled, words replaced by hostile ones, two files spliced.

`DEEPERGATGNN_MUTATIONS=10000` makes the long run, and `DEEPERGATGNN_STRUCTURE_FILES=FOLDER` adds the files of a folder.
"""

import gzip
import json
import os
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp.inputs import Poscar

from deepergatgnn.structures import crystal_from_arrays, crystal_to_pymatgen
from fuzz.mutations import TOKENS, mutate
from fuzz.properties import violated_property

ROOT = Path(__file__).parents[3]
ROWS = ROOT / "training" / "examples" / "elastic_tensor_2015.jsonl.gz"
FOLDERS = [Path(__file__).parent / "structure_files", ROOT / "examples"]
if "DEEPERGATGNN_STRUCTURE_FILES" in os.environ:
    FOLDERS.append(Path(os.environ["DEEPERGATGNN_STRUCTURE_FILES"]))
EXAMPLES = int(os.environ.get("DEEPERGATGNN_MUTATIONS", "300"))
EVERY = 120  # of 1,128 rows: ten crystals, written in four ways each
LARGEST = 64 * 1024  # bytes; a larger file takes its time and shows nothing new


def load_files() -> list[bytes]:
    paths = sorted(path for folder in FOLDERS for path in folder.rglob("*") if path.is_file())
    files = [path.read_bytes() for path in paths if path.stat().st_size <= LARGEST]
    with gzip.open(ROWS, "rt", encoding="utf-8") as lines, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, of how pymatgen calls it
        for index, line in enumerate(lines):
            if index % EVERY == 0:
                structure = crystal_to_pymatgen(crystal_from_arrays(**json.loads(line)["structure"]))
                written = (
                    Poscar(structure).get_str(),
                    str(CifWriter(structure)),
                    str(CifWriter(structure, symprec=0.01)),
                    json.dumps(structure.as_dict()),
                )
                files += [text.encode() for text in written]
    return files


FILES = load_files()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="DEEPERGATGNN_MUTATIONS" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(file=st.sampled_from(FILES), other=st.sampled_from(FILES), seed=st.integers(0, 2**64))
def test_damaged_files_raise_nothing_else(file: bytes, other: bytes, seed: int) -> None:
    damaged = mutate(file, other, random.Random(seed))  # noqa: S311 - no secret
    assert violated_property(damaged) is None


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: repr(token[:20]))
def test_a_hostile_word_anywhere_raises_nothing_else(token: bytes) -> None:
    for file in FILES[:16]:
        words = file.split(b" ")
        for index in range(0, len(words), max(1, len(words) // 8)):
            assert violated_property(b" ".join([*words[:index], token, *words[index + 1 :]])) is None


def test_whole_files_violate_no_property() -> None:
    assert [broken for file in FILES if (broken := violated_property(file))] == []


def test_damage_depends_on_the_seed_alone() -> None:
    one, again, another = (mutate(FILES[0], FILES[1], random.Random(seed)) for seed in (3, 3, 4))  # noqa: S311 - no secret
    assert one == again
    assert one not in (another, FILES[0])
