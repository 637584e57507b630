"""Identical crystals under way share one computation, and nobody fails or waits long for another one's sake."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepergatgnn.service.errors import ServiceError, broker_unavailable
from deepergatgnn.service.lanes import BULK, INTERACTIVE, LANES
from deepergatgnn.service.prediction.pipeline import Document
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
        desk.workers.tell(0)
        answers = await asyncio.gather(first, *others)
        assert len(desk.workers.asked) == 1
        assert {p["value"] for answer in answers for p in answer["predictions"]} == {1.0}
        assert counted() - before == {"miss": 2, "shared": 12}

    scenario(work, size)


def test_without_a_cache_each_is_computed() -> None:
    async def work(desk: Desk) -> None:
        before, posted = counted(), [desk.post() for _ in range(3)]
        await settled()
        for number in range(3):
            desk.workers.tell(number)
        await asyncio.gather(*posted)
        assert counted() == before

    scenario(work, 0)


def test_another_cell_waits_too_and_gets_the_weights_of_its_atoms() -> None:
    async def work(desk: Desk) -> None:
        first, large = desk.post(POSCAR), desk.post(SUPERCELL)
        await settled()
        desk.workers.tell(0)
        small, other = await first, await large
        assert len(desk.workers.asked) == 1
        assert other["n_atoms"] == 2 * small["n_atoms"]
        assert sum(weights(other)) == pytest.approx(1)
        assert len(set(weights(small))) > 1
        assert sorted(weights(other)) == pytest.approx(sorted(weight / 2 for weight in weights(small) * 2))

    scenario(work)


def test_what_somebody_asked_for_is_waited_for_and_the_rest_asked_for() -> None:
    async def work(desk: Desk) -> None:
        first = desk.post(models=["bulk-modulus"])
        both = desk.post(models=["bulk-modulus", "shear-modulus"])
        await settled()
        assert [[name.partition("@")[0] for name in names] for _, names, _ in desk.workers.asked] == [
            ["bulk-modulus"],
            ["shear-modulus"],
        ]
        desk.workers.tell(1)
        await settled()
        assert not both.done()
        desk.workers.tell(0)
        await first
        assert [p["model"] for p in (await both)["predictions"]] == ["bulk-modulus", "shear-modulus"]

    scenario(work)


def test_where_a_leader_leaves_one_who_followed_leads() -> None:
    async def work(desk: Desk) -> None:
        first, *others = (desk.post() for _ in range(4))
        await settled()
        price = desk.waiting_s
        for leaving, number in ((first, 2), (others.pop(0), 3)):
            leaving.cancel()
            await settled()
            assert len(desk.workers.asked) == number
            assert desk.waiting_s == pytest.approx(price)
        desk.workers.tell(2)
        assert len({answer["predictions"][0]["value"] for answer in await asyncio.gather(*others)}) == 1
        assert len(desk.workers.asked) == 3

    scenario(work)


def test_where_the_time_of_a_leader_is_up_others_go_on() -> None:
    async def work(desk: Desk) -> None:
        first = desk.post(seconds=1.0)
        other = desk.post(seconds=1.9)
        await settled()
        assert len(desk.workers.asked) == 1
        with pytest.raises(ServiceError, match="deadline"):
            await first
        await settled()
        desk.workers.tell(1)
        await other

    scenario(work)


def test_a_follower_keeps_its_own_deadline() -> None:
    async def work(desk: Desk) -> None:
        first, hasty = desk.post(), desk.post(seconds=0.05)
        with pytest.raises(ServiceError) as refused:
            await hasty
        assert refused.value.code == "deadline_passed"
        desk.workers.tell(0)
        await first
        assert len(desk.workers.asked) == 1

    scenario(work)


def test_who_soon_gives_up_is_not_followed() -> None:
    async def work(desk: Desk) -> None:
        hasty, patient, third = desk.post(seconds=60), desk.post(), desk.post()
        await settled()
        assert len(desk.workers.asked) == 2
        desk.workers.tell(1)
        await asyncio.gather(patient, third)
        assert not hasty.done()
        desk.workers.tell(0)
        await hasty

    scenario(work)


@pytest.mark.parametrize("error", [broker_unavailable(), ServiceError("prediction_failed", "no")])
def test_an_error_of_the_leader_is_its_own(error: ServiceError) -> None:
    async def work(desk: Desk) -> None:
        first, *others = (desk.post() for _ in range(4))
        await settled()
        desk.workers.tell(0, error)
        with pytest.raises(ServiceError):
            await first
        await settled()
        assert len(desk.workers.asked) == 4
        for number in (1, 2, 3):
            desk.workers.tell(number)
        await asyncio.gather(*others)

    scenario(work)


def test_interactive_crystals_do_not_wait_behind_bulk_work_and_bulk_ones_behind_either() -> None:
    async def work(desk: Desk) -> None:
        bulk = desk.post(lane=BULK)
        await settled()
        posted = [desk.post(), desk.post(lane=BULK), desk.post()]
        await settled()
        assert [lane for lane, _, _ in desk.workers.asked] == [BULK, INTERACTIVE]
        desk.workers.tell(1)
        await asyncio.gather(*posted)
        assert not bulk.done()
        desk.workers.tell(0)
        await bulk

    scenario(work)


def test_bulk_work_that_is_given_up_leaves_the_interactive_leader_its_followers() -> None:
    async def work(desk: Desk) -> None:
        bulk = desk.post(lane=BULK)
        await settled()
        first = desk.post()
        await settled()
        bulk.cancel()
        await settled()
        second = desk.post(lane=BULK)
        await settled()
        assert len(desk.workers.asked) == 2
        desk.workers.tell(1)
        await asyncio.gather(first, second)

    scenario(work)


STEPS = st.one_of(
    st.tuples(st.just("post"), st.sampled_from(LANES), st.sampled_from([60.0, 100.0, HOUR_S])),
    st.tuples(st.just("cancel"), st.integers(0, 20), st.none()),
    st.tuples(st.just("tell"), st.integers(0, 20), st.booleans()),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(STEPS, max_size=25))
def test_whatever_happens_each_is_answered_or_told_what_it_was_told_itself(steps: list[tuple[str, Any, Any]]) -> None:
    async def work(desk: Desk) -> None:
        posted: list[asyncio.Task[Document]] = []
        errors = 0
        for step, first, second in steps:
            open_ = [told for _, _, told in desk.workers.asked if not told.done()]
            if step == "post":
                posted.append(desk.post(lane=first, seconds=second))
            elif step == "cancel" and posted:
                posted[first % len(posted)].cancel()
            elif step == "tell" and open_:
                errors += second
                open_[first % len(open_)].set_result(broker_unavailable() if second else None)
            await settled()
        while open_ := [told for _, _, told in desk.workers.asked if not told.done()]:
            open_[0].set_result(None)
            await settled()
        results = await asyncio.gather(*posted, return_exceptions=True)
        assert all(isinstance(result, (dict, asyncio.CancelledError, ServiceError)) for result in results)
        assert sum(isinstance(result, ServiceError) for result in results) == errors

    scenario(work)
