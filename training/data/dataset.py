"""A data set ready for training: graphs, targets, formulas; what the loop needs and no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.training.data.graph_arrays import Cell, Subset


@dataclass(frozen=True)
class Refusal:
    """A row that has no graph, and why."""

    id: str
    code: str
    detail: str


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """Rows that have a graph, in file order; those that have none are in `refused`.

    Attributes:
        name: of the data set.
        sha256: of its content.
        graph: the featuriser's constants.
        ids: of the rows.
        formulas: reduced formula of each row.
        columns: targets by key [n]; NaN where a row has no finite number.
        fields: other columns by name, such as official folds; None where a row has no such column.
        graphs: of the rows; from a cache each is made when it is asked for, of slices of mapped files.
        cells: of the rows, likewise.
        refused: rows without a graph.
        warnings: ids of the rows whose structure was not taken literally, by the kind of the warning.
    """

    name: str
    sha256: str
    graph: GraphConfig
    ids: Sequence[str]
    formulas: Sequence[str]
    columns: Mapping[str, NDArray[np.float64]]
    fields: Mapping[str, Sequence[Any]]
    graphs: Sequence[CrystalGraph]
    cells: Sequence[Cell]
    refused: tuple[Refusal, ...]
    warnings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    def values(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """Targets [rows, keys]; NaN where a row has no finite number or the set no such column."""
        nothing = np.full(len(self), np.nan)
        return np.stack([self.columns.get(key, nothing) for key in keys], axis=1)

    def take(self, rows: NDArray[np.int64]) -> "PreparedDataset":
        """Some of the rows, in the given order; all refusals and warnings stay."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            formulas=[self.formulas[row] for row in rows],
            columns={key: column[rows] for key, column in self.columns.items()},
            fields={name: [column[row] for row in rows] for name, column in self.fields.items()},
            graphs=Subset([self.graphs], rows),
            cells=Subset([self.cells], rows),
        )
