"""Measures of behaviour under pressure: overload, a bulk stream beside single requests, and a lone request."""

from typing import Any

from benchmarks.serving.harness import Bench, Model, UnavailableError, interleaved, median, ratio
from benchmarks.serving.processes import Result, quantile
from benchmarks.serving.servers import Server

LEVELS = {"0.8": 0.8, "1": 1.0, "5": 5.0}
LOW = 0.05  # rate of single requests beside a bulk stream, as a share of the capacity
LONE = 150  # requests


def overload(bench: Bench, server: Server, model: Model) -> dict[str, Any]:
    """Measure `overload_goodput`, and whether refusals are 429 with Retry-After."""
    bodies = bench.singles([model.name])
    capacity = bench.single(server, model).rate
    seed = 0

    def at(level: float) -> Result:
        nonlocal seed
        seed += 1
        plan: dict[str, Any] = {"rate": level * capacity, "seconds": 2 * bench.seconds, "warm_s": 2.0, "seed": seed}
        return bench.load.run(server.address, "/predict", bodies, **plan)

    results = interleaved({name: lambda level=level: at(level) for name, level in LEVELS.items()}, bench.rounds)  # type: ignore[misc]
    goodput = {name: [result.rate for result in each] for name, each in results.items()}
    p99 = {name: [result.quantile_ms(0.99) or float("inf") for result in each] for name, each in results.items()}
    refused = [result.refused for result in results["5"]]
    with_retry_after = sum(result.refusals_with_retry_after for result in results["5"])
    refusals = sum(sum(each.values()) for each in refused)
    return {
        "overload_goodput": ratio(goodput["5"], goodput["1"]),
        "overload_told": round(with_retry_after / refusals, 4) if refusals else None,
        "overload_p99_ratio": ratio(p99["5"], p99["0.8"]),
        "overload": {
            "capacity_per_s": round(capacity, 1),
            "answers_per_s": {name: median(each) for name, each in goodput.items()},
            "p50_ms": {name: median([r.quantile_ms(0.5) for r in each]) for name, each in results.items()},
            "p99_ms": {name: median(each) for name, each in p99.items()},
            "refused": {name: [result.refused for result in each] for name, each in results.items()},
            "load_late_p99_ms": {name: median([result.late_ms for result in each]) for name, each in results.items()},
            "load_cpu_share": {name: median([result.cpu_share for result in each]) for name, each in results.items()},
        },
    }


def beside_bulk(bench: Bench, server: Server, model: Model) -> dict[str, Any]:
    """Measure `bulk_interference`: p99 of single requests at a low rate, with a bulk stream over without one."""
    capacity = bench.single(server, model).rate
    bodies, batches = bench.singles([model.name]), bench.batches([model.name])
    seconds = 2 * bench.seconds

    def alone() -> Result:
        plan: dict[str, Any] = {"rate": LOW * capacity, "seconds": seconds, "warm_s": 1.0}
        return bench.load.run(server.address, "/predict", bodies, **plan)

    def beside() -> Result:
        stream: dict[str, Any] = {"clients": 1, "seconds": seconds + 2, "kept": 1}
        headers = ["Accept: application/x-ndjson"]
        bench.background.begin(server.address, "/predict/batch", batches, headers=headers, **stream)
        result = alone()
        streamed.append(bench.background.end())
        if not streamed[-1].answers:
            raise UnavailableError(f"POST /predict/batch gave no answer: {streamed[-1].refused}")
        return result

    streamed: list[Result] = []
    results = interleaved({"without": alone, "with": beside}, bench.rounds)
    latencies = {name: [ms for result in each for ms in result.latencies_ms] for name, each in results.items()}
    p99 = {name: quantile(each, 0.99) or float("inf") for name, each in latencies.items()}
    return {
        "bulk_interference": round(p99["with"] / p99["without"], 3),
        "bulk": {
            "rate_per_s": round(LOW * capacity, 1),
            "requests": {name: len(each) for name, each in latencies.items()},
            "p50_ms": {name: quantile(each, 0.5) for name, each in latencies.items()},
            "p99_ms": p99,
            "refused": {name: [result.refused for result in each] for name, each in results.items()},
            "batches_per_s": median([result.rate for result in streamed]),
        },
    }


def lone(bench: Bench, server: Server, model: Model) -> dict[str, Any]:
    """Measure `idle_overhead_ms`: latency of a lone request minus parsing, graph and inference."""
    plan: dict[str, Any] = {"clients": 1, "seconds": 3 * bench.seconds, "kept": LONE}
    result = bench.load.run(server.address, "/predict", bench.singles([model.name]), **plan)
    if not result.answers:
        raise UnavailableError(f"POST /predict gave no answer: {result.refused}")
    times = [document["latency_ms"] for _, document in result.documents]
    overhead = [each["total"] - each["parse"] - each["graph"] - each["inference"] for each in times]
    totals = median([each["total"] for each in times])
    seen = result.quantile_ms(0.5)
    return {
        "idle_overhead_ms": median(overhead),
        "idle": {
            "latency_ms": {part: median([each[part] for each in times]) for part in times[0]},
            "seen_by_client_ms": seen,
            "outside_total_ms": None if seen is None or totals is None else round(seen - totals, 2),
            "requests": len(times),
        },
    }
