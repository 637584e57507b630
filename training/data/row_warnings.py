"""Warnings of the structures of a data set, grouped by kind."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Warned = Mapping[str, Sequence[str]]  # ids of rows by kind of warning, the most frequent kind first
EXAMPLES: Final = 3
_KINDS_SHOWN: Final = 20
# Parts that differ between files: quoted words, names in parentheses, words with digits, and lists of them.
_OF_ONE_FILE: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\([^()]*\)|[^\s,;:]*\d[^\s,;:]*")
_SEVERAL: Final = re.compile(r"…(?:(?:, | and |,| )…)+")


def kind_of(warning: str) -> str:
    """Return the kind of a warning: its text without the parts that differ between files."""
    masked = _OF_ONE_FILE.sub(lambda found: "…." if found[0].endswith(".") else "…", warning)
    return _SEVERAL.sub("…", masked)


def by_kind(rows: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Group rows by the kinds of their warnings; a row is in a group at most once.

    Args:
        rows: id and warnings of each row.
    """
    found: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for row_id, warnings in rows:
        for kind in dict.fromkeys(kinds.setdefault(warning, kind_of(warning)) for warning in warnings):
            found.setdefault(kind, []).append(row_id)
    return _ordered(found)


def joined(parts: Iterable[tuple[Warned, Iterable[str]]]) -> dict[str, list[str]]:
    """Merge the groups of several data sets.

    Args:
        parts: groups of each set, and the ids of its selected rows.
    """
    found: dict[str, list[str]] = {}
    for warned, ids in parts:
        taken = set(ids)
        for kind, rows in warned.items():
            if some := [row_id for row_id in rows if row_id in taken]:
                found.setdefault(kind, []).extend(some)
    return _ordered(found)


def warning_table(warned: Warned) -> list[dict[str, Any]]:
    """Return the groups as JSON data: `kind`, number of `rows`, and the first `ids`."""
    return [{"kind": kind, "rows": len(ids), "ids": list(ids[:EXAMPLES])} for kind, ids in warned.items()]


def warning_lines(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the groups, one line each: "warning in 40 rows (a, b, c, ...): …".

    Args:
        table: result of `warning_table`.
    """
    lines = []
    for each in table[:_KINDS_SHOWN]:
        examples = ", ".join(each["ids"]) + (", ..." if each["rows"] > len(each["ids"]) else "")
        lines.append(f"warning in {each['rows']} row{'' if each['rows'] == 1 else 's'} ({examples}): {each['kind']}")
    if len(table) > _KINDS_SHOWN:
        lines.append(f"and {len(table) - _KINDS_SHOWN} more kinds of warnings")
    return lines


def _ordered(found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))
