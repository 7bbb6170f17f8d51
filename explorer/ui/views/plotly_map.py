"""Where do the examples lie, drawn by Plotly in SVG? The map for browsers without WebGL2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray


@dataclass(frozen=True)
class Points:
    """Training points `[n, 2]` with their influence `[n]`, test points `[m, 2]` with their rows `[m]`, and the query."""

    train: NDArray[np.float32]
    influence: NDArray[np.float64]
    test: NDArray[np.float32]
    test_rows: NDArray[np.int64]
    query: int
    strongest: NDArray[np.float32]


def show(points: Points, *, key: str) -> int | None:
    """Draw the map; the test row that was clicked, or None."""
    event: Any = st.plotly_chart(figure(points), key=key, on_select="rerun", selection_mode="points", width="stretch")
    chosen = [p for p in event["selection"]["points"] if p.get("customdata") is not None]
    if not chosen:
        return None
    said = chosen[0]["customdata"]
    return int(said[0] if isinstance(said, list | tuple) else said)


def figure(points: Points) -> go.Figure:
    """The figure: training points by influence, test points as diamonds, a ring on the query."""
    limit = float(np.abs(points.influence).max()) or 1.0
    chosen = points.test[points.test_rows == points.query]
    figure = go.Figure(
        [
            go.Scatter(
                x=points.train[:, 0],
                y=points.train[:, 1],
                mode="markers",
                name="training",
                hoverinfo="skip",
                marker={
                    "size": 4,
                    "color": points.influence,
                    "colorscale": [[0, "#d9730d"], [0.5, "#b8b8b8"], [1, "#1f5fae"]],
                    "cmin": -limit,
                    "cmax": limit,
                    "colorbar": {"title": "influence", "thickness": 10},
                },
            ),
            go.Scatter(
                x=points.test[:, 0],
                y=points.test[:, 1],
                mode="markers",
                name="test",
                customdata=points.test_rows,
                hovertemplate="test row %{customdata}<extra></extra>",
                marker={"symbol": "diamond-open", "size": 7, "color": "#808080"},
            ),
            go.Scatter(
                x=points.strongest[:, 0],
                y=points.strongest[:, 1],
                mode="markers",
                name="strongest",
                hoverinfo="skip",
                marker={"symbol": "square-open", "size": 11, "color": "#808080"},
            ),
            go.Scatter(
                x=chosen[:, 0],
                y=chosen[:, 1],
                mode="markers",
                name="query",
                hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 18, "color": "#c02f8d", "line": {"width": 3}},
            ),
        ]
    )
    figure.update_layout(
        height=520,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        legend={"orientation": "h"},
        xaxis={"visible": False},
        yaxis={"visible": False},
        uirevision="map",
    )
    return figure
