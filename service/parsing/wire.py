"""Wire format between the API and its parse processes: frames of a msgpack header and a raw payload.

Headers are msgspec structs that are validated when they are decoded. Nothing is unpickled, so that a parser that a file
has taken over cannot take over the API.
"""

import struct
from collections.abc import MutableSequence, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from msgspec import MsgspecError, Struct
from msgspec.msgpack import Decoder, Encoder

from deepergatgnn.errors import StructureErrorCode
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.service.messages import PackedGraph
from deepergatgnn.service.schemas import Cell
from deepergatgnn.structures import StructureFormat

Kind = Literal["single", "bulk"]
Progress = MutableSequence[float]  # in shared memory, written by the process except for RECALLED
# Its items: tasks begun so far; whether graphs of several files are being built; processor time of the process when it
# began its current work; number of sent tasks that it must not begin any more, written by the API.
BEGUN, BUILDING, SINCE, RECALLED = range(4)
CRASHED = "the parser crashed on this file: simplify it (single data block, P1)"
_PREFIX = struct.Struct("<?II")  # exclusive flag, header length, payload length
encode = Encoder().encode


class WireError(Exception):
    """The other end broke the wire format."""


class FileHeader(Struct, tag="file", frozen=True):
    """A file to parse, which is the payload.

    Attributes:
        configs: a graph is built for each.
        rounds: message-passing rounds that digest and colours of the graphs cover; 0 for neither.
        sites: whether to return element and position of every atom.
    """

    format: StructureFormat
    configs: tuple[GraphConfig, ...]
    rounds: int = 0
    sites: bool = True


class BodyHeader(Struct, tag="body", frozen=True):
    """A JSON body to read, which is the payload; see `json_bodies.read_body`."""

    kind: Kind
    options: dict[str, Any]


TaskHeader = FileHeader | BodyHeader


class ParsedStructure(Struct, tag="structure"):
    """Structure of a file, with a graph for each requested featuriser.

    Attributes:
        symbols, frac_coords: of each atom, as posted; empty unless requested.
        warnings: what the reader ignored or changed.
        graph_ms: time to build the graphs of all files of the group.
    """

    formula: str
    reduced_formula: str
    n_atoms: int
    symbols: list[str]
    frac_coords: list[list[float]]
    cell: Cell
    warnings: list[str]
    graphs: list[PackedGraph]
    parse_ms: float
    graph_ms: float


class BodyItem(Struct):
    """A structure of a JSON body, or the code and detail of its refusal."""

    id: str | None
    format: StructureFormat = "auto"
    content: memoryview = memoryview(b"")
    refusal: tuple[str, str] | None = None


class RequestBody(Struct, tag="body"):
    """Contents of a JSON body: options, and one item, or several of a bulk request."""

    models: list[str]
    attention: bool
    embedding: bool
    items: list[BodyItem]


class StructureRefusal(Struct, tag="structure refusal"):
    """A `StructureError`."""

    code: StructureErrorCode
    detail: str


class RequestRefusal(Struct, tag="request refusal"):
    """A `ServiceError`."""

    code: str
    detail: str


Reply = ParsedStructure | RequestBody | StructureRefusal | RequestRefusal
_headers: Decoder[TaskHeader] = Decoder(TaskHeader)
_replies: Decoder[Reply] = Decoder(Reply)


@lru_cache(maxsize=64)
def encode_header(header: FileHeader) -> bytes:
    """Encode the header of a file; few different ones occur."""
    return encode(header)


@lru_cache(maxsize=64)
def decode_header(header: bytes) -> TaskHeader:
    """Decode a header that the API made."""
    return _headers.decode(header)


def frame(header: bytes, payload: Sequence[bytes] = (), *, exclusive: bool = False) -> list[bytes]:
    """Return a frame in pieces; joining them would copy up to 16 MiB on the event loop.

    Args:
        header: msgpack; empty in the reply to a recalled task.
        payload: pieces of the content.
        exclusive: whether the task must not be grouped with others.
    """
    return [_PREFIX.pack(exclusive, len(header), sum(map(len, payload))) + header, *payload]


def reply_frame(reply: Reply | None) -> bytes:
    """Return the frame of a reply; None replies to a recalled task."""
    return b"".join(frame(b"" if reply is None else encode(reply)))


def decode_reply(header: memoryview) -> Reply:
    """Decode a reply; contents of a JSON body are views into the header, not copies.

    Raises:
        WireError: it is none.
    """
    try:
        return _replies.decode(header)
    except (MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


class Frame(NamedTuple):
    """Views into a received frame, and whether its task must not be grouped with others."""

    exclusive: bool
    header: memoryview
    payload: memoryview


class Frames:
    """Frames of a byte stream.

    Args:
        max_bytes: of a frame.
    """

    def __init__(self, max_bytes: int = 2**33) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        self._buffer += data

    def take(self, *, grouped: bool = False) -> Frame | None:
        """Take the next frame; None if it is incomplete, or if it is exclusive and `grouped`.

        Raises:
            WireError: the frame is too long.
        """
        if len(self._buffer) < _PREFIX.size:
            return None
        exclusive, header_size, payload_size = _PREFIX.unpack_from(self._buffer)
        begin, end = _PREFIX.size + header_size, _PREFIX.size + header_size + payload_size
        if end > self._max_bytes:
            raise WireError(f"a frame of {end} bytes")
        if len(self._buffer) < end or (exclusive and grouped):
            return None
        view, self._buffer = memoryview(self._buffer), self._buffer[end:]  # the views keep the old buffer
        return Frame(exclusive, view[_PREFIX.size : begin], view[begin:end])
