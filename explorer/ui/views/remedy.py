"""What did acting on some examples do? Effects with their intervals as a table and as dots, against before and against random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

from explorer.ui.views.effects import Effect, level, moved, scale
from explorer.ui.views.words import safe

Against = Literal["before", "random"]
Unit = Literal["points", "nats", "squared error"]
LOOKS: dict[Against, tuple[str, str, str]] = {
    "before": ("circle", "#2f7dd1", "against before"),
    "random": ("diamond-open", "#c96a12", "against as many at random"),
}
"""Symbol, color (middle tones, for white and for black) and words of each comparison."""
ROW = 30
"""Pixels of a line of the picture."""


@dataclass(frozen=True)
class Line:
    """One measured thing: its name, the digits to show, its unit, the mean of each arm, and the change against both others.

    Numbers are turned so that more is better; `turned` says that the thing itself is better when smaller.
    """

    name: str
    unit: Unit
    before: float
    after: float
    random: float
    changes: dict[Against, Effect]
    turned: bool = False


@dataclass(frozen=True)
class Result:
    """What was done in words, how many trainings of each arm so far out of how many, and every line, the most important first."""

    done: str
    seeds: int
    wanted: int
    lines: Sequence[Line]


def sentence(result: Result) -> str:
    """The first line's change against both others, whether it is more than luck, and how the held-out loss moved, which tells smaller
    changes than accuracy does; as Markdown, text from data is not in it."""
    first = result.lines[0]
    own, other = first.changes["before"], first.changes["random"]
    said = f"{result.done}: {first.name} {moved(own, first.unit)}"
    if not math.isfinite(own.low):
        return f"{said} after one training; an interval needs two."
    word = "clearly " if other.clear else "not clearly "
    than = "better" if other.mean >= 0 else "worse"
    return (
        f"{said}; {word}{than} than without as many at random, by {moved(other, first.unit)}.{_loss(result.lines[1:])}"
    )


def _loss(lines: Sequence[Line]) -> str:
    """A sentence on the held-out loss, if it is measured beside accuracy."""
    for line in lines:
        own = line.changes["before"]
        if line.name == "loss" and math.isfinite(own.mean):
            return f" Held-out loss is {'clearly ' if own.clear else 'not clearly '}{'lower' if own.mean >= 0 else 'higher'} than before."
    return ""


def show(result: Result, key: str) -> None:
    """The sentence, the dots with their intervals, and the table."""
    far = "" if result.seeds >= result.wanted else f" :small[{result.seeds:,} of {result.wanted:,} seeds so far.]"
    st.markdown(f"**{sentence(result)}**{far}")
    st.plotly_chart(figure(result), key=key, width="stretch", config={"displayModeBar": False}, alt=sentence(result))
    with st.expander("All numbers"):
        st.html(table(result))


def figure(result: Result) -> go.Figure:
    """A dot and a 95 % interval for each line and each comparison; right is better. Points and losses have an axis each."""
    units = list(dict.fromkeys(line.unit for line in result.lines))
    drawn = make_subplots(rows=1, cols=len(units), horizontal_spacing=0.2)
    for column, unit in enumerate(units, start=1):
        lines = [line for line in result.lines if line.unit == unit]
        for number, against in enumerate(LOOKS):
            drawn.add_trace(_dots(lines, against, unit, number, legend=column == 1), row=1, col=column)
        drawn.update_xaxes(
            title={"text": f"change, {unit}: right is better"}, zeroline=True, zerolinewidth=2, row=1, col=column
        )
        drawn.update_yaxes(
            tickvals=list(range(len(lines))),
            ticktext=[safe(f"less {line.name}" if line.turned else line.name) for line in lines],
            range=[len(lines) - 0.4, -0.6],
            zeroline=False,
            automargin=True,
            row=1,
            col=column,
        )
    longest = max(sum(line.unit == unit for line in result.lines) for unit in units)
    drawn.update_layout(
        height=110 + ROW * max(longest, 2),
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        font={"size": 12},
        hoverlabel={"font": {"size": 13}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"size": 12}},
        uirevision="remedy",
    )
    return drawn


def table(result: Result) -> str:
    """Means of the three arms and both changes with their intervals, as HTML."""
    heads = ("before", "after", "random", "after less before", "after less random")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "".join(_row(line) for line in result.lines)
    return (
        f'<section aria-label="{safe(result.done)}: all numbers"><table class="ix-table"><thead><tr><th scope="col">held out</th>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table><p class="ix-quiet">Means over seeds; changes are paired by seed, with 95 % t-intervals. Changes are turned so that '
        "more is better. ● marks an interval that leaves out zero.</p></section>"
    )


def _dots(lines: Sequence[Line], against: Against, unit: str, number: int, legend: bool) -> go.Scatter:
    symbol, color, words = LOOKS[against]
    found = [line.changes[against] for line in lines]
    factor = scale(unit)
    return go.Scatter(
        x=[_or_none(one.mean * factor) for one in found],
        y=[k + (number - 0.5) * 0.3 for k in range(len(lines))],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_or_zero(one.high - one.mean) * factor for one in found],
            "arrayminus": [_or_zero(one.mean - one.low) * factor for one in found],
            "thickness": 2,
        },
        mode="markers",
        name=words,
        legendgroup=against,
        showlegend=legend,
        marker={"symbol": symbol, "color": color, "size": 9, "line": {"width": 2, "color": color}},
        text=[f"{safe(line.name)}, {words}: {moved(line.changes[against], line.unit)}" for line in lines],
        hovertemplate="%{text}<extra></extra>",
    )


def _row(line: Line) -> str:
    arms = "".join(f"<td>{level(value, line.unit)}</td>" for value in (line.before, line.after, line.random))
    changes = "".join(
        f"<td>{moved(line.changes[name], line.unit)}{' ●' if line.changes[name].clear else ''}</td>" for name in LOOKS
    )
    return f'<tr><th scope="row">{safe(_name(line))}</th>{arms}{changes}</tr>'


def _name(line: Line) -> str:
    return f"{line.name} (less is better)" if line.turned else line.name


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
