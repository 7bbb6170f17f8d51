"""How are two experiments of the laboratory held against each other? Scorecards as plain data, and a table of several.

Writes numbers of desiderata as JSON and reads them; measures none, and loads nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from explorer.errors import DataError

if TYPE_CHECKING:
    from explorer.laboratory.desiderata import Desideratum, LinearRegime
    from explorer.laboratory.statistics import Measured

COLUMNS = (
    "experiment", "settings", "by", "name", "value", "low", "high", "count", "control", "control_value", "sentence",
)  # fmt: skip
SHUFFLED = "shuffled"
"""The control that is told in a table where there are several."""


@dataclass
class Wishes:
    """Desiderata that were measured, as JSON, and why others are missing; `by` says how the model was told, where both are."""

    found: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, measure: Callable[[], Desideratum], by: str = "") -> None:
        """Measure one; where its effects do not allow it, the reason is kept."""
        try:
            self.found.append(wish(measure(), by))
        except DataError as error:
            self.missing[f"{name} ({by})" if by else name] = str(error)

    def as_json(self) -> dict[str, Any]:
        """Both, for a scorecard."""
        return {"desiderata": self.found, "missing": self.missing}


def wish(found: Desideratum, by: str = "") -> dict[str, Any]:
    """A desideratum as JSON: `name`, `value`, `low`, `high`, `count`, `sentence`, and `parts` and `controls` by name."""
    told: dict[str, Any] = {"name": found.name, "sentence": found.sentence, **number(found.measured)}
    if by:
        told["by"] = by
    for kind, others in (("parts", found.parts), ("controls", found.controls)):
        told[kind] = {name: number(other) for name, other in others.items()}
    return told


def number(found: Measured) -> dict[str, float | int | None]:
    """A number with its 95 % interval; None for what is not defined."""
    interval = {name: finite(getattr(found, name)) for name in ("value", "low", "high")}
    return {**interval, "count": found.count}


def regime(found: LinearRegime) -> dict[str, Any]:
    """The badge of a matrix as JSON."""
    return {
        "linear": found.linear,
        "asymmetry": finite(found.asymmetry),
        "correlation": finite(found.correlation),
        "sentence": found.sentence,
    }


def finite(value: float) -> float | None:
    """The number, None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def compare(scorecards: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each desideratum of each scorecard, in their order: models, optimizers, layers, stages side by side.

    `experiment` is the place among the scorecards, `settings` its words, `by` "weights" or "prompt" of worlds (else
    empty), `control` what chance or another cause would give, as `control_value`; numbers that are not defined are NaN. A
    scorecard that says why it is none has no rows.
    """
    rows = []
    for at, card in enumerate(scorecards):
        for one in card.get("desiderata", ()):
            controls = one["controls"]
            control = SHUFFLED if SHUFFLED in controls else next(iter(controls), "")
            beside = {"control": control, "control_value": controls[control]["value"] if control else None}
            about = {"experiment": at, "settings": card["words"], "by": one.get("by", "")}
            rows.append([(one | about | beside)[name] for name in COLUMNS])
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    return found.astype(dict.fromkeys(("value", "low", "high", "control_value"), "float64"))
