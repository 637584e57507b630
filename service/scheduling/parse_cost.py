"""Predicted processor time of parsing a file, from its bytes.

Counting lines takes a thousandth of the time of parsing them. The estimate is rough; measured times correct it,
separately for each order of magnitude.
"""

import math
import re
from dataclasses import dataclass

from deepergatgnn.structures.limits import DEFAULT_LIMITS

BYTE_S, IMAGE_S, ATOM_S, FILE_S = 3.5e-8, 1e-6, 2e-6, 1e-3  # measured; of atoms to the power of 1.5, for pairs
EXTRA_GRAPH = 0.5  # share of the atoms' time for each graph beyond the first
FOLLOW = 0.1  # weight of a new file in the running correction
FACTORS = (1 / 8, 32.0)  # bounds of a correction
MOST_IMAGES = 200_000
MOST_COUNTED = 128 * 1024  # bytes: a millisecond of the event loop
SITE_BYTES = 64  # typical length of a site's line
_SITES = re.compile(rb"^[ \t]*_atom_site_fract_x", re.MULTILINE | re.IGNORECASE)
_OPERATORS = re.compile(
    rb"^[ \t]*_(?:symmetry_equiv_pos_as_xyz|space_group_symop[._]operation_xyz)", re.MULTILINE | re.IGNORECASE
)
_END = re.compile(rb"^[ \t]*(?:loop_|data_|_(?!atom_site_|symmetry_equiv|space_group_symop))", re.MULTILINE)
_SITE_MARKS = (b'"abc"', b'"xyz"')  # of pymatgen's sites


@dataclass(frozen=True)
class Size:
    """Size of a file.

    Attributes:
        n_bytes: of the file.
        sites: listed in the file.
        images: sites times symmetry operators.
    """

    n_bytes: int
    sites: int
    images: int

    @classmethod
    def roughly(cls, n_bytes: int) -> "Size":
        """Return the size that is typical for a length."""
        sites = n_bytes // SITE_BYTES
        return cls(n_bytes, sites, sites)

    @property
    def atoms(self) -> float:
        """Estimated atoms of the cell; several images of a special position are the same atom."""
        operators = self.images / max(1, self.sites)
        return min(self.sites * math.sqrt(operators), DEFAULT_LIMITS.max_atoms)


def size_of(content: bytes) -> Size:
    """Return the size of a file by counting its lines; of a file too long for a cell, by its length alone."""
    if len(content) > MOST_COUNTED:
        return Size.roughly(len(content))
    if content[:1] == b"{":
        sites = max(*(content.count(mark) for mark in _SITE_MARKS), content.count(b"[") // 2)
        return Size(len(content), sites, sites)
    found = _SITES.search(content)
    if found is None:
        sites = content.count(b"\n")  # nearly every line of a POSCAR or extxyz file is a site
        return Size(len(content), sites, sites)
    sites = _lines(content, found.end())
    operators = _OPERATORS.search(content)
    images = sites * max(1, _lines(content, operators.end()) if operators else 1)
    return Size(len(content), sites, min(images, MOST_IMAGES))


def _lines(content: bytes, start: int) -> int:
    """Return the rows of a CIF loop from the end of one of its names, without the lines of its other names."""
    found = _END.search(content, start)
    end = found.start() if found else len(content)
    return max(1, content.count(b"\n", start, end) - content.count(b"\n_", start, end - 1) - 1)


class Correction:
    """Running ratio of measured to predicted seconds, for each factor of four of the prediction."""

    def __init__(self) -> None:
        self._factors: dict[int, float] = {}

    def corrected(self, seconds: float) -> float:
        """Return a prediction times the ratio."""
        return seconds * self._factors.get(_magnitude(seconds), 1.0)

    def observe(self, predicted: float, measured: float) -> None:
        """Update the ratio with a measurement and its uncorrected prediction."""
        least, most = FACTORS
        before = self._factors.get(_magnitude(predicted), 1.0)
        factor = min(most, max(least, measured / predicted))
        self._factors[_magnitude(predicted)] = before + FOLLOW * (factor - before)


class ParseCost:
    """Predictor of the processor time of files, corrected by measured times."""

    def __init__(self) -> None:
        self._correction = Correction()

    def seconds(self, size: Size, graphs: int = 1) -> float:
        """Return the predicted seconds of a file of which `graphs` graphs are built."""
        return self._correction.corrected(_plain(size, graphs))

    def observe(self, size: Size, graphs: int, seconds: float) -> None:
        """Update the correction with the measured seconds of a file."""
        self._correction.observe(_plain(size, graphs), seconds)


def _plain(size: Size, graphs: int) -> float:
    atoms = ATOM_S * math.pow(size.atoms, 1.5) * (1 + EXTRA_GRAPH * max(0, graphs - 1))
    return FILE_S + BYTE_S * size.n_bytes + IMAGE_S * min(size.images, MOST_IMAGES) + atoms


def _magnitude(seconds: float) -> int:
    return round(math.log(max(seconds, 1e-9), 4))
