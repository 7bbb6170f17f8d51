"""Which training examples were memorized rather than learned from, and do they help others?

Takes arrays of losses, self-influence and held-out influence and names what they say; it computes no influence,
trains nothing and reads no file. Every score here is turned so that high means "looks memorized".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError, SettingsError

if TYPE_CHECKING:
    import pandas as pd

Basis = Literal["csl", "self-influence"]
"""What a suspect score was made from: the training log where there is one, self-influence otherwise."""

FLAG_Z = 3.0
"""An example is flagged above this robust z-score within its group."""
SMALL_GROUP = 5
"""A group with fewer members has no spread of its own worth the name: it is held against all examples."""
BAND_Z = 1.96
"""Half-width of the neutral band in standard errors: the two-sided 95 % normal interval."""

MAD_TO_SIGMA = 1.4826  # median absolute deviation of a normal distribution -> its standard deviation
MEAN_TO_SIGMA = 1.2533  # mean absolute deviation about the median -> standard deviation, √(π/2)
ROUNDING = 1e-6  # a spread below this share of the median is float32 rounding, not a difference

USEFUL = "memorized and useful"
HARMFUL = "memorized and harmful"
MEMORIZED_NEUTRAL = "memorized, no clear effect on others"
GENERALIZED = "generalized"
REDUNDANT = "redundant or slightly harmful"
NEUTRAL = "neutral"
QUADRANTS: dict[str, str] = {
    HARMFUL: "Fitted one by one, and held-out answers are worse for it: check the label.",
    USEFUL: "Fitted one by one, and held-out answers are better for it: the long tail, keep.",
    MEMORIZED_NEUTRAL: "Fitted one by one; its effect on held-out answers is inside the noise.",
    GENERALIZED: "Learned together with others, and held-out answers are better for it.",
    REDUNDANT: "Learned together with others, and held-out answers are slightly worse for it.",
    NEUTRAL: "Learned together with others; its effect on held-out answers is inside the noise.",
}
"""Every name `quadrant` gives, and what it means in one sentence; the first asks for a person's eye."""


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
class HeldOut:
    """Mean influence of each training example on held-out queries, `[n]` each, in the unit of the scores.

    `value` > 0 means held-out answers are better for having it. `se` is the bootstrap standard error over the
    held-out queries; `neutral` marks |value| ≤ 1.96 se, where the sign says nothing.
    """

    value: NDArray[np.float64]
    se: NDArray[np.float64]
    neutral: NDArray[np.bool_]


@dataclass(frozen=True)
class Suspects:
    """A score `[n]`, higher = more suspect, and what it was made from."""

    score: NDArray[np.float64]
    basis: Basis


@dataclass(frozen=True)
class Detection:
    """How well a score finds known faults: rank AUC, and precision and recall of its `k` highest examples."""

    auc: float
    k: int
    precision: float
    recall: float


def csl(losses: ArrayLike) -> NDArray[np.float64]:
    """Cumulative sample loss: the loss of each example summed over epochs, from `[epochs, n]` to `[n]`, in nats.

    High = learned late or never, the cheapest and strongest sign of a wrong label (BASELINES.md).

    Raises:
        DataError: not a table of at least one epoch, or a loss is not finite.
    """
    table = np.asarray(losses, dtype=np.float64)
    if table.ndim != 2 or not table.shape[0]:
        raise DataError(f"Expected losses as [epochs, examples] with an epoch or more; found shape {table.shape}.")
    _check_finite(table, "losses")
    return np.asarray(table.sum(axis=0))


def robust_z(values: ArrayLike, groups: ArrayLike | None = None) -> NDArray[np.float64]:
    """(x − median) / (1.4826 · MAD) within each group, `[n]`; `groups=None` is one group (regression).

    Where more than half of a group is equal (up to float32 rounding, a millionth of the median) its MAD is 0 and
    says nothing: 1.2533 x the mean absolute deviation from the median stands in, never less than that rounding.
    Where all are equal z is 0. Members of a group of fewer than 5 are held against the median and spread of all.

    Raises:
        DataError: a value is not finite, or values and groups differ in length.
    """
    values = _vector(values, "values")
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
    values = _vector(score, "score")
    z = robust_z(values, groups)
    return Flags(z=z, percentile=_percentile(values), memorized=z > FLAG_Z)


def suspect_score(self_influence: ArrayLike, losses: ArrayLike | None = None) -> Suspects:
    """The score that best finds wrong labels from what is at hand: `losses` `[epochs, n]`, else self-influence.

    Raises:
        DataError: as `csl`, or the log holds another number of examples.
    """
    own = _vector(self_influence, "self_influence")
    if losses is None:
        return Suspects(own, "self-influence")
    summed = csl(losses)
    if summed.shape != own.shape:
        raise DataError(
            f"Expected a training log of {len(own)} examples; found {len(summed)}. Use the log of this run."
        )
    return Suspects(summed, "csl")


def bootstrap_weights(replicates: int, queries: int, seed: int) -> NDArray[np.float32]:
    """Weights `[1 + replicates, queries]` that `Fitted.weighted` turns into a mean influence and its bootstrap.

    Row 0 is 1/queries everywhere: the mean. Each other row resamples the queries with replacement: how often
    each was drawn, divided by `queries`. Every row sums to 1; the same seed gives the same weights.

    Raises:
        SettingsError: fewer than 2 replicates or no query.
    """
    if replicates < 2 or queries < 1:
        raise SettingsError(
            f"Expected at least 2 replicates of at least 1 held-out query; found {replicates} of {queries}. "
            "Ask for more replicates, or hold out some examples."
        )
    draws = np.random.default_rng(seed).multinomial(queries, np.full(queries, 1 / queries), size=replicates)
    return np.vstack([np.ones((1, queries)), draws]).astype(np.float32) / np.float32(queries)


def held_out_influence(mean: ArrayLike, replicates: ArrayLike) -> HeldOut:
    """Does each training example help held-out answers? From the mean `[n]` and its bootstrap replicates `[B, n]`.

    With `w = fitted.weighted(queries, bootstrap_weights(B, q, seed))` these are `w[0]` and `w[1:]`. The standard
    error is the standard deviation (n − 1) of the replicates. It covers which queries were held out, not
    the choice of damping or of the training seed.

    Raises:
        DataError: fewer than 2 replicates, shapes that do not match, or a value that is not finite.
    """
    value = _vector(mean, "held-out influence")
    draws = np.asarray(replicates, dtype=np.float64)
    if draws.ndim != 2 or len(draws) < 2 or draws.shape[1] != len(value):
        raise DataError(f"Expected at least 2 replicates of {len(value)} examples; found shape {draws.shape}.")
    _check_finite(draws, "replicates")
    se = draws.std(axis=0, ddof=1)
    return HeldOut(value=value, se=se, neutral=np.abs(value) <= BAND_Z * se)


def quadrant(high: ArrayLike, value: ArrayLike, neutral: ArrayLike) -> NDArray[np.str_]:
    """The name of each example, one of `QUADRANTS`, `[n]`.

    `high` marks high self-influence (how much it is memorized), `value` is the held-out influence (whom it
    helps), `neutral` where the sign of `value` is inside the noise: such examples are called neither useful nor
    harmful.
    """
    memorized, helps, unclear = np.asarray(high, bool), np.asarray(value) >= 0, np.asarray(neutral, bool)
    conditions = [memorized & unclear, memorized & helps, memorized, unclear, helps]
    return np.select(conditions, [MEMORIZED_NEUTRAL, USEFUL, HARMFUL, NEUTRAL, GENERALIZED], REDUNDANT).astype(np.str_)


def detection(score: ArrayLike, truth: ArrayLike, k: int | None = None) -> Detection:
    """How well `score` `[n]` finds the planted faults `truth` `[n]` (bool), for a run that planted some.

    AUC = the chance that a fault scores above a clean example (ties count half). `k=None` looks at as many
    top examples as there are faults; equal scores are taken in row order.

    Raises:
        DataError: the faults are none or all, or lengths differ.
        SettingsError: k is not in 1..n.
    """
    from sklearn.metrics import roc_auc_score  # heavy, and only needed where faults were planted

    values, faults = _vector(score, "score"), np.asarray(truth, dtype=bool)
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


def assess(
    self_influence: ArrayLike,
    held_out: HeldOut,
    groups: ArrayLike | None = None,
    losses: ArrayLike | None = None,
) -> pd.DataFrame:
    """One row for each training example, in training order, with everything known of its memorization.

    `groups` are the class labels, or None for regression; `losses` the training log `[epochs, n]`, or None.

    Columns: `self_influence`, `csl` (NaN without a log), `held_out`, `held_out_se`, `neutral`, then the
    suspect `score` and its `basis`, `z`, `percentile` and `memorized` (z > 3 of that score), then
    `self_influence_z` and the `quadrant`, whose "memorized" means self-influence_z > 3. Score and quadrant
    rest on two measurements where there is a log, so they may differ on an example.

    Raises:
        DataError: lengths differ or a value is not finite.
    """
    import pandas as pd  # heavy, and only needed here

    own = _vector(self_influence, "self_influence")
    if len(held_out.value) != len(own):
        raise DataError(f"Expected held-out influence of {len(own)} examples; found {len(held_out.value)}.")
    suspects = suspect_score(own, losses)
    flags, own_z = flag(suspects.score, groups), robust_z(own, groups)
    columns: dict[str, Any] = {
        "self_influence": own,
        "csl": np.full(len(own), np.nan) if losses is None else suspects.score,
        "held_out": held_out.value,
        "held_out_se": held_out.se,
        "neutral": held_out.neutral,
        "score": suspects.score,
        "basis": suspects.basis,
        "z": flags.z,
        "percentile": flags.percentile,
        "memorized": flags.memorized,
        "self_influence_z": own_z,
        "quadrant": quadrant(own_z > FLAG_Z, held_out.value, held_out.neutral),
    }
    return pd.DataFrame(columns)


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


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"Expected {name} as one number for each example; found shape {array.shape}.")
    _check_finite(array, name)
    return array


def _check_finite(array: NDArray[np.float64], name: str) -> None:
    wrong = int((~np.isfinite(array)).sum())
    if wrong:
        raise DataError(
            f"Expected finite {name}; found {wrong} of {array.size} not finite. "
            "Training may have diverged: lower the rate and train again."
        )
