"""The Answer part's "Why P rather than Q?": the training examples behind the difference of two classes' logits.

The run's worker answers; which two classes are compared is in the address, and belongs to the prediction selected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import streamlit as st

from explorer.contracts import Target
from explorer.errors import ExplorerError
from explorer.jobs import asking
from explorer.jobs.asking import Answer
from explorer.questions import Question
from explorer.store import Run
from explorer.ui import answers, load, scatter, selected, state
from explorer.ui.views import card, contrast, gallery
from explorer.ui.views.words import as_markdown

WAITING = "Asking the run's worker; the first question starts it, which takes some seconds."
HELP = "Compares two classes only: what pushed towards the one and away from the other."
Pick = Callable[[int, Target], None]


def offer(run: Run) -> None:
    """The button that asks; nothing for a regression, which has no classes."""
    if len(load.meta(run).classes) < 2 or state.get(selected.WHY) is not None:
        return
    obstacle = asking.obstacle(run)
    st.button(
        "Why this rather than another class?",
        key="contrast-ask",
        on_click=_begin,
        args=(run,),
        disabled=obstacle is not None,
        help=HELP if obstacle is None else as_markdown(obstacle),
    )


def show(run: Run, query: int, target: Target, on_pick: Pick, on_inspect: Callable[[int], None]) -> bool:
    """The contrast that was asked for, if one was; True where its galleries stand in for those of the target."""
    why: tuple[int, int] | None = state.get(selected.WHY)
    if why is None:
        return False
    _choice(run, query, why)
    try:
        with st.spinner(WAITING):
            found = asking.ask(run, query, "contrast", classes=why)
    except ExplorerError as error:
        st.warning(as_markdown(error))
        return False
    _draw(run, query, target, why, found, on_pick, on_inspect)
    return True


def rival(run: Run, query: int) -> tuple[int, int]:
    """The question that comes first: why the answer rather than the label, or of a right answer than the runner-up?"""
    known = answers.query_row(run, query)
    said, label = int(known["prediction"]), int(known["label"])
    if said != label:
        return said, label
    outputs = np.asarray(run.array("outputs-test")[query], dtype=np.float64)
    outputs[said] = -np.inf
    return said, int(outputs.argmax())


def _draw(
    run: Run,
    query: int,
    target: Target,
    why: tuple[int, int],
    found: Answer,
    on_pick: Pick,
    on_inspect: Callable[[int], None],
) -> None:
    meta = load.meta(run)
    asked, (first, second) = Question("contrast", why), why
    told = contrast.Contrast(meta.classes[first], meta.classes[second], answers.query(run, query, target).asked)
    st.html(contrast.line(told))
    # what retrainings found is true of the stored answers
    st.html(card.trust_line(replace(answers.trust(run, query, "contrast", found.top), checked="")))
    towards, away = answers.tiles(run, found.top)
    html = gallery.galleries(towards, away, answers.unit(run, "contrast"), meta.train)
    scatter.show_tiles(html, run=run.key, key="contrast-tiles", on_pick=on_pick, on_inspect=on_inspect)
    with st.expander("All of it, in Python and in a terminal"):
        name = str(answers.query_row(run, query)["id"])
        st.code(asked.python(run.key, name, meta.classes), language="python", wrap_lines=True)
        st.code(asked.terminal(run.key, name, meta.classes), language="bash", wrap_lines=True)


def _choice(run: Run, query: int, why: tuple[int, int]) -> None:
    """Two lists of classes, and the way back; a class chosen twice trades places with the other."""
    classes = load.meta(run).classes
    first, second, back = st.columns([2, 2, 1.2], vertical_alignment="bottom")
    for at, (column, label) in enumerate(((first, "Why"), (second, "rather than"))):
        key = f"contrast-{at}-{run.key}-{query}-{why[0]}-{why[1]}"  # what is shown is what was asked, also by a link
        column.selectbox(
            label,
            range(len(classes)),
            index=why[at],
            format_func=lambda number: as_markdown(classes[number]),
            key=key,
            on_change=_chosen,
            args=(run, at, why, key),
        )
    back.button(
        "Back", key="contrast-back", on_click=selected.compare_classes, args=(run, None), help="Stop comparing classes"
    )


def _begin(run: Run) -> None:
    """Ask about what is selected now: the browser may have moved on since the button was drawn."""
    selected.compare_classes(run, rival(run, state.get("query")))


def _chosen(run: Run, at: int, why: tuple[int, int], key: str) -> None:
    chosen = int(st.session_state[key])
    kept = why[1 - at] if why[1 - at] != chosen else why[at]
    selected.compare_classes(run, (chosen, kept) if at == 0 else (kept, chosen))
