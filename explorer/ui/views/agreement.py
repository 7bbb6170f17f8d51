"""Where do two methods agree on all training examples at once? A across, B up, drawn by Plotly in SVG; a click names one.

The strongest of each method have a symbol, a color and the numbers of their galleries; a dotted line is full agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from explorer.ui.views.words import safe

LOOKS = {"A": ("circle-open", "#8a63d2", "top center"), "B": ("square-open", "#0e9f7e", "bottom center")}
"""Symbol, color (middle tones, for white and for black) and place of the number of each method’s strongest examples."""
HEIGHT = 460


@dataclass(frozen=True)
class Cloud:
    """Training examples that are drawn, `[m]` each: rows, names, influence by A and by B, and both percentile ranks.

    `strong` names, for A and B, the drawn positions of its strongest examples with their numbers in the galleries.
    """

    rows: NDArray[np.int64]
    names: Sequence[str]
    influence: tuple[NDArray[np.float64], NDArray[np.float64]]
    percentile: tuple[NDArray[np.float64], NDArray[np.float64]]
    strong: tuple[tuple[NDArray[np.int64], Sequence[str]], tuple[NDArray[np.int64], Sequence[str]]]


def show(
    cloud: Cloud, names: tuple[str, str], *, by_rank: bool, alt: str, key: str, on_click: Callable[[int], None]
) -> None:
    """Draw the picture; `on_click(row)` when a training example in it was clicked."""

    def clicked() -> None:
        row = picked(st.session_state[key])
        if row is not None:
            on_click(row)

    st.plotly_chart(
        figure(cloud, names, by_rank=by_rank),
        key=key,
        on_select=clicked,
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


def figure(cloud: Cloud, names: tuple[str, str], *, by_rank: bool) -> go.Figure:
    """A across, B up. By rank: percentiles; else influence, each axis in units of that method's largest, root-stretched."""
    x, y = cloud.percentile if by_rank else tuple(map(_stretched, cloud.influence))
    drawn = go.Figure([_others(cloud, x, y), *(_strong(cloud, side, names[side], x, y) for side in (0, 1))])
    ends = (0.0, 100.0) if by_rank else (-1.0, 1.0)
    drawn.add_shape(
        type="line",
        x0=ends[0],
        y0=ends[0],
        x1=ends[1],
        y1=ends[1],
        layer="below",
        line={"color": "#808080", "dash": "dot"},
    )
    drawn.update_layout(
        height=HEIGHT,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"size": 12}},
        hoverlabel={"font": {"size": 13}},
        font={"size": 12},
        clickmode="event+select",
        hovermode="closest",
        xaxis=_axis("A", names[0], by_rank),
        yaxis=_axis("B", names[1], by_rank),
        uirevision="methods",
    )
    return drawn


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed square roots of values in −1..1 of the largest: the many small ones come apart, the sign stays."""
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values) / largest))


def _others(cloud: Cloud, x: NDArray[np.float64], y: NDArray[np.float64]) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        name="training examples",
        customdata=cloud.rows,
        hovertext=_hovers(cloud, np.arange(len(cloud.rows))),
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"size": 4, "color": "#808080", "opacity": 0.45},
        selected={"marker": {"opacity": 0.9}},
        unselected={"marker": {"opacity": 0.45}},
    )


def _strong(cloud: Cloud, side: int, name: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> go.Scatter:
    mark = "AB"[side]
    symbol, color, above = LOOKS[mark]
    at, numbers = cloud.strong[side]
    return go.Scatter(
        x=x[at],
        y=y[at],
        mode="markers+text",
        name=f"strongest in {mark}, {safe(name)}",
        text=list(numbers),
        textposition=above,
        textfont={"size": 12},
        cliponaxis=False,
        customdata=cloud.rows[at],
        hovertext=_hovers(cloud, at),
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"symbol": symbol, "size": 9 + 4 * side, "color": color, "line": {"width": 2}},
        selected={"marker": {"opacity": 1.0}},
        unselected={"marker": {"opacity": 1.0}},
    )


def _hovers(cloud: Cloud, at: NDArray[np.int64]) -> list[str]:
    (a, b), (p, q) = cloud.influence, cloud.percentile
    return [
        f"{safe(cloud.names[m])}<br>A {a[m]:+.2g}, percentile {p[m]:.1f}<br>B {b[m]:+.2g}, percentile {q[m]:.1f}"
        for m in at.tolist()
    ]


def _axis(mark: str, name: str, by_rank: bool) -> dict[str, Any]:
    what = "percentile of rank" if by_rank else "influence"
    title = {"text": f"← harmful   {mark} {safe(name)}: {what}   helpful →"}
    if by_rank:
        return {"title": title, "range": [-4, 104], "zeroline": False, "tickvals": [0, 25, 50, 75, 100]}
    shares = (-1.0, -0.25, 0.0, 0.25, 1.0)
    return {
        "title": title,
        "range": [-1.12, 1.12],
        "zeroline": True,
        "tickvals": [float(np.sign(share) * np.sqrt(abs(share))) for share in shares],
        "ticktext": ["−max", "−¼ max", "0", "+¼ max", "+max"],
    }
