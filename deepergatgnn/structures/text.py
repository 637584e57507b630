"""From bytes to clean text, and from text to the name of its format."""

import codecs
import re
from typing import Final, Literal

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.limits import StructureLimits

TextFormat = Literal["cif", "poscar", "extxyz", "json"]
StructureFormat = Literal["auto", "cif", "poscar", "extxyz", "json"]

# Everything below space but tab and newline; vertical tab and form feed have become spaces by then.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_PLAIN: Final = bytes((*b"\t\n", *range(0x20, 0x7F)))
_SHOWN: Final = 40  # characters of an unknown file in the message
# What typesetting makes of a minus and of a space; a parser that drops them would drop a sign.
_TYPESET: Final = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-") | dict.fromkeys(
    map(ord, "\u00a0\u2009\u202f"), " "
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CIF: Final = re.compile(r"^[^\S\n]*(?:data_|loop_\b|_cell[_.]|_atom_site[_.]|#\\#CIF)", re.IGNORECASE | re.MULTILINE)


def clean_text(source: str | bytes, limits: StructureLimits) -> str:
    r"""Decode, and make every line end with `\n`.

    Args:
        source: UTF-8 or UTF-16 with or without a byte order mark, else taken for Latin-1.
        limits: `max_bytes` holds for the text as posted.

    Raises:
        StructureError: `too_many_bytes`, or `unreadable` for empty text and for binary data.
    """
    # A character is at least one byte, in ASCII just one: what is longer than the limit need not be encoded to see it.
    size = len(source)
    if isinstance(source, str) and not source.isascii() and size <= limits.max_bytes:
        size = len(source.encode("utf-8", "surrogatepass"))
    if size > limits.max_bytes:
        raise StructureError(
            "too_many_bytes",
            f"The text has {size:,} bytes and the limit is {limits.max_bytes:,}: post the structure alone.",
        )
    text = source if isinstance(source, str) else _decode(source)
    if not text.isascii() and (surrogate := _SURROGATE.search(text)):
        raise StructureError(
            "unreadable", f"The text holds half a surrogate pair, 0x{ord(surrogate[0]):x}: post it in UTF-8."
        )
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\x0b", " ").replace("\x0c", " ").replace("\x1a", " ")  # 0x1A is how DOS ends a file
    if not text.isascii():
        text = text.translate(_TYPESET)
    if not text.strip():
        raise StructureError("unreadable", "The text is empty: post a CIF, POSCAR, extxyz or JSON structure.")
    # Bytes are looked through faster than characters.
    if text.encode().translate(None, _PLAIN) and (control := _CONTROL.search(text)):
        raise StructureError(
            "unreadable",
            f"The text holds the control character 0x{ord(control[0]):02x}, so it is binary or compressed: "
            "post plain text.",
        )
    return text


def detect_format(text: str) -> TextFormat:
    """Tell the format from the content alone.

    Args:
        text: as `clean_text` gives it.

    Raises:
        StructureError: `unreadable` if it looks like none of the four.
    """
    if text.lstrip()[:1] in ("{", "["):
        return "json"
    lines = text.split("\n", 5)
    # A comment, a scale (or three), three vectors.
    if len(lines) > 1 and _numbers(lines[1]) in (1, 3) and [_numbers(line) for line in lines[2:5]] == [3, 3, 3]:
        return "poscar"
    if lines[0].strip().isdecimal():
        return "extxyz"
    if _CIF.search(text):
        return "cif"
    raise StructureError(
        "unreadable",
        f"The text that begins with {_beginning(text)!r} is no CIF, POSCAR, extxyz or JSON structure: "
        "name its format, or convert it.",
    )


def real_number(word: str) -> float:
    """Read a number as every language writes it; Python alone would take 5_0 for 50.

    Raises:
        ValueError: if it is none.
    """
    if "_" in word:
        raise ValueError(word)
    return float(word)


def _decode(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _numbers(line: str) -> int:
    """Count the numbers that a line begins with, up to three."""
    count = 0
    for word in line.split()[:3]:
        try:
            float(word)
        except ValueError:
            break
        count += 1
    return count


def _beginning(text: str) -> str:
    return text.strip().split("\n", 1)[0][:_SHOWN]
