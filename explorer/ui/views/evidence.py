"""Did retraining check these scores? One sentence of what was measured, and the curve of dampings behind the one in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from explorer.ui.views.words import as_markdown

HEIGHT = 260
BAND, LINE, USED = "rgba(128, 128, 128, 0.25)", "#7a7a7a", "#8a63d2"
"""Middle tones, for white and for black."""


@dataclass(frozen=True)
class Checked:
    """What some retrainings on random halves say of a run's scores; `left_out` says why there are none.

    `lds` is the rank correlation of predictions and outcomes for each of `dampings` (a method without one has a single
    None), `low`..`high` its 95 % interval; `used` is the place of the damping in use, `by` who chose it.
    """

    retrainings: int = 0
    queries: int = 0
    dampings: Sequence[float | None] = ()
    lds: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    used: int = 0
    by: str = "method"
    regret: float = 0.0
    left_out: str = ""


def short(checked: Checked) -> str:
    """The part of a trust line: what was measured, or nothing."""
    if checked.left_out:
        return ""
    k = checked.used
    return (
        f"checked by {checked.retrainings} retrainings on random halves: rank correlation {checked.lds[k]:.2f} "
        f"({checked.low[k]:.2f} to {checked.high[k]:.2f})"
    )


def sentence(checked: Checked) -> str:
    """What was measured, in one sentence."""
    if checked.left_out:
        return f"Not checked by retraining: {checked.left_out}"
    k = checked.used
    chosen = {
        "evidence": f"; damping chosen among {len(checked.dampings)} (another draw of {checked.retrainings} halves would choose "
        f"one that is worse by {checked.regret:.3f} on average)",
        "user": f"; the damping is the one given, the best of {len(checked.dampings)} has {max(checked.lds, default=0):.2f}",
    }
    return (
        f"Checked by {checked.retrainings} retrainings on random halves: scores predict their outcomes with rank correlation "
        f"{checked.lds[k]:.2f} ({checked.low[k]:.2f} to {checked.high[k]:.2f}) over {checked.queries:,} test examples"
        f"{chosen.get(checked.by, '')}."
    )


def show(checked: Checked, key: str) -> None:
    """The sentence, and the curve where dampings were compared."""
    st.markdown(f"**{as_markdown(sentence(checked))}**")
    if len(checked.dampings) > 1:
        st.plotly_chart(figure(checked), key=key, width="stretch", config={"displayModeBar": False}, alt=_alt(checked))


def figure(checked: Checked) -> go.Figure:
    """Rank correlation up, damping across on a log scale, with its 95 % band; the damping in use is marked."""
    drawn = [k for k, damping in enumerate(checked.dampings) if damping]  # 0 has no place on a log scale
    x = [checked.dampings[k] for k in drawn]
    quiet = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    figure = go.Figure(
        [
            go.Scatter(x=x, y=[checked.low[k] for k in drawn], **quiet),
            go.Scatter(x=x, y=[checked.high[k] for k in drawn], fill="tonexty", fillcolor=BAND, **quiet),
            go.Scatter(
                x=x,
                y=[checked.lds[k] for k in drawn],
                mode="lines+markers",
                line={"color": LINE},
                showlegend=False,
                hovertemplate="damping %{x:.3g}: %{y:.3f}<extra></extra>",
            ),
        ]
    )
    if checked.used in drawn:
        figure.add_scatter(
            x=[checked.dampings[checked.used]],
            y=[checked.lds[checked.used]],
            mode="markers+text",
            marker={"size": 13, "symbol": "circle-open", "color": USED, "line": {"width": 3}},
            text=["in use"],
            textposition="top center",
            hoverinfo="skip",
            showlegend=False,
        )
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        font={"size": 12},
        xaxis={"type": "log", "title": {"text": "damping λ (log scale)"}, "exponentformat": "e", "dtick": 1},
        yaxis={"title": {"text": "rank correlation"}, "zeroline": False},
        uirevision="evidence",
    )
    return figure


def _alt(checked: Checked) -> str:
    listed = zip(checked.dampings, checked.lds, strict=True)
    return "Rank correlation by damping: " + ", ".join(f"{damping:.2g}: {lds:.2f}" for damping, lds in listed)
