"""The Runs page's parts: every run with its state and buttons, looked at again each second while one is at work."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import streamlit as st

from explorer import jobs
from explorer.errors import ExplorerError
from explorer.store import Run, runs_root
from explorer.ui import answers, load, start
from explorer.ui.views import runs as views
from explorer.ui.views.runs import Entry
from explorer.ui.views.words import as_markdown

POLL = 1.0
"""Seconds between two looks while a run is at work."""
PAGE = 25
"""Runs shown at once; a button shows more."""
LOG_END = 4000
"""Characters of the log shown of a run that ended early."""
STOPPED = ("failed", "interrupted", "cancelled")


def show() -> None:
    """The page."""
    names = load.run_names()
    if not names:
        _nothing()
        return
    st.subheader("Runs")
    every = POLL if any(_is_active(name) for name in names) else None

    @st.fragment(key="runs", run_every=every)
    def live() -> None:
        now = load.run_names()
        if every is not None and not any(_is_active(name) for name in now):
            st.rerun()
        _list(now)

    live()
    start.show(expanded=False)
    _how_to_start()


def _nothing() -> None:
    st.title("No runs yet")
    st.markdown(
        f"Runs are kept in one folder, now `{runs_root()}`. Make the first one below, or in a terminal, then reload this page:"
    )
    st.code("explorer demo", language="bash")
    start.show(expanded=False)
    _how_to_start()


def _how_to_start() -> None:
    st.markdown("**In a terminal** you can start the same, and runs with a model of your own")
    st.code(
        "explorer run --data digits            # or breast-cancer, wine\n"
        "explorer run --data my-arrays.npz     # x_train, y_train, x_test, y_test\n"
        'explorer run --data my-texts.jsonl    # a line an example: {"prompt": "...", "completion": "..."}\n'
        "explorer methods                      # what --method can be, and what can be --set\n"
        "explorer run --help",
        language="bash",
    )


def _list(names: list[str]) -> None:
    shown = st.session_state.setdefault("runs-shown", PAGE)
    st.caption(f"{min(shown, len(names)):,} of {len(names):,} shown, newest first, in {as_markdown(str(runs_root()))}")
    for name in names[:shown]:
        _card(entry(runs_root() / name))
    if shown < len(names):
        st.button(f"Show {min(PAGE, len(names) - shown)} more", on_click=_more)


def _more() -> None:
    st.session_state["runs-shown"] += PAGE


def _card(run: Entry) -> None:
    with st.container(border=True, key=f"run-{run.key}"):
        about, state, buttons = st.columns([2.2, 2.6, 1.3], vertical_alignment="top", gap="medium")
        about.html(views.described(run))
        state.html(views.progress(run))
        if run.job is None:
            return
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            _buttons(run, run.job.state)
        if run.log and run.job.state in STOPPED:
            with state.expander("End of the log"):
                st.code(run.log, language=None, wrap_lines=True)
                st.caption(f"The whole log: {as_markdown(run.log_path)}")


def _buttons(run: Entry, word: str) -> None:
    if run.browsable:
        st.page_link(
            "screens/explore.py", label="Open", icon=":material/travel_explore:", query_params={"run": run.key}
        )
    if word in jobs.ACTIVE:
        st.button("Cancel", key=f"cancel-{run.key}", on_click=_cancel, args=(run.key,))
    elif word in STOPPED:
        st.button("Resume" if run.started else "Start", key=f"resume-{run.key}", on_click=_resume, args=(run.key,))


def _cancel(name: str) -> None:
    _try(jobs.cancel, name)


def _resume(name: str) -> None:
    _try(jobs.start, name)


def _try(act: Any, name: str) -> None:
    try:
        act(load.open_run(name))
    except ExplorerError as error:
        st.toast(as_markdown(str(error)), icon=":material/error:")


def entry(path: Path) -> Entry:
    """What the page shows of a run directory; one that cannot be read says why instead of hiding."""
    try:
        run = Run.at(path)
        job = load.state(run)
        title, facts = _described(run)
    except ExplorerError as error:
        return Entry(path.name, "Unreadable run", reason=str(error))
    log = path / "log"
    began = job.started or (path / "spec.json").stat().st_mtime
    return Entry(
        key=run.key,
        title=title,
        facts=facts,
        job=job,
        reason="" if job.active else job.reason,
        started=job.started > 0,
        age=max(0.0, time.time() - began),
        when=datetime.fromtimestamp(began).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        seconds=job.timings,
        log=log.read_text(errors="replace")[-LOG_END:].strip() if log.exists() and job.state in STOPPED else "",
        log_path=str(log),
        browsable=run.browsable,
    )


def _described(run: Run) -> tuple[str, tuple[str, ...]]:
    method = str(run.spec["method"]["name"])
    if not run.has("data.json"):
        return _source(run.spec["source"]), (method,)
    meta, numbers = load.meta(run), load.summary(run)
    facts = [method, f"{meta.train:,} training", f"{meta.test:,} test"]
    if found := answers.quality(run):
        facts.append(found)
    elif numbers:
        facts.append(f"test loss {numbers['test_loss']:.3g}")
    if numbers:
        facts.append(f"{numbers['memorized']:,} suspect")
    return meta.name, tuple(facts)


def _source(spec: Any) -> str:
    inner = spec.get("source")
    name = _source(inner) if isinstance(inner, dict) else str(spec.get("path") or spec.get("kind"))
    return f"{name}, planted faults" if spec.get("kind") == "planted" else Path(name).stem


def _is_active(name: str) -> bool:
    try:
        return load.state(Run.at(runs_root() / name)).active
    except ExplorerError:
        return False
