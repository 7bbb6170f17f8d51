"""Why this class rather than that one? What the influences of a contrast mean, as a line of HTML.

Draws no tiles: its galleries are those of any answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views.words import AWAY, TOWARDS, safe


@dataclass(frozen=True)
class Contrast:
    """Why `why` rather than `rather`; `asked` is what the rest of the page explains, in words."""

    why: str
    rather: str
    asked: str


def line(found: Contrast) -> str:
    """The question, what either sign says, and what on the page is about something else."""
    why, rather = safe(found.why), safe(found.rather)
    return (
        f'<p class="ix-trust" role="status"><strong>Why {why} rather than {rather}?</strong> '
        f'<span aria-hidden="true">{TOWARDS}</span> towards {why} and away from {rather}, '
        f'<span aria-hidden="true">{AWAY}</span> towards {rather} and away from {why}, whatever the other classes. '
        f'<span class="ix-quiet">influence on logit {why} − logit {rather} · the map and the line above still explain '
        f"{safe(found.asked)}</span></p>"
    )
