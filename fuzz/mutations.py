"""Mutations of structure files: bits, words, lines, tokens and splices; all randomness comes from a generator."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Final

TOKENS: Final[tuple[bytes, ...]] = (
    *(b"nan", b"inf", b"-inf", b"0", b"-0.0", b"-1", b"1e308", b"1e-308", b"1e99999999", b"1..2", b"1/0", b"0x10"),
    *(b"9" * 400, b"9" * 5000, b"0." + b"3" * 5000, b"1_000", b"1000000000", b"5(3)", b"5(", b"(3)", b"1+2j"),
    *(b"?", b".", b"'", b'"', b"''", b"'''", b'"""', b";", b"\n;", b";\n", b"#", b"#\\#CIF_2.0", b"$", b"[", b"{"),
    *(b"loop_", b"loop_ loop_", b"data_", b"data_x", b"save_", b"stop_", b"global_", b"_", b"_x", b"_eof"),
    *(b"_cell_length_a", b"_cell.length_a", b"_atom_site_fract_x", b"_atom_site_occupancy", b"_atom_site_type_symbol"),
    *(
        b"_symmetry_equiv_pos_as_xyz",
        b"_symmetry_space_group_name_H-M",
        b"_space_group_IT_number",
        b"_cell_angle_gamma",
    ),
    *(b"x,y,z", b"x,y", b"'x,y,z,t'", b"x+1/0,y,z", b"x+1..2,y,z", b"2x,y,z", b"x,x,x", b"0,0,0", b"-x+1e9,y,z"),
    *(
        b"Fe",
        b"D",
        b"Xx",
        b"X",
        b"Vac",
        b"Fe3+",
        b"Fe_pv",
        b"Uuo",
        b"119",
        b"Wat",
        b"Fe + Ni",
        b"Og",
        b"0.5",
        b"1.0001",
    ),
    *(
        b"Direct",
        b"Cartesian",
        b"Selective dynamics",
        b"T F T",
        b"-100",
        b"1 1 1",
        b'Lattice="',
        b"Properties=",
        b"pbc=",
    ),
    *(b"\x00", b"\x0b", b"\x1a", b"\x7f", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xe9", b"\r", b"\r\n", b"\t"),
    *("\u2028".encode(), "\u00b2".encode(), "\u0663".encode(), "\u2212".encode(), b"\xed\xa0\x80", b"\xc2\x85"),
    *(b"null", b"true", b"NaN", b"Infinity", b"1e400", b'{"data":', b"[[", b"]]", b"{}", b'"sites"', b'"lattice"'),
)
_WORD: Final = re.compile(rb"\S+")


def mutate(data: bytes, other: bytes, generator: random.Random) -> bytes:
    """Return a mutated copy of a file.

    Args:
        data: the file.
        other: a second file, for splices.
        generator: source of randomness.
    """
    for _ in range(generator.choice((1, 1, 2, 3, 5, 10))):
        data = generator.choice(_MUTATIONS)(data, other, generator)
    return data


def _flip(data: bytes, _: bytes, generator: random.Random) -> bytes:
    if not data:
        return data
    at = generator.randrange(len(data))
    return (
        data[:at]
        + bytes([generator.choice((data[at] ^ (1 << generator.randrange(8)), generator.randrange(256)))])
        + data[at + 1 :]
    )


def _cut(data: bytes, _: bytes, generator: random.Random) -> bytes:
    start, end = _span(data, generator)
    return data[:start] + data[end:]


def _insert(data: bytes, _: bytes, generator: random.Random) -> bytes:
    at = generator.randint(0, len(data))
    return data[:at] + generator.choice(TOKENS) + data[at:]


def _replace_word(data: bytes, _: bytes, generator: random.Random) -> bytes:
    # The first word after a random position: as good as a choice among all words, without finding all of them.
    word = _WORD.search(data, generator.randint(0, len(data)))
    return data[: word.start()] + generator.choice(TOKENS) + data[word.end() :] if word else data


def _swap_words(data: bytes, _: bytes, generator: random.Random) -> bytes:
    first = _WORD.search(data, generator.randint(0, len(data)))
    second = _WORD.search(data, first.end()) if first else None
    if not first or not second:
        return data
    return data[: first.start()] + second[0] + data[first.end() : second.start()] + first[0] + data[second.end() :]


def _delete_line(lines: list[bytes], generator: random.Random) -> None:
    del lines[generator.randrange(len(lines))]


def _duplicate_line(lines: list[bytes], generator: random.Random) -> None:
    at = generator.randrange(len(lines))
    lines[at:at] = [lines[at]] * generator.choice((1, 2, 300))


def _swap_lines(lines: list[bytes], generator: random.Random) -> None:
    one, two = generator.randrange(len(lines)), generator.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]


def _by_line(change: Callable[[list[bytes], random.Random], None]) -> "Mutation":
    def mutation(data: bytes, _: bytes, generator: random.Random) -> bytes:
        lines = data.split(b"\n")
        change(lines, generator)
        return b"\n".join(lines)

    return mutation


def _splice(data: bytes, other: bytes, generator: random.Random) -> bytes:
    head, tail = generator.choice(((data, other), (other, data)))
    return head[: generator.randint(0, len(head))] + tail[generator.randint(0, len(tail)) :]


def _graft(data: bytes, other: bytes, generator: random.Random) -> bytes:
    start, end = _span(other, generator)
    at = generator.randint(0, len(data))
    return data[:at] + other[start:end] + data[at:]


def _truncate(data: bytes, _: bytes, generator: random.Random) -> bytes:
    return data[: generator.randint(0, len(data))]


def _span(data: bytes, generator: random.Random) -> tuple[int, int]:
    start = generator.randint(0, len(data))
    return start, min(len(data), start + generator.choice((1, 2, 5, 20, 100, 1000)))


Mutation = Callable[[bytes, bytes, random.Random], bytes]
_MUTATIONS: Final[Sequence[Mutation]] = (
    *(_flip, _cut, _insert, _replace_word, _replace_word, _replace_word, _swap_words, _splice, _graft, _truncate),
    *map(_by_line, (_delete_line, _duplicate_line, _swap_lines)),
)
