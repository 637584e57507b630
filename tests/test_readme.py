"""What the README says is true: its commands run, its answer is the answer, its configuration is one."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig

README = Path("README.md").read_text("utf-8")
PLACE = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def asked(command: str, address: str) -> dict[str, Any]:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace(PLACE, address)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_curl_is_answered(address: str) -> None:
    commands = blocks("bash")
    assert len(commands) >= 2
    for command in commands:
        assert asked(command, address)["predictions"], command


def test_the_answer_shown_is_the_answer(address: str) -> None:
    answer, (shown,) = asked(blocks("bash")[0], address), map(json.loads, blocks("json"))
    assert answer.keys() == shown.keys()
    assert answer["latency_ms"].keys() == shown["latency_ms"].keys()
    for key in ("formula", "reduced_formula", "n_atoms", "n_edges", "warnings"):
        assert answer[key] == shown[key]
    (ours,), (theirs,) = answer["predictions"], shown["predictions"]
    assert ours["value"] == pytest.approx(theirs["value"], abs=2e-4)
    assert ours["interval"] == pytest.approx(theirs["interval"], abs=2e-4)
    assert [a["weight"] for a in ours["attention"]] == pytest.approx(
        [a["weight"] for a in theirs["attention"]], abs=2e-4
    )


def test_the_python_shown_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - the project's own page
    value, unit, low, high = capsys.readouterr().out.split()
    assert (float(low) < float(value) < float(high), unit) == (True, "log10(GPa)")


def test_the_configuration_shown_is_one() -> None:
    (text,) = blocks("yaml")
    assert TrainingConfig.model_validate(yaml.safe_load(text)).targets[0].model == "my-property"


def test_the_table_says_what_the_manifests_say() -> None:
    store = ModelStore()
    for name in store.names():
        manifest = store.manifest(name)
        (line,) = re.findall(rf"^\| {name} {manifest.version} \|.*$", README, re.MULTILINE)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert float(cells[2]) == pytest.approx(manifest.metrics["test"]["mae"], abs=5e-5)
        assert float(cells[-1].removesuffix(" %")) == pytest.approx(
            100 * manifest.metrics["test"]["coverage_90"], abs=0.05
        )


def test_shipped_models_are_whole() -> None:
    store = ModelStore()
    assert {"bulk-modulus", "shear-modulus"} <= set(store.names())
    for name in store.names():
        for version in store.versions(name):
            store.verify(f"{name}@{version}")
