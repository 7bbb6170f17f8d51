"""What stands around every page: its style, the run switcher, the job chip, and the page for an unknown run."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from explorer import jobs
from explorer.errors import ExplorerError, RunError
from explorer.store import Run
from explorer.ui import answers, load, state
from explorer.ui.views import jobs as job_views
from explorer.ui.views.words import as_markdown, safe

STYLE = Path(__file__).with_name("style.css")
POLL = 1.0
"""Seconds between two looks at a running job."""


def style() -> None:
    """The pages' style sheet."""
    st.html(STYLE)


def header() -> Run | None:
    """Run switcher and job chip; None (after a helpful page) when there is no run to show."""
    names = load.run_names()
    if not names:
        st.title("No runs yet")
        st.markdown(
            "A run explains one model on one data set. Make the first one in a terminal, then reload this page:"
        )
        st.code("explorer demo", language="bash")
        return None
    asked = state.address().get("run") or state.get("run")
    try:
        run = load.open_run(asked or names[0])
    except ExplorerError as error:
        _unknown(error, names)
        return None
    state.put("run", run.key)
    left, middle, right = st.columns([2.2, 2.4, 3], vertical_alignment="center")
    with left:
        _switcher(run, names)
    with middle:
        chip(run)
    with right:
        described(run)
    return run


def _unknown(error: ExplorerError, names: list[str]) -> None:
    st.title("This run cannot be shown")
    st.write(as_markdown(error))
    st.write("Runs that are here:")
    for name in names[:10]:
        st.page_link("screens/explore.py", label=name, query_params={"run": name})


def _switcher(run: Run, names: list[str]) -> None:
    options = names if run.key in names else [run.key, *names]

    def switched() -> None:
        state.write_address({"run": st.session_state["run-switcher"]})

    st.session_state["run-switcher"] = run.key
    st.selectbox(
        "Run", options, key="run-switcher", format_func=_label, on_change=switched, label_visibility="collapsed"
    )


def _label(name: str) -> str:
    try:
        run = load.open_run(name)
        return f"{load.meta(run).name} · {run.spec['method']['name']} · {name}" if run.has("data.json") else name
    except RunError:
        return f"{name} (unreadable)"


def described(run: Run) -> None:
    """The run's sizes and quality in one line."""
    if not run.has("data.json"):
        return
    meta, quality = load.meta(run), answers.quality(run, " · ")
    notes = "".join(f" · {safe(note)}" for note in meta.notes)
    line = f"{meta.train:,} training · {meta.test:,} test{quality}{notes}"
    st.html(f'<div class="ix-chip ix-quiet" title="{line}">{line}</div>')


def _resume(run: Run) -> None:
    jobs.start(run)


def chip(run: Run) -> None:
    """How the job stands; while it runs, the chip looks again every second and the page follows what is new."""
    shown = (load.state(run).state, load.stamp(run))
    every = POLL if shown[0] in jobs.ACTIVE else None

    @st.fragment(key="chip", run_every=every)
    def live() -> None:
        now = load.state(run)
        if (now.state, load.stamp(run)) != shown:
            st.rerun()
        job_views.chip(now, on_cancel=lambda: jobs.cancel(run), on_resume=lambda: _resume(run))

    live()
