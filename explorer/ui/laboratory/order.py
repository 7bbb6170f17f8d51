"""In which order do rows and columns of a matrix of effects show most? By class, or with what teaches alike side by side.

Orders and nothing else: what is drawn is the same in every order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist

Order = NDArray[np.int64]


def by_group(groups: Sequence[int | str]) -> Order:
    """Those of a group side by side, groups ascending, within them as they come."""
    return np.argsort(np.asarray(groups), kind="stable").astype(np.int64)


def by_cluster(values: NDArray[np.float64]) -> Order:
    """Rows of effects `[i, j]` in the leaf order of average linkage by the angle between them.

    What is not measured counts as no effect; rows without any effect come last. Cost: i² distances of length j.
    """
    known = np.where(np.isfinite(values), values, 0.0)
    sizes = np.linalg.norm(known, axis=1)
    some, none = np.flatnonzero(sizes > 0), np.flatnonzero(sizes == 0)
    if len(some) < 3:
        return np.concatenate([some, none]).astype(np.int64)
    # each row by its own size: only the direction of a lesson counts
    distances = pdist(known[some] / sizes[some, None], "cosine")
    leaves = leaves_list(linkage(np.clip(distances, 0.0, None), "average", optimal_ordering=len(some) <= 200))
    return np.concatenate([some[leaves], none]).astype(np.int64)
