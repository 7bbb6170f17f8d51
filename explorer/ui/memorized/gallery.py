"""Which examples are in this corner? The picker of quadrants, what the chosen one means, and its first examples to open."""

from __future__ import annotations

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from explorer import memorization
from explorer.store import Run
from explorer.ui import load, scatter, state
from explorer.ui.memorized import example, link, quadrants, thresholds
from explorer.ui.memorized.thresholds import CORNERS, Measured
from explorer.ui.views import examples

TILES = 24
ORDERS: dict[str, tuple[str, bool, str]] = {
    memorization.HARMFUL: ("percentile", False, "most suspect first"),
    memorization.USEFUL: ("held_out", False, "most helpful first"),
    memorization.MEMORIZED_NEUTRAL: ("self_influence", False, "highest self-influence first"),
    memorization.GENERALIZED: ("held_out", False, "most helpful first"),
    memorization.REDUNDANT: ("held_out", True, "most harmful first"),
    memorization.NEUTRAL: ("self_influence", True, "lowest self-influence first"),
}
"""Column, ascending, and the order in words, for each quadrant's tiles."""


def chosen_corner() -> int:
    """The number of the corner that is open."""
    name = state.get(link.QUADRANT)
    return CORNERS.index(name) if name in CORNERS else 0


def ordered(run: Run, found: Measured, corner: int) -> NDArray[np.int64]:
    """Rows of a corner in the order of its tiles."""
    column, ascending, _ = ORDERS[CORNERS[corner]]
    kept = {"held_out": found.held_out, "self_influence": found.self_influence}
    values = kept[column] if column in kept else load.train_table(run)[column].to_numpy(np.float64)
    rows = found.members(corner)
    return rows[np.argsort(values[rows] if ascending else -values[rows], kind="stable")]


@st.fragment(key="examples")
def show(run: Run) -> None:
    """The picker of quadrants, what the chosen one means, and its first examples."""
    found = thresholds.measured(run, quadrants.thresholds_of(run))
    counts = np.bincount(found.corner, minlength=len(CORNERS))
    marks = {name: f"{group.mark} {group.name}" for name, group in zip(CORNERS, quadrants.GROUPS, strict=True)}
    if state.get(link.QUADRANT) not in CORNERS:
        state.put(link.QUADRANT, CORNERS[int(np.flatnonzero(counts)[0])] if counts.any() else CORNERS[0])
    name = st.segmented_control(
        "Quadrant",
        list(marks),
        format_func=lambda option: f"{marks[option]} · {counts[CORNERS.index(option)]:,}",
        key=link.QUADRANT,
        required=True,
        wrap=True,
        persist_state="session",
        on_change=_turned,
        args=(run,),
    )
    members = ordered(run, found, CORNERS.index(str(name)))
    shown = [example.of(run, int(row), found) for row in members[:TILES]]
    counted = (
        f" :small[{len(shown)} of {len(members):,} shown, {ORDERS[str(name)][2]}; click one to see its history.]"
        if shown
        else ""
    )
    st.markdown(memorization.QUADRANTS[str(name)] + counted)
    scatter.show_tiles(
        examples.tiles(shown, memorization.NAMES[str(name)]),
        run=run.key,
        key="memorized-gallery",
        on_pick=lambda *_: None,
        on_inspect=_opened,
    )


def _opened(row: int) -> None:
    example.open_row(row)
    st.rerun("quadrants")


def _turned(run: Run) -> None:
    """Acting may be on the open corner."""
    link.write(run)
    st.rerun(["examples", "further"])
