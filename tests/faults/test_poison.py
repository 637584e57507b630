"""A crystal that breaks what computes it fails alone, whether it raises or ends its worker."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import redis

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.lanes import BULK, LANES, Lane
from deepergatgnn.service.messages import InferenceReply, InferenceRequest
from deepergatgnn.service.queue.producer import DEAD, GROUP, STREAMS, RequestProducer
from deepergatgnn.service.queue.redis_client import connect
from tests.conftest import until
from tests.support.faulty_service import Stage
from tests.support.fixtures import some_crystals, supercell
from tests.support.processes import MODEL, OLD

GOOD = 63
PATIENCE_S = 120
REPLY_TO = "poisoner"


@pytest.fixture(scope="module")
def graphs() -> list[CrystalGraph]:
    config = ModelStore().manifest(f"{MODEL}@{OLD}").graph
    return [reduce_graph(build_graph(crystal, config)) for crystal in some_crystals(GOOD)]


@pytest.fixture(scope="module")
def values(graphs: Sequence[CrystalGraph]) -> list[float]:
    """What the model says of them in this process."""
    predictor = Predictor.load(ModelStore().folder(f"{MODEL}@{OLD}"))
    return [prediction.value for prediction in predictor.predict_graphs(graphs)]


def entry(name: str, graph: CrystalGraph) -> InferenceRequest:
    return InferenceRequest(
        id=name,
        reply_to=REPLY_TO,
        models=(ModelStore().version(f"{MODEL}@{OLD}").identity,),
        deadline=time.time() + PATIENCE_S,
        request_id=name,
        packed=pack_graph(graph),
    )


async def answered(
    stage: Stage, lane: Lane, entries: Sequence[InferenceRequest], meanwhile: Callable[[], None] = lambda: None
) -> dict[str, InferenceReply]:
    """Answers by entry; exactly one each."""
    client = connect(stage.broker.url)
    queue = RequestProducer(client, REPLY_TO)
    await queue.forget()
    await queue.submit([(lane, entry) for entry in entries])
    busy = asyncio.create_task(asyncio.to_thread(meanwhile))
    found: list[InferenceReply] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < len(entries):
            found += await queue.replies(1)
        await busy
        found += await queue.replies(0.5)
    await queue.forget()
    await client.aclose()
    assert sorted(answer.id for answer in found) == sorted(entry.id for entry in entries)
    return {answer.id: answer for answer in found}


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_one_among_63_that_raises_fails_alone(
    stage: Stage, graphs: list[CrystalGraph], values: list[float], lane: Lane
) -> None:
    broken = replace(graphs[20], senders=graphs[20].senders + 1_000_000)
    entries = [entry(f"good-{number}", graph) for number, graph in enumerate(graphs)]
    entries.insert(20, entry("poison", broken))
    answers = asyncio.run(answered(stage, lane, entries))
    error = answers.pop("poison").error
    assert error is not None
    assert error[0] == "prediction_failed"
    assert {answer.error for answer in answers.values()} == {None}
    given = [answers[f"good-{number}"].predictions[0].value for number in range(GOOD)]
    assert given == pytest.approx(values, abs=1e-4)


def test_one_that_ends_its_workers_is_given_up_and_nobody_else(
    stage: Stage, graphs: list[CrystalGraph], values: list[float]
) -> None:
    """Three workers are killed while they compute it: it is large enough to be caught at it."""
    crystal = supercell(max(some_crystals(GOOD), key=lambda each: each.n_atoms), (7, 7, 7))
    config = ModelStore().manifest(f"{MODEL}@{OLD}").graph
    large = build_graph(crystal, replace(config, max_edges=10**9))
    entries = [entry("poison", large)]
    entries += [entry(f"good-{number}", graph) for number, graph in enumerate(graphs[:12])]
    dead = stage.broker.command("XLEN", DEAD)

    def kill_thrice() -> None:
        with redis.Redis.from_url(stage.broker.url, protocol=2) as client:
            for times in range(1, 4):
                holder = 0

                def computed(times: int = times) -> bool:
                    nonlocal holder
                    first = client.xpending_range(STREAMS[BULK], GROUP, "-", "+", 1)
                    if not first or first[0]["times_delivered"] != times:
                        return False
                    holder = int(first[0]["consumer"].split(b"-")[-2])
                    return True

                until(computed, f"it is computed for the {times}th time", 60)
                time.sleep(0.05)
                os.kill(holder, signal.SIGKILL)

    answers = asyncio.run(answered(stage, BULK, entries, kill_thrice))
    error = answers.pop("poison").error
    assert error is not None
    assert (error[0], "several times" in error[1]) == ("prediction_failed", True)
    assert {answer.error for answer in answers.values()} == {None}
    given = [answers[f"good-{number}"].predictions[0].value for number in range(12)]
    assert given == pytest.approx(values[:12], abs=1e-4)
    assert stage.broker.command("XLEN", DEAD) == int(str(dead)) + 1
