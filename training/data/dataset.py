"""Featurised data set: graphs, targets and formulas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.training.data.graph_arrays import Cell, Subset


@dataclass(frozen=True)
class Refusal:
    """Row without a graph, and the reason."""

    id: str
    code: str
    detail: str


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """Rows with graphs, in file order.

    Attributes:
        name: name of the data set.
        sha256: digest of its content.
        graph: constants of the featuriser.
        ids: id of each row.
        formulas: reduced formula of each row.
        columns: targets by key [n]; NaN where a row has no finite number.
        fields: other columns by name, such as official folds; None where a row has no value.
        graphs: graph of each row; from a cache it is made of mapped files on access.
        cells: crystal of each row; from a cache it is made on access too.
        refused: rows without a graph.
        warnings: ids of the rows whose structure was not read literally, by the kind of the warning.
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
        """Return targets [rows, keys]; NaN where a row has no finite number or the column does not exist."""
        nothing = np.full(len(self), np.nan)
        return np.stack([self.columns.get(key, nothing) for key in keys], axis=1)

    def take(self, rows: NDArray[np.int64]) -> "PreparedDataset":
        """Select rows in the given order; refusals and warnings are kept."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            formulas=[self.formulas[row] for row in rows],
            columns={key: column[rows] for key, column in self.columns.items()},
            fields={name: [column[row] for row in rows] for name, column in self.fields.items()},
            graphs=Subset([self.graphs], rows),
            cells=Subset([self.cells], rows),
        )
