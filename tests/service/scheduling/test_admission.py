"""Admission: seconds of work, lanes, the measured speed, other API processes, and every second subtracted again."""

from contextlib import ExitStack, suppress
from typing import ClassVar

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.lanes import BULK, INTERACTIVE, LANES, Lane
from deepergatgnn.service.messages import ApiReport
from deepergatgnn.service.scheduling import admission as module
from deepergatgnn.service.scheduling.admission import Admission, Demand, Ticket
from deepergatgnn.service.scheduling.cost import Cost
from deepergatgnn.service.scheduling.fairness import INTERNAL, Flow
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.logs import LOGGED, LineLimit

CRYSTAL = Demand(0.0, 0.1)
COSTS = {"m@1.0.0": Cost(0.0, 0.0, 0.1, 0.0)}  # 0.1 s a crystal


def admission(workers: int = 1, **settings: float) -> Admission:
    made = Admission(Settings(max_wait_s=1.0, max_bulk_wait_s=10.0, **settings))
    made.follow(COSTS, workers, {})
    return made


def check(made: Admission, lane: Lane) -> None:
    """Return if a request of more than any fair share is admitted."""
    with made.admit(lane, Flow("greedy"), Demand(0.0, 100.0)):
        pass


class Request:
    """An admitted request whose crystals have been parsed."""

    kept: ClassVar[list["Request"]] = []

    def __init__(self, made: Admission, lane: Lane, crystals: int) -> None:
        self.kept.append(self)  # a crystal that is collected is settled
        self.ticket = Ticket(made, lane, INTERNAL, CRYSTAL, crystals)
        self.crystals = [ExitStack() for _ in range(crystals)]
        for each in self.crystals:
            each.enter_context(self.ticket.crystal()).price(made.price(["m@1.0.0"], 50, 10))

    def answer(self) -> None:
        """Finish one of the crystals."""
        self.crystals.pop().close()

    def fail(self) -> None:
        """Give up the others."""
        for each in self.crystals:
            each.__exit__(ServiceError, ServiceError("no_worker", ""), None)


def test_singles_are_refused_above_their_seconds_and_told_when_to_return() -> None:
    made = admission()
    held = Request(made, INTERACTIVE, 10)
    check(made, INTERACTIVE)
    more = Request(made, INTERACTIVE, 25)
    with pytest.raises(ServiceError) as refused, made.admit(INTERACTIVE, INTERNAL, CRYSTAL):
        pass
    assert (refused.value.code, refused.value.retry_after_s) == ("overloaded", 3)
    more.fail()
    check(made, INTERACTIVE)
    held.fail()
    assert made.wait_s(INTERACTIVE) == pytest.approx(0, abs=1e-9)
    assert all(load.crystals == 0 for load in made.lanes.values())


def test_what_is_admitted_and_not_yet_parsed_is_known_whatever_becomes_of_it() -> None:
    made = admission()
    load = made.lanes[INTERACTIVE]
    with (
        Ticket(made, INTERACTIVE, INTERNAL, CRYSTAL) as first,
        Ticket(made, INTERACTIVE, INTERNAL, CRYSTAL, 3) as second,
    ):
        assert (load.unparsed, made.lanes[BULK].unparsed) == (4, 0)
        with first.crystal() as crystal:
            assert load.unparsed == 4
            crystal.price(0.1)
            assert load.unparsed == 3
        with suppress(ServiceError), second.crystal():
            raise ServiceError("unreadable", "")
        assert load.unparsed == 2
    assert (load.unparsed, made.lanes[BULK].unparsed) == (0, 0)


def test_twice_the_workers_bear_twice_the_work() -> None:
    one, two = admission(1), admission(2)
    for made in (one, two):
        Request(made, INTERACTIVE, 15)
    with pytest.raises(ServiceError):
        check(one, INTERACTIVE)
    check(two, INTERACTIVE)


def test_bulk_work_does_not_stand_before_singles_but_singles_before_bulk() -> None:
    made = admission()
    Request(made, BULK, 300)
    check(made, INTERACTIVE)
    with pytest.raises(ServiceError):
        check(made, BULK)
    assert made.wait_s(INTERACTIVE) == pytest.approx(0, abs=1e-9)
    Request(made, INTERACTIVE, 5)
    assert made.wait_s(BULK) == pytest.approx(30.5)


def test_what_other_replicas_wait_for_counts() -> None:
    made = admission()
    Request(made, INTERACTIVE, 5)
    made.follow(COSTS, 1, {"other": ApiReport("other", {"interactive": 3.0, "bulk": 0.0}, 0.0)})
    with pytest.raises(ServiceError):
        check(made, INTERACTIVE)
    made.follow(COSTS, 1, {})
    check(made, INTERACTIVE)


def test_devices_are_kept_busy_whatever_was_measured_and_no_more_than_that() -> None:
    """A few crystals, but not a few seconds: of those that take 0.11 s ten, and of those that take little 64."""
    for price, most in ((0.11, 10), (0.3, 4), (0.01, 64)):
        made = Admission(Settings(max_wait_s=1e-6, batch_s=0.1))
        made.follow({"m@1.0.0": Cost(0.0, 0.0, price, 0.0)}, 1, {})
        made.computing.speed = 0.0
        for _ in range(most):
            check(made, INTERACTIVE)
            Request(made, INTERACTIVE, 1)
        with pytest.raises(ServiceError):
            check(made, INTERACTIVE)


def test_the_measured_speed_is_believed_while_work_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do half of what their costs promise let half as much in."""
    clock = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    made = admission()
    held = Request(made, INTERACTIVE, 200)
    before = made.wait_s(INTERACTIVE)
    for _ in range(100):
        clock += 0.2  # for a crystal of 0.1 s
        held.answer()
    assert made.wait_s(INTERACTIVE) == pytest.approx(2 * 100 * 0.1, rel=0.05)
    assert before == pytest.approx(20.0)


def test_replicas_measure_the_speed_of_the_workers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share a worker that does what it promises: each gets half of it, and neither thinks it slow."""
    clock = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    one, two = admission(), admission()
    held = Request(one, INTERACTIVE, 200), Request(two, INTERACTIVE, 200)
    for _ in range(100):
        clock += 0.2  # for a crystal of 0.1 s of each
        for request in held:
            request.answer()
        one.follow(COSTS, 1, {"two": ApiReport("two", two.waiting_s, two.computing.done)})
        two.follow(COSTS, 1, {"one": ApiReport("one", one.waiting_s, one.computing.done)})
    assert one.wait_s(INTERACTIVE) == pytest.approx(2 * 100 * 0.1, rel=0.05)
    assert two.wait_s(INTERACTIVE) == pytest.approx(2 * 100 * 0.1, rel=0.05)


def test_a_low_speed_is_not_believed_for_ever_where_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    made = admission()
    held = Request(made, INTERACTIVE, 300)
    for _ in range(100):
        clock += 2.0
        held.answer()
    slow = made.wait_s(INTERACTIVE)
    assert slow == pytest.approx(200 * 0.1 / 0.05, rel=0.05)
    held.fail()
    for _ in range(200):
        clock += 0.3
        Request(made, INTERACTIVE, 1).answer()
    Request(made, INTERACTIVE, 200)
    assert made.wait_s(INTERACTIVE) == pytest.approx(200 * 0.1, rel=0.05)


@given(st.lists(st.tuples(st.sampled_from(LANES), st.integers(1, 6), st.integers(0, 6)), max_size=20))
def test_every_second_that_was_counted_is_given_back(requests: list[tuple[Lane, int, int]]) -> None:
    made = Admission(Settings(max_wait_s=86_400, max_bulk_wait_s=86_400))
    made.follow(COSTS, 1, {})
    for lane, crystals, done in requests:
        with made.admit(lane, Flow(f"client {crystals % 2}", f"{crystals}"), Demand(0.2, 0.3), crystals) as ticket:
            for number in range(min(crystals, done)):
                with suppress(ServiceError), ticket.crystal() as crystal:
                    if number % 3 == 2:
                        raise ServiceError("unreadable", "")
                    with crystal.parsing():
                        crystal.price(0.1 * number)
                    if number % 6 == 4:
                        crystal.price(0.2)  # a result in flight did not come
                    if number % 3 == 0:
                        raise ServiceError("no_worker", "")
            ticket.hold(crystals - min(crystals, done))
            if crystals % 2:
                ticket.resume(crystals - min(crystals, done))
    for stage in (made.computing, *(load.parsing for load in made.lanes.values())):
        assert [*stage.waiting.values()] == pytest.approx([0.0] * len(LANES), abs=1e-9)
    assert all(load.crystals == 0 for load in made.lanes.values())
    assert not any(load.flows or load.connections for load in made.lanes.values())


def test_of_many_refusals_a_few_are_logged_and_the_others_counted() -> None:
    lines = LineLimit(structlog.get_logger("api"))
    assert [lines.worth_a_line(7) for _ in range(3 * LOGGED)] == [True] * LOGGED + [False] * 2 * LOGGED
    with capture_logs() as logs:
        assert lines.worth_a_line(8)
    assert [line["refused"] for line in logs] == [3 * LOGGED]
