"""Trained networks → a version in the store: calibration, domain, test, card."""

import logging
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepergatgnn.checkpoints.files import CARD, MANIFEST, digest
from deepergatgnn.checkpoints.manifest import Golden, Manifest, Provenance, StartRecord, Target
from deepergatgnn.checkpoints.weights import load_artifact, pack_weights
from deepergatgnn.errors import ArtifactError
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.crystal_model import CrystalModel, NetworkOutput
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.run import TrainingConfig, completed
from deepergatgnn.training.data.run_data import RunData
from deepergatgnn.training.evaluation.applicability_domain import distances, fit_domain
from deepergatgnn.training.evaluation.classification import ScoredClasses, class_errors, figures_of, fit_temperature
from deepergatgnn.training.evaluation.conformal import Said, fit_cross_intervals, fit_intervals
from deepergatgnn.training.evaluation.metrics import Figures, Scored, errors, finite
from deepergatgnn.training.fit.checkpoint import Progress, TrainingError
from deepergatgnn.training.fit.loop import outputs
from deepergatgnn.training.publication.card import render_card
from deepergatgnn.training.publication.figures import draw_report
from deepergatgnn.uncertainty.intervals import unscale
from deepergatgnn.uncertainty.probabilities import class_probabilities

GOLDEN_CRYSTALS = 3
DOMAIN_CRYSTALS = 10_000  # of the training part, evenly spread: enough for the covariance of their vectors
log = logging.getLogger(__name__)
PACKAGES = ("deepergatgnn", "torch", "torch-geometric", "pymatgen-core", "numpy")


@dataclass(frozen=True, eq=False)
class _Said:
    """What the networks say of some crystals of which the truth is known.

    Shapes:
        outputs: [members, n], for one target; [members, n, C], if it has classes.
        log_spreads: [members, n].
        vectors: [n, F], of the first member.
        truth: [n], in the target's unit.
        scaled: [n], in the networks' units; of classes nothing that is used.
    """

    graphs: Sequence[CrystalGraph]
    outputs: NDArray[np.float64]
    log_spreads: NDArray[np.float64]
    vectors: Tensor
    truth: NDArray[np.float64]
    scaled: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Version:
    """A version that is not in a store yet.

    Attributes:
        manifest: complete, with the errors of the test part.
        files: all but the manifest, by name.
        rows: of the test part that score the target.
        scored: what was predicted for them.
    """

    manifest: Manifest
    files: dict[str, bytes]
    rows: NDArray[np.int64]
    scored: Scored


def publish(
    config: TrainingConfig,
    assembly: RunData,
    networks: Sequence[CrystalModel],
    progress: Sequence[Progress],
    index: int,
    store: ModelStore,
    device: torch.device,
    *,
    plots: bool = True,
    cross_validation: Figures | None = None,
    start: StartRecord | None = None,
) -> Version:
    """Calibrate, score and publish the networks for one of their targets; arguments as of `build_version`.

    Raises:
        TrainingError: if the store cannot be written; what was trained is not lost.
    """
    number = config.version or store.next_version(config.targets[index].model)
    version = build_version(
        config,
        assembly,
        networks,
        progress,
        index,
        number,
        device,
        plots=plots,
        cross_validation=cross_validation,
        start=start,
    )
    document = version.manifest.model_dump_json(indent=2).encode() + b"\n"
    try:
        store.publish(version.manifest.name, number, {MANIFEST: document} | version.files)
    except OSError as error:
        raise TrainingError(
            f"{version.manifest.reference} cannot be written to {store.root}: {error.strerror or error}; the trained "
            "state is kept, and the same command publishes it"
        ) from None
    return version


def published_before(
    config: TrainingConfig,
    assembly: RunData,
    networks: Sequence[CrystalModel],
    index: int,
    store: ModelStore,
    cross_validation: Figures | None = None,
) -> Manifest | None:
    """The version of the same configuration, data and weights that the store already has; arguments as of `publish`.

    One without the figures of a later cross-validation is another version: its card lacks them.
    """
    name, said = config.targets[index].model, _without_version(config.model_dump(mode="json"))
    members: list[dict[str, Tensor]] = []
    for number in store.versions(name) if name in store.names() else []:
        try:
            manifest, found, _ = load_artifact(store.folder(f"{name}@{number}"))
        except ArtifactError as error:
            log.warning("%s@%s is damaged and was not compared with this run: %s", name, number, error)
            continue
        origin = manifest.provenance
        figures = manifest.metrics.get("cross_validation", {})
        if (_without_version(completed(origin.config)), origin.dataset_sha256) != (said, assembly.dataset.sha256):
            continue
        if figures != (cross_validation or {}) or len(found) != len(networks):
            continue
        members = members or [_part_for(network, assembly, index).state_dict() for network in networks]
        if all(_same(ours, theirs.state_dict()) for ours, theirs in zip(members, found, strict=True)):
            return manifest
    return None


def _without_version(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "version"}


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


def build_version(
    config: TrainingConfig,
    assembly: RunData,
    networks: Sequence[CrystalModel],
    progress: Sequence[Progress],
    index: int,
    number: str,
    device: torch.device,
    *,
    plots: bool = False,
    cross_validation: Figures | None = None,
    start: StartRecord | None = None,
) -> Version:
    """Calibrate and score the networks for one of their targets.

    Args:
        config: of the run.
        assembly: its data.
        networks: trained members.
        progress: of each member.
        index: of the target.
        number: of the version.
        device: where to compute.
        plots: whether to draw the images that lie beside the card.
        cross_validation: what the configuration came to over folds, for the card.
        start: what the weights began as.
    """
    target, scaler, classes = config.targets[index], assembly.scalers[index], classes_at(assembly, index)
    first = assembly.columns(index).start
    members = [_part_for(network, assembly, index).to(device) for network in networks]

    def numbered(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = rows[np.isfinite(assembly.truth[rows, index])]
        return found

    def ask(rows: NDArray[np.int64]) -> _Said:
        known = numbered(rows)
        graphs = [assembly.dataset.graphs[row] for row in known]
        answers = [outputs(member, graphs, device) for member in members]
        return _Said(
            graphs=graphs,
            outputs=np.stack([_values(answer, classes) for answer in answers]),
            log_spreads=np.stack([answer.log_spreads[:, 0].double().numpy() for answer in answers]),
            vectors=answers[0].crystal_vectors,
            truth=assembly.truth[known, index],
            scaled=assembly.scaled[known, first].astype(np.float64),
        )

    validation = ask(assembly.split.validation)
    folds = [ask(fold) if len(numbered(fold)) else None for fold in assembly.folds]
    held_out = (folds[0] or validation) if folds else ask(assembly.split.calibration)
    rows = numbered(np.setdiff1d(assembly.split.train, assembly.folds[0]) if folds else assembly.split.train)
    training = [assembly.dataset.graphs[row] for row in rows]
    some = training[:: -(-len(training) // DOMAIN_CRYSTALS)]
    domain, arrays = fit_domain(training, outputs(members[0], some, device).crystal_vectors, held_out.vectors)

    def known(said: _Said) -> Said:
        scores = distances(said.vectors, arrays) / domain.distance_limit
        return said.log_spreads, said.outputs, scores, said.scaled

    if classes:
        of_folds = [(said.outputs[[member]], said.truth) for member, said in enumerate(folds) if said]
        logits, codes = zip(*(of_folds or [(held_out.outputs, held_out.truth)]), strict=True)
        calibration = fit_temperature(np.concatenate(logits, axis=1), np.concatenate(codes))
        probabilities = class_probabilities(validation.outputs, calibration.temperature or 1.0)
        figures = class_errors(probabilities, validation.truth)
    elif folds:
        own = [said.outputs[member] - said.scaled if said else np.empty(0) for member, said in enumerate(folds)]
        calibration = fit_cross_intervals(known(validation), own)
    else:
        calibration = fit_intervals(known(validation), known(held_out))
    if not classes:
        figures = errors(unscale(validation.outputs.mean(axis=0), scaler), validation.truth)
    manifest = Manifest(
        name=target.model,
        version=number,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        network=members[0].config,
        graph=members[0].graph,
        target=Target(
            property=target.property or target.key,
            key=target.key,
            unit=target.unit,
            description=target.description,
            classes=classes,
        ),
        scaler=scaler,
        members=len(members),
        calibration=calibration,
        domain=domain,
        metrics={"validation": finite(figures)},
        golden=(),
        provenance=_provenance(config, assembly, progress, device).model_copy(update={"start": start}),
        parameters=sum(parameter.numel() for member in members for parameter in member.parameters()),
        files={},
    )
    predictor = Predictor(manifest, members, arrays, device)
    manifest = manifest.model_copy(update={"golden": _golden(assembly, predictor)})
    # The only place that touches the test part, after all choices are made.
    rows, scored = score_test_part(config, assembly, index, predictor)
    manifest = manifest.model_copy(update={"metrics": manifest.metrics | figures_of(scored, "test")})
    if cross_validation:
        metrics = manifest.metrics | {"cross_validation": cross_validation}
        manifest = manifest.model_copy(update={"metrics": metrics})
    images = draw_report(scored, manifest, members[0], progress, device) if plots else {}
    manifest, files = seal(manifest, pack_weights(members, arrays) | images)
    return Version(manifest, files, rows, scored)


def seal(manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Manifest, dict[str, bytes]]:
    """Add the card to the files of a version, and the digests of all of them to its manifest."""
    manifest = manifest.model_copy(update={"files": {name: digest(files[name]) for name in files if name != CARD}})
    files = {**files, CARD: render_card(manifest).encode()}
    return manifest.model_copy(update={"files": manifest.files | {CARD: digest(files[CARD])}}), files


def score_test_part(
    config: TrainingConfig, assembly: RunData, index: int, predictor: Predictor
) -> tuple[NDArray[np.int64], Scored]:
    """Rows of the test part that score a target, and what a version says of them."""
    rows = scoring_rows(config, assembly, index)
    graphs = [assembly.dataset.graphs[row] for row in rows]
    kind = ScoredClasses if classes_at(assembly, index) else Scored
    return rows, kind(graphs, predictor.predict_graphs(graphs), assembly.truth[rows, index])


def scoring_rows(config: TrainingConfig, assembly: RunData, index: int) -> NDArray[np.int64]:
    """Rows of the test part that score a target."""
    rows: NDArray[np.int64] = assembly.split.test[np.isfinite(assembly.truth[assembly.split.test, index])]
    if (field := config.targets[index].test_field) is None:
        return rows
    folds = assembly.dataset.fields[field]
    return np.array([row for row in rows if folds[row] == config.split.test_fold], dtype=np.int64)


def classes_at(assembly: RunData, index: int) -> tuple[str, ...]:
    """The classes of a target; none for a number."""
    return assembly.classes[index] if assembly.classes else ()


def _part_for(network: CrystalModel, assembly: RunData, index: int) -> CrystalModel:
    return network.single_target(assembly.columns(index).start, assembly.outputs[index])


def _values(answer: NetworkOutput, classes: Sequence[str]) -> NDArray[np.float64]:
    """What a network says of a target: [n], or [n, C] of classes."""
    values = answer.values.double().numpy()
    found: NDArray[np.float64] = values if classes else values[:, 0]
    return found


def _golden(assembly: RunData, predictor: Predictor) -> tuple[Golden, ...]:
    """The smallest crystals of the validation part, with the values just computed."""
    dataset = assembly.dataset
    rows = sorted(assembly.split.validation, key=lambda row: (dataset.graphs[row].n_atoms, row))[:GOLDEN_CRYSTALS]
    answers = predictor.predict_graphs([dataset.graphs[row] for row in rows])
    return tuple(
        Golden(**vars(dataset.cells[row]), value=answer.value) for row, answer in zip(rows, answers, strict=True)
    )


def _provenance(
    config: TrainingConfig, assembly: RunData, progress: Sequence[Progress], device: torch.device
) -> Provenance:
    dataset = assembly.dataset
    refused: dict[str, int] = {}
    for refusal in dataset.refused:
        refused[refusal.code] = refused.get(refusal.code, 0) + 1
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Provenance(
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        source=config.source,
        licence=config.licence,
        split=config.split.record() | assembly.notes,
        rows=assembly.split.sizes(),
        refused=refused,
        seed=config.seed,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        config=config.model_dump(mode="json"),
        epochs=max(each.epoch for each in progress),
        best_epoch=progress[0].best_epoch,
        seconds=round(sum(each.seconds for each in progress), 1),
        hardware=f"{name}, {torch.get_num_threads()} threads",
        packages={name: _installed(name) for name in PACKAGES},
    )


def _installed(name: str) -> str:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return "not installed"
