"""Crystal graph ↔ bytes, for the pipe of a parse process and for the broker. Requires numpy only; no pickle."""

import struct
from typing import Any

import numpy as np

from deepergatgnn.graphs.crystal_graph import GRAPH_FIELDS, CrystalGraph

_FORM = b"CG1\0"  # changes with the layout, so that replicas of two releases never misread each other
_HEAD = struct.Struct("<4sIIIId")  # form, nodes n, edges e, atoms N, angular features A, volume in Å³

ELEMENTS = 118
_MOST = np.iinfo(np.int32).max
# Of each field: name, type in the message, type in memory if it differs, axis, whether an item has A columns.
_LAYOUT = [
    (
        name,
        np.dtype(field.message_dtype or field.dtype),
        np.dtype(field.dtype) if field.message_dtype else None,
        field.axis,
        field.has_columns,
    )
    for name, field in GRAPH_FIELDS.items()
]


def pack_graph(graph: CrystalGraph) -> bytes:
    """Serialize a graph: a header, then the arrays of `GRAPH_FIELDS` in their order."""
    n_angles = graph.angular_features.shape[1]
    parts = [_HEAD.pack(_FORM, graph.n_nodes, graph.n_links, graph.n_atoms, n_angles, graph.volume)]
    parts += [getattr(graph, name).astype(dtype, copy=False).tobytes() for name, dtype, *_ in _LAYOUT]
    return b"".join(parts)


def unpack_graph(content: bytes) -> CrystalGraph:
    """Read the bytes of `pack_graph`; arrays are views of the bytes where the type allows it.

    Every index is checked, because an index out of range reads foreign memory of a GPU and aborts its process.

    Raises:
        ValueError: if the bytes are not a graph.
    """
    if len(content) < _HEAD.size:
        raise ValueError("not a graph: too short")
    form, n, e, n_atoms, n_angles, volume = _HEAD.unpack_from(content)
    sizes = {"node": n, "edge": e, "atom": n_atoms}
    lengths = [sizes[axis] * (n_angles if has_columns else 1) for _, _, _, axis, has_columns in _LAYOUT]
    expected = _HEAD.size + sum(length * layout[1].itemsize for length, layout in zip(lengths, _LAYOUT, strict=True))
    if form != _FORM or len(content) != expected:
        raise ValueError("not a graph of this release")
    arrays: dict[str, Any] = {}
    offset = _HEAD.size
    for (name, dtype, memory_dtype, _, has_columns), length in zip(_LAYOUT, lengths, strict=True):
        array = np.frombuffer(content, dtype, length, offset)
        offset += array.nbytes
        if memory_dtype is not None:
            array = array.astype(memory_dtype)
        arrays[name] = array.reshape(n, n_angles) if has_columns else array
    graph = CrystalGraph(volume=volume, **arrays)
    _check(graph)
    return graph


def _check(graph: CrystalGraph) -> None:
    n, e = graph.n_nodes, graph.n_links
    indices = ((graph.senders, 0, n - 1), (graph.node_of_atom, 0, n - 1), (graph.atomic_numbers, 1, ELEMENTS))
    numbers = ((graph.multiplicities, 1, graph.n_atoms), (graph.counts, 1, _MOST))
    if not n or not graph.n_atoms or graph.degrees.sum() != e:
        raise ValueError("not a graph: its parts do not fit each other")
    if any(part.size and (part.min() < low or part.max() > high) for part, low, high in (*indices, *numbers)):
        raise ValueError("not a graph: an index or a number is out of range")
    finite = np.isfinite(graph.distances).all() and np.isfinite(graph.angular_features).all()
    if not (finite and 0 < graph.volume < np.inf):
        raise ValueError("not a graph: it has numbers that are not finite")
