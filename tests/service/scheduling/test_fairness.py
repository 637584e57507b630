"""Fairness: no client waits for the work of another one, in the queue and at admission."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.lanes import BULK, INTERACTIVE
from deepergatgnn.service.parsing.parse_tasks import ParseTask, SentTasks
from deepergatgnn.service.parsing.pool import ParseLane
from deepergatgnn.service.scheduling.admission import FEW_S, Admission, Demand, Ticket
from deepergatgnn.service.scheduling.cost import Cost
from deepergatgnn.service.scheduling.fairness import FairQueue, Flow, flow_of
from deepergatgnn.service.scheduling.parse_cost import ParseCost, Size, size_of
from deepergatgnn.service.settings import Settings

MODELS = tuple(f"m{number}@1.0.0" for number in range(11))
COSTS = dict.fromkeys(MODELS, Cost(edge=5e-6, atom=5e-6, crystal=5e-5, batch=5e-3))
HEAD = """data_x
_cell_length_a 30
loop_
_symmetry_equiv_pos_site_id
_symmetry_equiv_pos_as_xyz
 1 'x, y, z'
{operators}loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""


def cif(sites: int, operators: int = 1) -> bytes:
    head = HEAD.format(operators=" 2 '-x, -y, -z'\n" * (operators - 1))
    return (head + "".join(f"Na{n} 0.12345 0.23456 {n / sites:.5f}\n" for n in range(sites))).encode()


HONEST = size_of(cif(12))
ATTACKS = {
    "16 clients with 1,000 atoms": (16, size_of(cif(1000)), MODELS[:1]),
    "60 clients with 3.6 MB that are refused": (60, Size.roughly(3_600_000), MODELS[:1]),
    "62 clients with 200 atoms for eleven versions": (62, size_of(cif(200)), MODELS),
}


def admission() -> Admission:
    made = Admission(Settings())
    made.follow(COSTS, 1, {})
    return made


def demand(made: Admission, size: Size, models: Sequence[str]) -> Demand:
    return made.demand(models, size, ParseCost().seconds(size))


def admitted_of(made: Admission, clients: Sequence[Flow], of_each: Demand) -> list[Ticket]:
    """Return the admitted requests of clients that send one request each, twice."""
    admitted = []
    for flow in (*clients, *clients):
        with suppress(ServiceError):
            admitted.append(made.admit(INTERACTIVE, flow, of_each))
    return admitted


@pytest.mark.parametrize("same_address", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_honest_client_is_admitted_beside_an_attack(attack: str, *, same_address: bool) -> None:
    count, size, models = ATTACKS[attack]
    made, settings = admission(), Settings()
    costs = demand(made, size, models)
    flows = [Flow("mallory" if same_address else f"mallory {n}", f"10.0.0.1:{n}") for n in range(count)]
    admitted = admitted_of(made, flows, costs)
    assert len(admitted) < count
    # No more waits than may, or than keeps the devices busy, but for what the last ones brought that were let in.
    assert made.wait_s(INTERACTIVE) <= FEW_S + settings.max_wait_s + max(costs.parsing, costs.computing)
    honest = Flow("mallory" if same_address else "alice", "10.0.0.2:1")
    made.admit(INTERACTIVE, honest, demand(made, HONEST, MODELS[:1]))
    made.check(INTERACTIVE, honest.connection)
    with pytest.raises(ServiceError) as refused:
        made.admit(INTERACTIVE, flows[0], costs)
    assert refused.value.code == "overloaded"
    with pytest.raises(ServiceError):
        made.check(INTERACTIVE, flows[0].connection)


def test_a_client_alone_has_all_of_the_time() -> None:
    made = admission()
    costs = demand(made, HONEST, MODELS[:1])
    admitted = admitted_of(made, [Flow("alice", f"{n}") for n in range(1000)], costs)
    assert made.wait_s(INTERACTIVE) > Settings().max_wait_s
    assert len(admitted) > 16


def test_more_connections_give_a_client_no_more_than_its_share() -> None:
    made = admission()
    costs = demand(made, HONEST, MODELS[:1])
    admitted_of(made, [Flow("mallory", f"{n}") for n in range(2000)], costs)
    before = made.wait_s(INTERACTIVE)
    admitted = admitted_of(made, [Flow("alice", f"alice {n}") for n in range(2000)], costs)
    assert before <= 2 * Settings().max_wait_s
    share = Settings().max_wait_s / 2
    assert share / 2 < sum(each.demand.computing + each.demand.parsing / 2 for each in admitted) <= share + 0.01
    assert made.wait_s(INTERACTIVE) <= before + share + 0.01


def test_seconds_of_parsing_count_although_nothing_is_computed() -> None:
    made = admission()
    admitted_of(made, [Flow("mallory", f"{number}") for number in range(100)], Demand(0.3, 0.0))
    assert 0 < made.lanes[INTERACTIVE].crystals <= 3


def test_what_a_connection_was_found_to_cost_is_remembered() -> None:
    made = admission()
    mallory = Flow("mallory", "10.0.0.1:1")
    ticket = made.admit(INTERACTIVE, mallory, Demand(0.001, 0.001))
    with ticket, ticket.crystal() as crystal:
        crystal.price(5.0)
        with pytest.raises(ServiceError):
            made.check(INTERACTIVE, mallory.connection)


def test_a_reader_that_does_not_read_does_not_make_workers_slow() -> None:
    """Admitted work that workers do not have yet does not count for their speed."""
    made = admission()
    ticket = Ticket(made, BULK, Flow("slow"), Demand(0.01, 0.1), 100)
    for _ in range(3):
        with ticket.crystal() as crystal:
            with crystal.parsing():
                pass
            crystal.price(0.1)
            made.computing._window_began -= 10
    assert made.computing.speed == 1.0


def test_a_retry_is_never_told_to_wait_for_long() -> None:
    made = admission()
    made.computing.speed = 0.0
    Ticket(made, INTERACTIVE, Flow("a"), Demand(0.0, 100.0))
    with pytest.raises(ServiceError) as refused:
        made.admit(INTERACTIVE, Flow("b"), Demand(0.0, 100.0))
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s <= 60


def served(line: FairQueue[str], count: int) -> list[str | None]:
    return [line.pop() for _ in range(count)]


def test_a_client_that_sends_much_or_large_waits_for_its_own() -> None:
    line: FairQueue[str] = FairQueue()
    for number in range(16):
        line.push(Flow("mallory", f"{number}"), 0.5, "large")
    for _ in range(4):
        line.push(Flow("alice"), 0.01, "small")
    assert served(line, 4) == ["small"] * 4
    assert len(line) == 16


def test_a_large_item_is_not_put_off_for_ever() -> None:
    line: FairQueue[str] = FairQueue()
    line.push(Flow("alice"), 0.5, "large")
    served_first = 0
    line.push(Flow("bob"), 0.01, "small")
    while line.pop() == "small":
        served_first += 1
        line.push(Flow("bob"), 0.01, "small")
    assert served_first <= 51


def test_what_took_longer_than_predicted_is_charged() -> None:
    line: FairQueue[str] = FairQueue()
    line.push(Flow("mallory"), 0.001, "first")
    line.pop()
    line.charge(Flow("mallory"), 1.0)
    line.push(Flow("mallory"), 0.001, "second")
    line.push(Flow("alice"), 0.1, "alice")
    assert served(line, 2) == ["alice", "second"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12"), st.floats(0.001, 1.0)), min_size=1, max_size=60),
    st.integers(0, 20),
)
def test_everything_comes_out_once_and_each_connection_in_its_order(
    items: list[tuple[str, str, float]], early: int
) -> None:
    line: FairQueue[int] = FairQueue()
    out: list[int] = []
    for number, (client, connection, seconds) in enumerate(items):
        line.push(Flow(client, connection), seconds, number)
        if number < early and (found := line.pop(lambda each: each % 3 > 0)) is not None:
            out.append(found)
    while (found := line.pop()) is not None:
        out.append(found)
    assert sorted(out) == list(range(len(items)))
    assert not line._waiting
    if not early:
        for flow in {item[:2] for item in items}:
            mine = [number for number in out if items[number][:2] == flow]
            assert mine == sorted(mine)


def test_shares_are_equal_between_clients_and_then_between_their_connections() -> None:
    line: FairQueue[str] = FairQueue()
    for _ in range(60):
        for number in range(3):
            line.push(Flow("many", f"{number}"), 0.1, f"many {number}")
        line.push(Flow("one"), 0.1, "one")
    counts = Counter(served(line, 60))
    assert 27 <= counts["one"] <= 33
    assert all(7 <= counts[f"many {number}"] <= 13 for number in range(3))


@pytest.mark.parametrize(
    ("address", "key", "client"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "alice", "key alice"),
        ("2001:db8::1", None, "2001:db8::/64"),
        ("2001:db8::ffff:1", None, "2001:db8::/64"),
    ],
)
def test_a_client_is_its_key_or_its_address(address: str, key: str | None, client: str) -> None:
    assert flow_of({"client": (address, 5)}, key) == Flow(client, f"{address}:5")


@pytest.mark.parametrize(("sites", "operators"), [(1, 1), (12, 1), (1000, 1), (3, 192), (20, 48)])
def test_sites_and_operators_are_counted_in_lines(sites: int, operators: int) -> None:
    size = size_of(cif(sites, operators))
    assert (size.sites, size.images) == (sites, sites * operators)


def test_what_is_predicted_follows_what_is_measured_for_files_of_the_same_size() -> None:
    cost, small, large = ParseCost(), size_of(cif(12)), size_of(cif(1000))
    before = cost.seconds(small)
    for _ in range(100):
        cost.observe(large, 1, 0.5)
    assert cost.seconds(large) == pytest.approx(0.5, rel=0.01)
    assert cost.seconds(small) == before


def test_a_large_file_is_known_before_it_is_parsed() -> None:
    async def large(size: Size) -> bool:
        return ParseTask(b"", [], seconds=ParseCost().seconds(size)).is_large

    found = {name: asyncio.run(large(size)) for name, (_, size, _) in ATTACKS.items()}
    assert list(found.values()) == [True, True, False]
    assert not asyncio.run(large(HONEST))


class Process:
    """Stands in for a parse process that has files of so many seconds."""

    def __init__(self, load: float) -> None:
        self.has_large = False
        self.tasks = SentTasks([0.0] * 4)
        if load:
            self.tasks.append(ParseTask(b"", [], seconds=load))


@pytest.mark.parametrize(
    ("waiting", "loads", "sent", "process"),
    [
        ([0.001], [0.01, 0.02], 0.001, 0),
        ([0.3], [0.01, 0.0], 0.3, 1),
        ([0.3], [0.01, 0.02], None, None),  # until one is idle
        ([0.3, 0.2], [0.01, 0.02], None, None),
        ([0.06, 0.07, 0.045], [0.003, 0.004], 0.045, 0),  # before its turn
    ],
)
def test_a_large_file_goes_to_an_idle_process(
    waiting: list[float], loads: list[float], sent: float | None, process: int | None
) -> None:
    assert following(waiting, loads) == (sent, process)


def test_a_process_is_kept_for_a_large_file_whose_turn_it_is() -> None:
    """Else small ones that never end would put it off for ever; the other process takes these."""
    assert following([0.06, 0.0401], [0.004, 0.005], shares=[1.0, 2.0]) == (0.0401, 1)
    assert following([0.06, 0.0401], [0.004], shares=[1.0, 2.0]) == (None, None)


def following(
    waiting: Sequence[float], loads: Sequence[float], shares: Sequence[float] = ()
) -> tuple[float | None, int | None]:
    """Seconds of the file that leaves the line next, and the process that it goes to.

    Args:
        waiting: seconds of the files.
        loads: of the processes.
        shares: for each file, by what its turn is later.
    """

    async def scenario() -> tuple[float | None, int | None]:
        lane = ParseLane(len(loads), 1.5, 2048)
        processes: list[Any] = [Process(load) for load in loads]
        lane._workers = set(processes)
        for number, seconds in enumerate(waiting):
            share = shares[number] if shares else 1.0
            lane._waiting.push(Flow(f"{number}"), seconds * share, ParseTask(b"", [], seconds=seconds))
        found = lane._next()
        return (None, None) if found is None else (found[0].seconds, processes.index(found[1]))

    return asyncio.run(scenario())
