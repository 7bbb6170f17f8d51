"""Which words of an answer are not those that were given? Texts in, the answer in pieces out; what marks them is not decided here."""

from __future__ import annotations

import re
from itertools import takewhile

from explorer.ui.views.words import beginning, ending

WORD = re.compile(r"\w+|[^\w\s]")
NOTHING = "∅"
"""Stands where an answer has no word for one that was asked."""


def pieces(given: str, said: str) -> list[tuple[str, bool]]:
    """An answer cut where words begin and end to differ from those given; joined, the pieces are the answer.

    As many words as were given are compared one by one, as the model said them; else what stands between the same beginning
    and the same end differs. Where it has no word there, a sign stands for it. The rule of scatter/differs.js.
    """
    mine, asked = (list(WORD.finditer(text)) for text in (said, given))
    found: list[tuple[str, bool]] = []
    at = 0
    for start, end in _others([word[0] for word in asked], [word[0] for word in mine]):
        first = mine[start].start() if start < len(mine) else len(said)
        last = mine[end - 1].end() if end > start else first
        found.append((said[at:first], False))
        if last > first:
            found.append((said[first:last], True))
        elif first < len(said):
            found += [(NOTHING, True), (" ", False)]
        else:
            found += [(" " if said else "", False), (NOTHING, True)]
        at = last
    return [piece for piece in (*found, (said[at:], False)) if piece[0]]


def shortened(parts: list[tuple[str, bool]], most: int) -> list[tuple[str, bool]]:
    """At most so many characters of pieces, those around the first that differs."""
    if sum(len(piece) for piece, _ in parts) <= most:
        return parts
    first, differs = parts[0]
    kept, left = [], most
    for piece, other in parts if differs else [(ending(first, most // 4), False), *parts[1:]]:
        kept.append((beginning(piece, left), other))
        left -= len(piece)
        if left <= 0:
            break
    return kept


def _others(given: list[str], said: list[str]) -> list[tuple[int, int]]:
    """Stretches [from, to) of the words `said` that differ from `given`, in order; an empty one where words are missing."""
    if len(given) == len(said):
        differ = [k for k, (one, other) in enumerate(zip(given, said, strict=True)) if one != other]
        return [(k, k + 1) for k in differ]
    first = _alike(given, said)
    shorter = min(len(given), len(said)) - first
    last = min(shorter, _alike(given[::-1], said[::-1]))
    return [(first, len(said) - last)]


def _alike(one: list[str], other: list[str]) -> int:
    """With how many equal words both begin."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
