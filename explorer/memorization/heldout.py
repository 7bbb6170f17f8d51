"""Does an example help held-out answers or harm them, and what is it called then? The noise band and the quadrants.

Takes influence as it was computed elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError, SettingsError
from explorer.memorization.checks import check_finite, vector

BAND_Z = 1.96
"""Half-width of the neutral band in standard errors: the two-sided 95 % normal interval."""

USEFUL = "memorized and useful"
HARMFUL = "memorized and harmful"
MEMORIZED_NEUTRAL = "memorized, no clear effect on others"
GENERALIZED = "generalized"
REDUNDANT = "redundant or slightly harmful"
NEUTRAL = "neutral"
QUADRANTS: dict[str, str] = {
    HARMFUL: "The model’s answer on it rests much on itself, and held-out answers are worse for it: check the label.",
    USEFUL: "The model’s answer on it rests much on itself, and held-out answers are better for it: the long tail, keep.",
    MEMORIZED_NEUTRAL: "The model’s answer on it rests much on itself; its effect on held-out answers is inside the noise.",
    GENERALIZED: "Learned together with others, and held-out answers are better for it.",
    REDUNDANT: "Learned together with others, and held-out answers are slightly worse for it.",
    NEUTRAL: "Learned together with others; its effect on held-out answers is inside the noise.",
}
"""Every name `quadrant` gives, and what it means in one sentence; the first asks for a person's eye."""
NAMES: dict[str, str] = {name: name for name in QUADRANTS} | {
    HARMFUL: "high self-influence, harmful",
    USEFUL: "high self-influence, useful",
    MEMORIZED_NEUTRAL: "high self-influence, no clear effect",
}
"""What a screen calls each of them: high self-influence is not yet memorized, which only retraining shows."""


@dataclass(frozen=True)
class HeldOut:
    """Mean influence of each training example on held-out queries, `[n]` each, in the unit of the scores.

    `value` > 0 means held-out answers are better for having it. `se` is the bootstrap standard error over the
    held-out queries; `neutral` marks |value| ≤ 1.96 se, where the sign says nothing.
    """

    value: NDArray[np.float64]
    se: NDArray[np.float64]
    neutral: NDArray[np.bool_]


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
    value = vector(mean, "held-out influence")
    draws = np.asarray(replicates, dtype=np.float64)
    if draws.ndim != 2 or len(draws) < 2 or draws.shape[1] != len(value):
        raise DataError(f"Expected at least 2 replicates of {len(value)} examples; found shape {draws.shape}.")
    check_finite(draws, "replicates")
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
