"""The matrix of an experiment on the page: in which order, which of its numbers are drawn, and the open cell beside it.

What a cell says is in `cell`; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from explorer.store import Run
from explorer.ui import load
from explorer.ui.laboratory import cell, order
from explorer.ui.laboratory.found import Matrices
from explorer.ui.laboratory.samples import classes, ids, labels, measure, unit
from explorer.ui.views import lab_cell, lab_heat

BY_LABEL, BY_CLUSTER = "by label", "by what they teach"
MEASURED, FIRST, DIFFERENCE = "measured", "first order", "difference"


def show(run: Run, key: str, found: Matrices, failed: Mapping[str, str]) -> None:
    """The heat map, and the open cell with its pickers."""
    chosen = cell.chosen(key, found)
    left, right = st.columns([1.35, 1], gap="medium")
    with left:
        _heat(run, key, found, chosen)
    with right:
        cell.pickers(run, found)
        st.html(lab_cell.opened(cell.opened(run, found, chosen, failed)))
        st.page_link(
            "screens/explore.py",
            label="The taught sample on the map",
            icon=":material/map:",
            query_params={"run": run.key, "row": ids(run, "train", [int(found.samples[chosen[0]])])[0]},
        )


def _heat(run: Run, key: str, found: Matrices, chosen: tuple[int, int]) -> None:
    with st.container(horizontal=True):
        ordered = st.segmented_control(
            "Order", (BY_LABEL, BY_CLUSTER), default=BY_LABEL, key="lab-order", required=True, persist_state="session"
        )
        what = (MEASURED,) if found.first_order is None else (MEASURED, FIRST, DIFFERENCE)
        shown = st.segmented_control("What is drawn", what, default=MEASURED, key="lab-what", required=True)
    rows, columns = orders(run, found, str(ordered))
    data = drawn(run, found, chosen, rows, columns, str(shown))
    alt = f"Effects of {len(rows)} lessons on {len(columns)} probes as a heat map; every cell can be chosen by name beside it"
    clicked = lab_heat.show(data, alt=alt, key=f"lab-{key}-{ordered}-{shown}-{chosen}")  # anew: no cell stays selected
    if clicked is not None and (at := (int(rows[clicked[0]]), int(columns[clicked[1]]))) != chosen:
        cell.choose(at)
        st.rerun(scope="fragment")
    st.caption(_caption(run, data, found, str(shown)))


def orders(run: Run, found: Matrices, ordered: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which lesson and which probe stands where; a square matrix has one order for both."""
    if ordered == BY_CLUSTER:
        rows = order.by_cluster(found.values)
        return rows, rows if found.square else order.by_cluster(found.values.T)
    rows = order.by_group(labels(run, "train")[found.samples].tolist())
    return rows, rows if found.square else order.by_group(labels(run, found.split)[found.probes].tolist())


def drawn(
    run: Run,
    found: Matrices,
    chosen: tuple[int, int],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    shown: str = MEASURED,
) -> lab_heat.Effects:
    """The matrix as drawn, its lessons in the order `rows` and its probes in the order `columns`."""
    samples, probes = found.samples[rows], found.probes[columns]
    grouped = load.meta(run).has_classes
    return lab_heat.Effects(
        values=_numbers(found, shown)[np.ix_(rows, columns)],
        lessons=ids(run, "train", samples),
        probes=ids(run, found.split, probes),
        lesson_groups=classes(run, "train", samples) if grouped else [],
        probe_groups=classes(run, found.split, probes) if grouped else [],
        unit=unit(run),
        chosen=(int(np.flatnonzero(rows == chosen[0])[0]), int(np.flatnonzero(columns == chosen[1])[0])),
    )


def _numbers(found: Matrices, shown: str) -> NDArray[np.float64]:
    if found.first_order is None or shown == MEASURED:
        return found.values
    return found.first_order if shown == FIRST else found.values - found.first_order


def _caption(run: Run, data: lab_heat.Effects, found: Matrices, shown: str) -> str:
    missing = int((~np.isfinite(found.values)).sum())
    click = "Click a cell, or choose both samples beside it." if data.clickable else "Choose both samples beside it."
    empty = f" {missing:,} of {found.values.size:,} cells are empty: not measured." if missing else ""
    what = {
        MEASURED: f"What teaching the row’s sample does to the column’s {measure(run).replace('its ', 'its own ')}",
        FIRST: "What the first order, rate times the product of both gradients, says of the same",
        DIFFERENCE: "Measured less first order",
    }[shown]
    return (
        f"{what}, in {data.unit}: blue rises, orange falls. Colors end at the 99th percentile, "
        f"{lab_heat.limit(data.values):.2g}. {click}{empty}"
    )
