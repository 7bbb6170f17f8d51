"""Do the scores of memorization say the same? Rank correlations of all pairs as a picture, and the scores that cannot be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from explorer.ui.views.heat import SCALE
from explorer.ui.views.words import safe


@dataclass(frozen=True)
class Agreement:
    """Spearman's correlation `matrix` `[k, k]` of the scores called `names`, NaN where one is constant; over `rows` examples of `total`.

    `meanings` says each score in one sentence; `missing` why each other score cannot be had.
    """

    names: Sequence[str]
    meanings: Sequence[str]
    matrix: NDArray[np.float64]
    rows: int
    total: int
    missing: Mapping[str, str]


def show(found: Agreement, key: str) -> None:
    """The picture, and what is missing from it with the reason."""
    if len(found.names) > 1:
        st.plotly_chart(figure(found), key=key, width="stretch", config={"displayModeBar": False}, alt=alt(found))
        of = f"{found.rows:,}" if found.rows == found.total else f"{found.rows:,} drawn at random of {found.total:,}"
        st.caption(
            f"Spearman's rank correlation over {of} training examples. Every score is turned so that high means memorized."
        )
    st.html(_told(found))


def figure(found: Agreement) -> go.Figure:
    """The matrix with its numbers written on it, −1 to 1; a pair without a correlation stays empty."""
    count, names = len(found.names), [safe(name) for name in found.names]
    hover = [
        [
            f"{a}<br>{b}<br>" + ("no correlation: one of them is constant" if np.isnan(value) else f"{value:+.3f}")
            for b, value in zip(names, row, strict=True)
        ]
        for a, row in zip(names, found.matrix, strict=True)
    ]
    drawn = go.Figure(
        go.Heatmap(
            z=found.matrix,
            x=names,
            y=names,
            zmin=-1,
            zmax=1,
            colorscale=SCALE,
            text=hover,
            hovertemplate="%{text}<extra></extra>",
            texttemplate="%{z:.2f}",
            textfont={"size": 12},
            xgap=1,
            ygap=1,
            colorbar={"thickness": 12, "tickvals": [-1, -0.5, 0, 0.5, 1]},
        )
    )
    drawn.update_layout(
        height=200 + 30 * count,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        font={"size": 12},
        hoverlabel={"font": {"size": 13}},
        xaxis={"tickangle": -40, "showgrid": False, "automargin": True},
        yaxis={"autorange": "reversed", "showgrid": False, "automargin": True},
        dragmode=False,
        uirevision="signs",
    )
    return drawn


def alt(found: Agreement) -> str:
    """The strongest and the weakest agreement in words."""
    up = np.triu(np.ones(found.matrix.shape, dtype=np.bool_), 1) & np.isfinite(found.matrix)
    if not up.any():
        return "Rank correlation of scores: none is known."
    pairs = np.argwhere(up)
    values = found.matrix[up]
    said = [
        f"{word} {found.names[a]} with {found.names[b]}, {values[k]:.2f}"
        for word, k in (("highest", int(values.argmax())), ("lowest", int(values.argmin())))
        for a, b in (pairs[k],)
    ]
    return f"Rank correlation of {len(found.names)} scores: {'; '.join(said)}."


def _told(found: Agreement) -> str:
    meanings = "".join(
        f"<li><strong>{safe(name)}</strong> {safe(words)}</li>"
        for name, words in zip(found.names, found.meanings, strict=True)
    )
    body = (
        f'<details class="ix-times"><summary>What each score is</summary><ul>{meanings}</ul></details>'
        if found.names
        else ""
    )
    if found.missing:
        reasons = "".join(f"<li><strong>{safe(name)}</strong>: {safe(why)}</li>" for name, why in found.missing.items())
        body += f'<p class="ix-heading">Not here, and why</p><ul class="ix-missing">{reasons}</ul>'
    return f'<section aria-label="The scores in words">{body}</section>'
