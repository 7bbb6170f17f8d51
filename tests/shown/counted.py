"""Counts of subset models as a run keeps them, made up so that some examples are memorized, and which those are by a slow count."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from explorer.memorization.subsets import SubsetSettings, Tally
from explorer.store import Run, write_bundle

KNOWN_ALONE = 0.3
"""Share of examples that models are right on only for having trained on them."""


def right_by_row(train: int, models: int) -> NDArray[np.bool_]:
    """Whether each model is right on each training example `[models, train]`."""
    draw = np.random.default_rng(11)
    kept = SubsetSettings().masks(train, 0, models)
    alone = draw.random(train) < KNOWN_ALONE
    return np.where(alone, kept, draw.random((models, train)) < 0.8)


def shares(run: Run, models: int = 60) -> NDArray[np.bool_]:
    """Write the counts into the run; which examples are memorized by them, counted model by model."""
    train = run.meta().train
    right, kept = right_by_row(train, models), SubsetSettings().masks(train, 0, models)
    counts = Tally.empty(train)
    counts.add(right, np.zeros((models, 0), dtype=bool))
    write_bundle(run.path / "subset-tally.safetensors", counts.arrays())
    flagged = []
    for row in range(train):
        own = [bool(right[m, row]) for m in range(models) if kept[m, row]]
        other = [bool(right[m, row]) for m in range(models) if not kept[m, row]]
        p, q = sum(own) / len(own), sum(other) / len(other)
        se = (p * (1 - p) / len(own) + q * (1 - q) / len(other)) ** 0.5
        flagged.append(p - q > 0.25 and p - q - 2 * se > 0)
    return np.array(flagged)
