"""How much does the answer on each example rest on itself, and does it help others? The quadrants as a picture, drawn by Plotly in SVG.

Every group has a shape and a color of its own; colors are middle tones that stand out on white and on black alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from explorer.ui.views.scales import floored, linear_part, power_of_ten, ticks
from explorer.ui.views.words import safe

Hue = Literal["towards", "away", "neutral"]
COLORS: dict[Hue, str] = {"towards": "#2f7dd1", "away": "#c96a12", "neutral": "#808080"}
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
    """The examples that are drawn, `[m]` each: training rows, ids, group numbers, and what is known of them."""

    rows: NDArray[np.int64]
    ids: Sequence[str]
    group: NDArray[np.int64]
    percentile: NDArray[np.float64]
    self_influence: NDArray[np.float64]
    held_out: NDArray[np.float64]
    held_out_se: NDArray[np.float64]


def show(
    cloud: Cloud,
    groups: Sequence[Group],
    unit: str,
    *,
    alt: str,
    key: str,
    on_click: Callable[[int | None], None],
) -> None:
    """Draw the picture; `on_click(row)` when a training example in it was clicked, `on_click(None)` when it was let go."""
    st.plotly_chart(
        figure(cloud, groups, unit),
        key=key,
        on_select=lambda: on_click(picked(st.session_state[key])),
        selection_mode="points",
        width="stretch",
        config={"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]},
        alt=alt,
    )


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
            "title": {"text": "self-influence (log scale) →"},
            "dtick": steps,
            "exponentformat": "e",  # a raised power would be smaller than 12 px
            "zeroline": False,
        },
        yaxis={
            "title": {"text": f"← harms   mean held-out influence ({unit})   helps →"},
            "tickvals": np.arcsinh(np.array(marks) / linear).tolist(),
            "ticktext": [power_of_ten(mark) for mark in marks],
            "zeroline": True,
            "zerolinewidth": 2,
        },
        uirevision="quadrant",
    )
    return figure


def _trace(
    group: Group, cloud: Cloud, across: NDArray[np.float64], up: NDArray[np.float64], members: NDArray[np.int64]
) -> go.Scatter:
    return go.Scatter(
        x=across[members],
        y=up[members],
        mode="markers",
        name=group.name,
        customdata=cloud.rows[members],
        hovertext=[safe(cloud.ids[m]) for m in members],
        text=[_hover(cloud, m) for m in members],
        hovertemplate="<b>%{hovertext}</b><br>%{text}<extra></extra>",
        marker={
            "symbol": group.symbol,
            "size": 9 if group.strong else 6,
            "color": COLORS[group.hue],
            "opacity": 0.9 if group.strong else 0.6,
        },
        selected={"marker": {"size": 18, "opacity": 1.0}},
        unselected={"marker": {"opacity": 0.45}},
    )


def _hover(cloud: Cloud, m: np.int64) -> str:
    """Without tags: Plotly would spend six bytes on each bracket, and a raised power would be smaller than 12 px."""
    return (
        f"percentile {cloud.percentile[m]:.1f}, self-influence {cloud.self_influence[m]:.2g}, "
        f"held-out {cloud.held_out[m]:+.2g} ± {cloud.held_out_se[m]:.2g}"
    )
