"""A folder of structure files with a table becomes a served model with two commands and no code."""

import os
import subprocess
from pathlib import Path

import httpx
import numpy as np

from deepergatgnn.model_store import ModelStore
from deepergatgnn.structures import crystal_to_pymatgen
from tests.conftest import COMMAND, ROOT, service
from tests.support.fixtures import some_rows

CONFIG = """
name: mine
data: {folder}
targets:
  - model: my-property
    key: target
    unit: log10(GPa)
network: {{layers: 1, channels: 16, heads: 2, groups: 4}}
optimization: {{epochs: 2}}
"""


def test_a_folder_of_200_cifs_becomes_a_served_model_with_two_commands(tmp_path: Path) -> None:
    folder, store = tmp_path / "own", tmp_path / "store"
    folder.mkdir()
    rows = some_rows(200)
    for row in rows:
        crystal_to_pymatgen(row.crystal).to(folder / f"{row.id}.cif")
    table = "".join(f"{row.id},{row.targets['log10_K_VRH']}\n" for row in rows)
    (folder / "id_prop.csv").write_text(table, "utf-8")
    (tmp_path / "mine.yaml").write_text(CONFIG.format(folder=folder), "utf-8")

    trained = subprocess.run(
        [*COMMAND, "train", str(tmp_path / "mine.yaml"), "--store", str(store), "--runs", str(tmp_path / "runs")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.startswith("my-property@1.0.0: test MAE ")
    assert "formulas shared by train and test 0" in trained.stderr
    manifest = ModelStore(store).verify("my-property")
    assert sum(manifest.provenance.rows.values()) == 200
    assert manifest.provenance.refused == {}

    with service(DEEPERGATGNN_MODEL_STORE=str(store)) as address:
        content = (folder / f"{rows[7].id}.cif").read_bytes()
        reply = httpx.post(
            f"{address}/predict", content=content, headers={"Content-Type": "chemical/x-cif"}, timeout=60
        )
    assert reply.status_code == 200, reply.text
    [answer] = reply.json()["predictions"]
    assert (answer["model"], answer["version"], answer["property"]) == ("my-property", "1.0.0", "target")
    known = np.array([row.targets["log10_K_VRH"] for row in rows])
    assert known.min() < answer["value"] < known.max()
