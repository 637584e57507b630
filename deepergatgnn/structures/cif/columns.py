"""The tokens of a CIF: gemmi reads what is written plainly, pymatgen everything else, and both give the same columns.

gemmi is many times faster and follows the grammar; pymatgen forgives what people write. So gemmi is asked only where
the two cannot differ: one data block of ASCII text, no text field, no quote inside of a quote, comments on lines of
their own, no keyword but `loop_`, and nothing that gemmi refuses.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from gemmi import cif
from pymatgen.io.cif import CifFile

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif.text import FIELD_LINE, HASH, MOST_QUOTE_WORK, CifBlockText, structure_block

# Values by key in lower case; a key outside of a loop has a list of one.
Columns = dict[str, list[str]]

_BLOCK: Final = re.compile(r"^[ \t]*data_", re.MULTILINE)
_UNEVEN: Final = re.compile(r"len\(items\)=(\d+) is not a multiple of n=(\d+)")
_QUOTES: Final = ("'", '"')
_MOST_WORDS: Final = 1_000_000  # pymatgen's tokeniser takes over a second for them
# Keywords, and all that the other way looks for in the whole text: the beginnings of keys that are refused.
_NOT_PLAIN: Final = (
    *("\n;", "#\\#", "stop_", "global_", "save_", "_eof"),
    *("magn", "_atom_site_moment", "_parent_space_group", "modulation", "wave_vector", "_ssg_", "fourier"),
)
_ATOMS: Final = ("_atom_site_fract_x", "_atom_site.fract_x")
_CELL: Final = ("_cell_length_a", "_cell.length_a")
# Columns that say something of the same row; those of displacement parameters are a loop of their own.
_OF_A_SITE: Final = re.compile(
    r"_atom_site_(?:fract_[xyz]|label|type_symbol|(?:site_)?occ\w*|calc_flag|disorder_\w+|\w*symmetry_multiplicity"
    r"|wyckoff_\w+|attached_hydrogens)"
)
# What is read: given twice with two values, either could be meant.
_READ: Final = re.compile(
    r"_(?:cell_(?:length|angle)_\w+|cell_formula_units_z|atom_site_(?:fract_[xyz]|label|type_symbol|(?:site_)?occ\w*|calc_flag"
    r"|disorder_\w+|\w*symmetry_multiplicity|wyckoff_\w+|attached_hydrogens)|chemical_formula_(?:sum|moiety|structural)"
    r"|symmetry_equiv_pos_as_xyz|space_group_symop_operation_xyz|symmetry_(?:space_group_name|int_tables)\S+"
    r"|space_group_(?:name|it)_\S+)"
)
_TAG: Final = re.compile(r"(?<!\S)(_[^\s'\"]+)(?:\s+('[^'\n]*'|\"[^\"\n]*\"|[^\s_][^\s]*))?")


_ABSENT: Final = ["?"]


def value_of(columns: Columns, key: str) -> str:
    """Give the one value of a key in lower case, `?` where it is absent, unknown or inapplicable."""
    value = columns.get(key, _ABSENT)[0]
    # A key without its value takes the next key for it.
    return "?" if value in ("", ".") or value.startswith("_") else value


def read_columns(text: str) -> tuple[Columns, list[str]]:
    """Read the first data block that holds a structure.

    Args:
        text: the file, CIF 1 or 2.

    Returns:
        The values by key, and warnings about the blocks that are ignored.

    Raises:
        StructureError: `no_structure`, `magnetic_cif` or `unreadable`.
    """
    columns = plain_columns(text)
    return forgiving_columns(text) if columns is None else (columns, [])


def forgiving_columns(text: str) -> tuple[Columns, list[str]]:
    """Read any file, by pymatgen's tokeniser; see `read_columns`."""
    block, said = structure_block(text)
    # pymatgen would leave out what is not ASCII, and so read 0.1 where there is none; a question mark means unknown.
    content = block.text.encode("ascii", "backslashreplace").decode("ascii")
    if len(content) > 2 * _MOST_WORDS and (count := len(content.split())) > _MOST_WORDS:
        raise StructureError(
            "unreadable", f"The CIF has {count:,} words and the limit is {_MOST_WORDS:,}: post the structure alone."
        )
    try:
        (parsed,) = CifFile.from_str(content).data.values()
    except (ValueError, IndexError) as error:
        if uneven := _UNEVEN.fullmatch(str(error)):
            detail = f"A loop of the CIF has {uneven[2]} columns and {uneven[1]} values: complete its rows."
        else:
            detail = "A loop of the CIF has no values or no columns, or a quote is not closed: complete it."
        raise StructureError("unreadable", detail) from error
    _check_given_once(block)
    _check_one_loop(parsed.loops)
    return {_folded(key): _written(value) for key, value in parsed.data.items()}, said


def _written(value: str | list[str]) -> list[str]:
    """Values as they stand in the file, without what `structure_block` put in for the tokeniser."""
    values = value if isinstance(value, list) else [value]
    values = [one.replace(HASH, "#") for one in values]
    return [one.replace(FIELD_LINE, "").strip() if FIELD_LINE in one else one for one in values]


def plain_columns(text: str) -> Columns | None:
    """Read a plainly written file by gemmi's tokeniser; None where pymatgen has to decide.

    Args:
        text: the file.
    """
    lowered = text.lower()
    quotes = text.count("'") + text.count('"')
    if not _is_plain(text, lowered, quotes):
        return None
    try:
        items: Iterable[Any] = cif.read_string(text).sole_block()
    except (ValueError, RuntimeError):
        return None
    columns: Columns = {}
    of_loops: list[list[str]] = []
    loops = quoted = n_columns = 0
    for item in items:
        if (pair := item.pair) is not None:
            tag, value = pair
            if value.startswith(_QUOTES):
                quoted += 1
                value = value[1:-1]
            columns[_folded(tag)] = [value]
            n_columns += 1
        elif (loop := item.loop) is not None and loop.length():
            tags: list[str] = loop.tags
            values: list[str] = loop.values
            loops += 1
            # Once as many quotes as the file has are found, there are no more to look for.
            if 2 * quoted < quotes:
                unquoted, in_quotes = _unquoted(tuple(values))
                values = [*unquoted]
                quoted += in_quotes
            n_columns += len(tags)
            columns |= {_folded(tag): values[start :: len(tags)] for start, tag in enumerate(tags)}
            of_loops.append(tags)
        else:
            return None
    # A keyword or a quote within a value is left to pymatgen, and a key that is given twice.
    is_whole = loops == lowered.count("loop_") and 2 * quoted == quotes and len(columns) == n_columns
    if not (is_whole and _has_structure(columns, lowered)):
        return None
    _check_one_loop(of_loops)
    return columns


def _has_structure(columns: Columns, lowered: str) -> bool:
    """Whether atoms and a cell are given by keys of the dictionaries: `_atom.site_fract_x` folds to one and is none."""
    spelled = any(key in lowered for key in _ATOMS) and any(key in lowered for key in _CELL)
    return spelled and _ATOMS[0] in columns and _CELL[0] in columns


@lru_cache(maxsize=1024)  # many files have the same symmetry operators
def _unquoted(values: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Return the values of a loop without quotes, stripped as by pymatgen, and how many had quotes."""
    in_quotes = sum(value[0] in _QUOTES for value in values)
    return tuple([value[1:-1].strip() if value[0] in _QUOTES else value for value in values]), in_quotes


def _is_plain(text: str, lowered: str, quotes: int) -> bool:
    if not text.isascii() or text.startswith(";"):
        return False
    for word in _NOT_PLAIN:
        if word in lowered:
            return False
    comments = text.count("#")
    own_lines = text.count("\n#") + text.startswith("#")
    one_block = lowered.count("data_") == 1 and _BLOCK.search(lowered) is not None
    return one_block and comments == own_lines and quotes * len(text) <= MOST_QUOTE_WORK


@lru_cache(maxsize=4096)
def _folded(key: str) -> str:
    """Keys do not depend on case, and the newer dictionaries write _atom_site.fract_x."""
    return key.lower().replace(".", "_")


def _check_one_loop(loops: Sequence[Sequence[str]]) -> None:
    """Refuse columns of the atoms in two loops, whose rows nothing puts into one order."""
    of_sites = [tags for loop in loops if (tags := [tag for tag in loop if tag[:10].lower() == "_atom_site"])]
    if len(of_sites) > 1:
        of_sites = [
            keys for tags in of_sites if (keys := [key for key in map(_folded, tags) if _OF_A_SITE.fullmatch(key)])
        ]
    if len(of_sites) > 1:
        first, second = of_sites[0][0], of_sites[1][0]
        raise StructureError(
            "unreadable",
            f"The CIF gives its atoms in two loops, one with {first[:40]} and one with {second[:40]}, and their rows "
            "may belong together or not: write one loop.",
        )


def _check_given_once(block: CifBlockText) -> None:
    """Refuse a key that is given twice with two values, or two loops with the same key."""
    found: dict[str, list[str]] = {}
    lines = [line for line in block.lines if not line.startswith((";", FIELD_LINE))]
    for match in _TAG.finditer("\n".join(lines)):
        found.setdefault(_folded(match[1]), []).append(match[2] or "")
    for key, values in found.items():
        if len(values) > 1 and _READ.fullmatch(key) and (len(set(values)) > 1 or not values[0]):
            first, second = values[0][:30], next((value for value in values if value != values[0]), "")[:30]
            raise StructureError(
                "unreadable",
                f"The CIF gives {key} twice"
                + (f", as {first} and {second}" if first and second else "")
                + ": leave one, or post one structure alone.",
            )
