"""How much is each example memorized, and does it help others? The quadrants as a picture, drawn by Plotly in SVG.

Every group has a shape and a color of its own; colors are middle tones that stand out on white and on black alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

Hue = Literal["towards", "away", "neutral"]
COLORS: dict[Hue, str] = {"towards": "#2f7dd1", "away": "#c96a12", "neutral": "#808080"}
DECADES = 8
"""Powers of ten of self-influence that are drawn; what lies below (zeros too) stands at the left edge."""
HEIGHT = 520


@dataclass(frozen=True)
class Group:
    """One quadrant: its name, its mark in text and as a Plotly symbol, its hue, and whether it is drawn large."""

    name: str
    mark: str
    symbol: str
    hue: Hue
    strong: bool


@dataclass(frozen=True)
class Cloud:
    """The examples that are drawn, `[m]` each: training rows, group numbers, the two measurements and a hover text.

    `hover` goes to Plotly as HTML: whoever fills it has made it safe.
    """

    rows: NDArray[np.int64]
    group: NDArray[np.int64]
    self_influence: NDArray[np.float64]
    held_out: NDArray[np.float64]
    hover: Sequence[str]


def show(cloud: Cloud, groups: Sequence[Group], unit: str, *, alt: str, key: str) -> int | None:
    """Draw the picture; the training row that was clicked, or None."""
    event: Any = st.plotly_chart(
        figure(cloud, groups, unit),
        key=key,
        on_select="rerun",
        selection_mode="points",
        width="stretch",
        config={"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]},
        alt=alt,
    )
    return picked(event)


def picked(event: Any) -> int | None:
    """The training row in Plotly's selection event."""
    points = event["selection"]["points"]
    said = points[0].get("customdata") if points else None
    if said is None:
        return None
    return int(said[0] if isinstance(said, list | tuple) else said)


def figure(cloud: Cloud, groups: Sequence[Group], unit: str) -> go.Figure:
    """Self-influence on a logarithmic axis, held-out influence on one that is linear around 0 and logarithmic beyond."""
    across, floor = floored(cloud.self_influence)
    linear = linear_part(cloud.held_out)
    up = np.arcsinh(cloud.held_out / linear)
    drawn = range(len(groups) - 1, -1, -1)  # the first group lies on top, and the legend reads in its order
    figure = go.Figure([_trace(groups[g], cloud, across, up, np.flatnonzero(cloud.group == g)) for g in drawn])
    marks = ticks(cloud.held_out, linear)
    steps = max(1.0, np.ceil(np.log10(across.max() / floor) / 6)) if len(across) else 1.0
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={
            "orientation": "h",
            "yanchor": "bottom",
            "y": 1.02,
            "x": 0,
            "font": {"size": 12},
            "traceorder": "reversed",
        },
        hoverlabel={"font": {"size": 13}},
        xaxis={
            "type": "log",
            "title": {"text": "self-influence (log scale), more memorized →"},
            "dtick": steps,
            "exponentformat": "power",
            "zeroline": False,
        },
        yaxis={
            "title": {"text": f"← harms   mean held-out influence ({unit})   helps →"},
            "tickvals": np.arcsinh(np.array(marks) / linear).tolist(),
            "ticktext": [_signed(mark) for mark in marks],
            "zeroline": True,
            "zerolinewidth": 2,
        },
        uirevision="quadrant",
    )
    return figure


def floored(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Values fit for a logarithmic axis, and the edge below which they were lifted."""
    largest = float(values.max(initial=0.0)) or 1.0
    positive = values[values > 0]
    floor = max(float(positive.min(initial=largest)), largest * 10.0**-DECADES)
    return np.maximum(values, floor), floor


def linear_part(values: NDArray[np.float64]) -> float:
    """Half-width of the linear part of the vertical axis: the median size, so that half of the points lie inside."""
    sizes = np.abs(values[values != 0])
    return float(np.median(sizes)) if len(sizes) else 1.0


def ticks(values: NDArray[np.float64], linear: float) -> list[float]:
    """Zero and the powers of ten of both signs that the values reach outside the linear part."""
    largest = float(np.abs(values).max(initial=0.0))
    powers = [10.0**k for k in range(int(np.ceil(np.log10(linear))), 300) if 10.0**k <= largest][-4:]
    return [*(-p for p in reversed(powers) if -p >= values.min()), 0.0, *(p for p in powers if p <= values.max())]


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{'+' if value > 0 else '−'}10<sup>{round(np.log10(abs(value)))}</sup>"


def _trace(
    group: Group, cloud: Cloud, across: NDArray[np.float64], up: NDArray[np.float64], members: NDArray[np.int64]
) -> go.Scatter:
    return go.Scatter(
        x=across[members],
        y=up[members],
        mode="markers",
        name=group.name,
        customdata=cloud.rows[members],
        text=[cloud.hover[m] for m in members],
        hovertemplate="%{text}<extra></extra>",
        marker={
            "symbol": group.symbol,
            "size": 9 if group.strong else 6,
            "color": COLORS[group.hue],
            "opacity": 0.9 if group.strong else 0.6,
        },
        selected={"marker": {"size": 18, "opacity": 1.0}},
        unselected={"marker": {"opacity": 0.45}},
    )
