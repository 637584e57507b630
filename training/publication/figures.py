"""The images that lie beside a card, made of the test part after all choices."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.evaluation.metrics import Scored, percent
from deepergatgnn.training.fit.checkpoint import Progress
from deepergatgnn.training.fit.loop import outputs
from deepergatgnn.training.publication.periodic_table import draw_elements
from deepergatgnn.training.publication.plots import (
    draw_calibration,
    draw_learning,
    draw_parity,
    draw_residuals,
    draw_vectors,
)

# In the order in which a card shows them.
CAPTIONS = {
    "parity.png": "Predicted against true values of the test part; values beyond the frame are drawn at its edge.",
    "residuals.png": "Residuals of the test part; values beyond the frame are drawn at its edge.",
    "calibration.png": "Coverage of the intervals on the test part, by level and by quintile of width.",
    "elements.png": "Mean absolute error by element.",
    "crystal-vectors.png": "t-SNE of the crystal vectors, coloured by the property (as Fig. 10 of the paper).",
    "learning-curve.png": "Training loss, validation error and learning rate.",
}
MOST_VECTORS = 2000
PERPLEXITY = 30
FEWEST_VECTORS = 5


def draw_report(
    scored: Scored,
    manifest: Manifest,
    network: CrystalModel,
    progress: Sequence[Progress],
    device: torch.device,
) -> dict[str, bytes]:
    """Draw all images.

    Args:
        scored: the test part.
        manifest: with the figures of the test part.
        network: the first member, whose crystal vectors are shown.
        progress: of each member.
        device: where to compute.

    Returns:
        PNG by file name; an image that would show nothing is left out.
    """
    target, metrics = manifest.target, manifest.metrics
    label, true, predicted = f"{target.property}, {target.unit}", scored.truth, scored.values
    if manifest.scaler.transform == "log10":  # values that span decades
        label, true, predicted = f"log10 of {label}", np.log10(true), np.log10(predicted)
    loss = manifest.provenance.config.get("optimization", {}).get("loss", "")
    if target.classes:
        learning = draw_learning(
            [p.history for p in progress], [p.best_epoch for p in progress], "cross-entropy", of_classes=True
        )
        return {"learning-curve.png": learning}
    test, elements = metrics["test"], metrics["test_by_element"]
    title = f"{test['n']:.0f} crystals, MAE {test['mae']:.3g} {target.unit}"
    coverage = {float(level): test[f"coverage_{percent(level)}"] for level in manifest.calibration.levels}
    counts, errors = ({k.removeprefix(p): v for k, v in elements.items() if k.startswith(p)} for p in ("n_", "mae_"))
    images = {
        "parity.png": draw_parity(true, predicted, scored.flagged, label, title),
        "residuals.png": draw_residuals(true, predicted, label, title),
        "elements.png": draw_elements(errors, counts, target.unit),
        "learning-curve.png": draw_learning([p.history for p in progress], [p.best_epoch for p in progress], loss),
    }
    if manifest.calibration.shortfall() is None:
        images["calibration.png"] = draw_calibration(coverage, len(true), metrics["test_by_width"], target.unit)
    shown = np.unique(np.linspace(0, len(true) - 1, min(len(true), MOST_VECTORS)).astype(np.int64))
    vectors = outputs(network, [scored.graphs[row] for row in shown], device).crystal_vectors.double().numpy()
    if (places := project(vectors)) is not None:
        images["crystal-vectors.png"] = draw_vectors(places, true[shown], label)
    return images


def project(vectors: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """t-SNE of vectors [n, F] to a plane [n, 2]; None where there are too few of them, or they do not differ.

    van der Maaten and Hinton, J. Mach. Learn. Res. 9, 2579 (2008).
    """
    if len(vectors) < FEWEST_VECTORS or not (vectors.std(axis=0) > 0).any():
        return None
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=0, n_jobs=1)
    with threadpool_limits(1):  # sums in an order that does not depend on the machine
        projected: NDArray[np.float64] = places.fit_transform(vectors).astype(np.float64)
    return projected
