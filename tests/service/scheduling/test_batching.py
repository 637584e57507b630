"""Batches: predicted seconds, lanes, suspects; on real graphs."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.service.lanes import BULK, INTERACTIVE, LANES, Lane
from deepergatgnn.service.messages import Delivery, InferenceRequest
from deepergatgnn.service.scheduling import batching
from deepergatgnn.service.scheduling.batching import LINGER_S, PASSED_OVER, Backlog, Budget, EdgeLimit
from deepergatgnn.service.scheduling.cost import Cost
from tests.support.fixtures import graphs_of, some_crystals

PACKED = [pack_graph(graph) for graph in graphs_of(some_crystals(12), GraphConfig())]


def delivery(number: int, lane: Lane, times: int = 1, *, more: bool = False) -> Delivery:
    entry = InferenceRequest(
        id=str(number),
        reply_to="r",
        models=("m@1.0.0",),
        deadline=time.time() + 60,
        more=more,
        packed=PACKED[number % len(PACKED)],
    )
    return Delivery(str(number).encode(), lane, entry, times, time.monotonic())


def test_a_batch_is_what_waits_up_to_its_seconds() -> None:
    backlog: Backlog[Delivery] = Backlog()
    for number in range(10):
        backlog.add(delivery(number, INTERACTIVE), 0.03)
    taken = [len(backlog.take(Budget(0.1, 10**6))) for _ in range(4)]
    assert taken == [3, 3, 3, 1]
    assert len(backlog) == 0
    assert backlog.seconds(INTERACTIVE) == 0


def test_edges_bound_a_batch_too() -> None:
    backlog: Backlog[Delivery] = Backlog()
    for number in range(4):
        backlog.add(delivery(0, INTERACTIVE), 1e-6)
        assert number == backlog.count(INTERACTIVE) - 1
    links = delivery(0, INTERACTIVE).edges
    assert [len(backlog.take(Budget(1.0, 2 * links))) for _ in range(2)] == [2, 2]


def test_a_crystal_larger_than_the_budget_goes_alone_and_keeps_its_place() -> None:
    backlog: Backlog[Delivery] = Backlog()
    for number, price in enumerate((0.01, 5.0, 0.01)):
        backlog.add(delivery(number, INTERACTIVE), price)
    budget = Budget(0.1, 10**6)
    assert [[d.entry.id for d in backlog.take(budget)] for _ in range(3)] == [["0"], ["1"], ["2"]]


def test_interactive_crystals_go_first_and_bulk_does_not_starve() -> None:
    backlog: Backlog[Delivery] = Backlog()
    for number in range(20):
        backlog.add(delivery(number, BULK), 0.02)
    for number in range(100, 120):
        backlog.add(delivery(number, INTERACTIVE), 0.02)
    first = backlog.take(Budget(0.1, 10**6))
    assert [d.lane for d in first] == [INTERACTIVE] * 5 + [BULK]
    assert [d.entry.id for d in first] == ["100", "101", "102", "103", "104", "0"]


def turns(backlog: Backlog[Delivery], budget: Budget) -> list[list[str]]:
    """Return the batches while interactive crystals keep arriving, until one of bulk was computed."""
    batches: list[list[str]] = []
    while not batches or not any(name.startswith("9") for name in batches[-1]):
        backlog.add(delivery(len(batches), INTERACTIVE), 0.01)
        batches.append([each.entry.id for each in backlog.take(budget)])
    return batches


def test_a_large_bulk_crystal_is_no_company_and_has_its_turn() -> None:
    backlog: Backlog[Delivery] = Backlog()
    backlog.add(delivery(90, BULK), 3.0)
    batches = turns(backlog, Budget(0.1, 10**6))
    assert batches == [[str(number)] for number in range(PASSED_OVER)] + [["90"]]


def test_bulk_company_keeps_to_the_edges_of_the_batch() -> None:
    backlog: Backlog[Delivery] = Backlog()
    backlog.add(delivery(90, BULK), 0.001)
    links = delivery(0, INTERACTIVE).edges
    backlog.add(delivery(0, INTERACTIVE), 0.01)
    assert [each.entry.id for each in backlog.take(Budget(0.1, links))] == ["0"]


def test_interactive_crystals_go_before_suspects_of_bulk() -> None:
    backlog: Backlog[Delivery] = Backlog()
    for number in (90, 91):
        backlog.add(delivery(number, BULK, times=2), 0.001)
    batches = turns(backlog, Budget(0.1, 10**6))
    assert batches == [[str(number)] for number in range(PASSED_OVER)] + [["90"]]
    assert len(backlog) == 2


def test_the_edges_of_a_batch_shrink_when_the_memory_was_short_and_come_back() -> None:
    limit = EdgeLimit(1000)
    limit.exceeded(500)
    assert limit.edges == 350
    limit.exceeded(2000)  # a part of a batch cannot be larger; if it says so the limit is less in any case
    assert limit.edges == 244
    for _ in range(200):
        limit.kept()
    assert limit.edges == limit.most == 1000
    for _ in range(100):
        limit.exceeded(1)
    assert limit.edges == 1


def test_a_suspect_is_computed_alone() -> None:
    backlog: Backlog[Delivery] = Backlog()
    for number in range(3):
        backlog.add(delivery(number, INTERACTIVE), 0.001)
    backlog.add(delivery(9, INTERACTIVE, times=2), 0.001)
    budget = Budget(1.0, 10**6)
    assert [[d.entry.id for d in backlog.take(budget)] for _ in range(2)] == [["9"], ["0", "1", "2"]]


@given(st.lists(st.tuples(st.sampled_from(LANES), st.floats(1e-4, 1.0), st.integers(1, 2))))
def test_everything_is_taken_once_and_in_order(items: list[tuple[Lane, float, int]]) -> None:
    backlog: Backlog[Delivery] = Backlog()
    for number, (lane, price, times) in enumerate(items):
        backlog.add(delivery(number, lane, times), price)
    taken: list[Delivery] = []
    while len(backlog):
        batch = backlog.take(Budget(0.3, 1000))
        assert batch
        taken += batch
    assert sorted(int(d.entry.id) for d in taken) == list(range(len(items)))
    for lane in LANES:
        once = [int(d.entry.id) for d in taken if d.lane is lane and d.times == 1]
        assert once == sorted(once)


COSTS = {"m@1.0.0": Cost(0.0, 0.0, 0.001, 0.01)}  # a batch costs 10 ms once, and 1 ms a crystal
LINGERS = Budget(0.1, 10**6, linger_s=0.02)


def test_a_crystal_with_none_on_its_way_never_waits() -> None:
    backlog: Backlog[Delivery] = Backlog()
    assert backlog.patience_s(LINGERS, COSTS, time.monotonic()) == 0
    for number in range(3):
        backlog.add(delivery(number, INTERACTIVE, more=number < 2), 0.001)
    assert backlog.patience_s(LINGERS, COSTS, time.monotonic()) == 0


def test_few_single_crystals_wait_for_others_but_not_long_and_not_on_a_gpu() -> None:
    backlog: Backlog[Delivery] = Backlog()
    first = delivery(0, INTERACTIVE, more=True)
    backlog.add(first, 0.001)
    backlog.add(delivery(1, INTERACTIVE, more=True), 0.001)
    assert 0.004 < backlog.patience_s(LINGERS, COSTS, first.since + 0.015) <= 0.00501
    assert backlog.patience_s(LINGERS, COSTS, first.since + 0.021) == 0
    assert backlog.patience_s(Budget(0.1, 10**6), COSTS, first.since) == 0


def test_a_batch_that_is_worth_what_it_costs_does_not_wait() -> None:
    backlog: Backlog[Delivery] = Backlog()
    patience = []
    for number in range(6):
        backlog.add(delivery(number, INTERACTIVE, more=True), 0.001)
        patience.append(backlog.patience_s(LINGERS, COSTS, time.monotonic()) > 0)
    assert patience == [True] * 2 + [False] * 4


def test_bulk_crystals_wait_for_half_of_their_budget_and_not_beside_a_suspect() -> None:
    backlog: Backlog[Delivery] = Backlog()
    backlog.add(delivery(0, BULK, more=True), 0.024)
    assert backlog.patience_s(LINGERS, COSTS, time.monotonic()) == LINGER_S
    backlog.add(delivery(1, BULK, more=True), 0.002)
    assert backlog.patience_s(LINGERS, COSTS, time.monotonic()) == 0
    other: Backlog[Delivery] = Backlog()
    other.add(delivery(0, BULK, more=True), 0.01)
    other.add(delivery(1, BULK, times=2, more=True), 0.01)
    assert other.patience_s(LINGERS, COSTS, time.monotonic()) == 0


def test_a_third_lane_needs_one_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Lane("jobs", priority=2, deadline_s=3600, max_wait_s=3600, batch_share=1 / 2, contended_share=1 / 20)
    monkeypatch.setattr(batching, "LANES", (*LANES, jobs))
    backlog: Backlog[Delivery] = Backlog()
    for number, lane in enumerate((jobs, jobs, BULK, BULK, INTERACTIVE)):
        backlog.add(delivery(number, lane), 0.01)
    budget = Budget(0.1, 10**6)
    assert [each.lane for each in backlog.take(budget)] == [INTERACTIVE, BULK, jobs]
    assert [each.lane for each in backlog.take(budget)] == [BULK, jobs]
    assert backlog.take(budget) == []
