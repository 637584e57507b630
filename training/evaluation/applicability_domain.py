"""Fit of the applicability domain: the distribution of the crystal vectors of the training part."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepergatgnn.checkpoints.manifest import Domain
from deepergatgnn.graphs.crystal_graph import CrystalGraph

SHRINKAGE = 1e-3  # of the covariance towards a multiple of the identity, so that its inverse is stable
SMALLEST = 1e-6  # of a variance or a distance, where all crystal vectors are the same
PERCENTILE = 0.99


def fit_domain(training: Sequence[CrystalGraph], vectors: Tensor, held_out: Tensor) -> tuple[Domain, dict[str, Tensor]]:
    """Fit the domain to the training part.

    Args:
        training: graphs of the training part.
        vectors: crystal vectors [n, P] of all or enough of them.
        held_out: crystal vectors of the calibration part, which set the limit of the distance.

    Returns:
        The manifest's part, and the arrays `mean` [P] and `whitening` [P, P]: |(v - mean) whitening| is the
        Mahalanobis distance of a crystal vector v.
    """
    vectors = vectors.double()
    mean = vectors.mean(dim=0)
    covariance = torch.cov(vectors.T)
    shrinkage = SHRINKAGE * covariance.diagonal().mean().clamp_min(SMALLEST)
    covariance += shrinkage * torch.eye(len(mean), dtype=torch.float64)
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    arrays = {"mean": mean.float(), "whitening": whitening.float().contiguous()}
    volumes = [graph.volume / graph.n_atoms for graph in training]
    sizes = [graph.n_nodes for graph in training]
    elements = np.unique(np.concatenate([graph.atomic_numbers for graph in training]))
    domain = Domain(
        elements=tuple(elements.tolist()),
        volume_per_atom=(min(volumes), max(volumes)),
        inequivalent_atoms=(min(sizes), max(sizes)),
        distance_limit=max(SMALLEST, float(np.quantile(distances(held_out, arrays), PERCENTILE))),
    )
    return domain, arrays


def distances(vectors: Tensor, arrays: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Mahalanobis distances [n] of crystal vectors [n, P]."""
    result: NDArray[np.float64] = (
        torch.linalg.vector_norm((vectors.cpu() - arrays["mean"]) @ arrays["whitening"], dim=-1).double().numpy()
    )
    return result
