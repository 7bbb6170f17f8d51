"""The page of the harness: list, map and a panel, each in its own fragment; a pick reruns the panel alone.

URL: n, m, kind (the made-up run), q and t (the deep link), token, layout. The panel's text is what tests read.
"""

from __future__ import annotations

import streamlit as st
import synthetic

from explorer.ui import scatter

st.set_page_config(layout="wide")
ask = st.query_params
state = st.session_state
run = f"made-{ask.get('n', '1500')}-{ask.get('m', '300')}-{ask.get('kind', 'image')}"
for name, first in {
    "query": int(ask.get("q", "0")),
    "target": ask.get("t", "label"),
    "wish": (int(ask.get("q", "0")), ask.get("t", "label")),
    "layout": ask.get("layout", "pca"),
    "revision": 0,
    "inspected": None,
    "webgl": None,
    "runs": {"map": 0, "list": 0, "panel": 0, "page": 0},
    "picks": 0,
}.items():
    state.setdefault(name, first)
state.runs["page"] += 1


def pick(query: int, target: str) -> None:
    state.query, state.target = query, target
    state.picks += 1
    st.rerun("panel")


def inspect(row: int) -> None:
    state.inspected = row
    st.rerun("panel")


def told(webgl: bool) -> None:
    state.webgl = webgl
    st.rerun(["panel", "map"])


def go(query: int) -> None:
    state.query, state.wish, state.revision = query, (query, "label"), state.revision + 1


def other_layout() -> None:
    state.layout = "umap" if state.layout == "pca" else "pca"


@st.fragment(key="list")
def predictions() -> None:
    state.runs["list"] += 1
    scatter.show_list(
        scatter.ListData(run, ask.get("token", synthetic.TOKEN), state.wish[0], state.wish[1], revision=state.revision),
        key="predictions",
        on_pick=pick,
        height=620,
    )


@st.fragment(key="map")
def examples() -> None:
    state.runs["map"] += 1
    made = synthetic.made(run)
    drawn = scatter.show(
        scatter.MapData(
            run,
            ask.get("token", synthetic.TOKEN),
            state.layout,
            made.n_train,
            made.n_test,
            state.wish[0],
            state.wish[1],
            classes=tuple("0123456789"),
            task=made.task,
            unit="nats",
            revision=state.revision,
            pictures=made.kind == "image",
        ),
        key="examples",
        on_pick=pick,
        on_inspect=inspect,
        on_webgl=told,
        on_layout=lambda _: None,
        height=620,
    )
    if not drawn:
        st.info("Here the page draws the Plotly map.")


@st.fragment(key="panel")
def panel() -> None:
    state.runs["panel"] += 1
    words = [f"query {state.query}", f"target {state.target}", f"inspected {state.inspected}", f"webgl {state.webgl}"]
    words += [f"picks {state.picks}", *(f"{name} runs {count}" for name, count in state.runs.items())]
    st.html(f'<p id="panel">{"; ".join(words)}</p>')


hidden = st.session_state.get("hidden", False)
left, middle = st.columns([1, 2])
if ask.get("list", "1") == "1":
    with left:
        predictions()
if not hidden:
    with middle:
        examples()
panel()
with st.container(horizontal=True):
    st.button("Go to 7", on_click=go, args=(7,))
    st.button("Other layout", on_click=other_layout)
    st.button("Rerun")
    st.button("Hide or show", on_click=lambda: state.update(hidden=not hidden))
    st.text_input("Elsewhere", key="elsewhere")
