r"""Angles around each atom: three-body information for the nodes, without a list of triples or a line graph.

With the unit vectors :math:`u_j` to the neighbours of an atom and weights :math:`w_j` that fade with distance,

.. math::
    S_l = \frac{\sum_{jk} w_j w_k P_l(u_j \cdot u_k)}{\left(\sum_j w_j\right)^2}, \quad l = 1 \ldots L

with the Legendre polynomials :math:`P_l`: by the addition theorem the weighted bond-orientational order parameters
(Steinhardt, Nelson and Ronchetti, doi:10.1103/PhysRevB.28.784) squared. They know angles that distances do not tell,
and do not change with rotation, the order of the atoms or the choice of the cell. Three reaches of the weights,
relative to the nearest neighbour's distance, see the nearest atoms, the first shell and all neighbours of the graph.
"""

import numpy as np
from numpy.typing import NDArray

REACHES = (0.3, 0.8, None)  # beyond the nearest neighbour, times its distance, where a weight ends; None never does
_PAIRS = 1_000_000  # of neighbours at once, so that memory stays small


def surroundings_size(orders: int) -> int:
    """Numbers for each atom: for each reach the sum of weights and one for each order."""
    return len(REACHES) * (orders + 1) if orders else 0


def angular_surroundings(
    vectors: NDArray[np.float64], distances: NDArray[np.float64], degrees: NDArray[np.int64], orders: int, usual: float
) -> NDArray[np.float64]:
    """What surrounds each atom.

    Args:
        vectors: [E, 3], from each atom to its neighbours, by atom, in Å.
        distances: [E], their lengths; ties that are equal here count equally.
        degrees: [N], neighbours of each atom, at least one.
        orders: L.
        usual: neighbours that the sums of weights are divided by.

    Returns:
        [N, `surroundings_size(orders)`]: for each reach Σw / usual, S_1 ... S_L.
    """
    starts = np.cumsum(degrees) - degrees
    nearest = np.minimum.reduceat(distances, starts)
    beyond = distances / np.repeat(nearest, degrees) - 1
    weights = np.stack([_fading(beyond, reach) for reach in REACHES], axis=1)  # [E, R]
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    result = np.empty((len(degrees), len(REACHES), orders + 1))
    widest = int(degrees.max())
    for first in range(0, len(degrees), step := max(1, _PAIRS // widest**2)):
        atoms = slice(first, first + step)
        places = np.arange(widest) + starts[atoms, None]
        real = np.arange(widest) < degrees[atoms, None]  # [n, K]
        places = np.where(real, places, 0)
        u = directions[places]  # [n, K, 3]
        w = np.where(real[:, None], weights[places].transpose(0, 2, 1), 0.0)  # [n, R, K]
        total = w.sum(axis=-1)
        result[atoms, :, 0] = total / usual
        cosines = u @ u.transpose(0, 2, 1)  # [n, K, K]
        below, polynomial = np.ones_like(cosines), cosines
        for order in range(1, orders + 1):
            result[atoms, :, order] = ((w @ polynomial) * w).sum(axis=-1) / total**2
            below, polynomial = polynomial, ((2 * order + 1) * cosines * polynomial - order * below) / (order + 1)
    return result.reshape(len(degrees), -1)


def _fading(beyond: NDArray[np.float64], reach: float | None) -> NDArray[np.float64]:
    """1 at the nearest neighbour's distance, 0 from `reach` on, smooth between."""
    if reach is None:
        return np.ones_like(beyond)
    return np.where(beyond < reach, (1 + np.cos(np.pi * np.minimum(beyond / reach, 1))) / 2, 0.0)
