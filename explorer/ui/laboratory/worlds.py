"""Language on the page: a world of facts and rules to edit, taught to a model and told in its prompt, and both scorecards.

The experiment is that of `explorer.jobs.worlds`, done by a worker of its own; nothing is computed in this process.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from explorer.errors import ExplorerError
from explorer.jobs import worlds
from explorer.jobs.worlds import TINY, Asked, Experiment
from explorer.store import Run, runs_root
from explorer.ui.laboratory import found, link, statements
from explorer.ui.views import lab_score
from explorer.ui.views.jobs import standing
from explorer.ui.views.words import as_markdown, percent, safe

POLL = 1.0
"""Seconds between two looks at an experiment that is being done."""
HEIGHT = 300
WAYS = ("weights", "prompt")
TEXT, MODEL = "world-text", "world-model"
"""Session keys of the form."""


def show(run: Run) -> None:
    """The form, and the experiments."""
    there = worlds.listed(runs_root())
    with st.expander("A new experiment", expanded=not there, icon=":material/edit_note:"):
        _form()
    if not there:
        link.write(run, "Language")
        return
    names = {one.key: title(one) for one in there}
    key = st.selectbox(
        "Experiment",
        list(names),
        index=link.place(list(names)),
        key=f"world-experiment-{len(there)}",
        format_func=lambda key: names[key],
    )
    link.write(run, "Language", "" if key == there[0].key else str(key))
    _watched(next(one for one in there if one.key == key))


def _form() -> None:
    st.markdown(
        "Facts and rules over invented things, so that no model has read of them. What stands below `new:` is taught one "
        "sentence at a time, each time from the same weights; and told in the prompt of the untouched model."
    )
    if TEXT not in st.session_state:
        st.session_state[TEXT] = worlds.default()
    text = st.text_area("The world", key=TEXT, height=HEIGHT, persist_state="session")
    first, second, third, fourth = st.columns([2, 1, 1, 1], vertical_alignment="bottom")
    model = first.text_input(
        "Model",
        TINY,
        key=MODEL,
        help="“tiny” trains a small transformer on what stands below known: (seconds). Or the folder of any causal model on "
        "this server, as transformers saves it.",
    )
    optimizer: Any = second.segmented_control(
        "Optimizer",
        ("sgd", "adam"),
        default="sgd",
        key="world-optimizer",
        required=True,
        format_func=lambda name: {"sgd": "SGD", "adam": "Adam"}[name],
    )
    steps = third.number_input("Steps on each sentence", 1, 1000, 1, key="world-steps")
    rank = fourth.number_input(
        "Low rank (LoRA)",
        0,
        256,
        0,
        key="world-rank",
        help="0 moves the whole matrices; more, only factors of this rank.",
    )
    if st.button("Teach and tell each new sentence", key="world-start"):
        try:
            wanted = Asked(text, model.strip() or TINY, optimizer, int(steps), rank=int(rank) or None)
            worlds.start(runs_root(), worlds.ask(runs_root(), wanted))
        except ExplorerError as error:
            st.html(f'<p class="ix-note" role="alert">⚠ {safe(error)}</p>')
            return
        st.rerun()


def _watched(one: Experiment) -> None:
    @st.fragment(key="world", run_every=POLL if one.state.active else None)
    def live() -> None:
        now = worlds.find(runs_root(), one.key)
        if now.state.state != one.state.state:
            st.rerun()
        _standing(now)
        _experiment(now)

    live()


def _standing(one: Experiment) -> None:
    """How far the worker is, with Cancel, or Go on where it stopped."""
    if one.state.state == "done":
        return
    line, action = st.columns([5, 1], vertical_alignment="center")
    line.html(f'<p class="ix-note">{safe(standing(one.state))}</p>')
    if one.state.active:
        action.button("Cancel", key="world-cancel", on_click=worlds.cancel, args=(runs_root(), one.key))
        return
    line.caption(as_markdown(one.state.reason))
    action.button("Go on", key="world-go-on", on_click=_go_on, args=(one.key,))


def _go_on(key: str) -> None:
    worlds.start(runs_root(), key)


def _experiment(one: Experiment) -> None:
    card = one.found
    if card is not None:
        st.html(headline(card))
        by_way = [{score.name: score for score in found.scores(card, way)} for way in WAYS]
        pairs = [(by_way[0][name], by_way[1][name]) for name in by_way[0] if name in by_way[1]]
        st.html(f'<div class="ix-scroll">{lab_score.side_by_side(pairs, ("in the weights", "in the prompt"))}</div>')
        for name, why in card["missing"].items():
            st.html(f'<p class="ix-note">{safe(name)}: {safe(why)}</p>')
    statements.show(one)


def headline(card: dict[str, Any]) -> str:
    """Settings, what the model knew before, and the badge."""
    known = [
        f"{percent(facts['share'])} of {facts['count']:,} {name} sentences likelier than their negation"
        for name, facts in card["knows"].items()
        if facts["share"] is not None
    ]
    regime = found.regime(card)
    line = f"{card['words']} · before any lesson: {', '.join(known)}"
    failed = "".join(f"<li>{safe(name)}: {safe(why)}</li>" for name, why in card["failed"].items())
    return (
        (lab_score.badge(regime) if regime else "")
        + f'<p class="ix-drawer-line">{safe(line)}</p>'
        + (
            f'<p class="ix-note">Lessons that failed; the rest went on.</p><ul class="ix-missing">{failed}</ul>'
            if failed
            else ""
        )
    )


def title(one: Experiment) -> str:
    """An experiment in a line."""
    asked = one.asked
    model = "tiny transformer" if asked.model == TINY else asked.model.rstrip("/").rpartition("/")[2]
    return f"{model} · {len(asked.world.new):,} new sentences · {asked.teaching.words} · {one.key}"
