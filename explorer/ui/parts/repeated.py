"""Can anybody know what removing a few examples does under this run's recipe? The panel's part that says it, or has it measured.

The trainings are those of `explorer.jobs.predictability`; nothing is computed in this process.
"""

from __future__ import annotations

import shlex

import streamlit as st

from explorer.jobs import checks
from explorer.jobs.checks import Removals
from explorer.jobs.requests import in_memory
from explorer.store import Run
from explorer.ui import begin, load
from explorer.ui.views.words import as_markdown, duration

TRAININGS = 2
"""Of each removal."""


def show(run: Run) -> None:
    """What was measured, how far that is, or the button that begins it; nothing where there is no training to repeat."""
    if "weights" in run.spec["model"] or in_memory(run):
        return
    begin.stopped(run, checks.pending(run))
    begin.watched(run, "repeated", lambda: _found(run))
    if checks.found(run) is None and checks.asked(run) is None and load.state(run).state == "done":
        _offer(run)


def _found(run: Run) -> None:
    found = checks.found(run)
    if found is not None:
        st.markdown(f"**{as_markdown(found.sentence)}**")
    elif checks.asked(run) is None:
        st.markdown("Whether anybody can know what removing a few examples does under this recipe is not measured.")


def _offer(run: Run) -> None:
    wanted = Removals()
    seconds = load.state(run).timings.get("training")
    each = "" if seconds is None else f"; one took {duration(max(1.0, seconds))}"
    says = (
        f"Trains {TRAININGS * wanted.count} models, many at once{each}: {wanted.count} times without a random "
        f"{wanted.share:.0%} of the training set, each twice with different luck. Other numbers in a terminal: "
        f"explorer check {shlex.quote(str(run.path))} --removals 40 --share 0.1"
    )
    if st.button("Measure it", key="repeated-start", help=as_markdown(says)):
        begin.start(run, lambda: checks.ask(run, wanted))
