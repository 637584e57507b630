"""Answers as `schemas.PredictResponse` has them, built here alone: for the service and for `deepergatgnn predict`."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from deepergatgnn.checkpoints.manifest import MAIN_LEVEL, Manifest

if TYPE_CHECKING:  # the command line needs no schemas, which take a while to import
    from deepergatgnn.service.schemas import AtomWeight, PropertyPrediction

LEVEL = float(MAIN_LEVEL)
LEVEL_PERCENT = f"{100 * LEVEL:g} %"


def property_prediction(
    manifest: Manifest,
    *,
    value: float,
    low: float | None,
    high: float | None,
    in_domain: bool,
    score: float,
    reasons: Sequence[str],
    probabilities: dict[str, float] | None,
) -> "PropertyPrediction":
    """Build the prediction of one model, without attention and crystal vector.

    Args:
        manifest: of the model.
        value: in the unit of the manifest's target.
        low: end of the interval; None where the calibration cannot promise one.
        high: likewise.
        in_domain: whether the crystal is in the applicability domain.
        score: of the domain assessment.
        reasons: for which the crystal is not in the domain.
        probabilities: of each class; None for a model without classes.
    """
    prediction: PropertyPrediction = {
        "model": manifest.name,
        "version": manifest.version,
        "property": manifest.target.property,
        "value": value,
        "unit": manifest.target.unit,
        "interval": None if low is None or high is None else {"level": LEVEL, "low": low, "high": high},
        "domain": {"in_domain": in_domain, "score": score, "reasons": reasons},
    }
    if probabilities is not None:
        prediction["probabilities"] = probabilities
    return prediction


def atom_weights(
    symbols: Sequence[str], frac_coords: Sequence[Sequence[float]], attention: Sequence[float]
) -> "list[AtomWeight]":
    """Return the attention of each atom, normalised to a sum of 1."""
    total = sum(attention)
    return [
        {"index": index, "element": element, "frac_coords": coords, "weight": weight / total}
        for index, (element, coords, weight) in enumerate(zip(symbols, frac_coords, attention, strict=True))
    ]


def missing_intervals(manifests: Iterable[Manifest]) -> list[str]:
    """Return a warning for each model that promises no interval."""
    reasons = [(manifest.reference, manifest.calibration.shortfall()) for manifest in manifests]
    return [f"{reference} gives no {LEVEL_PERCENT} interval: {reason}" for reference, reason in reasons if reason]
