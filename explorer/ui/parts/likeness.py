"""How alike are two answers? Rank correlation of two influence rows, and how many of the strongest examples they share.

Takes what a run stores of an answer: int8 rows and lists of the strongest examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explorer.store import TopList


@dataclass(frozen=True)
class Overlap:
    """`shared` of the first answer's `of` strongest examples push the second one the same way, among its strongest."""

    shared: int
    of: int


def spearman(first: NDArray[np.int8], second: NDArray[np.int8]) -> float:
    """Spearman's correlation of two int8 rows `[train]`, ties at their mean rank; NaN where one of them is constant.

    Counts levels instead of sorting: a million examples in some milliseconds.
    """
    pairs = (first.astype(np.int32) + 128) * 256 + (second.astype(np.int32) + 128)
    counts = np.bincount(pairs, minlength=65536).reshape(256, 256).astype(np.float64)
    a, b = (_centered_ranks(counts.sum(axis)) for axis in (1, 0))
    spread = (counts.sum(1) @ a**2) * (counts.sum(0) @ b**2)
    return float(a @ counts @ b / np.sqrt(spread)) if spread > 0 else float("nan")


def overlap(first: TopList, second: TopList, k: int) -> Overlap:
    """How many of the `k` strongest of each sign of the first answer are among those of the second, with the same sign."""
    shared = of = 0
    for mine, other in ((first.towards, second.towards), (first.away, second.away)):
        ours, theirs = mine[:k][mine[:k] >= 0], other[:k][other[:k] >= 0]
        shared += int(np.isin(ours, theirs).sum())
        of += len(ours)
    return Overlap(shared, of)


def influences(top: TopList) -> dict[int, float]:
    """Influence by training row of all examples that a list of the strongest holds."""
    rows = np.concatenate([top.towards, top.away])
    values = np.concatenate([top.towards_influence, top.away_influence])
    return {int(row): float(value) for row, value in zip(rows, values, strict=True) if row >= 0}


def _centered_ranks(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank of each level minus the mean of all ranks."""
    return np.asarray(np.cumsum(counts) - counts / 2 - counts.sum() / 2)
