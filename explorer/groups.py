"""What is special about this group of examples? Which facts are more or less common in it than among the others.

Takes masks, codes and numbers, and compares the group with the rest fact by fact, with intervals that hold together; it
knows no files, and cannot know how the group was chosen: by eye on a map, say, the intervals describe and do not prove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError, SettingsError

Numbers = NDArray[np.float64]
Limits = tuple[Numbers, Numbers]
"""Low and high ends of intervals."""

SMALLEST = 5
"""A group, or a rest, with fewer members supports no claim."""
BORROWED = 10
"""Members' worth of the other side's variance, where that is larger."""
LEVEL = 0.95
"""Confidence that all intervals of a comparison hold at once."""


@dataclass(frozen=True)
class Category:
    """A question that each example answers with one of `names`: `codes` `[n]` index them, -1 = no answer."""

    codes: NDArray[Any]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Measure:
    """A number of each example, `values` `[n]`, and its percentile among all of them (`percentiles`), NaN = not known."""

    values: NDArray[Any]
    ranks: NDArray[np.float32]

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """The measure with its percentiles worked out."""
        return cls(np.asarray(values), percentiles(values))


@dataclass(frozen=True)
class Difference:
    """How a fact inside the group differs from the rest.

    A "share" compares the shares of examples (0 to 1) that answer `about` with `value`; `difference` is inside − outside.
    A "number" compares the medians of `about`, in its own unit; `difference` is the standardized mean difference of its
    percentiles, (inside − outside) / s with s = √((s_in² + s_out²) / 2). `low` and `high` are the simultaneous interval of
    `difference`; `sure` is its end nearer to 0 in standard deviations, 0 where the interval holds 0.
    """

    kind: Literal["share", "number"]
    about: str
    value: str
    inside: float
    outside: float
    difference: float
    low: float
    high: float
    sure: float

    @property
    def ratio(self) -> float:
        """The risk ratio of a share, inside / outside: infinite where only the group has it."""
        if self.outside > 0:
            return self.inside / self.outside
        return float("inf") if self.inside > 0 else float("nan")


@dataclass(frozen=True)
class Comparison:
    """A group of `inside` examples against `outside` others: every difference, the surest first.

    `level` is the confidence that all intervals hold at once. Empty where either side has fewer than 5 members.
    """

    inside: int
    outside: int
    level: float
    differences: tuple[Difference, ...]

    @property
    def too_small(self) -> bool:
        """Whether one side has too few members for any claim."""
        return min(self.inside, self.outside) < SMALLEST

    @property
    def claims(self) -> tuple[Difference, ...]:
        """Differences whose interval does not hold 0; of two that mirror each other, the one that is more common inside."""
        sure = [found for found in self.differences if found.sure]
        return tuple(found for found in sure if not any(_mirrors(found, other) for other in sure))


def compare(
    group: ArrayLike,
    rest: ArrayLike,
    categories: Mapping[str, Category],
    numbers: Mapping[str, Measure],
    level: float = LEVEL,
) -> Comparison:
    """Every fact of the examples in `group` `[n]` (bool) held against those in `rest` `[n]` (bool).

    What is not known is left out, number by number; a fact that is the same for all is not compared. Each of the m
    intervals is at 1 − (1 − level) / m (Bonferroni), so that all hold at once with about `level` or more. Shares have exact
    limits (Clopper and Pearson), because the usual ones fail at such confidence in groups of a handful; numbers are
    compared by rank, because means of what has a long tail fail there too (`tests/test_groups.py` counts false claims).

    Raises:
        DataError: lengths differ, or an example is in both.
        SettingsError: level is not between 0 and 1.
    """
    inside, outside = np.asarray(group, dtype=np.bool_), np.asarray(rest, dtype=np.bool_)
    if inside.ndim != 1 or inside.shape != outside.shape or (inside & outside).any():
        raise DataError(
            f"Expected a group and a rest of the same examples without a common member; found shapes {inside.shape} and "
            f"{outside.shape}."
        )
    if not 0 < level < 1:
        raise SettingsError(f"Expected a level between 0 and 1; found {level!r}. Use 0.95.")
    rows, others = np.flatnonzero(inside), np.flatnonzero(outside)
    found: tuple[Difference, ...] = ()
    if min(len(rows), len(others)) >= SMALLEST:
        shares = [part for name, fact in categories.items() for part in _counts(name, fact, rows, others, len(inside))]
        pairs = [part for name, measure in numbers.items() if (part := _pair(name, measure, rows, others, len(inside)))]
        tail = (1 - level) / (2 * max(1, len(shares) + len(pairs)))
        both = [*_shares(shares, tail), *(_number(pair, tail) for pair in pairs)]
        found = tuple(sorted(both, key=lambda one: -abs(one.sure)))
    return Comparison(len(rows), len(others), level, found)


def exact_limits(count: NDArray[Any], total: NDArray[Any], tail: float) -> tuple[Numbers, Numbers]:
    """Limits of a share that the truth lies beyond with at most `tail` on each side (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv  # heavy, and only needed where something is compared

    k, rest = np.asarray(count, dtype=np.float64), np.asarray(total, dtype=np.float64) - count
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), rest + 1, tail), 0.0)
    high = np.where(rest > 0, betaincinv(k + 1, np.maximum(rest, 1), 1 - tail), 1.0)
    return low, high


def square_and_add(a: Numbers, limits_a: Limits, b: Numbers, limits_b: Limits) -> Limits:
    """Interval of a − b from the intervals of two independent estimates (Newcombe 1998)."""
    (low_a, high_a), (low_b, high_b) = limits_a, limits_b
    return a - b - np.hypot(a - low_a, high_b - b), a - b + np.hypot(high_a - a, b - low_b)


def percentiles(values: ArrayLike) -> NDArray[np.float32]:
    """The percent of all other values that are lower (ties count half), 0 to 100, `[n]`; NaN stays NaN and counts for none.

    Means of these compare where the numbers themselves have long tails, as influences and losses have.
    """
    numbers = np.asarray(values)
    known = ~np.isnan(numbers) if numbers.dtype.kind == "f" else np.ones(len(numbers), dtype=np.bool_)
    ranks = np.full(len(numbers), np.nan, dtype=np.float32)
    distinct, place, sizes = np.unique(numbers[known], return_inverse=True, return_counts=True)
    lower = np.cumsum(sizes) - sizes
    ranks[known] = (100 * (lower + (sizes - 1) / 2) / max(int(known.sum()) - 1, 1))[place] if len(distinct) else 0
    return ranks


_Count = tuple[str, str, int, int, int, int]


@dataclass(frozen=True)
class _Pair:
    """A number on both sides, inside first: how many know it, median, mean percentile, and variance (n − 1) of that."""

    about: str
    n: tuple[int, int]
    median: tuple[float, float]
    mean: tuple[float, float]
    variance: tuple[float, float]


def _counts(name: str, fact: Category, rows: NDArray[np.int64], others: NDArray[np.int64], n: int) -> list[_Count]:
    """About, value, and members and size of both sides for every answer that some of them and not all give."""
    codes = _of_length(fact.codes, n, name)
    inside, outside = codes[rows], codes[others]
    a = np.bincount(inside[inside >= 0], minlength=len(fact.names))
    b = np.bincount(outside[outside >= 0], minlength=len(fact.names))
    sides = len(inside), len(outside)
    return [
        (name, value, int(x), sides[0], int(y), sides[1])
        for value, x, y in zip(fact.names, a, b, strict=True)
        if 0 < x + y < sum(sides)
    ]


def _shares(counts: Sequence[_Count], tail: float) -> list[Difference]:
    if not counts:
        return []
    a, n_a, b, n_b = np.array([numbers for _, _, *numbers in counts], dtype=np.float64).T
    lows, highs = square_and_add(a / n_a, exact_limits(a, n_a, tail), b / n_b, exact_limits(b, n_b, tail))
    overall = (a + b) / (n_a + n_b)
    spreads = np.sqrt(overall * (1 - overall))
    columns = np.stack([a / n_a, b / n_b, a / n_a - b / n_b, lows, highs, lows / spreads, highs / spreads]).T.tolist()
    return [
        Difference("share", about, value, inside, outside, difference, low, high, _sure(nearer, farther))
        for (about, value, *_), (inside, outside, difference, low, high, nearer, farther) in zip(
            counts, columns, strict=True
        )
    ]


def _pair(about: str, measure: Measure, rows: NDArray[np.int64], others: NDArray[np.int64], n: int) -> _Pair | None:
    """The number on both sides; None where there is nothing to compare."""
    values, ranks = _of_length(measure.values, n, about), _of_length(measure.ranks, n, about)
    sides = []
    for chosen in (rows, others):
        known = chosen[~np.isnan(ranks[chosen])]
        if len(known) < SMALLEST:
            return None
        side = ranks[known].astype(np.float64)
        sides.append((len(known), float(np.median(values[known])), float(side.mean()), float(side.var(ddof=1))))
    pair = _Pair(about, *zip(*sides, strict=True))
    return pair if sum(pair.variance) > 0 else None


def _number(pair: _Pair, tail: float) -> Difference:
    """The standardized mean difference: Welch's interval, with the error of the standardizer (Bonett 2008, eq. 9).

    The error of each side counts the other's variance as `BORROWED` more members where that is larger: a handful of
    examples that happen to lie close together prove little.
    """
    from scipy.special import stdtrit

    (a, b), (mean_a, mean_b) = pair.variance, pair.mean
    freedoms = pair.n[0] - 1, pair.n[1] - 1
    unit = (a + b) / 2
    d = (mean_a - mean_b) / unit**0.5
    wide = [
        max(own, (freedom * own + BORROWED * other) / (freedom + BORROWED))
        for own, other, freedom in zip((a, b), (b, a), freedoms, strict=True)
    ]
    errors = [variance / n / unit for variance, n in zip(wide, pair.n, strict=True)]
    freedom = sum(errors) ** 2 / sum(error**2 / f for error, f in zip(errors, freedoms, strict=True))
    scale = d**2 * sum(variance**2 / f for variance, f in zip(wide, freedoms, strict=True)) / (8 * unit**2)
    half = float(stdtrit(freedom, 1 - tail)) * (sum(errors) + scale) ** 0.5
    return Difference("number", pair.about, "", *pair.median, d, d - half, d + half, _sure(d - half, d + half))


def _sure(low: float, high: float) -> float:
    """The end of an interval nearer to 0; 0 if it holds 0."""
    return float(max(low, 0.0) or min(high, 0.0))


def _mirrors(found: Difference, other: Difference) -> bool:
    """Whether a share is what another leaves over of the same question, and less common inside."""
    return (
        found.kind == other.kind == "share"
        and found.about == other.about
        and found.difference < 0 < other.difference
        and isclose(found.inside + other.inside, 1)
        and isclose(found.outside + other.outside, 1)
    )


def _of_length(values: ArrayLike, n: int, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape != (n,):
        raise DataError(f"Expected {name} of {n} examples; found shape {array.shape}.")
    return array
