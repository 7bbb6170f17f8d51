"""How are values over many powers of ten laid on an axis? A floor for logarithms, a linear middle for signed values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DECADES = 8
"""Powers of ten of self-influence that are drawn; what lies below (zeros too) stands at the left edge."""


def floored(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Values fit for a logarithmic axis, and the edge below which they were lifted."""
    largest = float(values.max(initial=0.0)) or 1.0
    positive = values[values > 0]
    floor = max(float(positive.min(initial=largest)), largest * 10.0**-DECADES)
    return np.maximum(values, floor), floor


def linear_part(values: NDArray[np.float64]) -> float:
    """Half-width of the linear part of the vertical axis: the median size, so that half of the points lie inside."""
    sizes = np.abs(values[values != 0])
    return float(np.median(sizes)) if len(sizes) else 1.0


def ticks(values: NDArray[np.float64], linear: float) -> list[float]:
    """Zero and the powers of ten of both signs that the values reach outside the linear part."""
    largest = float(np.abs(values).max(initial=0.0))
    powers = [10.0**k for k in range(int(np.ceil(np.log10(linear))), 300) if 10.0**k <= largest][-4:]
    return [*(-p for p in reversed(powers) if -p >= values.min()), 0.0, *(p for p in powers if p <= values.max())]


def power_of_ten(value: float) -> str:
    """A tick's label; a raised power would be smaller than 12 px."""
    return "0" if value == 0 else f"{'+' if value > 0 else '−'}1e{round(np.log10(abs(value)))}".replace("e-", "e−")
