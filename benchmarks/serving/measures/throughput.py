"""Measures of throughput: against the pipeline, against other servers, with two workers, with repeated crystals."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.serving.harness import Bench, Model, UnavailableError, cpu_ms, interleaved, median, ratio
from benchmarks.serving.processes import Helper, Result
from benchmarks.serving.request_bodies import BATCH, most_expensive, write_batches
from benchmarks.serving.servers import ENVIRONMENT, Server, resting, rival, service

BATCHES_TRIED = (64, 128, 256)
ATTENTION = {"": "none", "_with_attention": "global"}
# LitServe: batch size, timeout in seconds. The full run searches the best of each column in turn; --quick takes FIRST.
FIRST = (64, 0.005)
SHORTER = 3  # where two servers are compared: this many times the rounds, each of half the seconds
COLUMNS: tuple[tuple[float, ...], ...] = ((32, 128), (0.0, 0.001, 0.02))


def against_pipeline(bench: Bench, server: Server, model: Model) -> dict[str, Any]:
    """Measure `single_ratio` and `batch_ratio`: throughput of the service over that of the pipeline in one process."""
    bench.in_process(model, seconds=0.5, batch=BATCHES_TRIED[0])
    tried = {size: bench.in_process(model, seconds=bench.seconds / 2, batch=size)["rate"] for size in BATCHES_TRIED}
    best = max(tried, key=lambda size: tried[size])
    spent: dict[str, dict[str, float]] = {}

    def counted(name: str, run: Callable[[], Result], crystals: int = 1) -> float:
        result, spent[name] = cpu_ms(server, run, crystals)
        refused[name] = result.refused
        p99[name] = result.quantile_ms(0.99)
        return result.rate * crystals

    def in_process() -> float:
        report = bench.in_process(model, seconds=bench.seconds, batch=best)
        spent["in_process"] = {"all": round(report["cpu_ms"], 3)}
        return float(report["rate"])

    refused: dict[str, dict[str, int]] = {}
    p99: dict[str, float | None] = {}
    sides: dict[str, Callable[[], float]] = {"in_process": in_process}
    # Batches before single requests: for 1.5 s after one the worker keeps bulk batches short.
    for name, attention in ATTENTION.items():
        sides[f"batch{name}"] = partial(counted, f"batch{name}", partial(bench.batch, server, model, attention), BATCH)
    for name, attention in ATTENTION.items():
        sides[f"single{name}"] = partial(counted, f"single{name}", partial(bench.single, server, model, attention))
    missing = {}
    try:
        sides["batch"]()
    except UnavailableError as error:
        sides = {name: run for name, run in sides.items() if not name.startswith("batch")}
        missing["batch_ratio"] = str(error)
    rates = interleaved(sides, bench.rounds)
    report: dict[str, Any] = {
        f"{name}_ratio": ratio(each, rates["in_process"]) for name, each in rates.items() if name != "in_process"
    }
    return report | {
        "skipped": missing,
        "pipeline": {
            "answers_per_s": {name: median(each) for name, each in rates.items()},
            "cpu_ms": spent,
            "p99_ms": p99,
            "refused": refused,
            "in_process_batch": best,
        },
    }


def against_naive(bench: Bench, server: Server, model: Model) -> dict[str, Any]:
    """Measure `naive_ratio`: throughput over FastAPI that predicts one crystal after the other."""
    with rival("fastapi_naive", model.store, model.name, bench.device) as naive:
        return {"naive_ratio": _compared(bench, model, {"ours": server, "theirs": naive})["ratio"]}


def against_litserve(bench: Bench, server: Server, model: Model, *, path: str, search: bool) -> dict[str, Any]:
    """Compare throughput and p99 with LitServe in the best settings found for it.

    Args:
        bench: the harness.
        server: the service with one worker.
        model: model on both sides.
        path: folder of LitServe, if it is not installed.
        search: search the best settings of LitServe instead of taking `FIRST`.

    Returns:
        `ratio` and `p99_ratio` with one worker on each side; `each_ratio`, where LitServe builds the graph of each
        request on decoding instead of all graphs of a batch together; `two_workers_ratio`; and the details.
    """
    start = partial(_litserve, bench, model, path)

    def rate(settings: tuple[float, ...]) -> float:
        with start(settings) as theirs, resting([server]):
            runs = [bench.single(theirs, model, seconds=bench.seconds / 2) for _ in range(SHORTER)]
            return statistics.median(run.rate for run in runs)

    best: tuple[float, ...] = FIRST
    tried: dict[tuple[float, ...], float] = {}
    if search:
        tried[FIRST] = rate(FIRST)
        for column, values in enumerate(COLUMNS):
            for value in values:
                settings = (*best[:column], value, *best[column + 1 :])
                tried[settings] = rate(settings)
            best = max(tried, key=lambda each: tried[each])
    with start(best) as theirs, start(best, graphs="each") as each:
        report = _compared(bench, model, {"ours": server, "theirs": theirs, "each": each})
    with resting([server]), start(best, workers=2) as theirs, service(2, **environment(bench, model)) as ours:
        two = _compared(bench, model, {"ours": ours, "theirs": theirs})
    return report | {
        "two_workers_ratio": two.pop("ratio"),
        "two_workers": two,
        "litserve": dict(zip(("batch", "timeout_s"), best, strict=True)),
        "tried": {"/".join(f"{value:g}" for value in settings): round(each) for settings, each in tried.items()},
    }


def _litserve(
    bench: Bench, model: Model, path: str, settings: tuple[float, ...], workers: int = 1, graphs: str = "together"
) -> Any:
    arguments = [model.store, model.name, bench.device, *(f"{value:g}" for value in settings), str(workers), graphs]
    return rival("litserve", *arguments, **({"PYTHONPATH": path} if path else {}))


def _compared(bench: Bench, model: Model, servers: dict[str, Server]) -> dict[str, Any]:
    """Compare answers per second of servers; while one is measured, the others are stopped.

    The rounds are many and short, because the speed of a shared machine changes from one second to the next.
    """

    def alone(name: str) -> Result:
        with resting([server for other, server in servers.items() if other != name]):
            return bench.single(servers[name], model, seconds=bench.seconds / 2)

    results = interleaved({name: partial(alone, name) for name in servers}, SHORTER * bench.rounds)
    rates = {name: [result.rate for result in each] for name, each in results.items()}
    p99 = {name: [result.quantile_ms(0.99) or float("inf") for result in each] for name, each in results.items()}
    return {
        "ratio": ratio(rates["ours"], rates["theirs"]),
        "each_ratio": ratio(rates["ours"], rates["each"]) if "each" in rates else None,
        "p99_ratio": ratio(p99["ours"], p99["theirs"]),
        "answers_per_s": {name: median(each) for name, each in rates.items()},
        "p99_ms": {name: median(each) for name, each in p99.items()},
        "refused": {name: [result.refused for result in each if result.refused] for name, each in results.items()},
    }


def environment(bench: Bench, model: Model, **settings: str) -> dict[str, str]:
    """Return the settings of a service."""
    return {
        "DEEPERGATGNN_DEVICE": bench.device,
        "DEEPERGATGNN_MODEL_STORE": model.store,
        "DEEPERGATGNN_CACHE_ENTRIES": "0",
    } | settings


def with_two_workers(bench: Bench, one: Server, models: list[str]) -> dict[str, Any]:
    """Measure `scale_ratio`: two workers over one, one thread each, on the crystals that cost most to compute.

    `machine_scale` is the bound of this machine: two pipelines without a server at the same time over one.

    Args:
        bench: the harness.
        one: a service with one worker.
        models: as many models as make computation the main cost.
    """
    bodies = write_batches(bench.folder / "most-expensive-batch.jsonl", most_expensive(bench.texts, BATCH), models)

    def run(server: Server) -> float:
        result = bench.load.run(server.address, "/predict/batch", bodies, **bench.whole_batches)
        if not result.answers:
            raise UnavailableError(f"POST /predict/batch gave no answer: {result.refused}")
        return result.rate * BATCH

    with (
        service(2, **environment(bench, Model(""))) as two,
        Helper("benchmarks.serving.pipeline_process", **ENVIRONMENT) as second,
    ):
        rates = interleaved(
            {
                "one": partial(run, one),
                "two": partial(run, two),
                "pipeline": partial(bench.pipelines, Model(models[0]), [bench.pipeline]),
                "pipelines": partial(bench.pipelines, Model(models[0]), [bench.pipeline, second]),
            },
            bench.rounds,
        )
    return {
        "scale_ratio": ratio(rates["two"], rates["one"]),
        "machine_scale": ratio(rates["pipelines"], rates["pipeline"]),
        "scale": {"models": models, "crystals_per_s": {name: median(each) for name, each in rates.items()}},
    }


def with_repeated_crystals(bench: Bench, server: Server, model: Model) -> dict[str, Any]:
    """Measure `duplicates`: answers/s with the result cache over those without it, if every crystal repeats."""
    cached = environment(bench, model, DEEPERGATGNN_CACHE_ENTRIES="100000")
    with service(1, **cached) as caching:
        bench.single(caching, model)  # fills the cache
        found = interleaved(
            {"with": lambda: bench.single(caching, model).rate, "without": lambda: bench.single(server, model).rate},
            bench.rounds,
        )
    rates = {name: median(each) for name, each in found.items()}
    return {"duplicates": ratio(found["with"], found["without"]), "duplicates_answers_per_s": rates}
