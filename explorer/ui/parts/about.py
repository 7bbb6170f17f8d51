"""What do these numbers mean? The panel's part that says so for the run on screen."""

from __future__ import annotations

import streamlit as st

from explorer.contracts import Target
from explorer.store import Run
from explorer.ui import answers, load


def show(run: Run, target: Target) -> None:
    """The meaning of every number of the page, with the run's own settings."""
    meta, stats = load.meta(run), load.evidence(run)
    layer = stats.get("layer", "")
    seen = (
        "the whole model"
        if stats.get("whole_model")
        else f"the last layer ({layer}) on fixed features; what the layers below would do is not in it"
    )
    damping = (
        f"- **Damping** λ = {stats['damping']:.3g} ({stats['damping_rule']}), weight decay {stats['weight_decay']:.3g}; "
        f"the solve leaves a residual of {stats['residual']:.1e}.\n"
        if "damping" in stats
        else ""
    )
    st.markdown(
        f"""
- **Influence** of a training example: how much {answers.unit(run, target)} of the explained quantity this prediction has
  because the example was in the training set. ▲ towards: without it the answer would be worse; ▼ away: better.
- It is a first-order estimate through {seen}. A deep model trained again differs by more than this.
{damping}- **Share**: |influence| over its sum over all {meta.train:,} training examples.
- **Rank agreement**: Spearman correlation with a second method (plain gradient products, no curvature).
- **Noise**: how much this prediction still moved per epoch at the end of training.
- **Memorized**: the example's loss summed over training (or, without a log, its self-influence) is more than three robust
  deviations above its class. A high score says *memorized*, not *wrong*.
- **Near-duplicate**: another training example lies nearer, in the features the last layer sees, than a tenth of the usual
  distance to a nearest neighbor. A twin hides memorization: removing one of two copies changes little.
- **On the map** colors are in 127 steps to each side of the legend's limits and clipped there; tiles and the strongest rows
  of tables are exact.
"""
    )
