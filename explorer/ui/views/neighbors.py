"""Which training examples lie nearest to an example, and is one of them nearly the same? As HTML."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views.tiles import Item, grid, tile
from explorer.ui.views.words import plain, safe


@dataclass(frozen=True)
class Neighbor:
    """A training example near another example, and its distance; `twin` marks a near-duplicate."""

    item: Item
    distance: float
    twin: bool


def neighbors(found: tuple[Neighbor, ...], of: str, trained: bool) -> str:
    """The nearest training examples, nearest first; `of` names the example, which was `trained` on or is a test example."""
    title = f"Nearest training examples of {of}"
    tiles = [tile(one.item, _distance(one)) for one in found]
    nearest = f"Nearest at distance {plain(found[0].distance)}. " if found else ""
    return (
        f'<section aria-label="{safe(title)}"><h4>{safe(title)}</h4><p class="ix-drawer-line">{nearest}'
        f"{_twins(sum(one.twin for one in found), len(found), trained)}</p>"
        f'<p class="ix-quiet">Distances are between features, the inputs of the last layer.</p>'
        f"{grid(tiles, title, 'None.')}</section>"
    )


def _distance(one: Neighbor) -> str:
    mark = '<span class="ix-badge">near-duplicate</span>' if one.twin else ""
    return f'<span class="ix-effect">distance <b>{plain(one.distance)}</b></span>{mark}'


def _twins(twins: int, shown: int, trained: bool) -> str:
    if not twins:
        return f"None of these {shown} is a near-duplicate."
    counted = f"{twins} of these {shown} {'is a near-duplicate' if twins == 1 else 'are near-duplicates'}"
    if trained:
        return f"{counted}: that hides memorization, because without this example the copy still teaches the same."
    return f"{counted}: the model has been trained on nearly this input."
