"""What do two answers have in common? A, the training examples that both rest on, and B, side by side as HTML."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views import text
from explorer.ui.views.card import Query, face
from explorer.ui.views.tiles import Item, effect, grid, tile
from explorer.ui.views.words import safe

ALIKE = 0.5
"""Share of the strongest examples from which on two answers are said to rest on the same ones."""


@dataclass(frozen=True)
class Side:
    """One of the two answers: its name, its prediction, and the strongest examples that the other one does not have.

    `only_total` is how many those are, `listed` how many strongest examples its list holds in all.
    """

    name: str
    query: Query
    row: int
    point: int
    only: tuple[tuple[Item, float], ...]
    only_total: int
    listed: int


@dataclass(frozen=True)
class Shared:
    """A training example that is among the strongest of both answers, with its influence on each."""

    item: Item
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """Two answers. `agree` and `opposite` count all shared examples, of which `shared` are shown; `spearman` may be NaN."""

    a: Side
    b: Side
    shared: tuple[Shared, ...]
    agree: int
    opposite: int
    spearman: float
    train: int
    unit: str


def comparison(found: Comparison) -> str:
    """The whole comparison as one element."""
    return (
        f'<section class="ix-compare" aria-label="Comparison of two predictions">{_verdict(found)}'
        f'<div class="ix-compare-sides">{_side(found.a)}{_middle(found)}{_side(found.b)}</div></section>'
    )


def verdict(found: Comparison) -> str:
    """How alike the two answers are, in one sentence."""
    total = found.agree + found.opposite
    if not total:
        return "No training example is among the strongest of both answers."
    if found.opposite > found.agree:
        return "What both answers rest on pushes them in opposite directions."
    if found.agree >= ALIKE * min(found.a.listed, found.b.listed):
        return "Both answers rest largely on the same training examples."
    return "The answers share some training examples; most of what they rest on differs."


def _verdict(found: Comparison) -> str:
    total = found.agree + found.opposite
    ranks = "undefined" if found.spearman != found.spearman else f"{found.spearman:+.2f}".replace("-", "−")
    by_chance = found.a.listed * found.b.listed / max(1, found.train)
    return (
        f'<p class="ix-trust"><strong>{verdict(found)}</strong> <span class="ix-quiet">{total} of A’s {found.a.listed} '
        f"strongest are among B’s {found.b.listed} ({by_chance:.1f} expected by chance): {found.agree} push both the same "
        f"way, {found.opposite} opposite ways · rank correlation over all {found.train:,} training examples {ranks} · "
        f"{safe(found.unit)}</span></p>"
    )


def _side(side: Side) -> str:
    said = side.query
    tiles = [tile(item, effect(value)) for item, value in side.only]
    return (
        f'<section class="ix-compare-side" aria-label="{side.name}, {safe(said.id)}"><div class="ix-short" role="button" '
        f'tabindex="0" data-query="{side.row}" data-point="{side.point}" aria-label="{side.name}: test prediction '
        f'{safe(said.id)}">{face(said.face, f"test example {said.id}")}<div class="ix-item-text"><b>{side.name}</b> '
        f'<span class="ix-id">{safe(said.id)}</span><br>{_said(said)}<br>'
        f'<span class="ix-quiet">{safe(said.asked)}</span></div></div>'
        f"<h4>Only {side.name}</h4>{_counted(len(side.only), side.only_total)}"
        f"{grid(tiles, f'Strongest only in {side.name}', 'None: all are shared.')}</section>"
    )


def _said(query: Query) -> str:
    if query.face.passage is not None:
        return text.answer(query.label, query.prediction, not query.wrong)
    mark = ("✗ " if query.wrong else "✓ ") if query.outcome else ""
    return f"{mark}says <strong>{safe(query.prediction)}</strong>, labeled <strong>{safe(query.label)}</strong>"


def _middle(found: Comparison) -> str:
    tiles = [
        tile(
            one.item,
            effect(one.a, "A ")
            + effect(one.b, "B ")
            + f'<span class="ix-badge">{"agree" if one.a * one.b > 0 else "opposite"}</span>',
        )
        for one in found.shared
    ]
    return (
        f'<section class="ix-compare-side" aria-label="Shared by A and B"><h4>Shared</h4>'
        f"{_counted(len(tiles), found.agree + found.opposite)}"
        f"{grid(tiles, 'Strongest in both', 'No strong training example is shared.')}</section>"
    )


def _counted(shown: int, total: int) -> str:
    return f'<p class="ix-quiet">{shown} of {total} shown</p>' if total else ""
