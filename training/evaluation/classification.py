"""Quality of class probabilities, and the temperature that calibrates them: figures, no files."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from deepergatgnn.checkpoints.manifest import Calibration
from deepergatgnn.training.data.run_data import FEWEST
from deepergatgnn.training.evaluation.metrics import (
    Figures,
    Scored,
    by_element,
    by_size,
    finite,
    measure,
    ranks,
    standard_error,
)
from deepergatgnn.uncertainty.probabilities import class_probabilities

HOTTEST = 20.0  # the temperature is between this and its inverse
BINS = 10  # of the reliability table, of equal width
SMALLEST = 1e-15  # probability, so that its logarithm is finite
MAIN = ("accuracy", "roc_auc", "log_loss", "brier")


def fit_temperature(logits: NDArray[np.float64], codes: NDArray[np.float64]) -> Calibration:
    """The temperature with the least negative log-likelihood of crystals that training did not see.

    Args:
        logits: [members, n, C].
        codes: places of the true classes [n].
    """
    n = len(codes)
    if n < FEWEST or not np.isfinite(logits).all():
        return Calibration(method="temperature", n=n, temperature=1.0)

    def objective(log_temperature: float) -> float:
        return log_loss(class_probabilities(logits, float(np.exp(log_temperature))), codes)

    most = float(np.log(HOTTEST))
    found = minimize_scalar(  # type: ignore[no-untyped-call]
        objective, bounds=(-most, most), method="bounded", options={"xatol": 1e-6}
    )
    return Calibration(method="temperature", n=n, temperature=float(np.exp(found.x)))


class ScoredClasses(Scored):
    """Probabilities for crystals of which the class is known; `truth` is the place of the class [n]."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.predictions[0].probabilities or ())

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Of the classes [n, C]."""
        return np.array([list((each.probabilities or {}).values()) for each in self.predictions], dtype=np.float64)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether the likeliest class is the true one [n]."""
        found: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.truth
        return found

    @cached_property
    def off(self) -> NDArray[np.float64]:
        """1 where the likeliest class is not the true one, else 0 [n]."""
        return (~self.right).astype(np.float64)

    @property
    def of_group(self) -> tuple[str, NDArray[np.float64]]:
        """The name of the figure of a group of crystals, and what it is the mean of [n]."""
        return "accuracy", self.right.astype(np.float64)


def log_loss(probabilities: NDArray[np.float64], codes: NDArray[np.float64]) -> float:
    """Mean negative logarithm of the probability of the true class."""
    of_true = probabilities[np.arange(len(codes)), codes.astype(np.int64)]
    return float(-np.log(np.maximum(of_true, SMALLEST)).mean())


def brier(probabilities: NDArray[np.float64], codes: NDArray[np.float64]) -> float:
    """Mean squared error of the probabilities; of two classes that of the last one, of more summed over them."""
    off = ((probabilities - (codes[:, None] == np.arange(probabilities.shape[1]))) ** 2).sum(axis=1)
    two = 2
    return float(off.mean()) / (2 if probabilities.shape[1] == two else 1)


def roc_auc(probabilities: NDArray[np.float64], codes: NDArray[np.float64]) -> float:
    """Area under the ROC curve; of more than two classes the mean over them of each against the rest.

    NaN where a class has no crystal, or all of them.
    """
    two = 2
    columns = [1] if probabilities.shape[1] == two else range(probabilities.shape[1])
    return float(np.mean([_area(probabilities[:, column], codes == column) for column in columns]))


def _area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The Mann-Whitney statistic; equal scores count half."""
    ours, theirs = int(positive.sum()), int((~positive).sum())
    if not ours * theirs:
        return float("nan")
    return (float(ranks(scores)[positive].sum()) - ours * (ours + 1) / 2) / (ours * theirs)


def class_errors(probabilities: NDArray[np.float64], codes: NDArray[np.float64]) -> Figures:
    """Accuracy, ROC AUC, log loss, Brier score and expected calibration error; NaN for one that does not exist.

    `baseline_accuracy` is that of the most frequent class for every crystal, `baseline_log_loss` that of the shares of
    the classes.
    """
    right = (probabilities.argmax(axis=1) == codes).astype(np.float64)
    shares = np.bincount(codes.astype(np.int64), minlength=probabilities.shape[1]) / len(codes)
    return {
        "n": float(len(codes)),
        "accuracy": float(right.mean()),
        "accuracy_se": standard_error(right),
        "roc_auc": roc_auc(probabilities, codes),
        "log_loss": log_loss(probabilities, codes),
        "brier": brier(probabilities, codes),
        "calibration_error": calibration_error(probabilities, codes),
        "baseline_accuracy": float(shares.max()),
        "baseline_log_loss": float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()),
    }


def summarise_classes(scored: ScoredClasses) -> Figures:
    """The figures of `class_errors`, and the accuracy by domain verdict; NaN for one that does not exist."""
    flagged = scored.flagged
    return class_errors(scored.probabilities, scored.truth) | {
        "flagged": float(flagged.sum()),
        "accuracy_flagged": _mean(scored.right[flagged]),
        "accuracy_unflagged": _mean(scored.right[~flagged]),
    }


def reliability(probabilities: NDArray[np.float64], codes: NDArray[np.float64]) -> Figures:
    """For each tenth of the probability of the likeliest class n_0.9-1, confidence_0.9-1, accuracy_0.9-1."""
    largest, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == codes
    bins = np.minimum((largest * BINS).astype(np.int64), BINS - 1)
    figures: Figures = {}
    for each in np.unique(bins).tolist():
        inside, name = bins == each, f"{each / BINS:g}-{(each + 1) / BINS:g}"
        figures |= {
            f"n_{name}": float(inside.sum()),
            f"confidence_{name}": float(largest[inside].mean()),
            f"accuracy_{name}": _mean(right[inside]),
        }
    return figures


def calibration_error(probabilities: NDArray[np.float64], codes: NDArray[np.float64]) -> float:
    """Mean distance of accuracy from confidence over the bins, by their crystals (Guo et al., arXiv:1706.04599)."""
    found = reliability(probabilities, codes)
    names = [key.removeprefix("n_") for key in found if key.startswith("n_")]
    off = [found[f"n_{name}"] * abs(found[f"accuracy_{name}"] - found[f"confidence_{name}"]) for name in names]
    return float(sum(off)) / len(codes)


def figures_of(scored: Scored, part: str) -> dict[str, Figures]:
    """All figures of a part of the data, as the manifest keeps them; those that do not exist are left out.

    Returns:
        What `evaluation.measure` gives of numbers; of classes `part`, `part`_by_element, `part`_by_size and
        `part`_reliability.
    """
    if not isinstance(scored, ScoredClasses):
        return measure(scored, part)
    measured = {
        part: summarise_classes(scored),
        f"{part}_by_element": by_element(scored),
        f"{part}_by_size": by_size(scored),
        f"{part}_reliability": reliability(scored.probabilities, scored.truth),
    }
    return {name: finite(figures) for name, figures in measured.items()}


def _mean(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else float("nan")
