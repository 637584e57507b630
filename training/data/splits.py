"""Split of a data set into training, validation, calibration and test rows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from deepergatgnn.checkpoints.manifest import LEVELS, crystals_needed
from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.split import Lists, SplitConfig
from deepergatgnn.training.config.yaml_files import nearest, reasons
from deepergatgnn.training.data.dataset import PreparedDataset

PARTS = ("train", "validation", "calibration", "test")
SHOWN = 3  # ids in a message
CALIBRATION_FRACTION, LARGEST_SHARE = 0.05, 5  # of the rows outside the test part; at most a fifth of them
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Row indices of the disjoint parts."""

    train: Indices
    validation: Indices
    calibration: Indices
    test: Indices

    def sizes(self) -> dict[str, int]:
        """Number of rows of each part."""
        return {name: len(getattr(self, name)) for name in PARTS}


def split_rows(dataset: PreparedDataset, config: SplitConfig, seed: int) -> Split:
    """Split the rows.

    Args:
        dataset: rows in file order.
        config: options of the split.
        seed: seed of the draws; equal rows and seeds give equal parts.

    Raises:
        ConfigError: if a part is empty, the fold column is missing, or the lists do not fit the rows.
    """
    rng, reserved = np.random.default_rng(seed), np.empty(0, dtype=np.int64)
    groups = _groups(dataset, config)
    given: Mapping[str, Indices] = {}
    if config.lists is not None:
        given = _listed(dataset, config)
        test, rest = given["test"], np.sort(np.concatenate([given["train"], given["validation"], given["calibration"]]))
    elif config.test_field is not None:
        test, rest = _official(dataset, config, fold_fields(config))
        reserved = np.intersect1d(_reserved(dataset, config), rest)
        rest = np.setdiff1d(rest, reserved)
    elif config.folds is not None:
        test, rest = _fold(groups, config.folds, config.fold, rng)
    else:
        size = config.test_rows or round(config.test_fraction * len(groups))
        test, rest = _draw(groups, np.arange(len(groups)), size, rng)
    parts, left = {}, given.get("train", rest)
    for part in ("validation", "calibration"):
        if len(given.get(part, ())):
            parts[part] = given[part]
        else:
            parts[part], left = _draw(groups, left, _size(config, part, len(rest)), rng)
    split = Split(np.sort(np.concatenate([left, reserved])), parts["validation"], parts["calibration"], test)
    if empty := [name for name, size in split.sizes().items() if size == 0]:
        raise ConfigError(
            f"split leaves no rows for {', '.join(empty)}: {dataset.name} has {len(groups)} rows; give more, or other "
            "fractions or numbers of rows in split"
        )
    return split


def _size(config: SplitConfig, part: str, rows: int) -> int:
    """Number of validation or calibration rows to draw from `rows` rows outside the test part."""
    if number := getattr(config, f"{part}_rows"):
        return int(number)
    fraction: float | None = getattr(config, f"{part}_fraction")
    if fraction is not None:
        return round(fraction * rows)
    return max(round(CALIBRATION_FRACTION * rows), min(crystals_needed(LEVELS[-1]), rows // LARGEST_SHARE))


def describe_split(dataset: PreparedDataset, split: Split) -> dict[str, int]:
    """Count the reduced formulas that each pair of parts shares, and the rows left out."""
    formulas = {part: {dataset.formulas[row] for row in getattr(split, part)} for part in PARTS}
    pairs = [("train", "test"), *(pair for pair in combinations(PARTS, 2) if pair != ("train", "test"))]
    found = {f"formulas_shared_by_{one}_and_{other}": len(formulas[one] & formulas[other]) for one, other in pairs}
    left_out = len(dataset) - sum(split.sizes().values())
    return found | ({"rows_left_out": left_out} if left_out else {})


def split_sentence(sizes: Mapping[str, int], notes: Mapping[str, object]) -> str:
    """Describe the sizes of the parts and their shared formulas in one sentence.

    Args:
        sizes: number of rows of each part.
        notes: result of `describe_split`, possibly with other notes.
    """
    rows = ", ".join(f"{part} {count}" for part, count in sizes.items())
    begin = "formulas_shared_by_"
    shared = [f"{key.removeprefix(begin).replace('_', ' ')} {n}" for key, n in notes.items() if key.startswith(begin)]
    return f"split: {rows}; formulas shared by {', '.join(shared)}"


def chemical_system(formula: str) -> str:
    """Return the sorted elements of a formula: Ba(MgPb)2 → Ba-Mg-Pb."""
    return "-".join(sorted(set(re.findall(r"[A-Z][a-z]?", formula))))


def _groups(dataset: PreparedDataset, config: SplitConfig) -> Indices:
    """Return the group of each row; rows of a group stay in one part."""
    if config.by == "row":
        return np.arange(len(dataset))
    names = list(dataset.formulas)
    if config.by == "chemical_system":
        names = [chemical_system(formula) for formula in names]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _official(dataset: PreparedDataset, config: SplitConfig, columns: Sequence[str]) -> tuple[Indices, Indices]:
    """Return the rows of an official fold in any of the columns, and all other rows."""
    is_test = np.zeros(len(dataset), dtype=bool)
    for field in columns:
        folds = dataset.fields.get(field, ())
        if all(fold is None for fold in folds):
            known = sorted(dataset.fields)
            hint = f"{nearest(field, known)}its fields are {', '.join(known) or 'none'}"
            raise ConfigError(f"no row of {dataset.name} has a field {field!r}: {hint}")
        is_test |= np.array([fold == config.test_fold for fold in folds])
    return np.flatnonzero(is_test), np.flatnonzero(~is_test)


def _reserved(dataset: PreparedDataset, config: SplitConfig) -> Indices:
    """Return the rows that are reserved for the training part, unless they are test rows."""
    if unknown := set(config.reserved_ids) - set(dataset.ids):
        raise ConfigError(f"reserved_ids: {dataset.name} has no row {_some(sorted(unknown))}")
    named = (
        np.flatnonzero(np.isin(dataset.ids, config.reserved_ids))
        if config.reserved_ids
        else np.empty(0, dtype=np.int64)
    )
    if config.reserved_field is None:
        return named
    return np.union1d(named, _official(dataset, config, (config.reserved_field,))[0])


def fold_fields(config: SplitConfig) -> tuple[str, ...]:
    """Return the names of the columns of official folds."""
    return (config.test_field,) if isinstance(config.test_field, str) else config.test_field or ()


def _fold(groups: Indices, folds: int, fold: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Return one of `folds` parts of about equal size, and the other rows."""
    members, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(members) < folds:
        raise ConfigError(f"{len(members)} rows or groups of rows cannot be {folds} folds: take fewer")
    order = rng.permutation(len(members))
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    place = np.empty(len(members), dtype=np.int64)
    place[order] = (middles * folds / sizes.sum()).astype(np.int64)
    in_fold = place[inverse] == fold
    return np.flatnonzero(in_fold), np.flatnonzero(~in_fold)


def _listed(dataset: PreparedDataset, config: SplitConfig) -> dict[str, Indices]:
    """Return the rows of the listed parts in file order; ids of refused rows are ignored."""
    lists = _read_lists(config)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(dataset.ids):
        rows.setdefault(name, []).append(row)
    refused = {refusal.id for refusal in dataset.refused}
    part_of: dict[str, str] = {}
    for part in PARTS:
        for name in getattr(lists, part):
            if (other := part_of.setdefault(name, part)) != part:
                raise ConfigError(f"lists: {name!r} is in the parts {other} and {part}: list a row once")
    if unknown := [name for name in part_of if name not in rows and name not in refused]:
        raise ConfigError(f"lists: {dataset.name} has no row {_some(unknown)}: remove the ids that it does not have")
    return {
        part: np.array(sorted({row for name in getattr(lists, part) for row in rows.get(name, ())}), dtype=np.int64)
        for part in PARTS
    }


def _read_lists(config: SplitConfig) -> Lists:
    if isinstance(config.lists, Lists):
        return config.lists
    path = Path(config.lists or "")
    try:
        content = path.read_bytes()
        lists = Lists.model_validate(json.loads(content))
    except OSError as error:
        raise ConfigError(f"lists: {path}: {error.strerror or error}") from None
    except ValidationError as error:
        raise ConfigError(f"lists: {path}: {reasons(error, Lists)}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"lists: {path} is not JSON: {error}") from None
    if sha256(content).hexdigest() != config.lists_sha256:
        raise ConfigError(f"lists: {path} has changed (lists_sha256 differs): restore it or remove lists_sha256")
    return lists


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _draw(groups: Indices, rows: Indices, count: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Draw whole groups until `count` rows are reached; return the drawn and the other rows in file order."""
    members, sizes = np.unique(groups[rows], return_counts=True)
    order = rng.permutation(len(members))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = members[order[before < count]]
    drawn = np.isin(groups[rows], chosen)
    return rows[drawn], rows[~drawn]
