"""Who teaches whom? The matrix of effects of lessons on probes as a heat map whose cells can be clicked.

Rows are the samples that were taught, columns those that were asked. Draws what it is given and orders nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from explorer.ui.views.heat import SCALE
from explorer.ui.views.matrix import clicked
from explorer.ui.views.words import safe

CLICKABLE = 22_500
"""Cells up to which each can be clicked: each is an element of its own in the browser."""
CLIPPED = 99.0
"""Percentile of |effect| at which colors end: a sample's effect on itself would leave the others white."""
NAME = 24
"""Characters of a name on an axis."""
SIDE = 560
"""Pixels of the matrix, about."""


@dataclass(frozen=True)
class Effects:
    """`values[i, j]` of lesson i on probe j, NaN where there is none, as drawn; `chosen` is the cell (i, j) that is open.

    `lessons` and `probes` name rows and columns, `lesson_groups` and `probe_groups` say what each belongs to, such as its
    class: neighbors of the same group share a label on the axis.
    """

    values: NDArray[np.float64]
    lessons: Sequence[str]
    probes: Sequence[str]
    lesson_groups: Sequence[str]
    probe_groups: Sequence[str]
    unit: str
    chosen: tuple[int, int]

    @property
    def clickable(self) -> bool:
        """Whether cells can be clicked."""
        return self.values.size <= CLICKABLE


def limit(values: NDArray[np.float64]) -> float:
    """Where colors end: the 99th percentile of |effect|; 1 where nothing is measured or all is zero."""
    sizes = np.abs(values[np.isfinite(values)])
    return (float(np.percentile(sizes, CLIPPED)) if sizes.size else 0.0) or float(sizes.max(initial=0.0)) or 1.0


def show(effects: Effects, *, alt: str, key: str) -> tuple[int, int] | None:
    """Draw it; the cell (lesson, probe) that was clicked, or None."""
    return clicked(figure(effects), alt=alt, key=key)


def figure(effects: Effects) -> go.Figure:
    """The heat map, symmetric about 0, and an invisible marker on each cell where there are not too many."""
    rows, columns = effects.values.shape
    end = limit(effects.values)
    heat = go.Heatmap(
        z=effects.values,
        zmin=-end,
        zmax=end,
        colorscale=SCALE,
        hoverinfo="skip" if effects.clickable else "z",
        hoverongaps=False,
        colorbar={"exponentformat": "e", "thickness": 12, "title": {"text": safe(effects.unit), "side": "right"}},
    )
    drawn = go.Figure([heat, _cells(effects)] if effects.clickable else [heat])
    drawn.update_layout(**_layout(effects, rows, columns))
    return drawn


def _cells(effects: Effects) -> go.Scatter:
    rows, columns = effects.values.shape
    across, down = (part.ravel() for part in np.meshgrid(np.arange(columns), np.arange(rows)))
    lessons, probes = ([safe(name) for name in names] for names in (effects.lessons, effects.probes))
    return go.Scatter(
        x=across,
        y=down,
        mode="markers",
        marker={
            "symbol": "square",
            "size": int(np.clip(SIDE / max(rows, columns), 4, 40)),
            "color": "#000",
            "opacity": 0.0,
        },
        selected={"marker": {"opacity": 0.0}},
        unselected={"marker": {"opacity": 0.0}},
        customdata=np.stack([down, across], axis=1).tolist(),  # an array would come back as a dict
        text=[
            f"{lessons[i]} → {probes[j]}<br>{_said(value, effects.unit)}"
            for i, j, value in zip(down, across, effects.values.ravel(), strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _said(value: float, unit: str) -> str:
    return f"{value:+.3g} {unit}" if np.isfinite(value) else "not measured"


def _layout(effects: Effects, rows: int, columns: int) -> dict[str, Any]:
    x, y = effects.chosen[1], effects.chosen[0]
    box = {"type": "rect", "x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
    grid = {"line": {"color": "rgba(128,128,128,.45)", "width": 1}, "type": "line"}
    across, down = (_groups(names) for names in (effects.probe_groups, effects.lesson_groups))
    lines = [{**grid, "x0": at, "x1": at, "y0": -0.5, "y1": rows - 0.5} for at in across[2]]
    lines += [{**grid, "y0": at, "y1": at, "x0": -0.5, "x1": columns - 0.5} for at in down[2]]
    ticks = {"showgrid": False, "zeroline": False}
    return {
        "height": SIDE,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "hoverlabel": {"font": {"size": 13}},
        "font": {"size": 12},
        "clickmode": "event+select",
        "dragmode": False,
        "hovermode": "closest",
        "shapes": [*lines, {**box, "line": {"color": "#10a010", "width": 3}}],
        "xaxis": {
            "title": {"text": "asked"},
            "range": [-0.5, columns - 0.5],
            "tickvals": across[0],
            "ticktext": across[1],
            **ticks,
        },
        "yaxis": {
            "title": {"text": "taught"},
            "range": [rows - 0.5, -0.5],
            "tickvals": down[0],
            "ticktext": down[1],
            **ticks,
        },
        "uirevision": "laboratory",
    }


def _groups(names: Sequence[str]) -> tuple[list[float], list[str], list[float]]:
    """Where the labels of groups stand, what they say, and where a group ends; too many groups get no labels or lines."""
    runs = [(name, len(list(members))) for name, members in groupby(names)]
    if len(runs) > 30:
        return [], [], []
    ends = np.cumsum([count for _, count in runs])
    middles = [float(end - (count + 1) / 2) for end, (_, count) in zip(ends, runs, strict=True)]
    words = [safe(name if len(name) <= NAME else name[: NAME - 1] + "…") for name, _ in runs]
    return middles, words, [float(end - 0.5) for end in ends[:-1]]
