"""What follows from the thresholds and the damping that a person chose? Corners, counts and stability, from a run's arrays.

Knows no widgets; what was measured at other dampings was measured by the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from explorer import memorization
from explorer.store import Run
from explorer.ui import answers, load
from explorer.ui.views.thresholds import Count, Stability

CORNERS = (
    memorization.HARMFUL,
    memorization.USEFUL,
    memorization.MEMORIZED_NEUTRAL,
    memorization.GENERALIZED,
    memorization.REDUNDANT,
    memorization.NEUTRAL,
)
"""Names by number, as in `Measured.corner`."""
SAME = 1e-4
"""Relative difference below which two dampings are one: files keep float32."""


class Thresholds(NamedTuple):
    """What a person chose: robust z of the suspect score and of self-influence, width of the noise band in standard errors, and a
    damping (None: the run's own)."""

    suspect_z: float = memorization.FLAG_Z
    own_z: float = memorization.FLAG_Z
    band: float = memorization.BAND_Z
    damping: float | None = None


@dataclass(frozen=True)
class Measured:
    """Every training example under some thresholds, `[n]` each; `corner` is its number in `CORNERS`."""

    self_influence: NDArray[np.float64]
    held_out: NDArray[np.float64]
    held_out_se: NDArray[np.float64]
    neutral: NDArray[np.bool_]
    high: NDArray[np.bool_]
    suspect: NDArray[np.bool_]
    corner: NDArray[np.int8]

    def members(self, corner: int) -> NDArray[np.int64]:
        """Rows of a corner, ascending."""
        return np.flatnonzero(self.corner == corner)


def measured(run: Run, chosen: Thresholds) -> Measured:
    """The run under these thresholds; kept for the last few."""
    return _measured(str(run.path), load.stamp(run), load.grid_stamp(run), chosen)


@lru_cache(maxsize=6)
def _measured(path: str, stamp: str, grid: int, chosen: Thresholds) -> Measured:  # noqa: ARG001 - parts of the cache's key
    run = load.open_at(path)
    table = load.train_table(run)
    own, held_out, se, z = (
        table[name].to_numpy(np.float64) for name in ("self_influence", "held_out", "held_out_se", "self_influence_z")
    )
    if chosen.damping is not None:
        before = held_out
        own, held_out = at_damping(run, chosen.damping)
        se = se * _scale(before, held_out)
        classes = load.meta(run).has_classes
        z = memorization.robust_z(own, table["label"].to_numpy() if classes else None)
    neutral, high = np.abs(held_out) <= chosen.band * se, z > chosen.own_z
    suspect = table["z"].to_numpy() > chosen.suspect_z
    return Measured(own, held_out, se, neutral, high, suspect, corners(high, held_out, neutral))


def corners(high: NDArray[np.bool_], value: NDArray[np.float64], neutral: NDArray[np.bool_]) -> NDArray[np.int8]:
    """The number in `CORNERS` of each example, `[n]`; the rule of `memorization.quadrant`."""
    helps = value >= 0
    return np.select([high & neutral, high & helps, high, neutral, helps], [2, 1, 0, 5, 3], 4).astype(np.int8)


def dampings(run: Run) -> tuple[list[float], float] | None:
    """Dampings to choose from, ascending, and the run's own among them; None where there is no choice."""
    grid, own = load.damping_grid(run), load.evidence(run).get("damping")
    if grid is None or own is None:
        return None
    others = [float(value) for value in grid.dampings if abs(float(value) - own) > SAME * float(own)]
    return (sorted([*others, float(own)]), float(own)) if others else None


def at_damping(run: Run, damping: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Self-influence and held-out influence `[n]` at a damping of the grid."""
    grid = load.damping_grid(run)
    if grid is None:
        raise KeyError(damping)
    at = int(np.argmin(np.abs(grid.dampings - damping)))
    return grid.self_influence[at].astype(np.float64), grid.held_out[at].astype(np.float64)


def stability(run: Run, damping: float | None, own: float) -> Stability:
    """How alike the picture at a damping is to the run's own."""
    return _stability(str(run.path), load.stamp(run), load.grid_stamp(run), damping, own)


@lru_cache(maxsize=64)
def _stability(path: str, stamp: str, grid: int, damping: float | None, own: float) -> Stability:  # noqa: ARG001 - parts of the cache's key
    run = load.open_at(path)
    table = load.train_table(run)
    kept, before = table["self_influence"].to_numpy(np.float64), table["held_out"].to_numpy(np.float64)
    harmful = float((before < 0).mean())
    if damping is None:
        return Stability(own, own, 1.0, 1.0, 1.0, 1.0, harmful, harmful)
    now, after = at_damping(run, damping)
    same, firm = (before < 0) == (after < 0), ~table["neutral"].to_numpy(np.bool_)
    return Stability(
        damping=damping,
        own=own,
        signs=float(same.mean()),
        firm=float(same[firm].mean()) if firm.any() else float("nan"),
        held_out=spearman(before, after),
        self_influence=spearman(kept, now),
        harmful=float((after < 0).mean()),
        own_harmful=harmful,
    )


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's correlation with ties at their mean rank; NaN where one is constant."""
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    spread = float(a @ a) * float(b @ b)
    return float(a @ b / np.sqrt(spread)) if spread > 0 else float("nan")


def counts(run: Run, found: Measured) -> tuple[list[Count], int]:
    """How many each threshold lets through and how well each group finds the planted flips; how many were planted."""
    truth = flipped(run)
    groups = (
        ("⚑", f"suspect {answers.label_called(load.meta(run))}", found.suspect),
        ("◆", "high self-influence", found.high),
        ("▼", memorization.NAMES[memorization.HARMFUL], found.corner == 0),
        ("≈", "held-out effect inside the noise", found.neutral),
    )
    planted = 0 if truth is None else int(truth.sum())
    return [_count(mark, name, chosen, truth) for mark, name, chosen in groups], planted


def flipped(run: Run) -> NDArray[np.bool_] | None:
    """Which labels were flipped on purpose `[n]`; None where none were."""
    table = load.train_table(run)
    if "true_label" not in table:
        return None
    truth = table["true_label"].to_numpy() != table["label"].to_numpy()
    return truth if truth.any() else None


def _count(mark: str, name: str, chosen: NDArray[np.bool_], truth: NDArray[np.bool_] | None) -> Count:
    total = int(chosen.sum())
    if truth is None:
        return Count(mark, name, total)
    hits = int((chosen & truth).sum())
    return Count(mark, name, total, hits / total if total else float("nan"), hits / int(truth.sum()))


def _scale(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """How much larger values are at the other damping, by the median size."""
    usual = float(np.median(np.abs(before)))
    return float(np.median(np.abs(after))) / usual if usual > 0 else 1.0
