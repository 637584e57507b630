"""The same crystal posted otherwise gets the same answer: through HTTP, with the shipped models."""

import asyncio
from collections import defaultdict
from typing import Any

import httpx
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from scipy.spatial.transform import Rotation

from tests.service.http.test_predict import predict, values

SYMPREC = 1e-3
CRYSTALS = ("mp-2858", "mp-2133", "mp-5443", "mp-19009", "mp-1089", "mp-2", "mp-8939")


def from_pymatgen(structure: Structure) -> str:
    return str(structure.to(fmt="json"))


def moved(structure: Structure, lattice: np.ndarray, frac_coords: np.ndarray) -> Structure:
    return Structure(Lattice(lattice), structure.species, frac_coords, site_properties=structure.site_properties)


def rotated(structure: Structure, rng: np.random.Generator) -> Structure:
    turn = Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix()
    return moved(structure, structure.lattice.matrix @ turn.T, structure.frac_coords)


def translated(structure: Structure, rng: np.random.Generator) -> Structure:
    return moved(structure, structure.lattice.matrix, structure.frac_coords + rng.random(3) * 3 - 1)


def permuted(structure: Structure, rng: np.random.Generator) -> Structure:
    return Structure.from_sites([structure[i] for i in rng.permutation(len(structure))])


def mirrored(structure: Structure) -> Structure:
    return moved(structure, structure.lattice.matrix * [1, 1, -1], structure.frac_coords)


def copies(structure: Structure) -> dict[str, Structure]:
    """The crystal in other cells and other places; cells of the analyzer are cut from the same atoms."""
    rng = np.random.default_rng(7)
    refined = SpacegroupAnalyzer(structure, SYMPREC).get_refined_structure()
    analyzer = SpacegroupAnalyzer(refined, SYMPREC)
    refined.add_site_property("orbit", orbits(refined))
    return {
        "refined": refined,
        "primitive": analyzer.get_primitive_standard_structure(),
        "conventional": analyzer.get_conventional_standard_structure(),
        "reduced": refined.get_reduced_structure(),
        "supercell": refined * (2, 2, 2),
        "skewed supercell": refined * [[1, 1, 0], [0, 1, 0], [0, 1, 2]],
        "rotated": rotated(refined, rng),
        "translated": translated(refined, rng),
        "permuted": permuted(refined, rng),
        "mirrored": mirrored(refined),
        "all at once": rotated(translated(permuted(refined * (1, 1, 2), rng), rng), rng),
    }


def orbits(structure: Structure) -> list[int]:
    """Number of the symmetry orbit of each site."""
    found: list[int] = SpacegroupAnalyzer(structure, SYMPREC).get_symmetry_dataset().crystallographic_orbits.tolist()
    return found


def attention_by_orbit(structure: Structure, answer: dict[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """Summed attention of each symmetry orbit, for each model, as sorted (element, weight).

    A supercell keeps the orbits of the crystal, as a property of its sites: some have fewer symmetries of their own.
    """
    labels = structure.site_properties.get("orbit") or orbits(structure)
    found = {}
    for prediction in answer["predictions"]:
        sums: defaultdict[tuple[str, int], float] = defaultdict(float)
        for site, label, atom in zip(structure, labels, prediction["attention"], strict=True):
            sums[site.specie.symbol, label] += atom["weight"]
        found[prediction["model"]] = sorted((element, weight) for (element, _), weight in sums.items())
    return found


@pytest.mark.parametrize("crystal", CRYSTALS)
def test_every_cell_of_a_crystal_gets_the_same_answer(
    client: httpx.Client, by_id: dict[str, Structure], crystal: str
) -> None:
    expected: dict[str, Any] | None = None
    for name, copy in copies(by_id[crystal]).items():
        answer = predict(client, structure=from_pymatgen(copy))
        found = values(answer), attention_by_orbit(copy, answer)
        if expected is None:
            expected = {"values": found[0], "attention": found[1]}
        assert found[0] == pytest.approx(expected["values"], abs=1e-4, rel=1e-4), name
        for model, by_orbit in found[1].items():
            wanted = expected["attention"][model]
            assert [element for element, _ in by_orbit] == [element for element, _ in wanted], name
            assert [w for _, w in by_orbit] == pytest.approx([w for _, w in wanted], abs=1e-4), name


@pytest.fixture(scope="module")
def by_id(pymatgen_structures: list[Structure], rows: tuple[Any, ...]) -> dict[str, Structure]:
    return {row.id: structure for row, structure in zip(rows, pymatgen_structures, strict=True)}


async def posted(client: httpx.AsyncClient, text: str) -> httpx.Response:
    """The answer, if need be after a while: so many crystals for all models may be too many at once."""
    for _ in range(60):
        reply = await client.post("/predict", json={"structure": text})
        if reply.status_code != httpx.codes.TOO_MANY_REQUESTS:
            return reply
        await asyncio.sleep(int(reply.headers["Retry-After"]))
    raise AssertionError("it was never let in")


@pytest.mark.parametrize("crystal", CRYSTALS[:3])
def test_an_answer_does_not_depend_on_who_shares_the_batch(
    address: str, client: httpx.Client, by_id: dict[str, Structure], crystal: str
) -> None:
    alone = predict(client, structure=from_pymatgen(by_id[crystal]))
    strangers = [from_pymatgen(structure) for name, structure in list(by_id.items())[:63] if name != crystal]

    async def together() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=64)) as many:
            texts = [*strangers[:30], from_pymatgen(by_id[crystal]), *strangers[30:]]
            return await asyncio.gather(*(posted(many, text) for text in texts))

    replies = asyncio.run(together())
    assert all(reply.status_code == 200 for reply in replies)
    crowded = replies[30].json()
    assert values(crowded) == pytest.approx(values(alone), abs=1e-5)
    for ours, theirs in zip(alone["predictions"], crowded["predictions"], strict=True):
        assert [atom["weight"] for atom in theirs["attention"]] == pytest.approx(
            [atom["weight"] for atom in ours["attention"]], abs=1e-5
        )
