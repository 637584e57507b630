"""Results of the benchmarks: one JSON a benchmark in `results/`, and the tables of the Markdown made of it.

    python -m benchmarks.report

renders the tables again, between the two marker lines of each `results/NAME.md`.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- table of the JSON file -->\n", "<!-- end of the table -->\n"

Figures = Mapping[str, Any]


def finish(name: str, figures: Figures, *, quick: bool) -> None:
    """Print the figures as the last line; a full run also stores them and renders the table.

    Args:
        name: name of the benchmark.
        figures: what it measured.
        quick: a quick run, which leaves the stored results as they are.
    """
    line = json.dumps(figures)
    if not quick:
        (RESULTS / f"{name}.json").write_text(line + "\n", encoding="utf-8")
        if name in TABLES:
            render(name)
    print(line)


def render(name: str) -> None:
    """Replace the table in the Markdown of a benchmark."""
    path = RESULTS / f"{name}.md"
    path.write_text(rendered(path.read_text("utf-8"), name), encoding="utf-8")


def rendered(text: str, name: str) -> str:
    """Return a Markdown text with the table of the stored figures."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = TABLES[name](json.loads((RESULTS / f"{name}.json").read_text("utf-8")))
    return before + BEGIN + table + END + after


def _table(*rows: tuple[object, ...]) -> str:
    """Markdown table; the first row is its header."""
    lines = ["| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return re.sub(r"\|  (?=\|)", "| ", "\n".join(lines)) + "\n"


def _serving(figures: Figures) -> str:
    rows = [
        ("figure", "required", "measured"),
        ("`single_ratio`, 64 clients, without attention", "≥ 0.6", figures["single_ratio"]),
        ("`single_with_attention_ratio`", "≥ 0.6", figures["single_with_attention_ratio"]),
        ("`batch_ratio`, batches of 256, without attention", "≥ 0.85", figures["batch_ratio"]),
        ("`batch_with_attention_ratio`", "≥ 0.85", figures["batch_with_attention_ratio"]),
        ("`naive_ratio`", "≥ 2", figures["naive_ratio"]),
        ("`overload_goodput`", "≥ 0.9", figures["overload_goodput"]),
        ("`overload_told`, all refusals are 429 with Retry-After", "1", figures["overload_told"]),
        ("`overload_p99_ratio`", "≤ 3", figures["overload_p99_ratio"]),
        ("`bulk_interference`", "≤ 1.5", figures["bulk_interference"]),
        ("`idle_overhead_ms`", "≤ 5", figures["idle_overhead_ms"]),
        ("`scale_ratio`, all models, the 256 most expensive crystals", "≥ 1.5", figures["scale_ratio"]),
        ("`machine_scale`, the bound of this machine", None, figures["machine_scale"]),
        ("`duplicates`, with the result cache", None, figures["duplicates"]),
    ]
    for suffix, model, least in (("", "shipped model", "≥ 1.1"), ("_small", "one layer, 16 channels", "≥ 1.5")):
        rows += [
            (f"`litserve_ratio{suffix}`, {model}, one worker on each side", least, figures[f"litserve_ratio{suffix}"]),
            (f"`litserve_each_ratio{suffix}`", least, figures[f"litserve_each_ratio{suffix}"]),
            (f"`litserve_p99_ratio{suffix}`", "≤ 1", figures[f"litserve_p99_ratio{suffix}"]),
            (f"`litserve_two_workers_ratio{suffix}`", None, figures[f"litserve_two_workers_ratio{suffix}"]),
        ]
    return _table(*rows)


def _network(figures: Figures) -> str:
    rows = {
        "merged and compiled (a worker after its first half minute)": "forward_ratio",
        "merged, eager (before that, and training)": "forward_ratio_eager",
        "every atom computed, eager": "forward_ratio_eager_without_merging",
    }
    sizes = list(figures["forward_ratio"])
    speed = figures["graphs_per_s"]
    return _table(
        ("literal over ours, batch size", *sizes),
        *((label, *(f"{figures[key][size]:.2f}" for size in sizes)) for label, key in rows.items()),
        ("crystals/s, merged, eager", *(round(speed[size]) for size in sizes)),
    )


def _pipeline(figures: Figures) -> str:
    p1, symmetrised = figures["cif_to_graph_ms_p1"], figures["cif_to_graph_ms_symmetrised"]
    speed = figures["structures_per_s"]
    mix = (
        f"**{figures['cif_to_graph_ratio']}** (first pass, nothing cached: {figures['cif_to_graph_ratio_first_pass']})"
    )
    return _table(
        ("", "pymatgen and the literal network", "ours", "ratio"),
        ("text → graph, P 1, ms a structure", p1["theirs"], p1["ours"], figures["cif_to_graph_ratio_p1"]),
        (
            "text → graph, symmetrised, ms",
            f"{symmetrised['theirs']:.2f}",
            f"{symmetrised['ours']:.2f}",
            figures["cif_to_graph_ratio_symmetrised"],
        ),
        ("text → graph, the mix", None, None, mix),
        (
            f"text → number, batch {figures['batch']}, structures/s",
            speed["theirs"],
            speed["ours"],
            f"**{figures['structures_per_s_ratio']:.1f}**",
        ),
    )


def _hostile(figures: Figures) -> str:
    return _table(
        ("", ""),
        ("files", figures["files"]),
        *figures["codes"].items(),
        ("longer than 2 s", f"{len(figures['over_2_s']) or 'none'}, the longest {figures['longest_s']} s"),
        ("status 500 and above", len(figures["status_5xx"]) or "none"),
        (
            "good CIF, median before and beside, ms",
            f"{figures['good_ms_before']}, {figures['good_ms_beside']}: ratio {figures['good_ratio']}",
        ),
        (
            "memory of the API before and at most, MiB",
            f"{figures['api_mib_before']}, {figures['api_mib_most']}",
        ),
        (
            f"of {figures['ordered_files']} ordered files answered alike",
            f"{100 * figures['ordered_answered_alike']:.1f} %",
        ),
    )


TABLES: dict[str, Callable[[Figures], str]] = {
    "hostile": _hostile,
    "network": _network,
    "pipeline": _pipeline,
    "serving": _serving,
}


if __name__ == "__main__":
    for each in TABLES:
        render(each)
