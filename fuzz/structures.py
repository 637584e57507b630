"""The structures door under atheris, a fuzzer that is led by coverage.

    python -m fuzz.structures SEEDS... [libFuzzer options]

Whatever the bytes, the door gives a checked crystal or raises a `StructureError` with one short sentence. Anything
else, a hang or a heap beyond the limit ends the run and leaves the file that did it in the current folder.
"""

import random
import sys

import atheris

with atheris.instrument_imports(include=["deepergatgnn.structures", "pymatgen.io.cif", "pymatgen.io.vasp.inputs"]):
    from deepergatgnn.structures import StructureFormat
    from fuzz.promises import broken_promise
from fuzz.mutations import mutate

_FORMATS: tuple[StructureFormat, ...] = ("cif", "poscar", "extxyz", "json")


def check(data: bytes) -> None:
    """Read one file; the format is mostly told from the content, and named where the last byte says so."""
    named = data[-1] % 32 if data else len(_FORMATS)
    if broken := broken_promise(data, _FORMATS[named] if named < len(_FORMATS) else "auto"):
        raise RuntimeError(broken)


class _Mutator:
    """Damage of whole words and lines, half of the time; else libFuzzer's own."""

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
    """Fuzz until a time, a number of runs or a finding ends it."""
    atheris.Setup(sys.argv, check, custom_mutator=_Mutator())
    atheris.Fuzz()


if __name__ == "__main__":
    main()
