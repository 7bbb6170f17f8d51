"""What would self-influence and held-out influence be at another damping? A grid of them, for the slider of the page.

Only for methods whose damping can be changed without another pass over the training set; it chooses none.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from explorer import evidence
from explorer.contracts import Dataset, Fitted, Progress, Queries, Redampable, silent
from explorer.errors import SettingsError
from explorer.influence.gauss_newton import FittedGaussNewton
from explorer.influence.iterative import FittedIterative
from explorer.store import Run, write_bundle
from explorer.store.run import DAMPING_GRID


def write_grid(run: Run, fitted: Fitted, data: Dataset, progress: Progress = silent) -> None:
    """damping-grid.safetensors: `dampings` `[d]`, `self_influence` and `held_out` `[d, n]` float32; nothing where it is there
    or the method has no damping to change."""
    if run.has(DAMPING_GRID) or not isinstance(fitted, Redampable):
        return
    found = grid(fitted, data, progress)
    if found:
        write_bundle(run.path / DAMPING_GRID, found)


def dampings(fitted: Redampable) -> list[float]:
    """The damping of the method and a grid around its mean eigenvalue, rising; none where nothing curves the loss, or where
    each would take a system solved for every training example.

    Whole decades for `gauss-newton`, whose every damping takes as long as several of the others.
    """
    if isinstance(fitted, FittedIterative):
        return []
    mean, own = float(fitted.stats.get("mean_eigenvalue") or 0.0), float(fitted.stats["damping"])
    if not 0 < mean < float("inf"):
        return []
    step = evidence.PER_DECADE if isinstance(fitted, FittedGaussNewton) else 1
    return sorted({own, *evidence.grid(mean)[::step]})


def grid(fitted: Redampable, data: Dataset, progress: Progress = silent) -> dict[str, NDArray[np.float32]]:
    """The arrays of the grid; dampings at which the curvature is singular are left out, empty where none is left.

    Held-out influence is the mean over all test examples, for their labels. Costs one change of the damping, one weighted
    sum and the self-influence of all examples for each damping.
    """
    n = len(data.test)
    asked = Queries(data.test, np.arange(n, dtype=np.int64))
    weights = torch.full((1, n), 1 / n)
    todo = dampings(fitted)
    kept, own, held_out = [], [], []
    for number, damping in enumerate(todo):
        progress(number, len(todo), f"memorization at damping {damping:.2g}")
        try:
            moved = fitted.redamped(damping)
        except SettingsError:
            continue
        kept.append(damping)
        held_out.append(moved.weighted(asked, weights)[0].float().numpy())
        own.append(moved.self_influence().float().numpy())
    progress(len(todo), len(todo), "memorization at other dampings")
    if not kept:
        return {}
    return {
        "dampings": np.asarray(kept, dtype=np.float32),
        "self_influence": np.stack(own),
        "held_out": np.stack(held_out),
    }
