"""What does each sentence of a world do to each other one? Both matrices, in the weights and in the prompt, and an open cell.

Draws what `explorer.jobs.worlds` wrote; measures nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from explorer.jobs import worlds
from explorer.jobs.worlds import Experiment
from explorer.ui import state
from explorer.ui.laboratory import order
from explorer.ui.views import lab_heat, lab_told

AS_WRITTEN, BY_CLUSTER = "as written", "by what they teach"
WEIGHTS, PROMPT, FIRST = "in the weights", "in the prompt", "first order"
ARRAYS = {WEIGHTS: "values", PROMPT: "prompt", FIRST: "first_order"}
FACT, ASKED, OF = "world-fact", "world-asked", "world-of"
"""Session keys: the pickers' places among the sentences, and the experiment they belong to."""


def show(one: Experiment) -> None:
    """The heat map of one way beside the open cell with both."""
    held = worlds.matrices(one)
    if held is None:
        return
    names = [statement.text for statement in one.asked.world.new]
    if state.get(OF) != one.key or not all(0 <= st.session_state.get(at, -1) < len(names) for at in (FACT, ASKED)):
        state.put(OF, one.key)
        st.session_state[FACT], st.session_state[ASKED] = strongest(held["values"])
    chosen = int(st.session_state[FACT]), int(st.session_state[ASKED])
    left, right = st.columns([1.35, 1], gap="medium")
    with left:
        _heat(one, held, names, chosen)
    with right:
        st.selectbox("Taught, or told", range(len(names)), key=FACT, format_func=lambda at: names[at])
        st.selectbox("Asked", range(len(names)), key=ASKED, format_func=lambda at: names[at])
        st.html(lab_told.opened(cell(held, names, chosen)))


def strongest(values: NDArray[np.float64]) -> tuple[int, int]:
    """The largest |effect| of a sentence on another one."""
    sizes = np.abs(np.nan_to_num(values))
    np.fill_diagonal(sizes, 0.0)
    at = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
    return int(at[0]), int(at[1])


def cell(held: dict[str, NDArray[Any]], names: list[str], at: tuple[int, int]) -> lab_told.Cell:
    """A pair of sentences in both ways."""
    numbers = {way: float(held[name][at]) for way, name in ARRAYS.items() if name in held}
    back = {way: float(held[name][at[1], at[0]]) for way, name in ARRAYS.items() if name in held}
    return lab_told.Cell(names[at[0]], names[at[1]], numbers, back, float(held["before"][at[1]]))


def _heat(one: Experiment, held: dict[str, NDArray[Any]], names: list[str], chosen: tuple[int, int]) -> None:
    with st.container(horizontal=True):
        way = str(st.segmented_control("What is drawn", list(ARRAYS), default=WEIGHTS, key="world-what", required=True))
        how = st.segmented_control(
            "Order", (AS_WRITTEN, BY_CLUSTER), default=AS_WRITTEN, key="world-order", required=True
        )
    rows = order.by_cluster(held["values"]) if how == BY_CLUSTER else np.arange(len(names))
    place = {int(row): at for at, row in enumerate(rows)}
    own = [names[row] for row in rows]
    values = held[ARRAYS[way]][np.ix_(rows, rows)]
    data = lab_heat.Effects(values, own, own, own, own, "nats", (place[chosen[0]], place[chosen[1]]))
    alt = f"Effects of {len(names)} sentences on each other, {way}, as a heat map; every pair can be chosen by name beside it"
    clicked = lab_heat.show(data, alt=alt, key=f"world-{one.key}-{way}-{how}-{chosen}")  # anew: no cell stays selected
    if clicked is not None and (at := (int(rows[clicked[0]]), int(rows[clicked[1]]))) != chosen:
        st.session_state[FACT], st.session_state[ASKED] = at
        st.rerun(scope="fragment")
    told = "telling the row’s sentence in the prompt" if way == PROMPT else "teaching the row’s sentence once"
    st.caption(
        f"What {told} does to log p of the column’s sentence, in nats: blue rises, orange falls. Colors end at the 99th "
        f"percentile, {lab_heat.limit(values):.2g}. Click a cell, or choose both sentences beside it."
    )
