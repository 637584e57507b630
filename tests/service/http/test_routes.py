"""Models, health, metrics, page and documents."""

import re
from pathlib import Path

import httpx

from deepergatgnn.checkpoints.manifest import Manifest

CIF = Path("examples/ZrO2.cif").read_text("utf-8")


def test_models_are_listed_and_shown(client: httpx.Client) -> None:
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert {"bulk-modulus", "shear-modulus"} <= set(models)
    for name, summary in models.items():
        assert client.get(f"/models/{name}").json() == summary
        assert summary["test"]["mae"] > 0
        manifest = client.get(f"/models/{name}/{summary['production']}").json()
        assert Manifest.model_validate(manifest).name == name


def test_health_and_readiness(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz").json()
    assert (ready["status"], ready["workers"], ready["models"]["failed"]) == ("ready", 1, {})
    assert len(ready["models"]["ready"]) == len(client.get("/models").json()["models"])


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    def figure(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    names = ("deepergatgnn_structures_total", 'deepergatgnn_failures_total{reason="unreadable"}')
    before = [figure(name) for name in names]
    client.post("/predict", content=CIF, headers={"Content-Type": "text/plain"})
    client.post("/predict", content=b"", headers={"Content-Type": "text/plain"})
    assert [figure(name) for name in names] == [count + 1 for count in before]
    text = client.get("/metrics").text
    for phase in ("parse", "graph", "queue", "inference", "total"):
        assert f'deepergatgnn_phase_seconds_count{{phase="{phase}"}}' in text
    assert 'deepergatgnn_build_info{version="' in text


def test_page_and_documents_are_served_from_here(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(?:src|href)=.https?:", page.text)
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/models", "/models/{name}", "/models/{name}/{version}", "/healthz", "/readyz"} <= set(paths)
    assert client.get("/docs").status_code == 200
    assert page.headers["x-content-type-options"] == "nosniff"
