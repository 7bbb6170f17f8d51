"""One panel with the parts Compare, Classes and Edit and the drawer, over a run: the stage for their browser tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import streamlit as st

from explorer.store import Run
from explorer.ui import frame
from explorer.ui.parts import compare, drawer, edit, matrix

PARTS = ("Compare", "Classes", "Edit")

st.set_page_config(layout="wide")
frame.style()
run = Run.at(Path(os.environ["EXPLORER_TEST_RUN"]))
first = int(run.plan("label")[0])


def put(name: str, value: Any) -> None:
    st.session_state[name] = value


@st.fragment(key="panel")
def panel() -> None:
    def picked(query: int, _: str) -> None:
        put("query", query)
        st.rerun("panel")

    def inspected(row: int) -> None:
        put("inspected", row)
        st.rerun("panel")

    query = st.session_state.get("query", int(run.plan("label")[1]))
    part = st.segmented_control("Part", PARTS, default="Classes", required=True)
    st.text(f"query {query}, filter {st.session_state.get('filter')}")
    if part == "Compare":
        compare.show(run, (first, "label"), query, "label", picked, inspected)
    elif part == "Edit":
        edit.show(run, query, "label", picked, inspected)
    else:
        matrix.show(run, picked, inspected, lambda classes: put("filter", classes))
    if st.session_state.get("inspected") is not None:
        row = st.session_state["inspected"]
        drawer.show(run, row, query, "label", picked, inspected, lambda: put("inspected", None))


panel()
