"""`python -m benchmarks.load.inprocess`: the pipeline in one process, and the values that every server must give.

One JSON plan a line on standard input: `texts` (a JSON file), `store`, `model`, `device`, and `seconds` with `batch`
for the speed; one JSON object a line on standard output.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.load.servers import THREADS
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.structures import read_structure


@cache
def predictor(store: str | None, model: str, device: str) -> Predictor:
    """A checkpoint."""
    return Predictor.load(ModelStore(store).folder(model), device)


@cache
def crystals(path: str) -> list[str]:
    """The texts."""
    found: list[str] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def values(loaded: Predictor, some: Sequence[str]) -> list[float]:
    """Text → graph → number."""
    return [prediction.value for prediction in loaded.predict_structures([read_structure(text) for text in some])]


def carry_out(plan: dict[str, Any]) -> dict[str, Any]:
    """Run one plan."""
    loaded = predictor(plan["store"], plan["model"], plan["device"])
    some = crystals(plan["texts"])
    if "seconds" not in plan:
        return {"values": values(loaded, some)}
    done, batch = 0, plan["batch"]
    started, used = time.perf_counter(), sum(os.times()[:2])
    while (elapsed := time.perf_counter() - started) < plan["seconds"]:
        first = done % len(some)
        done += len(values(loaded, some[first : first + batch]))
    return {"rate": done / elapsed, "cpu_ms": 1e3 * (sum(os.times()[:2]) - used) / done}


def main() -> None:
    """Until standard input ends."""
    torch.set_num_threads(THREADS)
    for line in sys.stdin:
        print(json.dumps(carry_out(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
