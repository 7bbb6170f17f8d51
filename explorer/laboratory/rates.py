"""At which rate is a lesson small but not lost in rounding? By what samples gain on themselves.

Knows losses before and after as functions of the rate; trains nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from explorer.errors import SettingsError
from explorer.laboratory.lessons import Array64, Rows
from explorer.laboratory.settings import SELF_EFFECT

SEARCHED = 32
"""Lessons that a rate is searched on, spread evenly over the order of their losses, the largest among them."""
TRIALS = 24
CAREFUL = 10.0
"""Times that the rate changes at most from one trial to the next."""


def searched_on(losses: Array64) -> Rows:
    """The lessons to search on, by their losses `[n]`; none where no loss is finite."""
    usable = np.flatnonzero(np.isfinite(losses))
    ordered = usable[np.argsort(losses[usable], kind="stable")]
    if not len(ordered):
        return ordered
    return np.sort(ordered[np.unique(np.linspace(0, len(ordered) - 1, SEARCHED).astype(np.int64))])


def search(
    losses: Array64,
    slope: Callable[[Rows], float],
    after: Callable[[Rows, float], Array64],
    tell: Callable[[int], None],
) -> float:
    """A rate at which a lesson's own loss falls on average by a small share of the median loss, most probably by 1 %.

    `losses` `[n]` of all lessons before; `slope` is how fast the loss falls with the rate at first, the mean of some;
    `after(rows, rate)` are their losses after a lesson; `tell` hears the number of each trial.

    Raises:
        SettingsError: no such rate was found.
    """
    some = searched_on(losses)
    low, high = SELF_EFFECT
    wanted, shares = sqrt(low * high), []
    scale = float(np.nanmedian(losses)) if len(some) else 0.0
    fall = slope(some) if scale > 0 else 0.0
    rate = wanted * scale / fall if fall > 0 else 0.0
    for trial in range(1, TRIALS + 1):
        if not 0 < rate < float("inf"):
            break
        tell(trial)
        share = float(np.mean((losses[some] - after(some, rate)) / scale))
        shares.append(share)
        if low <= share <= high:
            return rate
        rate *= float(np.clip(wanted / share, 1 / CAREFUL, CAREFUL)) if share > 0 else 1 / CAREFUL
    found = f"{shares[-1]:.2g} of it at the last of {len(shares)} trials" if shares else "losses without a slope"
    raise SettingsError(
        f"Expected a rate at which the own loss of a sample falls on average by {low:g} to {high:g} of the median loss "
        f"({scale:.3g}); found {found}. Give a rate, or teach samples that the model does not know by heart."
    )
