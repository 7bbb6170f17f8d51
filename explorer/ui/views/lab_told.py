"""What did a sentence do to another one, taught and told? A pair of sentences with the numbers of both ways, as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from explorer.ui.views.tiles import effect
from explorer.ui.views.words import plain, safe


@dataclass(frozen=True)
class Cell:
    """A sentence and another that was asked: by way, the change of log p of the asked one in nats, and that of the way back.

    `before` is log p of the asked sentence before.
    """

    told: str
    asked: str
    change: Mapping[str, float]
    back: Mapping[str, float]
    before: float


def opened(cell: Cell) -> str:
    """Both sentences and every number."""
    itself = cell.told == cell.asked
    heads = '<th scope="col"></th><th scope="col">on this one</th>' + (
        "" if itself else '<th scope="col">the other way round</th>'
    )
    rows = "".join(
        f'<tr><th scope="row">{safe(way)}</th><td>{_number(value)}</td>'
        + ("" if itself else f"<td>{_number(cell.back[way])}</td>")
        + "</tr>"
        for way, value in cell.change.items()
    )
    before = f"log p before: {_minus(cell.before)} nats" if math.isfinite(cell.before) else "log p before is not finite"
    asked = "asked of itself" if itself else f"asked: <strong>{safe(cell.asked)}</strong>"
    return (
        '<section class="ix-lab-cell" aria-label="The open pair of sentences">'
        f'<div class="ix-lab-side"><div>said: <strong>{safe(cell.told)}</strong></div><div>{asked}</div>'
        f'<div class="ix-quiet">{before}</div></div>'
        f'<table class="ix-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></section>'
    )


def _number(value: float) -> str:
    return (
        f'{effect(value)} <span class="ix-quiet">nats</span>'
        if math.isfinite(value)
        else '<span class="ix-quiet">not measured</span>'
    )


def _minus(value: float) -> str:
    return f"−{plain(-value)}" if value < 0 else plain(value)
