"""The drawer's "Teach the model this once": one lesson in this training example, and what improved and got worse elsewhere.

The run's worker teaches a copy of its model; the map is colored by the answer while `lesson` in the session names the row.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from explorer.contracts import Target
from explorer.errors import ExplorerError
from explorer.jobs import asking
from explorer.jobs.lesson import Changed, Lesson
from explorer.store import Run
from explorer.ui import answers, load, scatter, state
from explorer.ui.parts import items
from explorer.ui.views import lab_lesson as views
from explorer.ui.views.words import as_markdown
from explorer.ui.wire import NAMED

WAITING = "Teaching the model this example; the first question starts the run's worker, which takes some seconds."
REFUSED = "lesson-refused"
"""Session key: why which row could not be taught."""


def show(
    run: Run,
    train_row: int,
    on_pick: Callable[[int, Target], None],
    on_inspect: Callable[[int], None],
    on_teach: Callable[[int | None], None],
) -> None:
    """The button, or what the lesson changed with the way back to influence."""
    if state.get("lesson") != train_row:
        _offer(run, train_row, on_teach)
        return
    try:
        with st.spinner(WAITING):
            found = load.lesson(run, train_row)
    except ExplorerError as error:
        state.put(REFUSED, (run.key, train_row, str(error)))
        on_teach(None)
        return
    st.button("Back to influence", key="lesson-back", on_click=on_teach, args=(None,), icon=":material/undo:")
    html = views.lesson(told(run, found))
    scatter.show_tiles(html, run=run.key, key="lesson-tiles", on_pick=on_pick, on_inspect=on_inspect)


def told(run: Run, found: Lesson) -> views.Lesson:
    """A lesson in plain data."""
    test = found.test.values
    return views.Lesson(
        words=found.words,
        seconds=found.seconds,
        own_loss=found.own_loss,
        improves=int((test > 0).sum()),
        worsens=int((test < 0).sum()),
        total=len(test),
        improved=_changes(run, found.improved),
        worsened=_changes(run, found.worsened),
        unit=answers.unit_of_measure(run, "label"),
        resolved=found.train.scale > found.resolution,
    )


def _changes(run: Run, found: Changed) -> tuple[views.Change, ...]:
    shown = items.predictions(run, found.rows[:NAMED])
    probable = load.meta(run).has_outcomes
    return tuple(
        views.Change(item, float(change), float(before) if probable else None)
        for (item, _), change, before in zip(shown, found.change, found.before, strict=False)
    )


def _offer(run: Run, train_row: int, on_teach: Callable[[int | None], None]) -> None:
    reason = asking.obstacle(run)
    asking.warm(run)  # who opens an example may teach it: the first lesson is not to wait for the worker
    says = "Fine-tunes a copy of the model on this example alone, one step, and colors the map by what improved and got worse."
    st.button(
        "Teach the model this once",
        key="lesson-teach",
        on_click=on_teach,
        args=(train_row,),
        disabled=reason is not None,
        help=says if reason is None else as_markdown(reason),
        icon=":material/school:",
    )
    at = state.get(REFUSED)
    if at is not None and at[:2] == (run.key, train_row):
        st.warning(as_markdown(at[2]))
