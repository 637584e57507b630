r"""Angular features of atoms: three-body information on the nodes, without a list of triples or a line graph.

With the unit vectors :math:`u_j` to the neighbours of an atom and weights :math:`w_j` that decrease with distance,

.. math::
    S_l = \frac{\sum_{jk} w_j w_k P_l(u_j \cdot u_k)}{\left(\sum_j w_j\right)^2}, \quad l = 1 \ldots L

with the Legendre polynomials :math:`P_l`. By the addition theorem these are the squares of weighted bond-orientational
order parameters (Steinhardt, Nelson and Ronchetti, doi:10.1103/PhysRevB.28.784). They depend on angles that the
distances do not determine, and are invariant under rotation, permutation of the atoms and choice of the cell. Three
cosine cutoffs of the weights, relative to the distance of the nearest neighbour, select the nearest atoms, the first
shell, and all neighbours of the graph.
"""

import numpy as np
from numpy.typing import NDArray

SHELLS = (0.3, 0.8, None)  # cutoff of the weights beyond the nearest neighbour, in units of its distance; None: none
_PAIRS = 1_000_000  # pairs of neighbours in memory at once


def n_angular_features(orders: int) -> int:
    """Number of features of an atom: for each shell the sum of weights and one feature for each order."""
    return len(SHELLS) * (orders + 1) if orders else 0


def compute_angular_features(
    vectors: NDArray[np.float64],
    distances: NDArray[np.float64],
    degrees: NDArray[np.int64],
    orders: int,
    neighbours: float,
) -> NDArray[np.float64]:
    """Compute the angular features of every atom.

    Args:
        vectors: [E, 3], from each atom to its neighbours, grouped by atom, in Å.
        distances: [E], lengths of the vectors after equal ones were snapped; they determine the weights.
        degrees: [N], number of neighbours of each atom, at least one.
        orders: L.
        neighbours: usual number of neighbours, by which the sums of weights are divided.

    Returns:
        [N, `n_angular_features(orders)`]: for each shell Σw / neighbours, S_1 ... S_L.
    """
    starts = np.cumsum(degrees) - degrees
    nearest = np.minimum.reduceat(distances, starts)
    beyond = distances / np.repeat(nearest, degrees) - 1
    weights = np.stack([_cosine_cutoff(beyond, cutoff) for cutoff in SHELLS], axis=1)  # [E, R]
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    result = np.empty((len(degrees), len(SHELLS), orders + 1))
    widest = int(degrees.max())
    for first in range(0, len(degrees), step := max(1, _PAIRS // widest**2)):
        atoms = slice(first, first + step)
        places = np.arange(widest) + starts[atoms, None]
        real = np.arange(widest) < degrees[atoms, None]  # [n, K]
        places = np.where(real, places, 0)
        u = directions[places]  # [n, K, 3]
        w = np.where(real[:, None], weights[places].transpose(0, 2, 1), 0.0)  # [n, R, K]
        total = w.sum(axis=-1)
        result[atoms, :, 0] = total / neighbours
        cosines = u @ u.transpose(0, 2, 1)  # [n, K, K]
        below, polynomial = np.ones_like(cosines), cosines
        for order in range(1, orders + 1):
            result[atoms, :, order] = ((w @ polynomial) * w).sum(axis=-1) / total**2
            below, polynomial = polynomial, ((2 * order + 1) * cosines * polynomial - order * below) / (order + 1)
    return result.reshape(len(degrees), -1)


def _cosine_cutoff(beyond: NDArray[np.float64], cutoff: float | None) -> NDArray[np.float64]:
    """Decrease smoothly from 1 at the distance of the nearest neighbour to 0 at `cutoff`."""
    if cutoff is None:
        return np.ones_like(beyond)
    return np.where(beyond < cutoff, (1 + np.cos(np.pi * np.minimum(beyond / cutoff, 1))) / 2, 0.0)
