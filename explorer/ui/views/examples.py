"""Which training examples are in this group? Tiles with both measurements, and the card of a chosen example, as HTML."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10

from explorer.ui.views import text
from explorer.ui.views.card import Face, card_of, face
from explorer.ui.views.words import plain, safe, signed


@dataclass(frozen=True)
class Example:
    """One training example and what is known of its memorization.

    `right` is None for regression; `percentile` is of the score that the flag rests on; `neutral` says that `held_out` is inside the noise;
    `planted` names a planted fault; `meaning` says in a sentence what the quadrant means. `row` is the training row that a click on
    the tile names; `suspect` is the flag under the thresholds; `retrained` is memorization by retraining with its standard error, where that was
    measured, and `memorized` whether that is clear.
    """

    id: str
    face: Face
    label: str
    prediction: str
    right: bool | None
    percentile: float
    self_influence: float
    held_out: float
    held_out_se: float
    neutral: bool
    suspect: bool
    quadrant: str
    meaning: str = ""
    planted: str = ""
    row: int | None = None
    retrained: tuple[float, float] | None = None
    memorized: bool = False


def tiles(examples: list[Example], name: str) -> str:
    """The examples of a group as one element."""
    if not examples:
        return f'<p class="ix-note">No training example of this run is “{safe(name)}”.</p>'
    body = "".join(_tile(example) for example in examples)
    return f'<section class="ix-examples" aria-label="{safe(name)}">{body}</section>'


def card(example: Example) -> str:
    """One example in full."""
    return f"""
<section class="ix-card{card_of(example.face)}" aria-label="Training example {safe(example.id)}">
  {face(example.face, f"training example {example.id}", large=True)}
  <div class="ix-card-text">
    <div class="ix-id">{safe(example.id)} <span class="ix-quiet">training example</span></div>
    <div>{_said(example, text.SAID)}</div>
    <div><strong>{safe(example.quadrant)}</strong> <span class="ix-quiet">{safe(example.meaning)}</span></div>
    {_measures(example)}{_badges(example)}
  </div>
</section>"""


def measured(value: float, se: float) -> str:
    """A signed value with its standard error, both to the same digit: the second that the error has."""
    if not se > 0:
        return signed(value)
    power = floor(log10(max(abs(value), se)))
    shown = 0 if -3 < power < 5 else power
    digits = max(0, 1 - floor(log10(se)) + shown)
    text = f"{abs(value) / 10**shown:.{digits}f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{se / 10**shown:.{digits}f}"
    sign = "−" if value < 0 else "+"
    return f"{sign}{text}" if not shown else f"({sign}{text})×10<sup>{str(shown).replace('-', '−')}</sup>"


def _tile(example: Example) -> str:
    wide = "" if example.face.picture is not None else " ix-stacked"
    passage = example.face.passage
    alt = f"training example {example.id}, {f'labeled {example.label}' if passage is None else text.spoken(passage)}"
    body = f"""<div class="ix-id ix-cut" title="{safe(example.id)}">{safe(example.id)}</div><div>{_said(example)}</div>{_measures(example)}{_badges(example)}"""
    picture = face(example.face, alt)
    if example.row is None:
        return f'<figure class="ix-example{wide}">{picture}<figcaption>{body}</figcaption></figure>'
    return (
        f'<div class="ix-example{wide}" role="button" tabindex="0" data-inspect="{example.row}" data-point="{example.row}" '
        f'aria-label="Open {safe(alt)}">{picture}<div class="ix-about">{body}</div></div>'
    )


def _said(example: Example, most: int = text.CLIPPED) -> str:
    if example.face.passage is not None:
        return text.answer(example.label, example.prediction, example.right, most)
    label, said = f"<strong>{safe(example.label)}</strong>", f"model says <strong>{safe(example.prediction)}</strong>"
    if example.right is None:
        return f"true value {label}, {said}"
    return f"labeled {label}, {'✓' if example.right else '✗'} {said}"


def _measures(example: Example) -> str:
    held_out = f"held-out <b>{measured(example.held_out, example.held_out_se)}</b>"
    parts = [
        f"percentile <b>{example.percentile:.1f}</b>",
        f"self-influence <b>{plain(example.self_influence)}</b>",
        held_out + (", inside the noise" if example.neutral else ""),
    ]
    if example.retrained is not None:
        parts.append(f"by retraining <b>{measured(*example.retrained)}</b>")
    return '<div class="ix-measures">' + " ".join(f"<span>{part}</span>" for part in parts) + "</div>"


def _badges(example: Example) -> str:
    marks = ((example.suspect, "suspect"), (example.memorized, "memorized"))
    flagged = "".join(f'<span class="ix-badge">{word}</span>' for there, word in marks if there)
    fault = f'<span class="ix-badge ix-planted">{safe(example.planted)}</span>' if example.planted else ""
    return flagged + fault
