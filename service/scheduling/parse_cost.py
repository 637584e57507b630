"""What a file costs to parse, in seconds of processor time, from what is known before it is parsed.

Counting lines takes a thousandth of what parsing takes. What comes out is rough; it is corrected by what is measured,
for small files and for large ones apart.
"""

import math
import re
from dataclasses import dataclass

from deepergatgnn.structures.limits import DEFAULT_LIMITS

BYTE_S, IMAGE_S, ATOM_S, FILE_S = 3.5e-8, 1e-6, 2e-6, 1e-3  # measured; of atoms to the power of 1.5, for pairs
EXTRA_GRAPH = 0.5  # of what the atoms cost, for each graph beyond the first
FOLLOW = 0.1  # weight of a new file in the running correction
FACTORS = (1 / 8, 32.0)  # of a correction, at least and at most
MOST_IMAGES = 200_000
MOST_COUNTED = 128 * 1024  # bytes: a millisecond of the event loop
SITE_BYTES = 64  # of most files, for each site
_SITES = re.compile(rb"^[ \t]*_atom_site_fract_x", re.MULTILINE | re.IGNORECASE)
_OPERATORS = re.compile(
    rb"^[ \t]*_(?:symmetry_equiv_pos_as_xyz|space_group_symop[._]operation_xyz)", re.MULTILINE | re.IGNORECASE
)
_END = re.compile(rb"^[ \t]*(?:loop_|data_|_(?!atom_site_|symmetry_equiv|space_group_symop))", re.MULTILINE)
_SITE_MARKS = (b'"abc"', b'"xyz"')  # of pymatgen's sites


@dataclass(frozen=True)
class Size:
    """How large a file is.

    Attributes:
        n_bytes: of it.
        sites: that it lists.
        images: sites times operators of symmetry.
    """

    n_bytes: int
    sites: int
    images: int

    @classmethod
    def roughly(cls, n_bytes: int) -> "Size":
        """Of a file of which no more is known."""
        sites = n_bytes // SITE_BYTES
        return cls(n_bytes, sites, sites)

    @property
    def atoms(self) -> float:
        """Of the cell, roughly: many sites are special positions, of which several images are the same atom."""
        operators = self.images / max(1, self.sites)
        return min(self.sites * math.sqrt(operators), DEFAULT_LIMITS.max_atoms)


def size_of(content: bytes) -> Size:
    """Sites and operators, by counting lines; of a file that is too long to be that of a cell, by its length alone."""
    if len(content) > MOST_COUNTED:
        return Size.roughly(len(content))
    if content[:1] == b"{":
        sites = max(*(content.count(mark) for mark in _SITE_MARKS), content.count(b"[") // 2)
        return Size(len(content), sites, sites)
    found = _SITES.search(content)
    if found is None:
        sites = content.count(b"\n")  # of a POSCAR or extxyz file nearly every line is a site
        return Size(len(content), sites, sites)
    sites = _lines(content, found.end())
    operators = _OPERATORS.search(content)
    images = sites * max(1, _lines(content, operators.end()) if operators else 1)
    return Size(len(content), sites, min(images, MOST_IMAGES))


def _lines(content: bytes, start: int) -> int:
    """Lines of a loop, from one of its names on, without those of its other names."""
    found = _END.search(content, start)
    end = found.start() if found else len(content)
    return max(1, content.count(b"\n", start, end) - content.count(b"\n_", start, end - 1) - 1)


class Correction:
    """What was measured over what was predicted, of work of about the same size: within a factor of four."""

    def __init__(self) -> None:
        self._factors: dict[int, float] = {}

    def corrected(self, seconds: float) -> float:
        """The prediction, by what is known of others."""
        return seconds * self._factors.get(_class(seconds), 1.0)

    def observe(self, predicted: float, measured: float) -> None:
        """Take note of what something took, and of what was predicted without correction."""
        least, most = FACTORS
        before = self._factors.get(_class(predicted), 1.0)
        factor = min(most, max(least, measured / predicted))
        self._factors[_class(predicted)] = before + FOLLOW * (factor - before)


class ParseCost:
    """Predicts the processor time of files, and learns from what they took."""

    def __init__(self) -> None:
        self._correction = Correction()

    def seconds(self, size: Size, graphs: int = 1) -> float:
        """Predicted for a file of which so many graphs are built."""
        return self._correction.corrected(_plain(size, graphs))

    def observe(self, size: Size, graphs: int, seconds: float) -> None:
        """Take note of what a file took."""
        self._correction.observe(_plain(size, graphs), seconds)


def _plain(size: Size, graphs: int) -> float:
    atoms = ATOM_S * math.pow(size.atoms, 1.5) * (1 + EXTRA_GRAPH * max(0, graphs - 1))
    return FILE_S + BYTE_S * size.n_bytes + IMAGE_S * min(size.images, MOST_IMAGES) + atoms


def _class(seconds: float) -> int:
    return round(math.log(max(seconds, 1e-9), 4))
