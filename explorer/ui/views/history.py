"""How did the model come to know one example? Its loss, confidence and right or wrong answers over epochs, drawn by Plotly in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

LOSS, SURE, WRONG = "#7a7a7a", "#2f7dd1", "#c96a12"
"""Middle tones, for white and for black; wrong answers have a symbol of their own as well."""
HEIGHT = 270


@dataclass(frozen=True)
class History:
    """One example after each epoch, `[epochs]` each; `confidence` and `right` are empty for a regression."""

    loss: Sequence[float]
    confidence: Sequence[float]
    right: Sequence[bool]

    @property
    def sentence(self) -> str:
        """When the model got it right for good, and how often it forgot it."""
        epochs = len(self.loss)
        if not self.right:
            return (
                f"Loss {self.loss[0]:.2g} after the first and {self.loss[-1]:.2g} after the last of {epochs:,} epochs."
            )
        if not any(self.right):
            return f"Wrong after each of {epochs:,} epochs: the model never fitted this label."
        if all(self.right):
            return f"Right after each of {epochs:,} epochs: learned at once."
        forgotten = sum(before and not after for before, after in zip(self.right, self.right[1:], strict=False))
        times = "once" if forgotten == 1 else f"{forgotten:,} times"
        lost = f", forgotten {times}" if forgotten else ""
        last = max(k for k, right in enumerate(self.right) if not right) + 1
        end = f"right for good from epoch {last + 1:,} on" if last < epochs else "wrong at the end"
        return f"Right after {sum(self.right):,} of {epochs:,} epochs{lost}; {end}."


def show(history: History, key: str) -> None:
    """The small picture and its sentence."""
    st.plotly_chart(
        figure(history),
        key=key,
        width="stretch",
        config={"displayModeBar": False},
        alt=f"Over epochs. {history.sentence}",
    )
    st.caption(history.sentence)


def figure(history: History) -> go.Figure:
    """Loss above; below it the confidence in the label, filled circles where the answer was right, crosses where it was wrong."""
    epochs = list(range(1, len(history.loss) + 1))
    rows = 2 if history.right else 1
    drawn = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.12)
    drawn.add_scatter(
        x=epochs,
        y=list(history.loss),
        mode="lines",
        line={"color": LOSS},
        name="loss",
        hovertemplate="epoch %{x}: loss %{y:.3g}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    drawn.update_yaxes(title={"text": "loss"}, rangemode="tozero", row=1, col=1)
    if history.right:
        _confidence(drawn, epochs, history)
    drawn.update_layout(
        height=HEIGHT if rows == 2 else HEIGHT * 2 // 3,
        margin={"l": 10, "r": 10, "t": 6, "b": 6},
        font={"size": 12},
        hoverlabel={"font": {"size": 13}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "font": {"size": 12}},
        uirevision="history",
    )
    drawn.update_xaxes(title={"text": "epoch"}, row=rows, col=1)
    return drawn


def _confidence(drawn: go.Figure, epochs: list[int], history: History) -> None:
    drawn.add_scatter(
        x=epochs,
        y=list(history.confidence),
        mode="lines",
        line={"color": LOSS},
        hoverinfo="skip",
        showlegend=False,
        row=2,
        col=1,
    )
    looks = ((True, "✓ right", "circle", SURE), (False, "✗ wrong", "x", WRONG))
    for right, name, symbol, color in looks:
        at = [k for k, said in enumerate(history.right) if said == right]
        drawn.add_scatter(
            x=[epochs[k] for k in at],
            y=[history.confidence[k] for k in at],
            mode="markers",
            marker={"symbol": symbol, "color": color, "size": 7},
            name=name,
            hovertemplate=f"epoch %{{x}}: confidence %{{y:.2f}}, {name}<extra></extra>",
            row=2,
            col=1,
        )
    drawn.update_yaxes(title={"text": "confidence"}, range=[-0.06, 1.06], row=2, col=1)
