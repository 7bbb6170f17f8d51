"""Where do the examples lie, drawn by Plotly in SVG? The map for browsers without WebGL2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from explorer.ui.views.words import AWAY, TOWARDS, signed

COLORS = [[0, "#d9730d"], [0.5, "#b8b8b8"], [1, "#1f5fae"]]
GRAY, QUERY, TAUGHT = "#808080", "#c02f8d", "#8a63d2"
CLIPPED = "clipped at the 99.5th percentile"


@dataclass(frozen=True)
class Scale:
    """What the colors say: values up to ±`limit`, the words at both ends, and the unit."""

    limit: float
    high: str
    low: str
    unit: str


@dataclass(frozen=True)
class Points:
    """Training points `[n, 2]` with their value `[n]`, test points `[m, 2]` with their rows `[m]`, and the query.

    `changed` `[m]` colors the test points too: what a lesson changed there; `taught` `[1, 2]` is then the place of the example taught.
    """

    train: NDArray[np.float32]
    values: NDArray[np.float64]
    test: NDArray[np.float32]
    test_rows: NDArray[np.int64]
    query: int
    strongest: NDArray[np.float32]
    scale: Scale
    changed: NDArray[np.float64] | None = None
    taught: NDArray[np.float32] | None = None


def show(points: Points, *, key: str) -> int | None:
    """Draw the map; the test row that was clicked, or None."""
    event: Any = st.plotly_chart(figure(points), key=key, on_select="rerun", selection_mode="points", width="stretch")
    chosen = [p for p in event["selection"]["points"] if p.get("customdata") is not None]
    if not chosen:
        return None
    said = chosen[0]["customdata"]
    return int(said[0] if isinstance(said, list | tuple) else said)


def figure(points: Points) -> go.Figure:
    """The figure: test points as diamonds, training points by value above them, a ring on the query and on what was taught."""
    scale, chosen = _scale(points.scale), points.test[points.test_rows == points.query]
    tests: dict[str, Any] = {"symbol": "diamond-open", "size": 7, "color": GRAY, "opacity": 0.6}
    if points.changed is not None:
        tests = {"symbol": "diamond", "size": 9, "color": points.changed, "line": {"width": 1, "color": GRAY}, **scale}
    legend = {"colorbar": _colorbar(points.scale)}
    drawn = [
        _dots(
            points.test,
            "test",
            tests,
            customdata=points.test_rows,
            hovertemplate="test row %{customdata}<extra></extra>",
        ),
        _dots(points.train, "training", {"size": 4, "color": points.values, **scale, **legend}),
        _dots(points.strongest, "strongest", {"symbol": "square-open", "size": 11, "color": GRAY}),
        _dots(chosen, "query", {"symbol": "circle-open", "size": 18, "color": QUERY, "line": {"width": 3}}),
    ]
    if points.taught is not None:
        ring = {"symbol": "star-open", "size": 18, "color": TAUGHT, "line": {"width": 2}}
        drawn.append(_dots(points.taught, "taught once", ring))
    made = go.Figure(drawn)
    made.update_layout(
        height=520,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        legend={"orientation": "h"},
        xaxis={"visible": False},
        yaxis={"visible": False},
        uirevision="map",
    )
    return made


def _dots(places: NDArray[np.float32], name: str, marker: dict[str, Any], **more: Any) -> go.Scatter:
    more = more or {"hoverinfo": "skip"}
    return go.Scatter(x=places[:, 0], y=places[:, 1], mode="markers", name=name, marker=marker, **more)


def _scale(scale: Scale) -> dict[str, Any]:
    limit = scale.limit or 1.0
    return {"colorscale": COLORS, "cmin": -limit, "cmax": limit}


def _colorbar(scale: Scale) -> dict[str, Any]:
    """The words of the map's legend, beside the colors that they name."""
    unit = f"{scale.unit}, " if scale.unit else ""
    bar = {"thickness": 10, "len": 0.86, "title": {"text": f"{unit}{CLIPPED}", "side": "right"}}
    if not scale.limit:
        return bar | {"tickvals": [0], "ticktext": ["0"]}
    ends = [f"{AWAY} {scale.low}<br>{signed(-scale.limit)}", "0", f"{TOWARDS} {scale.high}<br>{signed(scale.limit)}"]
    return bar | {"tickvals": [-scale.limit, 0, scale.limit], "ticktext": ends}
