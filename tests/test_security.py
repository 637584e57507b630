"""SECURITY.md says what the code says: every limit, its default, and the names of settings and codes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.service.http.access import HEALTH_PATHS, OPEN_PATHS
from deepergatgnn.service.http.protocol import Connection
from deepergatgnn.service.http.rate_limits import BURST_S
from deepergatgnn.service.parsing.json_bodies import JsonLimit
from deepergatgnn.service.settings import LOOPBACK, Settings
from deepergatgnn.structures.limits import StructureLimits

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
PREFIX = "DEEPERGATGNN_"
# Numbers among the settings that bound nothing a stranger can do.
NO_LIMITS = {
    "port",
    "threads",
    "compile_after_s",
    "cache_entries",
    "lease_s",
    "heartbeat_s",
    "absence_s",
    "drain_grace_s",
    "drain_s",
}


def setting(name: str) -> object:
    return Settings.model_fields[name].default


def structure_limit(name: str) -> object:
    return getattr(StructureLimits(), name)


def graph_limit(name: str) -> object:
    return getattr(GraphConfig(), name)


def rows() -> list[tuple[str, str]]:
    """Name and default of each row of the table of limits."""
    section = TEXT.partition("## Limits")[2].partition("\n## ")[0]
    found = [re.split(r" *\| *", line.strip("| ")) for line in section.splitlines() if line.startswith("|")]
    return [(re.sub("`", "", cells[1]), cells[2]) for cells in found[2:]]


def connection_limit(name: str) -> object:
    return getattr(Connection, name)


def json_limit(name: str) -> object:
    return JsonLimit[name]


HOMES: dict[str, Callable[[str], object]] = {
    "Connection.": connection_limit,
    "JsonLimit.": json_limit,
    PREFIX: lambda name: setting(name.lower()),
    "StructureLimits.": structure_limit,
    "GraphConfig.": graph_limit,
}


@pytest.mark.parametrize(("name", "default"), [row for row in rows() if "=" not in row[0]])
def test_a_default_is_that_of_the_code(name: str, default: str) -> None:
    [(prefix, home)] = [(prefix, home) for prefix, home in HOMES.items() if name.startswith(prefix)]
    number = re.match(r"[\d,.]+", default)
    assert number is not None, default
    assert float(number[0].replace(",", "")) == home(name.removeprefix(prefix))


def test_every_limit_is_in_the_table() -> None:
    told = {name for name, _ in rows()}
    limits = {f"StructureLimits.{name}" for name in StructureLimits.model_fields}
    limits |= {f"JsonLimit.{limit.name}" for limit in JsonLimit}
    limits |= {
        PREFIX + name.upper()
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, int | float) and not isinstance(field.default, bool) and name not in NO_LIMITS
    }
    assert limits - told == set()
    assert len(rows()) == len(told)


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", TEXT))
    assert named
    assert named - {name.upper() for name in Settings.model_fields} == set()


def test_every_code_that_is_named_is_one_of_the_code() -> None:
    codes = set(re.findall(r"4\d\d `([a-z_]+)`", TEXT))
    assert {"rate_limited", "wrong_host", "wrong_origin", "magnetic_cif", "too_dense"} <= codes
    sources = [
        path.read_text("utf-8") for package in ("service", "deepergatgnn") for path in (ROOT / package).rglob("*.py")
    ]
    assert [code for code in sorted(codes) if not any(f'"{code}"' in source for source in sources)] == []


def test_the_open_paths_and_names_are_told() -> None:
    for path in OPEN_PATHS:
        assert f"`{path}`" in TEXT
    assert HEALTH_PATHS < OPEN_PATHS
    for name in LOOPBACK:
        assert f"`{name}`" in TEXT
    assert BURST_S == 10
    assert "ten seconds of the rate" in TEXT


def test_reports_go_to_no_invented_address() -> None:
    assert "private vulnerability report" in TEXT
    assert not re.search(r"[\w.]+@[\w-]+\.\w+", TEXT)


def test_no_payload_is_given_away() -> None:
    assert "**" not in TEXT.partition("## Known in libraries below")[2]
    assert not re.search(r"\d\^\d|\de\d{3}|_space_group_magn|_parent_", TEXT)


# Two values of a magnetic key that a library below takes for a sum to work out: a tower of powers, a shift beyond
# every cell. They are refused by the name of the key, and are described, not shown.
TOWER = re.compile(rb"\d\s*\*\*\s*\d+\s*\*\*\s*\d")
BESIDE_THE_KEY = re.compile(rb"transform_\w*abc\b[^\n]*\n?[^\n]*?(?:\d\*\*\d|\de\+?\d{3})", re.IGNORECASE)

IGNORED = {name.strip("/") for name in (ROOT / ".gitignore").read_text("utf-8").split()} | {".git"}
LARGE = 8 * 2**20  # bytes


def holds_a_payload(content: bytes) -> bool:
    return bool(TOWER.search(content) or BESIDE_THE_KEY.search(content))


def files_of(folder: Path) -> Iterator[Path]:
    """The files of the project: none that a tool made, no links, no large data."""
    for path in folder.iterdir():
        if path.is_symlink() or path.name in IGNORED:
            continue
        if path.is_dir():
            yield from files_of(path)
        elif path.stat().st_size < LARGE:
            yield path


def test_no_file_of_the_project_holds_a_payload() -> None:
    files = list(files_of(ROOT))
    assert Path(__file__) in files
    assert [str(path.relative_to(ROOT)) for path in files if holds_a_payload(path.read_bytes())] == []


@pytest.mark.parametrize("value", ["**".join("9999"), "1" + "e" + "9" * 8, "0"])
@pytest.mark.parametrize("between", [" '", "\n'"])
def test_a_payload_would_be_found(value: str, between: str) -> None:
    line = f"_space_group_magn.transform_BNS_Pp_abc{between}a,b,c;{value},0,0'\n"
    assert holds_a_payload(line.encode()) == (value != "0")
