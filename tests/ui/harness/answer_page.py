"""The page of the tests of the answer: the list, the answer in two places, a part with tiles, and what Python heard.

URL: q (the deep link), list=0 (no list), version (how far the run is computed). The button "Grow" says that the run has
more to show; "Rerun" runs everything again.
"""

from __future__ import annotations

import streamlit as st
import synthetic

from explorer.ui import scatter

st.set_page_config(layout="wide")
ask, state = st.query_params, st.session_state
run = "made-1500-300-image"
for name, first in {
    "query": int(ask.get("q", "17")),
    "target": ask.get("t", "label"),
    "inspected": None,
    "picks": 0,
    "inspections": 0,
    "version": 0,
    "panels": 0,
}.items():
    state.setdefault(name, first)


def picked(query: int, target: str) -> None:
    state.query, state.target, state.picks = query, target, state.picks + 1
    st.rerun("panel")


def inspected(row: int) -> None:
    state.inspected, state.inspections = row, state.inspections + 1
    st.rerun("panel")


@st.fragment(key="list")
def predictions() -> None:
    data = scatter.ListData(run, synthetic.TOKEN, int(ask.get("q", "17")), ask.get("t", "label"))
    scatter.show_list(data, key="predictions", on_pick=picked, height=420)


def answer(*sections: scatter.Section) -> None:
    data = scatter.AnswerData(
        run, synthetic.TOKEN, state.query, 1500, 300, state.target, version=str(state.version), sections=sections
    )
    scatter.show_answer(data, key=f"answer-{sections[0]}", on_pick=picked, on_inspect=inspected)


@st.fragment(key="panel")
def panel() -> None:
    state.panels += 1
    answer("card", "trust")
    answer("galleries")
    html = '<p>Part <button data-query="3" class="ix-third">the third</button><span tabindex="0" role="button" data-inspect="30" data-point="30">thirty</span></p>'
    scatter.show_tiles(html, run=run, key="part", on_pick=picked, on_inspect=inspected)
    said = [f"{name} {state[name]};" for name in ("query", "target", "inspected", "picks", "inspections", "panels")]
    st.html(f'<p id="heard">{" ".join(said)}</p>')


left, right = st.columns(2)
if ask.get("list", "1") == "1":
    with left:
        predictions()
with right:
    panel()
st.button("Grow", on_click=lambda: state.update(version=state.version + 1))
st.button("Rerun")
