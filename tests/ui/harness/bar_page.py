"""The page of the tests of the bar and the list: both of them, and as JSON what Python heard of the view.

URL: n, m, kind (the made-up run), q (the deep link), named=1 (hostile class names), many=1 (thirty class names), wish (the
view that Python wants at first, as JSON). There is no map: tests publish in its place what it would.
"""

from __future__ import annotations

import json

import numpy as np
import streamlit as st
import synthetic

from explorer.ui import scatter

st.set_page_config(layout="wide")
ask = st.query_params
state = st.session_state
run = f"made-{ask.get('n', '1500')}-{ask.get('m', '300')}-{ask.get('kind', 'image')}"
made = synthetic.made(run)
for name, first in {
    "wish": json.loads(ask["wish"]) if "wish" in ask else None,
    "revision": 1,
    "view": None,
    "views": 0,
    "runs": {"bar": 0, "page": 0},
}.items():
    state.setdefault(name, first)
state.runs["page"] += 1
names = [f"{synthetic.HOSTILE_ID}{n}" if ask.get("named") else str(n) for n in range(30 if ask.get("many") else 10)]
classes = () if made.task == "regression" else tuple(names)
query = int(ask.get("q", "17"))
suspect, retrained = (np.random.default_rng(seed).random(made.n_train) < 0.05 for seed in (1, 3))
wrong_train = np.random.default_rng(2).random(made.n_train) < 0.02


def looked(view: dict[str, object]) -> None:
    state.view = view
    state.views += 1
    st.rerun("panel")


def wish() -> None:
    state.wish, state.revision = {"filter": FILTER, "color": "label", "pinned": None}, state.revision + 1


FILTER = {
    "classes": [3],
    "outcome": "wrong",
    "suspect": False,
    "sign": "away",
    "low": None,
    "high": 0.001,
    "retrained": False,
}


@st.fragment(key="bar")
def bar() -> None:
    state.runs["bar"] += 1
    labels, wrong = (made.classes[: made.n_train], made.classes[made.n_train :]), (wrong_train, made.wrong)
    counts = scatter.counted(len(classes), labels, wrong, suspect, retrained)
    data = scatter.BarData(run, synthetic.TOKEN, made.task, classes, "nats", state.revision, state.wish, counts=counts)
    scatter.show_bar(data, key="the-bar", on_view=looked)


@st.fragment(key="list")
def predictions() -> None:
    data = scatter.ListData(run, synthetic.TOKEN, query, revision=state.revision, classes=classes)
    scatter.show_list(data, key="predictions", on_pick=lambda *_: None, height=520)


@st.fragment(key="panel")
def panel() -> None:
    st.html(f'<p id="heard">{json.dumps({"view": state.view, "views": state.views, "runs": state.runs})}</p>')


bar()
predictions()
panel()
with st.container(horizontal=True):
    st.button("Wish", on_click=wish)
    st.button("Rerun")
    st.text_input("Elsewhere", key="elsewhere")
