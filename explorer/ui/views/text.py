"""How is an example of text read? What came before in quiet letters, what it asks in strong ones, and which words an answer has others.

Writes HTML from texts; knows no run, and compares words only to mark them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

from explorer.ui.views.words import safe

WORD = re.compile(r"\w+|[^\w\s]")
NOTHING = "∅"
"""Stands where an answer has no word for one that was asked."""
CLIPPED, SAID, TITLE = 140, 600, 4000
"""Characters of a prompt, a continuation and an answer in a tile, of an answer in a card, and of the passage in a tile's title."""
SPOKEN = 80
"""Characters of each in an accessible name."""
SCROLLED = 300
"""Characters from which on a text scrolls in its card, so that who walks by keyboard has to stop there."""


@dataclass(frozen=True)
class Passage:
    """An example of text: what the model is told, and what it is asked to say after that."""

    prompt: str
    continuation: str

    @property
    def whole(self) -> str:
        """Both in one line."""
        return f"{self.prompt} {self.continuation}".strip()


def clipped(passage: Passage) -> str:
    """The passage for a tile: the end of what came before and the beginning of what is asked; the title holds all of it."""
    before = f'<span class="ix-prompt">{safe(ending(passage.prompt))}</span> ' if passage.prompt else ""
    return (
        f'<div class="ix-passage" title="{safe(beginning(passage.whole, TITLE))}">{before}'
        f"<strong>{safe(beginning(passage.continuation))}</strong></div>"
    )


def spoken(passage: Passage) -> str:
    """The passage in short, for the name of what shows it; as text."""
    return f"{ending(passage.prompt, SPOKEN)} {beginning(passage.continuation, SPOKEN)}".strip()


def whole(passage: Passage) -> str:
    """The passage for a card: all of it, told from asked by words too; what is long can be scrolled, a prompt from its end."""
    before = _part("ix-prompt", passage.prompt, safe(passage.prompt) or "(nothing)")
    asked = _part("ix-asked", passage.continuation, f"<strong>{safe(passage.continuation)}</strong>")
    return f'<dl class="ix-passage"><dt>after</dt>{before}<dt>to say</dt>{asked}</dl>'


def beginning(text: str, most: int = CLIPPED) -> str:
    """At most so many characters of a text, the first ones."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def ending(text: str, most: int = CLIPPED) -> str:
    """At most so many characters of a text, the last ones."""
    return text if len(text) <= most else f"…{text[len(text) - most + 1 :].lstrip()}"


def answer(given: str, said: str, right: bool | None, most: int = CLIPPED) -> str:
    """What the model says, against the continuation that was given: nothing but that it is so where it is the same."""
    if right:
        return "✓ the model says so"
    return f"✗ the model says <strong>{marked(given, said, most)}</strong>"


def marked(given: str, said: str, most: int = CLIPPED) -> str:
    """An answer with the words underlined that are not those given (see `pieces`); about `most` characters of it, from a little
    before the first of them on."""
    return "".join(
        f'<em class="ix-other">{safe(piece)}</em>' if differs else safe(piece)
        for piece, differs in shortened(pieces(given, said), most)
    )


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


def _part(look: str, text: str, html: str) -> str:
    """A text in a card; where it is long it scrolls, and can be reached by key."""
    opening = f'<dd class="{look} ix-scrolled" tabindex="0">' if len(text) > SCROLLED else f'<dd class="{look}">'
    return f"{opening}<div>{html}</div></dd>"


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
