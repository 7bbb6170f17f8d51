"""What did one lesson change elsewhere? The predictions that improved and got worse most, as HTML for the drawer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from explorer.ui.views.tiles import Item, effect, grid, tile
from explorer.ui.views.words import plain, safe

DIGITS = 6
"""As many as two numbers are written with before they count as the same."""


@dataclass(frozen=True)
class Change:
    """A test prediction, the change of its measure, and log p of its label before (None for a regression)."""

    item: Item
    change: float
    before: float | None


@dataclass(frozen=True)
class Lesson:
    """A lesson: how it was taught in words, the example's own loss before and after, and what it did to the test set.

    `improves` and `worsens` count among `total` test predictions those whose change can be shown; `improved` and `worsened`
    are the strongest of them. `resolved`: the changes are larger than rounding.
    """

    words: str
    seconds: float
    own_loss: tuple[float, float]
    improves: int
    worsens: int
    total: int
    improved: tuple[Change, ...]
    worsened: tuple[Change, ...]
    unit: str
    resolved: bool = True


def lesson(facts: Lesson) -> str:
    """The lesson in words, and both galleries."""
    before, after = apart(*facts.own_loss)
    small = facts.total - facts.improves - facts.worsens
    rest = f", {small:,} changed too little to show" if small else ""
    rounding = (
        ""
        if facts.resolved
        else '<p class="ix-note">These changes are no larger than rounding: nothing was learned.</p>'
    )
    return (
        '<section aria-label="After one lesson"><h4>After one lesson</h4>'
        f'<p class="ix-drawer-line">{safe(facts.words)}: its own loss {before} → {after}. Of {facts.total:,} test predictions '
        f"<b>{facts.improves:,}</b> improved, <b>{facts.worsens:,}</b> got worse{rest}. "
        f'<span class="ix-quiet">The map shows every point; numbers are those below. Took {facts.seconds:.1f} s.</span></p>{rounding}'
        f'<div class="ix-galleries">{_side("towards", "Improved most", facts.improved, facts.unit)}'
        f"{_side('away', 'Got worse most', facts.worsened, facts.unit)}</div></section>"
    )


def apart(before: float, after: float) -> tuple[str, str]:
    """Both numbers with as many digits as tell them apart, three or more."""
    for digits in range(3, DIGITS + 1):
        first, second = (f"{value:#.{digits}g}".rstrip(".") for value in (before, after))
        if first != second and "e" not in first + second:
            return first, second
    return plain(before), plain(after)


def _side(side: str, title: str, found: tuple[Change, ...], unit: str) -> str:
    tiles = [tile(one.item, effect(one.change, before=f"{rank} ") + _share(one)) for rank, one in enumerate(found, 1)]
    return (
        f'<section class="ix-gallery ix-{side}" aria-label="{title}"><h4>{title}</h4>'
        f'<p class="ix-quiet">change of the measure, {safe(unit)}</p>{grid(tiles, title, "None.")}</section>'
    )


def _share(one: Change) -> str:
    """Probability of the label before and after."""
    if one.before is None:
        return ""
    before, after = math.exp(min(one.before, 0.0)), math.exp(min(one.before + one.change, 0.0))
    return f'<span class="ix-effect ix-quiet">p {" → ".join(apart(before, after))}</span>'
