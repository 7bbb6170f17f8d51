"""Where does a number stand on the scale of a wish? Numbers with intervals in digits, and as dots with their controls, as HTML.

Knows what the ends of a scale stand for; what is asked of a model is said by who measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from explorer.ui.views.words import safe


@dataclass(frozen=True)
class Number:
    """A number and its 95 % interval; NaN where it is not defined."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Score:
    """One wish: its number, what it says in plain words, the number taken apart, and what chance or another cause would give."""

    name: str
    number: Number
    sentence: str
    parts: Mapping[str, Number] = field(default_factory=dict)
    controls: Mapping[str, Number] = field(default_factory=dict)


SCALES: dict[str, tuple[float, float, str, str]] = {
    "symmetry": (0.0, 1.0, "both ways alike", "unrelated"),
    "decay with semantic distance": (-1.0, 1.0, "far ones gain", "near ones gain"),
    "sparseness": (0.0, 1.0, "all probes alike", "a single one"),
    "noise invariance": (-1.0, 1.0, "the opposite lesson", "the same lesson"),
    "transitive causality": (0.0, 1.0, "no conclusion", "as taught directly"),
    "logical consistency": (-1.0, 1.0, "its negation rises", "its negation falls"),
}
"""Least and largest of each scale with what stands for them; values beyond widen it."""
OTHER = (-1.0, 1.0, "", "")


def written(number: Number) -> str:
    """A number with its interval, as HTML."""
    if not math.isfinite(number.value):
        return '<span class="ix-quiet">not defined</span>'
    said = f"<b>{_short(number.value)}</b>"
    if math.isfinite(number.low) and math.isfinite(number.high):
        said += f' <span class="ix-quiet">{_short(number.low)} to {_short(number.high)}</span>'
    return said


def _short(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.1g}".replace("-", "−")
    return (f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}").replace("-", "−")


Scale = tuple[float, float]


def scale(scores: Sequence[Score]) -> Scale:
    """What holds these numbers with their intervals, and their controls: the scale of the wish, widened where it must be."""
    least, most, _, _ = SCALES.get(scores[0].name, OTHER)
    own = [value for one in scores for value in (one.number.value, one.number.low, one.number.high)]
    own += [control.value for one in scores for control in one.controls.values()]
    finite = [value for value in own if math.isfinite(value)]
    return min([least, *finite]), max([most, *finite])


def picture(score: Score, label: str = "", on: Scale | None = None) -> str:
    """The number as a dot with its interval, and the controls as hollow marks, on a scale (None: its own)."""
    number = score.number
    least, most = on or scale([score])

    def at(value: float) -> str:
        return f"{100 * (value - least) / (most - least):.1f}%"

    marks = [f'<i class="ix-mark-zero" style="left:{at(0.0)}"></i>']
    for name, control in score.controls.items():
        if math.isfinite(control.value):
            title = safe(f"{name} {_short(control.value)}")
            marks.append(f'<i class="ix-mark-control" style="left:{at(control.value)}" title="{title}"></i>')
    if math.isfinite(number.low) and math.isfinite(number.high):
        width = f"{100 * (number.high - number.low) / (most - least):.1f}%"
        marks.append(f'<i class="ix-mark-range" style="left:{at(number.low)};width:{width}"></i>')
    if math.isfinite(number.value):
        marks.append(f'<i class="ix-mark-dot" style="left:{at(number.value)}"></i>')
    said = f"{label or score.name}: {_short(number.value) if math.isfinite(number.value) else 'not defined'}"
    ends = "".join(f"<small>{safe(words)}</small>" for words in _ends(score.name, least, most))
    return (
        f'<div class="ix-scale" role="img" aria-label="{safe(said)}, on a scale from {_end(least)} to {_end(most)}">'
        f'<div class="ix-scale-line">{"".join(marks)}</div><div class="ix-scale-ends">{ends}</div></div>'
    )


def _ends(name: str, least: float, most: float) -> tuple[str, str]:
    """What stands below both ends; a widened one says where its words belong."""
    low, high, low_words, high_words = SCALES.get(name, OTHER)
    left, right = f"{_end(low)} {low_words}", f"{_end(high)} {high_words}"
    return (
        left if _end(least) == _end(low) else f"{_end(least)} … {left}",
        right if _end(most) == _end(high) else f"{right} … {_end(most)}",
    )


def _end(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
