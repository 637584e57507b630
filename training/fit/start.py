"""Initial weights of a run, from a published version or another run, and the data that these were trained on."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from deepergatgnn.checkpoints.files import MANIFEST, digest
from deepergatgnn.checkpoints.manifest import StartRecord
from deepergatgnn.checkpoints.weights import load_artifact
from deepergatgnn.errors import ConfigError, DeeperGATGNNError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel, current_names, is_output
from deepergatgnn.training.config.run import TrainingConfig, completed
from deepergatgnn.training.data.graph_arrays import Cell
from deepergatgnn.training.data.run_data import RunData, assemble_run_data
from deepergatgnn.training.files import write_whole
from deepergatgnn.training.fit.checkpoint import STATE, best_weights

RUN = "run.json"  # what a run was trained with, beside the states of its members
PRECISION = 4  # decimals of coordinates, in Å and fractions, of crystals that count as the same
SHOWN = 3
log = logging.getLogger(__name__)
Weights = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Start:
    """Initial weights of a run.

    Attributes:
        reference: NAME@VERSION, or the folder of a run.
        sha256: of the manifest, or of the state of the first member.
        weights: of each member.
        config, dataset_sha256: that it was trained with; None where this package cannot read the configuration.
    """

    reference: str
    sha256: str
    weights: tuple[Weights, ...]
    config: TrainingConfig | None
    dataset_sha256: str


def is_run_folder(reference: str) -> bool:
    """Whether a start is the folder of a run, and not a version of a store."""
    return "/" in reference or Path(reference).is_dir()


def read_start(reference: str, store: ModelStore) -> Start:
    """Read the weights that a run begins with.

    Args:
        reference: NAME, NAME@VERSION or the folder of a run.
        store: where the version is.

    Raises:
        ConfigError: if there is no such run.
        ModelNotFoundError, ArtifactError: if there is no such version, or it is damaged.
    """
    if is_run_folder(reference):
        return _read_run(Path(reference))
    folder = store.folder(reference)
    manifest, networks, _ = load_artifact(folder)
    return Start(
        reference=manifest.reference,
        sha256=digest((folder / MANIFEST).read_bytes()),
        weights=tuple(network.state_dict() for network in networks),
        config=_config(manifest.provenance.config),
        dataset_sha256=manifest.provenance.dataset_sha256,
    )


def _read_run(folder: Path) -> Start:
    states = sorted(folder.glob(f"member-*/{STATE}"), key=lambda path: int(path.parent.name.removeprefix("member-")))
    if not states:
        raise ConfigError(f"start: {folder} holds no state of a run: give the folder of one, such as runs/NAME")
    record = read_record(folder)
    return Start(
        reference=str(folder),
        sha256=digest(states[0].read_bytes()),
        weights=tuple(best_weights(state) for state in states),
        config=_config(record.get("config")),
        dataset_sha256=str(record.get("dataset_sha256", "")),
    )


def read_record(folder: Path) -> dict[str, Any]:
    """Configuration and data of a run, as `write_record` wrote them; empty without a record."""
    try:
        record = json.loads((folder / RUN).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, config: TrainingConfig, assembly: RunData) -> None:
    """Write the configuration and the data of a run beside its states."""
    record = {"config": config.model_dump(mode="json"), "dataset_sha256": assembly.dataset.sha256}
    write_whole(folder / RUN, json.dumps(record, indent=2).encode() + b"\n")


def differences(folder: Path, config: TrainingConfig, assembly: RunData) -> str:
    """Options in which a run differs from the one whose states are in a folder, for people."""
    record = read_record(folder)
    if not isinstance(record.get("config"), dict):
        return ""
    before, now = _flat(completed(record["config"])), _flat(config.model_dump(mode="json"))
    changed = [
        f"{key} {before.get(key)} there, {now.get(key)} here"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if record.get("dataset_sha256") != assembly.dataset.sha256:
        changed.append("the content of the data")
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return ", ".join(changed[:SHOWN]) + more


def starting_weights(
    config: TrainingConfig, store: ModelStore, network: NetworkConfig | None = None
) -> tuple[Weights, ...]:
    """The weights that the members begin with; without the heads, unless another run had the same targets.

    Args:
        config: of the run.
        store: where the version is that it names.
        network: sizes of the run's network, where they are not those of the configuration: it may have classes.

    Raises:
        ConfigError: if they are of another network or featuriser.
    """
    if config.start is None:
        return ()
    start = read_start(config.start, store)
    targets = _learned_targets(config)
    same = start.config is not None and _learned_targets(start.config) == targets
    heads = same and is_run_folder(config.start)
    weights = [{k: v for k, v in current_names(each).items() if heads or not is_output(k)} for each in start.weights]
    ours = CrystalModel(network or config.network, config.graph).state_dict()
    expected = {key: value.shape for key, value in ours.items() if heads or not is_output(key)}
    fits = all({key: value.shape for key, value in each.items()} == expected for each in weights)
    if not fits or (start.config is not None and start.config.graph != config.graph):
        raise ConfigError(f"start: {start.reference} has another network or featuriser: take its sizes{_sizes(start)}")
    return tuple(weights)


def _learned_targets(config: TrainingConfig) -> list[tuple[Any, ...]]:
    return [(target.key, target.transform, target.kind, target.classes) for target in config.targets]


def start_record(config: TrainingConfig, assembly: RunData, store: ModelStore) -> StartRecord | None:
    """Origin of the initial weights, and the rows of the test part that they were trained on; None without a start.

    If there are such rows, a warning is logged, because the errors of the test part are then too small.
    """
    if config.start is None:
        return None
    start = read_start(config.start, store)
    try:
        rows, formulas = _overlap(assembly, _learned(start, store))
    except (DeeperGATGNNError, OSError) as error:
        log.warning("start: what %s learned from is not known here, nor whether test rows are among it: %s",
                    start.reference, error)  # fmt: skip
        return StartRecord(reference=start.reference, sha256=start.sha256)
    if rows:
        named = ", ".join(assembly.dataset.ids[row] for row in rows[:SHOWN])
        log.warning(
            "start: %s has learned from %d of the %d rows of this test part (%s%s): their errors will be too small; "
            "part the data as it did, or name its test rows in split.lists",
            start.reference, len(rows), len(assembly.split.test), named, ", ..." if len(rows) > SHOWN else "",
        )  # fmt: skip
    return StartRecord(reference=start.reference, sha256=start.sha256, test_rows=len(rows), test_formulas=formulas)


def _learned(start: Start, store: ModelStore) -> list[RunData]:
    """The data that a start was trained on, and those of its own start, as its configuration parts them again.

    Raises:
        ConfigError: if the data are not here any more.
    """
    if start.config is None:
        raise ConfigError("its configuration is not known to this version of the package")
    assembly = assemble_run_data(start.config)
    if assembly.dataset.sha256 != start.dataset_sha256:
        raise ConfigError(f"the data set {assembly.dataset.name} has changed since")
    before = [] if start.config.start is None else _learned(read_start(start.config.start, store), store)
    return [assembly, *before]


def _overlap(assembly: RunData, learned: Sequence[RunData]) -> tuple[list[int], int]:
    """Rows of the test part whose crystal is one that was learned, and the number of those whose formula is."""
    test = assembly.split.test.tolist()
    formulas = {assembly.dataset.formulas[row] for row in test}
    known: set[str] = set()
    crystals: set[tuple[object, ...]] = set()
    for other in learned:
        for row in other.split.train.tolist():
            if (formula := other.dataset.formulas[row]) in formulas:
                known.add(formula)
                crystals.add(_crystal(other.dataset.cells[row]))
    rows = [row for row in test if assembly.dataset.formulas[row] in known]
    return [row for row in rows if _crystal(assembly.dataset.cells[row]) in crystals], len(rows)


def _crystal(cell: Cell) -> tuple[object, ...]:
    """A crystal as it is written, but for rounding."""
    vectors = (*cell.lattice, *cell.frac_coords)
    return (cell.species, *(tuple(round(x, PRECISION) + 0.0 for x in vector) for vector in vectors))


def _config(document: Any) -> TrainingConfig | None:
    try:
        return TrainingConfig.model_validate(document)
    except ValidationError:
        return None


def _flat(document: dict[str, Any], place: str = "") -> dict[str, Any]:
    """{"optimization": {"epochs": 4}} → {"optimization.epochs": 4}."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flat(value, f"{place}{key}.") if isinstance(value, dict) else {f"{place}{key}": value}
    return flat


def _sizes(start: Start) -> str:
    if start.config is None:
        return ""
    network = start.config.network
    return f", {network.layers} layers of {network.channels} channels"
