"""The service under load, against the pipeline without a server and against other servers.

    python -m benchmarks.serving [--quick] [--litserve PATH]

Real crystals as CIF, the shipped bulk-modulus model, the embedded broker, one torch thread a process, eager networks,
the same parser and predictor on all sides. A separate process makes the load; stored answers are compared with those of
the pipeline. Sides alternate, A B A B; ratios are medians over the rounds. LitServe is not a dependency: install it
anywhere (`pip install --target PATH litserve`). The last line is one JSON object:

- `single_ratio` (64 clients), `batch_ratio` (batches of 256), both without attention, and both `_with_attention`:
  answers/s over crystals/s of the pipeline in one process, in its best batch size.
- `litserve_ratio`, `litserve_ratio_small` (the smallest network): answers/s over those of LitServe in its best batch
  size and timeout, one worker on each side, graphs of a batch built together; `litserve_p99_ratio`,
  `litserve_p99_ratio_small`; `litserve_each_ratio`: the same where LitServe builds the graph of each request as it
  decodes it; `litserve_two_workers_ratio`: with two workers on each side; each also `_small`.
- `naive_ratio`: answers/s over FastAPI that predicts one by one.
- `overload_goodput`: answers/s at 5 times the capacity over those at 1 time, in an open loop; `overload_told`: share
  of refusals that are 429 with Retry-After; `overload_p99_ratio`: p99 of the admitted requests over that at 0.8 times.
- `bulk_interference`: p99 of rare single requests beside a bulk stream over that without one.
- `idle_overhead_ms`: median of a lone request's total minus parse, graph and inference.
- `scale_ratio`: two workers over one, all models, batches of the crystals that cost most to compute;
  `machine_scale`: two pipelines without a server over one on this machine; `duplicates`: with the result cache over
  without it.

A figure that could not be measured is null; `skipped` gives the reason.
"""

import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import finish
from benchmarks.serving.harness import Bench, Model, UnavailableError
from benchmarks.serving.measures import overload, throughput
from benchmarks.serving.processes import Helper, Load
from benchmarks.serving.request_bodies import texts
from benchmarks.serving.servers import COMMAND, ENVIRONMENT, Server, service, started
from benchmarks.timing import parser
from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.settings import Settings

SHIPPED = Model("bulk-modulus")
SMALL = """name: small
data: elastic_tensor_2015
targets: [{model: small, key: log10_K_VRH, unit: log10(GPa)}]
graph: {angles: 0}
network: {layers: 1, channels: 16, heads: 1}
optimization: {epochs: 2}
members: 1
seed: 0
"""
FIGURES = (
    "single_ratio",
    "single_with_attention_ratio",
    "batch_ratio",
    "batch_with_attention_ratio",
    "litserve_ratio",
    "litserve_p99_ratio",
    "litserve_each_ratio",
    "litserve_two_workers_ratio",
    "litserve_ratio_small",
    "litserve_p99_ratio_small",
    "litserve_each_ratio_small",
    "litserve_two_workers_ratio_small",
    "naive_ratio",
    "overload_goodput",
    "overload_told",
    "overload_p99_ratio",
    "bulk_interference",
    "idle_overhead_ms",
    "scale_ratio",
    "machine_scale",
    "duplicates",
)


@contextmanager
def tools(options: Namespace) -> Iterator[Bench]:
    """Start the processes that the measures share."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepergatgnn-serving-")))
        pipeline = stack.enter_context(Helper("benchmarks.serving.pipeline_process", **ENVIRONMENT))
        load, background = stack.enter_context(Load()), stack.enter_context(Load())
        yield Bench(
            load=load,
            background=background,
            pipeline=pipeline,
            folder=folder,
            texts=texts(options.data),
            rounds=1 if options.quick else 5,
            seconds=2.0 if options.quick else 4.0,
            device=options.device,
        )


def train_small(folder: Path) -> Model:
    """Train the smallest network that can be served, in a store of its own."""
    config = folder / "small.yaml"
    config.write_text(SMALL, encoding="utf-8")
    store = folder / "store"
    store.mkdir()
    command = [*COMMAND, "train", str(config), "--store", str(store), "--runs", str(folder / "runs"), "--device", "cpu"]
    with started(command, DEEPERGATGNN_CACHE=str(folder / "cache")) as process:
        process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return Model("small", str(store))


class Report:
    """Figures, details, and reasons of missing figures."""

    def __init__(self, only: Sequence[str] = ()) -> None:
        self.only = only
        self.figures: dict[str, Any] = dict.fromkeys(FIGURES)
        self.details: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}

    def take(self, names: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Run a measure, if selected, and record its figures or the reason why there are none."""
        if self.only and not set(names.split(", ")) & set(self.only):
            return
        started_at = time.perf_counter()
        try:
            found = measure()
        except UnavailableError as error:
            self.skipped[names] = str(error)
            print(f"{names}: not measured: {error}", flush=True)
            return
        self.skipped |= found.pop("skipped", {})
        for name, value in found.items():
            (self.figures if name in self.figures else self.details)[name] = value
        line = ", ".join(f"{name} {value}" for name, value in found.items() if name in self.figures)
        print(f"{line} [{time.perf_counter() - started_at:.0f} s]", flush=True)


def litserve(bench: Bench, options: Namespace, server: Server, model: Model) -> dict[str, Any]:
    """Compare with LitServe; the keys are those of the report."""
    suffix = "" if model == SHIPPED else "_small"
    reachable = subprocess.run(  # noqa: S603 - asks whether it can be imported
        [*COMMAND[:1], "-c", "import litserve"],
        env=ENVIRONMENT | ({"PYTHONPATH": options.litserve} if options.litserve else {}),
        capture_output=True,
        check=False,
    )
    if reachable.returncode:
        raise UnavailableError("litserve cannot be imported: install it, or give its folder with --litserve PATH")
    found = throughput.against_litserve(bench, server, model, path=options.litserve, search=not options.quick)
    return {
        f"litserve_ratio{suffix}": found.pop("ratio"),
        f"litserve_p99_ratio{suffix}": found.pop("p99_ratio"),
        f"litserve_each_ratio{suffix}": found.pop("each_ratio"),
        f"litserve_two_workers_ratio{suffix}": found.pop("two_workers_ratio"),
        f"litserve{suffix}": found,
    }


def measure(bench: Bench, options: Namespace) -> Report:
    """Run every measure in turn."""
    report = Report(options.only)
    with service(1, **throughput.environment(bench, SHIPPED)) as server:
        report.take("idle_overhead_ms", lambda: overload.lone(bench, server, SHIPPED))
        report.take("single_ratio, batch_ratio", lambda: throughput.against_pipeline(bench, server, SHIPPED))
        report.take("overload_goodput", lambda: overload.overload(bench, server, SHIPPED))
        report.take("bulk_interference", lambda: overload.beside_bulk(bench, server, SHIPPED))
        report.take("naive_ratio", lambda: throughput.against_naive(bench, server, SHIPPED))
        if "cache_entries" in Settings.model_fields:
            report.take("duplicates", lambda: throughput.with_repeated_crystals(bench, server, SHIPPED))
        else:
            report.skipped["duplicates"] = "the service has no setting cache_entries"
        report.take("scale_ratio", lambda: throughput.with_two_workers(bench, server, ModelStore().names()))
        report.take("litserve_ratio", lambda: litserve(bench, options, server, SHIPPED))
    small = train_small(bench.folder)
    with service(1, **throughput.environment(bench, small)) as server:
        report.take("litserve_ratio_small", lambda: litserve(bench, options, server, small))
    return report


def main() -> None:
    """Run and print."""
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", default=[], metavar="NAME", help="measure these figures only")
    options.add_argument("--data", default="elastic_tensor_2015", help="data set of the crystals")
    options.add_argument("--device", default="cpu", help="of every server: cpu, cuda, cuda:N")
    options.add_argument("--litserve", default="", metavar="PATH", help="folder that LitServe was installed into")
    chosen = options.parse_args()
    with tools(chosen) as bench:
        head = {"data": chosen.data, "crystals": len(bench.texts), "rounds": bench.rounds, "seconds": bench.seconds}
        report = measure(bench, chosen)
    figures = head | report.figures | {"skipped": report.skipped} | report.details
    finish("serving", figures, quick=chosen.quick or bool(chosen.only))


if __name__ == "__main__":
    main()
