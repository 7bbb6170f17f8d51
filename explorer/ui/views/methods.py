"""Do two methods say the same of a prediction? The words, and the examples and predictions on which they differ, as HTML.

Methods are A (of the run on screen) and B; every number that belongs to one of them carries its letter.
"""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views.card import Trust, trust_line
from explorer.ui.views.tiles import Item, effect, grid, tile
from explorer.ui.views.words import percent, safe

VERDICTS = {
    "agree": "Both methods point to the same strongest examples.",
    "disagree": "The methods point to different examples: take single ones with care.",
}


@dataclass(frozen=True)
class Opinion:
    """One method's answer: its letter, its name, its run, the unit of its influence, and its own evidence."""

    mark: str
    name: str
    run: str
    unit: str
    trust: Trust


@dataclass(frozen=True)
class Place:
    """Where a method puts an example: its influence, its rank (1 = most helpful), whether both are exact or as stored."""

    influence: float
    rank: float
    exact: bool
    clipped: bool


@dataclass(frozen=True)
class Group:
    """Training examples with their places in A and in B: the first of `total`."""

    shown: tuple[tuple[Item, Place, Place], ...]
    total: int


@dataclass(frozen=True)
class Query:
    """Both answers to one prediction. `helpful` and `harmful` are how many of A's strongest B shares, and of how many.

    `only_a` and `only_b` are examples strong in one only, `opposite` strong in both with opposite signs, those farthest
    apart first; of each the first ones with their number in all. `verdict` is a key of `VERDICTS`.
    """

    a: Opinion
    b: Opinion
    agreement: float
    helpful: tuple[int, int]
    harmful: tuple[int, int]
    verdict: str
    train: int
    only_a: Group
    opposite: Group
    only_b: Group


@dataclass(frozen=True)
class Overall:
    """Agreement over predictions: low quartile, median and high quartile of rank agreement and of the shared ones.

    `shared` is a share in 0..1 of A's `listed` strongest of both signs; `looked` of the `held` predictions of both runs were compared.
    `worst` are predictions with their rank agreement and shared examples, those that differ most first.
    """

    looked: int
    held: int
    agreement: tuple[float, float, float]
    shared: tuple[float, float, float]
    listed: int
    worst: tuple[tuple[Item, float, float], ...]


def query(found: Query) -> str:
    """The verdict with its numbers, units, and each method's own trust line."""
    ranks = _ranks(found.agreement)
    (up, of_up), (down, of_down) = found.helpful, found.harmful
    chance = percent(max(of_up, of_down) / max(1, found.train))
    units = (
        f"both in {safe(found.a.unit)}"
        if found.a.unit == found.b.unit
        else f"A in {safe(found.a.unit)}, B in {safe(found.b.unit)}: only ranks compare"
    )
    return (
        f'<section aria-label="Two methods on this prediction"><p class="ix-trust"><strong>{VERDICTS[found.verdict]}</strong> '
        f'<span class="ix-quiet">Rank agreement {ranks} over all {found.train:,} training examples, as stored in 127 steps a '
        f"side · {up} of A’s {of_up} most helpful and {down} of its {of_down} most harmful are among B’s ({chance} expected by chance) · {units}</span></p>"
        f"{_own(found.a)}{_own(found.b)}</section>"
    )


def differences(found: Query) -> str:
    """Examples that are strong in one method only, or in both with opposite signs, with both numbers and ranks."""
    sides = (
        ("Only A", "strong in A, not in B", found.only_a),
        ("Opposite", "strong in both, opposite signs", found.opposite),
        ("Only B", "strong in B, not in A", found.only_b),
    )
    return (
        '<section class="ix-compare" aria-label="Where the methods differ most">'
        f'<div class="ix-compare-sides">{"".join(_side(found.train, *side) for side in sides)}</div></section>'
    )


def overall(found: Overall) -> str:
    """How the methods agree over predictions, and the predictions on which they differ most."""
    if not found.looked:
        return '<p class="ix-quiet">No prediction is computed in both runs yet.</p>'
    which = (
        f"all {found.held:,} predictions that both runs hold"
        if found.looked == found.held
        else f"{found.looked:,} of {found.held:,} predictions that both runs hold, drawn at random with a fixed seed"
    )
    (low, middle, high), (few, usual, many) = found.agreement, found.shared
    tiles = [
        tile(
            item,
            f'<span class="ix-effect">ranks {_ranks(agreement)}</span><span class="ix-effect ix-quiet">'
            f"{percent(shared)} shared</span>",
        )
        for item, agreement, shared in found.worst
    ]
    return (
        f'<section class="ix-compare" aria-label="Two methods over predictions"><p class="ix-trust"><strong>Over {which}:'
        f"</strong> rank agreement {_ranks(middle)} in the median (half lie within {_ranks(low)} to {_ranks(high)}); of "
        f"A’s {found.listed} strongest {percent(usual)} are among B’s ({percent(few)} to {percent(many)}).</p><h4>Predictions on which they differ most</h4>"
        f'<p class="ix-quiet">{len(tiles)} of {found.looked:,}, fewest shared examples first; a click selects one</p>'
        f"{grid(tiles, 'Predictions on which the methods differ most', 'None.')}</section>"
    )


def _own(one: Opinion) -> str:
    head = f"{one.mark} · {safe(one.name)} against its own second method"
    return f'<h4 class="ix-heading" title="run {safe(one.run)}">{head}</h4>{trust_line(one.trust)}'


def _side(train: int, title: str, words: str, group: Group) -> str:
    tiles = [tile(item, _place("A", a, train) + _place("B", b, train)) for item, a, b in group.shown]
    counted = f"{len(tiles)} of {group.total} {words}" if tiles else words
    return (
        f'<section class="ix-compare-side" aria-label="{title}"><h4>{title}</h4><p class="ix-quiet">{counted}</p>'
        f"{grid(tiles, title, 'None.')}</section>"
    )


def _place(mark: str, at: Place, train: int) -> str:
    about = "" if at.exact else "about "
    if at.influence == 0:
        words = f"{about}{ordinal(at.rank)} of {train:,}"
    elif at.influence > 0:
        words = f"{about}{ordinal(at.rank)} most helpful"
    else:
        words = f"{about}{ordinal(train + 1 - at.rank)} most harmful"
    return f'{effect(at.influence, f"{mark} ", clipped=at.clipped)}<span class="ix-effect ix-quiet">{words}</span>'


def ordinal(rank: float) -> str:
    """A rank in words: 1st, 2nd, 23rd; a mean of ties is rounded."""
    number = round(rank)
    last = number % 10 if number % 100 not in (11, 12, 13) else 0
    return f"{number:,}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def _ranks(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if value == value else "undefined"
