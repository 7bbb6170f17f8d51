"""How does a job stand? A chip with stage, share and time left, and the button that fits its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import streamlit as st

from explorer.ui.views.words import as_markdown, duration, safe


class Standing(Protocol):
    """What a chip needs to know of a job."""

    @property
    def state(self) -> str:
        """queued, running, done, cancelled, failed or interrupted."""

    @property
    def stage(self) -> str:
        """Name of the stage."""

    @property
    def number(self) -> int:
        """Stage number from 1."""

    @property
    def stages(self) -> int:
        """Number of stages."""

    @property
    def done(self) -> int:
        """Done within the stage."""

    @property
    def total(self) -> int:
        """Size of the stage; 0 when unknown."""

    @property
    def rate(self) -> float | None:
        """Done per second."""

    @property
    def seconds_left(self) -> float | None:
        """Estimate for the stage."""

    @property
    def reason(self) -> str:
        """Why it ended."""


def standing(job: Standing) -> str:
    """The state in one line of text."""
    if job.state == "done":
        return "✓ done"
    if job.state == "queued":
        return "… starting"
    if job.state != "running":
        return f"■ {job.state}"
    share = f" {job.done / job.total:.0%}" if job.total else ""
    left = f" · {duration(job.seconds_left)} left" if job.seconds_left else ""
    return f"▶ {job.number}/{job.stages} {job.stage}{share}{left}"


def chip(job: Standing, *, on_cancel: Callable[[], None], on_resume: Callable[[], None]) -> None:
    """The chip with Cancel while it runs, Resume where it stopped, and its reason."""
    if job.state == "done":
        st.html('<div class="ix-chip ix-quiet">✓ computed</div>')
        return
    text, action = st.columns([3, 1.2], vertical_alignment="center")
    partial = " · partial results" if job.number > 1 else ""
    text.html(f'<div class="ix-chip" title="{safe(job.reason)}">{safe(standing(job))}{partial}</div>')
    if job.state in ("queued", "running"):
        action.button("Cancel", key="chip-cancel", on_click=on_cancel, type="tertiary")
    else:
        action.button("Resume", key="chip-resume", on_click=on_resume, type="tertiary")
        text.caption(as_markdown(job.reason))
