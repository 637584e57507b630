"""Publication of trained networks as a version of the store: calibration, domain, test, card."""

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
from deepergatgnn.checkpoints.manifest import Calibration, Domain, Golden, Manifest, Provenance, StartRecord, Target
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
from deepergatgnn.training.evaluation.conformal import HeldOut, fit_cross_intervals, fit_intervals
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
class _Outputs:
    """Outputs of the networks for crystals whose truth is known.

    Shapes:
        outputs: [members, n], for one target; [members, n, C], if it has classes.
        log_scales: [members, n].
        vectors: [n, P], of the first member.
        truth: [n], in the target's unit.
        scaled: [n], in the networks' units; not used for classes.
    """

    outputs: NDArray[np.float64]
    log_scales: NDArray[np.float64]
    vectors: Tensor
    truth: NDArray[np.float64]
    scaled: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _TargetNetworks:
    """The networks of a run with the outputs of one of its targets, and the data of the run."""

    members: Sequence[CrystalModel]
    assembly: RunData
    index: int
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        return classes_at(self.assembly, self.index)

    def known(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those rows that have a truth."""
        found: NDArray[np.int64] = rows[np.isfinite(self.assembly.truth[rows, self.index])]
        return found

    def vectors(self, graphs: Sequence[CrystalGraph]) -> Tensor:
        """Crystal vectors [n, P] of the first member."""
        return outputs(self.members[0], graphs, self.device).crystal_vectors

    def compute(self, rows: NDArray[np.int64]) -> _Outputs:
        """Outputs for those rows that have a truth."""
        known, assembly = self.known(rows), self.assembly
        graphs = [assembly.dataset.graphs[row] for row in known]
        found = [outputs(member, graphs, self.device) for member in self.members]
        return _Outputs(
            outputs=np.stack([_values(each, self.classes) for each in found]),
            log_scales=np.stack([each.log_scales[:, 0].double().numpy() for each in found]),
            vectors=found[0].crystal_vectors,
            truth=assembly.truth[known, self.index],
            scaled=assembly.scaled[known, assembly.columns(self.index).start].astype(np.float64),
        )


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What held-out crystals decide: the calibration, the domain and its arrays, and the figures of validation."""

    calibration: Calibration
    domain: Domain
    arrays: dict[str, Tensor]
    figures: Figures


@dataclass(frozen=True, eq=False)
class Version:
    """A version that is not in a store yet.

    Attributes:
        manifest: complete, with the errors of the test part.
        files: all but the manifest, by name.
        rows: of the test part that score the target.
        scored: their predictions and truths.
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
    """Return the version of the same configuration, data and weights in the store; arguments as of `publish`.

    A version without the figures of a later cross-validation is another one, because its card lacks them.
    """
    name, ours = config.targets[index].model, _without_version(config.model_dump(mode="json"))
    members: list[dict[str, Tensor]] = []
    for number in store.versions(name) if name in store.names() else []:
        try:
            manifest, found, _ = load_artifact(store.folder(f"{name}@{number}"))
        except ArtifactError as error:
            log.warning("%s@%s is damaged and was not compared with this run: %s", name, number, error)
            continue
        origin = manifest.provenance
        figures = manifest.metrics.get("cross_validation", {})
        if (_without_version(completed(origin.config)), origin.dataset_sha256) != (ours, assembly.dataset.sha256):
            continue
        if figures != (cross_validation or {}) or len(found) != len(networks):
            continue
        members = members or [_part_for(network, assembly, index).state_dict() for network in networks]
        if all(_same(state, theirs.state_dict()) for state, theirs in zip(members, found, strict=True)):
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
        cross_validation: figures of the configuration over folds, for the card.
        start: origin of the initial weights.
    """
    target, scaler, classes = config.targets[index], assembly.scalers[index], classes_at(assembly, index)
    members = [_part_for(network, assembly, index).to(device) for network in networks]
    fitted = _fit(_TargetNetworks(members, assembly, index, device))
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
        calibration=fitted.calibration,
        domain=fitted.domain,
        metrics={"validation": finite(fitted.figures)},
        golden=(),
        provenance=_provenance(config, assembly, progress, device).model_copy(update={"start": start}),
        parameters=sum(parameter.numel() for member in members for parameter in member.parameters()),
        files={},
    )
    predictor = Predictor(manifest, members, fitted.arrays, device)
    manifest = manifest.model_copy(update={"golden": _golden(assembly, predictor)})
    # The only place that touches the test part, after all choices are made.
    rows, scored = score_test_part(config, assembly, index, predictor)
    manifest = manifest.model_copy(update={"metrics": manifest.metrics | figures_of(scored, "test")})
    if cross_validation:
        metrics = manifest.metrics | {"cross_validation": cross_validation}
        manifest = manifest.model_copy(update={"metrics": metrics})
    images = draw_report(scored, manifest, members[0], progress, device) if plots else {}
    manifest, files = with_card(manifest, pack_weights(members, fitted.arrays) | images)
    return Version(manifest, files, rows, scored)


def _fit(networks: _TargetNetworks) -> _Fitted:
    """Fit the domain and the calibration to crystals that training did not see."""
    assembly, split, classes = networks.assembly, networks.assembly.split, networks.classes
    validation = networks.compute(split.validation)
    folds = [networks.compute(fold) if len(networks.known(fold)) else None for fold in assembly.folds]
    held_out = (folds[0] or validation) if folds else networks.compute(split.calibration)
    rows = networks.known(np.setdiff1d(split.train, assembly.folds[0]) if folds else split.train)
    training = [assembly.dataset.graphs[row] for row in rows]
    some = training[:: -(-len(training) // DOMAIN_CRYSTALS)]
    domain, arrays = fit_domain(training, networks.vectors(some), held_out.vectors)

    def residual_data(part: _Outputs) -> HeldOut:
        scores = distances(part.vectors, arrays) / domain.distance_limit
        return part.log_scales, part.outputs, scores, part.scaled

    if classes:
        of_folds = [(part.outputs[[member]], part.truth) for member, part in enumerate(folds) if part]
        logits, codes = zip(*(of_folds or [(held_out.outputs, held_out.truth)]), strict=True)
        calibration = fit_temperature(np.concatenate(logits, axis=1), np.concatenate(codes))
        probabilities = class_probabilities(validation.outputs, calibration.temperature or 1.0)
        return _Fitted(calibration, domain, arrays, class_errors(probabilities, validation.truth))
    if folds:
        own = [part.outputs[member] - part.scaled if part else np.empty(0) for member, part in enumerate(folds)]
        calibration = fit_cross_intervals(residual_data(validation), own)
    else:
        calibration = fit_intervals(residual_data(validation), residual_data(held_out))
    values = unscale(validation.outputs.mean(axis=0), assembly.scalers[networks.index])
    return _Fitted(calibration, domain, arrays, errors(values, validation.truth))


def with_card(manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Manifest, dict[str, bytes]]:
    """Add the card to the files of a version, and the digests of all of them to its manifest."""
    manifest = manifest.model_copy(update={"files": {name: digest(files[name]) for name in files if name != CARD}})
    files = {**files, CARD: render_card(manifest).encode()}
    return manifest.model_copy(update={"files": manifest.files | {CARD: digest(files[CARD])}}), files


def score_test_part(
    config: TrainingConfig, assembly: RunData, index: int, predictor: Predictor
) -> tuple[NDArray[np.int64], Scored]:
    """Rows of the test part that score a target, and the predictions of a version for them."""
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
    """Outputs of a network for a target: [n], or [n, C] of classes."""
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
