"""Are the scores true? Agreement of two estimates, the linear datamodeling score, and the noise of training.

Takes arrays only: it retrains nothing and computes no influence. Whoever has retrained or scored twice hands
the numbers over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError, SettingsError

Verdict = Literal["agree", "disagree", "no effect detected"]

AGREE_TOP = 0.5
"""Two estimates agree on a query when they share this much of what is on show (top helpful and top harmful).

Medians over 360 queries of the digits MLP with planted flips, k = 20 of 1,466: damping x 10 shares .78, another
training seed .70, damping x 100 .57, gradient-dot .45, chance .014. Rank correlation over *all* examples is .72, .61,
.28 and .05 there: most influences are close to zero and their order is noise, so a verdict only asks that it be
positive. `tests/test_planted_flips.py` measures them."""
LAST_PART = 0.25
"""Noise is read from this last part of training, where the weights should have settled."""


@dataclass(frozen=True)
class LDS:
    """Linear datamodeling score: `per_query` `[q]` in −1..1 (NaN where undefined), their mean and its standard error.

    `se` is the spread over queries divided by √(queries); a 95 % interval is mean ± 1.96 se. It does not
    cover the choice of subsets.
    """

    per_query: NDArray[np.float64]
    mean: float
    se: float


@dataclass(frozen=True)
class Trust:
    """How far the answer to one query may be believed.

    `agreement` is the rank correlation with a second estimate, `overlap` the share of the shown examples that
    both show, `noise` how much the query's measure still moved per epoch at the end of training.
    """

    agreement: float
    overlap: float
    noise: float
    verdict: Verdict


def rank_agreement(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Spearman's correlation of two score tables `[q, n]`, query by query, `[q]`.

    Ties share their mean rank. NaN where a row is constant (or n < 2): no order, nothing to agree on.

    Raises:
        DataError: shapes differ or a score is not finite.
    """
    first, second = _same_tables(a, b)
    return np.array([_spearman(x, y) for x, y in zip(first, second, strict=True)], dtype=np.float64)


def top_overlap(a: ArrayLike, b: ArrayLike, k: int) -> NDArray[np.float64]:
    """Share of the k most helpful and the k most harmful examples of `a` that `b` also shows, `[q]` in 0..1.

    Most helpful are the k highest scores of a row, most harmful the k lowest; helpful in one and harmful in
    the other does not count as shared. Equal scores are taken in row order. Chance level is k/n.

    Raises:
        DataError: as `rank_agreement`.
        SettingsError: k is not in 1..n/2, where helpful and harmful would meet.
    """
    first, second = _same_tables(a, b)
    n = first.shape[1]
    if not 1 <= k <= n // 2:
        raise SettingsError(f"Expected k in 1..{n // 2}, half of the {n} training examples; found {k}.")
    return np.array([_overlap(x, y, k) for x, y in zip(first, second, strict=True)], dtype=np.float64)


def ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """Rank of each of the scores `[n]`, 1 for the most helpful (highest) and n for the most harmful, `[n]`.

    Ties share their mean rank. Cost: one sort.

    Raises:
        DataError: not one row, or a score is not finite.
    """
    row = _row(scores)
    order = np.argsort(-row)
    ordered = row[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(row)])
    sizes = np.diff(np.append(starts, len(row)))
    found = np.empty(len(row))
    found[order] = np.repeat(starts + (sizes + 1) / 2, sizes)
    return found


def shared(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Share of the examples listed in `first` `[q, k]` that `second` `[q, m]` lists too, query by query, `[q]` in 0..1.

    For lists of the strongest examples of one sign: rows of training examples, −1 where a list ends early. NaN where
    `first` lists nothing. Chance level is m/n of n training examples.

    Raises:
        DataError: not two tables of as many queries.
    """
    ours, theirs = np.asarray(first), np.asarray(second)
    if ours.ndim != 2 or theirs.ndim != 2 or len(ours) != len(theirs):
        raise DataError(f"Expected two tables of lists [query, k]; found shapes {ours.shape} and {theirs.shape}.")
    listed = ours >= 0
    found = (ours[:, :, None] == theirs[:, None, :]).any(2) & listed
    with np.errstate(invalid="ignore"):
        return np.asarray(found.sum(1) / listed.sum(1), dtype=np.float64)


def misplaced(a: ArrayLike, b: ArrayLike, k: int) -> NDArray[np.int64]:
    """Strong in `a` `[n]` and elsewhere in `b` `[n]`: rows of the k most helpful and k most harmful of `a`, `[<= 2k]`.

    Ordered by how many ranks lie between an example's places in the two, most first (equal ones in row order). Only
    ranks count, so the units may differ. A score of the wrong sign is neither helpful nor harmful.

    Raises:
        DataError: the rows differ in length, or a score is not finite.
        SettingsError: k < 1.
    """
    first, second = _row(a), _row(b)
    if first.shape != second.shape:
        raise DataError(f"Expected scores of as many examples; found {len(first)} and {len(second)}.")
    if k < 1:
        raise SettingsError(f"Expected k >= 1; found {k}.")
    order = np.argsort(-first, kind="stable")
    strong = np.union1d(order[:k][first[order[:k]] > 0], order[-k:][first[order[-k:]] < 0])
    apart = np.abs(ranks(first) - ranks(second))[strong]
    return np.asarray(strong[np.argsort(-apart, kind="stable")], dtype=np.int64)


def lds(scores: ArrayLike, masks: ArrayLike, measures: ArrayLike) -> LDS:
    """Do summed scores predict what retraining on a subset does?

    `scores` `[q, n]`; `masks` `[t, n]` bool, the examples each of t retrainings kept; `measures` `[t, q]`, the mean
    measure of each query after it. Per query: Spearman over t of Σ_{i kept} s(q, i) with the measured value
    (Park et al. 2023, TRAK). Only ranks are compared, so the unit of the scores does not matter.

    Raises:
        DataError: shapes do not match, fewer than 3 retrainings, or a value is not finite.
    """
    table, kept = _finite(scores, "scores"), np.asarray(masks, dtype=bool)
    measured = _finite(measures, "measures")
    if table.ndim != 2 or kept.ndim != 2 or kept.shape[1] != table.shape[1] or len(kept) < 3:
        raise DataError(
            f"Expected masks of 3 or more retrainings over the examples of scores {table.shape}; found {kept.shape}."
        )
    if measured.shape != (len(kept), len(table)):
        raise DataError(
            f"Expected measures of {len(kept)} retrainings x {len(table)} queries; found shape {measured.shape}."
        )
    per_query = rank_agreement(table @ kept.T, measured.T)
    defined = per_query[~np.isnan(per_query)]
    mean = float(defined.mean()) if len(defined) else float("nan")
    se = float(defined.std(ddof=1) / np.sqrt(len(defined))) if len(defined) > 1 else float("nan")
    return LDS(per_query=per_query, mean=mean, se=se)


def query_noise(measures: ArrayLike) -> NDArray[np.float64]:
    """How much each query's measure still moves per epoch, from `[epochs, q]` to `[q]`, in the unit of the measure.

    Root mean square of the changes between consecutive epochs within the last quarter of training (rounded up,
    at least 2 epochs). NaN for fewer than 2 epochs. With a falling rate this is a floor of the true noise: another
    seed moves the answer more.

    Raises:
        DataError: not a table, or a value is not finite.
    """
    table = _finite(measures, "measures")
    if table.ndim != 2:
        raise DataError(f"Expected measures as [epochs, queries]; found shape {table.shape}.")
    epochs, queries = table.shape
    if epochs < 2:
        return np.full(queries, np.nan)
    last = table[-max(2, int(np.ceil(LAST_PART * epochs))) :]
    return np.asarray(np.sqrt(np.square(np.diff(last, axis=0)).mean(axis=0)))


def trust(scores: ArrayLike, second: ArrayLike, noise: ArrayLike, k: int = 20) -> list[Trust]:
    """The trust line of every query, from two score tables `[q, n]` and the noise `[q]` of its measure.

    Verdicts, in this order:

    - "no effect detected": the largest |score| is 0 or below the noise, so no single example moved the answer
      more than one more epoch would have. Only `scores` is held against the noise: it must be in the unit of the
      measure. NaN noise (too few epochs) cannot say so, and neither can ranks.
    - "agree": at least half of the k helpful and k harmful on show are the same, and Spearman over all examples > 0.
    - "disagree": anything else, an undefined agreement included.

    `k` is cut to half of the training examples where there are fewer.

    Raises:
        DataError: shapes differ, or a score is not finite.
    """
    first, other = _same_tables(scores, second)
    floor = np.asarray(noise, dtype=np.float64)
    if floor.shape != (len(first),):
        raise DataError(f"Expected the noise of {len(first)} queries; found shape {floor.shape}.")
    agreement, overlap = rank_agreement(first, other), top_overlap(first, other, min(k, first.shape[1] // 2))
    largest = np.abs(first).max(axis=1)
    return [
        Trust(float(ranks), float(top), float(own), verdict(float(ranks), float(top), float(own), float(size)))
        for ranks, top, own, size in zip(agreement, overlap, floor, largest, strict=True)
    ]


def verdict(agreement: float, overlap: float, noise: float, largest: float) -> Verdict:
    """The word for one query from its evidence: see `trust` for the thresholds. NaN noise detects nothing."""
    if largest == 0 or largest < noise:
        return "no effect detected"
    return "agree" if overlap >= AGREE_TOP and agreement > 0 else "disagree"


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    ranks_x, ranks_y = _centered_ranks(x), _centered_ranks(y)
    size = np.sqrt((ranks_x @ ranks_x) * (ranks_y @ ranks_y))
    return float(ranks_x @ ranks_y / size) if size > 0 else float("nan")


def _centered_ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = np.sort(x)
    ranks = (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / 2
    return np.asarray(ranks - len(x) / 2)


def _overlap(x: NDArray[np.float64], y: NDArray[np.float64], k: int) -> float:
    order_x, order_y = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    shared = np.intersect1d(order_x[:k], order_y[:k]).size + np.intersect1d(order_x[-k:], order_y[-k:]).size
    return shared / (2 * k)


def _row(scores: ArrayLike) -> NDArray[np.float64]:
    row = _finite(scores, "scores")
    if row.ndim != 1:
        raise DataError(f"Expected the scores of one query [n]; found shape {row.shape}.")
    return row


def _same_tables(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _finite(a, "scores"), _finite(b, "scores")
    if first.ndim != 2 or first.shape != second.shape:
        raise DataError(
            f"Expected two score tables of one shape [query, train]; found {first.shape} and {second.shape}."
        )
    return first, second


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    wrong = int((~np.isfinite(array)).sum())
    if wrong:
        raise DataError(f"Expected finite {name}; found {wrong} of {array.size} not finite. Score or train again.")
    return array
