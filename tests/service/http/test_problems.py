"""Wrong requests get the contract's errors, and the next request is answered."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

CIF = Path("examples/ZrO2.cif").read_text("utf-8")
POSCAR = Path("examples/ZnO.POSCAR").read_text("utf-8")
TEXT = {"Content-Type": "text/plain"}
DISORDERED = CIF.replace("0.21022300  1", "0.21022300  0.5")
MAGNETIC = "data_x\n_space_group_magn.number_BNS 62.441\n" + CIF.split("\n", 2)[2]
OVERLAPPING = POSCAR.replace("0.1202900000000000 O", "0.4994000000000001 O")
DENSE = POSCAR.replace("\n1.0\n", "\n0.3\n")


def deep(levels: int) -> dict[str, Any]:
    """An object in an object, and so on."""
    made: dict[str, Any] = {}
    for _ in range(levels):
        made = {"structure": made}
    return made


CASES: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty body": ({"content": b"", "headers": TEXT}, 422, "unreadable"),
    "a picture": ({"content": b"\x89PNG\r\n\x1a\n\x00\x00", "headers": TEXT}, 422, "unreadable"),
    "prose": ({"content": b"lorem ipsum dolor sit amet", "headers": TEXT}, 422, "unreadable"),
    "no atoms": ({"content": b"data_x\n_cell_length_a 4\n", "headers": TEXT}, 422, "no_structure"),
    "disordered": ({"content": DISORDERED, "headers": {"Content-Type": "chemical/x-cif"}}, 422, "disordered"),
    "magnetic": ({"content": MAGNETIC, "headers": TEXT}, 422, "magnetic_cif"),
    "overlapping": ({"content": OVERLAPPING, "headers": TEXT}, 422, "overlapping_atoms"),
    "no element": ({"content": POSCAR.replace("Zn O\n", "Zq O\n"), "headers": TEXT}, 422, "unknown_element"),
    "flat cell": ({"content": POSCAR.replace("5.3035569999999996", "0.0"), "headers": TEXT}, 422, "bad_cell"),
    "10^9 atoms": ({"content": POSCAR.replace("\n2 2\n", "\n1000000000 2\n"), "headers": TEXT}, 413, "too_many_atoms"),
    "unknown model": ({"json": {"structure": CIF, "models": ["hardness"]}}, 404, "unknown_model"),
    "unknown version": ({"json": {"structure": CIF, "models": ["bulk-modulus@9.9.9"]}}, 404, "unknown_model"),
    "path as model": ({"json": {"structure": CIF, "models": ["../../etc/passwd"]}}, 404, "unknown_model"),
    "media type": ({"content": CIF, "headers": {"Content-Type": "application/pdf"}}, 415, "unknown_media_type"),
    "no media type": ({"content": CIF}, 415, "unknown_media_type"),
    "broken JSON": ({"content": b'{"structure": ', "headers": {"Content-Type": "application/json"}}, 400, "malformed"),
    "JSON list": ({"json": [CIF]}, 400, "malformed"),
    "no structure": ({"json": {"format": "cif"}}, 400, "malformed"),
    "unknown field": ({"json": {"structure": CIF, "modles": []}}, 400, "malformed"),
    "unknown format": ({"json": {"structure": CIF, "format": "pdb"}}, 400, "malformed"),
    "no file in form": ({"files": {"other": b"x"}}, 400, "malformed"),
    "unknown charset": (
        {"content": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"}},
        400,
        "malformed",
    ),
    "deep structure": ({"json": {"structure": deep(300)}}, 422, "unreadable"),
    "many containers": ({"json": {"structure": {"sites": [[]] * 200_000}}}, 413, "too_many_bytes"),
    "many keys": ({"json": {"structure": {str(n): 0 for n in range(200_000)}}}, 413, "too_many_bytes"),
    "large body": ({"content": b"#" * (9 << 20), "headers": TEXT}, 413, "too_many_bytes"),
    "deadline": ({"content": CIF, "headers": TEXT | {"X-Request-Deadline-Ms": "soon"}}, 400, "malformed"),
    "passed deadline": ({"content": CIF, "headers": TEXT | {"X-Request-Deadline-Ms": "0.001"}}, 504, "deadline_passed"),
}


def check_problem(reply: httpx.Response, status: int, code: str) -> None:
    assert (reply.status_code, reply.json().get("code")) == (status, code), reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
    assert problem["status"] == status
    assert problem["request_id"] == reply.headers["x-request-id"]
    assert not any(word in json.dumps(problem) for word in ("Traceback", "/work", "/home", "site-packages", ".py"))


@pytest.mark.parametrize("case", CASES)
def test_wrong_request_gets_its_error_and_the_next_is_answered(client: httpx.Client, case: str) -> None:
    request, status, code = CASES[case]
    check_problem(client.post("/predict", **request), status, code)
    assert client.post("/predict", content=CIF, headers=TEXT).status_code == 200


def test_chunked_body_keeps_the_limit(client: httpx.Client) -> None:
    pieces = (b"#" * (1 << 20) for _ in range(9))
    check_problem(client.post("/predict", content=pieces, headers=TEXT), 413, "too_many_bytes")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("GET", "/models/hardness", 404, "unknown_model"),
        ("GET", "/models/bulk-modulus/7.0.0", 404, "unknown_model"),
        ("GET", "/models/..%2F..%2Fetc", 404, "not_found"),
    ],
)
def test_wrong_path(client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    check_problem(client.request(method, path), status, code)
