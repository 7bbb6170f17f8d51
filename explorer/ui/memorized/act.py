"""What would acting on suspects do? Choose them, choose relabel, drop or downweight, start, and see what came out.

The request is that of `explorer.jobs.remedies`, which also wrote what is downloaded; nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from explorer import memorization
from explorer.jobs import remedies
from explorer.jobs.remedies import Action, Asked, Remedy
from explorer.jobs.signs import SIGNS
from explorer.store import Run
from explorer.ui import begin, load
from explorer.ui.memorized import gallery, outcomes, quadrants, suspects, thresholds
from explorer.ui.views import remedy as views
from explorer.ui.views.words import as_markdown

WHO = ("The most suspect", "The open corner", "Ticked in the table")
SUGGESTED, ONE = "what the model or its neighbors say", "one class"
LISTED = 200
"""Suspects in the table to tick."""
SEEDS = 10
WORDS: dict[Action, tuple[str, str]] = {
    "relabel": ("Relabel", "Relabeling"),
    "drop": ("Drop", "Dropping"),
    "downweight": ("Downweight", "Downweighting"),
}


def show(run: Run) -> None:
    """The choices, and what came of those that were started."""
    st.markdown(
        "Trains the model again with and without the change, several times, in the background; and as often without as many random "
        "others, for removing anything at all changes something."
    )
    if not begin.possible(run, "Act on"):
        return
    rows = _who(run)
    _what(run, rows)
    begin.stopped(run, remedies.pending(run))
    begin.watched(run, "remedies", lambda: _results(run))


def _who(run: Run) -> NDArray[np.int64]:
    chosen = st.segmented_control("On whom", WHO, default=WHO[0], key="act-who", required=True)
    most = load.meta(run).train // 2
    if chosen == WHO[1]:
        rows = gallery.ordered(run, _measured(run), gallery.chosen_corner())
        name = memorization.NAMES[thresholds.CORNERS[gallery.chosen_corner()]]
        st.markdown(
            f"All {len(rows):,} in “{name}” under the thresholds above. :small[Open another corner in the picker of quadrants.]"
        )
        if len(rows) > most:
            st.caption(f"The first {most:,} of them are taken: as many others have to be left to leave out at random.")
        return rows[:most]
    left, right = st.columns([1, 1.4], vertical_alignment="bottom")
    names = suspects.scores(run)
    by = right.selectbox(
        "By which score", names, key="act-score", format_func=lambda name: SIGNS[name][0] if name in SIGNS else name
    )
    order = suspects.by_score(run, str(by), None if by == suspects.OWN else load.signs(run)[0])
    if chosen == WHO[2]:
        return _ticked(run, order[:LISTED])
    fit = min(max(1, int(_measured(run).suspect.sum())), most)
    count = left.number_input("How many, most suspect first", 1, most, fit, key=f"act-count-{run.key}-{fit}")
    return order[: int(count)]


def _measured(run: Run) -> thresholds.Measured:
    return thresholds.measured(run, quadrants.thresholds_of(run))


def _ticked(run: Run, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    event: Any = st.dataframe(
        suspects.listed(run, rows),
        hide_index=True,
        height=260,
        key=f"act-table-{run.key}",
        on_select="rerun",
        selection_mode="multi-row",
        column_config={
            "suspect z": st.column_config.NumberColumn(format="%.2f"),
            "self-influence": st.column_config.NumberColumn(format="%.3g"),
            "held-out": st.column_config.NumberColumn(format="%.3g"),
        },
        alt=f"The {len(rows)} most suspect training examples, to be ticked",
    )
    return suspects.ticked(event, rows)


def _what(run: Run, rows: NDArray[np.int64]) -> None:
    left, middle, right = st.columns([1.4, 1.6, 1], vertical_alignment="bottom")
    with left:
        action: Any = st.segmented_control(
            "Do what",
            get_args(Action),
            default="drop",
            key="act-what",
            required=True,
            format_func=lambda name: WORDS[name][0],
        )
    labels: list[float | None] | None = None
    weight = 0.1
    with middle:
        if action == "relabel":
            labels = _labels(run, rows)
        elif action == "downweight":
            weight = st.slider("Weight that is left", 0.05, 0.95, 0.1, 0.05, key="act-weight")
    seeds = right.number_input(
        "Seeds",
        remedies.FEWEST,
        50,
        SEEDS,
        key="act-seeds",
        help="How often each model is trained; 10 give an interval worth reading.",
    )
    chosen = tuple(int(row) for row in rows)
    new: tuple[float, ...] | None = None
    if labels is not None:
        chosen, new = suspects.changed(rows, labels)
        if len(chosen) < len(rows):
            st.caption(
                f"{len(rows) - len(chosen):,} of {len(rows):,} keep their label: nothing else is suggested for them."
            )
    if chosen:
        _begin(
            run,
            lambda: Remedy(action, chosen, new, float(weight), seeds=int(seeds)),
            f"{WORDS[action][0]} {len(chosen):,}",
        )
    else:
        st.caption("Nothing is chosen to act on.")


def _begin(run: Run, remedy: Callable[[], Remedy], words: str) -> None:
    if load.state(run).active:
        st.caption("A job is at work on this run; the next request can be started when it is done.")
    elif st.button(f"{words} and train again", key="act-start"):
        begin.start(run, lambda: remedies.ask(run, remedy()))


def _labels(run: Run, rows: NDArray[np.int64]) -> list[float | None]:
    meta = load.meta(run)
    if meta.task == "regression":
        st.caption("To the model’s own answer.")
        return suspects.proposed(run, rows)
    to = st.selectbox(
        "To which label",
        (SUGGESTED, *range(len(meta.classes))),
        key="act-label",
        format_func=lambda option: option if isinstance(option, str) else f"all to {meta.classes[option]}",
    )
    return suspects.proposed(run, rows) if isinstance(to, str) else suspects.one_class(run, rows, int(to))


def _results(run: Run) -> None:
    found = remedies.listed(run)
    if not found:
        st.markdown(":small[Nothing was tried yet.]")
    for place, asked in enumerate(found):
        with st.container(border=True, key=f"remedy-{asked.key}"):
            _result(run, asked, opened=place == 0)


def _result(run: Run, asked: Asked, opened: bool) -> None:
    title = outcomes.title(asked.remedy)
    if asked.left_out:
        st.warning(f"{title}: {as_markdown(asked.left_out)}")
        return
    result = outcomes.result(run, asked)
    if result is None:
        st.markdown(f"**{title}**: :small[nothing is trained yet.]")
        return
    if opened:
        views.show(result, key=f"outcome-{asked.key}")
    else:
        with st.expander(f"{title}, {result.seeds:,} seeds"):
            views.show(result, key=f"outcome-{asked.key}")
    outcomes.downloads(asked.folder, asked.key, run.key)
