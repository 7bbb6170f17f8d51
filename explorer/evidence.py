"""Which of several estimates predicts best what retraining on subsets does, and how sure is that? Paired, subset by subset.

Takes predictions and outcomes as arrays: it retrains nothing, fits no method and knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError, SettingsError

Array64 = NDArray[np.float64]

FEWEST = 3
"""Retrainings below which ranks say nothing."""
LOWEST, HIGHEST, PER_DECADE = -2, 3, 2
"""The grid of dampings: powers of ten of the mean eigenvalue, and steps a decade."""
WIDEST = 3
"""Decades that the grid may grow at either end, where the best lies there."""
BOOTSTRAPS = 1000
"""Resamples behind intervals and the expected regret."""
DRAW_ELEMENTS = 2**22
"""Correlations of resamples held at once (32 MB)."""
SURE = (0.025, 0.975)
DOUBT = 0.5
"""Standard errors below the best at which a candidate counts as no worse: of these the nearest to the default is chosen.
At 12 retrainings 0 leaves good defaults for luck, and 1 keeps bad ones (`python -m tests.bench.damping --redraws`)."""


@dataclass(frozen=True)
class Comparison:
    """d candidates over the same t retrainings and q queries: the linear datamodeling score (LDS) of each, and a choice.

    `lds` `[d]` is the mean over queries of Spearman's correlation over retrainings between prediction and outcome; `low`
    and `high` `[d]` its 95 % interval over another draw of retrainings and of queries. `fit` `[d]` is the same of Pearson's
    correlation, by which is chosen: ranks of a dozen outcomes throw away how far apart they are. `best` is the candidate of
    highest fit, or the one nearest to the default that is within `DOUBT` standard errors (of the difference) of it; `regret`
    how much fit one loses, on average, by choosing with another draw of as many retrainings.
    """

    lds: Array64
    low: Array64
    high: Array64
    fit: Array64
    best: int
    regret: float


def compare(predictions: ArrayLike, measures: ArrayLike, seed: int = 0, default: int | None = None) -> Comparison:
    """Holds `predictions` `[d, t, q]` (Σ of the scores of what retraining t kept) against `measures` `[t, q]`.

    All candidates meet the same resamples, so what a draw of retrainings does to all of them alike does not count for the
    choice. Resamples weigh the ranks among all t. A query whose prediction or outcome never changes does not count.
    `default` is the place of the candidate to stay near in doubt, among candidates in an order. Cost: 2 · `BOOTSTRAPS` · d · t · q.

    Raises:
        DataError: shapes do not match, fewer than `FEWEST` retrainings, or a value is not finite or none ever changes.
    """
    ranked, sized = _centered(predictions, measures)
    lds, fit = _means(*ranked), _means(*sized)
    low, high = np.quantile(_resampled(*ranked, seed), SURE, axis=0)
    best, regret = _choice(fit, _resampled(*sized, seed), default)
    return Comparison(lds, np.minimum(low, lds), np.maximum(high, lds), fit, best, regret)


def choose(predictions: ArrayLike, measures: ArrayLike, seed: int = 0, default: int | None = None) -> int:
    """The `best` of `compare` alone, at half the cost; arguments and errors as there."""
    _, sized = _centered(predictions, measures)
    return _choice(_means(*sized), _resampled(*sized, seed), default)[0]


def fits(predictions: ArrayLike, measures: ArrayLike) -> Array64:
    """The `fit` `[d]` of `compare` alone, without resamples; arguments and errors as there."""
    return _means(*_centered(predictions, measures)[1])


def scores(predictions: ArrayLike, measures: ArrayLike) -> Array64:
    """The `lds` `[d]` of `compare` alone, without resamples; arguments and errors as there."""
    return _means(*_centered(predictions, measures)[0])


def grid(mean_eigenvalue: float) -> list[float]:
    """Dampings to compare, rising: from a hundredth to a thousand times the mean eigenvalue, two a decade.

    Raises:
        SettingsError: the mean eigenvalue is not positive: nothing curves the loss.
    """
    if not 0 < mean_eigenvalue < float("inf"):
        raise SettingsError(
            f"Expected a mean eigenvalue above 0 to compare dampings around; found {mean_eigenvalue}. Give a damping."
        )
    return [mean_eigenvalue * 10 ** (k / PER_DECADE) for k in range(LOWEST * PER_DECADE, HIGHEST * PER_DECADE + 1)]


def beyond(dampings: Sequence[float], best: float, mean_eigenvalue: float) -> list[float]:
    """A decade more where the best of these rising dampings is at an end of them; nothing elsewhere, or far enough out."""
    step = 10 ** (1 / PER_DECADE)
    if best == dampings[-1] and best < mean_eigenvalue * 10 ** (HIGHEST + WIDEST - 0.1):
        return [best * step**k for k in range(1, PER_DECADE + 1)]
    if best == dampings[0] and best > mean_eigenvalue * 10 ** (LOWEST - WIDEST + 0.1):
        return [best / step**k for k in range(PER_DECADE, 0, -1)]
    return []


def _choice(fit: Array64, drawn: Array64, default: int | None) -> tuple[int, float]:
    """The candidate chosen by `fit` `[d]`, and what is lost on average by choosing in the resamples `drawn` `[draws, d]`."""
    both = np.atleast_2d(np.cov(drawn, rowvar=False))
    own = both.diagonal()
    doubt = DOUBT * np.sqrt(np.maximum(own[:, None] + own - 2 * both, 0))  # of the difference of two candidates
    far = np.zeros(len(fit)) if default is None else np.abs(np.arange(len(fit)) - default)

    def chosen(fits: Array64) -> NDArray[np.int64]:
        best = fits.argmax(1)
        if default is None:
            return np.asarray(best)
        enough = fits >= fits.max(1, keepdims=True) - doubt[best]
        return np.asarray(np.where(enough, far, np.inf).argmin(1))

    return int(chosen(fit[None])[0]), float((fit.max() - fit[chosen(drawn)]).mean())


Pair = tuple[Array64, Array64]
"""What was predicted `[d, t, q]` and what came out `[t, q]`."""


def _centered(predictions: ArrayLike, measures: ArrayLike) -> tuple[Pair, Pair]:
    """Ranks over retrainings of the queries that count, less their mean; and their values in standard deviations."""
    predicted, measured = np.asarray(predictions, np.float64), np.asarray(measures, np.float64)
    if predicted.ndim != 3 or predicted.shape[1:] != measured.shape or len(measured) < FEWEST or not predicted.size:
        raise DataError(
            f"Expected predictions [candidates, retrainings, queries] and measures [retrainings, queries] of {FEWEST} or "
            f"more retrainings; found shapes {predicted.shape} and {measured.shape}. Retrain more often, or score the same queries."
        )
    wrong = int((~np.isfinite(predicted)).sum() + (~np.isfinite(measured)).sum())
    if wrong:
        raise DataError(f"Expected finite predictions and measures; found {wrong} others. Score or train again.")
    from scipy.stats import rankdata  # a second to load, and only needed where something is compared

    x, y = (rankdata(values, axis=-2) - (len(measured) + 1) / 2 for values in (predicted, measured))
    each = _correlations(np.ones((1, len(measured))), x, y)[0]
    counted = np.isfinite(each).all(0)
    if not counted.any():
        raise DataError(
            f"Expected outcomes that differ between retrainings; found none in {measured.shape[1]} queries. Retrain on "
            "other subsets, or ask about other examples."
        )
    ranked = np.asarray(x[:, :, counted]), np.asarray(y[:, counted])
    return ranked, (_standardized(predicted[:, :, counted]), _standardized(measured[:, counted]))


def _standardized(values: Array64) -> Array64:
    """Over retrainings: less the mean, in standard deviations."""
    values = values - values.mean(-2, keepdims=True)
    return np.asarray(values / values.std(-2, keepdims=True))


def _means(x: Array64, y: Array64) -> Array64:
    return np.asarray(_correlations(np.ones((1, len(y))), x, y)[0].mean(1))


def _resampled(x: Array64, y: Array64, seed: int) -> Array64:
    """LDS of every candidate in each resample of retrainings and queries, `[draws, d]`."""
    draws = np.random.default_rng(seed)
    (_, t, q), found = x.shape, []
    step = max(1, DRAW_ELEMENTS // (len(x) * q))
    for start in range(0, BOOTSTRAPS, step):
        count = min(step, BOOTSTRAPS - start)
        retrainings = draws.multinomial(t, np.full(t, 1 / t), count).astype(np.float64)
        queries = draws.multinomial(q, np.full(q, 1 / q), count).astype(np.float64)
        each = _correlations(retrainings, x, y)
        defined = np.isfinite(each).all(1) * queries
        sums = np.einsum("bdq,bq->bd", np.nan_to_num(each), defined)
        total = defined.sum(1, keepdims=True)
        found.append((sums / np.maximum(total, 1))[total[:, 0] > 0])
    return np.concatenate(found)


def _correlations(weights: Array64, x: Array64, y: Array64) -> Array64:
    """Weighted correlation over t of `x` `[d, t, q]` with `y` `[t, q]` for rows of `weights` `[b, t]`, `[b, d, q]`.

    NaN where x or y does not vary.
    """
    w = weights / weights.sum(1, keepdims=True)
    mean_x, mean_y = np.tensordot(w, x, (1, 1)), w @ y
    var_x = np.tensordot(w, x * x, (1, 1)) - mean_x**2
    var_y = (w @ (y * y) - mean_y**2)[:, None]
    both: Array64 = np.tensordot(w, x * y, (1, 1)) - mean_x * mean_y[:, None]
    small = 1e-9  # of ranks, and of what has a variance of 1 among all: any true variance is far above
    size = np.sqrt(np.maximum(var_x, 0) * np.maximum(var_y, 0))
    varies = (var_x > small) & (var_y > small)
    return np.asarray(np.divide(both, size, out=np.full_like(both, np.nan), where=varies))
