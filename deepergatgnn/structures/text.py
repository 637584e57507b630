"""Bytes → clean text, and detection of the format."""

import codecs
import re
from typing import Final, Literal

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.limits import StructureLimits

TextFormat = Literal["cif", "poscar", "extxyz", "json"]
StructureFormat = Literal["auto", "cif", "poscar", "extxyz", "json"]

# Control characters except tab and newline; vertical tab and form feed were replaced by spaces before.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_PLAIN: Final = bytes((*b"\t\n", *range(0x20, 0x7F)))
# Also words in the place of a number, such as 1/3, 3*0.0 or 5.64.0.
_NUMBER_LIKE: Final = re.compile(r"\s*[+-]?(?:\.?\d|nan\b|inf\b)", re.IGNORECASE | re.ASCII)
_LONGEST_NUMBER: Final = 40  # characters that distinguish a number from a word
_HEAD: Final = 400  # characters of a line in which three numbers must begin
_SHOWN: Final = 40  # characters of an unknown file in the message
# Typeset minus signs and spaces; dropping them would lose a sign.
_TYPESET: Final = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-") | dict.fromkeys(
    map(ord, "\u00a0\u2009\u202f"), " "
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CIF: Final = re.compile(r"^[^\S\n]*(?:data_|loop_\b|_cell[_.]|_atom_site[_.]|#\\#CIF)", re.IGNORECASE | re.MULTILINE)


def clean_text(source: str | bytes, limits: StructureLimits) -> str:
    r"""Decode, and make every line end with `\n`.

    Args:
        source: UTF-8 or UTF-16 with or without a byte order mark, else read as Latin-1.
        limits: `max_bytes` holds for the text as posted.

    Raises:
        StructureError: `too_many_bytes`, or `unreadable` for empty text and for binary data.
    """
    # A character has at least one byte, so a text with more characters than the limit needs no encoding.
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
    # Searching bytes is faster than searching characters.
    if text.encode().translate(None, _PLAIN) and (control := _CONTROL.search(text)):
        raise StructureError(
            "unreadable",
            f"The text holds the control character 0x{ord(control[0]):02x}, so it is binary or compressed: "
            "post plain text.",
        )
    return text


def detect_format(text: str) -> TextFormat:
    """Detect the format from the content.

    Args:
        text: result of `clean_text`.

    Raises:
        StructureError: `unreadable` if it resembles none of the four formats.
    """
    lines = text.split("\n", 5)
    # A comment, a scale (or three), three vectors; one of them may be damaged, which the reader explains better.
    # Tested before JSON, as the comment may begin with a bracket.
    if len(lines) > 1 and _numbers(lines[1]) and [_numbers(line) for line in lines[2:5]].count(3) > 1:
        return "poscar"
    if text.lstrip()[:1] in ("{", "["):
        return "json"
    if text.lstrip().split("\n", 1)[0].strip().isdecimal():
        return "extxyz"
    if _CIF.search(text):
        return "cif"
    raise StructureError(
        "unreadable",
        f"The text that begins with {_beginning(text)!r} is no CIF, POSCAR, extxyz or JSON structure: "
        "name its format, or convert it.",
    )


def real_number(word: str) -> float:
    """Read a number, also with a Fortran exponent (5.0D+00); underscores, which Python accepts, are refused.

    Raises:
        ValueError: if it is not a number.
    """
    if "_" in word:
        raise ValueError(word)
    return float(word.replace("D", "e").replace("d", "e"))


def leading_numbers(line: str, count: int) -> tuple[list[float], str] | None:
    """Read `count` numbers from the beginning of a line, separated by blanks or by commas.

    Returns:
        The numbers and the rest of the line; None if the line begins otherwise, as with a decimal comma.
    """
    words = line.split(None, count)
    last = words[count - 1].rstrip(",") if len(words) >= count else ""
    if (numbers := _read_numbers([*words[: count - 1], last])) is not None:
        return numbers, words[count] if len(words) > count else ""
    parts = line.split(",", count)
    end = parts[count - 1].split(None, 1) if len(parts) >= count else []
    numbers = _read_numbers([*map(str.strip, parts[: count - 1]), *(end[:1] or [""])])
    rest = " ".join([*end[1:], *parts[count:]])
    # 0,5 may be a decimal comma.
    return None if numbers is None or begins_with_number(rest) else (numbers, rest)


def begins_with_number(text: str) -> bool:
    """Return whether the first word of a text is, or resembles, a number."""
    return _NUMBER_LIKE.match(text[:_LONGEST_NUMBER]) is not None


def _decode(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _read_numbers(words: list[str]) -> list[float] | None:
    try:
        return [real_number(word) for word in words]
    except ValueError:
        return None


def _numbers(line: str) -> int:
    """Count up to three numbers, or words that resemble numbers, at the beginning of a line."""
    count = 0
    for word in line[:_HEAD].replace(",", " ").split()[:3]:
        if not begins_with_number(word):
            break
        count += 1
    return count


def _beginning(text: str) -> str:
    return text.strip().split("\n", 1)[0][:_SHOWN]
