"""What is special about the selected examples? Facts that are more or less common among them, with intervals, as HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from explorer.ui.views.words import percent, plain, safe, signed


@dataclass(frozen=True)
class Claim:
    """A fact that is more or less common (a "share"), larger or smaller (a "number") inside than outside, with its interval.

    Shares run from 0 to 1; numbers are medians in their own unit, percentiles where `ranked`, and differ in standard deviations.
    """

    fact: str
    kind: Literal["share", "number"]
    inside: float
    outside: float
    difference: float
    low: float
    high: float
    ratio: float = math.nan
    ranked: bool = False


@dataclass(frozen=True)
class Special:
    """What is special about the `inside` selected examples of a `split` ("training", "test"), against `outside` others.

    `found` counts the facts that surely differ, of `compared`; the claims are the surest of them, a few of a kind. A side of fewer than
    `smallest` supports none; `note` says what was not compared.
    """

    split: str
    inside: int
    outside: int
    found: int
    compared: int
    claims: tuple[Claim, ...]
    smallest: int
    note: str = ""


def special(found: Special) -> str:
    """What differs most surely, with intervals, and what the intervals mean."""
    many = "" if found.inside == 1 else "s"
    title = f'<h4 class="ix-heading">What is special about the {found.inside:,} selected {safe(found.split)} example{many}</h4>'
    return f'<section aria-label="What is special about the selected {safe(found.split)} examples">{title}{_findings(found)}</section>'


def _findings(found: Special) -> str:
    fewest = min(found.inside, found.outside)
    if fewest < found.smallest:
        side = "inside" if found.inside < found.smallest else "outside"
        return f'<p class="ix-quiet">Too few {side} to tell: {fewest:,}, and it takes {found.smallest}.</p>'
    if not found.claims:
        return f"<p>Nothing that is surely so: of {found.compared:,} facts compared none differs beyond chance.</p>"
    rows = "".join(_claim(claim) for claim in found.claims)
    return (
        '<table class="ix-table ix-special"><thead><tr><th scope="col">fact</th><th scope="col">inside</th>'
        f'<th scope="col">outside</th><th scope="col">difference</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="ix-quiet">{len(found.claims)} of {found.found:,} facts that surely differ, the surest first, a few of a kind; {found.compared:,} '
        f"compared with the {found.outside:,} others shown. {safe(found.note)}</p>"
    )


def method(level: float) -> str:
    """How to read the tables of `special`."""
    return (
        f'<p class="ix-quiet">In brackets: intervals that hold all at once with {percent(level)} confidence. Numbers are medians; '
        "their difference is in standard deviations (sd) of percentiles. A region that was chosen by eye is described by "
        "this, not proven.</p>"
    )


def _claim(claim: Claim) -> str:
    if claim.kind == "share":
        sides = percent(claim.inside), percent(claim.outside)
        change = (
            f"{_points(claim.difference)} points ({_points(claim.low)} to {_points(claim.high)}){_times(claim.ratio)}"
        )
    else:
        sides = _value(claim.inside), _value(claim.outside)
        change = f"{_sd(claim.difference)} sd ({_sd(claim.low)} to {_sd(claim.high)})"
    fact = safe(claim.fact) + (' <span class="ix-quiet">median percentile</span>' if claim.ranked else "")
    return f'<tr><th scope="row">{fact}</th><td>{sides[0]}</td><td>{sides[1]}</td><td>{change}</td></tr>'


def _value(value: float) -> str:
    return signed(value) if value < 0 else plain(value)


def _sd(value: float) -> str:
    """Standard deviations with one decimal, or as many as tell them from 0."""
    return _rounded(value, 1)


def _points(share: float) -> str:
    """A difference of shares in percentage points: whole ones, or as many decimals as tell them from 0."""
    return _rounded(100 * share, 0)


def _rounded(value: float, digits: int) -> str:
    if value and math.isfinite(value):
        digits = min(6, max(digits, -math.floor(math.log10(abs(value)))))
    text = f"{abs(value):.{digits}f}"
    return f"{'−' if value < 0 else '+'}{text}" if float(text) else "0"


def _times(ratio: float) -> str:
    """How many times as common, where that says more than the difference."""
    if not math.isfinite(ratio):
        return ", only here" if ratio > 0 else ""
    return f", {plain(ratio)} times as common" if ratio >= 2 else ""
