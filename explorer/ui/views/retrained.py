"""How much of the training set is memorized, by retraining? One sentence with its uncertainty, and how the values are spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from explorer.ui.views.words import percent

HEIGHT = 230
BAR, FLAGGED = "#808080", "#c96a12"
"""Middle tones, for white and for black; the flagged side is told by a line with words as well."""
ABOVE = 0.25


@dataclass(frozen=True)
class Retrained:
    """Memorization of each example with its standard error, `[n]` each, NaN for never in or never out.

    `flagged` are above .25, and above zero by two standard errors; `models` of `planned` are trained. Below `fewest` nothing is said.
    """

    memorization: NDArray[np.float64]
    se: NDArray[np.float64]
    flagged: int
    models: int
    planned: int
    complete: bool
    fewest: int


def sentence(facts: Retrained) -> str:
    """How far it is, what was found, and how well it is known."""
    far = f"{facts.models:,} models" if facts.complete else f"{facts.models:,} of about {facts.planned:,} models"
    if facts.models < facts.fewest:
        return f"{far} so far. First results come after {facts.fewest}: before, an example was left out too rarely."
    known = facts.se[np.isfinite(facts.memorization)]
    high = facts.se[facts.memorization > ABOVE]
    error = f" The standard error of one of them is {float(np.median(high)):.2f} (median)." if len(high) else ""
    total = len(facts.memorization)
    unknown = total - len(known)
    left = f" {unknown:,} examples were never left out, or always." if unknown else ""
    return (
        f"{far}: **{facts.flagged:,} of {total:,} examples ({percent(facts.flagged / max(total, 1))}) are memorized**, more than {ABOVE:g} and more than "
        f"two standard errors above zero.{error}{left}"
    )


def show(facts: Retrained, key: str) -> None:
    """The sentence, and the spread of values once there are enough models."""
    st.markdown(sentence(facts))
    if facts.models >= facts.fewest:
        st.plotly_chart(figure(facts), key=key, width="stretch", config={"displayModeBar": False}, alt=alt(facts))


def figure(facts: Retrained) -> go.Figure:
    """How many examples have how much memorization; counts on a log scale, for most have none."""
    counts, edges = _binned(facts)
    middle = (edges[:-1] + edges[1:]) / 2
    drawn = go.Figure(
        go.Bar(
            x=middle,
            y=counts,
            width=edges[1] - edges[0],
            marker={"color": [FLAGGED if at > ABOVE else BAR for at in middle]},
            hovertemplate="memorization about %{x:.2f}: %{y:,} examples<extra></extra>",
        )
    )
    drawn.add_vline(
        x=ABOVE, line={"color": BAR, "dash": "dash"}, annotation_text="memorized →", annotation_position="top right"
    )
    drawn.update_layout(
        height=HEIGHT,
        margin={"l": 10, "r": 10, "t": 24, "b": 10},
        font={"size": 12},
        bargap=0.05,
        xaxis={
            "title": {"text": "memorization: how much likelier right for having trained on it"},
            "range": [-0.55, 1.05],
        },
        yaxis={"title": {"text": "examples (log scale)"}, "type": "log", "dtick": 1},
        uirevision="retrained",
    )
    return drawn


def alt(facts: Retrained) -> str:
    """The spread in words."""
    counts, edges = _binned(facts)
    return "Examples by memorization: " + ", ".join(
        f"{low:.1f} to {high:.1f}: {count:,}"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    )


def _binned(facts: Retrained) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    known = facts.memorization[np.isfinite(facts.memorization)]
    counts, edges = np.histogram(known, bins=np.linspace(-1.0, 1.0, 41))
    return counts.astype(np.int64), edges
