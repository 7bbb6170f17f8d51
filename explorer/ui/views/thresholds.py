"""What do the thresholds let through, and does another damping change the picture? Counts and stability, as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from explorer.ui.views.words import percent, plain, safe


@dataclass(frozen=True)
class Count:
    """One group of examples under the thresholds: its mark and name, how many, and how it finds the planted flips.

    `precision` (NaN for an empty group) and `recall` are None where no flips were planted.
    """

    mark: str
    name: str
    count: int
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True)
class Stability:
    """How alike the picture at `damping` is to that at `own`, the damping of the run.

    `signs` is the share of examples that keep the sign of their held-out influence, `firm` that share among those outside the
    noise at the run's own damping (NaN where there are none); `held_out` and `self_influence` are rank correlations; `harmful` and
    `own_harmful` the shares with a harmful sign.
    """

    damping: float
    own: float
    signs: float
    firm: float
    held_out: float
    self_influence: float
    harmful: float
    own_harmful: float


def counts(found: Sequence[Count], total: int, planted: int) -> str:
    """Each group with its count and, where `planted` flips are known, precision and recall."""
    heads = "<th scope='col'>examples</th><th scope='col'>share</th>"
    if planted:
        heads += "<th scope='col'>precision</th><th scope='col'>recall</th>"
    rows = "".join(_row(one, total, bool(planted)) for one in found)
    said = f" Precision and recall are of the {planted:,} labels that were flipped on purpose." if planted else ""
    return (
        f'<section class="ix-counts" role="status" aria-label="What the thresholds let through"><table class="ix-table"><thead><tr><th scope="col">'
        f'under these thresholds</th>{heads}</tr></thead><tbody>{rows}</tbody></table><p class="ix-quiet">{said}</p></section>'
    )


def stability(facts: Stability) -> str:
    """The share of signs that stay and the rank correlations, in words."""
    if facts.damping == facts.own:
        return (
            f'<p class="ix-note">Damping λ = {plain(facts.own)} is the run’s own; {percent(facts.own_harmful)} of the signs are '
            "harmful. Move the slider to see what another damping would say.</p>"
        )
    firm = f", {percent(facts.firm)} of those outside the noise" if math.isfinite(facts.firm) else ""
    return (
        f'<p class="ix-note" role="status">At λ = {plain(facts.damping)} instead of {plain(facts.own)}: <strong>{percent(facts.signs)} of the signs '
        f"stay</strong>{firm}; rank correlation of held-out influence <strong>{correlation(facts.held_out)}</strong>, of self-influence "
        f"<strong>{correlation(facts.self_influence)}</strong>. Harmful signs: {percent(facts.harmful)} instead of "
        f"{percent(facts.own_harmful)}. The noise was measured at the run’s own damping and is scaled with the values here.</p>"
    )


def correlation(value: float) -> str:
    """A rank correlation with two digits; "unknown" where one side is constant."""
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "unknown"


def _row(one: Count, total: int, planted: bool) -> str:
    cells = f"<td>{one.count:,}</td><td>{percent(one.count / max(total, 1))}</td>"
    if planted:
        precision = "none" if one.precision is None or math.isnan(one.precision) else percent(one.precision)
        cells += f"<td>{precision}</td><td>{percent(one.recall or 0.0)}</td>"
    return f'<tr><th scope="row"><span aria-hidden="true">{one.mark}</span> {safe(one.name)}</th>{cells}</tr>'
