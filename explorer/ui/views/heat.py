"""The class x class matrix as a figure: a heat map, and on each of its cells an invisible marker that can be clicked.

Rows are the classes of training examples, columns those of test predictions. Plotly's heat map alone takes no clicks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from explorer.ui.views.words import safe

SCALE = [[0.0, "#b4530a"], [0.25, "#f0a35e"], [0.5, "#f4f4f4"], [0.75, "#7fb0e6"], [1.0, "#1f5fae"]]
"""Away is orange, towards is blue, nothing is light; the sign is written on each cell of a small matrix and on hover."""
WRITTEN = 15
"""Classes up to which each cell has its number written on it."""
NAME = 14
"""Characters of a class name on an axis."""


@dataclass(frozen=True)
class Matrix:
    """Mean influence `values[i, j]` of training class `classes[i]` on test class `classes[j]`, NaN for none.

    `classes` are class numbers, `names` and the numbers of examples run alongside; `chosen` is a pair of class numbers.
    """

    classes: NDArray[np.int64]
    names: Sequence[str]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    values: NDArray[np.float64]
    unit: str
    chosen: tuple[int, int]


def figure(matrix: Matrix) -> go.Figure:
    """The heat map, symmetric about 0 and clipped at its largest value off the diagonal or on it, whichever is larger."""
    count = len(matrix.classes)
    limit = largest(matrix.values)
    at = np.arange(count)
    across, down = (part.ravel() for part in np.meshgrid(at, at))
    heat = go.Heatmap(
        z=matrix.values,
        x=at,
        y=at,
        zmin=-limit,
        zmax=limit,
        colorscale=SCALE,
        hoverinfo="skip",
        xgap=1,
        ygap=1,
        text=written(matrix.values, power(limit)) if count <= WRITTEN else None,
        texttemplate="%{text}" if count <= WRITTEN else None,
        textfont={"size": 12},
        colorbar={"exponentformat": "e", "thickness": 12},
    )
    cells = go.Scatter(
        x=across,
        y=down,
        mode="markers",
        marker={"symbol": "square", "size": 18, "color": "#000", "opacity": 0.0},
        selected={"marker": {"opacity": 0.0}},
        unselected={"marker": {"opacity": 0.0}},
        customdata=np.stack(
            [matrix.classes[down], matrix.classes[across]], axis=1
        ).tolist(),  # an array would come back as a dict
        text=[_hover(matrix, int(a), int(b)) for a, b in zip(down, across, strict=True)],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    drawn = go.Figure([heat, cells])
    drawn.update_layout(**_layout(matrix, count))
    return drawn


def largest(values: NDArray[np.float64]) -> float:
    """The largest size among values of which some may be NaN; 1 where all are 0."""
    return float(np.nanmax(np.abs(values), initial=0.0)) or 1.0


def power(limit: float) -> int:
    """The power of ten in which cells are written, so that the largest has two digits before the point; 0 where none is needed."""
    exponent = math.floor(math.log10(limit))
    return 0 if -1 <= exponent <= 2 else exponent - 1


def written(values: NDArray[np.float64], power: int) -> list[list[str]]:
    """Each value in units of a power of ten: short enough to stand in its cell, with its sign; nothing for NaN."""
    digits = 1 if power else 2
    return [[_signed(value / 10.0**power, digits) for value in row] for row in values.tolist()]


def _signed(value: float, digits: int) -> str:
    if math.isnan(value):
        return ""
    text = f"{abs(value):.{digits}f}"
    return f"{'−' if value < 0 else '+'}{text}" if float(text) else "0"


def _layout(matrix: Matrix, count: int) -> dict[str, Any]:
    ticks = {"tickvals": list(range(count)), "ticktext": [_short(name) for name in matrix.names], "showgrid": False}
    where = {int(number): position for position, number in enumerate(matrix.classes)}
    frames = []
    if all(number in where for number in matrix.chosen):
        y, x = (where[number] for number in matrix.chosen)
        box = {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
        frames = [{"type": "rect", **box, "line": {"color": "#808080", "width": 3}}]
    return {
        "height": min(760, max(320, 130 + 34 * count)),
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "hoverlabel": {"font": {"size": 13}},
        "font": {"size": 12},
        "clickmode": "event+select",
        "dragmode": False,
        "hovermode": "closest",
        "shapes": frames,
        "xaxis": {"title": {"text": "test predictions of class"}, "zeroline": False, "constrain": "domain", **ticks},
        "yaxis": {
            "title": {"text": "training examples of class"},
            "zeroline": False,
            "autorange": "reversed",
            **ticks,
        },
        "uirevision": "matrix",
    }


def _short(name: str) -> str:
    """A class name fit for an axis; Plotly reads some tags in text, so none are left."""
    return safe(name if len(name) <= NAME else name[: NAME - 1] + "…")


def _hover(matrix: Matrix, a: int, b: int) -> str:
    value = matrix.values[a, b]
    effect = "no examples" if np.isnan(value) else f"{value:+.3g} {matrix.unit} on average"
    return (
        f"{matrix.train[a]:,} training examples of {safe(matrix.names[a])}<br>"
        f"on {matrix.test[b]:,} test predictions of {safe(matrix.names[b])}<br>{effect}"
    )
