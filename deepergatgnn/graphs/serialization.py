"""A crystal graph as bytes and back: numpy only, no pickle, for the pipe of a parse process and for the broker."""

import struct

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.graphs.crystal_graph import CrystalGraph

_FORM = b"CG1\0"  # changes with the layout, so that replicas of two releases never misread each other
_HEAD = struct.Struct("<4sIIIId")  # form, nodes n, links e, atoms N, angles A, volume in Å³

ELEMENTS = 118
_MOST = np.iinfo(np.int32).max
_WORD, _REAL, _SHORT, _BYTE = map(np.dtype, ("<i4", "<f4", "<u2", "u1"))


def pack_graph(graph: CrystalGraph) -> bytes:
    """Bytes of a graph: a head, then its arrays, those of wide items first."""
    n_angles = graph.surroundings.shape[1]
    return b"".join(
        (
            _HEAD.pack(_FORM, graph.n_nodes, graph.n_links, graph.n_atoms, n_angles, graph.volume),
            graph.senders.astype("<i4", copy=False).tobytes(),
            graph.distances.astype("<f4", copy=False).tobytes(),
            graph.counts.astype("<i4", copy=False).tobytes(),
            graph.multiplicities.astype("<i4", copy=False).tobytes(),
            graph.classes.astype("<i4", copy=False).tobytes(),
            graph.surroundings.astype("<f4", copy=False).tobytes(),
            graph.degrees.astype("<u2").tobytes(),
            graph.atomic_numbers.astype("u1").tobytes(),
        )
    )


def unpack_graph(content: bytes) -> CrystalGraph:
    """The graph of `pack_graph`; its arrays are views of the bytes where their type allows it.

    Every index is checked: one that leads outside would read foreign memory of a GPU, and end the work of others.

    Raises:
        ValueError: if the bytes are not those of a graph.
    """
    if len(content) < _HEAD.size:
        raise ValueError("not a graph: too short")
    form, n, e, atoms, angles, volume = _HEAD.unpack_from(content)
    n_words = 3 * e + n + atoms + n * angles
    behind = _HEAD.size + 4 * n_words
    if form != _FORM or len(content) != behind + 3 * n:
        raise ValueError("not a graph of this release")
    words: NDArray[np.int32] = np.frombuffer(content, _WORD, n_words, _HEAD.size)
    classes = 3 * e + n
    graph = CrystalGraph(
        senders=words[:e],
        distances=words[e : 2 * e].view(_REAL),
        counts=words[2 * e : 3 * e],
        multiplicities=words[3 * e : classes],
        classes=words[classes : classes + atoms],
        surroundings=words[classes + atoms :].view(_REAL).reshape(n, angles),
        degrees=np.frombuffer(content, _SHORT, n, behind).astype(np.int32),
        atomic_numbers=np.frombuffer(content, _BYTE, n, behind + 2 * n).astype(np.int64),
        volume=volume,
    )
    _check(graph)
    return graph


def _check(graph: CrystalGraph) -> None:
    n, e = graph.n_nodes, graph.n_links
    indices = ((graph.senders, 0, n - 1), (graph.classes, 0, n - 1), (graph.atomic_numbers, 1, ELEMENTS))
    numbers = ((graph.multiplicities, 1, graph.n_atoms), (graph.counts, 1, _MOST))
    if not n or not graph.n_atoms or graph.degrees.sum() != e:
        raise ValueError("not a graph: its parts do not fit each other")
    if any(part.size and (part.min() < low or part.max() > high) for part, low, high in (*indices, *numbers)):
        raise ValueError("not a graph: an index or a number is out of range")
    if not (np.isfinite(graph.distances).all() and np.isfinite(graph.surroundings).all() and 0 < graph.volume < np.inf):
        raise ValueError("not a graph: it has numbers that are not finite")
