"""What does an edited input change? The input and its answer before and after, and how far the explanation moved, as HTML."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views.card import Face, face
from explorer.ui.views.words import percent, plain, safe


@dataclass(frozen=True)
class Version:
    """One version of the input and the model's answer to it; `confidence` is NaN for regression."""

    face: Face
    prediction: str
    wrong: bool
    confidence: float
    loss: float


@dataclass(frozen=True)
class Moved:
    """How far the explanation moved: `shared` of the `of` strongest examples stayed, and the rank correlation (may be NaN)."""

    shared: int
    of: int
    spearman: float
    train: int


@dataclass(frozen=True)
class Edited:
    """A test example before and after an edit; `changes` says in words what was edited."""

    id: str
    label: str
    classification: bool
    before: Version
    after: Version
    changes: tuple[str, ...]
    moved: Moved


def edited(found: Edited) -> str:
    """Before and after side by side, and a sentence on the explanation."""
    return (
        f'<section class="ix-edit" aria-label="Test example {safe(found.id)} before and after the edit">'
        f'<div class="ix-edit-sides">{_side("Before", found, found.before)}{_side("After", found, found.after)}</div>'
        f'<p class="ix-quiet">{safe(", ".join(found.changes))}</p>'
        f'<p class="ix-trust" role="status"><strong>{_outcome(found)}</strong> <span class="ix-quiet">{_moved(found.moved)}'
        "</span></p></section>"
    )


def _side(name: str, found: Edited, version: Version) -> str:
    said = f"says <strong>{safe(version.prediction)}</strong>"
    if found.classification:
        said = f"{'✗' if version.wrong else '✓'} {said}, labeled <strong>{safe(found.label)}</strong>"
        measured = f"confidence {percent(version.confidence)} · loss {plain(version.loss)}"
    else:
        said, measured = f"{said}, true value {safe(found.label)}", f"loss {plain(version.loss)}"
    return (
        f'<section class="ix-edit-side" aria-label="{name}"><h4>{name}</h4>'
        f"{face(version.face, f'{name.lower()}: test example {found.id}', large=True)}"
        f'<div>{said}</div><div class="ix-quiet">{measured}</div></section>'
    )


def _outcome(found: Edited) -> str:
    before, after = found.before, found.after
    if not found.classification:
        return f"The output goes from {safe(before.prediction)} to {safe(after.prediction)}."
    if before.prediction != after.prediction:
        return f"The answer changes from {safe(before.prediction)} to {safe(after.prediction)}."
    change = 100 * (after.confidence - before.confidence)
    size = (
        "by less than 0.1 points"
        if abs(change) < 0.05
        else f"{'up' if change > 0 else 'down'} {abs(change):.1f} points"
    )
    return f"The answer stays {safe(after.prediction)}; confidence {size}."


def _moved(moved: Moved) -> str:
    ranks = "undefined" if moved.spearman != moved.spearman else f"{moved.spearman:.2f}".replace("-", "−")
    return (
        f"{moved.shared} of the {moved.of} strongest training examples are still among the {moved.of} strongest · rank "
        f"correlation with the answer before {ranks}, over all {moved.train:,}"
    )
