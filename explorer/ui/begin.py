"""How does a panel start work on a run, and watch it? The request, the worker, and words where it cannot be.

Every request is written by its own module of `explorer.jobs`; nothing is computed in this process.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from explorer import jobs
from explorer.errors import ExplorerError
from explorer.jobs.requests import check_training, in_memory
from explorer.store import Run
from explorer.ui import load
from explorer.ui.views.jobs import standing
from explorer.ui.views.words import as_markdown, safe

POLL = 2.0
"""Seconds between two looks at results that grow."""


def possible(run: Run, what: str) -> bool:
    """Whether the run's model can be trained again; if not, the page says why."""
    try:
        check_training(run, what)
    except ExplorerError as error:
        st.info(as_markdown(error))
        return False
    return True


def readable(run: Run) -> bool:
    """Whether data and model can be had again from files."""
    return not in_memory(run)


def start(run: Run, ask: Callable[[], object]) -> None:
    """Write the request, see that a worker is at it, and draw the page anew; a refusal is said in place."""
    try:
        ask()
        jobs.start(run)
    except ExplorerError as error:
        st.html(f'<p class="ix-note" role="alert">⚠ {safe(error)}</p>')
        return
    st.rerun()


def watched(run: Run, key: str, draw: Callable[[], None]) -> None:
    """Draw results, again every two seconds while a worker is at the run; how it stands is said above them."""

    @st.fragment(key=key, run_every=POLL if load.state(run).active else None)
    def live() -> None:
        job = load.state(run)
        if job.active:
            st.html(
                f'<p class="ix-note">At work: {safe(standing(job))}. What is there so far is shown; Cancel is at the top.</p>'
            )
        draw()

    live()


def stopped(run: Run, pending: bool) -> None:
    """Where something was asked that nobody is at: why, and the button that goes on."""
    job = load.state(run)
    if not pending or job.active:
        return
    why = f" {job.reason}" if job.reason else ""
    st.warning(f"What was asked is not done: the job is {job.state}.{as_markdown(why)}")
    if st.button("Go on with what was asked", key="go-on"):
        start(run, lambda: None)
