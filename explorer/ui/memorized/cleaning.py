"""How far does it help to take out the most suspect, a few at a time? Start the loop, watch its curve, keep what it cleaned.

The loop is that of `explorer.jobs.cleaning`; nothing is trained here.
"""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from explorer.jobs import cleaning
from explorer.jobs.cleaning import Asked, Cleaning
from explorer.store import Run
from explorer.ui import begin, load
from explorer.ui.memorized import outcomes
from explorer.ui.views import cleaning as views
from explorer.ui.views.words import as_markdown, percent


def show(run: Run) -> None:
    """The choices, and the curves of the loops that were started."""
    st.markdown(
        "Removes the most suspect few, trains again, scores the rest anew by its losses, and goes on until the held-out loss stops improving; beside it, as many at random."
    )
    if not begin.possible(run, "Clean"):
        return
    _form(run)
    begin.stopped(run, cleaning.pending(run))
    begin.watched(run, "cleanings", lambda: _results(run))


def _form(run: Run) -> None:
    share, rounds, patience, seeds = st.columns(4)
    each = share.number_input("Removed each round, %", 0.1, 25.0, 2.0, 0.5, key="clean-share")
    most = rounds.number_input("Rounds at most", 1, 50, 10, key="clean-rounds")
    wait = patience.number_input("Rounds without a better one before it stops", 1, 10, 2, key="clean-patience")
    times = seeds.number_input("Seeds", 2, 50, 5, key="clean-seeds")
    if each * most > 100 * cleaning.MOST:
        st.caption(f"Together these rounds would remove {each * most:g} %; at most {100 * cleaning.MOST:g} % may go.")
        return
    if load.state(run).active:
        st.caption("A job is at work on this run; the next request can be started when it is done.")
        return
    if st.button("Start cleaning", key="clean-start"):
        begin.start(run, lambda: cleaning.ask(run, Cleaning(float(each) / 100, int(most), int(wait), int(times))))


def _results(run: Run) -> None:
    found = cleaning.listed(run)
    if not found:
        st.markdown(":small[Nothing was cleaned yet.]")
    for asked in found:
        with st.container(border=True, key=f"cleaning-{asked.key}"):
            _result(run, asked)


def _result(run: Run, asked: Asked) -> None:
    told = asked.cleaning
    title = f"{percent(told.share)} a round, up to {told.rounds:,} rounds, {told.seeds:,} seeds"
    st.caption(title)
    if asked.left_out:
        st.warning(as_markdown(asked.left_out))
        return
    drawn = curve(run, asked)
    if drawn is None:
        st.markdown(":small[No round is trained yet.]")
        return
    views.show(drawn, key=f"curve-{asked.key}")
    outcomes.downloads(asked.folder, asked.key, run.key)


def curve(run: Run, asked: Asked) -> views.Curve | None:
    """The rounds so far; None before the first."""
    if not asked.rounds or asked.stopped_at is None:
        return None
    gone, points = 0, []
    for told in asked.rounds:
        gone += len(told["removed"])
        points.append(
            views.Point(gone, *(_measured(told[name]) for name in ("stop_loss", "report_loss", "random_report_loss")))
        )
    gains = asked.summary["gain"]
    loss, accuracy = (
        (outcomes.effect(gains["before"][name]), outcomes.effect(gains["random"][name]))
        for name in ("report_loss", "accuracy")
    )
    return views.Curve(
        points=points,
        kept=asked.stopped_at,
        complete=asked.complete,
        total=load.meta(run).train,
        loss=loss,
        accuracy=None if math.isnan(accuracy[0].mean) else accuracy,
        unit="nats" if load.meta(run).has_outcomes else "squared error",
    )


def _measured(told: dict[str, Any]) -> tuple[float, float]:
    mean, se = (math.nan if told[name] is None else float(told[name]) for name in ("mean", "se"))
    return mean, se
