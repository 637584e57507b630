"""What travels through the broker: a graph to the worker, an answer back. Arrays, never text of a file."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import orjson

from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.serialization import unpack_graph

Lane = Literal["interactive", "bulk"]
_HEAD = struct.Struct("<dI")  # deadline, bytes of what is told before the graph
LANES: tuple[Lane, ...] = ("interactive", "bulk")
HEAD_FIELDS = 7  # of `InferenceRequest.pack`: an API process and a worker of two releases may differ
LONGEST_TEXT, MODELS_AT_MOST = 1024, 1024
_TUPLES = ("reasons", "attention", "embedding")


class UnreadableError(ValueError):
    """What came through the broker is none of ours, or was damaged.

    Attributes:
        waiter: id and replica of the entry, where these could be read: somebody waits for its answer.
    """

    def __init__(self, reason: str, waiter: tuple[str, str] | None = None) -> None:
        super().__init__(reason)
        self.waiter = waiter


@dataclass(eq=False)  # not frozen, nor are the others: that would take several times as long to make
class PackedGraph:
    """A graph on its way to a worker, and what the API must know of it.

    Attributes:
        content: of `pack_graph`.
        n_nodes, n_links: what is computed: atoms and edges after equivalent ones were merged.
        n_edges: of the posted cell.
        digest: the same for every cell of the same crystal, see `canonical`; empty where no cache asks for it.
        colours: of the node of each atom of the posted cell, hexadecimal; they carry an answer over to another cell.
    """

    content: bytes
    n_nodes: int
    n_links: int
    n_edges: int
    digest: str = ""
    colours: Sequence[str] = ()


@dataclass(eq=False)
class InferenceRequest:
    """One crystal to compute.

    Attributes:
        id: of the entry, made by the API.
        replica: whose answer list gets the answer.
        request_id: of the HTTP request, for logs.
        models: NAME@VERSION:DIGEST, all with the featuriser that built the graph.
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
    def unpack(cls, fields: Mapping[bytes, bytes], lane: Lane) -> "InferenceRequest":
        """The entry of a stream's fields.

        Raises:
            UnreadableError: if they are not those of `pack`.
        """
        content = fields.get(b"entry", b"")
        if len(content) < _HEAD.size:
            raise UnreadableError("not an entry: too short")
        deadline, size = _HEAD.unpack_from(content)
        graph = _HEAD.size + size
        try:
            head = orjson.loads(content[_HEAD.size : graph])
        except ValueError:
            raise UnreadableError("not an entry: its head cannot be read") from None
        if not (isinstance(head, list) and len(head) > 1 and all(map(_is_text, head[:2]))):
            raise UnreadableError("not an entry: nobody can be told")
        waiter = head[0], head[1]
        if len(head) != HEAD_FIELDS:
            raise UnreadableError(f"its head has {len(head)} fields instead of {HEAD_FIELDS}", waiter)
        name, replica, request_id, models, attention, more, embedding = head
        if not (isinstance(models, list) and 1 <= len(models) <= MODELS_AT_MOST and all(map(_is_text, models))):
            raise UnreadableError("its models are no list of names", waiter)
        if not (isinstance(request_id, str) and all(type(flag) is bool for flag in (attention, more, embedding))):
            raise UnreadableError("a field of its head is of another type", waiter)
        if not math.isfinite(deadline):
            raise UnreadableError(f"its deadline is {deadline}", waiter)
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
        try:
            _ = entry.graph
        except ValueError as error:
            raise UnreadableError(str(error), waiter) from None
        return entry


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT


@dataclass(eq=False)
class Delivery:
    """An entry in a worker's hands, by its stream id.

    Attributes:
        stream_id: in the stream of the entry's lane.
        entry: what to compute.
        times: how often it was given to a device, this time included; while it only waits in a worker it does not
            count, so that those that wait beside the cause of a crash are not taken for it.
        since: `time.monotonic()` of this delivery.
    """

    stream_id: bytes
    entry: InferenceRequest
    times: int
    since: float

    @property
    def place(self) -> tuple[Lane, bytes]:
        """Where the entry is in the broker: ids are those of a stream, and each lane has its own."""
        return self.entry.lane, self.stream_id


@dataclass
class ModelOutput:
    """What one checkpoint says of the crystal.

    Attributes:
        low, high: ends of the 90 % interval; None where the calibration cannot promise one.
        attention, embedding: empty where they were not wanted; attention is None where the network has none.
        attention_reason: why it has none.
        probabilities: of each class; None where the checkpoint has none.
    """

    model: str
    value: float
    low: float | None
    high: float | None
    in_domain: bool
    score: float
    reasons: tuple[str, ...]
    attention: tuple[float, ...] | None
    embedding: tuple[float, ...] = ()
    probabilities: dict[str, float] | None = None
    attention_reason: str | None = None


@dataclass
class InferenceReply:
    """What the worker sends back for an entry: predictions, or an error.

    Attributes:
        id: of the entry.
        predictions: one for each of its models, in their order.
        inference_ms: time of the batch on the device.
        held_ms: time in the worker's hands before that.
        worker: who answered.
        error: (code, detail) instead of predictions.
    """

    id: str
    predictions: tuple[ModelOutput, ...] = ()
    inference_ms: float = 0.0
    held_ms: float = 0.0
    worker: str = ""
    error: tuple[str, str] | None = field(default=None)

    def pack(self) -> bytes:
        """JSON."""
        return orjson.dumps(self)

    @classmethod
    def unpack(cls, content: bytes) -> "InferenceReply":
        """The answer of `pack`.

        Raises:
            UnreadableError: if it is none.
        """
        try:
            document: dict[str, Any] = orjson.loads(content)
            error = document["error"]
            answer = cls(
                id=document["id"],
                predictions=tuple(
                    ModelOutput(**p | {k: p[k] if p[k] is None else tuple(p[k]) for k in _TUPLES})
                    for p in document["predictions"]
                ),
                inference_ms=document["inference_ms"],
                held_ms=document["held_ms"],
                worker=document["worker"],
                error=None if error is None else (error[0], error[1]),
            )
            total = sum(sum(each.attention or ()) + sum(each.embedding) for each in answer.predictions)
        except (TypeError, ValueError, LookupError, AttributeError) as reason:
            raise UnreadableError(f"not an answer: {reason!r}") from None
        if not (
            _is_text(answer.id) and _are_numbers(answer.inference_ms, answer.held_ms, total) and _is_error(answer.error)
        ):
            raise UnreadableError("not an answer: a field is of another type")
        if not all(map(_is_prediction, answer.predictions)):
            raise UnreadableError("not an answer: a prediction is damaged")
        return answer


def _are_numbers(*values: object) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)  # type: ignore[arg-type]


def _is_error(error: tuple[object, object] | None) -> bool:
    return error is None or all(isinstance(part, str) for part in error)


def _is_prediction(given: ModelOutput) -> bool:
    ends = [end for end in (given.low, given.high) if end is not None]
    numbers = _are_numbers(given.value, *ends, given.score) and (given.low is None) == (given.high is None)
    texts = isinstance(given.model, str) and all(isinstance(reason, str) for reason in given.reasons)
    return numbers and texts and isinstance(given.in_domain, bool) and _are_probabilities(given.probabilities)


def _are_probabilities(given: object) -> bool:
    if given is None:
        return True
    return isinstance(given, dict) and len(given) > 1 and all(_are_numbers(p) and 0 <= p <= 1 for p in given.values())
