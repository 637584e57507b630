"""Chemical formulae as files write them: sums, moieties and structural formulae, with charges, groups and factors."""

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from deepergatgnn.structures.elements import ATOMIC_NUMBERS, ISOTOPES, SYMBOLS

_LONGEST: Final = 1000  # characters
_MOST_ATOMS: Final = 1e9
_DEEPEST: Final = 8  # groups inside of groups
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<element>[A-Z][a-z]?)|(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<part>[,;.*?]))"
)
# A sign with a number: after a blank or a bracket, or a sign alone after anything.
_CHARGE: Final = re.compile(
    r"(?:(?<=[\s)\]}])\d*[+-]|(?<=[A-Za-z\d])[+-]|(?<=\s)[+-]\d*|(?<=[)\]}])[+-]\d*)(?=[\s,;)\]}]|$)"
)
_MARKUP: Final = re.compile(r"[~^]|</?su[bp]>")  # of indices, as journals write them
_CHARGED_NUMBER: Final = re.compile(r"[A-Za-z]\d+[+-](?:[\s,;)\]}]|$)")  # NH4+ or Fe3+: four atoms, or three charges
_SUM: Final = re.compile(r"[A-Z][a-z]?\d{0,6}(?: [A-Z][a-z]?\d{0,6})*")  # as most programs write it: Ba2 Mg4 Pb4
_LETTERS: Final = string.ascii_letters
_HYDROGEN: Final = 1

Verdict = Literal["agrees", "hydrogen is missing", "differs"]
LACKS_HYDROGEN: Final = "hydrogen is missing"


@dataclass(frozen=True)
class Formula:
    """A formula that the file states.

    Attributes:
        tag: where it stands.
        text: as written.
        counts: atoms by atomic number.
        errors: half a unit of the last digit of each count, 0 for a whole number.
    """

    tag: str
    text: str
    counts: Mapping[int, float]
    errors: Mapping[int, float]

    def units(self, found: Mapping[int, int]) -> float | None:
        """Give the number of formula units that atoms are, None if they are no multiple of the formula.

        Args:
            found: atoms of each atomic number.
        """
        if found == self.counts:  # a formula of the whole cell, as most programs write it
            return 1.0
        low, high = 0.0, float("inf")
        if found.keys() != self.counts.keys():
            return None
        for number, count in self.counts.items():
            error = self.errors[number]
            low = max(low, found[number] / (count + error))
            high = min(high, found[number] / (count - error) if count > error else float("inf"))
        if low > high * (1 + 1e-9):
            return None
        nearest = round((low + high) / 2)
        return float(nearest) if low - 1e-9 <= nearest <= high + 1e-9 else (low + high) / 2

    def verdict(self, found: Mapping[int, int]) -> Verdict:
        """Compare atoms with the formula, whatever the number of its units.

        Args:
            found: atoms of each atomic number.
        """
        if self.units(found) is not None:
            return "agrees"
        if _HYDROGEN in self.counts:
            heavy = {number: count for number, count in found.items() if number != _HYDROGEN}
            units = self.without_hydrogen.units(heavy) if heavy else None
            expected = self.counts[_HYDROGEN] + self.errors[_HYDROGEN]
            if units is not None and found.get(_HYDROGEN, 0) < units * expected:
                return LACKS_HYDROGEN
        return "differs"

    def is_of_cell(self, z: float) -> bool:
        """Whether the formula is that of the whole cell, with Z units of a smaller one, as many programs write it.

        Args:
            z: formula units in the cell, as the file has them.
        """
        return all((count / z).is_integer() for count in self.counts.values())

    @property
    def without_hydrogen(self) -> "Formula":
        """The formula of the other elements."""
        heavy = {number: count for number, count in self.counts.items() if number != _HYDROGEN}
        return Formula(self.tag, self.text, heavy, {number: self.errors[number] for number in heavy})

    def missing(self, found: Iterable[int]) -> list[str]:
        """Give the symbols of the elements that the formula has and the atoms have not."""
        there = set(found)
        return [SYMBOLS[number] for number in self.counts if number not in there]


def names_hydrogen(text: str) -> bool:
    """Whether a formula, counted or not, has hydrogen or heavy hydrogen.

    Args:
        text: such as `(C2 H4)n`.
    """
    return re.search(r"[HD](?![a-z])", text) is not None


@lru_cache(maxsize=4096)
def parse_formula(tag: str, text: str) -> Formula | None:
    """Parse a formula such as `C H4 O 1+`, `2(C4 H5 N), H2 O`, `(Fe0.5 Co0.5) O` or `[Fe (C N)6] 4-`.

    Args:
        tag: where it stands.
        text: what stands there.

    Returns:
        None for what is not a formula that can be counted, such as `(C2 H4)n`.
    """
    content = text.strip(" '\"")
    if not content or len(content) > _LONGEST:
        return None
    if _SUM.fullmatch(content):
        words = [(ATOMIC_NUMBERS.get(word.rstrip("0123456789")), word.lstrip(_LETTERS)) for word in content.split(" ")]
        whole = {number: float(count or 1) for number, count in words if number is not None}
        if len(whole) == len(words) and 0 not in whole.values():
            return Formula(tag, content, whole, dict.fromkeys(whole, 0.0))
    if _CHARGED_NUMBER.search(content):
        return None
    content = _CHARGE.sub(" ", _MARKUP.sub("", content))
    if content.isupper() and re.search(r"[A-Z]{2}", content):
        content = " ".join(_capitalized(word) for word in content.split())
    counts = _counted(content)
    if not counts or sum(count for count, _ in counts.values()) > _MOST_ATOMS:
        return None
    written = text.strip(" '\"")
    return Formula(tag, written, {z: n for z, (n, _) in counts.items()}, {z: e for z, (_, e) in counts.items()})


def _capitalized(word: str) -> str:
    """`SI2` as Si2 where a formula has capitals alone and parts its elements by blanks."""
    match = re.fullmatch(r"([A-Z]{2})(\d*\.?\d*)", word)
    return match[1].capitalize() + match[2] if match and match[1].capitalize() in ATOMIC_NUMBERS else word


_Counts = dict[int, tuple[float, float]]


class _Counter:
    """Counts the atoms of a formula, token by token.

    Attributes:
        total: of the parts that ended in the open group.
        part: of the part that is read, without its factor.
        factor: the number before the part, as in 2(H2 O).
        last: what a number that follows multiplies.
    """

    def __init__(self) -> None:
        self.total: _Counts = {}
        self.part: _Counts = {}
        self.factor = 1.0
        self.last: _Counts | None = None
        self._open: list[tuple[_Counts, float, _Counts]] = []

    def read(self, match: re.Match[str]) -> bool:
        """Read one token; false where no formula has it there."""
        if match["element"]:
            return self._element(match["element"])
        if match["number"]:
            return self._number(match["number"])
        if match["open"]:
            return self._begin()
        if match["close"]:
            return self._end()
        if match["part"]:
            self._end_part()
        return bool(match["part"])

    def finished(self) -> _Counts | None:
        """Give the atoms of the whole formula, None if a group is still open."""
        self._end_part()
        return None if self._open else {z: entry for z, entry in self.total.items() if entry[0] > 0}

    def _element(self, symbol: str) -> bool:
        number = _HYDROGEN if symbol in ISOTOPES else ATOMIC_NUMBERS.get(symbol)
        _add(self.part, self.last)
        self.last = {number: (1.0, 0.0)} if number is not None else None
        return number is not None

    def _number(self, digits: str) -> bool:
        value, error = float(digits), _half_unit(digits)
        if self.last is not None:
            _add(self.part, {z: (n * value, n * error + e * value) for z, (n, e) in self.last.items()})
            self.last = None
            return True
        self.factor *= value
        return not self.part

    def _begin(self) -> bool:
        _add(self.part, self.last)
        self._open.append((self.total, self.factor, self.part))
        self.total, self.factor, self.part, self.last = {}, 1.0, {}, None
        return len(self._open) <= _DEEPEST

    def _end(self) -> bool:
        if not self._open:
            return False
        self._end_part()
        self.last = self.total
        self.total, self.factor, self.part = self._open.pop()
        return True

    def _end_part(self) -> None:
        _add(self.part, self.last)
        _add(self.total, self.part, self.factor)
        self.factor, self.part, self.last = 1.0, {}, None


def _counted(text: str) -> _Counts | None:
    """Count the atoms of a formula, None where it has something else."""
    counter = _Counter()
    position, content = 0, text.rstrip()
    while position < len(content):
        match = _TOKEN.match(content, position)
        if match is None or not counter.read(match):
            return None
        position = match.end()
    return counter.finished()


def _add(counts: _Counts, others: _Counts | None, factor: float = 1.0) -> None:
    for number, (count, error) in (others or {}).items():
        known = counts.get(number, (0.0, 0.0))
        counts[number] = (known[0] + factor * count, known[1] + factor * error)


def _half_unit(digits: str) -> float:
    """Half a unit of the last digit of a decimal; a whole number is meant exactly."""
    _, point, decimals = digits.partition(".")
    return 0.5 * 10.0 ** -len(decimals) if point and decimals.strip("0") else 0.0
