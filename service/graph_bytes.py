"""A crystal graph as bytes and back: numpy only, no pickle, for the pipe of a parse process and for the broker."""

import struct
from typing import Any

import numpy as np

from deepergatgnn.crystal_graph import CrystalGraph

_FORM = b"CG1\0"  # changes with the layout, so that replicas of two releases never misread each other
_HEAD = struct.Struct("<4sIIIId")  # form, nodes n, links e, atoms N, angles A, volume in Å³


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

    Raises:
        ValueError: if the bytes are not those of a graph.
    """
    if len(content) < _HEAD.size:
        raise ValueError("not a graph: too short")
    form, n, e, atoms, angles, volume = _HEAD.unpack_from(content)
    if form != _FORM or len(content) != _HEAD.size + 12 * e + 4 * (n + atoms + n * angles) + 3 * n:
        raise ValueError("not a graph of this release")
    place = _HEAD.size

    def take(count: int, kind: str) -> Any:
        nonlocal place
        found = np.frombuffer(content, kind, count, place)
        place += found.nbytes
        return found

    return CrystalGraph(
        senders=take(e, "<i4"),
        distances=take(e, "<f4"),
        counts=take(e, "<i4"),
        multiplicities=take(n, "<i4"),
        classes=take(atoms, "<i4"),
        surroundings=take(n * angles, "<f4").reshape(n, angles),
        degrees=take(n, "<u2").astype(np.int32),
        atomic_numbers=take(n, "u1").astype(np.int64),
        volume=volume,
    )
