"""Identical crystals in flight share one computation, and none fails or waits long because of another."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.service.errors import ServiceError, broker_unavailable
from deepergatgnn.service.lanes import BULK, INTERACTIVE, LANES
from deepergatgnn.service.schemas import PredictResponse
from tests.support.in_flight import (
    HOUR_S,
    POSCAR,
    SUPERCELL,
    Desk,
    counted,
    scenario,
    settled,
    weights,
)


@pytest.mark.parametrize("size", [1, 100])
def test_identical_crystals_are_computed_once_and_cost_once(size: int) -> None:
    async def work(desk: Desk) -> None:
        before = counted()
        first = desk.post(models=["bulk-modulus", "shear-modulus"])
        await settled()
        price = desk.waiting_s
        assert price > 0
        others = [desk.post(lane=lane, models=["shear-modulus", "bulk-modulus"]) for lane in LANES * 3]
        await settled()
        assert desk.waiting_s == pytest.approx(price)
        assert sum(load.crystals for load in desk.workers.admission.lanes.values()) == 7
        desk.workers.reply(0)
        answers = await asyncio.gather(first, *others)
        assert len(desk.workers.requests) == 1
        assert {p["value"] for answer in answers for p in answer["predictions"]} == {1.0}
        assert counted() - before == {"miss": 2, "shared": 12}

    scenario(work, size)


def test_without_a_cache_each_is_computed() -> None:
    async def work(desk: Desk) -> None:
        before, posted = counted(), [desk.post() for _ in range(3)]
        await settled()
        for number in range(3):
            desk.workers.reply(number)
        await asyncio.gather(*posted)
        assert counted() == before

    scenario(work, 0)


def test_another_cell_waits_too_and_gets_the_weights_of_its_atoms() -> None:
    async def work(desk: Desk) -> None:
        first, large = desk.post(POSCAR), desk.post(SUPERCELL)
        await settled()
        desk.workers.reply(0)
        small, other = await first, await large
        assert len(desk.workers.requests) == 1
        assert other["n_atoms"] == 2 * small["n_atoms"]
        assert sum(weights(other)) == pytest.approx(1)
        assert len(set(weights(small))) > 1
        assert sorted(weights(other)) == pytest.approx(sorted(weight / 2 for weight in weights(small) * 2))

    scenario(work)


def test_requests_in_flight_are_followed_and_the_rest_is_computed() -> None:
    async def work(desk: Desk) -> None:
        first = desk.post(models=["bulk-modulus"])
        both = desk.post(models=["bulk-modulus", "shear-modulus"])
        await settled()
        assert [[name.partition("@")[0] for name in names] for _, names, _ in desk.workers.requests] == [
            ["bulk-modulus"],
            ["shear-modulus"],
        ]
        desk.workers.reply(1)
        await settled()
        assert not both.done()
        desk.workers.reply(0)
        await first
        assert [p["model"] for p in (await both)["predictions"]] == ["bulk-modulus", "shear-modulus"]

    scenario(work)


def test_after_a_cancelled_leader_a_follower_leads() -> None:
    async def work(desk: Desk) -> None:
        first, *others = (desk.post() for _ in range(4))
        await settled()
        price = desk.waiting_s
        for leaving, number in ((first, 2), (others.pop(0), 3)):
            leaving.cancel()
            await settled()
            assert len(desk.workers.requests) == number
            assert desk.waiting_s == pytest.approx(price)
        desk.workers.reply(2)
        assert len({answer["predictions"][0]["value"] for answer in await asyncio.gather(*others)}) == 1
        assert len(desk.workers.requests) == 3

    scenario(work)


def test_the_deadline_of_a_leader_does_not_fail_its_followers() -> None:
    async def work(desk: Desk) -> None:
        first = desk.post(seconds=1.0)
        other = desk.post(seconds=1.9)
        await settled()
        assert len(desk.workers.requests) == 1
        with pytest.raises(ServiceError, match="deadline"):
            await first
        await settled()
        desk.workers.reply(1)
        await other

    scenario(work)


def test_a_follower_keeps_its_own_deadline() -> None:
    async def work(desk: Desk) -> None:
        first, hasty = desk.post(), desk.post(seconds=0.05)
        with pytest.raises(ServiceError) as refused:
            await hasty
        assert refused.value.code == "deadline_passed"
        desk.workers.reply(0)
        await first
        assert len(desk.workers.requests) == 1

    scenario(work)


def test_a_leader_with_a_much_earlier_deadline_is_not_followed() -> None:
    async def work(desk: Desk) -> None:
        hasty, patient, third = desk.post(seconds=60), desk.post(), desk.post()
        await settled()
        assert len(desk.workers.requests) == 2
        desk.workers.reply(1)
        await asyncio.gather(patient, third)
        assert not hasty.done()
        desk.workers.reply(0)
        await hasty

    scenario(work)


@pytest.mark.parametrize("error", [broker_unavailable(), ServiceError("prediction_failed", "no")])
def test_an_error_of_the_leader_is_its_own(error: ServiceError) -> None:
    async def work(desk: Desk) -> None:
        first, *others = (desk.post() for _ in range(4))
        await settled()
        desk.workers.reply(0, error)
        with pytest.raises(ServiceError):
            await first
        await settled()
        assert len(desk.workers.requests) == 4
        for number in (1, 2, 3):
            desk.workers.reply(number)
        await asyncio.gather(*others)

    scenario(work)


def test_interactive_requests_do_not_follow_bulk_ones_and_bulk_ones_follow_either() -> None:
    async def work(desk: Desk) -> None:
        bulk = desk.post(lane=BULK)
        await settled()
        posted = [desk.post(), desk.post(lane=BULK), desk.post()]
        await settled()
        assert [lane for lane, _, _ in desk.workers.requests] == [BULK, INTERACTIVE]
        desk.workers.reply(1)
        await asyncio.gather(*posted)
        assert not bulk.done()
        desk.workers.reply(0)
        await bulk

    scenario(work)


def test_a_cancelled_bulk_leader_leaves_the_interactive_one_its_followers() -> None:
    async def work(desk: Desk) -> None:
        bulk = desk.post(lane=BULK)
        await settled()
        first = desk.post()
        await settled()
        bulk.cancel()
        await settled()
        second = desk.post(lane=BULK)
        await settled()
        assert len(desk.workers.requests) == 2
        desk.workers.reply(1)
        await asyncio.gather(first, second)

    scenario(work)


def test_a_network_without_attention_is_cached_and_says_why() -> None:
    async def work(desk: Desk) -> None:
        desk.workers.has_attention = False
        first, other = desk.post(POSCAR), desk.post(SUPERCELL)
        await settled()
        desk.workers.reply(0)
        answers = [await first, await other, await desk.post(SUPERCELL)]
        assert len(desk.workers.requests) == 1
        for answer in answers:
            assert answer["predictions"][0]["attention"] is None
            assert answer["predictions"][0]["attention_reason"] == "it has none"

    scenario(work)


def test_a_network_that_sees_more_than_the_digest_shares_results_of_the_identical_graph_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(NetworkConfig, "may_share_between_cells", property(lambda _: False))

    async def work(desk: Desk) -> None:
        posted = [desk.post(POSCAR), desk.post(SUPERCELL), desk.post(POSCAR)]
        await settled()
        assert len(desk.workers.requests) == 2
        for number in range(2):
            desk.workers.reply(number)
        small, large, again = await asyncio.gather(*posted)
        assert weights(again) == pytest.approx(weights(small))
        assert weights(await desk.post(SUPERCELL)) == pytest.approx(weights(large))
        assert len(desk.workers.requests) == 2

    scenario(work)


STEPS = st.one_of(
    st.tuples(st.just("post"), st.sampled_from(LANES), st.sampled_from([60.0, 100.0, HOUR_S])),
    st.tuples(st.just("cancel"), st.integers(0, 20), st.none()),
    st.tuples(st.just("reply"), st.integers(0, 20), st.booleans()),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(STEPS, max_size=25))
def test_in_any_order_of_events_each_request_gets_an_answer_or_its_own_error(steps: list[tuple[str, Any, Any]]) -> None:
    async def work(desk: Desk) -> None:
        posted: list[asyncio.Task[PredictResponse]] = []
        errors = 0
        for step, first, second in steps:
            open_ = [outcome for _, _, outcome in desk.workers.requests if not outcome.done()]
            if step == "post":
                posted.append(desk.post(lane=first, seconds=second))
            elif step == "cancel" and posted:
                posted[first % len(posted)].cancel()
            elif step == "reply" and open_:
                errors += second
                open_[first % len(open_)].set_result(broker_unavailable() if second else None)
            await settled()
        while open_ := [outcome for _, _, outcome in desk.workers.requests if not outcome.done()]:
            open_[0].set_result(None)
            await settled()
        results = await asyncio.gather(*posted, return_exceptions=True)
        assert all(isinstance(result, (dict, asyncio.CancelledError, ServiceError)) for result in results)
        assert sum(isinstance(result, ServiceError) for result in results) == errors

    scenario(work)
