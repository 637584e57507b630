"""The files with a known right answer, through HTTP and through the command line."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import COMMAND, ROOT

CASES = Path(__file__).parents[2] / "deepergatgnn" / "structures" / "cases"
EXPECTED: dict[str, dict[str, Any]] = json.loads((CASES / "EXPECTED.json").read_text("utf-8"))
MODEL = "bulk-modulus"


def atoms_of(formula: str) -> Counter[str]:
    """Count the atoms of a formula such as Ba2Mg4Pb4."""
    return Counter({symbol: int(count or 1) for symbol, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula)})


def check(name: str, formula: str | None, warnings: list[str]) -> None:
    """Hold an answer, or a refusal (None), against what is right for the file."""
    expected = EXPECTED[name]
    if formula is None:
        assert expected["refusal"], name
        return
    assert not expected.get("only_refusal"), name
    if "counts" in expected:
        assert atoms_of(formula) == expected["counts"], name
    if expected.get("warning"):
        assert warnings, name


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_posted_as_it_is(client: httpx.Client, name: str) -> None:
    reply = client.post(
        "/predict",
        params={"models": MODEL, "attention": "none"},
        content=(CASES / name).read_bytes(),
        headers={"Content-Type": "text/plain"},
    )
    body = reply.json()
    if reply.status_code == 422:
        assert body["detail"]
        check(name, None, [])
    else:
        assert reply.status_code == 200, reply.text
        check(name, body["formula"], body["warnings"])


def test_all_of_them_on_the_command_line() -> None:
    files = [str(CASES / name) for name in sorted(EXPECTED)]
    command = [*COMMAND, "predict", *files, "--model", MODEL, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, "some files are refused"
    rows = json.loads(done.stdout)
    assert len(rows) == len(files)
    for file, row in zip(files, rows, strict=True):
        check(Path(file).name, row.get("formula"), row.get("warnings", []))
