"""`POST /predict` in its three forms, on real files, through the whole service."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymatgen.core import Structure

from deepergatgnn.model_store import ModelStore

CIF = Path("examples/ZrO2.cif").read_text("utf-8")
POSCAR = Path("examples/ZnO.POSCAR").read_text("utf-8")


def predict(client: httpx.Client, **body: Any) -> dict[str, Any]:
    reply = client.post("/predict", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def values(answer: dict[str, Any]) -> dict[str, float]:
    return {p["model"]: p["value"] for p in answer["predictions"]}


def test_answer_has_the_form_of_the_contract(client: httpx.Client) -> None:
    answer = predict(client, structure=CIF, format="cif", id="baddeleyite")
    assert answer["id"] == "baddeleyite"
    assert (answer["formula"], answer["reduced_formula"], answer["n_atoms"]) == ("Zr4O8", "ZrO2", 12)
    assert answer["n_edges"] >= 12 * 12
    assert answer["warnings"] == []
    store = ModelStore()
    assert {p["model"] for p in answer["predictions"]} == set(store.names())
    for prediction in answer["predictions"]:
        assert prediction["unit"] == store.manifest(prediction["model"]).target.unit
        assert prediction["interval"]["level"] == 0.9
        assert prediction["interval"]["low"] < prediction["value"] < prediction["interval"]["high"]
        assert prediction["domain"]["in_domain"] == (not prediction["domain"]["reasons"])
        weights = [atom["weight"] for atom in prediction["attention"]]
        assert min(weights) >= 0
        assert sum(weights) == pytest.approx(1, abs=1e-6)
        assert [atom["index"] for atom in prediction["attention"]] == list(range(12))
        assert [atom["element"] for atom in prediction["attention"]] == ["Zr"] * 4 + ["O"] * 8
        assert prediction["attention"][0]["frac_coords"] == pytest.approx([0.276303, 0.043491, 0.210223])


def test_a_shipped_model_is_near_the_dft_value(client: httpx.Client) -> None:
    """Baddeleyite: K 183.1 GPa, G 84.6 GPa; a model that ignored the crystal would be off by its spread, 0.37."""
    found = values(predict(client, structure=CIF))
    assert 10 ** found["bulk-modulus"] == pytest.approx(183.1, rel=0.25)
    assert 10 ** found["shear-modulus"] == pytest.approx(84.6, rel=0.35)


def test_latencies_are_measured_and_add_up(client: httpx.Client) -> None:
    reply = client.post("/predict", content=CIF, headers={"Content-Type": "chemical/x-cif"})
    latency = reply.json()["latency_ms"]
    total = latency.pop("total")
    assert set(latency) == {"parse", "graph", "queue", "inference"}
    assert all(part > 0 for part in latency.values())
    assert sum(latency.values()) <= total
    header = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    assert {name: float(value) for name, value in header.items()} == pytest.approx(latency | {"total": total})


@pytest.mark.parametrize(("text", "media_type"), [(CIF, "chemical/x-cif"), (CIF, "text/plain"), (POSCAR, "text/plain")])
def test_every_form_gives_the_same_answer(client: httpx.Client, text: str, media_type: str) -> None:
    expected = values(predict(client, structure=text))
    plain = client.post("/predict", content=text.encode(), headers={"Content-Type": media_type})
    form = client.post("/predict", files={"file": ("crystal", text.encode())})
    assert values(plain.json()) == pytest.approx(expected, abs=1e-6)
    assert values(form.json()) == pytest.approx(expected, abs=1e-6)


def test_structure_objects_are_read(client: httpx.Client) -> None:
    structure = Structure.from_str(POSCAR, fmt="poscar")
    resource = {
        "id": "mp-2133",
        "type": "structures",
        "attributes": {
            "lattice_vectors": structure.lattice.matrix.tolist(),
            "cartesian_site_positions": structure.cart_coords.tolist(),
            "species_at_sites": [site.specie.symbol for site in structure],
            "species": [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in ("Zn", "O")],
            "nperiodic_dimensions": 3,
            "dimension_types": [1, 1, 1],
        },
    }
    expected = values(predict(client, structure=POSCAR))
    assert values(predict(client, structure=structure.as_dict())) == pytest.approx(expected, abs=1e-5)
    assert values(predict(client, structure=resource)) == pytest.approx(expected, abs=1e-5)


def test_models_are_chosen_by_name_and_version(client: httpx.Client) -> None:
    version = client.get("/models/shear-modulus").json()["production"]
    answer = predict(client, structure=CIF, models=[f"shear-modulus@{version}", "bulk-modulus"])
    assert [p["model"] for p in answer["predictions"]] == ["shear-modulus", "bulk-modulus"]
    assert answer["predictions"][0]["version"] == version
    path = "/predict?models=bulk-modulus&attention=none"
    query = client.post(path, content=CIF, headers={"Content-Type": "text/plain"})
    assert [p["model"] for p in query.json()["predictions"]] == ["bulk-modulus"]
    assert "attention" not in query.json()["predictions"][0]


def test_one_atom_cell(client: httpx.Client, pymatgen_structures: list[Structure]) -> None:
    metals = (structure for structure in pymatgen_structures if len(structure.composition) == 1)
    single = next(metals).get_primitive_structure()
    assert len(single) == 1
    answer = predict(client, structure=json.dumps(single.as_dict()))
    assert answer["n_atoms"] == 1
    assert [atom["weight"] for atom in answer["predictions"][0]["attention"]] == [1.0]


def test_request_id_is_kept(client: httpx.Client) -> None:
    reply = client.post(
        "/predict", content=POSCAR, headers={"Content-Type": "text/plain", "X-Request-ID": "screen-17:4"}
    )
    assert reply.headers["x-request-id"] == reply.json()["id"] == "screen-17:4"
