"""How far did it help to take out the most suspect, a few at a time? The curve with the kept round marked, and a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from explorer.ui.views.effects import Effect, moved

SUSPECT, RANDOM, STOP, KEPT = "#2f7dd1", "#c96a12", "#808080", "#8a63d2"
"""Middle tones, for white and for black; each line has a dash and a symbol of its own."""
HEIGHT = 340


@dataclass(frozen=True)
class Point:
    """One round: how many examples are out, and held-out loss as mean and standard error (NaN for one seed).

    `stop` is on the half that decides when to stop, `report` and `random` on the other half.
    """

    removed: int
    stop: tuple[float, float]
    report: tuple[float, float]
    random: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """The rounds so far, the one to keep, whether the loop is over, and what was gained by it.

    `loss` and `accuracy` are changes on the half that did not choose the round: against before, and against as many at random; None
    without one (a regression has no accuracy). `unit` is that of the loss.
    """

    points: Sequence[Point]
    kept: int
    complete: bool
    total: int
    loss: tuple[Effect, Effect]
    accuracy: tuple[Effect, Effect] | None
    unit: str = "nats"


def sentence(curve: Curve) -> str:
    """What was kept, and what it gained."""
    rounds = len(curve.points) - 1
    far = f"{rounds:,} round{'' if rounds == 1 else 's'}" + ("" if curve.complete else " so far")
    kept = curve.points[curve.kept].removed
    if not kept:
        return f"{far}: no removal lowered the held-out loss, so nothing is removed."
    own, other = curve.loss
    gained = f"held-out loss {moved(own, curve.unit)}, against as many at random {moved(other, curve.unit)}"
    if curve.accuracy is not None:
        own, other = curve.accuracy
        gained += f"; accuracy {moved(own, 'points')}, against random {moved(other, 'points')}"
    return f"{far}: best after removing {kept:,} of {curve.total:,} examples (round {curve.kept}): {gained}."


def show(curve: Curve, key: str) -> None:
    """The sentence and the curve."""
    st.markdown(f"**{sentence(curve)}**")
    st.plotly_chart(figure(curve), key=key, width="stretch", config={"displayModeBar": False}, alt=alt(curve))
    st.caption(
        "Bars are one standard error over seeds. One half of the test examples decides when to stop; the other half is reported, because a number that chose is no "
        "witness."
    )


def figure(curve: Curve) -> go.Figure:
    """Held-out loss by the number of examples removed: most suspect first, random ones, and the half that decides."""
    drawn = go.Figure(
        [
            _line(curve, "report", "most suspect removed", SUSPECT, "solid", "circle"),
            _line(curve, "random", "as many at random", RANDOM, "dash", "diamond-open"),
            _line(curve, "stop", "the half that decides", STOP, "dot", "x-thin-open"),
        ]
    )
    kept = curve.points[curve.kept]
    drawn.add_scatter(
        x=[kept.removed],
        y=[kept.report[0]],
        mode="markers+text",
        marker={"symbol": "star-open", "size": 18, "color": KEPT, "line": {"width": 2}},
        text=["kept"],
        textposition="bottom center",
        textfont={"size": 12},
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )
    drawn.update_layout(
        height=HEIGHT,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        font={"size": 12},
        hoverlabel={"font": {"size": 13}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"size": 12}},
        xaxis={"title": {"text": "training examples removed"}, "zeroline": False},
        yaxis={"title": {"text": "held-out loss (less is better)"}, "zeroline": False},
        uirevision="cleaning",
    )
    return drawn


def alt(curve: Curve) -> str:
    """The reported losses in words."""
    listed = ", ".join(
        f"{one.removed:,} removed: {one.report[0]:.4g} (random {one.random[0]:.4g})" for one in curve.points
    )
    return f"Held-out loss by round. {listed}. Kept: round {curve.kept}."


def _line(curve: Curve, which: str, name: str, color: str, dash: str, symbol: str) -> go.Scatter:
    values = [getattr(point, which) for point in curve.points]
    return go.Scatter(
        x=[point.removed for point in curve.points],
        y=[mean for mean, _ in values],
        error_y={"type": "data", "array": [se if math.isfinite(se) else 0.0 for _, se in values], "thickness": 1},
        mode="lines+markers",
        name=name,
        line={"color": color, "dash": dash},
        marker={"symbol": symbol, "size": 8, "color": color},
        hovertemplate=f"{name}: %{{x:,}} out, loss %{{y:.4g}}<extra></extra>",
    )
