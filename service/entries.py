"""What travels through the broker: a graph to the worker, an answer back. Arrays, never text of a file."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import orjson

from deepergatgnn.crystal_graph import CrystalGraph
from service.graph_bytes import unpack_graph

Lane = Literal["interactive", "bulk"]
_HEAD = struct.Struct("<dI")  # deadline, bytes of what is told before the graph
LANES: tuple[Lane, ...] = ("interactive", "bulk")


@dataclass(eq=False)  # not frozen, nor are the others: that would take several times as long to make
class Entry:
    """One crystal to compute.

    Attributes:
        id: of the entry, made by the API.
        replica: whose answer list gets the answer.
        request_id: of the HTTP request, for logs.
        models: NAME@VERSION, all with the featuriser that built the graph.
        packed: the crystal, of `pack_graph`.
        deadline: Unix time in seconds of the broker's clock, after which nobody waits for the answer.
        attention: whether the weights of the atoms are wanted.
        embedding: whether the crystal vector is wanted.
        lane: interactive entries go first.
        more: whether more crystals of the lane are on their way.
    """

    id: str
    replica: str
    models: tuple[str, ...]
    packed: bytes
    deadline: float
    request_id: str = ""
    attention: bool = True
    embedding: bool = False
    lane: Lane = "interactive"
    more: bool = False

    @cached_property
    def graph(self) -> CrystalGraph:
        """The crystal.

        Raises:
            ValueError: if the bytes are not those of a graph.
        """
        return unpack_graph(self.packed)

    def pack(self) -> tuple[str, bytes]:
        """The field of a stream entry and its content: one alone, since each is written and read on three sides."""
        told = orjson.dumps(
            (self.id, self.replica, self.request_id, self.models, self.attention, self.more, self.embedding)
        )
        return "entry", _HEAD.pack(self.deadline, len(told)) + told + self.packed

    @classmethod
    def unpack(cls, fields: Mapping[bytes, bytes], lane: Lane) -> "Entry":
        """The entry of a stream's fields.

        Raises:
            KeyError, TypeError, ValueError: if they are not those of `pack`.
        """
        content = fields[b"entry"]
        if len(content) < _HEAD.size:
            raise ValueError("not an entry: too short")
        deadline, size = _HEAD.unpack_from(content)
        graph = _HEAD.size + size
        name, replica, request_id, models, attention, more, embedding = orjson.loads(content[_HEAD.size : graph])
        entry = cls(
            id=name,
            replica=replica,
            request_id=request_id,
            models=tuple(models),
            packed=content[graph:],
            deadline=deadline,
            attention=attention,
            embedding=embedding,
            lane=lane,
            more=more,
        )
        _ = entry.graph  # what is not a graph is no entry
        return entry


@dataclass
class ModelAnswer:
    """What one checkpoint says of the crystal.

    Attributes:
        low, high: ends of the 90 % interval; None where the calibration cannot promise one.
        attention, embedding: empty where they were not wanted.
    """

    model: str
    value: float
    low: float | None
    high: float | None
    in_domain: bool
    score: float
    reasons: tuple[str, ...]
    attention: tuple[float, ...]
    embedding: tuple[float, ...] = ()


@dataclass
class Answer:
    """What the worker sends back for an entry: predictions, or an error with the status of its answer.

    Attributes:
        id: of the entry.
        predictions: one for each of its models, in their order.
        inference_ms: time of the batch on the device.
        held_ms: time in the worker's hands before that.
        worker: who answered.
        error: (status, code, detail) instead of predictions.
    """

    id: str
    predictions: tuple[ModelAnswer, ...] = ()
    inference_ms: float = 0.0
    held_ms: float = 0.0
    worker: str = ""
    error: tuple[int, str, str] | None = field(default=None)

    def pack(self) -> bytes:
        """JSON."""
        return orjson.dumps(self)

    @classmethod
    def unpack(cls, content: bytes) -> "Answer":
        """The answer of `pack`."""
        document: dict[str, Any] = orjson.loads(content)
        error = document["error"]
        return cls(
            id=document["id"],
            predictions=tuple(
                ModelAnswer(**p | {key: tuple(p[key]) for key in ("reasons", "attention", "embedding")})
                for p in document["predictions"]
            ),
            inference_ms=document["inference_ms"],
            held_ms=document["held_ms"],
            worker=document["worker"],
            error=None if error is None else (error[0], error[1], error[2]),
        )
