"""Arbitrary content of the broker ends no worker and no API process, and the next request is answered."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import msgpack
from msgspec.structs import replace

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.serialization import pack_graph, unpack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.lanes import INTERACTIVE, LANES, Lane
from deepergatgnn.service.messages import (
    ApiReport,
    InferenceReply,
    InferenceRequest,
    ModelOutput,
    UnreadableError,
    WorkerHeartbeat,
)
from deepergatgnn.service.queue.producer import ANSWERS, DEAD, GROUP, STREAMS, WITHDRAWN
from deepergatgnn.service.telemetry.worker_metrics import merge_reports, worker_report
from tests.conftest import until
from tests.support.brokers import broker_server
from tests.support.fixtures import some_crystals
from tests.support.processes import CIF, HEADERS, MODEL, OLD, PREDICT, api, heartbeats, small_store, until_ready, worker

REPLY_TO = "mutator"
STREAM = STREAMS[INTERACTIVE]


def real_entry() -> InferenceRequest:
    version = ModelStore().version(f"{MODEL}@{OLD}")
    graph = reduce_graph(build_graph(some_crystals(3)[1], version.manifest.graph))
    return InferenceRequest(
        id="e-1",
        reply_to=REPLY_TO,
        models=(version.identity,),
        deadline=time.time() + 600,
        request_id="r",
        packed=pack_graph(graph),
    )


ENTRY = real_entry()
FIELDS: list[Any] = msgpack.decode(ENTRY.pack())
DEADLINE, GRAPH = 3, len(FIELDS) - 1
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def with_field(field: int, value: object) -> bytes:
    """Return the request with another value of a field."""
    return msgpack.encode([*FIELDS[:field], value, *FIELDS[field + 1 :]])


def altered(content: bytes, place: int, new: bytes) -> bytes:
    place %= len(content)
    return content[:place] + new + content[place + len(new) :]


WORDS = st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f", b"\1\0\0\0"])
MUTATED = st.one_of(
    st.builds(with_field, st.integers(0, GRAPH), ANYTHING),
    ANYTHING.map(msgpack.encode),
    st.binary(max_size=200),
    st.builds(
        lambda place, word: with_field(GRAPH, altered(ENTRY.packed, 4 * place, word)), st.integers(0, 5000), WORDS
    ),
    st.integers(0, len(ENTRY.packed)).map(lambda end: with_field(GRAPH, ENTRY.packed[:end])),
    st.floats().map(lambda deadline: with_field(DEADLINE, deadline)),
    st.integers(0, len(FIELDS)).map(lambda count: msgpack.encode(FIELDS[:count])),  # of another release
    st.lists(ANYTHING, min_size=1, max_size=2).map(lambda more: msgpack.encode(FIELDS + more)),
    st.integers(0, len(ENTRY.pack())).map(lambda end: ENTRY.pack()[:end]),
    st.builds(lambda place, new: altered(ENTRY.pack(), place, new), st.integers(0, 5000), st.binary(min_size=1)),
)
NAMES = st.sampled_from([b"entry", b"entry", b"entry", b"other", b"", b"\xff"])


@given(MUTATED)
def test_an_entry_is_whole_or_unreadable(content: bytes) -> None:
    """No other exception is raised, and every field that is read has its type."""
    try:
        entry = InferenceRequest.unpack(content)
    except UnreadableError:
        return
    assert all(isinstance(text, str) for text in (entry.id, entry.reply_to, entry.request_id, *entry.models))
    assert entry.models
    assert math.isfinite(entry.deadline)
    assert entry.graph.senders.max(initial=0) < entry.graph.n_nodes


@given(st.one_of(st.binary(max_size=100), ANYTHING.map(msgpack.encode)))
@pytest.mark.parametrize("kind", [InferenceReply, WorkerHeartbeat])
def test_other_content_is_no_message(kind: type[InferenceReply], content: bytes) -> None:
    with pytest.raises(UnreadableError):
        kind.unpack(content)


@given(st.integers(0, 5), ANYTHING)
def test_an_answer_of_another_type_is_unreadable(field: int, value: object) -> None:
    values = msgpack.decode(InferenceReply("x", worker="w", error=("prediction_failed", "no")).pack())
    values[field] = value
    try:
        answer = InferenceReply.unpack(msgpack.encode(values))
    except UnreadableError:
        return
    assert isinstance(answer.id, str)
    assert math.isfinite(answer.inference_ms + answer.held_ms)
    assert answer.error is None or [type(part) for part in answer.error] == [str, str]


def test_a_request_of_another_release_has_an_address_for_its_error() -> None:
    for content in (msgpack.encode([*FIELDS, "new"]), msgpack.encode(FIELDS[:-1]), with_field(GRAPH, b"CG0")):
        with pytest.raises(UnreadableError) as refused:
            InferenceRequest.unpack(content)
        assert refused.value.waiter is not None
        assert (refused.value.waiter.id, refused.value.waiter.reply_to) == (ENTRY.id, ENTRY.reply_to)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_unreadable(number: float) -> None:
    with pytest.raises(UnreadableError):
        InferenceRequest.unpack(with_field(DEADLINE, number))
    output = ModelOutput("m", 1.0, 0.0, 2.0, in_domain=True, score=0.5, reasons=(), attention=(1.0,), embedding=(1.0,))
    for name in ("value", "low", "high", "score", "attention", "embedding"):
        damaged = replace(output, **{name: (number,) if name in {"attention", "embedding"} else number})
        with pytest.raises(UnreadableError):
            InferenceReply.unpack(InferenceReply("x", (damaged,)).pack())
    for reply in (InferenceReply("x", (output,), number), InferenceReply("x", (output,), 0.0, number)):
        with pytest.raises(UnreadableError):
            InferenceReply.unpack(reply.pack())
    with pytest.raises(UnreadableError):
        WorkerHeartbeat.unpack(WorkerHeartbeat(worker="w", models=(), costs={"m": (0, 0, 0, number)}).pack())
    for report in (ApiReport("a", {"bulk": number}, 0.0), ApiReport("a", {}, number)):
        with pytest.raises(UnreadableError):
            ApiReport.unpack(report.pack())


@given(st.integers(0, 2000), WORDS)
def test_an_index_that_leads_outside_is_no_graph(place: int, word: bytes) -> None:
    try:
        graph = unpack_graph(altered(ENTRY.packed, 4 * place, word))
    except ValueError:
        return
    for indices in (graph.senders, graph.node_of_atom):
        assert indices.min() >= 0
        assert indices.max() < graph.n_nodes
    assert graph.degrees.sum() == graph.n_links


@dataclass
class Place:
    """A service with one worker, and its broker."""

    address: str
    client: "redis.Redis[bytes]"
    url: str

    def post(self) -> int:
        reply = httpx.post(f"{self.address}{PREDICT}", content=CIF, headers=HEADERS, timeout=120)
        assert reply.status_code == httpx.codes.OK, reply.text
        return reply.status_code

    def worker(self) -> list[str]:
        """Names of the workers; a new process has a new one."""
        return sorted(each.worker for each in heartbeats(self.url))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    store: Path = small_store(tmp_path_factory.mktemp("unreadable") / "store")
    with broker_server() as server, api(server.url, store) as (_, address), worker(server.url, store):
        until_ready(address)
        with redis.Redis.from_url(server.url, protocol=2) as client:
            yield Place(address, client, server.url)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(NAMES, MUTATED, st.sampled_from(LANES)), min_size=1, max_size=8))
def test_mutated_entries_cost_nobody_an_answer(place: Place, entries: list[tuple[bytes, bytes, Lane]]) -> None:
    before = place.worker()
    assert len(before) == 1
    for name, content, lane in entries:
        place.client.xadd(STREAMS[lane], {name: content})
    place.post()
    until(lambda: not any(place.client.xlen(stream) for stream in STREAMS.values()), "all of them are deleted")
    assert place.worker() == before


def test_models_of_lists_are_dead_lettered_and_who_waits_is_told(place: Place) -> None:
    before, dead = place.worker(), place.client.xlen(DEAD)
    place.client.delete(ANSWERS + REPLY_TO)
    place.client.xadd(STREAM, {"entry": with_field(2, [["bulk-modulus@1.0.0"]])})
    _, answer = place.client.blpop([ANSWERS + REPLY_TO], 60)  # type: ignore[misc]
    error = InferenceReply.unpack(answer).error
    assert error is not None
    assert error[0] == "prediction_failed"
    assert place.client.xlen(DEAD) == dead + 1
    assert place.client.xpending(STREAM, GROUP)["pending"] == 0
    assert place.worker() == before
    place.post()


def test_an_answer_list_that_is_something_else_holds_up_nobody(place: Place) -> None:
    place.client.set(ANSWERS + "string", "x")
    place.client.xadd(STREAM, {"entry": with_field(1, "string")})
    place.post()
    assert place.client.delete(ANSWERS + "string") == 1


KINDS = ("deepergatgnn:workers", "deepergatgnn:replicas")
GARBAGE = [b"", b"\xff\xfe", b"{}", b"\x90", b"\x80", b"\xc0", b"\x95\x01\x02\x03\x04\x05", b"\x91" * 100_000]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_of_workers_and_replicas_is_left_out(place: Place, garbage: bytes) -> None:
    before = place.worker()
    names = ["garbage", b"garbage\xff", b""]
    for kind in KINDS:
        for name in names:
            place.client.zadd(kind, {name: time.time() + 30})
            place.client.hset(f"{kind}:heartbeats", name, garbage)
            place.client.hset(f"{kind}:metrics", name, garbage)
        place.client.zadd(kind, {"no heartbeat": time.time() + 30, "for ever": "+inf"})
    for message in (garbage, b"nolane 1-1", b"interactive", b"interactive x y", b"bulk \xff"):
        place.client.publish(WITHDRAWN, message)
    time.sleep(0.6)  # API and worker have read it
    assert httpx.get(f"{place.address}/metrics").status_code == httpx.codes.OK
    assert httpx.get(f"{place.address}/readyz").json()["workers"] == 1
    place.post()
    assert place.worker() == before
    for kind in KINDS:
        place.client.zrem(kind, *names, "no heartbeat", "for ever")
        place.client.hdel(f"{kind}:heartbeats", *names)
        place.client.hdel(f"{kind}:metrics", *names)


REPORT = worker_report().decode()


@pytest.mark.parametrize(
    "text",
    [
        "deepergatgnn_expired_total not-a-number",
        '# TYPE deepergatgnn_expired nonsense\ndeepergatgnn_expired{a="b',
        '# TYPE deepergatgnn_expired histogram\ndeepergatgnn_expired_bucket{le="x"} 1',
        "}{" * 100,
        "\0\0\0",
        "# TYPE deepergatgnn_ready gauge\ndeepergatgnn_ready 5",
    ],
)
def test_metrics_of_garbage_are_left_out(text: str) -> None:
    found = merge_reports({"good": REPORT, "bad": text}).decode()
    assert 'deepergatgnn_expired_total{worker="good"}' in found
    assert 'worker="bad"' not in found
