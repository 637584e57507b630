"""Rules that ruff, mypy and import-linter (`make lint`) cannot check."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("deepergatgnn", "model_store", "training", "service", "commands")
ABSENT_ON_A_BARE_MACHINE = ["ase", "gemmi", "matplotlib", "pydantic", "pymatgen", "sklearn", "spglib", "typer", "yaml"]


def bare_modules() -> list[str]:
    """What a machine without the libraries for structures and documents must be able to import."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    [modules] = [each["source_modules"] for each in contracts if "pydantic" in each.get("forbidden_modules", ())]
    return list(modules)


def test_training_from_a_prepared_cache_needs_few_libraries() -> None:
    """The libraries are hidden, so that what others import optionally does not count."""
    modules = bare_modules()
    assert {
        "deepergatgnn.training.fit.loop",
        "deepergatgnn.training.config.optimization",
        "deepergatgnn.training.fit.checkpoint",
        "deepergatgnn.nn",
    } <= set(modules)
    code = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT_ON_A_BARE_MACHINE}))
for module in {modules}:
    __import__(module)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_folders_beside_the_kernel_are_imported_by_the_name_of_the_distribution() -> None:
    """`deepergatgnn.service` is `service/`: the wheel puts one name into site-packages."""
    pattern = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(PACKAGES[1:])})\b", re.MULTILINE)
    sources = [path for folder in (*PACKAGES, "benchmarks", "fuzz", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in sources if pattern.search(path.read_text("utf-8"))] == []
    for package in PACKAGES[1:]:
        assert (ROOT / "deepergatgnn" / package).resolve() == ROOT / package


def test_nothing_is_left_to_do_in_code() -> None:
    pattern = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")
    found = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py") if pattern.search(p.read_text("utf-8"))]
    assert found == []
