"""Which scores stand out, and how well do they find known faults? Robust z-scores, flags, detection.

Any score will do, so long as high means "looks memorized"; it makes none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError, SettingsError
from explorer.memorization.checks import vector

FLAG_Z = 3.0
"""An example is flagged above this robust z-score within its group."""
SMALL_GROUP = 5
"""A group with fewer members has no spread of its own worth the name: it is held against all examples."""

MAD_TO_SIGMA = 1.4826  # median absolute deviation of a normal distribution -> its standard deviation
MEAN_TO_SIGMA = 1.2533  # mean absolute deviation about the median -> standard deviation, √(π/2)
ROUNDING = 1e-6  # a spread below this share of the median is float32 rounding, not a difference


@dataclass(frozen=True)
class Flags:
    """What a score says of each example, `[n]` each.

    `z` is the robust z-score within the example's group; `percentile` the percent of all *other* examples that
    score lower (ties count half), 0 to 100; `memorized` is z > 3.
    """

    z: NDArray[np.float64]
    percentile: NDArray[np.float64]
    memorized: NDArray[np.bool_]


@dataclass(frozen=True)
class Detection:
    """How well a score finds known faults: rank AUC, and precision and recall of its `k` highest examples."""

    auc: float
    k: int
    precision: float
    recall: float


def robust_z(values: ArrayLike, groups: ArrayLike | None = None) -> NDArray[np.float64]:
    """(x − median) / (1.4826 · MAD) within each group, `[n]`; `groups=None` is one group (regression).

    Where more than half of a group is equal (up to float32 rounding, a millionth of the median) its MAD is 0 and
    says nothing: 1.2533 x the mean absolute deviation from the median stands in, never less than that rounding.
    Where all are equal z is 0. Members of a group of fewer than 5 are held against the median and spread of all.

    Raises:
        DataError: a value is not finite, or values and groups differ in length.
    """
    values = vector(values, "values")
    if groups is None:
        return _z_against(values, values)
    labels = np.asarray(groups)
    if labels.shape != values.shape:
        raise DataError(f"Expected one group for each of {len(values)} values; found groups of shape {labels.shape}.")
    z = np.empty_like(values)
    _, member, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    for group, size in enumerate(sizes):
        rows = member == group
        z[rows] = _z_against(values[rows], values if size < SMALL_GROUP else values[rows])
    return z


def flag(score: ArrayLike, groups: ArrayLike | None = None) -> Flags:
    """Which scores stand out in their own group (class); `groups=None` for regression.

    Raises:
        DataError: as `robust_z`.
    """
    values = vector(score, "score")
    z = robust_z(values, groups)
    return Flags(z=z, percentile=_percentile(values), memorized=z > FLAG_Z)


def detection(score: ArrayLike, truth: ArrayLike, k: int | None = None) -> Detection:
    """How well `score` `[n]` finds the planted faults `truth` `[n]` (bool), for a run that planted some.

    AUC = the chance that a fault scores above a clean example (ties count half). `k=None` looks at as many
    top examples as there are faults; equal scores are taken in row order.

    Raises:
        DataError: the faults are none or all, or lengths differ.
        SettingsError: k is not in 1..n.
    """
    from sklearn.metrics import roc_auc_score  # heavy, and only needed where faults were planted

    values, faults = vector(score, "score"), np.asarray(truth, dtype=bool)
    total = int(faults.sum())
    if faults.shape != values.shape or not 0 < total < len(values):
        raise DataError(
            f"Expected some but not all of {len(values)} examples to be faults; found {total} in shape {faults.shape}."
        )
    k = total if k is None else k
    if not 1 <= k <= len(values):
        raise SettingsError(f"Expected k in 1..{len(values)}; found {k}.")
    found = int(faults[np.argsort(-values, kind="stable")[:k]].sum())
    return Detection(auc=float(roc_auc_score(faults, values)), k=k, precision=found / k, recall=found / total)


def _z_against(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(reference):
        return values
    middle = np.median(reference)
    deviations = np.abs(reference - middle)
    spread = MAD_TO_SIGMA * np.median(deviations)
    rounding = ROUNDING * np.abs(middle)
    if spread <= rounding:
        spread = max(MEAN_TO_SIGMA * deviations.mean(), rounding)
    return np.asarray((values - middle) / spread) if spread > 0 else np.zeros_like(values)


def _percentile(values: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = np.sort(values)
    lower, upto = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray(100 * (lower + (upto - lower - 1) / 2) / max(len(values) - 1, 1))
