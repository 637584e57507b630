"""Where a checkpoint is: names of a store, and folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from pymatgen.core import Lattice, Structure

from deepergatgnn.checkpoints.locations import SHIPPED, checkpoint_folder
from deepergatgnn.errors import ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.structures import crystal_to_pymatgen
from tests.support.fixtures import Published, pair, some_crystals

__all__ = ["pair"]

NAME = "tiny-bulk-modulus"


def test_a_name_stands_for_what_the_store_has_in_production(tiny: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    for reference in (NAME, f"{NAME}@1.0.0"):
        assert checkpoint_folder(reference, tiny.store.root) == tiny.folder
    monkeypatch.setenv("DEEPERGATGNN_MODEL_STORE", str(tiny.store.root))
    assert checkpoint_folder(NAME) == tiny.folder
    monkeypatch.setenv("DEEPERGATGNN_MODEL_STORE", "")
    assert checkpoint_folder("bulk-modulus") == ModelStore().folder("bulk-modulus")


def test_the_shipped_store_is_that_of_the_store() -> None:
    assert ModelStore().root == SHIPPED
    for name in ModelStore().names():
        assert checkpoint_folder(name, SHIPPED) == ModelStore().folder(name)


def test_a_folder_is_one(tiny: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoint_folder(tiny.folder) == tiny.folder
    assert checkpoint_folder(str(tiny.folder)) == tiny.folder
    shutil.copytree(tiny.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("copy", tiny.store.root) == Path("copy")  # the store has no such model
    shutil.copytree(tiny.folder, tmp_path / NAME)
    assert checkpoint_folder(NAME, tiny.store.root) == tiny.folder
    assert checkpoint_folder(f"./{NAME}", tiny.store.root) == Path(NAME)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("no-such-model", f"no model 'no-such-model': the store has {NAME}"),
        (f"{NAME}@9.0.0", "no version 9.0.0: it has 1.0.0"),
        ("../etc", "is not a model"),
        (f"{NAME}@", "is not a model"),
        ("", "is not a model"),
    ],
)
def test_what_is_not_there_is_told(reference: str, said: str, tiny: Published) -> None:
    with pytest.raises(ModelNotFoundError, match=said):
        checkpoint_folder(reference, tiny.store.root)


@pytest.mark.parametrize("pointer", [None, b"", b"latest\n", b"\xff\xfe", b"../../1.0.0", "folder"])
def test_a_pointer_that_names_no_version(pointer: bytes | str | None, tiny: Published, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(tiny.store.root, root)
    (root / NAME / "production").unlink()
    if pointer == "folder":
        (root / NAME / "production").mkdir()
    elif isinstance(pointer, bytes):
        (root / NAME / "production").write_bytes(pointer)
    with pytest.raises(ModelNotFoundError, match=f"write {NAME}@VERSION, one of 1.0.0"):
        checkpoint_folder(NAME, root)
    assert checkpoint_folder(f"{NAME}@1.0.0", root).name == "1.0.0"


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no store"):
        checkpoint_folder(NAME, tmp_path / "nowhere")


def test_a_predictor_is_loaded_by_name_and_predicts_objects(tiny: Published) -> None:
    predictor = Predictor.load(NAME, "auto", store=tiny.store.root)
    assert predictor.unit == "log10(GPa)"
    for crystal in some_crystals(3):
        structure = crystal_to_pymatgen(crystal)
        atoms = Atoms(crystal.symbols, scaled_positions=crystal.frac_coords, cell=crystal.lattice, pbc=True)
        one, *others = predictor.predict_structures([crystal, structure, atoms, structure.to(fmt="poscar")])
        assert others
        for other in others:
            assert other.value == pytest.approx(one.value, abs=1e-4)
            assert len(other.attention) == crystal.n_atoms


def test_a_prediction_says_what_was_not_used(tiny: Published) -> None:
    oxide = Structure(Lattice.cubic(4.2), ["Mg2+", "O2-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    [warning] = Predictor.load(tiny.folder).predict_structure(oxide).warnings
    assert "Oxidation states" in warning


def test_embeddings_are_the_vectors_of_the_first_network(pair: Published) -> None:
    predictor = Predictor.load(pair.folder)
    crystals = some_crystals(5)
    together = predictor.embed_structures(crystals)
    assert (together.shape, together.dtype) == ((5, 16), np.dtype(np.float32))
    for crystal, row in zip(crystals, together, strict=True):
        assert np.abs(row).max() > 0
        found = predictor.predict_structure(crystal_to_pymatgen(crystal) * (2, 1, 1)).embedding
        np.testing.assert_allclose(found, row, rtol=1e-4, atol=1e-5)
    assert len({row.tobytes() for row in together}) == 5
    alone = Predictor(predictor.manifest, predictor.networks[:1], predictor._domain)
    np.testing.assert_allclose(alone.embed_structures(crystals), together, rtol=1e-6)
    assert predictor.embed_structures([]).shape == (0, 16)
