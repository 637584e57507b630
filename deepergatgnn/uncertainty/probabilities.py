"""Class probabilities from the outputs of the members; numpy only."""

import numpy as np
from numpy.typing import NDArray


def class_probabilities(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities [n, C], each row summing to 1: the mean over members of softmax(logits / temperature).

    Averaged are probabilities, not logits (Lakshminarayanan et al., arXiv:1612.01474).

    Args:
        logits: [members, n, C].
        temperature: of the calibration (Guo et al., arXiv:1706.04599); 1 for none.
    """
    scaled = logits / temperature
    exponents = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    mean: NDArray[np.float64] = (exponents / exponents.sum(axis=-1, keepdims=True)).mean(axis=0)
    return mean


def answered_value(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Value [n] of an answer with probabilities [n, C]: of two classes that of the last, else the largest."""
    two = probabilities.shape[1] == 2  # noqa: PLR2004
    value: NDArray[np.float64] = probabilities[:, 1] if two else probabilities.max(axis=1)
    return value


def likeliest(probabilities: dict[str, float]) -> str:
    """The class with the largest probability, the first of several."""
    return max(probabilities, key=probabilities.__getitem__)
