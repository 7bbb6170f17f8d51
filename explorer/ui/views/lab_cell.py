"""What did teaching one sample do to another? A cell of the matrix opened: both samples side by side and the numbers, as HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass

from explorer.ui.views import text
from explorer.ui.views.card import Face, face
from explorer.ui.views.tiles import effect
from explorer.ui.views.words import safe


@dataclass(frozen=True)
class Sample:
    """One sample: what it is called, how it looks, its label and the model's answer; `right` is None for regression."""

    called: str
    id: str
    face: Face
    label: str
    prediction: str
    right: bool | None


@dataclass(frozen=True)
class Cell:
    """A lesson and a probe; `reverse` is None where the probe was not taught, `first_order` where it was not asked for.

    `why` says what went wrong where the effect is NaN.
    """

    lesson: Sample
    probe: Sample
    effect: float
    reverse: float | None
    first_order: float | None
    reverse_first_order: float | None
    unit: str
    why: str = ""


def opened(cell: Cell) -> str:
    """Both samples and every number."""
    itself = cell.lesson.id == cell.probe.id
    sides = _sample(cell.lesson, "Taught") + ("" if itself else _sample(cell.probe, "Asked"))
    lines = [_line("On itself" if itself else "Taught → asked", cell.effect, cell.unit, cell.why)]
    if cell.first_order is not None:
        lines.append(_line("First order, rate × g·g", cell.first_order, cell.unit, cell.why))
    if not itself and cell.reverse is not None:
        lines.append(_line("The other way round", cell.reverse, cell.unit, ""))
        if cell.reverse_first_order is not None:
            lines.append(_line("First order of that", cell.reverse_first_order, cell.unit, ""))
    note = (
        ""
        if itself or cell.reverse is not None
        else '<p class="ix-quiet">The probe was not taught, so there is no other way round.</p>'
    )
    return (
        f'<section class="ix-lab-cell" aria-label="{safe(cell.lesson.id)} taught, {safe(cell.probe.id)} asked">'
        f'<div class="ix-lab-sides">{sides}</div><table class="ix-table"><tbody>{"".join(lines)}</tbody></table>{note}</section>'
    )


def _sample(sample: Sample, word: str) -> str:
    return (
        f'<div class="ix-lab-side"><h4>{word}</h4>{face(sample.face, f"{sample.called} {sample.id}", large=True)}'
        f'<div class="ix-id">{safe(sample.id)}</div>{_said(sample)}'
        f'<div class="ix-quiet">{safe(sample.called)}</div></div>'
    )


def _said(sample: Sample) -> str:
    if sample.face.passage is not None:
        return f"<div>{text.answer(sample.label, sample.prediction, sample.right, text.SAID)}</div>"
    mark = "" if sample.right is None else "✓ " if sample.right else "✗ "
    return (
        f"<div>labeled <strong>{safe(sample.label)}</strong></div>"
        f"<div>{mark}model says <strong>{safe(sample.prediction)}</strong></div>"
    )


def _line(name: str, value: float, unit: str, why: str) -> str:
    if not math.isfinite(value):
        said = f'<span class="ix-quiet">not measured{": " + safe(why) if why else ""}</span>'
    else:
        said = f'{effect(value)} <span class="ix-quiet">{safe(unit)}</span>'
    return f'<tr><th scope="row">{name}</th><td>{said}</td></tr>'
