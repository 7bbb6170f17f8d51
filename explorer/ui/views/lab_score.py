"""Does the model learn the way one would wish? Scorecards of numbers with intervals, pictures and controls, as HTML.

Says what was measured and what chance would give; it calls nothing good or bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from explorer.ui.views.lab_scale import Number, Score, picture, scale, written
from explorer.ui.views.words import minus, safe

__all__ = ["Number", "Regime", "Score", "badge", "card", "compared", "side_by_side"]


@dataclass(frozen=True)
class Regime:
    """Whether effects are those of a first-order step, in one sentence that begins with the verdict."""

    linear: bool
    sentence: str


def badge(regime: Regime) -> str:
    """The badge and why."""
    verdict, _, why = regime.sentence.partition(":")
    mark, kind = ("✓", "ix-linear") if regime.linear else ("◇", "ix-not-linear")
    return (
        f'<p class="ix-regime"><span class="ix-badge {kind}"><span aria-hidden="true">{mark}</span> {safe(verdict)}</span> '
        f'<span class="ix-quiet">{safe(minus(why.strip()))}</span></p>'
    )


def card(scores: Sequence[Score]) -> str:
    """All scores as one table: name, number, picture, sentence, and the rest to open."""
    return (
        '<table class="ix-table ix-scores"><thead><tr><th scope="col">What one would wish</th><th scope="col">Number, 95 %</th>'
        '<th scope="col">● measured&ensp;◇ control</th><th scope="col">In words</th></tr></thead><tbody>'
        f"{''.join(_row(score) for score in scores)}</tbody></table>"
    )


def _row(score: Score) -> str:
    return (
        f'<tr><th scope="row" class="ix-wish">{safe(score.name)}</th><td>{written(score.number)}</td>'
        f"<td>{picture(score)}</td><td>{safe(minus(score.sentence))}{_more(score)}</td></tr>"
    )


def _more(score: Score) -> str:
    rows = [(name, number, "") for name, number in score.parts.items()]
    rows += [(name, number, "control: ") for name, number in score.controls.items()]
    if not rows:
        return ""
    lines = "".join(f"<li>{before}{safe(name)} <b>{written(number)}</b></li>" for name, number, before in rows)
    return f'<details class="ix-times"><summary>Controls and parts ({len(rows)})</summary><ul>{lines}</ul></details>'


def side_by_side(pairs: Sequence[tuple[Score, Score]], names: tuple[str, str]) -> str:
    """The same wishes measured in two ways, one below the other within each."""
    rows = []
    for pair in pairs:
        on = scale(pair)
        for place, (score, name) in enumerate(zip(pair, names, strict=True)):
            head = f'<th scope="rowgroup" rowspan="2">{safe(score.name)}</th>' if place == 0 else ""
            rows.append(
                f'<tr class="{"ix-first" if place == 0 else ""}">{head}<th scope="row">{safe(name)}</th><td>{written(score.number)}</td>'
                f"<td>{picture(score, f'{score.name}, {name}', on)}</td><td>{safe(minus(score.sentence))}{_more(score)}</td></tr>"
            )
    return (
        '<table class="ix-table ix-scores"><thead><tr><th scope="col">What one would wish</th><th scope="col">How</th>'
        '<th scope="col">Number, 95 %</th><th scope="col">● measured&ensp;◇ control</th><th scope="col">In words</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def compared(cards: Sequence[tuple[str, Sequence[Score]]]) -> str:
    """Several scorecards, wish by wish: a line for each that has the wish, under its name."""
    names = list(dict.fromkeys(score.name for _, scores in cards for score in scores))
    parts = []
    for name in names:
        lines = [(who, score) for who, scores in cards for score in scores if score.name == name]
        on = scale([score for _, score in lines])
        for place, (who, score) in enumerate(lines):
            head = f'<th scope="rowgroup" rowspan="{len(lines)}">{safe(name)}</th>' if place == 0 else ""
            parts.append(
                f'<tr class="{"ix-first" if place == 0 else ""}">{head}<th scope="row">{safe(who)}</th>'
                f"<td>{written(score.number)}</td><td>{picture(score, f'{name}, {who}', on)}</td></tr>"
            )
    return (
        '<table class="ix-table ix-scores"><thead><tr><th scope="col">What one would wish</th><th scope="col">Experiment</th>'
        '<th scope="col">Number, 95 %</th><th scope="col">● measured&ensp;◇ control</th></tr></thead>'
        f"<tbody>{''.join(parts)}</tbody></table>"
    )
