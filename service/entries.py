"""What travels through the broker: a graph to the worker, an answer back. Arrays, never text of a file."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from deepergatgnn.crystal_graph import CrystalGraph


@dataclass(frozen=True, eq=False)
class Entry:
    """One crystal to compute.

    Attributes:
        id: of the entry, made by the API.
        replica: whose answer list gets the answer.
        models: NAME@VERSION, all with the featuriser that built the graph.
        graph: the crystal.
        deadline: Unix time in seconds, after which nobody waits for the answer.
        attention: whether the weights of the atoms are wanted.
    """

    id: str
    replica: str
    models: tuple[str, ...]
    graph: CrystalGraph
    deadline: float
    attention: bool = True

    def pack(self) -> dict[str, bytes | str | float | int]:
        """Fields of a stream entry."""
        return {
            "id": self.id,
            "replica": self.replica,
            "models": ",".join(self.models),
            "deadline": self.deadline,
            "attention": int(self.attention),
            "numbers": self.graph.atomic_numbers.astype(np.uint8).tobytes(),
            "senders": self.graph.senders.tobytes(),
            "degrees": self.graph.degrees.astype(np.uint16).tobytes(),
            "distances": self.graph.distances.tobytes(),
            "volume": self.graph.volume,
            "multiplicities": self.graph.multiplicities.tobytes(),
            "counts": self.graph.counts.tobytes(),
            "classes": self.graph.classes.tobytes(),
            "surroundings": self.graph.surroundings.tobytes(),
        }

    @classmethod
    def unpack(cls, fields: dict[bytes, bytes]) -> "Entry":
        """The entry of a stream's fields.

        Raises:
            KeyError, ValueError: if they are not those of `pack`.
        """
        numbers = np.frombuffer(fields[b"numbers"], np.uint8).astype(np.int64)
        surroundings = np.frombuffer(fields[b"surroundings"], np.float32)
        graph = CrystalGraph(
            atomic_numbers=numbers,
            senders=np.frombuffer(fields[b"senders"], np.int32),
            degrees=np.frombuffer(fields[b"degrees"], np.uint16).astype(np.int32),
            distances=np.frombuffer(fields[b"distances"], np.float32),
            volume=float(fields[b"volume"]),
            multiplicities=np.frombuffer(fields[b"multiplicities"], np.int32),
            counts=np.frombuffer(fields[b"counts"], np.int32),
            classes=np.frombuffer(fields[b"classes"], np.int32),
            surroundings=surroundings.reshape(len(numbers), len(surroundings) // len(numbers)),
        )
        return cls(
            id=fields[b"id"].decode(),
            replica=fields[b"replica"].decode(),
            models=tuple(fields[b"models"].decode().split(",")),
            graph=graph,
            deadline=float(fields[b"deadline"]),
            attention=fields[b"attention"] == b"1",
        )


@dataclass(frozen=True)
class ModelAnswer:
    """What one checkpoint says of the crystal; `attention` is empty where it was not wanted."""

    model: str
    value: float
    low: float
    high: float
    in_domain: bool
    score: float
    reasons: tuple[str, ...]
    attention: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """What the worker sends back for an entry: predictions, or an error with the status of its answer.

    Attributes:
        id: of the entry.
        predictions: one for each of its models, in their order.
        inference_ms: time of the batch on the device.
        worker: who answered.
        error: (status, code, detail) instead of predictions.
    """

    id: str
    predictions: tuple[ModelAnswer, ...] = ()
    inference_ms: float = 0.0
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
                ModelAnswer(**p | {"reasons": tuple(p["reasons"]), "attention": tuple(p["attention"])})
                for p in document["predictions"]
            ),
            inference_ms=document["inference_ms"],
            worker=document["worker"],
            error=None if error is None else (error[0], error[1], error[2]),
        )
