"""How is a measurement told? One row each: median and spread, the floor beside it, the target, and whether it is met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HEADINGS = ("", "median", "least to most", "floor", "target", "")
WIDTHS = (56, 11, 19, 7, 21, 8)


@dataclass(frozen=True)
class Target:
    """At most (or, if `strict`, less than) `limit`; or at most `above` more than the floor."""

    limit: float
    above: float | None = None
    strict: bool = False

    def met(self, value: float, floor: float | None) -> bool:
        if self.above is not None and floor is not None and value - floor <= self.above:
            return True
        return value < self.limit if self.strict else value <= self.limit

    def __str__(self) -> str:
        words = f"{'<' if self.strict else '≤'} {self.limit:,g}"
        return words if self.above is None else f"{words}, or floor + {self.above:,g}"


@dataclass(frozen=True)
class Row:
    """One measured thing: its values, their unit, the floor's median, and the target it is held against."""

    what: str
    values: tuple[float, ...]
    unit: str = "ms"
    floor: float | None = None
    target: Target | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without one."""
        return None if self.target is None else self.target.met(self.median, self.floor)

    def line(self) -> str:
        """The row as text."""
        spread = f"{number(min(self.values))} to {number(max(self.values))}" if len(self.values) > 1 else ""
        floor = "" if self.floor is None else number(self.floor)
        mark = {None: "", True: "✓", False: "✗ MISSED"}[self.met]
        return _line((self.what, f"{number(self.median)} {self.unit}", spread, floor, str(self.target or ""), mark))

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "median": self.median,
            "values": list(self.values),
            "unit": self.unit,
            "floor": self.floor,
            "target": None if self.target is None else str(self.target),
            "met": self.met,
        }


def heading(title: str) -> str:
    """The title of a part and the columns' names."""
    return f"\n{title}\n{_line(HEADINGS)}\n{'-' * (sum(WIDTHS) + 2 * len(WIDTHS) - 2)}"


def number(value: float) -> str:
    """Few digits, as many as matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(parts: Sequence[str]) -> str:
    cells = [
        part.ljust(wide) if k in (0, 4, 5) else part.rjust(wide)
        for k, (part, wide) in enumerate(zip(parts, WIDTHS, strict=True))
    ]
    return "  ".join(cells).rstrip()
