"""What goes into a batch: predicted seconds, lanes, entries that may be poison; on real graphs."""

import time

from hypothesis import given
from hypothesis import strategies as st

from deepergatgnn.crystal_graph import GraphConfig
from service.batching import Backlog, Budget
from service.entries import Entry, Lane
from service.graph_bytes import pack_graph
from service.work_queue import Delivery
from tests.fixtures import graphs_of, some_crystals

PACKED = [pack_graph(graph) for graph in graphs_of(some_crystals(12), GraphConfig())]


def delivery(number: int, lane: Lane, times: int = 1) -> Delivery:
    entry = Entry(str(number), "r", ("m@1.0.0",), PACKED[number % len(PACKED)], time.time() + 60, lane=lane)
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
