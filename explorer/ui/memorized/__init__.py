"""The Memorized page: the headline, the quadrants under a person's thresholds, their examples, and what can be done about them.

Lays out what the other modules of this room show; measures nothing.
"""

from __future__ import annotations

import streamlit as st

from explorer.store import Run
from explorer.ui import load, offers
from explorer.ui.memorized import act, cleaning, clusters, gallery, headline, link, measure, quadrants, scores
from explorer.ui.memorized.classes import grouped, whole_table
from explorer.ui.memorized.gallery import ORDERS, TILES
from explorer.ui.memorized.quadrants import DRAWN, GROUPS, drawn_rows
from explorer.ui.views.jobs import standing

__all__ = ["DRAWN", "GROUPS", "ORDERS", "PARTS", "TILES", "drawn_rows", "grouped", "show", "whole_table"]

POLL = 1.0
"""Seconds between two looks at a job that has not come here yet."""
PARTS = {
    "Act on suspects": act.show,
    "Clean in rounds": cleaning.show,
    "Measure by retraining": measure.show,
    "Groups": clusters.show,
    "Agreement of scores": scores.show,
}
"""What is shown below the galleries, one at a time."""
ACTING = {"Act on suspects", "Clean in rounds"}
"""Those that change what the model is trained on."""


def show(run: Run) -> None:
    """The page for a run, as far as it is computed."""
    if not (run.has("memorization.parquet") and run.has("summary.json")):
        _waiting(run)
        return
    link.follow(run, _parts(run))
    headline.show(run)
    quadrants.show(run)
    gallery.show(run)
    _further(run)


@st.fragment(key="further")
def _further(run: Run) -> None:
    part = st.segmented_control(
        "What next",
        _parts(run),
        key=link.PART,
        required=True,
        persist_state="session",
        on_change=link.write,
        args=(run,),
    )
    PARTS[str(part)](run)


def _parts(run: Run) -> list[str]:
    """What a run of this kind has to go on with."""
    return [name for name in PARTS if name not in ACTING or offers.acting(load.meta(run))]


def _waiting(run: Run) -> None:
    @st.fragment(key="waiting", run_every=POLL if load.state(run).active else None)
    def live() -> None:
        job = load.state(run)
        if job.active:
            st.info(f"Memorization is measured after the scores; this page fills by itself. The job: {standing(job)}")
        else:
            st.warning(f"This run is {job.state} before its memorization was measured. Press Resume above to go on.")

    live()
