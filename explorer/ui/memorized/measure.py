"""How much is each example memorized, by models trained without it? Ask for the time, watch it grow, and see what came out.

The estimate is that of `explorer.jobs.subsets`; below 20 models it says nothing, and neither does this page.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import streamlit as st

from explorer.jobs import subsets
from explorer.memorization.subsets import FEWEST
from explorer.store import Run
from explorer.ui import begin, load, scatter
from explorer.ui.memorized import example, quadrants, thresholds
from explorer.ui.views import examples, retrained
from explorer.ui.views.words import as_markdown

MINUTES = 2.0
"""Time that is offered."""
TILES = 12


def show(run: Run) -> None:
    """The request, and what came out so far."""
    st.markdown(
        "Many models are trained, each on another random 70 % of the training set. **Memorization** of an example is how much more often a model is right "
        "on it for having trained on it: the truth that every other score here stands in for."
    )
    if not begin.possible(run, "Measure"):
        return
    if not load.meta(run).has_outcomes:
        st.info("This measure counts right answers; a regression has none.")
        return
    _form(run)
    begin.watched(run, "retrained", lambda: _found(run))


def of_row(run: Run, row: int) -> tuple[float, float] | None:
    """Memorization of an example and its standard error; None before `FEWEST` models, or where it was never in or never out."""
    known = found(run)
    if known is None or known.estimate.models < FEWEST or not np.isfinite(known.estimate.memorization[row]):
        return None
    return float(known.estimate.memorization[row]), float(known.estimate.se[row])


def found(run: Run) -> subsets.Found | None:
    """What came out so far, read again when it has grown."""
    written = load.version(run, load.TALLY)
    return _read(str(run.path), written, subsets.pending(run)) if written else None


@lru_cache(maxsize=4)
def _read(path: str, written: int, pending: bool) -> subsets.Found | None:  # noqa: ARG001 - parts of the cache's key
    return subsets.found(load.open_at(path))


def _form(run: Run) -> None:
    begin.stopped(run, subsets.pending(run))
    if reason := subsets.left_out(run):
        st.warning(as_markdown(reason))
    if load.state(run).active:
        return
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    minutes = left.number_input("Time budget, minutes", 0.1, 600.0, MINUTES, 1.0, key="subset-minutes")
    known = found(run)
    label = "Start" if known is None else f"Train for {minutes:g} minutes more"
    if right.button(label, key="subset-start"):
        begin.start(run, lambda: subsets.ask(run, subsets.SubsetRequest(seconds=60 * float(minutes))))


def _found(run: Run) -> None:
    known = found(run)
    if known is None:
        st.markdown(f":small[Nothing is measured yet. First results come after {FEWEST} models.]")
        return
    facts = retrained.Retrained(
        memorization=known.estimate.memorization,
        se=known.estimate.se,
        flagged=int(known.estimate.flagged.sum()),
        models=known.estimate.models,
        planned=known.planned,
        complete=known.complete,
        fewest=FEWEST,
    )
    retrained.show(facts, key=f"retrained-{run.key}")
    if known.estimate.models < FEWEST:
        return
    order = np.argsort(-np.nan_to_num(known.estimate.memorization, nan=-2.0), kind="stable")[:TILES]
    measured = thresholds.measured(run, quadrants.thresholds_of(run))
    scatter.show_tiles(
        examples.tiles([example.of(run, int(row), measured) for row in order], "most memorized by retraining"),
        run=run.key,
        key="retrained-gallery",
        on_pick=lambda *_: None,
        on_inspect=_opened,
    )


def _opened(row: int) -> None:
    example.open_row(row)
    st.rerun("quadrants")
