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
from explorer.shown.filters import LEVELS, Filter
from explorer.store import Row, Run
from explorer.ui import answers, load
from explorer.ui.parts import facts
from explorer.ui.parts.taught import WAITING
from explorer.ui.views import plotly_map
from explorer.ui.views.plotly_map import Points, Scale
from explorer.ui.wire import NAMED

POINTS = 2500
"""Training points drawn; the strongest of the query are always among them."""
LABELED = {"classification": "log p of its label, nats", "regression": "−½ squared error"}
"""What a lesson changes at a point."""


def show(
    run: Run,
    layout: str,
    query: int,
    target: Target,
    on_pick: Callable[[int], None],
    lesson: int | None = None,
    kept: Filter | None = None,
) -> None:
    """The map for this query, or for the `lesson` in a training row, of what the filter `kept` lets through.

    `on_pick` gets the test row of a clicked test point.
    """
    kept = kept or Filter()
    points = _taught(run, layout, query, lesson, kept) or _influence(run, layout, query, target, kept)
    meta, filtered = load.meta(run), " by the filter" if kept else ""
    st.info(
        f"This browser has no WebGL2, so the map is smaller and slower: {len(points.train):,} of {meta.train:,} training and "
        f"{len(points.test):,} of {meta.test:,} test points shown{filtered}. The list and the galleries are complete."
    )
    picked = plotly_map.show(points, key="plotly-map")
    if picked is not None and picked != query:
        on_pick(picked)


def _influence(run: Run, layout: str, query: int, target: Target, kept: Filter) -> Points:
    meta, row, top = load.meta(run), run.row(query, target), run.top(query, target)
    strongest = np.concatenate([top.towards[:10], top.away[:10]]) if top is not None else np.zeros(0, dtype=np.int64)
    strongest = strongest[strongest >= 0]
    shown = _shown(run, kept, row)
    strongest = strongest[shown[strongest]]
    train, test, places = _drawn(run, layout, shown, strongest, np.array([query]))
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


def _taught(run: Run, layout: str, query: int, row: int | None, kept: Filter) -> Points | None:
    """The map in the colors of a lesson; None where there is none, which the drawer explains."""
    if row is None or (found := _lesson(run, row)) is None:
        return None
    meta = load.meta(run)
    shown = _shown(run, kept, found.train)
    strongest = np.concatenate([found.improved.rows[:NAMED], found.worsened.rows[:NAMED]])
    strongest = strongest[shown[meta.train + strongest]]
    train, test, places = _drawn(run, layout, shown, np.array([row]), np.append(strongest, query))
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


def _shown(run: Run, kept: Filter, row: Row | None) -> NDArray[np.bool_]:
    """Which points the filter lets through `[train + test]`, by the rule of the map."""
    if not kept:
        return np.ones(load.meta(run).train + load.meta(run).test, dtype=np.bool_)
    train, test = facts.side(run, "train"), facts.side(run, "test")
    classes, wrong = np.concatenate([train.classes, test.classes]), np.concatenate([train.wrong, test.wrong])
    return kept.shown(classes, wrong, train.suspect, row, train.retrained)


def _drawn(
    run: Run, layout: str, shown: NDArray[np.bool_], train: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Training and test rows to draw, those given among them, and the places of all points `[train + test, 2]`."""
    meta = load.meta(run)
    some = np.random.default_rng(0).permutation(np.flatnonzero(shown[: meta.train]))[:POINTS]
    others = np.random.default_rng(1).permutation(np.flatnonzero(shown[meta.train :]))[: POINTS // 5]
    places = np.asarray(run.array(f"coordinates-{layout}"))
    return np.unique(np.append(some, train)), np.unique(np.append(others, test)), places
