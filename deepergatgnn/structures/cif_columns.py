"""The tokens of a CIF: gemmi reads what is written plainly, pymatgen everything else, and both give the same columns.

gemmi is many times faster and follows the grammar; pymatgen forgives what people write. So gemmi is asked only where
the two cannot differ: one data block of ASCII text, no text field, no quote inside of a quote, comments on lines of
their own, no keyword but `loop_`, and nothing that gemmi refuses.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from gemmi import cif
from pymatgen.io.cif import CifFile

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif_symmetry import Columns
from deepergatgnn.structures.cif_text import MOST_QUOTE_WORK, structure_block

_BLOCK: Final = re.compile(r"^[ \t]*data_", re.MULTILINE)
_UNEVEN: Final = re.compile(r"len\(items\)=(\d+) is not a multiple of n=(\d+)")
_QUOTES: Final = ("'", '"')
_MOST_WORDS: Final = 1_000_000  # pymatgen's tokeniser takes over a second for them
# Keywords, and all that the other way looks for in the whole text: the beginnings of keys that are refused.
_NOT_PLAIN: Final = (
    *("\n;", "#\\#", "stop_", "global_", "save_", "_eof"),
    *("magn", "_atom_site_moment", "_parent_space_group", "modulation", "wave_vector", "_ssg_", "fourier"),
)
_ATOMS: Final = frozenset({"_atom_site_fract_x", "_atom_site.fract_x"})
_CELL: Final = frozenset({"_cell_length_a", "_cell.length_a"})


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
    # pymatgen would leave out what is not ASCII, and so read 0.1 where there is none.
    content = block.text.encode("ascii", "replace").decode("ascii")
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
    return {_folded(key): value if isinstance(value, list) else [value] for key, value in parsed.data.items()}, said


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
    loops = quoted = 0
    for item in items:
        if (pair := item.pair) is not None:
            tag, value = pair
            if value.startswith(_QUOTES):
                quoted += 1
                value = value[1:-1]
            columns[tag.lower()] = [value]
        elif (loop := item.loop) is not None and loop.length():
            tags, values = loop.tags, loop.values
            loops += 1
            # Once as many quotes as the file has are found, there are no more to look for.
            if 2 * quoted < quotes and (in_quotes := sum(value[0] in _QUOTES for value in values)):
                quoted += in_quotes
                # pymatgen strips what stands in a loop.
                values = [value[1:-1].strip() if value[0] in _QUOTES else value for value in values]
            columns |= {tag.lower(): values[start :: len(tags)] for start, tag in enumerate(tags)}
        else:
            return None
    # A keyword or a quote within a value is left to pymatgen.
    plain = loops == lowered.count("loop_") and 2 * quoted == quotes
    if not plain or columns.keys().isdisjoint(_ATOMS) or columns.keys().isdisjoint(_CELL):
        return None
    return {_folded(key): column for key, column in columns.items()}


def _is_plain(text: str, lowered: str, quotes: int) -> bool:
    if not text.isascii() or text.startswith(";") or any(word in lowered for word in _NOT_PLAIN):
        return False
    comments = text.count("#")
    own_lines = text.count("\n#") + text.startswith("#")
    one_block = lowered.count("data_") == 1 and _BLOCK.search(lowered) is not None
    return one_block and comments == own_lines and quotes * len(text) <= MOST_QUOTE_WORK


def _folded(key: str) -> str:
    """Keys do not depend on case, and the newer dictionaries write _atom_site.fract_x."""
    return key.lower().replace(".", "_")
