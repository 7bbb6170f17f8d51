"""How many points are selected, and of which classes? The head of the panel's part "Selection", and its empty states, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from explorer.ui.views.words import percent, safe

CLASSES = 12
"""Classes listed, the most frequent first."""


@dataclass(frozen=True)
class Counts:
    """Points selected, shown by the filter, and all, by split; `filtered` says whether the filter hides any."""

    train: int
    test: int
    shown_train: int
    shown_test: int
    total_train: int
    total_test: int
    filtered: bool


@dataclass(frozen=True)
class ClassCount:
    """A class among the selected points."""

    name: str
    train: int
    test: int


def how_to_select() -> str:
    """What to do where nothing is selected."""
    return (
        '<section class="ix-note" aria-label="How to select"><strong>Nothing is selected.</strong> Press <kbd>L</kbd> (Lasso) or '
        "<kbd>B</kbd> (Box) on the map and draw around some points. Here you then see how many they are, of which classes, "
        "and what is special about them.</section>"
    )


def other_map(layout: str) -> str:
    """What to do where the selection was drawn on another map."""
    return (
        f'<p class="ix-note">The selection was drawn on the map {safe(layout.upper())}. Choose that map to see it, or press '
        "<kbd>L</kbd> (Lasso) or <kbd>B</kbd> (Box) to draw another one here.</p>"
    )


def header(counts: Counts) -> str:
    """How many points are selected, of how many."""
    shown = (
        f' <span class="ix-quiet">of the {counts.shown_train:,} and {counts.shown_test:,} that the filter shows</span>'
        if counts.filtered
        else ""
    )
    nothing = "" if counts.train or counts.test else '<p class="ix-note">No point that is shown lies inside.</p>'
    return (
        '<section class="ix-selected" aria-label="Selection" role="status">'
        f"<strong>{counts.train:,}</strong> of {counts.total_train:,} training · "
        f"<strong>{counts.test:,}</strong> of {counts.total_test:,} test selected{shown}{nothing}</section>"
    )


def classes(counted: Sequence[ClassCount]) -> str:
    """Classes of the selected points, the most frequent first; nothing where there are no classes."""
    if not counted:
        return ""
    order = sorted(counted, key=lambda one: -(one.train + one.test))
    total = sum(one.train for one in counted)
    rows = "".join(_class_row(one, total) for one in order[:CLASSES])
    rest = order[CLASSES:]
    more = (
        f'<p class="ix-quiet">and {len(rest):,} more classes with {sum(one.train for one in rest):,} training and '
        f"{sum(one.test for one in rest):,} test examples</p>"
        if rest
        else ""
    )
    return (
        '<section aria-label="Classes of the selection"><table class="ix-table ix-classes"><thead><tr>'
        '<th scope="col">label</th><th scope="col">training</th><th scope="col" colspan="2">share</th>'
        f'<th scope="col">test</th></tr></thead><tbody>{rows}</tbody></table>{more}</section>'
    )


def gallery_title(shown: int, total: int, examples: str, order: str) -> str:
    """How many of the members are shown, and in which order."""
    return f'<h4 class="ix-heading">{shown:,} of {total:,} {safe(examples)} <span class="ix-quiet">{safe(order)}</span></h4>'


def _class_row(one: ClassCount, total: int) -> str:
    share = one.train / total if total else 0.0
    return (
        f'<tr><th scope="row" title="{safe(one.name)}">{safe(one.name)}</th><td>{one.train:,}</td><td>{percent(share)}</td>'
        f'<td class="ix-bar" aria-hidden="true"><span style="width:{100 * share:.1f}%"></span></td><td>{one.test:,}</td></tr>'
    )
