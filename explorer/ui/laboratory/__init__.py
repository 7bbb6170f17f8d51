"""The Laboratory page: what one sample teaches, whether the model learns as one would wish, and the same for language.

Lays out what the other modules of this room show; measures nothing.
"""

from __future__ import annotations

import streamlit as st

from explorer.store import Run
from explorer.ui import load, offers, state
from explorer.ui.laboratory import compare, experiments, link, worlds
from explorer.ui.views.words import as_markdown

PARTS = {"Experiments": experiments.show, "Compare": compare.show, "Language": worlds.show}
"""What is shown, one at a time."""
WHAT = (
    "What does one sample teach? Fine-tune on it alone, see what changes elsewhere, and test whether the model learns the way "
    "one would wish."
)


OTHERS = (
    "Experiments on a run’s own examples are for pictures and tables. For language there are worlds: small sets of sentences that a "
    "model is taught, or told, one at a time."
)


def show(run: Run) -> None:
    """The page for a run, as far as it is computed."""
    if not run.browsable:
        job = load.state(run)
        reason = "" if job.active else f" {as_markdown(job.reason)} Press Resume above to go on."
        st.info(f"This run is {job.state} before its first answer; experiments come after it.{reason}")
        return
    st.html(f'<div class="ix-headline"><h3>Laboratory</h3><p>{WHAT}</p></div>')
    names = list(PARTS)
    if not offers.lessons(load.meta(run)):
        names = ["Language", "Compare"]
        st.caption(OTHERS)
    if state.get("lab-part", names[0]) not in names:  # of another run
        st.session_state.pop("lab-part")
    part = st.segmented_control(
        "Show", names, key="lab-part", default=link.part(names), required=True, label_visibility="collapsed"
    )
    PARTS[str(part)](run)
