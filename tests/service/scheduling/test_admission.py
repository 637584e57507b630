"""Who is let in: seconds of work, lanes, the measured speed, other replicas, and every second given back."""

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.messages import Lane
from deepergatgnn.service.scheduling import admission as module
from deepergatgnn.service.scheduling.admission import Admission, Demand, Ticket
from deepergatgnn.service.scheduling.cost import Cost
from deepergatgnn.service.scheduling.fairness import NOBODY, Flow
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.logs import LOGGED, LineLimit

CRYSTAL = Demand(0.0, 0.1)
COSTS = {"m@1.0.0": Cost(0.0, 0.0, 0.1, 0.0)}  # 0.1 s a crystal


def admission(workers: int = 1, **settings: float) -> Admission:
    made = Admission(Settings(max_wait_s=1.0, max_bulk_wait_s=10.0, **settings))
    made.follow(COSTS, workers, {})
    return made


def fill(made: Admission, lane: Lane, crystals: int) -> Ticket:
    """A request that was let in and whose crystals have been parsed."""
    ticket = Ticket(made, lane, NOBODY, CRYSTAL, crystals)
    for _ in range(crystals):
        ticket.priced(made.price(["m@1.0.0"], 50, 10))
    return ticket


def test_singles_are_refused_above_their_seconds_and_told_when_to_return() -> None:
    made = admission()
    held = fill(made, "interactive", 10)
    made.check("interactive")
    more = fill(made, "interactive", 25)
    with pytest.raises(ServiceError) as refused, made.admit("interactive", NOBODY, CRYSTAL):
        pass
    assert (refused.value.code, refused.value.retry_after_s) == ("overloaded", 3)
    more.close()
    made.check("interactive")
    held.close()
    assert made.wait_s("interactive") == 0
    assert made.crystals == 0


def test_what_is_admitted_and_not_yet_parsed_is_known_whatever_becomes_of_it() -> None:
    made = admission()
    first, second = Ticket(made, "interactive", NOBODY, CRYSTAL), Ticket(made, "interactive", NOBODY, CRYSTAL, 3)
    assert made.unparsed == {"interactive": 4, "bulk": 0}
    first.priced(0.1)
    second.refused()
    assert made.unparsed["interactive"] == 2
    first.close()
    second.close()
    assert made.unparsed == {"interactive": 0, "bulk": 0}


def test_twice_the_workers_bear_twice_the_work() -> None:
    one, two = admission(1), admission(2)
    for made in (one, two):
        fill(made, "interactive", 15)
    with pytest.raises(ServiceError):
        one.check("interactive")
    two.check("interactive")


def test_bulk_work_does_not_stand_before_singles_but_singles_before_bulk() -> None:
    made = admission()
    fill(made, "bulk", 300)
    made.check("interactive")
    with pytest.raises(ServiceError):
        made.check("bulk")
    assert made.wait_s("interactive") == 0
    fill(made, "interactive", 5)
    assert made.wait_s("bulk") == pytest.approx(30.5)


def test_what_other_replicas_wait_for_counts() -> None:
    made = admission()
    fill(made, "interactive", 5)
    made.follow(COSTS, 1, {"other": {"seconds": {"interactive": 3.0, "bulk": 0.0}, "done": 0.0}})
    with pytest.raises(ServiceError):
        made.check("interactive")
    made.follow(COSTS, 1, {})
    made.check("interactive")


def test_devices_are_kept_busy_whatever_was_measured_and_no_more_than_that() -> None:
    """A few crystals, but not a few seconds: of those that take 0.11 s ten, and of those that take little 64."""
    for price, most in ((0.11, 10), (0.3, 4), (0.01, 64)):
        made = Admission(Settings(max_wait_s=1e-6, batch_s=0.1))
        made.follow({"m@1.0.0": Cost(0.0, 0.0, price, 0.0)}, 1, {})
        made.computing.speed = 0.0
        for _ in range(most):
            made.check("interactive")
            fill(made, "interactive", 1)
        with pytest.raises(ServiceError):
            made.check("interactive")


def test_the_measured_speed_is_believed_while_work_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do half of what their costs promise let half as much in."""
    clock = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    made = admission()
    held = fill(made, "interactive", 200)
    before = made.wait_s("interactive")
    for _ in range(100):
        clock += 0.2  # for a crystal of 0.1 s
        held.answered(0.1)
    assert made.wait_s("interactive") == pytest.approx(2 * 100 * 0.1, rel=0.05)
    assert before == pytest.approx(20.0)


def test_replicas_measure_the_speed_of_the_workers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share a worker that does what it promises: each gets half of it, and neither thinks it slow."""
    clock = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    one, two = admission(), admission()
    held = fill(one, "interactive", 200), fill(two, "interactive", 200)
    for _ in range(100):
        clock += 0.2  # for a crystal of 0.1 s of each
        for ticket in held:
            ticket.answered(0.1)
        one.follow(COSTS, 1, {"two": two.report})
        two.follow(COSTS, 1, {"one": one.report})
    assert one.wait_s("interactive") == pytest.approx(2 * 100 * 0.1, rel=0.05)
    assert two.wait_s("interactive") == pytest.approx(2 * 100 * 0.1, rel=0.05)


def test_a_low_speed_is_not_believed_for_ever_where_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    made = admission()
    held = fill(made, "interactive", 300)
    for _ in range(100):
        clock += 2.0
        held.answered(0.1)
    slow = made.wait_s("interactive")
    assert slow == pytest.approx(200 * 0.1 / 0.05, rel=0.05)
    held.close()
    for _ in range(200):
        clock += 0.3
        fill(made, "interactive", 1).answered(0.1)
    fill(made, "interactive", 200)
    assert made.wait_s("interactive") == pytest.approx(200 * 0.1, rel=0.05)


@given(st.lists(st.tuples(st.sampled_from(["interactive", "bulk"]), st.integers(1, 6), st.integers(0, 6)), max_size=20))
def test_every_second_that_was_counted_is_given_back(requests: list[tuple[Lane, int, int]]) -> None:
    made = Admission(Settings(max_wait_s=86_400, max_bulk_wait_s=86_400))
    made.follow(COSTS, 1, {})
    for lane, crystals, done in requests:
        with made.admit(lane, Flow(f"client {crystals % 2}", f"{crystals}"), Demand(0.2, 0.3), crystals) as ticket:
            for number in range(min(crystals, done)):
                if number % 3 == 2:
                    ticket.refused()
                else:
                    ticket.priced(0.1 * number)
                    if number % 3 == 1:
                        ticket.answered(0.1 * number)
                    elif number % 6 == 0:
                        ticket.failed(0.1 * number)
    for stage in (made.computing, *made.parsing.values()):
        assert stage.waiting == pytest.approx({"interactive": 0.0, "bulk": 0.0}, abs=1e-9)
    assert made.crystals == 0
    assert not any(made._held.values())
    assert not any(made._connections.values())


def test_of_many_refusals_a_few_are_logged_and_the_others_counted() -> None:
    lines = LineLimit(structlog.get_logger("api"))
    assert [lines.worth_a_line(7) for _ in range(3 * LOGGED)] == [True] * LOGGED + [False] * 2 * LOGGED
    with capture_logs() as logs:
        assert lines.worth_a_line(8)
    assert [line["refused"] for line in logs] == [3 * LOGGED]
