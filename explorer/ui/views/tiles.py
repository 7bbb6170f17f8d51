"""Which examples can be clicked here? A training example that opens its drawer, or a test prediction to be explained, as HTML.

What a click does is written into the element (`data-inspect`, `data-query`); the component that shows it listens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from explorer.ui.views import text
from explorer.ui.views.card import Face, face, spoken
from explorer.ui.views.words import AWAY, TOWARDS, safe, signed

Kind = Literal["train", "test"]
PLANTED = "planted"
"""What the badge of a planted fault begins with."""
WORDS: dict[Kind, tuple[str, str]] = {"train": ("training example", "inspect"), "test": ("test prediction", "query")}
"""What an example of each split is called, and what a click on it does."""


@dataclass(frozen=True)
class Item:
    """One example: its row in its split, its point on the map, how it looks, and what is known of it.

    `right` is None for regression; `badges` are short words such as "suspect".
    """

    kind: Kind
    row: int
    point: int
    id: str
    face: Face
    label: str
    prediction: str
    right: bool | None
    badges: tuple[str, ...] = ()


def tile(item: Item, facts: str = "") -> str:
    """The example as one element that can be clicked and reached by keyboard; `facts` is HTML made by a view."""
    called, action = WORDS[item.kind]
    alt = f"{called} {item.id}, {spoken(item.face, item.label, item.prediction)}"
    wide = "" if item.face.picture is not None else " ix-wide"
    return (
        f'<div class="ix-item{wide}" role="button" tabindex="0" data-{action}="{item.row}" data-point="{item.point}" '
        f'aria-label="{safe(alt)}" title="{safe(item.id)}">{face(item.face, alt)}'
        f'<div class="ix-item-text">{facts}<div class="ix-label">{said(item)}</div>{badges(item)}</div></div>'
    )


def grid(tiles: Sequence[str], name: str, empty: str) -> str:
    """Tiles under one accessible name, or a sentence where there are none; `name` and `empty` are text."""
    if not tiles:
        return f'<p class="ix-quiet">{safe(empty)}</p>'
    return f'<div class="ix-items" role="group" aria-label="{safe(name)}">{"".join(tiles)}</div>'


def said(item: Item) -> str:
    """Label and answer as HTML; only the label where the model is right, and only the answer where the face has the label."""
    if item.face.passage is not None:
        return text.answer(item.label, item.prediction, item.right)
    if item.right:
        return safe(item.label)
    if item.right is None:
        return f'{safe(item.label)} <span class="ix-quiet">model: {safe(item.prediction)}</span>'
    if item.kind == "train":
        return f'{safe(item.label)} <span class="ix-quiet">model: {safe(item.prediction)}</span>'
    return f'✗ {safe(item.prediction)} <span class="ix-quiet">labeled {safe(item.label)}</span>'


def badges(item: Item) -> str:
    """What is known of an example in short words, as HTML; a fault planted on purpose stands out."""
    looks = [(badge, " ix-planted" if badge.startswith(PLANTED) else "") for badge in item.badges]
    return "".join(f'<span class="ix-badge{look}">{safe(badge)}</span>' for badge, look in looks)


def effect(influence: float, before: str = "", clipped: bool = False) -> str:
    """Influence with its shape and sign, as HTML; `before` (HTML) names whose it is; `clipped` says "or more"."""
    if influence == 0:
        return f'<span class="ix-effect">{before}too small to show</span>'
    side, shape = ("towards", TOWARDS) if influence > 0 else ("away", AWAY)
    more = " or more" if clipped else ""
    return (
        f'<span class="ix-effect ix-{side}">{before}<span class="ix-number">'
        f'<span aria-hidden="true">{shape}</span> {signed(influence)}{more}</span></span>'
    )
