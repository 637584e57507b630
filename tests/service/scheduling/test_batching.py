"""What goes into a batch: predicted seconds, lanes, entries that may be poison; on real graphs."""

import time

from hypothesis import given
from hypothesis import strategies as st

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.service.messages import Delivery, InferenceRequest, Lane
from deepergatgnn.service.scheduling.batching import BULK_LINGER_S, PASSED_OVER, Backlog, Budget, EdgeLimit
from deepergatgnn.service.scheduling.cost import Cost
from tests.support.fixtures import graphs_of, some_crystals

PACKED = [pack_graph(graph) for graph in graphs_of(some_crystals(12), GraphConfig())]


def delivery(number: int, lane: Lane, times: int = 1, *, more: bool = False) -> Delivery:
    entry = InferenceRequest(
        str(number), "r", ("m@1.0.0",), PACKED[number % len(PACKED)], time.time() + 60, lane=lane, more=more
    )
    return Delivery(str(number).encode(), entry, times, time.monotonic())


def test_a_batch_is_what_waits_up_to_its_seconds() -> None:
    backlog = Backlog()
    for number in range(10):
        backlog.add(delivery(number, "interactive"), 0.03)
    taken = [len(backlog.take(Budget(0.1, 0.1, 10**6))) for _ in range(4)]
    assert taken == [3, 3, 3, 1]
    assert len(backlog) == 0
    assert backlog.seconds("interactive") == 0


def test_edges_bound_a_batch_too() -> None:
    backlog = Backlog()
    for number in range(4):
        backlog.add(delivery(0, "interactive"), 1e-6)
        assert number == backlog.count("interactive") - 1
    links = delivery(0, "interactive").entry.graph.n_links
    assert [len(backlog.take(Budget(1.0, 1.0, 2 * links))) for _ in range(2)] == [2, 2]


def test_a_crystal_larger_than_the_budget_goes_alone_and_keeps_its_place() -> None:
    backlog = Backlog()
    for number, price in enumerate((0.01, 5.0, 0.01)):
        backlog.add(delivery(number, "interactive"), price)
    budget = Budget(0.1, 0.1, 10**6)
    assert [[d.entry.id for d in backlog.take(budget)] for _ in range(3)] == [["0"], ["1"], ["2"]]


def test_interactive_entries_go_first_and_bulk_does_not_starve() -> None:
    backlog = Backlog()
    for number in range(20):
        backlog.add(delivery(number, "bulk"), 0.02)
    for number in range(100, 120):
        backlog.add(delivery(number, "interactive"), 0.02)
    first = backlog.take(Budget(0.1, 0.02, 10**6))
    assert [d.entry.lane for d in first] == ["interactive"] * 5 + ["bulk"]
    assert [d.entry.id for d in first] == ["100", "101", "102", "103", "104", "0"]


def turns(backlog: Backlog, budget: Budget) -> list[list[str]]:
    """Batches while ever more interactive entries come, until one of bulk was computed."""
    batches: list[list[str]] = []
    while not batches or not any(name.startswith("9") for name in batches[-1]):
        backlog.add(delivery(len(batches), "interactive"), 0.01)
        batches.append([each.entry.id for each in backlog.take(budget)])
    return batches


def test_a_large_bulk_crystal_is_no_company_and_has_its_turn() -> None:
    backlog = Backlog()
    backlog.add(delivery(90, "bulk"), 3.0)
    batches = turns(backlog, Budget(0.1, 0.02, 10**6))
    assert batches == [[str(number)] for number in range(PASSED_OVER)] + [["90"]]


def test_bulk_company_keeps_to_the_edges_of_the_batch() -> None:
    backlog = Backlog()
    backlog.add(delivery(90, "bulk"), 0.001)
    links = delivery(0, "interactive").entry.graph.n_links
    backlog.add(delivery(0, "interactive"), 0.01)
    assert [each.entry.id for each in backlog.take(Budget(0.1, 0.02, links))] == ["0"]


def test_interactive_entries_go_before_bulk_ones_that_may_be_poison() -> None:
    backlog = Backlog()
    for number in (90, 91):
        backlog.add(delivery(number, "bulk", times=2), 0.001)
    batches = turns(backlog, Budget(0.1, 0.02, 10**6))
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


def test_an_entry_that_was_delivered_before_is_computed_alone() -> None:
    backlog = Backlog()
    for number in range(3):
        backlog.add(delivery(number, "interactive"), 0.001)
    backlog.add(delivery(9, "interactive", times=2), 0.001)
    budget = Budget(1.0, 1.0, 10**6)
    assert [[d.entry.id for d in backlog.take(budget)] for _ in range(2)] == [["9"], ["0", "1", "2"]]


@given(st.lists(st.tuples(st.sampled_from(["interactive", "bulk"]), st.floats(1e-4, 1.0), st.integers(1, 2))))
def test_everything_is_taken_once_and_in_order(items: list[tuple[Lane, float, int]]) -> None:
    backlog = Backlog()
    for number, (lane, price, times) in enumerate(items):
        backlog.add(delivery(number, lane, times), price)
    taken: list[Delivery] = []
    while len(backlog):
        batch = backlog.take(Budget(0.3, 0.1, 1000))
        assert batch
        taken += batch
    assert sorted(int(d.entry.id) for d in taken) == list(range(len(items)))
    for lane in ("interactive", "bulk"):
        once = [int(d.entry.id) for d in taken if d.entry.lane == lane and d.times == 1]
        assert once == sorted(once)


COSTS = {"m@1.0.0": Cost(0.0, 0.0, 0.001, 0.01)}  # a batch costs 10 ms once, and 1 ms a crystal
LINGERS = Budget(0.1, 0.1, 10**6, linger_s=0.02)


def test_a_crystal_with_none_on_its_way_never_waits() -> None:
    backlog = Backlog()
    assert backlog.patience_s(LINGERS, COSTS, time.monotonic()) == 0
    for number in range(3):
        backlog.add(delivery(number, "interactive", more=number < 2), 0.001)
    assert backlog.patience_s(LINGERS, COSTS, time.monotonic()) == 0


def test_few_single_crystals_wait_for_others_but_not_long_and_not_on_a_gpu() -> None:
    backlog = Backlog()
    first = delivery(0, "interactive", more=True)
    backlog.add(first, 0.001)
    backlog.add(delivery(1, "interactive", more=True), 0.001)
    assert 0.004 < backlog.patience_s(LINGERS, COSTS, first.since + 0.015) <= 0.00501
    assert backlog.patience_s(LINGERS, COSTS, first.since + 0.021) == 0
    assert backlog.patience_s(Budget(0.1, 0.1, 10**6), COSTS, first.since) == 0


def test_a_batch_that_is_worth_what_it_costs_does_not_wait() -> None:
    backlog = Backlog()
    patience = []
    for number in range(6):
        backlog.add(delivery(number, "interactive", more=True), 0.001)
        patience.append(backlog.patience_s(LINGERS, COSTS, time.monotonic()) > 0)
    assert patience == [True] * 2 + [False] * 4


def test_bulk_crystals_wait_for_half_a_batch_and_none_for_what_may_be_poison() -> None:
    backlog = Backlog()
    backlog.add(delivery(0, "bulk", more=True), 0.049)
    assert backlog.patience_s(LINGERS, COSTS, time.monotonic()) == BULK_LINGER_S
    backlog.add(delivery(1, "bulk", more=True), 0.002)
    assert backlog.patience_s(LINGERS, COSTS, time.monotonic()) == 0
    other = Backlog()
    other.add(delivery(0, "bulk", more=True), 0.01)
    other.add(delivery(1, "bulk", times=2, more=True), 0.01)
    assert other.patience_s(LINGERS, COSTS, time.monotonic()) == 0
