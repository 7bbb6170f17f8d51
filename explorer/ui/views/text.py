"""How is an example of text read? What came before in quiet letters, what it asks in strong ones, and which words an answer has others.

Writes HTML from texts; knows no run, and compares no words (`differs` does).
"""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views.differs import pieces, shortened
from explorer.ui.views.words import beginning, ending, safe

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
    before = f'<span class="ix-prompt">{safe(ending(passage.prompt, CLIPPED))}</span> ' if passage.prompt else ""
    return (
        f'<div class="ix-passage" title="{safe(beginning(passage.whole, TITLE))}">{before}'
        f"<strong>{safe(beginning(passage.continuation, CLIPPED))}</strong></div>"
    )


def spoken(passage: Passage) -> str:
    """The passage in short, for the name of what shows it; as text."""
    return f"{ending(passage.prompt, SPOKEN)} {beginning(passage.continuation, SPOKEN)}".strip()


def whole(passage: Passage) -> str:
    """The passage for a card: all of it, told from asked by words too; what is long can be scrolled, a prompt from its end."""
    before = _part("ix-prompt", passage.prompt, safe(passage.prompt) or "(nothing)")
    asked = _part("ix-asked", passage.continuation, f"<strong>{safe(passage.continuation)}</strong>")
    return f'<dl class="ix-passage"><dt>after</dt>{before}<dt>to say</dt>{asked}</dl>'


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


def _part(look: str, text: str, html: str) -> str:
    """A text in a card; where it is long it scrolls, and can be reached by key."""
    opening = f'<dd class="{look} ix-scrolled" tabindex="0">' if len(text) > SCROLLED else f'<dd class="{look}">'
    return f"{opening}<div>{html}</div></dd>"
