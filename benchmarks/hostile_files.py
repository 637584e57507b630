"""`read_structure` on the hostile corpus and a folder of real files: codes, seconds, memory.

    python -m benchmarks.hostile_files [FOLDER] [--quick]

FOLDER holds the files with an INDEX.tsv (`path`, `pymatgen_result`), as `structure_files.tar.gz` unpacks; without it
the hostile table alone is read. Each hostile file is read by a process of its own.

pymatgen reads some files as ordered crystals that do not exist: with atoms on top of each other, or with another
formula than the file's own `_chemical_formula_sum`. What is left without them is called sound here.
"""

import csv
import json
import os
import re
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pymatgen.core import Composition
from pymatgen.io.cif import CifParser
from pymatgen.io.vasp import Poscar

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal, read_structure
from fuzz.corpus import HOSTILE

QUICK = 10  # --quick takes every tenth file
MIN_DISTANCE = 0.5  # Å; the default of `Structure.is_valid`
FORMULA = re.compile(r"^_chemical_formula_sum\s+['\"]?([A-Z][A-Za-z0-9. ]*?)['\"]?\s*$", re.MULTILINE)


class Ending(NamedTuple):
    """Ending of one file: code or `answered`, seconds of processor time, and the crystal."""

    code: str
    seconds: float
    crystal: Crystal | None


def read(source: str | bytes) -> Ending:
    """Read one file."""
    started = time.process_time()
    try:
        crystal = read_structure(source)
    except StructureError as error:
        return Ending(error.code, time.process_time() - started, None)
    return Ending("answered", time.process_time() - started, crystal)


def in_child(name: str) -> tuple[str, float, float]:
    """Read one hostile file in a child process; return code, seconds, and growth in MiB."""
    source = HOSTILE[name][1]()
    receiving, sending = os.pipe()
    if (child := os.fork()) == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ending = read(source)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        os.write(sending, json.dumps([ending.code, ending.seconds, grown]).encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        reply = pipe.read()
    os.waitpid(child, 0)
    code, seconds, grown = json.loads(reply) if reply else ("killed", float("inf"), float("inf"))
    return code, seconds, grown


def hostile(every: int) -> dict[str, Any]:
    """Read the corpus; return the files with unexpected endings, and the largest costs."""
    endings = {name: in_child(name) for name in list(HOSTILE)[::every]}
    slowest = max(endings, key=lambda name: endings[name][1])
    largest = max(endings, key=lambda name: endings[name][2])
    return {
        "hostile_files": len(endings),
        "hostile_codes": Counter(code for code, _, _ in endings.values()),
        "hostile_unexpected": [name for name, (code, _, _) in endings.items() if code != HOSTILE[name][0]],
        "hostile_slowest": [slowest, round(endings[slowest][1], 3)],
        "hostile_largest_mib": [largest, round(endings[largest][2])],
    }


def rows_of(folder: Path) -> Iterator[dict[str, str]]:
    """Return the lines of the index."""
    with (folder / "INDEX.tsv").open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t")


def agrees(crystal: Crystal, reading: str) -> bool:
    """Return whether the crystal has the atoms and the formula of `ok:4 sites:Ac:ordered`."""
    _, sites, formula, _ = reading.split(":")
    return crystal.n_atoms == int(sites.split()[0]) and crystal.reduced_formula == formula


def contradicted(path: Path, reading: str) -> bool:
    """Return whether the file states another formula than pymatgen reads."""
    stated = FORMULA.search(path.read_text("latin-1"))
    if stated is None:
        return False
    try:
        return bool(Composition(stated[1]).reduced_formula != Composition(reading.split(":")[2]).reduced_formula)
    except ValueError:
        return False  # no formula that could contradict


def overlaps(path: Path) -> bool:
    """Return whether atoms overlap in the reading of pymatgen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_by = Poscar.from_file(path, check_for_potcar=False) if "poscar" in path.as_posix() else CifParser(path)
        found = read_by.structure if isinstance(read_by, Poscar) else read_by.parse_structures(primitive=False)[0]
    return not found.is_valid(MIN_DISTANCE)


def real(folder: Path, every: int) -> dict[str, Any]:
    """Read the folder; return endings by code, and agreement with pymatgen on its ordered crystals."""
    codes: Counter[str] = Counter()
    of_ordered: Counter[str] = Counter()
    of_sound: Counter[str] = Counter()
    same = 0
    slowest = ("", 0.0)
    for row in list(rows_of(folder))[::every]:
        ending = read((folder / row["path"]).read_bytes())
        codes[ending.code] += 1
        slowest = max(slowest, (row["path"], ending.seconds), key=lambda one: one[1])
        if row["pymatgen_result"].endswith(":ordered"):
            of_ordered[ending.code] += 1
            alike = ending.crystal is not None and agrees(ending.crystal, row["pymatgen_result"])
            same += alike
            unsound = contradicted(folder / row["path"], row["pymatgen_result"]) or (
                not alike and overlaps(folder / row["path"])  # those that are alike kept our own 0.5 Å
            )
            if not unsound:
                of_sound["alike" if alike else ending.code] += 1
            if not alike:
                here = ending.crystal or ending.code
                why = " (unsound)" if unsound else ""
                print(f"  differs{why}: {row['path']}: {row['pymatgen_result']}, here {here}")
    ordered = sum(of_ordered.values())
    return {
        "files": sum(codes.values()),
        "codes": codes,
        "ordered": ordered,
        "ordered_codes": of_ordered,
        "ordered_answered": round(of_ordered["answered"] / max(1, ordered), 4),
        "ordered_same_atoms": round(same / max(1, ordered), 4),
        "sound": sum(of_sound.values()),
        "sound_endings": of_sound,
        "sound_same_atoms": round(of_sound["alike"] / max(1, sum(of_sound.values())), 4),
        "slowest": [slowest[0], round(slowest[1], 3)],
    }


def main() -> None:
    """Print the figures, the last line as JSON."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--quick"]
    every = QUICK if "--quick" in sys.argv else 1
    figures = hostile(every)
    if arguments:
        figures |= real(Path(arguments[0]), every)
    for name, value in figures.items():
        print(f"{name:20} {dict(value) if isinstance(value, Counter) else value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
