"""Which scores of a long row are the largest, the smallest and the largest in size? Exactly, without sorting the row.

Thresholds from a sample leave a few hundred candidates, which are sorted; where they left too few the row is sorted in
full. The answer is that of a full stable sort: equal scores come in the order of the row. Knows no methods.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAMPLE = 2000
"""Scores of a row from which its thresholds are estimated; rows of up to twice as many are sorted in full."""


class Extremes(NamedTuple):
    """Places in a row of its `high` (falling) and `low` (rising) scores, `[k]`, and a rank of its sizes.

    `magnitude` is the |score| of the rank asked for, or the largest where that is 0.
    """

    high: NDArray[np.int64]
    low: NDArray[np.int64]
    magnitude: np.float32


def extremes(row: NDArray[np.float32], k: int, rank: int = 1, sample: NDArray[np.float32] | None = None) -> Extremes:
    """The `k` highest and `k` lowest scores of a `row` `[n]` and its `rank`-th largest size; k and rank in 1..n.

    `sample` are scores of the row picked blindly (default: evenly spaced ones); a bad one costs time, not truth.
    """
    n = len(row)
    if n <= 2 * SAMPLE:
        return _sorted(row, np.arange(n), k, rank)
    upper, lower, size = _thresholds(row[:: n // SAMPLE] if sample is None else sample, n, k, rank)
    places = np.flatnonzero((row >= upper) | (row <= lower))
    scores = row[places]
    enough = (
        np.count_nonzero(scores >= upper) >= k
        and np.count_nonzero(scores <= lower) >= k
        and np.count_nonzero(np.abs(scores) >= size) >= rank
    )
    return _sorted(scores, places, k, rank) if enough else _sorted(row, np.arange(n), k, rank)


def _thresholds(sample: NDArray[np.float32], n: int, k: int, rank: int) -> tuple[np.float32, np.float32, np.float32]:
    """Thresholds that very likely leave `k` of `n` scores above, `k` below and `rank` of this size, and few more.

    What reaches the size is also above or below.
    """
    ordered = np.sort(sample)
    side = _safe_rank(k, n, len(sample))
    size = np.sort(np.abs(ordered))[-_safe_rank(rank, n, len(sample))]
    return min(ordered[-side], size), max(ordered[side - 1], -size), size


def _safe_rank(count: int, n: int, sampled: int) -> int:
    """Rank in a sample that is beyond rank `count` of all, with room for five deviations of chance (Poisson)."""
    expected = count * sampled / n
    return min(sampled, math.ceil(expected + 5 * math.sqrt(expected) + 5))


def _sorted(scores: NDArray[np.float32], places: NDArray[np.int64], k: int, rank: int) -> Extremes:
    sizes = np.abs(scores)
    sizes.partition(len(sizes) - rank)
    magnitude = sizes[-rank] if sizes[-rank] > 0 else sizes.max()
    return Extremes(places[_first(-scores, k)], places[_first(scores, k)], magnitude)


def _first(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The first `k` places of a stable sort."""
    few = np.flatnonzero(scores <= np.partition(scores, k - 1)[k - 1])
    return few[np.argsort(scores[few], kind="stable")[:k]]
