"""`python -m benchmarks.serving.pipeline_process`: the pipeline in one process; its values are the reference.

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

from benchmarks.serving.servers import THREADS
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.structures import read_structure


@cache
def predictor(store: str | None, model: str, device: str) -> Predictor:
    """Load a checkpoint."""
    return Predictor.load(ModelStore(store).folder(model), device)


@cache
def crystals(path: str) -> list[str]:
    """Read the texts."""
    found: list[str] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def values(loaded: Predictor, some: Sequence[str]) -> list[float]:
    """Predict: text → graph → number."""
    return [prediction.value for prediction in loaded.predict_structures([read_structure(text) for text in some])]


def run_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Compute the values or the rate of one plan."""
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
    """Run plans until standard input ends."""
    torch.set_num_threads(THREADS)
    for line in sys.stdin:
        print(json.dumps(run_plan(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
