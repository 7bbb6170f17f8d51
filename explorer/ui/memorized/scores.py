"""Do the scores of memorization agree? Rank correlations of all that can be had, and why the others cannot.

Ranks what `explorer.jobs.signs` reads of a run; measures none of them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from scipy.stats import rankdata

from explorer.jobs import signs
from explorer.jobs.signs import SIGNS
from explorer.store import Run
from explorer.ui import begin, load
from explorer.ui.views import signs as views

SAMPLE = 20_000
"""Examples that are ranked: a correlation is then known to .01."""


def show(run: Run) -> None:
    """The picture of agreement, what is missing, and the button that has it measured where it can be."""
    begin.stopped(run, signs.pending(run))
    begin.watched(run, "agreement", lambda: views.show(agreement(run), key=f"signs-{run.key}"))
    wanted = [signs.SIGNS[name][0] for name in signs.unmeasured(run)]
    if wanted and begin.readable(run) and not load.state(run).active:
        st.caption(f"Some passes over the data would give {' and '.join(wanted)}.")
        if st.button("Measure these too", key="signs-start"):
            begin.start(run, lambda: signs.ask(run))


def agreement(run: Run) -> views.Agreement:
    """Spearman's correlation of every pair of scores."""
    return _agreement(str(run.path), load.stamp(run), load.signs_version(run))


@lru_cache(maxsize=4)
def _agreement(path: str, stamp: str, written: int) -> views.Agreement:  # noqa: ARG001 - parts of the cache's key
    run = load.open_at(path)
    found, missing = load.signs(run)
    kept = [name for name in found.columns if name in SIGNS]
    rows = sampled(len(found))
    return views.Agreement(
        names=[SIGNS[name][0] for name in kept],
        meanings=[SIGNS[name][1] for name in kept],
        matrix=correlations(found[kept].iloc[rows]),
        rows=len(rows),
        total=len(found),
        missing={SIGNS[name][0] if name in SIGNS else name: why for name, why in missing.items()},
    )


def sampled(total: int) -> NDArray[np.int64]:
    """All rows, or a seeded sample of them."""
    if total <= SAMPLE:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng(0).permutation(total)[:SAMPLE])


def correlations(table: pd.DataFrame) -> NDArray[np.float64]:
    """Spearman's correlation of every pair of columns `[k, k]`, over the rows where both are known; NaN where one is constant."""
    values = [table[name].to_numpy(np.float64) for name in table.columns]
    known = [np.isfinite(one) for one in values]
    whole = [bool(one.all()) for one in known]
    ranks = [rankdata(one) if full else one for one, full in zip(values, whole, strict=True)]
    matrix = np.full((len(values), len(values)), np.nan)
    for a in range(len(values)):
        for b in range(a, len(values)):
            if whole[a] and whole[b]:
                matrix[a, b] = matrix[b, a] = _pearson(ranks[a], ranks[b])
            else:
                both = known[a] & known[b]
                matrix[a, b] = matrix[b, a] = _pearson(rankdata(values[a][both]), rankdata(values[b][both]))
    return matrix


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 3:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    spread = float(a @ a) * float(b @ b)
    return float(np.clip(a @ b / np.sqrt(spread), -1, 1)) if spread > 0 else float("nan")
