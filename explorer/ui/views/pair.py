"""What does one class do to another? The opened cell of the class matrix, as HTML: a heading, examples, and predictions."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views.tiles import Item, effect, grid, tile
from explorer.ui.views.words import percent, plain, safe, signed


@dataclass(frozen=True)
class Pair:
    """Training class `a` and test class `b`, the mean influence of the one on the other, and how many of each there are.

    `helping` and `hurting` are the training examples of `a` with the largest mean influence of each sign on `b` (None
    where these are not kept); `helps` and `hurts` count all of class `a`; `worst` are predictions of `b` with their
    confidence and loss.
    """

    a: str
    b: str
    mean: float
    train: int
    test: int
    unit: str
    helping: tuple[tuple[Item, float], ...] | None
    hurting: tuple[tuple[Item, float], ...] | None
    helps: int
    hurts: int
    worst: tuple[tuple[Item, float, float], ...]


def heading(pair: Pair) -> str:
    """The pair in one sentence."""
    if pair.mean != pair.mean:
        missing = f"training example of {pair.a}" if not pair.train else f"test example of {pair.b}"
        return f'<p class="ix-trust"><strong>There is no {safe(missing)}.</strong></p>'
    verb = "helps" if pair.mean > 0 else "hurts" if pair.mean < 0 else "does nothing to"
    whose = "its own class" if pair.a == pair.b else safe(pair.b)
    return (
        f'<p class="ix-trust"><strong>A training example of {safe(pair.a)} {verb} {whose} on average.</strong> '
        f'<span class="ix-quiet">{signed(pair.mean)} {safe(pair.unit)}, the mean over {pair.train:,} training examples of '
        f"{safe(pair.a)} and {pair.test:,} test predictions of {safe(pair.b)}</span></p>"
    )


def opened(pair: Pair) -> str:
    """Both galleries and the worst predictions."""
    return f'<section aria-label="{safe(pair.a)} on {safe(pair.b)}">{_examples(pair)}{_worst(pair)}</section>'


def _examples(pair: Pair) -> str:
    if pair.helping is None or pair.hurting is None:
        return (
            '<p class="ix-note">Influence of single training examples on classes is kept up to 20 million pairs of '
            "classes and training examples; this run has more.</p>"
        )
    sides = (
        ("towards", f"Help {pair.b} most", pair.helping, pair.helps),
        ("away", f"Hurt {pair.b} most", pair.hurting, pair.hurts),
    )
    return f'<div class="ix-galleries">{"".join(_side(pair, *side) for side in sides)}</div>'


def _side(pair: Pair, side: str, title: str, found: tuple[tuple[Item, float], ...], total: int) -> str:
    share = percent(total / pair.train) if pair.train else "0 %"
    tiles = [tile(item, effect(value)) for item, value in found]
    return (
        f'<section class="ix-gallery ix-{side}" aria-label="{safe(title)}"><h4>{safe(title)}</h4>'
        f'<p class="ix-quiet">{len(found)} of {total:,} training examples of {safe(pair.a)} that do ({share})</p>'
        f"{grid(tiles, title, 'None.')}</section>"
    )


def _worst(pair: Pair) -> str:
    tiles = [tile(item, _facts(confidence, loss)) for item, confidence, loss in pair.worst]
    title = f"Worst predictions of {pair.b}"
    return (
        f'<h4>{safe(title)}</h4><p class="ix-quiet">{len(tiles)} of {pair.test:,}, confident mistakes first</p>'
        f"{grid(tiles, title, 'None.')}"
    )


def _facts(confidence: float, loss: float) -> str:
    return f'<span class="ix-effect ix-quiet">{percent(confidence)} sure · loss {plain(loss)}</span>'
