"""The lexical half of the CIF reader: blocks, text fields and forbidden keys, before any parser sees the file."""

import re
from dataclasses import dataclass, field
from typing import Final

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.ignored import listing

_DATA: Final = re.compile(r"\s*data_(\S*)", re.IGNORECASE)
_KEYWORD: Final = re.compile(r"(?<!\S)(?:loop_|stop_|global_)(?!\S)", re.IGNORECASE)
_ATOMS: Final = re.compile(r"(?<!\S)_atom_site[_.]fract_x(?!\S)", re.IGNORECASE)
_CELL: Final = re.compile(r"(?<!\S)_cell[_.]length_a(?!\S)", re.IGNORECASE)
_CARTESIAN: Final = re.compile(r"(?<!\S)_atom_site[_.]cartn_x(?!\S)", re.IGNORECASE)
_MAGNETIC: Final = re.compile(
    r"(?<!\S)_(?:space_group_magn|space_group_symop_magn|magnetic_|atom_site_moment|parent_space_group)[\w.]*",
    re.IGNORECASE,
)
_MODULATED: Final = re.compile(
    r"(?<!\S)_(?:cell_modulation_dimension|cell_wave_vector|space_group_ssg_|atom_site_fourier)[\w.]*", re.IGNORECASE
)

_QUOTED: Final = re.compile(r"(?<!\S)(['\"])(?:(?!\1(?:\s|$)).)*\1(?=\s|$)")
# What stands in the file is free of control characters, so that these can be taken out again.
HASH: Final = "\x01"  # for a # within quotes or a field, which the tokeniser would take for a comment
FIELD_LINE: Final = "\x02"  # before each line of a text field

# Longer text fields are prose, reflections or a whole second file; none of the keys that are read is that long.
_LONGEST_FIELD: Final = 50
_MOST_BLOCKS: Final = 10_000
_MOST_LINES: Final = 250_000
# The tokeniser looks for the end of every quote up to the end of its line: characters that it may visit.
MOST_QUOTE_WORK: Final = 20_000_000


@dataclass(slots=True)
class CifBlockText:
    """One data block, as lines that a tokeniser cannot mistake."""

    name: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The block as a file of its own; the name is left out, as pymatgen skips blocks by their names."""
        return "\n".join(["data_block", *self.lines, ""])


def structure_block(text: str) -> tuple[CifBlockText, list[str]]:
    """Find the first data block that holds a structure.

    Args:
        text: the file.

    Returns:
        The block, and warnings about the blocks that are ignored.

    Raises:
        StructureError: `no_structure`, `magnetic_cif`, or `unreadable` if the tokeniser would take too long.
    """
    if text.count("\n") > _MOST_LINES:
        _check_lines(text)
    blocks = _split(text)
    with_structure = [block for block in blocks if _ATOMS.search(content := block.text) and _CELL.search(content)]
    if not with_structure:
        raise _no_structure(blocks)
    block = with_structure[0]
    content = block.text
    if magnetic := _MAGNETIC.search(content):
        raise StructureError(
            "magnetic_cif",
            f"The CIF holds the magnetic key {magnetic[0].strip()[:60]}: post the structure without magnetic symmetry.",
        )
    if modulated := _MODULATED.search(content):
        raise StructureError(
            "unreadable", f"The CIF holds {modulated[0].strip()[:60]}, a modulated structure: post an approximant."
        )
    if sum((line.count("'") + line.count('"')) * len(line) for line in block.lines) > MOST_QUOTE_WORK:
        raise StructureError("unreadable", "The CIF has too many quotes on one line: break the line.")
    return block, _ignored(block, with_structure[1:], blocks)


def _ignored(block: CifBlockText, others: list[CifBlockText], blocks: list[CifBlockText]) -> list[str]:
    """Name the blocks that are not read: further structures, and those that hold something else."""
    said = []
    if others:
        names = listing([other.name or "without a name" for other in others])
        said.append(f"The structure of the data block {block.name[:40]} is read; ignored: {names}.")
    structures = {id(one) for one in (block, *others)}
    filled = (one for one in blocks if any(not line.lstrip().startswith("#") for line in one.lines))
    if rest := [one.name or "without a name" for one in filled if id(one) not in structures]:
        held = "block {} holds no structure and is" if len(rest) == 1 else "blocks {} hold no structure and are"
        said.append(f"The data {held.format(listing(rest))} ignored.")
    return said


def _split(text: str) -> list[CifBlockText]:
    """Cut into blocks; drop blank lines and long text fields, write keywords in lower case."""
    blocks: list[CifBlockText] = []
    field_lines: list[str] | None = None
    for line in text.split("\n"):
        if field_lines is not None:
            if line.startswith(";"):
                if blocks:
                    blocks[-1].lines += field_lines if len(field_lines) <= _LONGEST_FIELD else [";"]
                    blocks[-1].lines.append(_lower_keywords(line))
                field_lines = None
            elif len(field_lines) <= _LONGEST_FIELD and line.strip():
                # What looks like a block or a comment inside of a field must not be taken for one.
                field_lines.append(FIELD_LINE + line.strip().replace("#", HASH))
        elif line.startswith(";"):
            field_lines = [line]
        elif match := _DATA.match(line):
            _begin_block(blocks, match[1])
            if rest := line[match.end() :].strip():
                blocks[-1].lines.append(_lower_keywords(rest))
        elif blocks and line.strip():
            blocks[-1].lines.append(_lower_keywords(line))
    return blocks


def _check_lines(text: str) -> None:
    # Empty ones cost nothing.
    count = sum(1 for line in text.split("\n") if line.strip())
    if count > _MOST_LINES:
        raise StructureError(
            "unreadable", f"The CIF has {count:,} lines and the limit is {_MOST_LINES:,}: post the structure alone."
        )


def _begin_block(blocks: list[CifBlockText], name: str) -> None:
    if len(blocks) == _MOST_BLOCKS:
        raise StructureError("unreadable", f"The CIF has over {_MOST_BLOCKS:,} data blocks: post one of them.")
    blocks.append(CifBlockText(name))


def _lower_keywords(line: str) -> str:
    if "#" in line:
        line = _QUOTED.sub(lambda match: match[0].replace("#", HASH), line)
    return _KEYWORD.sub(lambda match: match[0].lower(), line)


def _no_structure(blocks: list[CifBlockText]) -> StructureError:
    if not blocks:
        return StructureError("unreadable", "The CIF has no data block: begin it with a line such as data_crystal.")
    if any(_CARTESIAN.search(block.text) for block in blocks):
        return StructureError(
            "no_structure",
            "The CIF gives Cartesian coordinates, as molecules have them: post _atom_site_fract_x, y, z.",
        )
    if any(_CELL.search(block.text) for block in blocks):
        return StructureError("no_structure", "The CIF has a cell and no atoms: add _atom_site_fract_x, y, z.")
    return StructureError("no_structure", "The CIF has no cell and atoms in one data block: post a crystal structure.")
