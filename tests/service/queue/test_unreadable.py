"""Whatever is put into the broker ends no worker and no API process, and the next good request is answered."""

import json
import struct
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

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.serialization import pack_graph, unpack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.messages import InferenceReply, InferenceRequest, UnreadableError
from deepergatgnn.service.queue.producer import ANSWERS, COUNTED, DEAD, GROUP, REPLICAS, STREAMS, WITHDRAWN, WORKERS
from deepergatgnn.service.telemetry import metrics
from tests.conftest import until
from tests.support.brokers import broker_server
from tests.support.fixtures import some_crystals
from tests.support.processes import CIF, HEADERS, MODEL, OLD, PREDICT, api, small_store, until_ready, worker

REPLICA = "mutator"
STREAM = STREAMS["interactive"]


def real_entry() -> InferenceRequest:
    version = ModelStore().version(f"{MODEL}@{OLD}")
    graph = reduce_graph(build_graph(some_crystals(3)[1], version.manifest.graph))
    return InferenceRequest("e-1", REPLICA, (version.identity,), pack_graph(graph), time.time() + 600, request_id="r")


ENTRY = real_entry()
HEAD: list[Any] = [ENTRY.id, ENTRY.replica, ENTRY.request_id, list(ENTRY.models), True, False, False]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def packed(
    head: bytes, graph: bytes = ENTRY.packed, deadline: float = ENTRY.deadline, size: int | None = None
) -> bytes:
    return struct.pack("<dI", deadline, len(head) if size is None else size) + head + graph


def head_with(field: int, value: object) -> bytes:
    return json.dumps([*HEAD[:field], value, *HEAD[field + 1 :]]).encode()


def altered(content: bytes, place: int, new: bytes) -> bytes:
    place %= len(content)
    return content[:place] + new + content[place + len(new) :]


GOOD_HEAD = json.dumps(HEAD).encode()
WORDS = st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f", b"\1\0\0\0"])
MUTATED = st.one_of(
    st.builds(head_with, st.integers(0, 5), ANYTHING).map(packed),
    ANYTHING.map(lambda value: packed(json.dumps(value).encode())),
    st.binary(max_size=200).map(packed),
    st.binary(max_size=200),
    st.builds(
        lambda place, word: packed(GOOD_HEAD, altered(ENTRY.packed, 4 * place, word)), st.integers(0, 5000), WORDS
    ),
    st.builds(lambda end: packed(GOOD_HEAD, ENTRY.packed[:end]), st.integers(0, len(ENTRY.packed))),
    st.floats().map(lambda deadline: packed(GOOD_HEAD, deadline=deadline)),
    st.integers(0, 2**32 - 1).map(lambda size: packed(GOOD_HEAD, size=size)),
    st.builds(lambda place, new: altered(packed(GOOD_HEAD), place, new), st.integers(0, 5000), st.binary(min_size=1)),
)
NAMES = st.sampled_from([b"entry", b"entry", b"entry", b"other", b"", b"\xff"])


@given(MUTATED)
def test_an_entry_is_whole_or_unreadable(content: bytes) -> None:
    """Nothing else is raised, and of what is read every part has its type."""
    try:
        entry = InferenceRequest.unpack({b"entry": content}, "interactive")
    except UnreadableError:
        return
    assert all(isinstance(text, str) for text in (entry.id, entry.replica, entry.request_id, *entry.models))
    assert entry.models
    assert entry.graph.senders.max(initial=0) < entry.graph.n_nodes


@given(st.one_of(st.binary(max_size=100), ANYTHING.map(lambda value: json.dumps(value).encode())))
def test_an_answer_is_whole_or_unreadable(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        InferenceReply.unpack(content)


@given(st.integers(0, 5), ANYTHING)
def test_an_answer_of_another_type_is_unreadable(field: int, value: object) -> None:
    document = json.loads(InferenceReply("x", worker="w", error=("prediction_failed", "no")).pack())
    name = sorted(document)[field]
    try:
        answer = InferenceReply.unpack(json.dumps(document | {name: value}).encode())
    except UnreadableError:
        return
    assert isinstance(answer.id, str)
    assert answer.error is None or [type(part) for part in answer.error] == [str, str]


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
        """Names of the workers: another process would have another one."""
        found = self.client.scan_iter(match=WORKERS + "*")
        return sorted(name for key in found if b"garbage" not in (name := bytes(key)))  # type: ignore[misc]


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
@given(st.lists(st.tuples(NAMES, MUTATED, st.sampled_from(sorted(STREAMS))), min_size=1, max_size=8))
def test_mutated_entries_cost_nobody_an_answer(place: Place, entries: list[tuple[bytes, bytes, str]]) -> None:
    before = place.worker()
    assert len(before) == 1
    for name, content, lane in entries:
        place.client.xadd(STREAMS[lane], {name: content})  # type: ignore[index]
    place.post()
    until(lambda: not any(place.client.xlen(stream) for stream in STREAMS.values()), "all of them are dealt with")
    assert place.worker() == before


def test_models_of_lists_are_dead_lettered_and_who_waits_is_told(place: Place) -> None:
    before, dead = place.worker(), place.client.xlen(DEAD)
    place.client.delete(ANSWERS + REPLICA)
    place.client.xadd(STREAM, {"entry": packed(head_with(3, [["bulk-modulus@1.0.0"]]))})
    _, answer = place.client.blpop([ANSWERS + REPLICA], 60)  # type: ignore[misc]
    error = InferenceReply.unpack(answer).error
    assert error is not None
    assert error[0] == "prediction_failed"
    assert place.client.xlen(DEAD) == dead + 1
    assert place.client.xpending(STREAM, GROUP)["pending"] == 0
    assert place.worker() == before
    place.post()


def test_an_answer_list_that_is_something_else_holds_up_nobody(place: Place) -> None:
    place.client.set(ANSWERS + "string", "x")
    place.client.xadd(STREAM, {"entry": packed(head_with(1, "string"))})
    place.post()
    assert place.client.delete(ANSWERS + "string") == 1


GARBAGE = [b"", b"\xff\xfe", b"[]", b"null", b"{}", b'{"worker": []}', b"NaN", b"1e999", b"[[[[" * 1000]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_of_workers_and_replicas_is_left_out(place: Place, garbage: bytes) -> None:
    before = place.worker()
    for prefix in (WORKERS, REPLICAS, COUNTED):
        place.client.set(prefix + "garbage", garbage, ex=30)
        place.client.set(prefix.encode() + b"garbage\xff", garbage, ex=30)
    place.client.lpush(WORKERS + "garbage-list", "x")
    for message in (garbage, b"nolane 1-1", b"interactive", b"interactive x y", b"bulk \xff"):
        place.client.publish(WITHDRAWN, message)
    time.sleep(0.6)  # API and worker have read it by then
    assert httpx.get(f"{place.address}/metrics").status_code == httpx.codes.OK
    assert httpx.get(f"{place.address}/readyz").json()["workers"] == 1
    place.post()
    assert place.worker() == before
    for prefix in (WORKERS, REPLICAS, COUNTED):
        for key in place.client.scan_iter(match=prefix + "garbage*"):
            place.client.delete(key)


REPORT = metrics.worker_report().decode()


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
    found = metrics.with_workers({"good": REPORT, "bad": text}).decode()
    assert 'deepergatgnn_expired_total{worker="good"}' in found
    assert 'worker="bad"' not in found
