"""What does a page offer for a run of this kind? Parts of the panel, colors, and questions that only some runs can answer.

Decides from what the data is, before any work is asked for; why a single run cannot do what its kind can, its job says.
"""

from __future__ import annotations

from typing import Literal

from explorer.store import Meta

Part = Literal["Answer", "Selection", "Compare", "Edit", "Classes", "Methods", "Table", "About"]
PARTS: tuple[Part, ...] = ("Answer", "Selection", "Compare", "Edit", "Classes", "Methods", "Table", "About")
Color = Literal["influence", "label", "prediction", "outcome", "self-influence", "split"]
COLORS: tuple[Color, ...] = ("influence", "label", "prediction", "outcome", "self-influence", "split")


def parts(meta: Meta) -> tuple[Part, ...]:
    """Parts of the panel: classes where there are some, an input to edit where it is a picture or a row of numbers."""
    without: set[Part] = set()
    if not meta.has_classes:
        without.add("Classes")
    if meta.preview == "text":
        without.add("Edit")
    return tuple(part for part in PARTS if part not in without)


def colors(meta: Meta) -> tuple[Color, ...]:
    """What the color of a point may say; scatter/bar.js offers the same."""
    without: set[Color] = set() if meta.has_classes else {"label", "prediction"}
    if not meta.has_outcomes:
        without.add("outcome")
    return tuple(color for color in COLORS if color not in without)


def lessons(meta: Meta) -> bool:
    """Whether the model can be taught one example at a time, and others measured: not where an answer is a sequence."""
    return meta.task != "sequence"


def acting(meta: Meta) -> bool:
    """Whether examples can be relabeled, dropped or cleaned away, and the model trained again: not where an answer is a sequence."""
    return meta.task != "sequence"
