"""Which thresholds, quadrant, example and part does the address of the Memorized page name? The link is the state.

What does not fit the run is left out in silence: the run's own is shown instead. The names of what the page keeps in the session live here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st

from explorer import memorization
from explorer.store import Run
from explorer.ui import load, state
from explorer.ui.memorized import thresholds
from explorer.ui.memorized.thresholds import CORNERS

Z_SLIDERS, BAND, DAMPING = ("suspect-z", "own-z"), "noise-band", "memorized-damping"
OPEN, QUADRANT, PART, SHOWN = "memorized-row", "quadrant", "memorized-part", "memorized-run"
BEGINS = "memorized-begins"
"""In the session: the sliders, the example and the quadrant that are open, the part below, the run that all of it is about, and
the part that is open on a first visit."""
Z_COLUMNS = ("z", "self_influence_z")
SLIDERS = (*Z_SLIDERS, BAND)
DEFAULTS = (memorization.FLAG_Z, memorization.FLAG_Z, memorization.BAND_Z)
CORNER_WORDS = ("harmful", "useful", "unclear", "generalized", "redundant", "neutral")
"""The quadrants in an address, in the order of `CORNERS`."""
WIDEST = 6.0
"""Standard errors of the widest noise band."""
FINE, DECADE = 10.0, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
"""Thresholds of z go by halves up to here, and beyond by these in each power of ten: scores may lie thousands of deviations out."""


def follow(run: Run, parts: Sequence[str]) -> None:
    """Take the state from the address where it changed by other means than our own clicks: a link, the back button, another run.

    The first of the `parts` that the run has is the one that is open on a first visit.
    """
    same, said = state.get(SHOWN) == run.key, state.address()
    if same and (
        not state.came_from_outside() or "run" not in said
    ):  # without a run: back from another page, as it was left
        return
    state.put(SHOWN, run.key)
    reset()
    _thresholds(run, said)
    corner, part = said.get("quadrant"), said.get("part")
    if corner in CORNER_WORDS:
        state.put(QUADRANT, CORNERS[CORNER_WORDS.index(corner)])
    else:
        st.session_state.pop(QUADRANT, None)
    state.put(BEGINS, parts[0])
    state.put(PART, part if part in parts else parts[0])
    ids = load.train_table(run)["id"].astype(str)
    state.put(OPEN, next((int(row) for row in np.flatnonzero(ids == said.get("row"))), None))


def write(run: Run) -> None:
    """Put the state into the address; what is as on a first visit is not written."""
    wanted = {"run": run.key}
    for name, key, default in zip(("suspect", "own", "band"), SLIDERS, DEFAULTS, strict=True):
        if (value := state.get(key, default)) != default:
            wanted[name] = f"{float(value):g}"
    choice, damping = thresholds.dampings(run), state.get(DAMPING)
    if choice is not None and damping in choice[0] and damping != choice[1]:
        wanted["damping"] = f"{damping:.6g}"
    if state.get(QUADRANT, CORNERS[0]) in CORNERS[1:]:
        wanted["quadrant"] = CORNER_WORDS[CORNERS.index(state.get(QUADRANT))]
    row = state.get(OPEN)
    if isinstance(row, int) and 0 <= row < load.meta(run).train:
        wanted["row"] = load.train_columns(run).ids.at([row])[0]
    if state.get(PART) not in (None, state.get(BEGINS)):
        wanted["part"] = state.get(PART)
    state.write_address(wanted)


def reset() -> None:
    """The sliders as the run was computed."""
    for name, default in zip(SLIDERS, DEFAULTS, strict=True):
        state.put(name, default)
    st.session_state.pop(DAMPING, None)


def steps(largest: float) -> list[float]:
    """Thresholds of z to choose from, rising, the last beyond the largest z."""
    found = [0.5 * k for k in range(1, round(2 * FINE))]
    for power in range(300):
        for mantissa in DECADE:
            found.append(FINE * mantissa * 10.0**power)
            if found[-1] > largest:
                return found
    return found


def _thresholds(run: Run, said: Mapping[str, str]) -> None:
    table = load.train_table(run)
    for name, key, column in zip(("suspect", "own"), Z_SLIDERS, Z_COLUMNS, strict=True):
        value = _near(_number(said.get(name)), steps(float(table[column].max())))
        if value is not None:
            state.put(key, value)
    band = _number(said.get("band"))
    if 0 <= band <= WIDEST:
        state.put(BAND, band)
    choice = thresholds.dampings(run)
    if choice is not None and (damping := _near(_number(said.get("damping")), choice[0])) is not None:
        state.put(DAMPING, damping)


def _number(said: str | None) -> float:
    """The number of an address, NaN where there is none."""
    try:
        return float(said or "nan") if len(said or "") < 32 else math.nan
    except ValueError:
        return math.nan


def _near(value: float, options: Sequence[float]) -> float | None:
    """The option that the address means: it has fewer digits than files have."""
    return next((one for one in options if abs(one - value) <= thresholds.SAME * abs(one)), None)
