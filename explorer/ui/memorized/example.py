"""What happened to this one example? Its card, its history over epochs, its nearest twins, and a link to it on the map.

Which example is open is one number in the session; the picture and the galleries set it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from explorer import memorization
from explorer.store import Run
from explorer.ui import answers, load, scatter, state, wire
from explorer.ui.memorized import measure
from explorer.ui.memorized.link import OPEN
from explorer.ui.memorized.thresholds import CORNERS, Measured
from explorer.ui.parts import drawer
from explorer.ui.views import examples, history, neighbors
from explorer.ui.views.examples import Example

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer

VALUES = 3
"""Values shown of a table row, most unusual first."""
TWINS = 6
"""Nearest training examples shown beside the history."""


def open_row(row: int | None) -> None:
    """Open a training example beside the picture, or close it."""
    state.put(OPEN, row)


def opened(run: Run) -> int | None:
    """The row that is open, if the run has it."""
    row = state.get(OPEN)
    return row if isinstance(row, int) and 0 <= row < load.meta(run).train else None


def show(run: Run, row: int, found: Measured) -> None:
    """The card, the history, and the twins; they come into view where they were opened from far below."""
    one = of(run, row, found)
    with st.container(key="ix-opened"):
        _seen()(key="opened-seen", data={"name": one.id}, height=0)
        st.html(examples.card(one))
        with st.container(horizontal=True):
            st.page_link(
                "screens/explore.py",
                label="See it on the map",
                icon=":material/map:",
                query_params={"run": run.key, "row": one.id},
            )
            st.button("Close", key="close-example", on_click=_close, type="tertiary")
        _history(run, row)
        _twins(run, row, one.id)


def of(run: Run, row: int, found: Measured) -> Example:
    """One training example with its measurements under the thresholds."""
    meta, known = load.meta(run), load.train_table(run).iloc[row]
    label, said = wire.names(pd.Series([known["label"], known["prediction"]]), meta)
    corner = CORNERS[int(found.corner[row])]
    return Example(
        id=str(known["id"]),
        face=answers.face(run, "train", row, VALUES),
        label=label,
        prediction=said,
        right=not bool(known["wrong"]) if meta.has_outcomes else None,
        percentile=float(known["percentile"]),
        self_influence=float(found.self_influence[row]),
        held_out=float(found.held_out[row]),
        held_out_se=float(found.held_out_se[row]),
        neutral=bool(found.neutral[row]),
        suspect=bool(found.suspect[row]),
        quadrant=memorization.NAMES[corner],
        meaning=memorization.QUADRANTS[corner],
        planted=answers.planted(known, meta),
        row=row,
        retrained=measure.of_row(run, row),
        memorized=bool((flagged := load.retrained(run)) is not None and flagged[row]),
    )


def past(run: Run, row: int) -> history.History | None:
    """The example after each epoch; None without a training log."""
    log = load.epochs(run, row)
    if log is None:
        return None
    known = load.meta(run).has_outcomes and bool(np.isfinite(log["confidence"]).all())
    return history.History(
        [float(value) for value in log["loss"]],
        [float(value) for value in log["confidence"]] if known else [],
        [bool(value) for value in log["correct"]] if known else [],
    )


def _history(run: Run, row: int) -> None:
    found = past(run, row)
    if found is None:
        st.html('<p class="ix-note">No history over epochs: the weights were given, so there is no training log.</p>')
        return
    history.show(found, key=f"history-{run.key}")


def _twins(run: Run, row: int, name: str) -> None:
    found = drawer.nearest(run, "train", row)
    if found is None:
        st.info(_no_neighbors(run))
        return
    scatter.show_tiles(
        neighbors.neighbors(found[:TWINS], name, trained=True),
        run=run.key,
        key="memorized-twins",
        on_pick=lambda *_: None,
        on_inspect=_inspected,
    )


def _no_neighbors(run: Run) -> str:
    if load.state(run).active:
        return "The nearest training examples are found in the job's last stage; they appear here when it is done."
    return (
        "This run holds no nearest neighbors: it was computed before they were part of a run, or its job stopped early."
    )


def _inspected(row: int) -> None:
    open_row(row)
    st.rerun("quadrants")


def _close() -> None:
    open_row(None)
    st.rerun("quadrants")


@cache
def _seen() -> ComponentRenderer:
    script = Path(__file__).with_name("opened.js").read_text(encoding="utf-8")
    return st.components.v2.component("influence_opened", html="<span hidden></span>", js=script, isolate_styles=False)
