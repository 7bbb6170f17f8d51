"""Which examples stand out, and do they help or harm, under the thresholds that I choose? Sliders, counts, the picture.

The sliders live here and are read by the other parts through `thresholds_of`; the arithmetic is that of `thresholds`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from explorer import memorization
from explorer.store import Run
from explorer.ui import answers, load, state
from explorer.ui.memorized import classes, example, link, thresholds
from explorer.ui.memorized.link import BAND, DAMPING, DEFAULTS, SLIDERS, WIDEST, Z_COLUMNS, Z_SLIDERS, steps
from explorer.ui.memorized.thresholds import CORNERS, Measured, Thresholds
from explorer.ui.views import quadrant
from explorer.ui.views import thresholds as views
from explorer.ui.views.quadrant import Group

DRAWN = 5000
"""Points in the picture: SVG stays quick up to here."""
LOOKS = (
    ("▼", "triangle-down", "away", True),
    ("▲", "triangle-up", "towards", True),
    ("◇", "diamond-open", "neutral", True),
    ("●", "circle", "towards", False),
    ("■", "square", "away", False),
    ("○", "circle-open", "neutral", False),
)
GROUPS = tuple(
    Group(memorization.NAMES[name], mark, symbol, hue, strong=strong)  # type: ignore[arg-type]
    for name, (mark, symbol, hue, strong) in zip(CORNERS, LOOKS, strict=True)
)
"""How each quadrant looks, in the order of the picker."""
Z_LABELS = ("Suspect above z", "High self-influence above z")
Z_HELPS = (
    "Robust deviations of the suspect score above the median of its class; beyond this an example is flagged.",
    "Robust deviations of self-influence above the median of its class; beyond this the model’s answer on it rests much on itself.",
)


class Flagged(Protocol):
    """A table with columns `z` and `memorized`."""

    def __len__(self) -> int:
        """Its rows."""

    def __getitem__(self, name: str) -> Any:
        """A column."""


def thresholds_of(run: Run) -> Thresholds:
    """What the sliders say."""
    suspect, own, band = (float(state.get(name, default)) for name, default in zip(SLIDERS, DEFAULTS, strict=True))
    choice, damping = thresholds.dampings(run), state.get(DAMPING)
    if choice is None or damping not in choice[0] or damping == choice[1]:
        damping = None
    return Thresholds(suspect, own, band, damping)


@st.fragment(key="quadrants")
def show(run: Run) -> None:
    """Sliders with what they let through, the picture, and beside it the example that was clicked or the classes."""
    _sliders(run)
    link.write(run)
    found = thresholds.measured(run, thresholds_of(run))
    left, right = st.columns([1.5, 1], gap="medium")
    with left:
        _picture(run, found)
    with right:
        row = example.opened(run)
        if row is None:
            classes.show(run)
        else:
            example.show(run, row, found)


def _sliders(run: Run) -> None:
    left, right = st.columns([1.5, 1], gap="medium", vertical_alignment="top")
    with left:
        columns = st.columns(3, gap="medium")
        table = load.train_table(run)
        for place, name, column, label, about in zip(columns, Z_SLIDERS, Z_COLUMNS, Z_LABELS, Z_HELPS, strict=False):
            place.select_slider(
                label,
                steps(float(table[column].max())),
                key=name,
                help=about,
                format_func=lambda z: f"{z:,g}",
                on_change=_moved,
                persist_state="session",
            )
        columns[2].slider(
            "Noise band, standard errors",
            0.0,
            WIDEST,
            step=0.02,
            key=BAND,
            help="An effect on held-out answers within so many standard errors counts as none; 1.96 is the 95 % band.",
            on_change=_moved,
            persist_state="session",
        )
        _damping(run)
    found = thresholds.measured(run, thresholds_of(run))
    counted, planted = thresholds.counts(run, found)
    right.html(views.counts(counted, len(found.corner), planted))
    if thresholds_of(run) != Thresholds():
        right.button("Back to the run’s own thresholds", on_click=_back, type="tertiary")


def _damping(run: Run) -> None:
    choice = thresholds.dampings(run)
    if choice is None:
        st.html(f'<p class="ix-quiet">{_no_damping(run)}</p>')
        return
    options, own = choice
    if state.get(DAMPING) not in options:
        st.session_state[DAMPING] = own
    st.select_slider(
        "Damping λ",
        options,
        key=DAMPING,
        format_func=lambda value: f"{value:.2g}" + (" (the run’s)" if value == own else ""),
        on_change=_moved,
        persist_state="session",
    )
    st.html(views.stability(thresholds.stability(run, thresholds_of(run).damping, own)))


def _no_damping(run: Run) -> str:
    if "damping" not in load.evidence(run):
        return "This method has no damping that could be moved."
    return (
        "Other dampings were not measured: this method cannot change its damping without being fitted again, or the run was computed before "
        "they were measured."
    )


def _moved() -> None:
    st.rerun(["quadrants", "examples", "further"])


def _back() -> None:
    link.reset()
    _moved()


def _picture(run: Run, found: Measured) -> None:
    table, meta = load.train_table(run), load.meta(run)
    known = pd.DataFrame({"z": table["z"].to_numpy(), "memorized": found.suspect})
    rows = drawn_rows(known)
    cloud = quadrant.Cloud(
        rows=rows,
        ids=table["id"].iloc[rows].astype(str).tolist(),
        group=found.corner[rows].astype(np.int64),
        percentile=table["percentile"].to_numpy(np.float64)[rows],
        self_influence=found.self_influence[rows],
        held_out=found.held_out[rows],
        held_out_se=found.held_out_se[rows],
    )
    quadrant.show(
        cloud,
        GROUPS,
        answers.unit(run, "label"),
        alt="Training examples by self-influence and mean held-out influence, marked by quadrant; the galleries below show each",
        key=f"quadrant-{run.key}",
        on_click=_clicked,
    )
    flagged = int(found.suspect.sum())
    sample = "" if len(rows) == len(table) else f", with {int(found.suspect[rows].sum()):,} of the {flagged:,} suspects"
    border = " What counts as high self-influence depends on the class." if meta.has_classes else ""
    st.caption(
        f"{len(rows):,} of {len(table):,} shown{sample}. Hollow: the effect on held-out answers is inside the noise ({thresholds_of(run).band:g} "
        f"standard errors over test examples).{border} Click a point to see the example; double-click to let it go."
    )


def _clicked(row: int | None) -> None:
    example.open_row(row)
    st.rerun("quadrants")


def drawn_rows(table: Flagged) -> NDArray[np.int64]:
    """Rows to draw, ascending: all if they fit, else the flagged ones and a seeded sample of the others.

    A fifth of the points stays for the others: beyond that, the flagged ones with the highest scores are drawn.
    """
    if len(table) <= DRAWN:
        return np.arange(len(table), dtype=np.int64)
    flagged = table["memorized"].to_numpy()
    suspects = np.flatnonzero(flagged)[np.argsort(-table["z"].to_numpy()[flagged], kind="stable")][: DRAWN * 4 // 5]
    others = np.random.default_rng(0).permutation(np.flatnonzero(~flagged))[: DRAWN - len(suspects)]
    return np.sort(np.concatenate([suspects, others]))
