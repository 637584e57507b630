"""Messages between API processes and workers: msgspec structs in MessagePack, validated when they are decoded.

The structs are arrays on the wire and allow neither missing nor additional fields, so that processes of two releases
reject each other's messages instead of misreading them.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder, Encoder

from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.serialization import unpack_graph
from deepergatgnn.service.lanes import Lane

Text = Annotated[str, Meta(min_length=1, max_length=1024)]
Finite = Annotated[float, Meta(ge=-1.7e308, le=1.7e308)]  # the bounds refuse NaN and infinities
ErrorCode = Literal["prediction_failed", "model_unavailable"]  # of workers
Probability = Annotated[float, Meta(ge=0, le=1)]
_DECODE_ERRORS = (ValueError, RecursionError, MemoryError)
_encode = Encoder().encode


class Waiter(Struct, array_like=True):
    """First fields of a request: the address of an error reply."""

    id: Text
    reply_to: Text


class UnreadableError(ValueError):
    """A message is damaged, or of another release; `waiter` is the address of the error reply, if it is readable."""

    def __init__(self, reason: str, waiter: Waiter | None = None) -> None:
        super().__init__(reason)
        self.waiter = waiter


class _Message(Struct, array_like=True, forbid_unknown_fields=True):
    _decoder: ClassVar[Decoder[Any]]

    def pack(self) -> bytes:
        return _encode(self)

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Return the message of `pack`, or raise UnreadableError if a field is missing, unknown or invalid."""
        try:
            message: Self = cls._decoder.decode(content)
        except _DECODE_ERRORS as error:
            raise UnreadableError(str(error)) from None
        return message


class InferenceRequest(_Message, kw_only=True, eq=False, dict=True):
    """One crystal to compute.

    Attributes:
        id: of the request, unique among those with the same `reply_to`.
        reply_to: name of the list of replies; its reader may be another process than the sender.
        models: NAME@VERSION:DIGEST, all with the featuriser that built the graph.
        deadline: Unix time in seconds of the broker's clock, after which the reply is useless.
        request_id: of the HTTP request, for logs.
        attention: whether to return the attention weights of the atoms.
        embedding: whether to return the crystal vectors.
        more: whether the sender will add more crystals to the lane soon.
        packed: the graph, of `pack_graph`.
    """

    id: Text
    reply_to: Text
    models: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1024)]
    deadline: Finite
    request_id: Annotated[str, Meta(max_length=1024)] = ""
    attention: bool = True
    embedding: bool = False
    more: bool = False
    packed: bytes

    @cached_property
    def graph(self) -> CrystalGraph:
        """The crystal; ValueError if the bytes are not those of a graph, which `unpack` excludes."""
        return unpack_graph(self.packed)

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Return the request of `pack`, or raise UnreadableError if a field or the graph is invalid."""
        try:
            request: Self = cls._decoder.decode(content)
            _ = request.graph
        except _DECODE_ERRORS as error:
            waiter = None
            with suppress(*_DECODE_ERRORS):
                waiter = _WAITERS.decode(content)
            raise UnreadableError(str(error), waiter) from None
        return request


class ModelOutput(_Message):
    """Prediction of one model version for one crystal.

    Attributes:
        model: NAME@VERSION:DIGEST.
        value: in the unit of the model's property.
        low, high: ends of the 90 % interval; None where the calibration set was too small for one.
        in_domain, score, reasons: the assessment of the applicability domain.
        attention, embedding: empty where they were not requested; attention is None where the network has none.
        attention_reason: why it has none.
        probabilities: of each class; None where the model has none.
    """

    model: str
    value: Finite
    low: Finite | None
    high: Finite | None
    in_domain: bool
    score: Finite
    reasons: tuple[str, ...]
    attention: tuple[Finite, ...] | None
    embedding: tuple[Finite, ...] = ()
    attention_reason: str | None = None
    probabilities: Annotated[dict[str, Probability], Meta(min_length=2)] | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends or none")


class InferenceReply(_Message):
    """Reply to a request: predictions, or an error.

    Attributes:
        id: of the request.
        predictions: one for each of its models, in their order.
        inference_ms: time of the batch on the device.
        held_ms: time between the delivery to the worker and the start of the batch.
        worker: name of the worker.
        error: code and detail, instead of predictions.
    """

    id: Text
    predictions: tuple[ModelOutput, ...] = ()
    inference_ms: Finite = 0.0
    held_ms: Finite = 0.0
    worker: str = ""
    error: tuple[ErrorCode, str] | None = None

    def __post_init__(self) -> None:
        if bool(self.predictions) == (self.error is not None):
            raise ValueError("a reply has either predictions or an error")


class WorkerHeartbeat(_Message, kw_only=True):
    """State of a worker.

    Attributes:
        worker: its name.
        device: of torch.
        models: NAME@VERSION:DIGEST of the loaded versions.
        failed: reason for each version that could not be loaded.
        costs: edge, atom, crystal and batch seconds (`cost.Cost`) of each loaded version.
    """

    worker: str
    device: str = ""
    models: tuple[str, ...]
    failed: dict[str, str] = {}
    costs: dict[str, tuple[Finite, Finite, Finite, Finite]]


class ApiReport(_Message):
    """Work of an API process that waits for workers.

    Attributes:
        name: of the process.
        seconds: predicted seconds of its unanswered crystals, by the name of their lane.
        done: predicted seconds of its answered crystals since it started.
    """

    name: str
    seconds: dict[str, Finite]
    done: Finite


for _kind in (InferenceRequest, ModelOutput, InferenceReply, WorkerHeartbeat, ApiReport):
    _kind._decoder = Decoder(_kind)  # noqa: SLF001
_WAITERS = Decoder(Waiter)


@dataclass(eq=False)
class PackedGraph:
    """A serialised graph, with its sizes and its names in the result cache.

    Attributes:
        content: of `pack_graph`.
        n_nodes, n_links: of the graph that is computed, in which equivalent atoms are merged.
        n_edges: of the posted cell.
        digest: the same for every cell of one crystal, see `fingerprint`; empty without a cache.
        colours: hexadecimal name of the node of each posted atom; equal in every cell of the crystal.
    """

    content: bytes
    n_nodes: int
    n_links: int
    n_edges: int
    digest: str = ""
    colours: Sequence[str] = ()


@dataclass(eq=False)
class Delivery:
    """A request that a worker holds, by its id in the stream of its lane.

    Attributes:
        stream_id: unique within the lane.
        lane: of the stream.
        entry: the request.
        times: deliveries to a device, this one included; waiting in a worker that dies does not count, so that only
            the cause of a crash is suspected.
        since: `time.monotonic()` of this delivery.
    """

    stream_id: bytes
    lane: Lane
    entry: InferenceRequest
    times: int
    since: float

    @property
    def place(self) -> tuple[Lane, bytes]:
        """Key of the request in the broker."""
        return self.lane, self.stream_id

    @property
    def models(self) -> Sequence[str]:
        """Versions that compute the crystal."""
        return self.entry.models

    @property
    def edges(self) -> int:
        """Edges of the merged graph."""
        return self.entry.graph.n_links

    @property
    def suspect(self) -> bool:
        """Whether an earlier delivery may have ended a worker."""
        return self.times > 1

    @property
    def more(self) -> bool:
        """Whether more crystals of the lane follow soon."""
        return self.entry.more
