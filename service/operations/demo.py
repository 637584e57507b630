"""Demonstration: start a service, post a CIF and a POSCAR, print the answers as tables, stop.

python -m deepergatgnn.service.operations.demo
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deepergatgnn.uncertainty.probabilities import likeliest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = {"ZrO2.cif": "chemical/x-cif", "ZnO.POSCAR": "text/plain"}
START_S = 180.0
READY = "ready on "


def main() -> int:
    """Run the demonstration; return 0 if every file was answered."""
    console = Console() if sys.stdout.isatty() else Console(width=110)
    process = subprocess.Popen(
        [sys.executable, "-c", "from deepergatgnn.commands.main import main; main()", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        console.print("starting broker, API and worker ...")
        address = _address(process)
        console.print(f"ready on {address}\n")
        answered = [_post(console, address, name, media_type) for name, media_type in FILES.items()]
    finally:
        _stop(process)
    return 0 if all(answered) else 1


def _address(process: "subprocess.Popen[str]") -> str:
    """Wait until the service is ready; return its address."""
    assert process.stdout is not None  # noqa: S101 - a pipe
    for line in process.stdout:
        if line.startswith(READY):
            return line.removeprefix(READY).strip()
    raise SystemExit(f"the service ended with status {process.wait()} before it was ready")


def _post(console: Console, address: str, name: str, media_type: str) -> bool:
    """Post a file and print the answer; return whether it is one."""
    content = (EXAMPLES / name).read_bytes()
    started = time.perf_counter()
    reply = httpx.post(f"{address}/predict", content=content, headers={"Content-Type": media_type}, timeout=START_S)
    round_trip_ms = (time.perf_counter() - started) * 1000
    answer = reply.json()
    if reply.status_code != httpx.codes.OK:
        console.print(f"[red]{name}: {answer['code']}: {answer['detail']}")
        return False
    _show(console, name, answer, round_trip_ms)
    return True


def _show(console: Console, name: str, answer: dict[str, Any], round_trip_ms: float) -> None:
    title = f"{name}: {answer['reduced_formula']}, {answer['n_atoms']} atoms, {answer['n_edges']} edges"
    values = Table("model", "property", "value", "90 % interval", "unit", "domain", title=title, title_justify="left")
    for prediction in answer["predictions"]:
        interval, domain = prediction["interval"], prediction["domain"]
        value, probabilities = f"{prediction['value']:.4f}", prediction.get("probabilities")
        if probabilities:
            likely = likeliest(probabilities)
            value = f"{likely}, {probabilities[likely]:.4f}"
        values.add_row(
            f"{prediction['model']}@{prediction['version']}",
            prediction["property"],
            value,
            f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else "none",
            prediction["unit"],
            "inside" if domain["in_domain"] else "; ".join(domain["reasons"]),
        )
    console.print(values)
    attentive = [prediction for prediction in answer["predictions"] if prediction["attention"] is not None]
    models = [prediction["model"] for prediction in attentive]
    weights = Table("atom", "fractional coordinates", *models, title="attention", title_justify="left")
    for atoms in zip(*(prediction["attention"] for prediction in attentive), strict=True):
        place = " ".join(f"{x:8.4f}" for x in atoms[0]["frac_coords"])
        weights.add_row(f"{atoms[0]['element']}{atoms[0]['index']}", place, *(f"{a['weight']:.4f}" for a in atoms))
    console.print(weights)
    phases = Table(*answer["latency_ms"], "round trip", title="latency, ms", title_justify="left")
    phases.add_row(*(f"{value:.2f}" for value in answer["latency_ms"].values()), f"{round_trip_ms:.2f}")
    console.print(phases)
    console.print()


def _stop(process: "subprocess.Popen[str]") -> None:
    """Stop the service with SIGINT, or kill it if it does not stop."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
