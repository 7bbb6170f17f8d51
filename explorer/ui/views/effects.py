"""How is a measured change written? A mean with its interval, signed, in points of a hundred or in nats; text only."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Effect:
    """A mean change over seeds and its 95 % interval; NaN bounds where there is none."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def scale(unit: str) -> float:
    """Accuracies are shown in points of a hundred."""
    return 100.0 if unit == "points" else 1.0


def level(value: float, unit: str) -> str:
    """A measured value itself: an accuracy as a percentage."""
    if not math.isfinite(value):
        return "none"
    return f"{100 * value:.1f} %" if unit == "points" else f"{value:.4g}"


def moved(effect: Effect, unit: str) -> str:
    """A change with its sign, its unit and its interval where there is one."""
    if not math.isfinite(effect.mean):
        return "unknown"
    factor, digits = scale(unit), 2 if unit == "points" else 4
    mean = _signed(effect.mean * factor, digits)
    if not math.isfinite(effect.low):
        return f"{mean} {unit}"
    return f"{mean} {unit} ({_signed(effect.low * factor, digits)} to {_signed(effect.high * factor, digits)})"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
