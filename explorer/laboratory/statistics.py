"""How sure is a mean over samples? Seeded bootstrap intervals, of any number made from rows.

Draws lessons with replacement and computes again; knows no model and no experiment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explorer.errors import DataError

Array64 = NDArray[np.float64]
BOOTSTRAPS = 1000
LEVEL = 0.95

SMALL = 0.01
"""Numbers below this would be written as zero with two digits."""


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % bootstrap interval over `count` samples; NaN where it is not defined."""

    value: float
    low: float
    high: float
    count: int

    @property
    def words(self) -> str:
        """Such as "0.42 (0.38 to 0.47)"."""
        if not np.isfinite(self.value):
            return "not defined here"
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            return number(self.value)
        return f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """Two digits behind the point, or one that is not 0 among four, with a minus sign."""
    written = f"{value:.2f}" if abs(value) >= SMALL else f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if float(written) == 0 else written.replace("-", "−")


def bootstrap(count: int, numbers: Callable[[Array64], Array64], seed: int = 0, draws: int = BOOTSTRAPS) -> Measured:
    """`numbers(weights)` `[d]` for how often each of `count` samples was drawn, `[d, count]`; all ones: the number itself.

    An interval needs two samples at least; draws for which the number is not finite do not count.
    """
    value = float(numbers(np.ones((1, count)))[0])
    if count < 2:
        return Measured(value, np.nan, np.nan, count)
    random = np.random.default_rng(seed)
    found = numbers(random.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64))
    finite = found[np.isfinite(found)]
    if not finite.size:
        return Measured(value, np.nan, np.nan, count)
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measured(value, float(low), float(high), count)


def mean_of(values: Array64, seed: int = 0) -> Measured:
    """The mean of finite `values` `[n]` with its interval."""
    own = values[np.isfinite(values)]
    return bootstrap(len(own), lambda w: divided(w @ own, w.sum(1)), seed)


def quantile_of(values: Array64, share: float, seed: int = 0) -> Measured:
    """A quantile of finite `values` `[n]`, the smallest that so large a share does not exceed, with its interval."""
    own = np.sort(values[np.isfinite(values)])

    def numbers(weights: Array64) -> Array64:
        if not len(own):
            return np.full(len(weights), np.nan)
        total = np.cumsum(weights, axis=1)
        return np.asarray(own[(total < share * total[:, -1:]).sum(1)])

    return bootstrap(len(own), numbers, seed)


def ratio_of(above: Array64, below: Array64, seed: int = 0) -> Measured:
    """Σ above / Σ below over samples `[n]` where both are finite: a share that no small denominator blows up."""
    whole = np.isfinite(above) & np.isfinite(below)
    a, b = above[whole], below[whole]
    return bootstrap(len(a), lambda w: divided(w @ a, w @ b), seed)


def divided(above: Array64, below: Array64) -> Array64:
    """`above / below`, NaN where below is 0."""
    found = np.full(np.shape(below), np.nan)
    np.divide(above, below, out=found, where=below != 0)
    return found


def matrix(values: Array64, what: str, *, square: bool = False) -> Array64:
    """The same numbers as float64 `[i, j]`.

    Raises:
        DataError: another shape.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not found.size or (square and found.shape[0] != found.shape[1]):
        shape = "[samples, samples], lessons and probes the same" if square else "[lessons, probes]"
        raise DataError(
            f"Expected {what} as a matrix {shape}; found shape {list(found.shape)}. Teach and measure again."
        )
    return found
