"""Hostile files through the whole service, while another client posts a good one.

    python -m benchmarks.hostile [FOLDER] [--quick]

FOLDER holds real files with an INDEX.tsv, as `structure_files.tar.gz` unpacks; without it the hostile table alone is
posted. A stranger posts every file once, one after the other, as its raw bytes, while a scientist posts one good CIF
again and again, as she did before the stranger came. The last line is one JSON object: answers by status and code,
files of the table that ended otherwise than their rows say (then the exit status is 1), those over two seconds or with
a status of 500 and above, the scientist's median beside the stranger over that before, the memory of the API before and
at most, and of the files that pymatgen reads as ordered crystals the share answered with its composition and size.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from benchmarks.hostile_files import rows_of
from benchmarks.report import finish
from benchmarks.timing import parser
from fuzz.corpus import HOSTILE

GOOD = Path("examples/ZrO2.cif").read_bytes()
LIMIT_S = 2.0
CALM = 200  # good requests before the hostile client starts
QUICK = 10  # --quick takes every tenth file
ENDINGS = {f"hostile: {name}": ending for name, (ending, _) in HOSTILE.items()}
HEADERS = {"Content-Type": "text/plain"}
QUERY = {"models": "bulk-modulus", "attention": "none"}


@dataclass
class Seen:
    """Replies to the hostile client."""

    codes: Counter[str] = field(default_factory=Counter)
    slow: dict[str, float] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    unexpected: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[str, int]] = field(default_factory=dict)
    longest_s: float = 0.0


@contextmanager
def service() -> Iterator[tuple[str, psutil.Process]]:
    """Run a service on one thread and eager."""
    command = [sys.executable, "-c", "from deepergatgnn.commands.main import main; main()", "serve", "--port", "0"]
    settings = {"DEEPERGATGNN_THREADS": "1", "DEEPERGATGNN_COMPILE_AFTER_S": "0", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(  # noqa: S603 - the project's own command
        command, stdout=subprocess.PIPE, text=True, env=os.environ | settings
    )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("ready on "))
        yield line.removeprefix("ready on ").strip(), psutil.Process(process.pid)
    finally:
        process.send_signal(2)
        process.wait(30)


def files(folder: Path | None, every: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every file."""
    for name in list(HOSTILE)[::every]:
        source = HOSTILE[name][1]()
        yield f"hostile: {name}", source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    for row in list(rows_of(folder))[::every] if folder else []:
        yield row["path"], (folder / row["path"]).read_bytes() if folder else b""


def expected(reading: str) -> tuple[str, int]:
    """Return formula and number of atoms of `ok:4 sites:Ac:ordered`."""
    _, sites, formula, _ = reading.split(":")
    return formula, int(sites.split()[0])


async def post_all(client: httpx.AsyncClient, waiting: Iterator[tuple[str, bytes]], seen: Seen) -> None:
    """Post the hostile files one after the other."""
    for name, content in waiting:
        started = time.perf_counter()
        reply = await client.post("/predict", params=QUERY, content=content, headers=HEADERS)
        seconds = time.perf_counter() - started
        seen.longest_s = max(seen.longest_s, seconds)
        body = reply.json()
        code = body.get("code", "answered")
        seen.codes[f"{reply.status_code} {code}"] += 1
        if name in ENDINGS and code != ENDINGS[name]:
            seen.unexpected[name] = code
        if seconds > LIMIT_S:
            seen.slow[name] = round(seconds, 2)
        if reply.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            seen.failed[name] = reply.status_code
        if reply.status_code == httpx.codes.OK:
            seen.answers[name] = (body["reduced_formula"], body["n_atoms"])


async def good_times(client: httpx.AsyncClient, times: list[float], least: int, until: asyncio.Event) -> None:
    """Post the good file repeatedly, at least so many times."""
    while len(times) < least or not until.is_set():
        started = time.perf_counter()
        reply = await client.post("/predict", params=QUERY, content=GOOD, headers=HEADERS)
        assert reply.status_code == httpx.codes.OK, reply.text
        times.append(time.perf_counter() - started)
        await asyncio.sleep(0.01)


async def watch(process: psutil.Process, sizes: list[int], until: asyncio.Event) -> None:
    """Sample the memory of the API process."""
    while not until.is_set():
        sizes.append(process.memory_info().rss)
        await asyncio.sleep(0.1)


async def measure(address: str, process: psutil.Process, folder: Path | None, every: int) -> dict[str, Any]:
    """Measure the good client alone, then beside the hostile one."""
    before, beside, sizes, seen, end = list[float](), list[float](), list[int](), Seen(), asyncio.Event()
    calm = asyncio.Event()
    calm.set()
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        await good_times(client, [], 20, calm)
        await good_times(client, before, CALM, calm)
        watching = asyncio.create_task(watch(process, sizes, end))
        posting = asyncio.create_task(good_times(client, beside, 1, end))
        await post_all(client, files(folder, every), seen)
        end.set()
        await asyncio.gather(watching, posting)
    report: dict[str, Any] = {
        "files": seen.codes.total(),
        "codes": dict(sorted(seen.codes.items())),
        "unexpected": seen.unexpected,
        "over_2_s": seen.slow,
        "status_5xx": seen.failed,
        "longest_s": round(seen.longest_s, 3),
        "good_ms_before": round(1000 * median(before), 2),
        "good_ms_beside": round(1000 * median(beside), 2),
        "good_ratio": round(median(beside) / median(before), 2),
        "api_mib_before": sizes[0] >> 20,
        "api_mib_most": max(sizes) >> 20,
    }
    if folder:
        posted = list(rows_of(folder))[::every]
        ordered = {r["path"]: r["pymatgen_result"] for r in posted if r["pymatgen_result"].endswith(":ordered")}
        right = [path for path, reading in ordered.items() if seen.answers.get(path) == expected(reading)]
        report |= {"ordered_files": len(ordered), "ordered_answered_alike": round(len(right) / len(ordered), 4)}
    return report


def main() -> None:
    """Start the service, post, print."""
    options = parser(__doc__)
    options.add_argument("folder", nargs="?", type=Path, help="real files with an INDEX.tsv")
    given = options.parse_args()
    with service() as (address, process):
        report = asyncio.run(measure(address, process, given.folder, QUICK if given.quick else 1))
    for name, code in report["unexpected"].items():
        print(f"unexpected: {name}: {code}, not {ENDINGS[name]}")
    finish("hostile", report, quick=given.quick or not given.folder)
    sys.exit(bool(report["unexpected"]))


if __name__ == "__main__":
    main()
