"""What does a trace through the run's own training say, and how far is the run's own method from it? A line of HTML.

Draws no tiles: the galleries of a trace are those of any answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views.words import duration, safe


@dataclass(frozen=True)
class Exact:
    """A finished trace; `agreement` (may be NaN) and `shared` of `of` compare it with the run's `method`."""

    method: str
    agreement: float
    shared: int
    of: int
    train: int
    steps: int
    seconds: float


def line(found: Exact) -> str:
    """What it is true of first, then how far the run's own method agrees."""
    ranks = "undefined" if found.agreement != found.agreement else f"{found.agreement:.2f}".replace("-", "−")
    took = duration(found.seconds) if found.seconds >= 1 else "less than 1 s"
    parts = (
        f"rank agreement with {safe(found.method)}: {ranks} over all {found.train:,}",
        f"{found.shared} of the {found.of} strongest shared",
        f"went back through {found.steps:,} steps in {took}",
        f"the map and the line above still show {safe(found.method)}",
    )
    return (
        '<p class="ix-trust" role="status"><strong><span aria-hidden="true">◎</span> Traced exactly through this training, '
        "to first order.</strong> True of this training alone: its order, seed and rates. "
        f'<span class="ix-quiet">{" · ".join(parts)}</span></p>'
    )
