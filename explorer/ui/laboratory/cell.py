"""Which cell of a matrix is open, and what is in it? Two places in the session, and the numbers of both ways.

A click in the heat map and the two pickers set the places; nothing is drawn but the pickers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import streamlit as st

from explorer.store import Run
from explorer.store.run import Split
from explorer.ui import state
from explorer.ui.laboratory.found import Matrices
from explorer.ui.laboratory.samples import classes, ids, sample, unit
from explorer.ui.views.lab_cell import Cell

LESSON, PROBE, KEPT, OF = "lab-lesson", "lab-probe", "lab-cell", "lab-of"
"""Session keys: the pickers' places among samples and probes, both for when the pickers are away, and the experiment."""


def chosen(key: str, found: Matrices) -> tuple[int, int]:
    """The open cell (lesson, probe) of an experiment: as chosen, else the strongest effect on another sample."""
    if state.get(OF) != key:
        state.put(OF, key)
        choose(strongest(found))
    cell = st.session_state.get(LESSON), st.session_state.get(PROBE)
    if not all(isinstance(at, int) and 0 <= at < size for at, size in zip(cell, found.values.shape, strict=True)):
        choose(state.get(KEPT, strongest(found)))  # the pickers were away, and widgets forget
    at = int(st.session_state[LESSON]), int(st.session_state[PROBE])
    state.put(KEPT, at)
    return at


def choose(cell: tuple[int, int]) -> None:
    """Open a cell."""
    st.session_state[LESSON], st.session_state[PROBE] = cell
    state.put(KEPT, cell)


def strongest(found: Matrices) -> tuple[int, int]:
    """The largest |effect| of a lesson on another sample; (0, 0) where nothing is measured."""
    sizes = np.abs(np.nan_to_num(found.values))
    if found.square:
        np.fill_diagonal(sizes, 0.0)
    at = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
    return int(at[0]), int(at[1])


def pickers(run: Run, found: Matrices) -> None:
    """Both samples by name."""
    taught = _named(run, found, taught=True)
    asked = taught if found.square else _named(run, found, taught=False)
    left, right = st.columns(2)
    left.selectbox("Taught", range(len(taught)), key=LESSON, format_func=lambda at: taught[at])
    right.selectbox("Asked", range(len(asked)), key=PROBE, format_func=lambda at: asked[at])


def opened(run: Run, found: Matrices, at: tuple[int, int], failed: Mapping[str, str]) -> Cell:
    """The cell with both samples; a square matrix has the way back as well. `failed` says why, by id of the lesson."""
    i, j = at
    lesson = sample(run, "train", int(found.samples[i]))
    first = found.first_order
    back = float(found.values[j, i]) if found.square else None
    value = float(found.values[i, j])
    return Cell(
        lesson=lesson,
        probe=sample(run, found.split, int(found.probes[j])),
        effect=value,
        reverse=back,
        first_order=None if first is None else float(first[i, j]),
        reverse_first_order=None if first is None or back is None else float(first[j, i]),
        unit=unit(run),
        why="" if math.isfinite(value) else failed.get(lesson.id, "the probe cannot be measured"),
    )


def _named(run: Run, found: Matrices, *, taught: bool) -> list[str]:
    split: Split = "train" if taught else found.split
    rows = found.samples if taught else found.probes
    return [f"{name} · {label}" for name, label in zip(ids(run, split, rows), classes(run, split, rows), strict=True)]
