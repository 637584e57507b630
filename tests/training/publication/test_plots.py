"""The images beside a card: PNG, small, legible by machine at least, and made of the data alone."""

import io
import re
import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from pymatgen.core import Element

from deepergatgnn.checkpoints.files import CARD, IMAGE
from deepergatgnn.element_features import element_symbol
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.experiments.run import run
from deepergatgnn.training.publication.figures import CAPTIONS, project
from deepergatgnn.training.publication.periodic_table import LAST, draw_elements, place
from deepergatgnn.training.publication.plots import (
    MANY,
    draw_calibration,
    draw_learning,
    draw_parity,
    draw_residuals,
    draw_vectors,
)
from tests.support.fixtures import Published, bundled

LARGEST, ALL_TOGETHER = 60_000, 300_000  # bytes


@pytest.fixture(scope="module")
def moduli() -> tuple[np.ndarray, np.ndarray]:
    """Two moduli of real crystals, one as if it were predicted from the other."""
    bulk, shear = bundled().values(["log10_K_VRH", "log10_G_VRH"]).T
    return bulk, bulk + 0.2 * (shear - bulk)


@pytest.fixture(scope="module")
def illustrated(tiny: Published, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The tiny version again, with its images."""
    store = ModelStore(tmp_path_factory.mktemp("illustrated"))
    runs = Path(shutil.copytree(tiny.runs, tmp_path_factory.mktemp("runs"), dirs_exist_ok=True))
    [manifest] = run(tiny.config, store, runs, device=torch.device("cpu"), report=lambda _: None)
    return Published(tiny.config, store, runs, manifest)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def all_plots(true: np.ndarray, predicted: np.ndarray) -> dict[str, bytes]:
    off = np.abs(predicted - true)
    history = [(float(a), float(b), 1e-3) for a, b in zip(off[:30] + 0.1, off[30:60] + 0.1, strict=True)]
    by_width = {
        f"{name}_{group}": value
        for group in range(1, 6)
        for name, value in {"n": 40.0, "coverage": 1 - off[group], "mae": 0.1, "from": group, "to": group + 1}.items()
    }
    symbols = [element_symbol(number) for number in range(1, 95)]
    return {
        "parity": draw_parity(true, predicted, off > np.quantile(off, 0.95), "log10 K, log10(GPa)", "parity"),
        "residuals": draw_residuals(true, predicted, "log10 K, log10(GPa)", "residuals"),
        "calibration": draw_calibration({0.5: 1 - off[0], 0.9: 0.91}, len(true), by_width, "log10(GPa)"),
        "learning": draw_learning([history, history[::-1]], [3, 4], "l1"),
        "vectors": draw_vectors(np.stack([true, predicted], axis=1), true, "log10 K, log10(GPa)"),
        "elements": draw_elements(
            dict(zip(symbols, off, strict=False)), dict.fromkeys(symbols, 12.0), "log10(GPa)"
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def drawn(moduli: tuple[np.ndarray, np.ndarray]) -> dict[str, bytes]:
    return all_plots(*moduli)


def test_plots_are_png_of_a_sane_size_with_something_on_them(drawn: dict[str, bytes]) -> None:
    for name, content in drawn.items():
        image = Image.open(io.BytesIO(content))
        image.verify()
        assert image.format == "PNG"
        assert 400 < image.width < 1400, name
        assert 300 < image.height < 900, name
        assert len(content) < LARGEST, name
        assert (pixels(content) < 250).any(axis=2).mean() > 0.02, name
        assert not image.info.keys() & {"Software", "Creation Time", "date:create"}, name
    assert sum(map(len, drawn.values())) < ALL_TOGETHER


def test_the_same_data_give_the_same_bytes_and_leave_no_trace(
    moduli: tuple[np.ndarray, np.ndarray], drawn: dict[str, bytes]
) -> None:
    settings = dict(mpl.rcParams)
    assert all_plots(*moduli) == drawn
    assert dict(mpl.rcParams) == settings


def test_other_data_give_other_bytes(moduli: tuple[np.ndarray, np.ndarray], drawn: dict[str, bytes]) -> None:
    true, predicted = moduli
    for name, content in all_plots(true, predicted * np.linspace(0.8, 1.2, len(true))).items():
        assert content != drawn[name], name


def test_many_points_are_counted_in_hexagons(moduli: tuple[np.ndarray, np.ndarray]) -> None:
    true, predicted = (np.tile(each, 20) for each in moduli)
    assert len(true) > MANY
    drawn = draw_parity(true, predicted, np.zeros(len(true), bool), "x", "y"), draw_residuals(true, predicted, "x", "y")
    assert all(len(content) < LARGEST for content in drawn)


@pytest.mark.parametrize("count", [1, MANY + 1])
def test_crystals_that_are_all_the_same_are_drawn(count: int) -> None:
    same = np.full(count, 2.5)
    assert pixels(draw_parity(same, same, np.full(count, fill_value=True), "x", "y")).min() < 50
    assert pixels(draw_residuals(same, same, "x", "y")).min() < 50
    assert pixels(draw_vectors(np.zeros((count, 2)), same, "x")).min() < 50


def test_names_are_not_read_as_mathematics_or_refused_for_their_letters() -> None:
    values = np.arange(4.0)
    for name in ("a$b_{, 10^3 $/kg \\frac{", "模量 🙂 %s"):
        assert draw_parity(values, values, values > 2, name, name)
        assert draw_calibration({0.9: 0.9}, 4, {}, name)
    assert draw_elements({"Fe": 0.1}, {"Fe": 3.0}, "a$b_{ 模")


def test_an_unfinished_history_is_drawn() -> None:
    assert draw_learning([[]], [0], "l1")
    assert draw_learning([[(1.0, 0.5, 1e-3)], [(3.0, 0.005, 1e-3)] * 3], [1, 3], "huber")


def test_elements_stand_where_pymatgen_puts_them() -> None:
    places = {number: place(number) for number in range(1, LAST + 1)}
    assert len(set(places.values())) == LAST
    for number, (row, column) in places.items():
        element = Element.from_Z(number)
        if element.is_lanthanoid or element.is_actinoid:
            assert (row, column) == (element.row + 3, 3 + number - (57 if element.is_lanthanoid else 89))
        else:
            assert (row, column) == (element.row, element.group), element


def test_an_element_without_crystals_is_grey_and_one_with_is_not() -> None:
    without, some = (pixels(draw_elements(errors, {"Fe": 9.0}, "eV")) for errors in ({}, {"Fe": 1.0}))
    grey = [int((image == 0xEE).all(axis=2).sum()) for image in (without, some)]
    assert 0.9 / LAST < 1 - grey[1] / grey[0] < 1.1 / LAST


def test_neighbours_stay_neighbours_in_the_plane() -> None:
    rng = np.random.default_rng(0)
    centres = 50 * np.eye(3, 16)
    vectors = np.concatenate([centre + rng.normal(size=(40, 16)) for centre in centres])
    places = project(vectors)
    assert places is not None
    assert places.shape == (120, 2)
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    nearest = np.argsort(distances, axis=1)[:, 1]
    assert (nearest // 40 == np.arange(120) // 40).mean() > 0.98
    np.testing.assert_array_equal(places, project(vectors))


def test_nothing_is_projected_where_there_is_nothing_to_see() -> None:
    assert project(np.random.default_rng(0).normal(size=(4, 16))) is None
    assert project(np.ones((50, 16))) is None
    assert project(np.random.default_rng(0).normal(size=(5, 16))) is not None


def test_a_version_carries_its_images_and_its_card_shows_them(illustrated: Published) -> None:
    images = {name: content for name, content in illustrated.files().items() if IMAGE.fullmatch(name)}
    assert images.keys() == CAPTIONS.keys()
    assert all(len(content) < LARGEST for content in images.values())
    assert sum(map(len, images.values())) < ALL_TOGETHER
    card = (illustrated.folder / CARD).read_text("utf-8")
    assert set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card)) == images.keys()
    assert illustrated.store.verify(illustrated.manifest.name) == illustrated.manifest
    assert illustrated.manifest.files.keys() >= images.keys()


def test_without_plots_the_version_is_the_same_but_for_them(tiny: Published, illustrated: Published) -> None:
    assert not [name for name in tiny.files() if IMAGE.fullmatch(name)]
    assert "![" not in (tiny.folder / CARD).read_text("utf-8")
    assert illustrated.manifest.metrics == tiny.manifest.metrics
    weights = "model.safetensors"
    assert illustrated.files()[weights] == tiny.files()[weights]
