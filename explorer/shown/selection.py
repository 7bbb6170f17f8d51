"""Which points lie inside what was drawn on the map? A lasso or a box: in the address, for JavaScript, and as a mask in Python.

What comes from an address or a browser is untrusted: whatever does not read as a selection is none. Map units and the rule
for inside are those of the browser, to the bit, so that both count the same points. Knows no files and no widgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import LAYOUTS, Layout
from explorer.errors import SettingsError
from explorer.shown.filters import NUMBER

FEWEST, MOST = 3, 64
"""Corners of a polygon."""
DIGITS = 6
"""Decimals of a corner, in map units."""
FARTHEST = 1e5
"""Corners lie nearer to the middle than this: a point without a place on the map stands at 1e6 and is never inside."""
NOWHERE = 1e6
LONGEST = 4096
"""Characters of an address that are read."""
BLOCK = 2**14
"""Points that are compared at once: their bytes stay in the processor's cache."""


@dataclass(frozen=True)
class Selection:
    """A polygon on one of the maps; `polygon` holds corners (u, v) in map units, rounded to 6 decimals.

    Map units: the points centered on 0 and scaled so that the longer half side is 1 (`in_map_units`).

    Raises:
        SettingsError: an unknown layout, fewer than 3 or more than 64 corners, or a corner that is no place on a map.
    """

    layout: Layout
    polygon: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        clean = _polygon(self.polygon)
        if self.layout not in LAYOUTS or clean is None:
            raise SettingsError(
                f"Expected a layout out of {', '.join(LAYOUTS)} and {FEWEST} to {MOST} corners (u, v) within ±{FARTHEST:g}; found "
                f"{self.layout!r} and {len(self.polygon)} corners. Use Selection.from_data for what is not checked."
            )
        object.__setattr__(self, "polygon", clean)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """The selection of an address, such as `umap:0.1,0.2;0.3,0.4;0.5,0`; None if it is none."""
        if not text or len(text) > LONGEST:
            return None
        layout, _, corners = text.partition(":")
        pairs = [corner.split(",") for corner in corners.split(";")]
        if not all(len(pair) == 2 and NUMBER.fullmatch(pair[0]) and NUMBER.fullmatch(pair[1]) for pair in pairs):
            return None
        return cls.from_data({"layout": layout, "polygon": [[float(u), float(v)] for u, v in pairs]})

    def text(self) -> str:
        """The selection for an address."""
        return f"{self.layout}:" + ";".join(f"{_short(u)},{_short(v)}" for u, v in self.polygon)

    @classmethod
    def from_data(cls, said: Any) -> Self | None:
        """The selection that a browser sent; None if it is none."""
        if not isinstance(said, Mapping):
            return None
        layout, polygon = said.get("layout"), _polygon(said.get("polygon"))
        known = next((name for name in LAYOUTS if name == layout), None)
        return None if known is None or polygon is None else cls(known, polygon)

    def as_data(self) -> dict[str, Any]:
        """The selection for JavaScript, JSON-ready."""
        return {"layout": self.layout, "polygon": [list(corner) for corner in self.polygon]}

    def inside(self, units: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which points `[n, 2]` in map units lie inside, bool `[n]`, by the even-odd rule in float64.

        Going round the corners i with j the one before, a point within the corners' bounding box is inside after an odd
        number of edges with `(v_i > v) != (v_j > v)` and `u < (u_j - u_i) * (v - v_i) / (v_j - v_i) + u_i`. Cost: one look
        at every point for the box; those within it are sorted by v, and held against the edges that they can cross.
        """
        corners = np.array(self.polygon, dtype=np.float64)
        (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
        u, v = units[:, 0].astype(np.float64), units[:, 1].astype(np.float64)
        near = np.flatnonzero((u >= left) & (u <= right) & (v >= low) & (v <= high))
        inside = np.zeros(len(units), dtype=np.bool_)
        for start in range(0, len(near), BLOCK):
            rows = near[start : start + BLOCK]
            inside[rows] = _even_odd(corners, u[rows], v[rows])
        return inside


def in_map_units(coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
    """The points `[n, 2]` as the map draws them: centered, the longer half side 1, float32 after steps in float64.

    The same steps as `center` of scatter/points.js. A point that is not finite goes to (1e6, 1e6).
    """
    placed = np.isfinite(coordinates).all(axis=1)
    units = np.full(coordinates.shape, NOWHERE, dtype=np.float32)
    if not placed.any():
        return units
    exact = coordinates.astype(np.float64) if placed.all() else coordinates[placed].astype(np.float64)
    least, most = exact.min(axis=0), exact.max(axis=0)
    half = float(((most - least) / 2).max()) or 1.0
    units[placed] = ((exact - (least + most) / 2) / half).astype(np.float32)
    return units


def _even_odd(corners: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The rule of `Selection.inside`, bool `[n]`; with the points in order of v, those that an edge can cross are a slice."""
    order = np.argsort(v)
    u, v = u[order], v[order]
    below = np.searchsorted(v, corners[:, 1]).tolist()  # how many points have v_i > v
    odd = np.zeros(len(u), dtype=np.bool_)
    for j, i in pairwise((*range(len(corners)), 0)):
        (ui, vi), (uj, vj) = corners[i].tolist(), corners[j].tolist()
        crossed = slice(min(below[i], below[j]), max(below[i], below[j]))
        if crossed.start < crossed.stop:
            odd[crossed] ^= u[crossed] < (uj - ui) * (v[crossed] - vi) / (vj - vi) + ui
    inside = np.empty(len(u), dtype=np.bool_)
    inside[order] = odd
    return inside


def _polygon(said: Any) -> tuple[tuple[float, float], ...] | None:
    """Corners rounded to 6 decimals, or None if this is no polygon."""
    if not isinstance(said, list | tuple) or not FEWEST <= len(said) <= MOST:
        return None
    corners = []
    for corner in said:
        if not isinstance(corner, list | tuple) or len(corner) != 2 or not all(_is_place(value) for value in corner):
            return None
        u, v = (round(float(value), DIGITS) + 0.0 for value in corner)  # + 0.0: no minus zero
        corners.append((u, v))
    return tuple(corners)


def _is_place(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < FARTHEST


def _short(value: float) -> str:
    return f"{value:.{DIGITS}f}".rstrip("0").rstrip(".")
