"""A whole service under attack: who posts what takes long is told so, and an honest client is answered meanwhile."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from deepergatgnn.service.settings import Settings
from tests.conftest import service
from tests.support.processes import CIF, HEADERS, PREDICT, small_store

HONEST_POSTS = 6
HEAD = """data_x
_cell_length_a {length}
_cell_length_b {length}
_cell_length_c {length}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""


def crystal(atoms: int) -> bytes:
    """A file of so many atoms, no two of which are equivalent."""
    side = int(np.ceil(atoms ** (1 / 3)))
    generator = np.random.default_rng(0)
    grid = np.argwhere(np.ones((side, side, side)))[:atoms]
    places = (grid + generator.normal(0, 0.03, grid.shape)) / side % 1
    sites = "".join("Na Na {:.4f} {:.4f} {:.4f}\n".format(*place) for place in places)
    return (HEAD.format(length=2.9 * side) + sites).encode()


REFUSED = (HEAD.format(length=100) + "Na Na 0.12345 0.23456 0.34567\n" * 120_000).encode()
ATTACKS = {"1,000 atoms": (16, crystal(1000)), "3.6 MB": (60, REFUSED), "200 atoms": (62, crystal(200))}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with service(DEEPERGATGNN_MODEL_STORE=str(small_store(tmp_path_factory.mktemp("store")))) as address:
        yield address


async def attack(address: str, clients: int, content: bytes, *, same_address: bool) -> tuple[Counter[int], list[int]]:
    """Statuses of the attackers' answers, and of those of an honest client that posts meanwhile."""
    statuses: Counter[int] = Counter()
    done = asyncio.Event()

    async def attacker() -> None:
        transport = httpx.AsyncHTTPTransport(local_address="127.0.0.1" if same_address else "127.0.0.2")
        async with httpx.AsyncClient(base_url=address, transport=transport, timeout=120) as client:
            while not done.is_set():
                reply = await client.post(PREDICT, content=content, headers=HEADERS)
                statuses[reply.status_code] += 1

    attackers = [asyncio.create_task(attacker()) for _ in range(clients)]
    try:
        while statuses.total() < clients:  # noqa: ASYNC110 - all of them are awaited
            await asyncio.sleep(0.05)
        async with httpx.AsyncClient(base_url=address, timeout=120) as honest:
            replies = [await honest.post(PREDICT, content=CIF, headers=HEADERS) for _ in range(HONEST_POSTS)]
    finally:
        done.set()
        await asyncio.gather(*attackers)
    return statuses, [reply.status_code for reply in replies]


@pytest.mark.parametrize("same_address", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_honest_client_is_answered_while_attackers_are_refused(
    attacked: str, name: str, *, same_address: bool
) -> None:
    clients, content = ATTACKS[name]
    attackers, honest = asyncio.run(attack(attacked, clients, content, same_address=same_address))
    assert honest == [200] * HONEST_POSTS
    assert attackers[429] > 0
    assert set(attackers) <= {200, 413, 429}


def test_a_service_that_was_attacked_takes_a_large_crystal_again(attacked: str) -> None:
    reply = httpx.post(attacked + PREDICT, content=crystal(1000), headers=HEADERS, timeout=Settings().deadline_s)
    assert reply.status_code == 200
