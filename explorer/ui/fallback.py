"""What is shown where the browser has no WebGL2? A smaller map drawn by Plotly: fewer points, and a message that says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import streamlit as st

from explorer.contracts import Target
from explorer.store import Run
from explorer.ui import load
from explorer.ui.views import plotly_map

POINTS = 2500
"""Training points drawn; the strongest of the query are always among them."""


def show(run: Run, layout: str, query: int, target: Target, on_pick: Callable[[int], None]) -> None:
    """The map for this query; `on_pick` gets the test row of a clicked test point."""
    meta = load.meta(run)
    row, top = run.row(query, target), run.top(query, target)
    values = row.values.astype(float) / 127 * row.scale if row is not None else np.zeros(meta.train)
    strongest = np.concatenate([top.towards[:10], top.away[:10]]) if top is not None else np.zeros(0, dtype=np.int64)
    sample = np.random.default_rng(0).permutation(meta.train)[:POINTS]
    shown = np.unique(np.concatenate([sample, strongest[strongest >= 0]]))
    xy = np.asarray(run.array(f"coordinates-{layout}"))
    tests = np.unique(np.append(np.random.default_rng(1).permutation(meta.test)[: POINTS // 5], query))
    st.info(
        f"This browser has no WebGL2, so the map is smaller and slower: {len(shown):,} of {meta.train:,} training and "
        f"{len(tests):,} of {meta.test:,} test points shown. The list and the galleries are complete."
    )
    picked = plotly_map.show(
        plotly_map.Points(
            xy[shown], values[shown], xy[meta.train + tests], tests, query, strongest=xy[strongest[strongest >= 0]]
        ),
        key="plotly-map",
    )
    if picked is not None and picked != query:
        on_pick(picked)
