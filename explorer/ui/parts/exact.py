"""The Answer part's "Trace exactly": the selected prediction explained by going back through the run's own training.

The worker computes while the page asks how far it is; what is asked for is kept by prediction for this session, not
in the address.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from explorer.contracts import Target
from explorer.errors import ExplorerError
from explorer.jobs import asking
from explorer.jobs.asking import Traced, UnderWay
from explorer.store import Run
from explorer.ui import answers, load, scatter, state
from explorer.ui.views import exact, gallery
from explorer.ui.views.words import as_markdown, duration

LISTED = 20
"""Strongest examples, half of each sign, of which the shared ones are counted."""
AGAIN = 0.5
"""Seconds after which the page asks again how far a trace is."""
WAITING = "Asking the run's worker; the first question starts it, which takes some seconds."
WANTED, REFUSED = "exact-wanted", "exact-refused"
"""Session keys: predictions whose trace is on screen when they are, and the reasons of those that had none."""


def concerns(run: Run, query: int, target: Target) -> bool:
    """Whether the page has more to show of a prediction than the browser can draw by itself."""
    at = (run.key, query, target)
    return at in state.get(WANTED, ()) or at in state.get(REFUSED, {})


def show(
    run: Run, query: int, target: Target, on_pick: Callable[[int, Target], None], on_inspect: Callable[[int], None]
) -> bool:
    """The button, or the trace that was asked for; True where its galleries stand in for those of the run's method."""
    method = str(run.spec["method"]["name"])
    if method == asking.TRACE:
        return False  # every answer of this run is a trace
    if (run.key, query, target) not in state.get(WANTED, ()):
        _offer(run, query, target)
        return False
    try:
        with st.spinner(WAITING):
            found = asking.trace(run, query, target)
    except ExplorerError as error:
        _refuse(run, query, target, error)
        _offer(run, query, target)
        return False
    if isinstance(found, UnderWay):
        st.button("Stop", key="exact-stop", on_click=_leave, args=(run,), help=f"Keep the answer of {method}")
        st.fragment(_progress, run_every=AGAIN)(run, query, target)
        return False
    st.button(
        f"Back to {method}", key="exact-back", on_click=_leave, args=(run,), help="The answer of the run's own method"
    )
    st.html(exact.line(compared(run, found)))
    towards, away = answers.tiles(run, found.top)
    html = gallery.galleries(towards, away, unit(run, target), load.meta(run).train)
    scatter.show_tiles(html, run=run.key, key="exact-tiles", on_pick=on_pick, on_inspect=on_inspect)
    return True


def compared(run: Run, found: Traced) -> exact.Exact:
    """A trace in plain data."""
    train = load.meta(run).train
    listed = min(LISTED, train // 2 * 2)
    shared = round(found.top.overlap * listed)
    method = str(run.spec["method"]["name"])
    return exact.Exact(method, found.top.agreement, shared, listed, train, found.steps, found.seconds)


def unit(run: Run, target: Target) -> str:
    """A trace is in the unit of the measure, whatever the run's own method is in."""
    return answers.unit_of_measure(run, target)


def _offer(run: Run, query: int, target: Target) -> None:
    """The button that asks for a trace, and why there is none where that is known."""
    reason = asking.trace_obstacle(run)
    seconds = load.state(run).timings.get("training")
    takes = "" if seconds is None else f"; about {duration(max(1.0, seconds))}, as long as the training took"
    says = f"Goes back through every step of this run's training{takes}."
    st.button(
        "Trace exactly",
        key="exact-trace",
        on_click=_want,
        args=(run,),
        disabled=reason is not None,
        help=says if reason is None else as_markdown(reason),
    )
    refused = state.get(REFUSED, {}).get((run.key, query, target))
    if refused is not None:
        st.warning(as_markdown(refused))


def _progress(run: Run, query: int, target: Target) -> None:
    """How far the trace is; the page is drawn again once when it has ended (a fragment cannot redraw its parent)."""
    try:
        found = asking.trace(run, query, target)
    except ExplorerError as error:
        _refuse(run, query, target, error)
        st.rerun()
    if isinstance(found, UnderWay):
        left = "" if found.seconds_left is None else f", about {duration(max(1.0, found.seconds_left))} left"
        st.progress(min(1.0, max(0.0, found.share)), f"Tracing exactly: {as_markdown(found.note)}{left}")
        return
    st.rerun()


def _want(run: Run) -> None:
    """Ask for a trace of what is selected now: the browser may have moved on since the button was drawn."""
    at = (run.key, state.get("query"), state.get("target"))
    state.put(WANTED, {*state.get(WANTED, ()), at})
    state.put(REFUSED, {key: words for key, words in state.get(REFUSED, {}).items() if key != at})


def _leave(run: Run) -> None:
    state.put(WANTED, set(state.get(WANTED, ())) - {(run.key, state.get("query"), state.get("target"))})


def _refuse(run: Run, query: int, target: Target, error: ExplorerError) -> None:
    at = (run.key, query, target)
    state.put(WANTED, set(state.get(WANTED, ())) - {at})
    state.put(REFUSED, {**state.get(REFUSED, {}), at: str(error)})
