"""The bundled set as what parts rows sees it."""

from dataclasses import replace
from functools import cache

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.training.data.dataset import PreparedDataset
from deepergatgnn.training.data.splits import PARTS, Split
from tests.support.fixtures import bundled


@cache
def dataset() -> PreparedDataset:
    """The bundled set as the loop has it, but for the graphs, which no split looks at."""
    rows = bundled().rows
    return PreparedDataset(
        name=bundled().name,
        sha256=bundled().sha256,
        graph=GraphConfig(),
        ids=[row.id for row in rows],
        formulas=[row.crystal.reduced_formula for row in rows],
        columns={},
        fields={"space_group": [row.fields["space_group"] for row in rows]},
        graphs=[],
        cells=[],
        refused=(),
    )


def first(count: int) -> PreparedDataset:
    """Its first rows."""
    whole = dataset()
    fields = {name: column[:count] for name, column in whole.fields.items()}
    return replace(whole, ids=whole.ids[:count], formulas=whole.formulas[:count], fields=fields)


def parts(split: Split) -> list[list[int]]:
    return [getattr(split, name).tolist() for name in PARTS]
