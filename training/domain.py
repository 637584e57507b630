"""Fitting the domain score: where the crystal vectors of the training part lie."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from deepergatgnn.graph import CrystalGraph
from deepergatgnn.manifest import Domain

SHRINKAGE = 1e-3  # of the covariance towards a multiple of the identity, so that its inverse is stable
PERCENTILE = 0.99


def fit_domain(
    training: Sequence[CrystalGraph],
    calibration: Sequence[CrystalGraph],
    crystal_vectors: Callable[[Sequence[CrystalGraph]], Tensor],
) -> tuple[Domain, dict[str, Tensor]]:
    """Remember the training part.

    Args:
        training: graphs the network learned from.
        calibration: graphs it never saw, which set the limit of the distance.
        crystal_vectors: graphs → [n, F].

    Returns:
        The manifest's part, and the arrays `mean` [F] and `whitening` [F, F]: |(v - mean) whitening| is the
        Mahalanobis distance of a crystal vector v.
    """
    vectors = crystal_vectors(training).double()
    mean = vectors.mean(dim=0)
    covariance = torch.cov(vectors.T)
    covariance += SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    distances = torch.linalg.vector_norm((crystal_vectors(calibration).double() - mean) @ whitening, dim=-1)
    volumes = [graph.volume / graph.n_atoms for graph in training]
    elements = np.unique(np.concatenate([graph.atomic_numbers for graph in training]))
    domain = Domain(
        elements=tuple(elements.tolist()),
        volume_per_atom=(min(volumes), max(volumes)),
        distance_limit=float(torch.quantile(distances, PERCENTILE)),
    )
    return domain, {"mean": mean.float(), "whitening": whitening.float().contiguous()}
