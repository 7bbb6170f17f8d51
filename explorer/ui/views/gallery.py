"""Which examples pushed towards the answer, and which away? Two galleries of numbered tiles as one HTML element.

One element, because twenty separate images take three times as long to appear.
"""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views import text
from explorer.ui.views.card import Face, face
from explorer.ui.views.words import AWAY, TOWARDS, percent, safe, signed


@dataclass(frozen=True)
class Tile:
    """One training example and why it is here. `share` is of the total |influence|; `planted` names a planted fault. `suspect` is the
    run's flag, `memorized` what retraining showed.

    `row` is its training row, which a click opens; -1 for a tile that opens nothing.
    """

    number: int
    id: str
    face: Face
    influence: float
    share: float
    label: str
    prediction: str
    right: bool
    suspect: bool
    planted: str = ""
    near_duplicate: bool = False
    row: int = -1
    memorized: bool = False


def galleries(towards: list[Tile], away: list[Tile], unit: str, train: int) -> str:
    """Both galleries side by side, towards on the left."""
    return (
        f'<div class="ix-galleries">{_gallery(towards, "towards", TOWARDS, unit, train)}'
        f"{_gallery(away, 'away', AWAY, unit, train)}</div>"
    )


def _gallery(tiles: list[Tile], side: str, shape: str, unit: str, train: int) -> str:
    share = sum(tile.share for tile in tiles)
    words = {"towards": "Towards: training examples that helped", "away": "Away: training examples that hurt"}
    empty = f'<p class="ix-quiet">No training example pushed {side}.</p>'
    body = "".join(_tile(tile, side, shape) for tile in tiles) if tiles else empty
    return (
        f'<section class="ix-gallery ix-{side}" aria-label="{words[side]}">'
        f'<h4><span aria-hidden="true">{shape}</span> {side.capitalize()}</h4>'
        f'<p class="ix-quiet">{len(tiles)} of {train:,} · {percent(share)} of all |influence| · {safe(unit)}</p>'
        f'<div class="ix-tiles">{body}</div></section>'
    )


def _tile(tile: Tile, side: str, shape: str) -> str:
    passage = tile.face.passage
    about = f"labeled {tile.label}" if passage is None else text.spoken(passage)
    alt = f"training example {tile.id}, {about}, pushes {side} by {tile.influence:.3g}"
    looks = "" if tile.face.picture is not None else " ix-wide"
    return (
        f'<div class="ix-tile{looks}"{_opens(tile, alt)}><div class="ix-number">{shape}{tile.number}</div>{face(tile.face, alt)}'
        f'<div class="ix-caption"><b>{signed(tile.influence)}</b> <span class="ix-quiet">{percent(tile.share).replace(" ", "&nbsp;")}</span><br>'
        f'<span class="ix-label" title="{safe(tile.id)}">{_answer(tile)}</span>{_badges(tile)}</div></div>'
    )


def _answer(tile: Tile) -> str:
    """Label and answer, as far as the face does not say them."""
    if tile.face.passage is not None:
        return text.answer(tile.label, tile.prediction, tile.right)
    if tile.right:
        return safe(tile.label)
    return f"{safe(tile.label)} <span class='ix-quiet'>model: {safe(tile.prediction)}</span>"


def _opens(tile: Tile, alt: str) -> str:
    """What makes a tile a button that opens its example and points at it on the map."""
    if tile.row < 0:
        return ""
    marks = (
        (tile.suspect, "suspect"),
        (tile.memorized, "memorized"),
        (tile.near_duplicate, "near-duplicate"),
        (bool(tile.planted), tile.planted),
    )
    name = ", ".join((alt, *(word for is_so, word in marks if is_so)))
    return f' role="button" tabindex="0" data-inspect="{tile.row}" data-point="{tile.row}" aria-label="{safe(name)}"'


def _badges(tile: Tile) -> str:
    known = (
        (tile.suspect, "ix-badge", "Looks memorized or mislabeled: see the page Memorized", "suspect"),
        (
            tile.memorized,
            "ix-badge",
            "Models are right on it for having trained on it: measured by retraining",
            "memorized",
        ),
        (tile.near_duplicate, "ix-badge", "Another training example is almost the same", "near-duplicate"),
        (bool(tile.planted), "ix-badge ix-planted", "A fault planted on purpose", safe(tile.planted)),
    )
    return "".join(f'<span class="{look}" title="{title}">{word}</span>' for is_so, look, title, word in known if is_so)
