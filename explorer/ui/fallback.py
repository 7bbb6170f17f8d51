"""What is shown where the browser has no WebGL2? A smaller map drawn by Plotly: fewer points, and a message that says so.

Colored by the influence on a prediction, or by what teaching one example changed, as the map is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from explorer.contracts import Target
from explorer.errors import ExplorerError
from explorer.jobs.lesson import Lesson
from explorer.shown.filters import LEVELS
from explorer.store import Run
from explorer.ui import answers, load
from explorer.ui.parts.taught import WAITING
from explorer.ui.views import plotly_map
from explorer.ui.views.plotly_map import Points, Scale
from explorer.ui.wire import NAMED

POINTS = 2500
"""Training points drawn; the strongest of the query are always among them."""
LABELED = {"classification": "log p of its label, nats", "regression": "−½ squared error"}
"""What a lesson changes at a point."""


def show(
    run: Run, layout: str, query: int, target: Target, on_pick: Callable[[int], None], lesson: int | None = None
) -> None:
    """The map for this query, or for the `lesson` in a training row; `on_pick` gets the test row of a clicked test point."""
    points = _taught(run, layout, query, lesson) or _influence(run, layout, query, target)
    meta = load.meta(run)
    st.info(
        f"This browser has no WebGL2, so the map is smaller and slower: {len(points.train):,} of {meta.train:,} training and "
        f"{len(points.test):,} of {meta.test:,} test points shown. The list and the galleries are complete."
    )
    picked = plotly_map.show(points, key="plotly-map")
    if picked is not None and picked != query:
        on_pick(picked)


def _influence(run: Run, layout: str, query: int, target: Target) -> Points:
    meta, row, top = load.meta(run), run.row(query, target), run.top(query, target)
    strongest = np.concatenate([top.towards[:10], top.away[:10]]) if top is not None else np.zeros(0, dtype=np.int64)
    strongest = strongest[strongest >= 0]
    train, test, places = _drawn(run, layout, strongest, np.array([query]))
    limit = row.scale if row is not None else 0.0
    values = row.values / LEVELS * limit if row is not None else np.zeros(meta.train)
    return Points(
        places[train],
        values[train],
        places[meta.train + test],
        test,
        query,
        places[strongest],
        Scale(limit, "towards", "away", answers.unit(run, target)),
    )


def _taught(run: Run, layout: str, query: int, row: int | None) -> Points | None:
    """The map in the colors of a lesson; None where there is none, which the drawer explains."""
    if row is None or (found := _lesson(run, row)) is None:
        return None
    meta = load.meta(run)
    strongest = np.concatenate([found.improved.rows[:NAMED], found.worsened.rows[:NAMED]])
    train, test, places = _drawn(run, layout, np.array([row]), np.append(strongest, query))
    own, other = (part.values / LEVELS * part.scale for part in (found.train, found.test))
    return Points(
        places[train],
        own[train],
        places[meta.train + test],
        test,
        query,
        places[meta.train + strongest],
        Scale(found.train.scale, "improved", "got worse", LABELED[meta.task]),
        other[test],
        places[[row]],
    )


def _lesson(run: Run, row: int) -> Lesson | None:
    try:
        with st.spinner(WAITING):
            return load.lesson(run, row)
    except ExplorerError:
        return None


def _drawn(
    run: Run, layout: str, train: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Training and test rows to draw, those given among them, and the places of all points `[train + test, 2]`."""
    meta = load.meta(run)
    some = np.random.default_rng(0).permutation(meta.train)[:POINTS]
    others = np.random.default_rng(1).permutation(meta.test)[: POINTS // 5]
    places = np.asarray(run.array(f"coordinates-{layout}"))
    return np.unique(np.append(some, train)), np.unique(np.append(others, test)), places
