"""The Runs page's form "Start a run": what to explain and how, what it will cost, and the button that starts it.

Computes nothing: what is asked goes to the command line in a process of its own (`ui.commands`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from explorer import sources
from explorer.errors import ExplorerError
from explorer.ui import commands
from explorer.ui.commands import Wish
from explorer.ui.views import start as views
from explorer.ui.views.words import as_markdown, safe

T = TypeVar("T")
KEY = "start"
OPEN = f"{KEY}-open"
STARTED, PRICE = f"{KEY}-started", f"{KEY}-price"
"""What the session remembers: the run that was started last, and the last wish with its price."""
TEXTS, OF_TEXTS = ".jsonl", "ekfac"
"""How paths of texts end, and the method that their runs have where none is chosen (`jobs.planning.METHODS`)."""


def show(*, expanded: bool) -> None:
    """The form, closed until it is wanted; what it needs to know of the methods is asked when it opens."""

    @st.fragment(key=KEY)
    def form() -> None:
        opened = st.expander(
            "Start a run", expanded=expanded, key=OPEN, on_change="rerun", icon=":material/add_circle:"
        )
        if opened.open:
            with opened:
                _form()

    form()
    _said()


def _form() -> None:
    described = _methods()
    if described is None:
        return
    wish = _wish(described)
    asked, started, _ = st.columns([1, 1, 5])
    wants_price = asked.button("Estimate", key=f"{KEY}-estimate", icon=":material/timer:", width="stretch")
    wants_start = started.button("Start", key=f"{KEY}-go", icon=":material/play_arrow:", width="stretch")
    if wants_price:
        _estimate(wish)
    elif wants_start:
        _start(wish)
    remembered = st.session_state.get(PRICE)
    if remembered is not None and remembered[0] == wish:
        st.html(views.price(remembered[1]))


def _methods() -> list[dict[str, Any]] | None:
    """What the methods are that a run can have; None after words that say why that is not known."""
    found = _tried(commands.methods, "Asking for the methods …")
    return None if found is None else [one for one in found if not one.get("python_only")]


def _wish(described: list[dict[str, Any]]) -> Wish:
    """What the fields say."""
    left, middle, right = st.columns(3)
    with left:
        data = views.data(list(sources.BUILT_IN), key=KEY)
        model = st.selectbox("Model", commands.MODELS, key=f"{KEY}-model", help="auto takes what fits the data.")
    with middle:
        flip, duplicate = views.faults(key=KEY)
    with right:
        chosen = views.method(described, key=KEY, usual=OF_TEXTS if data.lower().endswith(TEXTS) else None)
        queries, retrainings = views.queries(key=KEY), views.retrainings(key=KEY)
    st.html(views.about(chosen))
    settings = views.settings(chosen, key=KEY)
    st.caption(
        "A path is read as data, never run. A model of your own is code: name it in a terminal, with "
        "`explorer run --model FILE.py:FUNCTION`."
    )
    return Wish(data, flip, duplicate, str(model), str(chosen["name"]), settings, queries, retrainings)


def _estimate(wish: Wish) -> None:
    found = _tried(lambda: commands.estimate(wish), "Trying it on a sample: some seconds …")
    if found is not None:
        st.session_state[PRICE] = (wish, found)


def _start(wish: Wish) -> None:
    name = _tried(lambda: commands.start(wish), "Starting …")
    if name is not None:
        st.session_state[STARTED] = name
        st.rerun()  # the list above has one more


def _said() -> None:
    """Once, after the page was drawn anew: which run was started."""
    name = st.session_state.pop(STARTED, None)
    if name is not None:
        st.toast(f"Run {as_markdown(name)} was started; it is in the list.", icon=":material/play_arrow:")


def _tried(act: Callable[[], T], words: str) -> T | None:
    """What `act` returns; None after its refusal, said beside the form."""
    try:
        with st.spinner(words):
            return act()
    except ExplorerError as error:
        st.html(f'<p class="ix-note" role="alert">⚠ {safe(error)}</p>')
        return None
