"""Write docker/*.lock: what each image installs, in exact versions, with the sha256 of every file an index offers.

    python docker/lock.py                  needs a package index: that of --index, else of PIP_INDEX_URL, else pip's own
    python docker/lock.py --check          compares names and versions with constraints.txt and pyproject.toml, offline

Versions come from constraints.txt; names from what the installed packages say they need on Linux (x86_64, aarch64) with
CPython 3.11 to 3.13, so run it where the project is installed (`make setup`). torch is left out: its wheels differ
between PyTorch's own index and PyPI, and between CPUs and GPUs; each image takes it by itself, first, by version.
"""  # noqa: INP001 - a script, not a package

import argparse
import json
import os
import re
import sys
import tomllib
import urllib.request
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
EXTRAS = {"api": ["service"], "worker": ["service", "inference"]}
BUILD = {"setuptools": "84.2.1"}  # makes the wheel of the project, and of what is offered as a source only
OLD = {"async-timeout": "5.0.1"}  # needed before Python 3.11.3 only, so seldom installed where the constraints are made
WITHOUT_HASH = {"torch"}
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
PLATFORM = re.compile(rf"any|(?:manylinux\w*|linux)_(?:{'|'.join(MACHINES)})")
INTERPRETERS = {f"cp{version.replace('.', '')}" for version in PYTHONS}
HEADER = (
    "# Made by docker/lock.py from constraints.txt: what the image installs, and nothing else. Not torch: see there.\n"
)
PATIENCE_S = 60
File = tuple[str, str]  # name, sha256


def pins() -> dict[str, str]:
    """Versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version.strip() for name, version in found}


def lists() -> dict[str, dict[str, str]]:
    """Version by name of what each list holds."""
    return {"build": BUILD} | {image: needed(extras) for image, extras in EXTRAS.items()}


def needed(extras: Iterable[str]) -> dict[str, str]:
    """Version of every package that the project with these extras needs, and that those need.

    Raises:
        SystemExit: if one of them is not pinned.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    waiting = [Requirement(line) for line in project["dependencies"]]
    waiting += [Requirement(line) for extra in extras for line in project["optional-dependencies"][extra]]
    versions, seen, known = {}, set(), OLD | BUILD | pins()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        if name not in known:
            raise SystemExit(f"{name} is not in constraints.txt")
        versions[name] = known[name]
        lines = [Requirement(line) for line in (name not in OLD and requires(name)) or ()]
        waiting += [line for line in lines if _applies(line, requirement.extras)]
    return {name: versions[name] for name in sorted(versions) if name not in WITHOUT_HASH}


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether a requirement holds on any of the platforms."""
    environments = (
        {
            "python_version": python,
            "python_full_version": f"{python}.{patch}",
            "platform_machine": machine,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "extra": extra,
        }
        for python in PYTHONS
        for patch in (0, 99)
        for machine in MACHINES
        for extra in ("", *extras)
    )
    return requirement.marker is None or any(requirement.marker.evaluate(each) for each in environments)


def offered(index: str, name: str, version: str) -> list[File]:
    """The wheels of a version that run on one of the platforms; its source if it has no wheel at all.

    Raises:
        SystemExit: if there is neither.
    """
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
    request = urllib.request.Request(f"{index.rstrip('/')}/{name}/", headers={"Accept": accept})  # noqa: S310 - one's own index
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
        is_json, text = "json" in answer.headers["content-type"], answer.read().decode()
    files: list[File]
    if is_json:
        files = [(file["filename"], file["hashes"].get("sha256", "")) for file in json.loads(text)["files"]]
    else:
        files = re.findall(r"<a\b[^>]*#sha256=([0-9a-f]{64})[^>]*>([^<]+)</a>", text)
        files = [(file.strip(), digest) for digest, file in files]
    sources = {f"{name}-{version}.tar.gz", f"{name.replace('-', '_')}-{version}.tar.gz"}
    files = [file for file in files if file[1]]
    found = {file for file in files if _runs(file[0], version)} or {file for file in files if file[0] in sources}
    if not found:
        raise SystemExit(f"the index offers neither wheel nor source of {name}=={version} with a sha256")
    return sorted(found)


def _runs(file: str, version: str) -> bool:
    if not file.endswith(".whl") or file.split("-")[1] != version:  # names of old versions may not be names any more
        return False
    tags = parse_wheel_filename(file)[3]
    return any(_fits(tag.interpreter, tag.abi, tag.platform) for tag in tags)


def _fits(interpreter: str, abi: str, platform: str) -> bool:
    """Whether one of the interpreters takes a wheel with this tag; a stable ABI serves later ones too."""
    if not PLATFORM.fullmatch(platform):
        return False
    if abi == "abi3":
        return int(interpreter.removeprefix("cp3")) <= int(PYTHONS[-1].removeprefix("3."))
    return (abi == "none" and interpreter in {"py3", "py2.py3", *INTERPRETERS}) or (
        interpreter in INTERPRETERS and abi == interpreter
    )


def read_lock(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Version and digests by name."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    found = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {
        words[0].split("==")[0]: (words[0].split("==")[1], [word.removeprefix("--hash=sha256:") for word in words[1:]])
        for words in found
    }


def write_lock(path: Path, versions: dict[str, str], index: str) -> None:
    """Write one list."""
    entries = []
    for name, version in versions.items():
        digests = [f"    --hash=sha256:{digest}" for _, digest in offered(index, name, version)]
        entries.append(" \\\n".join([f"{name}=={version}", *digests]) + "\n")
    path.write_text(HEADER + "".join(entries), "utf-8")


def differences() -> list[str]:
    """What the lists say otherwise than constraints.txt and pyproject.toml."""
    found = []
    for image, wanted in lists().items():
        locked = {name: version for name, (version, _) in read_lock(FOLDER / f"{image}.lock").items()}
        found += [
            f"{image}.lock: {name} is {locked.get(name)}, wanted {wanted.get(name)}"
            for name in sorted(locked.keys() | wanted.keys())
            if locked.get(name) != wanted.get(name)
        ]
    return found


def main() -> int:
    """Write or check the lists; 1 if a check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare, offline")
    parser.add_argument("--index", default=os.environ.get("PIP_INDEX_URL"), help="of packages, as for pip")
    options = parser.parse_args()
    if options.check:
        print(*(found := differences()), sep="\n")  # noqa: T201 - a command
        return 1 if found else 0
    if not options.index:
        from pip._internal.models.index import PyPI  # noqa: PLC0415 - the one place that knows it

        options.index = PyPI.simple_url
    for name, versions in lists().items():
        write_lock(FOLDER / f"{name}.lock", versions, options.index)
    return 0


if __name__ == "__main__":
    sys.exit(main())
