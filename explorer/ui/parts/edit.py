"""The panel's part "Edit": change the input of the selected prediction, and see its answer and its influences again."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import streamlit as st

from explorer.contracts import ImagePreview, Preview, TablePreview, Target, TextPreview
from explorer.errors import ExplorerError
from explorer.jobs import asking
from explorer.jobs.asking import Answer
from explorer.sources.edited import Edit
from explorer.store import Run
from explorer.ui import answers, load, scatter, wire
from explorer.ui.parts import likeness
from explorer.ui.views import edit, gallery
from explorer.ui.views.card import Face, Value
from explorer.ui.views.words import as_markdown

OFFERED = 5
"""Values of a table row that can be changed at once, the most unusual ones; any other can be added."""
TOP = 10
"""Strongest examples of each sign whose staying is counted."""
WAITING = "Asking the run's worker; the first question starts it, which takes some seconds."
NEUTRAL: dict[str, float] = {"noise": 0.0, "brightness": 0.0, "contrast": 1.0}
TURN = "edit-turn"
"""Session key of how often the inputs were reset: new keys give new widgets with what is stored."""
Pick = Callable[[int, Target], None]


def show(run: Run, query: int, target: Target, on_pick: Pick, on_inspect: Callable[[int], None]) -> None:
    """Sliders or number inputs, and the answer to the edited input."""
    obstacle = asking.obstacle(run)
    if obstacle is not None:
        st.warning(as_markdown(obstacle))
        return
    asking.warm(run)
    preview = run.preview("test", query)
    if isinstance(preview, TextPreview):
        st.caption("The words of a text cannot be edited here.")
        return
    name = f"edit-{run.key}-{query}-{st.session_state.get(TURN, 0)}"
    try:
        wanted = _pixels(name) if isinstance(preview, ImagePreview) else _values(name, preview)
        if wanted.is_identity:
            st.caption("Nothing is edited yet. The model stays as it is; only this input is asked about again.")
            return
        with st.spinner(WAITING):
            before, after = asking.ask(run, query, target), asking.ask(run, query, target, wanted)
    except ExplorerError as error:
        st.warning(as_markdown(error))
        return
    st.html(edit.edited(compared(run, query, before, after, wanted)))
    towards, away = answers.tiles(run, after.top)
    html = gallery.galleries(towards, away, answers.unit(run, target), load.meta(run).train)
    scatter.show_tiles(html, run=run.key, key="edit-tiles", on_pick=on_pick, on_inspect=on_inspect)


def _pixels(name: str) -> Edit:
    """Sliders for a picture; noise is drawn anew by its button."""
    columns = st.columns(3)
    ranges = {"noise": (0.0, 1.0, 0.02), "brightness": (-1.0, 1.0, 0.05), "contrast": (0.0, 3.0, 0.05)}
    helps = {
        "noise": "Standard deviation of normal noise, as a share of the training pixels' range",
        "brightness": "Added to every pixel, as a share of the range",
        "contrast": "Factor on the distance from the middle of the range",
    }
    chosen = {
        setting: round(
            column.slider(
                setting.capitalize(), low, high, NEUTRAL[setting], step, key=f"{name}-{setting}", help=helps[setting]
            ),
            6,
        )
        for column, (setting, (low, high, step)) in zip(columns, ranges.items(), strict=True)
    }
    seed = int(st.session_state.setdefault(f"{name}-seed", 0))
    left, right = st.columns(2)
    left.button(
        "New noise",
        key=f"{name}-again",
        on_click=_next_seed,
        args=(name,),
        disabled=chosen["noise"] == 0,
        width="stretch",
    )
    right.button("Reset", key=f"{name}-reset", on_click=_reset, width="stretch")
    return Edit(chosen["noise"], chosen["brightness"], chosen["contrast"], seed=seed if chosen["noise"] else 0)


def _values(name: str, preview: TablePreview) -> Edit:
    """Number inputs for the most unusual values, and for columns picked beyond these; what is not touched is not sent."""
    order = np.argsort(-np.abs(preview.unusual), kind="stable")
    first = [int(column) for column in order[:OFFERED]]
    others = [column for column in range(len(preview.names)) if column not in first]
    more = st.multiselect(
        "More columns",
        others,
        key=f"{name}-more",
        format_func=lambda column: preview.names[column],
        placeholder=f"any of the other {len(others)}",
    )
    changed: dict[str, float] = {}
    columns = st.columns(2)
    for at, column in enumerate([*first, *more]):
        stored = float(preview.values[column])
        said = columns[at % 2].number_input(
            as_markdown(preview.names[column]),
            value=stored,
            step=_step(stored),
            format="%.6g",
            key=f"{name}-value-{column}",
            help=f"{preview.unusual[column]:+.1f} standard deviations from the training mean as it is",
        )
        if said is not None and said != stored:
            changed[preview.names[column]] = float(said)
    st.button("Reset", key=f"{name}-reset", on_click=_reset, width="stretch")
    return Edit(values=changed)


def _next_seed(name: str) -> None:
    st.session_state[f"{name}-seed"] = int(st.session_state.get(f"{name}-seed", 0)) + 1


def _reset() -> None:
    st.session_state[TURN] = int(st.session_state.get(TURN, 0)) + 1


def _step(value: float) -> float:
    """What a click on plus or minus changes a value by: a tenth of its power of ten."""
    return float(10.0 ** (np.floor(np.log10(abs(value))) - 1)) if value else 0.01


def compared(run: Run, query: int, before: Answer, after: Answer, wanted: Edit) -> edit.Edited:
    """Both answers in plain data."""
    meta = load.meta(run)
    label = wire.names(np.array([before.label]), meta)[0]
    moved = likeness.overlap(before.top, after.top, TOP)
    return edit.Edited(
        id=str(answers.query_row(run, query)["id"]),
        label=label,
        classification=meta.task == "classification",
        before=_version(run, before),
        after=_version(run, after),
        changes=changes(wanted, before.preview),
        moved=edit.Moved(
            moved.shared, moved.of, likeness.spearman(before.row.values, after.row.values), len(after.row.values)
        ),
    )


def changes(wanted: Edit, before: Preview) -> tuple[str, ...]:
    """What was edited, in words."""
    parts = [
        f"{setting} {getattr(wanted, setting):g}"
        for setting, neutral in NEUTRAL.items()
        if getattr(wanted, setting) != neutral
    ]
    if isinstance(before, TablePreview):
        stored = dict(zip(before.names, before.values.tolist(), strict=True))
        parts += [f"{name} {stored[name]:.6g} → {value:.6g}" for name, value in wanted.values.items()]
    return tuple(parts)


def _version(run: Run, answer: Answer) -> edit.Version:
    return edit.Version(
        face=_face(answer.preview),
        prediction=wire.names(np.array([answer.prediction]), load.meta(run))[0],
        wrong=answer.wrong,
        confidence=answer.confidence,
        loss=answer.loss,
    )


def _face(preview: Preview) -> Face:
    """How an input looks that no run holds."""
    if isinstance(preview, ImagePreview):
        return Face(picture="data:image/png;base64," + base64.b64encode(wire.png(preview)).decode())
    if isinstance(preview, TextPreview):
        return Face()
    order = np.argsort(-np.abs(preview.unusual), kind="stable")[:OFFERED]
    shown = tuple(Value(preview.names[k], float(preview.values[k]), float(preview.unusual[k])) for k in order)
    return Face(values=shown, values_total=len(preview.names))
