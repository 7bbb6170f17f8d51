"""Which class helps or hurts which? The matrix of classes on the screen: Plotly draws it, a click names two classes."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from explorer.ui.views.heat import Matrix, figure


def show(matrix: Matrix, *, alt: str, key: str) -> tuple[int, int] | None:
    """Draw it; the class numbers (training, test) of the cell that was clicked, or None."""
    return clicked(figure(matrix), alt=alt, key=key)


def clicked(drawn: go.Figure, *, alt: str, key: str) -> tuple[int, int] | None:
    """Draw a heat map whose cells hold (row, column) as custom data; the cell that was clicked, or None."""
    event: Any = st.plotly_chart(
        drawn,
        key=key,
        on_select="rerun",
        selection_mode="points",
        width="stretch",
        config={"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]},
        alt=alt,
    )
    return picked(event)


def picked(event: Any) -> tuple[int, int] | None:
    """The cell in Plotly's selection event."""
    points = event["selection"]["points"]
    said = points[0].get("customdata") if points else None
    return (int(said[0]), int(said[1])) if isinstance(said, list | tuple) and len(said) >= 2 else None
