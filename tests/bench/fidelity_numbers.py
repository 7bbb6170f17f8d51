"""How well do scores agree with the truth, and how sure is that? Rank correlations, AUC, and their bootstraps.

Written once more here, on scipy, and not taken from `explorer.fidelity`: what measures the product is not the product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from tests.bench.fidelity_truth import Truth

Array = NDArray[np.float64]
SURE = 1.96
"""Standard errors on either side of a 95 % interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its two standard errors: over queries (or examples), and over another draw of the subsets (or None)."""

    mean: float
    se: float
    subsets_se: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """95 %: of the wider of both errors."""
        half = SURE * max(self.se, self.subsets_se or 0.0)
        return self.mean - half, self.mean + half

    def as_json(self) -> dict[str, object]:
        return {"mean": self.mean, "se": self.se, "subsets_se": self.subsets_se, "interval": list(self.interval)}


def columns_spearman(a: Array, b: Array) -> Array:
    """Spearman's correlation of each column of `a [t, q]` with that of `b`, `[q]`; 0 where a column is constant."""
    x, y = (rankdata(part, axis=0) - (len(part) + 1) / 2 for part in (a, b))
    size = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    return np.asarray(np.divide((x * y).sum(0), size, out=np.zeros_like(size), where=size > 0))


def lds(values: Array, truth: Truth, draws: int = 200) -> tuple[Estimate, Array]:
    """Linear datamodeling score of `values [q, n]` of the first q queries, and its means over `draws` resampled sets of subsets.

    Per query the Spearman correlation over subsets of Σ_{i kept} s(q, i) with the measure after retraining (mean over
    seeds). The resamples are the same for all methods, so differences between methods may be taken draw by draw.
    """
    predicted = truth.masks.astype(np.float64) @ values.T
    measured = truth.measures.mean(0).astype(np.float64)[:, : len(values)]
    each = columns_spearman(predicted, measured)
    subsets = len(measured)
    picks = np.random.default_rng(0).integers(0, subsets, (draws, subsets))
    means = np.array([columns_spearman(predicted[rows], measured[rows]).mean() for rows in picks])
    se = float(each.std(ddof=1) / np.sqrt(len(each)))
    return Estimate(float(each.mean()), se, float(means.std(ddof=1))), means


def ceiling(truth: Truth, splits: int = 10) -> tuple[float, float] | None:
    """What a perfect estimate would reach, √(2r/(1 + r)), and r: how two halves of the seeds agree. None for one seed."""
    seeds = len(truth.measures)
    if seeds < 2:
        return None
    found = []
    for split in range(splits):
        order = np.random.default_rng([3, split]).permutation(seeds)
        halves = [truth.measures[part].mean(0).astype(np.float64) for part in np.array_split(order, 2)]
        found.append(columns_spearman(*halves).mean())
    r = float(np.mean(found))
    return float(np.sqrt(max(0.0, 2 * r / (1 + r)))), r


def auc(scores: Array, faulty: NDArray[np.bool_]) -> float:
    """The chance that a faulty example ranks above a sound one."""
    ranks, bad = rankdata(scores), int(faulty.sum())
    return float((ranks[faulty].sum() - bad * (bad + 1) / 2) / (bad * (len(scores) - bad)))


def precision(scores: Array, faulty: NDArray[np.bool_]) -> float:
    """Share of faulty examples among as many of the highest scores as there are faults."""
    bad = int(faulty.sum())
    return float(faulty[np.argsort(-scores, kind="stable")[:bad]].mean())


def detection(scores: list[Array], faulty: list[NDArray[np.bool_]], draws: int = 200) -> tuple[Estimate, Estimate]:
    """AUC and precision at k over several noisy trainings; the errors by a bootstrap over faulty and sound examples."""
    pairs = list(zip(scores, faulty, strict=True))
    draw = np.random.default_rng(0)
    resampled = []
    for _ in range(draws):
        picks = [_resampled(draw, f) for _, f in pairs]
        some = [(s[rows], f[rows]) for (s, f), rows in zip(pairs, picks, strict=True)]
        resampled.append((np.mean([auc(s, f) for s, f in some]), np.mean([precision(s, f) for s, f in some])))
    spread = np.std(resampled, axis=0, ddof=1)
    means = [float(np.mean([measure(s, f) for s, f in pairs])) for measure in (auc, precision)]
    return Estimate(means[0], float(spread[0])), Estimate(means[1], float(spread[1]))


def _resampled(draw: np.random.Generator, faulty: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows drawn with replacement, as many faulty and as many sound ones as there are."""
    groups = (np.flatnonzero(faulty), np.flatnonzero(~faulty))
    return np.concatenate([draw.choice(rows, len(rows)) for rows in groups])
