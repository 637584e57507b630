"""Fuzz target of `read_structure` for atheris, a coverage-guided fuzzer.

    python -m fuzz.target_structures SEEDS... [libFuzzer options]

For any bytes `read_structure` returns a checked crystal or raises a `StructureError` with one short sentence. Any other
result, a timeout or a heap above the limit ends the run and stores the file in the current folder.
"""

import random
import sys
from typing import get_args

import atheris

with atheris.instrument_imports(include=["deepergatgnn.structures", "pymatgen.io.cif", "pymatgen.io.vasp.inputs"]):
    from deepergatgnn.structures.text import TextFormat
    from fuzz.properties import violated_property
from fuzz.mutations import mutate

_FORMATS: tuple[TextFormat, ...] = get_args(TextFormat)


def check(data: bytes) -> None:
    """Read one file; the last byte selects a format or, in most cases, its detection."""
    named = data[-1] % 32 if data else len(_FORMATS)
    if broken := violated_property(data, _FORMATS[named] if named < len(_FORMATS) else "auto"):
        raise RuntimeError(broken)


class _Mutator:
    """Mutates whole words and lines in half of the cases, else with libFuzzer's mutator."""

    def __init__(self) -> None:
        self.other = b""

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        generator = random.Random(seed)  # noqa: S311 - no secret
        if generator.random() < 0.5:  # noqa: PLR2004 - half of the time
            return bytes(atheris.Mutate(data, max_size))
        mutated = mutate(data, self.other, generator)[:max_size]
        if generator.random() < 0.1:  # noqa: PLR2004 - now and then
            self.other = data
        return mutated


def main() -> None:
    """Fuzz until the time, the number of runs or a finding ends the run."""
    atheris.Setup(sys.argv, check, custom_mutator=_Mutator())
    atheris.Fuzz()


if __name__ == "__main__":
    main()
