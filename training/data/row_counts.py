"""Row counts of a data set: read, refused by reason, without a target, in each part."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.checkpoints.manifest import Scaler
from deepergatgnn.training.config.run import TargetConfig
from deepergatgnn.training.data.classes import target_values
from deepergatgnn.training.data.dataset import PreparedDataset, Refusal
from deepergatgnn.training.data.splits import Split
from deepergatgnn.uncertainty.intervals import scale

EXAMPLES = 3


@dataclass(frozen=True)
class RowGroup:
    """Group of rows.

    Attributes:
        name: description of the group.
        count: number of rows.
        examples: ids of the first rows.
    """

    name: str
    count: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Count, name and examples, as part of a sentence."""
        shown = f" ({_shown(self)})" if self.examples else ""
        return f"{self.count} {self.name}{shown}"


def row_counts(dataset: PreparedDataset, split: Split, targets: Sequence[TargetConfig]) -> list[RowGroup]:
    """Count the rows that are read, refused, without a target, and in each part, for the table before a training.

    Args:
        dataset: all rows.
        split: parts of the rows.
        targets: targets of the run.
    """
    groups = [RowGroup("read", len(dataset) + len(dataset.refused)), *refusal_groups(dataset.refused)]
    columns = target_values(dataset, targets).T
    for target, column in zip(targets, columns, strict=True):
        groups += missing_groups(dataset, target, column)
    for part, count in split.sizes().items():
        groups.append(RowGroup(part, count))
        for target, column in zip(targets, columns, strict=True):
            known = int(np.isfinite(transformed(column[getattr(split, part)], target)).sum())
            if known < count:
                groups.append(RowGroup(f"{part}, with {target.key}", known))
    return groups


def refusal_groups(refused: Iterable[Refusal]) -> list[RowGroup]:
    """Group refused rows by code, the most frequent first."""
    ids: dict[str, list[str]] = {}
    for refusal in refused:
        ids.setdefault(refusal.code, []).append(refusal.id)
    ordered = sorted(ids.items(), key=lambda item: -len(item[1]))
    return [RowGroup(f"refused: {code}", len(found), tuple(found[:EXAMPLES])) for code, found in ordered]


def missing_groups(dataset: PreparedDataset, target: TargetConfig, column: NDArray[np.float64]) -> list[RowGroup]:
    """Group the rows without a value for a target, and those outside the domain of its transform."""
    unknown = ~np.isfinite(column)
    if target.kind == "classification":
        group = _group(f"without a class for {target.key}", dataset, unknown)
        return [group] if group.count else []
    impossible = ~unknown & ~np.isfinite(transformed(column, target))
    found = [
        _group(f"without a number for {target.key}", dataset, unknown),
        _group(f"not above zero, so without a {target.transform} of {target.key}", dataset, impossible),
    ]
    return [group for group in found if group.count]


def transformed(column: NDArray[np.float64], target: TargetConfig) -> NDArray[np.float64]:
    """Apply the transform of a target to its column; NaN where it is undefined."""
    return scale(column, Scaler(transform=target.transform, mean=0, std=1))


def sentence(groups: Iterable[RowGroup]) -> str:
    """Join groups for an error message: "40 refused: disordered (a, b, c, ...)"."""
    return "; ".join(map(str, groups))


def table(dataset_name: str, groups: Sequence[RowGroup]) -> str:
    """Format groups as a text table."""
    title = f"rows of {dataset_name}"
    width = max(len(title), *(len(group.name) for group in groups)) if groups else len(title)
    lines = [f"{title:<{width}}   count  examples"]
    lines += [f"{group.name:<{width}}  {group.count:>6}  {_shown(group)}".rstrip() for group in groups]
    return "\n".join(lines)


def _group(name: str, dataset: PreparedDataset, chosen: NDArray[np.bool_]) -> RowGroup:
    rows = np.flatnonzero(chosen)
    return RowGroup(name, len(rows), tuple(dataset.ids[row] for row in rows[:EXAMPLES]))


def _shown(group: RowGroup) -> str:
    return ", ".join(group.examples) + (", ..." if 0 < len(group.examples) < group.count else "")
