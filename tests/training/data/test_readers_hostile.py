"""Whatever lies in a file, it becomes a data set or one clear refusal."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.data.catalogue import SUFFIXES, Dataset, read_dataset
from tests.support.data_set_forms import ROWS, folder_of, plain, poscar

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["nan", "1e999", "-", "1_0", "mp-1", "Na", poscar(ROWS[0])]),
    st.just(plain(ROWS[1])),
    st.just({"lattice_mat": [[1, 0, 0]], "elements": 3, "coords": None}),
    st.just({"ids": [1], "nextid": 2, "1": {}}),
)
NAMES = st.sampled_from(["structure", "id", "cif", "targets", "x", "fold", "lattice"])
JSON = st.recursive(
    CELLS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
TEXT = st.one_of(st.binary(max_size=80), st.text(alphabet='1,;\t\n"aé\r2.-=', max_size=60).map(str.encode))
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path) -> Dataset | None:
    """The data set, or None where it was refused with words about that very file."""
    try:
        return read_dataset(str(path))
    except ConfigError as error:
        refusal = error
    assert str(path) in str(refusal)
    return None


@relaxed
@given(content=TEXT)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_bytes(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content)
    read(path)


@relaxed
@given(rows=st.lists(st.dictionaries(NAMES, JSON, max_size=5), min_size=1, max_size=4))
def test_every_record_is_a_row_or_a_refusal(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"structure": plain(ROWS[0])} | row for row in rows]))
    dataset = read(path)
    assert dataset is not None
    assert len(dataset.rows) + len(dataset.refused) == len(rows)
    assert all(refusal.code and refusal.detail for refusal in dataset.refused)
    assert dataset.values(sorted({key for row in dataset.rows for key in row.targets})).dtype == float


@relaxed
@given(document=JSON)
def test_any_json(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document))
    read(path)


@relaxed
@given(lines=st.lists(st.text(alphabet="mp-1069,.;ex \t", max_size=20), min_size=1, max_size=6))
def test_every_line_of_a_folder_is_a_row_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    first, second = ROWS[:2]
    table = "\n".join([f"{first.id},1.5", *lines, f"{second.id},2.5"])
    folder = folder_of(tmp_path_factory.mktemp("folder"), rows=[first, second], table=table)
    dataset = read(folder)
    assert dataset is not None
    written = sum(bool(line.replace(",", "").strip()) for line in lines)
    assert len(dataset.rows) + len(dataset.refused) == written + 2
    assert {first.id, second.id} <= {row.id for row in dataset.rows}
