"""What is known of a training example, whom does it help and hurt, and what is near it? The side drawer's content as HTML."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views import text
from explorer.ui.views.card import card_of, face
from explorer.ui.views.tiles import Item, badges, effect, grid, tile
from explorer.ui.views.words import percent, plain, safe, signed


@dataclass(frozen=True)
class Known:
    """A training example and what is known of its memorization; without it `quadrant` is empty.

    `percentile` says how many percent of all training examples have a lower self-influence.
    """

    item: Item
    quadrant: str = ""
    meaning: str = ""
    self_influence: float = float("nan")
    percentile: float = float("nan")


@dataclass(frozen=True)
class Here:
    """Influence on the prediction that is selected now; `share` is of the total |influence| on it."""

    query: str
    influence: float
    share: float
    unit: str
    clipped: bool


@dataclass(frozen=True)
class Reverse:
    """The test predictions that the example helps and hurts most, with the influence and whether it is only a bound.

    `helps` and `hurts` count among `computed` of `total` test predictions; `mean` is over the computed ones.
    """

    helped: tuple[tuple[Item, float, bool], ...]
    hurt: tuple[tuple[Item, float, bool], ...]
    helps: int
    hurts: int
    computed: int
    total: int
    mean: float
    unit: str


def known(facts: Known) -> str:
    """The example's card."""
    item = facts.item
    lines = [_said(item)]
    if facts.quadrant:
        lines.append(f'<strong>{safe(facts.quadrant)}</strong> <span class="ix-quiet">{safe(facts.meaning)}</span>')
        lines.append(
            f"self-influence <strong>{plain(facts.self_influence)}</strong>, higher than {facts.percentile:.1f} % of all"
        )
    else:
        lines.append('<span class="ix-quiet">Memorization is not measured yet.</span>')
    return (
        f'<section class="ix-card{card_of(item.face)}" aria-label="Training example {safe(item.id)}">'
        f"{face(item.face, f'training example {item.id}', large=True)}"
        f'<div class="ix-card-text"><div class="ix-id">{safe(item.id)} <span class="ix-quiet">training example</span></div>'
        f"{''.join(f'<div>{line}</div>' for line in lines)}{badges(item)}</div></section>"
    )


def _said(item: Item) -> str:
    if item.face.passage is not None:
        return text.answer(item.label, item.prediction, item.right, text.SAID)
    mark = "" if item.right is None else ("✓ " if item.right else "✗ ")
    label = "true value" if item.right is None else "labeled"
    return f"{label} <strong>{safe(item.label)}</strong>, {mark}model says <strong>{safe(item.prediction)}</strong>"


def here(facts: Here) -> str:
    """One line: what the example did for the selected prediction."""
    return (
        f'<p class="ix-drawer-line">For <b>{safe(facts.query)}</b>: {effect(facts.influence, clipped=facts.clipped)} '
        f'<span class="ix-quiet">{safe(facts.unit)} · {percent(facts.share)} of all |influence|</span></p>'
    )


def reverse(facts: Reverse) -> str:
    """Whom it helps and whom it hurts."""
    small = facts.computed - facts.helps - facts.hurts
    some = "" if facts.computed == facts.total else f" (of {facts.total:,} in all; the others are not computed)"
    parts = [f"Helps <b>{facts.helps:,}</b>", f"hurts <b>{facts.hurts:,}</b>"]
    if small:
        parts.append(f"too small to tell for {small:,}")
    return (
        f'<section aria-label="Test predictions it helps and hurts"><h4>Which predictions does it help and hurt?</h4>'
        f'<p class="ix-drawer-line">{", ".join(parts)} of {facts.computed:,} test predictions{some}; mean '
        f"{signed(facts.mean)} {safe(facts.unit)}</p>"
        f'<div class="ix-galleries">{_side("towards", "Helps most", facts.helped)}{_side("away", "Hurts most", facts.hurt)}'
        "</div></section>"
    )


def _side(side: str, title: str, found: tuple[tuple[Item, float, bool], ...]) -> str:
    tiles = [tile(item, effect(value, clipped=clipped)) for item, value, clipped in found]
    return (
        f'<section class="ix-gallery ix-{side}" aria-label="{title}"><h4>{title}</h4>'
        f"{grid(tiles, title, 'None of the computed predictions.')}</section>"
    )
